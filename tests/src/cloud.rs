//! A fake cloud for one member: load balancers for Services and for foreign Ingresses.
//!
//! A Service of type LoadBalancer gets an address of the cluster's range, and the address answers: each connection
//! is spliced to a ready pod, in turn, as kube-proxy would do it (terminating pods that still serve are taken when
//! no other is left). Without any, the address refuses. An Ingress with a class other than `meridian` gets an
//! address too, which splices port 80 to its first backend, without a look at host and path: enough for what
//! stands behind Meridian.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch as latest;
use tokio_util::task::AbortOnDropHandle;

use crate::control_plane::Cluster;
use crate::watch::{self, Key, Mirror};

/// The user under which the cloud appears in the audit log.
pub const USER: &str = "testbed-cloud";
/// The Ingress class that the cloud leaves alone.
const OURS: &str = "meridian";

/// The fake cloud. Dropping it takes its load balancers down.
#[derive(Debug)]
pub struct Cloud {
    _task: AbortOnDropHandle<()>,
}

impl Cloud {
    /// Begins to serve the cluster's Services and Ingresses.
    ///
    /// # Errors
    /// When no client can be made.
    pub async fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let client = cluster.client_as(USER).await?;
        let network = u32::from(cluster.net().load_balancers().network());
        let free = (1..=254).map(|host| Ipv4Addr::from(network + host)).collect();
        let state = State {
            client,
            free,
            services: Mirror::default(),
            ingresses: Mirror::default(),
            slices: Mirror::default(),
            given: BTreeMap::new(),
            fronts: BTreeMap::new(),
        };
        Ok(Self { _task: AbortOnDropHandle::new(tokio::spawn(run(state))) })
    }
}

/// Whom an address was given to.
type Holder = (Kind, Key);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Service,
    Ingress,
}

struct State {
    client: Client,
    free: BTreeSet<Ipv4Addr>,
    services: Mirror<Service>,
    ingresses: Mirror<Ingress>,
    slices: Mirror<EndpointSlice>,
    given: BTreeMap<Holder, Ipv4Addr>,
    fronts: BTreeMap<SocketAddr, Front>,
}

/// An open port of a load balancer.
struct Front {
    backends: latest::Sender<Arc<[SocketAddr]>>,
    _task: AbortOnDropHandle<()>,
}

async fn run(mut state: State) {
    let client = &state.client;
    let mut services = std::pin::pin!(watch::events(Api::<Service>::all(client.clone())));
    let mut ingresses = std::pin::pin!(watch::events(Api::<Ingress>::all(client.clone())));
    let mut slices = std::pin::pin!(watch::events(Api::<EndpointSlice>::all(client.clone())));
    // An address that could not be written into a status is written again.
    let mut again = tokio::time::interval(Duration::from_secs(1));
    let mut owing = false;
    loop {
        let changed = tokio::select! {
            Some(event) = services.next() => !state.services.apply(event).is_empty(),
            Some(event) = ingresses.next() => !state.ingresses.apply(event).is_empty(),
            Some(event) = slices.next() => !state.slices.apply(event).is_empty(),
            _ = again.tick(), if owing => true,
        };
        if changed {
            state.give();
            owing = state.write_statuses().await.is_err();
            state.open().await;
        }
    }
}

impl State {
    /// Gives and takes back addresses.
    fn give(&mut self) {
        let services = self.services.iter().filter(|(_, service)| is_load_balancer(service));
        let ingresses = self.ingresses.iter().filter(|(_, ingress)| is_foreign(ingress));
        let wanted: BTreeSet<Holder> = services
            .map(|(key, _)| (Kind::Service, key.clone()))
            .chain(ingresses.map(|(key, _)| (Kind::Ingress, key.clone())))
            .collect();
        let free = &mut self.free;
        self.given.retain(|holder, address| {
            let kept = wanted.contains(holder);
            if !kept {
                free.insert(*address);
            }
            kept
        });
        for holder in wanted {
            if !self.given.contains_key(&holder)
                && let Some(address) = self.free.pop_first()
            {
                self.given.insert(holder, address);
            }
        }
    }

