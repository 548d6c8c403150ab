//! Propagation: `Federated<Kind>` objects of the hub into the members, and back what became of them.
//!
//! ```text
//! hub watches, member watches ──► engine (one task, owns all state)
//!   gather:   wrapper + namespace gate + fleet + what members hold
//!   validate: the wrapper's text ──► Request | Invalid             (validate)
//!   plan:     core::place::plan(&PlanInput) ──► Plan               (pure)
//!   apply:    one queue per member, 8 writes in flight ──► Applied (queue, apply)
//!   rollup:   (Plan, Applied) ──► FederatedStatus                  (rollup, pure)
//!   report:   one status patch, only if different
//! ```
//!
//! Nothing is written for an object whose annotation carries the fingerprint of what is wanted and whose fields are
//! still owned: a restart costs no write. Nothing is deleted because it could not be read: a plan is made only when
//! the hub's lists, the fleet and the member's list have been read.

mod apply;
mod engine;
mod facts;
mod kind;
mod ledger;
pub mod preview;
mod queue;
mod rollup;
pub mod validate;
mod wrapper;

use std::sync::Arc;

use kube::Client;
use meridian_core::id::ClusterName;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use kind::Kind;
pub use wrapper::Wrapper;

use crate::fleet::Fleet;

/// Settings of propagation.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of FederatedTypeConfigs and KubeFedConfig.
    pub kubefed_namespace: String,
}

/// One federated object: its kind, namespace and name. The object in the members has the same key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Name of the FederatedTypeConfig.
    pub kind: Arc<str>,
    /// Namespace of the wrapper; empty if it is cluster-scoped.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// One object in one member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Placed {
    pub(crate) cluster: ClusterName,
    pub(crate) key: Key,
}

/// Propagates until `token` is cancelled. Its tasks run on `tracker`.
pub async fn run(
    hub: Client,
    fleet: Fleet,
    settings: Settings,
    tracker: TaskTracker,
    token: CancellationToken,
) {
    engine::Engine::new(hub, fleet, settings, tracker, token).run().await;
}
