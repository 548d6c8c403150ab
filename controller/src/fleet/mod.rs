//! The fleet: which members there are, how each is reached, whether it answers.
//!
//! ```text
//! hub: MemberCluster, KubeFedCluster, their Secrets --watch--> registry
//!   registry: one Member per name --publish--> watch::Receiver<Arc<Members>>
//!   per member: client, probe, node topology, token renewal, status writer; more watches by Member::watch
//! ```
//!
//! A member that loses its API server stays in the map with all that was seen of it; a member leaves the map only
//! when its object on the hub is deleted. A changed connection replaces the member's running part: its tasks are
//! cancelled, new ones start.

mod connect;
mod health;
mod member;
mod probe;
mod registry;
mod renew;
mod report;
mod roster;
mod status;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use meridian_core::id::ClusterName;

pub use connect::{Malformed, SecretData, kubeconfig_of};
pub use health::{Cause, Health};
pub use member::{Facts, Identity, Member, Observed, Source};
pub use registry::Registry;
pub use renew::{Lease as TokenLease, request_token};
pub use roster::{Enlisted, roster};
pub use watch::{Change, jittered, supervise, watch_index, watch_reporting};

/// Members by name.
pub type Members = BTreeMap<ClusterName, Arc<Member>>;

/// Settings of the fleet.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of KubeFedClusters and their Secrets.
    pub kubefed_namespace: String,
    /// Time between two probes of a member; each is jittered by 20 %.
    pub probe_interval: Duration,
}

/// A view of the fleet; cheap to clone.
#[derive(Clone, Debug)]
pub struct Fleet {
    members: tokio::sync::watch::Receiver<Option<Arc<Members>>>,
}

impl Fleet {
    /// The members now. Empty until the hub's lists have been read: see [`Fleet::synced`].
    #[must_use]
    pub fn now(&self) -> Arc<Members> {
        self.members.borrow().clone().unwrap_or_default()
    }

    /// The members, as they change. `None` until the hub's lists have been read once: decisions that remove
    /// anything must wait for the first `Some`, or a slow start would look like an empty fleet. A new map is published
    /// when a member comes, goes, or changes its facts or connection; health has its own channel per member.
    #[must_use]
    pub fn members(&self) -> tokio::sync::watch::Receiver<Option<Arc<Members>>> {
        self.members.clone()
    }

    /// Waits until the hub's lists have been read once; false if the registry ended before.
    pub async fn synced(&self) -> bool {
        self.members.clone().wait_for(Option::is_some).await.is_ok()
    }
}

/// The fleet that `hub` describes: a view, and the registry that fills it once it is run.
#[must_use]
pub fn new(hub: Client, settings: Settings) -> (Fleet, Registry) {
    let (sender, members) = tokio::sync::watch::channel(None);
    (Fleet { members }, Registry::new(hub, settings, sender))
}
