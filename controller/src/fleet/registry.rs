//! The registry: from objects on the hub to running members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::core::{DeserializeGuard, ObjectMeta};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt as _};
use meridian_api::kubefed::KubeFedCluster;
use meridian_api::member_cluster::{MemberCluster, Network, Traffic};
use meridian_api::selector::SecretRef;
use meridian_core::id::ClusterName;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connect::{self, Malformed, SecretData, Usable};
use super::health::Health;
use super::member::{Facts, Identity, Live, Member, Observed, Source};
use super::renew::Lease;
use super::report::{Before, Inputs};
use super::watch::{Change, supervise, watch_index};
use super::{Members, Settings, probe, renew, report};

/// Messages that may wait for the registry. Each is one object; a full queue only holds the watches back.
const QUEUE: usize = 256;
/// How long the tasks of a member that goes may take to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a member's Secret says.
#[derive(Clone, Debug, PartialEq)]
struct Credentials {
    data: SecretData,
    lease: Option<Lease>,
}

/// What the registry is told.
enum Message {
    MemberClusters(Change<String, Arc<MemberCluster>>),
    KubeFedClusters(Change<String, Arc<KubeFedCluster>>),
    Secret(SecretRef, Change<String, Credentials>),
}

/// A Secret that is being watched: who needs it, and what it says; `None` inside if it does not exist.
struct Watched {
    token: CancellationToken,
    content: Option<Option<Credentials>>,
}

/// Keeps one running [`Member`] per name on the hub.
pub struct Registry {
    hub: Client,
    settings: Settings,
    publish: watch::Sender<Option<Arc<Members>>>,
    member_clusters: Option<BTreeMap<String, Arc<MemberCluster>>>,
    kubefed_clusters: Option<BTreeMap<String, Arc<KubeFedCluster>>>,
    secrets: BTreeMap<SecretRef, Watched>,
    members: Members,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // No Secret may reach a log by way of Debug.
        f.debug_struct("Registry").field("members", &self.members.keys()).finish_non_exhaustive()
    }
}

impl Registry {
    pub(super) fn new(hub: Client, settings: Settings, publish: watch::Sender<Option<Arc<Members>>>) -> Self {
        Self {
            hub,
            settings,
            publish,
            member_clusters: None,
            kubefed_clusters: None,
            secrets: BTreeMap::new(),
            members: Members::new(),
        }
    }

    /// Runs until `token` is cancelled; then ends every member's tasks and returns. Its own tasks and its members'
    /// are spawned on `tracker`.
    pub async fn run(mut self, tracker: TaskTracker, token: CancellationToken) {
        let (sink, mut messages) = mpsc::channel(QUEUE);
        self.watch_hub(&tracker, &token, &sink);
        loop {
            let message = tokio::select! {
                () = token.cancelled() => break,
                message = messages.recv() => message,
            };
            // The sender lives in this function, so the channel never closes.
            let Some(message) = message else { break };
            let names = self.take_in(message);
            for name in names {
                self.refresh(&name, &tracker, &token, &sink).await;
            }
            self.forget_unused_secrets();
            self.publish_if_changed();
        }
        // The members' tokens are children of the one that was cancelled.
    }

    fn watch_hub(&self, tracker: &TaskTracker, token: &CancellationToken, sink: &mpsc::Sender<Message>) {
        let (hub, out, read) = (self.hub.clone(), sink.clone(), LastRead::default());
        supervise(tracker, token.clone(), "memberclusters", None, move || {
            let api: Api<DeserializeGuard<MemberCluster>> = Api::all(hub.clone());
            let read = read.clone();
            let convert = move |guard| read.convert(guard);
            watch_index(api, watcher::Config::default(), convert, out.clone(), Message::MemberClusters)
        });
        let (hub, out, namespace) = (self.hub.clone(), sink.clone(), self.settings.kubefed_namespace.clone());
        let read = LastRead::default();
        supervise(tracker, token.clone(), "kubefedclusters", None, move || {
            let api: Api<DeserializeGuard<KubeFedCluster>> = Api::namespaced(hub.clone(), &namespace);
            let read = read.clone();
            let convert = move |guard| read.convert(guard);
            watch_index(api, watcher::Config::default(), convert, out.clone(), Message::KubeFedClusters)
        });
    }

