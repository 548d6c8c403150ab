//! Which object goes into which member, exactly: the plan of one federated object.
//!
//! ```text
//! Request (template, placement, overrides) ─┐
//! fleet: names and labels ──────────────────┼─► plan ─► Plan: exact object per cluster, prunes, faults
//! namespace gate, what exists where ────────┘
//! ```
//!
//! The plan leaves no choice to whoever applies it. Semantics are KubeFed's (`pkg/controller/util/placement.go`,
//! `pkg/controller/sync/resource.go`), but for two: template annotations and finalizers are propagated, because
//! server-side apply owns only the fields that are set here, where KubeFed's updates would have overwritten what
//! members add; and one faulty override concerns its own cluster only.

mod coverage;
mod hash;
mod object;
mod overrides;
mod plan;
mod select;

pub use coverage::covers;
pub use hash::Fingerprint;
pub use object::{Target, TemplateFault};
pub use overrides::{Operation, OverrideFault, Overrides};
pub use plan::{ClusterFault, Desired, Gate, Member, Placement, Plan, PlanInput, Problem, Prune, plan};
pub use select::{Operator, Requirement, Selector, UnknownOperator};

/// Label on every object that a plan places; its value is `true`. KubeFed's key.
pub const MANAGED_LABEL: &str = "kubefed.io/managed";
/// Annotation on every object that a plan places: the fingerprint of the rest.
pub const HASH_ANNOTATION: &str = "meridian.io/applied-hash";