    /// Writes each address into the status of its holder, where it is not there yet.
    async fn write_statuses(&self) -> kube::Result<()> {
        let params = PatchParams::default();
        for ((kind, key), address) in &self.given {
            let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}}));
            let written = match kind {
                Kind::Service
                    if self.services.get(key).is_none_or(|s| service_address(s) != Some(*address)) =>
                {
                    let api: Api<Service> = Api::namespaced(self.client.clone(), &key.0);
                    api.patch_status(&key.1, &params, &patch).await.map(|_| ())
                }
                Kind::Ingress
                    if self.ingresses.get(key).is_none_or(|i| ingress_address(i) != Some(*address)) =>
                {
                    let api: Api<Ingress> = Api::namespaced(self.client.clone(), &key.0);
                    api.patch_status(&key.1, &params, &patch).await.map(|_| ())
                }
                Kind::Service | Kind::Ingress => Ok(()),
            };
            match written {
                // Gone in the meantime; the watch will say so.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Opens, changes and closes the ports of the load balancers.
    async fn open(&mut self) {
        let mut wanted: BTreeMap<SocketAddr, Vec<SocketAddr>> = BTreeMap::new();
        for ((kind, key), &address) in &self.given {
            match kind {
                Kind::Service => {
                    for port in self.services.get(key).map(ports).unwrap_or_default() {
                        if let Ok(number) = u16::try_from(port.port) {
                            wanted.insert((address, number).into(), self.backends(key, port));
                        }
                    }
                }
                Kind::Ingress => {
                    wanted.insert((address, 80).into(), self.ingress_backends(key));
                }
            }
        }
        // A port without a backend refuses, so it must not listen.
        wanted.retain(|_, backends| !backends.is_empty());
        self.fronts.retain(|address, _| wanted.contains_key(address));
        for (address, backends) in wanted {
            let backends: Arc<[SocketAddr]> = backends.into();
            if let Some(front) = self.fronts.get(&address) {
                front.backends.send_replace(backends);
            } else if let Ok(listener) = listen(address).await {
                let (sender, receiver) = latest::channel(backends);
                let task = AbortOnDropHandle::new(tokio::spawn(accept(listener, receiver)));
                self.fronts.insert(address, Front { backends: sender, _task: task });
            }
        }
    }

    /// The pods behind a Service's port.
    fn backends(&self, service: &Key, port: &ServicePort) -> Vec<SocketAddr> {
        let of_service = self.slices.iter().filter(|((namespace, _), slice)| {
            *namespace == service.0 && slice.labels().get("kubernetes.io/service-name") == Some(&service.1)
        });
        let (mut ready, mut serving) = (Vec::new(), Vec::new());
        for (_, slice) in of_service {
            // A port without a name has the name "" in one place and none in the other.
            let named =
                |name: Option<&str>| name.unwrap_or_default() == port.name.as_deref().unwrap_or_default();
            let slice_ports = slice.ports.as_deref().unwrap_or_default();
            let Some(number) = slice_ports.iter().find(|p| named(p.name.as_deref())).and_then(|p| p.port)
            else {
                continue;
            };
            let Ok(number) = u16::try_from(number) else { continue };
            for endpoint in slice.endpoints.as_deref().unwrap_or_default() {
                let conditions = endpoint.conditions.as_ref();
                let addresses = endpoint.addresses.iter().filter_map(|a| a.parse::<Ipv4Addr>().ok());
                let sockets = addresses.map(|address| SocketAddr::from((address, number)));
                if conditions.is_none_or(|c| c.ready != Some(false)) {
                    ready.extend(sockets);
                } else if conditions.is_some_and(|c| c.serving == Some(true) && c.terminating == Some(true)) {
                    serving.extend(sockets);
                }
            }
        }
        let mut chosen = if ready.is_empty() { serving } else { ready };
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }

    fn ingress_backends(&self, key: &Key) -> Vec<SocketAddr> {
        let Some(spec) = self.ingresses.get(key).and_then(|ingress| ingress.spec.as_ref()) else {
            return Vec::new();
        };
        let rules = spec.rules.iter().flatten().filter_map(|rule| rule.http.as_ref());
        let by_rule = rules.flat_map(|http| &http.paths).map(|path| &path.backend);
        let mut services =
            spec.default_backend.iter().chain(by_rule).filter_map(|backend| backend.service.as_ref());
        let Some(backend) = services.next() else { return Vec::new() };
        let service = (key.0.clone(), backend.name.clone());
        let wanted = |port: &&ServicePort| {
            let reference = backend.port.as_ref();
            reference
                .is_some_and(|r| r.number == Some(port.port) || (r.name.is_some() && r.name == port.name))
        };
        let port = self.services.get(&service).and_then(|s| ports(s).iter().find(wanted));
        port.map(|port| self.backends(&service, port)).unwrap_or_default()
    }
}

/// Waits a little where an older listener on the address is just being closed.
async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let mut tries = 0;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && tries < 50 => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            other => return other,
        }
    }
}

async fn accept(listener: TcpListener, backends: latest::Receiver<Arc<[SocketAddr]>>) {
    let turn = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((caller, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (backends, turn) = (backends.clone(), Arc::clone(&turn));
        // Flows outlive the front: a load balancer that loses a backend does not cut what runs.
        tokio::spawn(splice(caller, backends, turn));
    }
}

async fn splice(
    mut caller: TcpStream,
    backends: latest::Receiver<Arc<[SocketAddr]>>,
    turn: Arc<AtomicUsize>,
) {
    let all = Arc::clone(&backends.borrow());
    let first = turn.fetch_add(1, Ordering::Relaxed);
    for i in 0..all.len() {
        let backend = all[(first + i) % all.len()];
        // A pod that is gone refuses; its withdrawal is on the way. The next one is as good.
        if let Ok(mut pod) = TcpStream::connect(backend).await {
            caller.set_nodelay(true).ok();
            pod.set_nodelay(true).ok();
            tokio::io::copy_bidirectional(&mut caller, &mut pod).await.ok();
            return;
        }
    }
}

fn is_load_balancer(service: &Service) -> bool {
    let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    kind == Some("LoadBalancer") && service.metadata.deletion_timestamp.is_none()
}

fn is_foreign(ingress: &Ingress) -> bool {
    let class = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    class.is_some_and(|class| class != OURS)
}

fn ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default()
}

fn service_address(service: &Service) -> Option<Ipv4Addr> {
    let status = service.status.as_ref()?.load_balancer.as_ref()?;
    status.ingress.as_ref()?.first()?.ip.as_deref()?.parse().ok()
}

fn ingress_address(ingress: &Ingress) -> Option<Ipv4Addr> {
    let status = ingress.status.as_ref()?.load_balancer.as_ref()?;
    status.ingress.as_ref()?.first()?.ip.as_deref()?.parse().ok()
}
