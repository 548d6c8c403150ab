//! Hub and member watches, propagation, discovery, leader election.
//!
//! | module | does |
//! | --- | --- |
//! | [`app`] | settings, and the one place that starts everything |
//! | [`fleet`] | members: clients, probes, supervised watches, statuses |
//! | [`discover`] | watches to snapshots, load to shares, verdicts to conditions |
//! | [`convert`] | Kubernetes objects to facts |
//! | [`hub`] | the hub's client, and installing the kinds |
//! | [`lease`] | leader election |
//! | [`propagate`] | federated objects into members, and status back |
//! | [`call`] | calls to API servers: deadlines and errors |

pub mod app;
pub mod call;
pub mod convert;
pub mod discover;
pub mod fleet;
pub mod hub;
pub mod lease;
pub mod propagate;

/// Makes ring the process's TLS provider, for programs that use the clients of this crate without its `app`.
/// Repeating it does nothing.
pub fn install_crypto() {
    meridian_runtime::crypto::install();
}
