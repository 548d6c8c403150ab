//! One member: what the hub says of it, the client that reaches it, and what has been seen of it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use kube::Client;
use meridian_api::member_cluster::{Network, Traffic};
use meridian_api::selector::Location;
use meridian_core::id::ClusterName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::health::Health;
use super::renew::Lease;
use super::watch::supervise;

/// Which object on the hub says that the member exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A MemberCluster.
    MemberCluster,
    /// A KubeFedCluster, with no MemberCluster of the same name.
    KubeFedCluster,
}

/// What the hub's object says of a member, apart from how to connect to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Kind of the hub's object.
    pub source: Source,
    /// Its UID.
    pub uid: String,
    /// Its generation.
    pub generation: Option<i64>,
    /// Its labels: what placements and policies select by.
    pub labels: BTreeMap<String, String>,
    /// Region of the spec, if any.
    pub region: Option<String>,
    /// Zones of the spec, if any.
    pub zones: Vec<String>,
    /// Location of the spec, if any.
    pub location: Option<Location>,
    /// Provider of the spec, if any.
    pub provider: Option<String>,
    /// How traffic from elsewhere reaches the pods.
    pub network: Network,
    /// Dial and drain.
    pub traffic: Traffic,
}

/// What has been seen of a member. Kept while its API server is away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Kubernetes version, such as `v1.36.3`.
    pub version: Option<String>,
    /// UID of the `kube-system` namespace.
    pub cluster_uid: Option<String>,
    /// Region that most nodes carry.
    pub region: Option<String>,
    /// Zones of the nodes, sorted.
    pub zones: Vec<String>,
}

/// What makes a connection this one and no other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Kind and UID of the hub's object: a re-created object is another member.
    pub source: Source,
    /// UID of the hub's object.
    pub uid: String,
    /// Hash of the connection; a fault's text if it cannot be used.
    pub connection: Result<u64, String>,
    /// When and for whom the token is renewed: a member that was told otherwise waits for another moment.
    pub lease: Option<Lease>,
}

/// The running part of a member: its client, its tasks and what they publish. Replaced as a whole when the
/// connection changes.
pub(super) struct Live {
    pub(super) identity: Identity,
    pub(super) client: Option<Client>,
    pub(super) token: CancellationToken,
    pub(super) tracker: TaskTracker,
    pub(super) health: watch::Receiver<Health>,
    pub(super) observed: watch::Receiver<Arc<Observed>>,
    pub(super) facts: watch::Sender<Arc<Facts>>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// One member of the fleet. Cheap to clone behind its `Arc`; a new one is published when the hub's object changes.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name, everywhere.
    pub name: ClusterName,
    /// What the hub's object says.
    pub facts: Arc<Facts>,
    pub(super) live: Arc<Live>,
}

impl Member {
    /// The member's client; `None` while its connection cannot be used (condition ConfigMalformed). Each call
    /// through it needs a deadline: `call::within`.
    #[must_use]
    pub fn client(&self) -> Option<Client> {
        self.live.client.clone()
    }

    /// Cancelled when the member is removed or its connection replaced.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.live.token.clone()
    }

    /// Tracker of the member's tasks. Tasks on it must end when [`Member::token`] is cancelled.
    #[must_use]
    pub fn tracker(&self) -> TaskTracker {
        self.live.tracker.clone()
    }

    /// Health of the member's API server. Not ready does not mean that its pods are down.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.live.health.clone()
    }

    /// What has been seen of the member: version, UID, region and zones of its nodes.
    #[must_use]
    pub fn observed(&self) -> watch::Receiver<Arc<Observed>> {
        self.live.observed.clone()
    }

    /// Equal for two values exactly if they share connection and tasks. Consumers start their watches anew when it
    /// changes, and keep the data they have until the new watch's first `Reset`.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.live.identity
    }

    /// Region: of the spec, else of the nodes.
    #[must_use]
    pub fn region(&self) -> Option<String> {
        self.facts.region.clone().or_else(|| self.live.observed.borrow().region.clone())
    }

    /// Zones, sorted: of the spec, else of the nodes.
    #[must_use]
    pub fn zones(&self) -> Vec<String> {
        if self.facts.zones.is_empty() {
            self.live.observed.borrow().zones.clone()
        } else {
            self.facts.zones.clone()
        }
    }

    /// Runs a watch of this member until the member goes: started again when it fails or panics, and when the
    /// member returns after having been away. Does nothing while the connection cannot be used: the member is then
    /// replaced once it can.
    pub fn watch<F, Fut>(&self, name: &'static str, factory: F)
    where
        F: Fn(Client) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let Some(client) = self.client() else { return };
        self.watch_until(name, self.token(), move || factory(client.clone()));
    }

    /// As [`Member::watch`], with a token of its own, which should be a child of [`Member::token`].
    pub fn watch_until<F, Fut>(&self, name: &'static str, token: CancellationToken, factory: F)
    where
        F: Fn() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        supervise(&self.live.tracker, token, name, Some(self.health()), factory);
    }
}
