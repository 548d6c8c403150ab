//! A hub and edges on loopback. Between them stands a relay that keeps what the hub sends, so that tests
//! can say what was on the wire, and that can freeze, which is what a dead link looks like.

// The lint spares only functions marked as tests; all of this runs inside tests.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use meridian_core::{
    id::ObjectKey,
    snapshot::{
        Certificate, Endpoint, EndpointGroup, Generation, GlobalService, Load, NameServer, Role, Shard,
        Snapshot, Soa, Zone,
    },
};
use meridian_feed::{
    follower::{FeedArgs, FeedStatus, Follower, LoadSink},
    server::{FeedServer, SiteLoad, TlsFiles},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub(crate) const KEY: &str = "the-private-key";
pub(crate) const ENDPOINT: &str = "203.0.113.77";

pub(crate) fn hub_uid() -> Arc<str> {
    "hub-uid".into()
}

pub(crate) fn generation(term: u64, seq: u64) -> Generation {
    Generation { hub: hub_uid(), term, seq }
}

/// A snapshot of term 1 with a zone, a certificate and these services, each with one endpoint.
pub(crate) fn contents(seq: u64, names: &[&str]) -> Snapshot {
    let services = names.iter().map(|name| service(name, 0.0)).collect();
    let certificate = Certificate { chain_pem: "chain".into(), key_pem: KEY.into() };
    Snapshot {
        generation: generation(1, seq),
        services,
        zones: [("example.org".parse().unwrap(), Arc::new(zone()))].into(),
        certificates: [(ObjectKey::new("shop", "tls"), Arc::new(certificate))].into(),
        ..Snapshot::default()
    }
}

fn zone() -> Zone {
    let name = |text: &str| text.parse().unwrap();
    Zone {
        domain: name("example.org"),
        soa: Soa {
            mname: name("ns.example.org"),
            rname: name("hostmaster.example.org"),
            serial: 1,
            refresh: 1,
            retry: 1,
            expire: 1,
            minimum: 1,
            ttl: 1,
        },
        name_servers: vec![NameServer { name: name("ns.example.org"), addresses: vec![] }],
        records: vec![],
        names: BTreeMap::new(),
        overrides: vec![],
    }
}

fn service(name: &str, demand: f64) -> (ObjectKey, Arc<GlobalService>) {
    let key = ObjectKey::new("shop", name);
    let endpoint = Endpoint { address: ENDPOINT.parse().unwrap(), zone: None };
    let shard = Shard {
        cluster: "asia".into(),
        ready: 1,
        total: 1,
        groups: vec![EndpointGroup { ports: vec![], endpoints: vec![endpoint] }],
        load_balancer: vec![],
        ingress: vec![],
        capacity: Default::default(),
    };
    let load = Load { demand: [("eu".into(), demand)].into(), ..Load::default() };
    let service = GlobalService {
        key: key.clone(),
        ports: vec![],
        shards: vec![shard],
        policy: Default::default(),
        load,
    };
    (key, Arc::new(service))
}

/// Names of the services, sorted.
pub(crate) fn services(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.services.keys().map(|key| &*key.name).collect()
}

pub(crate) trait Edit {
    fn at(self, term: u64, seq: u64) -> Self;
    fn removed(self, name: &str) -> Self;
    fn with_demand(self, name: &str, demand: f64) -> Self;
    fn without_shards(self, name: &str) -> Self;
    fn unread(self, clusters: &[&str]) -> Self;
}

impl Edit for Snapshot {
    fn at(mut self, term: u64, seq: u64) -> Self {
        self.generation = generation(term, seq);
        self
    }

    fn removed(mut self, name: &str) -> Self {
        self.services.remove(&ObjectKey::new("shop", name));
        self
    }

    fn with_demand(mut self, name: &str, demand: f64) -> Self {
        self.services.extend([service(name, demand)]);
        self
    }

    fn without_shards(mut self, name: &str) -> Self {
        if let Some(service) = self.services.get_mut(&ObjectKey::new("shop", name)) {
            Arc::make_mut(service).shards.clear();
        }
        self
    }

    fn unread(mut self, clusters: &[&str]) -> Self {
        self.unread = clusters.iter().map(|name| (*name).into()).collect();
        self
    }
}

/// The controller's side of a feed, behind the relay.
pub(crate) struct Hub {
    pub(crate) address: SocketAddr,
    pub(crate) loads: mpsc::Receiver<SiteLoad>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    held: watch::Receiver<BTreeMap<Arc<str>, Generation>>,
    wire: Arc<Wire>,
    token: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Wire {
    sent: Mutex<Vec<u8>>,
    connections: watch::Sender<usize>,
    frozen: CancellationToken,
}

impl Hub {
    pub(crate) async fn start(snapshot: Snapshot) -> Self {
        Self::launch("127.0.0.1:0".parse().unwrap(), snapshot, None).await
    }

    pub(crate) async fn start_at(address: SocketAddr, snapshot: Snapshot) -> Self {
        Self::launch(address, snapshot, None).await
    }

    pub(crate) async fn start_tls(snapshot: Snapshot, pki: &Pki) -> Self {
        Self::launch("127.0.0.1:0".parse().unwrap(), snapshot, Some(pki.hub.clone())).await
    }

    async fn launch(address: SocketAddr, snapshot: Snapshot, files: Option<TlsFiles>) -> Self {
        let (snapshots, seen) = watch::channel(Arc::new(snapshot));
        let (sender, loads) = mpsc::channel(16);
        let server = FeedServer::new(seen, sender);
        let held = server.highest_held();
        let token = CancellationToken::new();
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = inner.local_addr().unwrap();
        let serving = server.serve(inner, files, token.clone());
        let serving = tokio::spawn(async move { serving.await.unwrap() });
        let outer = TcpListener::bind(address).await.unwrap();
        let address = outer.local_addr().unwrap();
        let wire = Arc::new(Wire::default());
        let relaying = tokio::spawn(relay(outer, upstream, wire.clone(), token.clone()));
        Self { address, loads, snapshots, held, wire, token, tasks: vec![serving, relaying] }
    }

    pub(crate) fn publish(&mut self, snapshot: Snapshot) {
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    pub(crate) fn latest(&self) -> Snapshot {
        self.snapshots.borrow().as_ref().clone()
    }

    /// How much the hub has sent so far, to all edges.
    pub(crate) fn bytes_to_edges(&self) -> usize {
        self.wire.sent.lock().unwrap().len()
    }

    /// What the hub sent after that point. Names and bodies are readable in it: no compression, and
    /// frame headers only at the borders of messages.
    pub(crate) fn wire_since(&self, start: usize) -> String {
        String::from_utf8_lossy(&self.wire.sent.lock().unwrap()[start..]).into_owned()
    }

    pub(crate) async fn held_at_least(&mut self, generation: Generation) {
        let is_held = |all: &BTreeMap<Arc<str>, Generation>| all.values().any(|held| *held == generation);
        self.held.wait_for(is_held).await.unwrap();
    }

    /// From now on nothing passes, and nobody is told.
    pub(crate) fn freeze(&self) {
        self.wire.frozen.cancel();
    }

    pub(crate) async fn stop(mut self) {
        self.token.cancel();
        for task in std::mem::take(&mut self.tasks) {
            task.await.unwrap();
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

async fn relay(listener: TcpListener, upstream: SocketAddr, wire: Arc<Wire>, token: CancellationToken) {
    let mut flows = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (edge, _) = accepted.unwrap();
                wire.connections.send_modify(|count| *count += 1);
                flows.spawn(forward(edge, upstream, wire.clone()));
            }
            Some(_) = flows.join_next(), if !flows.is_empty() => {}
            () = token.cancelled() => return,
        }
    }
}

async fn forward(edge: TcpStream, upstream: SocketAddr, wire: Arc<Wire>) {
    let Ok(hub) = TcpStream::connect(upstream).await else { return };
    let ((mut edge_in, mut edge_out), (mut hub_in, mut hub_out)) = (edge.into_split(), hub.into_split());
    let up = async { tokio::io::copy(&mut edge_in, &mut hub_out).await.map(drop) };
    let down = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = hub_in.read(&mut buffer).await?;
            if length == 0 {
                return std::io::Result::Ok(());
            }
            wire.sent.lock().unwrap().extend_from_slice(&buffer[..length]);
            edge_out.write_all(&buffer[..length]).await?;
        }
    };
    tokio::select! {
        // The sockets stay open, but nobody moves bytes any more.
        () = wire.frozen.cancelled() => std::future::pending().await,
        _ = up => {}
        _ = down => {}
    }
}

/// A follower that runs.
pub(crate) struct Edge {
    pub(crate) loads: LoadSink,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    status: watch::Receiver<FeedStatus>,
    seen: Arc<Mutex<Vec<Generation>>>,
    connections_before: AtomicUsize,
    token: CancellationToken,
    task: Option<JoinHandle<()>>,
}

pub(crate) fn args(address: SocketAddr, _role: Role) -> FeedArgs {
    FeedArgs {
        feed: format!("http://{address}"),
        feed_ca: None,
        feed_cert: None,
        feed_key: None,
        site: "eu".into(),
        state_dir: None,
    }
}

impl Edge {
    pub(crate) fn start(hub: &Hub, role: Role) -> Self {
        Self::launch(&args(hub.address, role), role, hub)
    }

    pub(crate) fn start_in(hub: &Hub, role: Role, state: &Path) -> Self {
        let args = FeedArgs { state_dir: Some(state.to_owned()), ..args(hub.address, role) };
        Self::launch(&args, role, hub)
    }

    pub(crate) fn start_tls(hub: &Hub, role: Role, files: &TlsFiles) -> Self {
        let args = FeedArgs {
            feed: format!("https://{}", hub.address),
            feed_ca: Some(files.ca.clone()),
            feed_cert: Some(files.cert.clone()),
            feed_key: Some(files.key.clone()),
            ..args(hub.address, role)
        };
        Self::launch(&args, role, hub)
    }

    fn launch(args: &FeedArgs, role: Role, hub: &Hub) -> Self {
        let follower = Follower::new(args, role).unwrap();
        let (loads, snapshots, status) = (follower.loads(), follower.snapshots(), follower.status());
        let token = CancellationToken::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(record(follower.snapshots(), seen.clone()));
        let task = Some(tokio::spawn(follower.run(token.clone())));
        let connections_before = AtomicUsize::new(*hub.wire.connections.borrow());
        Self { loads, snapshots, status, seen, connections_before, token, task }
    }

    pub(crate) fn held(&self) -> Option<Snapshot> {
        self.snapshots.borrow().as_deref().cloned()
    }

    /// Waits for this generation.
    pub(crate) async fn at(&self, generation: Generation) -> Snapshot {
        let mut snapshots = self.snapshots.clone();
        let held = snapshots
            .wait_for(|held| held.as_ref().is_some_and(|held| held.generation == generation))
            .await
            .unwrap();
        held.as_deref().cloned().unwrap()
    }

    pub(crate) async fn status_until(&self, holds: impl FnMut(&FeedStatus) -> bool) {
        self.status.clone().wait_for(holds).await.unwrap();
    }

    /// Generations in the order in which they could be seen.
    pub(crate) fn seen(&self) -> Vec<Generation> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until the edge has come back this often: each earlier attempt has failed.
    pub(crate) async fn refused_times(&self, hub: &Hub, times: usize) {
        let before = self.connections_before.load(Ordering::Relaxed);
        hub.wire.connections.subscribe().wait_for(|count| *count > before + times).await.unwrap();
    }

    pub(crate) async fn stop(mut self) {
        self.token.cancel();
        self.task.take().unwrap().await.unwrap();
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

async fn record(mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>, seen: Arc<Mutex<Vec<Generation>>>) {
    loop {
        let held = snapshots.borrow_and_update().as_ref().map(|held| held.generation.clone());
        seen.lock().unwrap().extend(held);
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

/// A CA with a hub certificate, and edges' certificates on demand.
pub(crate) struct Pki {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: tempfile::TempDir,
    hub: TlsFiles,
    issued: AtomicUsize,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let hub = TlsFiles {
            cert: directory.path().join("hub.crt"),
            key: directory.path().join("hub.key"),
            ca: directory.path().join("ca.crt"),
        };
        std::fs::write(&hub.ca, issuer.pem()).unwrap();
        let pki = Self { issuer, directory, hub, issued: AtomicUsize::new(0) };
        pki.issue(&pki.hub.cert, &pki.hub.key, SanType::IpAddress("127.0.0.1".parse().unwrap()));
        pki
    }

    fn issue(&self, cert: &Path, key: &Path, san: SanType) {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.subject_alt_names = vec![san];
        let pair = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&pair, &*self.issuer).unwrap();
        std::fs::write(cert, certificate.pem()).unwrap();
        std::fs::write(key, pair.serialize_pem()).unwrap();
    }

    fn fresh(&self, kind: &str) -> PathBuf {
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        self.directory.path().join(format!("edge-{number}.{kind}"))
    }

    /// Files of an edge with this URI.
    pub(crate) fn edge(&self, uri: &str) -> TlsFiles {
        self.edge_for(self, uri)
    }

    /// The same, signed by this CA, but trusting `hub`'s.
    pub(crate) fn edge_for(&self, hub: &Self, uri: &str) -> TlsFiles {
        let files = TlsFiles { cert: self.fresh("crt"), key: self.fresh("key"), ca: hub.hub.ca.clone() };
        self.renew(&files, uri);
        files
    }

    /// Writes a new certificate in the place of an old one.
    pub(crate) fn renew(&self, files: &TlsFiles, uri: &str) {
        self.issue(&files.cert, &files.key, SanType::URI(uri.try_into().unwrap()));
    }

    /// Puts the files of another CA in the place of this hub's.
    pub(crate) fn become_like(&self, other: &Self) {
        for (to, from) in [
            (&self.hub.ca, &other.hub.ca),
            (&self.hub.key, &other.hub.key),
            (&self.hub.cert, &other.hub.cert),
        ] {
            std::fs::copy(from, to).unwrap();
        }
    }
}