    /// Takes in a message; gives the names of members that may be concerned.
    fn take_in(&mut self, message: Message) -> BTreeSet<String> {
        match message {
            Message::MemberClusters(change) => fold(&mut self.member_clusters, change),
            Message::KubeFedClusters(change) => fold(&mut self.kubefed_clusters, change),
            Message::Secret(at, change) => {
                let content = match change {
                    Change::Apply(_, credentials) => Some(credentials),
                    Change::Delete(_) => None,
                    Change::Reset(all) => all.into_iter().next().map(|(_, credentials)| credentials),
                };
                if let Some(watched) = self.secrets.get_mut(&at) {
                    watched.content = Some(content);
                }
                self.names().into_iter().filter(|n| self.secret_of(n).as_ref() == Some(&at)).collect()
            }
        }
    }

    fn names(&self) -> BTreeSet<String> {
        let ours = self.member_clusters.iter().flatten().map(|(name, _)| name.clone());
        let theirs = self.kubefed_clusters.iter().flatten().map(|(name, _)| name.clone());
        ours.chain(theirs).collect()
    }

    fn member_cluster(&self, name: &str) -> Option<&Arc<MemberCluster>> {
        self.member_clusters.as_ref()?.get(name)
    }

    fn kubefed_cluster(&self, name: &str) -> Option<&Arc<KubeFedCluster>> {
        self.kubefed_clusters.as_ref()?.get(name)
    }

    /// The Secret that a member's connection needs.
    fn secret_of(&self, name: &str) -> Option<SecretRef> {
        if let Some(object) = self.member_cluster(name) {
            let connection = &object.spec.connection;
            return connection.secret_ref.clone().or_else(|| {
                let reference = &connection.endpoint.as_ref()?.token_secret_ref;
                Some(SecretRef { namespace: reference.namespace.clone(), name: reference.name.clone() })
            });
        }
        let object = self.kubefed_cluster(name)?;
        let namespace = self.settings.kubefed_namespace.clone();
        Some(SecretRef { namespace, name: object.spec.secret_ref.name.clone() })
    }

    /// Brings one member up to what the hub says.
    async fn refresh(
        &mut self,
        name: &str,
        tracker: &TaskTracker,
        token: &CancellationToken,
        sink: &mpsc::Sender<Message>,
    ) {
        // A KubeFedCluster counts only once it is known that no MemberCluster has its name.
        if self.member_clusters.is_none() {
            return;
        }
        let key = ClusterName::from(name);
        if let (Some(_), Some(shadow)) = (self.member_cluster(name), self.kubefed_cluster(name)) {
            let write = report::shadowed(
                self.hub.clone(),
                self.settings.kubefed_namespace.clone(),
                Arc::clone(shadow),
            );
            let token = token.clone();
            tracker.spawn(async move { token.run_until_cancelled(write).await });
        }
        let Some((facts, before)) = self.described(name) else {
            if let Some(gone) = self.members.remove(&key) {
                tracing::info!(cluster = name, "Member left the fleet");
                dismiss(&gone, tracker);
            }
            return;
        };
        let (connection, lease) = self.connection(name, tracker, token, sink);
        let identity = Identity {
            source: facts.source,
            uid: facts.uid.clone(),
            connection: match &connection {
                Some(Ok(usable)) => Ok(usable.hash),
                Some(Err(fault)) => Err(fault.to_string()),
                None => Err("its Secret has not been read yet".to_owned()),
            },
            lease: lease.clone(),
        };
        if let Some(member) = self.members.get_mut(&key)
            && *member.identity() == identity
        {
            if *member.facts != facts {
                let facts = Arc::new(facts);
                member.live.facts.send_replace(Arc::clone(&facts));
                *member = Arc::new(Member { name: key, facts, live: Arc::clone(&member.live) });
            }
            return;
        }
        let old = self.members.remove(&key);
        let member = self
            .start(key.clone(), facts, identity, connection, lease, before, old.as_deref(), tracker, token)
            .await;
        if let Some(old) = old {
            dismiss(&old, tracker);
        }
        self.members.insert(key, Arc::new(member));
    }

    /// Facts and last status of the object that speaks for a name.
    fn described(&self, name: &str) -> Option<(Facts, Before)> {
        if let Some(object) = self.member_cluster(name) {
            let spec = &object.spec;
            let facts = Facts {
                source: Source::MemberCluster,
                uid: object.uid().unwrap_or_default(),
                generation: object.metadata.generation,
                labels: object.labels().clone(),
                region: spec.region.clone(),
                zones: spec.zones.clone(),
                location: spec.location,
                provider: spec.provider.clone(),
                network: spec.network.clone(),
                traffic: spec.traffic.clone(),
            };
            return Some((facts, Before::MemberCluster(object.status.clone().unwrap_or_default())));
        }
        let object = self.kubefed_cluster(name)?;
        let facts = Facts {
            source: Source::KubeFedCluster,
            uid: object.uid().unwrap_or_default(),
            generation: object.metadata.generation,
            labels: object.labels().clone(),
            region: None,
            zones: Vec::new(),
            location: None,
            provider: None,
            network: Network::default(),
            traffic: Traffic::default(),
        };
        Some((facts, Before::KubeFedCluster(object.status.clone().unwrap_or_default())))
    }

