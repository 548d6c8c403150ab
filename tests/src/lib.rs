//! The testbed: real Kubernetes control planes, pods that answer, sites, and ways to break each of them.
//!
//! Everything runs in a private namespace ([`namespace::enter`]). A suite of tests calls [`suite::run`]; a program
//! that wants the fleet for itself calls [`bed::Bed::start`]. See `tests/README.md`.

pub mod audit;
pub mod bed;
pub mod cloud;
pub mod control_plane;
pub mod echo;
pub mod kubeconfig;
pub mod kubelet;
pub mod load;
pub mod namespace;
pub mod net;
pub mod pki;
pub mod probe;
pub mod process;
pub mod site;
pub mod suite;
pub mod tcp_proxy;
pub mod wait;
pub mod walkthrough;
mod watch;

/// Chooses ring for TLS, once per process; later calls do nothing.
pub fn install_crypto() {
    rustls::crypto::ring::default_provider().install_default().ok();
}
