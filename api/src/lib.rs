//! Kubernetes kinds that Meridian serves: its own and the foreign ones.
//!
//! Types only: serde, schemars and kube's derive. No client, no tokio, nothing of ours.
//!
//! | module | holds |
//! | --- | --- |
//! | [`member_cluster`] | `MemberCluster` (mc): a cluster of the fleet and how to reach it |
//! | [`site`] | `Site`: a place where clients arrive: VIPs, addresses, location |
//! | [`dns_zone`] | `DnsZone`: a domain delegated to Meridian |
//! | [`traffic_policy`] | `TrafficPolicy` (tp): how traffic to a service is steered |
//! | [`member_ledger`] | `MemberLedger`: what must still be removed from a member |
//! | [`kubefed`] | the kinds of KubeFed v2, in their own groups and shapes |
//! | [`selector`] | label selectors and cluster selectors shared by the kinds |
//! | [`condition`] | setting a standard condition so that times move only on transitions |
//! | [`names`] | labels, annotations and finalizers, ours and foreign |
//! | [`crds`] | every CustomResourceDefinition, as installed and as in the chart |

// kube's derives copy each struct into a function body, where `pub` reaches nothing, and read repeated
// `printcolumn` arguments as repeated attributes. Both lints would fire on every kind.
#![allow(unreachable_pub, clippy::duplicated_attributes)]

pub mod condition;
pub mod crds;
pub mod dns_zone;
pub mod kubefed;
pub mod member_cluster;
pub mod member_ledger;
pub mod names;
pub mod selector;
pub mod site;
pub mod traffic_policy;

/// API group of Meridian's own kinds.
pub const GROUP: &str = "meridian.io";
/// The one version of Meridian's own kinds.
pub const VERSION: &str = "v1alpha1";