    /// The connection of a name, `None` until its Secret has been read; starts the Secret's watch.
    fn connection(
        &mut self,
        name: &str,
        tracker: &TaskTracker,
        token: &CancellationToken,
        sink: &mpsc::Sender<Message>,
    ) -> (Option<Result<Usable, Malformed>>, Option<Lease>) {
        let at = self.secret_of(name);
        let mut content: Option<Credentials> = None;
        if let Some(at) = at {
            if !self.secrets.contains_key(&at) {
                let token = token.child_token();
                watch_secret(&self.hub, &at, tracker, &token, sink);
                self.secrets.insert(at, Watched { token, content: None });
                return (None, None);
            }
            match self.secrets.get(&at).map(|w| &w.content) {
                Some(Some(read)) => content.clone_from(read),
                _ => return (None, None),
            }
        }
        let data = content.as_ref().map(|c| &c.data);
        let usable = match (self.member_cluster(name), self.kubefed_cluster(name)) {
            (Some(object), _) => connect::of_member(&object.spec.connection, data),
            (None, Some(object)) => connect::of_kubefed(&object.spec, data),
            (None, None) => return (None, None),
        };
        (Some(usable), content.and_then(|c| c.lease))
    }

    /// Starts the tasks of a member. What was seen by the one it replaces is kept.
    #[expect(clippy::too_many_arguments, reason = "everything that a member is made of, gathered once")]
    async fn start(
        &self,
        name: ClusterName,
        facts: Facts,
        identity: Identity,
        connection: Option<Result<Usable, Malformed>>,
        lease: Option<Lease>,
        before: Before,
        old: Option<&Member>,
        tracker: &TaskTracker,
        token: &CancellationToken,
    ) -> Member {
        let (client, malformed) = match connection {
            Some(Ok(usable)) => match connect::client(usable).await {
                Ok(client) => (Some(client), None),
                Err(fault) => (None, Some(fault)),
            },
            Some(Err(fault)) => (None, Some(fault)),
            None => (None, None),
        };
        if let Some(fault) = &malformed {
            tracing::warn!(cluster = %name, field = fault.field, error = fault.message, "Member's connection cannot be used");
        }
        // The same cluster with another token has not become less healthy; without a client nothing is known.
        let is_same_object = old.is_some_and(|o| o.facts.uid == facts.uid);
        let seen = old.filter(|_| is_same_object).map(|o| o.live.observed.borrow().clone());
        let seen = seen.unwrap_or_else(|| Arc::new(before.place()));
        let health = Health::Unknown;
        let (health_sender, health) = watch::channel(health);
        let (observed_sender, observed) = watch::channel::<Arc<Observed>>(seen);
        let facts = Arc::new(facts);
        let (facts_sender, facts_receiver) = watch::channel(Arc::clone(&facts));
        let live = Live {
            identity,
            client: client.clone(),
            token: token.child_token(),
            tracker: tracker.clone(),
            health: health.clone(),
            observed: observed.clone(),
            facts: facts_sender,
        };
        let own = &live.token;
        if let Some(client) = client {
            let probing = probe::run(
                name.clone(),
                client.clone(),
                self.settings.probe_interval,
                own.clone(),
                health_sender.clone(),
                observed_sender.clone(),
            );
            let end = own.clone();
            tracker.spawn(async move { end.run_until_cancelled(probing).await });
            let (nodes, seen) = (client.clone(), observed_sender.clone());
            supervise(tracker, own.clone(), "nodes", Some(health.clone()), move || {
                probe::topology(nodes.clone(), seen.clone())
            });
            if let (Some(lease), Some(at)) = (lease, self.secret_of(name.as_str())) {
                let renewing = renew::run(name.clone(), self.hub.clone(), client, at, lease, own.clone());
                let end = own.clone();
                tracker.spawn(async move { end.run_until_cancelled(renewing).await });
            }
        }
        let inputs = Inputs { name: name.clone(), malformed, facts: facts_receiver, health, observed };
        let reporting =
            report::run(self.hub.clone(), self.settings.kubefed_namespace.clone(), inputs, before);
        let end = own.clone();
        tracker.spawn(async move {
            // The senders live as long as somebody reports, so that a member without a client stays quiet.
            let _open = (health_sender, observed_sender);
            end.run_until_cancelled(reporting).await
        });
        if old.is_none() {
            tracing::info!(cluster = %name, "Member joined the fleet");
        }
        Member { name, facts, live: Arc::new(live) }
    }

