//! Labels, annotations and finalizers that mean something to Meridian.

/// Label on every object that the controller put into a member; value [`MANAGED_TRUE`].
/// KubeFed's own key, so that a fleet can move over without a rewrite.
pub const MANAGED_LABEL: &str = "kubefed.io/managed";
/// Value of [`MANAGED_LABEL`] on objects that the controller owns.
pub const MANAGED_TRUE: &str = "true";
/// Value of [`MANAGED_LABEL`] by which a member says "never touch this object".
pub const MANAGED_FALSE: &str = "false";
/// Finalizer on `Federated<Kind>` objects, as KubeFed's sync controller sets it.
pub const SYNC_FINALIZER: &str = "kubefed.io/sync-controller";
/// Annotation on a `Federated<Kind>`: with value `true` its objects stay in the members after its deletion.
pub const ORPHAN_ANNOTATION: &str = "kubefed.io/orphan";
/// Annotation on objects in members: the hash of what was last applied, so that a restart needs no write.
pub const APPLIED_HASH_ANNOTATION: &str = "meridian.io/applied-hash";
/// Field manager of everything that the controller applies to members and of its hub status writes.
pub const FIELD_MANAGER: &str = "meridian";
/// Field manager of status patches on the hub.
pub const STATUS_MANAGER: &str = "meridian-status";
/// Annotation: declared capacity of a Service, requests per second per ready endpoint.
pub const MAX_RATE_ANNOTATION: &str = "meridian.io/max-rate-per-endpoint";
/// Annotation: declared capacity of a Service, requests in flight per ready endpoint.
pub const MAX_IN_FLIGHT_ANNOTATION: &str = "meridian.io/max-in-flight-per-endpoint";
/// Annotation on a credentials Secret: `namespace/name` of the ServiceAccount in the member whose token it
/// holds. The controller renews the token through that account's own TokenRequest right.
pub const TOKEN_ACCOUNT_ANNOTATION: &str = "meridian.io/token-service-account";
/// Annotation on a credentials Secret: when its token expires (RFC 3339).
pub const TOKEN_EXPIRES_ANNOTATION: &str = "meridian.io/token-expires";
/// Annotation on a credentials Secret: when its token was issued (RFC 3339).
pub const TOKEN_ISSUED_ANNOTATION: &str = "meridian.io/token-issued";
/// Node label of the region, the stable key and the one it replaced.
pub const REGION_LABELS: [&str; 2] =
    ["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"];
/// Node label of the zone, the stable key and the one it replaced.
pub const ZONE_LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"];
