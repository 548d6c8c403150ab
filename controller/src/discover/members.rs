//! Watches of the members: EndpointSlices, Services, Ingresses and IngressClasses of each.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::Api;
use kube::runtime::watcher;
use meridian_core::id::{ClusterName, ObjectKey};
use meridian_core::index::{ServiceFact, SliceFact};
use tokio::sync::mpsc;

use super::engine::Message;
use crate::convert::ingress::MemberIngress;
use crate::convert::{endpoint_slice, ingress, service};
use crate::fleet::{Change, Health, Identity, Member, watch_index};

/// A dead link to a member shows after this many seconds at the latest; its health probe shows it sooner.
const WATCH_TIMEOUT: u32 = 60;

/// What changed in a member.
#[derive(Debug)]
pub(super) enum MemberChange {
    Slices(Change<ObjectKey, SliceFact>),
    Services(Change<ObjectKey, ServiceFact>),
    Ingresses(Change<ObjectKey, MemberIngress>),
    Classes(Change<String, bool>),
}

/// Lists that must be read before a member's shards are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum List {
    Slices,
    Services,
    Ingresses,
}

impl MemberChange {
    /// The list that this is, if it is a whole one.
    pub(super) const fn list(&self) -> Option<List> {
        match self {
            Self::Slices(Change::Reset(_)) => Some(List::Slices),
            Self::Services(Change::Reset(_)) => Some(List::Services),
            Self::Ingresses(Change::Reset(_)) => Some(List::Ingresses),
            _ => None,
        }
    }
}

/// One member as discovery follows it.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) member: Arc<Member>,
    identity: Identity,
    /// Tells messages of these watches from those of the member's earlier ones.
    pub(super) epoch: u64,
    unread: BTreeSet<List>,
}

impl Followed {
    /// Starts the watches of a member.
    pub(super) fn start(member: &Arc<Member>, epoch: u64, sink: &mpsc::Sender<Message>) -> Self {
        watch(member, epoch, sink);
        Self {
            member: Arc::clone(member),
            identity: member.identity().clone(),
            epoch,
            unread: [List::Slices, List::Services, List::Ingresses].into(),
        }
    }

    /// Whether this is the member of another object on the hub: what was read is of another cluster.
    pub(super) fn is_another(&self, member: &Member) -> bool {
        self.identity.uid != member.identity().uid
    }

    /// Takes over a newer value of the same member; with a new connection the watches start anew. What
    /// was read stays until the new lists replace it.
    pub(super) fn update(&mut self, member: &Arc<Member>, epoch: u64, sink: &mpsc::Sender<Message>) {
        if self.identity == *member.identity() {
            self.member = Arc::clone(member);
        } else {
            let unread = std::mem::take(&mut self.unread);
            *self = Self { unread, ..Self::start(member, epoch, sink) };
        }
    }

    pub(super) fn read(&mut self, list: List) {
        self.unread.remove(&list);
    }

    /// Whether every list was read once.
    pub(super) fn is_read(&self) -> bool {
        self.unread.is_empty()
    }

    /// Whether its lists may still come soon: it is reached, or not yet known not to be.
    pub(super) fn may_answer(&self) -> bool {
        let health = self.member.health().borrow().clone();
        self.member.client().is_some() && matches!(health, Health::Ready | Health::Unknown)
    }
}

fn watch(member: &Arc<Member>, epoch: u64, sink: &mpsc::Sender<Message>) {
    let config = || watcher::Config::default().timeout(WATCH_TIMEOUT);
    let wrap = {
        let cluster = member.name.clone();
        move |change| Message::Member { cluster: cluster.clone(), epoch, change }
    };

    let (out, make) = (sink.clone(), wrap.clone());
    member.watch("endpoint-slices", move |client| {
        let make = make.clone();
        let wrap = move |change| make(MemberChange::Slices(change));
        watch_index(Api::<EndpointSlice>::all(client), config(), endpoint_slice::facts, out.clone(), wrap)
    });
    let (out, make) = (sink.clone(), wrap.clone());
    member.watch("services", move |client| {
        let make = make.clone();
        let wrap = move |change| make(MemberChange::Services(change));
        watch_index(Api::<Service>::all(client), config(), service::facts, out.clone(), wrap)
    });
    let (out, make) = (sink.clone(), wrap.clone());
    member.watch("ingresses", move |client| {
        let make = make.clone();
        let wrap = move |change| make(MemberChange::Ingresses(change));
        watch_index(Api::<Ingress>::all(client), config(), ingress::facts, out.clone(), wrap)
    });
    let (out, make) = (sink.clone(), wrap);
    member.watch("ingress-classes", move |client| {
        let make = make.clone();
        let wrap = move |change| make(MemberChange::Classes(change));
        watch_index(Api::<IngressClass>::all(client), config(), ingress::default_class, out.clone(), wrap)
    });
    member.tracker().spawn(observe(Arc::clone(member), epoch, sink.clone()));
}

/// Passes on that health or nodes of a member changed.
async fn observe(member: Arc<Member>, epoch: u64, sink: mpsc::Sender<Message>) {
    let (token, cluster): (_, ClusterName) = (member.token(), member.name.clone());
    let (mut health, mut observed) = (member.health(), member.observed());
    drop(member);
    loop {
        let changed = tokio::select! {
            () = token.cancelled() => return,
            changed = health.changed() => changed,
            changed = observed.changed() => changed,
        };
        let message = Message::Seen { cluster: cluster.clone(), epoch };
        if changed.is_err() || sink.send(message).await.is_err() {
            return;
        }
    }
}
