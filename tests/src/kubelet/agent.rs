//! The fake kubelet's task: what it knows, and what it does next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use futures::StreamExt;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Ack, Command, Running, status};
use crate::echo::{Behaviour, Identity, Server};
use crate::watch::{self, Change, Key, Mirror};

/// How long a terminating pod waits at most for its withdrawal from the slices.
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(10);
/// How long a terminating pod goes on accepting after its withdrawal from the slices, unless changed: long enough
/// for everybody to hear of it.
const DRAIN: Duration = Duration::from_millis(1500);

/// A write that was under way for a pod has ended.
#[derive(Debug)]
struct Written {
    key: Key,
    uid: Option<String>,
    /// The version of the object that the write was made from, if it changed the object.
    from: Option<String>,
}

#[derive(Debug)]
struct Zone {
    node: String,
    host: Ipv4Addr,
    first: u32,
    last: u32,
    next: u32,
    down: bool,
}

/// What the kubelet knows about a pod besides the object.
#[derive(Debug)]
struct Local {
    uid: Option<String>,
    /// Chosen when it is bound, before the object says so.
    zone: Option<String>,
    ready: bool,
    /// A write is under way; the next step waits for it.
    busy: bool,
    /// The version that was changed last: until the watch shows a newer one, nothing is to be done.
    outdated: Option<String>,
    ending: bool,
    server: Option<(Ipv4Addr, Arc<Server>)>,
    /// Cancelled when the pod terminates and no slice lists its address as ready any more.
    withdrawn: CancellationToken,
    acks: Vec<(bool, Ack)>,
}

pub(super) struct Agent {
    cluster: String,
    region: String,
    client: Client,
    behaviour: Arc<Behaviour>,
    zones: BTreeMap<String, Zone>,
    mirror: Mirror<Pod>,
    slices: Mirror<EndpointSlice>,
    pods: BTreeMap<Key, Local>,
    drain: Duration,
    tell: mpsc::UnboundedSender<Written>,
    told: mpsc::UnboundedReceiver<Written>,
}

