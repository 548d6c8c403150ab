//!
//! | module | does |
//! | --- | --- |
//! | [`app`] | settings, and the one place that starts everything |
//! | [`fleet`] | members: clients, probes, supervised watches, statuses |
//! | [`hub`] | the hub's client, and installing the kinds |
//! | [`lease`] | leader election |
//! | [`propagate`] | federated objects into members, and status back |
//! | [`call`] | calls to API servers: deadlines and errors |

pub mod app;
pub mod call;
pub mod fleet;
pub mod hub;
pub mod lease;
pub mod propagate;

/// Makes ring the process's TLS provider, for programs that use the clients of this crate without its `app`.
/// Repeating it does nothing.
pub fn install_crypto() {
    meridian_runtime::crypto::install();
}
