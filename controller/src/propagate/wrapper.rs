//! What is kept of a `Federated<Kind>` object of the hub.

use kube::core::DynamicObject;
use meridian_api::kubefed::FederatedStatus;
use meridian_api::names::{ORPHAN_ANNOTATION, SYNC_FINALIZER};

/// A wrapper, slim: its spec stays text and is parsed when it is planned, because parsed JSON takes several times
/// the memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Wrapper {
    /// UID.
    pub uid: String,
    /// Generation; moves with the spec.
    pub generation: Option<i64>,
    /// `spec` as JSON; `null` if absent.
    pub spec: Box<str>,
    /// Finalizers, in order.
    pub finalizers: Vec<String>,
    /// Whether deletion has begun.
    pub is_deleting: bool,
    /// Whether the objects stay in the members after deletion.
    pub is_orphaning: bool,
    /// `status`, as far as it can be read.
    pub status: FederatedStatus,
}

impl Wrapper {
    /// Reads a wrapper.
    #[must_use]
    pub fn of(object: &DynamicObject) -> Self {
        let meta = &object.metadata;
        let orphan = meta.annotations.as_ref().and_then(|a| a.get(ORPHAN_ANNOTATION));
        let spec = object.data.get("spec").map_or_else(|| "null".to_owned(), ToString::to_string);
        let status = object.data.get("status").and_then(|s| serde_json::from_value(s.clone()).ok());
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            generation: meta.generation,
            spec: spec.into_boxed_str(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            is_deleting: meta.deletion_timestamp.is_some(),
            is_orphaning: orphan.is_some_and(|v| v == "true"),
            status: status.unwrap_or_default(),
        }
    }

    /// Whether deletion waits for us.
    #[must_use]
    pub fn has_finalizer(&self) -> bool {
        self.finalizers.iter().any(|f| f == SYNC_FINALIZER)
    }

    /// Whether anything but the status differs.
    #[must_use]
    pub fn differs(&self, other: &Self) -> bool {
        self.uid != other.uid
            || self.is_deleting != other.is_deleting
            || self.is_orphaning != other.is_orphaning
            || self.finalizers != other.finalizers
            || self.spec != other.spec
    }
}