impl Agent {
    pub(super) fn new(cluster: &str, region: &str, client: Client, behaviour: Arc<Behaviour>) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        Self {
            cluster: cluster.to_owned(),
            region: region.to_owned(),
            client,
            behaviour,
            zones: BTreeMap::new(),
            mirror: Mirror::default(),
            slices: Mirror::default(),
            pods: BTreeMap::new(),
            drain: DRAIN,
            tell,
            told,
        }
    }

    /// Adds a zone with its one node, whose pods get addresses of `pods`; the first is the node's own.
    pub(super) fn add_zone(&mut self, name: &str, node: String, pods: Ipv4Net) {
        let host = u32::from(pods.network()) + 1;
        let last = u32::from(pods.broadcast()) - 1;
        let zone = Zone { node, host: host.into(), first: host + 1, last, next: host + 1, down: false };
        self.zones.insert(name.to_owned(), zone);
    }

    /// Runs until nobody can ask any more.
    pub(super) async fn run(mut self, mut asked: mpsc::Receiver<Command>) {
        let mut slices = std::pin::pin!(watch::events(Api::<EndpointSlice>::all(self.client.clone())));
        let mut events = std::pin::pin!(watch::events(Api::<Pod>::all(self.client.clone())));
        loop {
            tokio::select! {
                Some(event) = events.next() => {
                    for change in self.mirror.apply(event) {
                        match change {
                            Change::Set(key) => self.step(&key).await,
                            Change::Gone(key, _) => self.forget(&key),
                        }
                    }
                }
                Some(event) = slices.next() => {
                    if !self.slices.apply(event).is_empty() {
                        self.note_withdrawn();
                    }
                }
                Some(Written { key, uid, from }) = self.told.recv() => {
                    if let Some(local) = self.pods.get_mut(&key).filter(|local| local.uid == uid) {
                        local.busy = false;
                        local.outdated = from;
                        self.step(&key).await;
                    }
                }
                command = asked.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                }
            }
        }
    }

    /// Does the next thing for a pod, if there is one. Level-triggered: asks only what is, not what happened.
    async fn step(&mut self, key: &Key) {
        let Some(pod) = self.mirror.get(key).cloned() else { return };
        let local = self.pods.entry(key.clone()).or_insert_with(|| Local::new(pod.uid()));
        if pod.metadata.deletion_timestamp.is_some() {
            if !local.ending {
                local.ending = true;
                self.end(key, &pod);
            }
            return;
        }
        local.settle(&pod);
        // Killed, and the object not yet gone: it must not come back to life.
        if local.busy || local.ending || matches!(status::phase(&pod), "Succeeded" | "Failed") {
            return;
        }
        if local.outdated.is_some() && local.outdated == pod.resource_version() {
            return;
        }
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) else {
            self.bind(key, &pod);
            return;
        };
        let Some(name) = self.zones.iter().find(|(_, zone)| zone.node == node).map(|(name, _)| name.clone())
        else {
            return;
        };
        local.zone = Some(name.clone());
        if self.zones.get(&name).is_none_or(|zone| zone.down) {
            return;
        }
        self.serve(key, &pod, &name).await;
        self.write_status(key, &pod, &name);
    }

    /// The pod's object is gone. If its server still runs, that was a deletion by force.
    fn forget(&mut self, key: &Key) {
        if let Some((_, server)) = self.pods.remove(key).and_then(|local| local.server) {
            server.kill();
        }
    }

    fn bind(&mut self, key: &Key, pod: &Pod) {
        let owner = status::owner(pod);
        let mut load: BTreeMap<&str, (usize, usize)> =
            self.zones.keys().map(|zone| (zone.as_str(), (0, 0))).collect();
        for (key, local) in self.pods.iter().filter(|(_, local)| !local.ending) {
            if let Some(count) = local.zone.as_deref().and_then(|zone| load.get_mut(zone)) {
                let same = self.mirror.get(key).is_some_and(|other| status::owner(other) == owner);
                *count = (count.0 + usize::from(same), count.1 + 1);
            }
        }
        // Ties go to the first zone by name: equal clusters spread equally.
        let fewest =
            load.into_iter().min_by_key(|(zone, count)| (*count, *zone)).map(|(zone, _)| zone.to_owned());
        // A binding that failed is tried again for the same zone.
        let chosen = self.pods.get(key).and_then(|local| local.zone.clone()).or(fewest);
        let Some(zone) = chosen else { return };
        let Some(node) = self.zones.get(&zone).map(|zone| zone.node.clone()) else { return };
        let Some(local) = self.pods.get_mut(key) else { return };
        local.zone = Some(zone);
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"namespace": key.0, "name": key.1},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.0);
        let name = key.1.clone();
        self.write(key, async move {
            let params = PostParams::default();
            let bound: kube::Result<serde_json::Value> =
                api.create_subresource("binding", &name, &params, &binding).await;
            bound.map(|_| ())
        });
    }

    /// Makes sure that the pod's address answers.
    async fn serve(&mut self, key: &Key, pod: &Pod, zone_name: &str) {
        let (Some(local), Some(zone)) = (self.pods.get_mut(key), self.zones.get_mut(zone_name)) else {
            return;
        };
        let ports = status::ports(pod);
        while local.server.is_none() {
            let address = Ipv4Addr::from(zone.next);
            // Counted up and around, so that an address is not given again soon after its pod is gone.
            zone.next = if zone.next == zone.last { zone.first } else { zone.next + 1 };
            let identity = Identity {
                cluster: self.cluster.clone(),
                namespace: key.0.clone(),
                pod: key.1.clone(),
                zone: zone_name.to_owned(),
                region: self.region.clone(),
                address: IpAddr::V4(address),
            };
            // Fails when an older pod still has the address: try the next.
            if let Ok(server) = Server::start(identity, &ports, Arc::clone(&self.behaviour)).await {
                local.server = Some((address, Arc::new(server)));
            } else {
                tokio::task::yield_now().await;
            }
        }
    }

    fn write_status(&mut self, key: &Key, pod: &Pod, zone: &str) {
        let (Some(local), Some(zone)) = (self.pods.get(key), self.zones.get(zone)) else { return };
        let Some((address, _)) = local.server else { return };
        if status::phase(pod) == "Running"
            && status::is_ready(pod) == local.ready
            && status::address(pod) == Some(address)
        {
            return;
        }
        let patch = Patch::Merge(json!({"status": status::running(pod, address, zone.host, local.ready)}));
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.0);
        let name = key.1.clone();
        self.write(
            key,
            async move { api.patch_status(&name, &PatchParams::default(), &patch).await.map(|_| ()) },
        );
    }

    /// The pod terminates: it serves on until it is withdrawn from all slices and for the drain time after that,
    /// as with a preStop that sleeps; then it closes, and its object is deleted for good.
    fn end(&mut self, key: &Key, pod: &Pod) {
        let Some(local) = self.pods.get(key) else { return };
        let grace = pod.metadata.deletion_grace_period_seconds.and_then(|s| s.try_into().ok()).unwrap_or(0);
        let grace = Duration::from_secs(grace);
        let (server, withdrawn, drain) =
            (local.server.clone(), local.withdrawn.clone(), self.drain.min(grace));
        let delete = delete_for_good(self.client.clone(), key.clone(), pod.uid());
        tokio::spawn(async move {
            if let Some((_, server)) = server {
                server.drain();
                // An address that is published although not ready is never withdrawn.
                tokio::time::timeout(WITHDRAWN_WITHIN.min(grace), withdrawn.cancelled()).await.ok();
                tokio::time::sleep(drain).await;
                server.close();
            }
            delete.await.ok();
        });
        self.note_withdrawn();
    }

    /// Tells the terminating pods that are in no slice as ready any more.
    fn note_withdrawn(&self) {
        let mut ending =
            self.pods.values().filter(|local| local.ending && !local.withdrawn.is_cancelled()).peekable();
        if ending.peek().is_none() {
            return;
        }
        let endpoints =
            self.slices.iter().flat_map(|(_, slice)| slice.endpoints.as_deref().unwrap_or_default());
        let ready =
            endpoints.filter(|endpoint| endpoint.conditions.as_ref().is_none_or(|c| c.ready != Some(false)));
        let listed: BTreeSet<&str> =
            ready.flat_map(|endpoint| &endpoint.addresses).map(String::as_str).collect();
        for local in ending {
            if local.server.as_ref().is_none_or(|(address, _)| !listed.contains(address.to_string().as_str()))
            {
                local.withdrawn.cancel();
            }
        }
    }

    /// Does a write in the background, again and again while the API server is away; the next step for the pod
    /// follows when it has ended.
    fn write(&mut self, key: &Key, write: impl Future<Output = kube::Result<()>> + Send + 'static) {
        let Some(local) = self.pods.get_mut(key) else { return };
        local.busy = true;
        let version = self.mirror.get(key).and_then(|pod| pod.resource_version());
        let (tell, key, uid) = (self.tell.clone(), key.clone(), local.uid.clone());
        tokio::spawn(async move {
            // A refused write is tried again by the next step, from the object as it then is. The pause keeps a
            // write that is always refused from becoming a storm.
            let from = match write.await {
                Ok(()) => version,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    None
                }
            };
            tell.send(Written { key, uid, from }).ok();
        });
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::SetReady(key, ready, ack) => {
                let Some(local) =
                    self.pods.get_mut(&key).filter(|local| !local.ending && local.server.is_some())
                else {
                    ack.send(Err(anyhow::anyhow!("it does not run"))).ok();
                    return;
                };
                local.ready = ready;
                local.acks.push((ready, ack));
                self.step(&key).await;
            }
            Command::KillPod(key, ack) => {
                let outcome = self.kill([key].into());
                reply(ack, outcome);
            }
            Command::Zone(name, down, ack) => {
                let outcome = self.set_zone(&name, down).await;
                reply(ack, outcome);
            }
            Command::SetDrain(drain, ack) => {
                self.drain = drain;
                ack.send(Ok(())).ok();
            }
            Command::List(answer) => {
                let pods = self.mirror.iter().map(|(key, pod)| self.describe(key, pod)).collect();
                answer.send(pods).ok();
            }
        }
    }

    /// Switches a zone; what remains to be written is done by the returned future.
    async fn set_zone(
        &mut self,
        name: &str,
        down: bool,
    ) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + use<>> {
        let Some(zone) = self.zones.get_mut(name) else {
            bail!("there is no zone {name}; there are {:?}", self.zones.keys().collect::<Vec<_>>());
        };
        zone.down = down;
        let nodes: Api<Node> = Api::all(self.client.clone());
        let (node, condition) = (zone.node.clone(), status::node_condition(!down));
        let in_zone: BTreeSet<Key> = self
            .pods
            .iter()
            .filter(|(_, local)| local.zone.as_deref() == Some(name))
            .map(|(key, _)| key.clone())
            .collect();
        let mut killed = None;
        if down {
            killed = Some(self.kill(in_zone)?);
        } else {
            for key in in_zone {
                self.step(&key).await;
            }
        }
        Ok(async move {
            let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
            nodes.patch_status(&node, &PatchParams::default(), &patch).await?;
            match killed {
                Some(killed) => killed.await,
                None => Ok(()),
            }
        })
    }

    /// Kills pods: their addresses refuse at once; the returned future deletes the objects.
    fn kill(
        &mut self,
        keys: BTreeSet<Key>,
    ) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + use<>> {
        let mut deletions = Vec::new();
        for key in keys {
            let Some(local) = self.pods.get_mut(&key) else { bail!("there is no pod {}/{}", key.0, key.1) };
            local.ending = true;
            if let Some((_, server)) = local.server.take() {
                server.kill();
            }
            deletions.push(delete_for_good(self.client.clone(), key, local.uid.clone()));
        }
        Ok(async move {
            futures::future::try_join_all(deletions).await?;
            Ok(())
        })
    }

    fn describe(&self, key: &Key, pod: &Pod) -> Running {
        let local = self.pods.get(key);
        Running {
            namespace: key.0.clone(),
            name: key.1.clone(),
            zone: local.and_then(|local| local.zone.clone()),
            address: local.and_then(|local| local.server.as_ref()).map(|(address, _)| *address),
            ready: status::is_ready(pod),
            terminating: pod.metadata.deletion_timestamp.is_some(),
        }
    }
}

impl Local {
    fn new(uid: Option<String>) -> Self {
        Self {
            uid,
            zone: None,
            ready: true,
            busy: false,
            outdated: None,
            ending: false,
            server: None,
            withdrawn: CancellationToken::new(),
            acks: Vec::new(),
        }
    }

    /// Tells those who wait for a readiness that the object now shows.
    fn settle(&mut self, pod: &Pod) {
        let shown = status::is_ready(pod);
        for (_, ack) in self.acks.extract_if(.., |(ready, _)| *ready == shown) {
            ack.send(Ok(())).ok();
        }
    }
}

/// Answers now with an error, or when the remaining work is done.
fn reply(ack: Ack, outcome: anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + 'static>) {
    match outcome {
        Ok(rest) => {
            tokio::spawn(async move { ack.send(rest.await) });
        }
        Err(error) => {
            ack.send(Err(error)).ok();
        }
    }
}

/// Deletes a pod without grace, trying until the API server is back; a pod that is gone or was replaced is fine.
async fn delete_for_good(client: Client, key: Key, uid: Option<String>) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::namespaced(client, &key.0);
    let preconditions = Some(Preconditions { uid, resource_version: None });
    let params = DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
    loop {
        match api.delete(&key.1, &params).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => return Ok(()),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