    fn forget_unused_secrets(&mut self) {
        let used: BTreeSet<SecretRef> = self.names().iter().filter_map(|n| self.secret_of(n)).collect();
        self.secrets.retain(|at, watched| {
            let is_used = used.contains(at);
            if !is_used {
                watched.token.cancel();
            }
            is_used
        });
    }

    fn publish_if_changed(&self) {
        if self.member_clusters.is_none() || self.kubefed_clusters.is_none() {
            return;
        }
        self.publish.send_if_modified(|published| {
            let is_same = published.as_ref().is_some_and(|old| {
                old.len() == self.members.len()
                    && old.values().zip(self.members.values()).all(|(a, b)| Arc::ptr_eq(a, b))
            });
            if !is_same {
                *published = Some(Arc::new(self.members.clone()));
            }
            !is_same
        });
    }
}

/// Ends a member's tasks, and says so if they do not end in time.
fn dismiss(member: &Member, tracker: &TaskTracker) {
    member.live.token.cancel();
    let live = Arc::downgrade(&member.live);
    let name = member.name.clone();
    tracker.spawn(async move {
        tokio::time::sleep(FAREWELL).await;
        // Every task of a member is dropped at its next await once the token is cancelled; what still holds the
        // member after that keeps a connection open.
        if live.strong_count() > 0 {
            tracing::debug!(cluster = %name, "Member is still held after its removal");
        }
    });
}

fn watch_secret(
    hub: &Client,
    at: &SecretRef,
    tracker: &TaskTracker,
    token: &CancellationToken,
    sink: &mpsc::Sender<Message>,
) {
    let (hub, at, sink) = (hub.clone(), at.clone(), sink.clone());
    supervise(tracker, token.clone(), "member-secret", None, move || {
        let api: Api<Secret> = Api::namespaced(hub.clone(), &at.namespace);
        let config = watcher::Config::default().fields(&format!("metadata.name={}", at.name));
        let to = at.clone();
        watch_index(api, config, credentials, sink.clone(), move |change| Message::Secret(to.clone(), change))
    });
}

fn credentials(secret: Secret) -> Option<(String, Option<Credentials>)> {
    let lease = Lease::of(secret.annotations());
    Some((secret.metadata.name?, Some(Credentials { data: secret.data.unwrap_or_default(), lease })))
}

/// The last version of each object that could be read.
///
/// A list leaves out nothing that exists: an object that cannot be read any more stands as it was, because a member
/// that seems to have left takes its shards and its pending removals with it.
struct LastRead<K>(Arc<Mutex<BTreeMap<String, Arc<K>>>>);

impl<K> Clone for LastRead<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Default for LastRead<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Resource<DynamicType = ()> + DeserializeOwned> LastRead<K> {
    /// Name and object; the version before, or nothing, and a log line if it cannot be read.
    fn convert(&self, guard: DeserializeGuard<K>) -> Option<(String, Option<Arc<K>>)> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match guard.0 {
            Ok(object) => {
                let (name, object) = (object.meta().name.clone()?, Arc::new(object));
                last.insert(name.clone(), Arc::clone(&object));
                Some((name, Some(object)))
            }
            Err(bad) => {
                let ObjectMeta { name, .. } = bad.metadata;
                tracing::warn!(kind = %K::kind(&()), name, error = bad.error, "Object cannot be read");
                let name = name?;
                let held = last.get(&name).cloned();
                Some((name, held))
            }
        }
    }
}

/// Folds a change into a list; gives the names it concerns.
fn fold<T: Clone>(list: &mut Option<BTreeMap<String, T>>, change: Change<String, T>) -> BTreeSet<String> {
    match change {
        Change::Apply(name, object) => {
            list.get_or_insert_default().insert(name.clone(), object);
            BTreeSet::from([name])
        }
        Change::Delete(name) => {
            list.get_or_insert_default().remove(&name);
            BTreeSet::from([name])
        }
        Change::Reset(all) => {
            let mut names: BTreeSet<String> = list.take().unwrap_or_default().into_keys().collect();
            names.extend(all.iter().map(|(name, _)| name.clone()));
            *list = Some(all.into_iter().collect());
            names
        }
    }
}
