//! Discovery on real API servers: what an edge is told when Services, endpoints, policies and members change.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use kube::config::Kubeconfig;
use meridian_core::id::ObjectKey;
use meridian_core::snapshot::{Role, Snapshot};
use meridian_feed::follower::{FeedArgs, Follower};
use meridian_tests::bed::{Bed, BedSpec, HUB, Member};
use meridian_tests::process::Process;
use meridian_tests::suite::{case, run};
use meridian_tests::wait::wait_until;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

const ASIA: &str = "asia-east1";
const EUROPE: &str = "europe-west1";
/// In the suite's own network namespace, where nobody else listens.
const FEED: &str = "127.0.0.1:7801";
/// Long enough for a busy machine, short enough to notice that something hangs.
const SOON: Duration = Duration::from_secs(60);
/// From the EndpointSlice to the edge.
const AT_ONCE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let default = BedSpec::default();
    let spec = BedSpec {
        members: default.members.into_iter().filter(|m| [ASIA, EUROPE].contains(&m.name.as_str())).collect(),
        sites: Vec::new(),
    };
    let cases = vec![
        case("scale_and_readiness_reach_an_edge_within_a_second", scale_and_readiness),
        case("policy_takes_a_plain_service_from_selected_members", selected_members),
        case("losing_a_members_api_keeps_its_endpoints", lost_api),
        case("controller_that_starts_without_a_member_keeps_what_edges_hold_of_it", start_without_a_member),
        case("hostname_claimed_twice_is_said_on_the_younger_policy", claimed_twice),
        case("member_ingress_shows_the_address_of_the_sites", shown_address),
    ];
    run(spec, cases)
}

/// A controller on the hub, and an edge that follows it.
struct Rig {
    bed: Arc<Bed>,
    controller: Process,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    _follower: DropGuard,
}

impl Rig {
    async fn start(bed: &Arc<Bed>) -> anyhow::Result<Self> {
        let controller = controller(bed)?;
        let args = FeedArgs {
            feed: format!("http://{FEED}"),
            feed_ca: None,
            feed_cert: None,
            feed_key: None,
            site: "edge".to_owned(),
            state_dir: None,
        };
        let follower = Follower::new(&args, Role::Lb)?;
        let snapshots = follower.snapshots();
        let token = CancellationToken::new();
        tokio::spawn(follower.run(token.clone()));
        let mut rig = Self { bed: Arc::clone(bed), controller, snapshots, _follower: token.drop_guard() };
        // The first publication says that the definitions are installed and the watches work.
        rig.until("a first snapshot", SOON, |_| true).await?;
        for member in bed.members() {
            rig.join(member).await?;
        }
        Ok(rig)
    }

    /// Joins a member by way of its proxy.
    async fn join(&mut self, member: &Member) -> anyhow::Result<()> {
        let name = member.name();
        let context = format!("{name}.proxied");
        let mut config = Kubeconfig::read_from(self.bed.kubeconfig())?;
        config.contexts.retain(|entry| entry.name == context);
        config.current_context = Some(context);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": "meridian-system"},
            "stringData": {"kubeconfig": serde_json::to_string(&config)?},
        });
        let object = json!({
            "apiVersion": "meridian.io/v1alpha1", "kind": "MemberCluster",
            "metadata": {"name": name, "labels": {"place": name}},
            "spec": {"connection": {"secretRef": {"name": name, "namespace": "meridian-system"}}},
        });
        self.apply(&[secret, object]).await?;
        self.until(&format!("member {name} with its region"), SOON, |snapshot| {
            let cluster = snapshot.clusters.get(name);
            cluster.is_some_and(|cluster| cluster.region.is_some() && cluster.zones.len() == 3)
                && snapshot.unread.is_empty()
        })
        .await?;
        Ok(())
    }

    async fn apply(&self, objects: &[Value]) -> anyhow::Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.bed.apply(HUB, &list.to_string()).await.map(drop)
    }

    /// Waits until the edge holds a snapshot of which `holds` is true.
    async fn until(
        &mut self,
        what: &str,
        within: Duration,
        holds: impl Fn(&Snapshot) -> bool,
    ) -> anyhow::Result<Arc<Snapshot>> {
        let seen = self.snapshots.wait_for(|held| held.as_deref().is_some_and(&holds));
        let found = match tokio::time::timeout(within, seen).await {
            Ok(found) => found.ok().and_then(|held| held.clone()),
            Err(_) => None,
        };
        if let Some(found) = found {
            return Ok(found);
        }
        let held = self.snapshots.borrow().clone();
        let state = held.map(|held| format!("{:?}", held.services)).unwrap_or_default();
        self.controller.check_running()?;
        anyhow::bail!("no {what} within {within:?}; held: {state}\n{}", self.bed.log_tails(20))
    }

    async fn until_ready(
        &mut self,
        service: &str,
        within: Duration,
        wanted: &[(&str, u32)],
    ) -> anyhow::Result<()> {
        let what = format!("{wanted:?} ready in {service}");
        self.until(&what, within, |snapshot| ready(snapshot, service) == wanted).await.map(drop)
    }

    /// The condition of an object, once it has this status.
    async fn condition(&self, kind: &str, name: &str, type_: &str, status: &str) -> anyhow::Result<Value> {
        let what = format!("{type_}={status} on {kind} {name}");
        wait_until(what, SOON, async || {
            let text = self.bed.kubectl(HUB, &["get", kind, name, "-o", "json"]).await?;
            let object: Value = serde_json::from_str(&text)?;
            let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
            let found = conditions.into_iter().flatten().find(|condition| condition["type"] == type_);
            Ok(found.filter(|condition| condition["status"] == status).cloned())
        })
        .await
    }

    /// Ends the controller, and takes away what the case put onto the hub.
    async fn end(mut self, policies: &[&str]) -> anyhow::Result<()> {
        for name in policies {
            self.bed.kubectl(HUB, &["delete", "trafficpolicy", name]).await?;
        }
        self.controller.terminate(SOON).await?;
        Ok(())
    }
}

fn controller(bed: &Bed) -> anyhow::Result<Process> {
    let kubeconfig = bed.kubeconfig().display().to_string();
    let arguments = [
        ("kubeconfig", kubeconfig.as_str()),
        ("context", HUB),
        ("probe-interval-ms", "300"),
        ("lease-duration-s", "3"),
        ("admin-listen", "127.0.0.1:0"),
        ("feed-listen", FEED),
        ("log-level", "info,meridian_controller::discover=debug"),
    ];
    let mut arguments: Vec<String> =
        arguments.iter().map(|(name, value)| format!("--{name}={value}")).collect();
    arguments.push("--install-crds".to_owned());
    bed.run_binary("meridian-controller", None, &arguments, "controller")
}

/// (cluster, ready endpoints) of each shard of a Service in namespace `default`.
fn ready<'a>(snapshot: &'a Snapshot, service: &str) -> Vec<(&'a str, u32)> {
    let service = snapshot.services.get(&ObjectKey::new("default", service));
    let shards = service.into_iter().flat_map(|service| &service.shards);
    shards.map(|shard| (shard.cluster.as_str(), shard.ready)).collect()
}

fn policy(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "meridian.io/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    })
}

/// Scales echo pods "NAME" behind a Service of the same name, and waits until the member lists so many.
async fn scale(member: &Member, name: &str, replicas: usize) -> anyhow::Result<()> {
    let client = member.cluster.client();
    let params = PatchParams::apply("test").force();
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "echo", "image": "echo", "ports": [{"containerPort": 8080}]}]},
        }},
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    });
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    deployments.patch(name, &params, &Patch::Apply(&deployment)).await?;
    let services: Api<Service> = Api::default_namespaced(client);
    services.patch(name, &params, &Patch::Apply(&service)).await?;
    listed(member, name, replicas).await
}

/// Waits until the slices of a Service list just so many ready endpoints.
async fn listed(member: &Member, service: &str, wanted: usize) -> anyhow::Result<()> {
    let slices: Api<EndpointSlice> = Api::default_namespaced(member.cluster.client());
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    wait_until(format!("{wanted} ready endpoints of {service} in {}", member.name()), SOON, async || {
        let slices = slices.list(&of_service).await?;
        let endpoints = slices.items.into_iter().flat_map(|slice| slice.endpoints.unwrap_or_default());
        let is_ready = |c: &k8s_openapi::api::discovery::v1::EndpointConditions| c.ready == Some(true);
        let ready = endpoints.filter(|e| e.conditions.as_ref().is_some_and(is_ready)).count();
        ensure!(ready == wanted, "{ready} are ready");
        Ok(Some(()))
    })
    .await
}

async fn scale_and_readiness(bed: Arc<Bed>) -> anyhow::Result<()> {
    let mut rig = Rig::start(&bed).await?;
    rig.apply(&[policy("live", json!({"targetRefs": [{"kind": "Service", "name": "live"}]}))]).await?;
    let (asia, europe) = (bed.member(ASIA), bed.member(EUROPE));
    scale(asia, "live", 2).await?;
    rig.until_ready("live", AT_ONCE, &[(ASIA, 2)]).await?;
    scale(europe, "live", 1).await?;
    rig.until_ready("live", AT_ONCE, &[(ASIA, 2), (EUROPE, 1)]).await?;
    scale(asia, "live", 0).await?;
    rig.until_ready("live", AT_ONCE, &[(ASIA, 0), (EUROPE, 1)]).await?;
    scale(asia, "live", 3).await?;
    rig.until_ready("live", AT_ONCE, &[(ASIA, 3), (EUROPE, 1)]).await?;

    let pods = asia.kubelet.pods().await?;
    let pod = pods
        .iter()
        .find(|pod| pod.name.starts_with("live-") && pod.ready && !pod.terminating)
        .context("a ready pod")?;
    asia.kubelet.set_ready(&pod.namespace, &pod.name, false).await?;
    listed(asia, "live", 2).await?;
    rig.until_ready("live", AT_ONCE, &[(ASIA, 2), (EUROPE, 1)]).await?;

    // Endpoints carry port and zone as the member has them.
    let held = rig.snapshots.borrow().clone().context("a snapshot")?;
    let shard = &held.services[&ObjectKey::new("default", "live")].shards[0];
    ensure!(shard.total == 3 && shard.groups[0].ports[0].port == 8080, "{shard:?}");
    let zones = &held.clusters[ASIA].zones;
    let endpoints = &shard.groups[0].endpoints;
    let has_zone = |zone: &meridian_core::id::ZoneName| zones.contains(zone);
    ensure!(endpoints.iter().all(|endpoint| endpoint.zone.as_ref().is_some_and(has_zone)), "{shard:?}");
    rig.end(&["live"]).await
}

async fn selected_members(bed: Arc<Bed>) -> anyhow::Result<()> {
    let mut rig = Rig::start(&bed).await?;
    for member in [ASIA, EUROPE] {
        scale(bed.member(member), "plain", 1).await?;
    }
    let spec = |selector: Value| {
        json!({"targetRefs": [{"kind": "Service", "name": "plain"}], "clusters": selector,
               "capacity": {"maxRatePerEndpoint": 25}})
    };
    rig.apply(&[policy("plain", spec(json!({"names": [EUROPE]})))]).await?;
    rig.until_ready("plain", AT_ONCE, &[(EUROPE, 1)]).await?;
    rig.condition("trafficpolicy", "plain", "ResolvedRefs", "True").await?;
    rig.apply(&[policy("plain", spec(json!({"matchLabels": {"place": ASIA}})))]).await?;
    rig.until_ready("plain", AT_ONCE, &[(ASIA, 1)]).await?;
    rig.apply(&[policy("plain", spec(json!({"names": ["nowhere"]})))]).await?;
    rig.until_ready("plain", AT_ONCE, &[]).await?;
    let unresolved = rig.condition("trafficpolicy", "plain", "ResolvedRefs", "False").await?;
    ensure!(unresolved["reason"] == "TargetNotFound", "{unresolved}");
    rig.end(&["plain"]).await
}

async fn lost_api(bed: Arc<Bed>) -> anyhow::Result<()> {
    let mut rig = Rig::start(&bed).await?;
    rig.apply(&[policy("lost", json!({"targetRefs": [{"kind": "Service", "name": "lost"}]}))]).await?;
    let europe = bed.member(EUROPE);
    scale(europe, "lost", 2).await?;
    rig.until_ready("lost", AT_ONCE, &[(EUROPE, 2)]).await?;

    europe.proxy.stall();
    let not_ready = rig.condition("membercluster", EUROPE, "Ready", "False").await;
    let held = rig.snapshots.borrow().clone().context("a snapshot")?;
    // Something else happens meanwhile, so that there is a later snapshot to look at.
    scale(bed.member(ASIA), "lost", 1).await?;
    let kept = rig.until_ready("lost", AT_ONCE, &[(ASIA, 1), (EUROPE, 2)]).await;
    europe.proxy.heal();
    not_ready?;
    kept?;
    ensure!(ready(&held, "lost") == [(EUROPE, 2)], "{:?}", held.services);

    scale(europe, "lost", 3).await?;
    rig.until_ready("lost", SOON, &[(ASIA, 1), (EUROPE, 3)]).await?;
    rig.end(&["lost"]).await
}

async fn start_without_a_member(bed: Arc<Bed>) -> anyhow::Result<()> {
    let mut rig = Rig::start(&bed).await?;
    rig.apply(&[policy("kept", json!({"targetRefs": [{"kind": "Service", "name": "kept"}]}))]).await?;
    let europe = bed.member(EUROPE);
    scale(europe, "kept", 2).await?;
    rig.until_ready("kept", AT_ONCE, &[(EUROPE, 2)]).await?;
    let before = rig.snapshots.borrow().clone().context("a snapshot")?.generation.clone();

    rig.controller.kill9()?;
    europe.proxy.stall();
    rig.controller = controller(&bed)?;
    let later =
        rig.until("snapshot of the next term", SOON, |snapshot| snapshot.generation.term > before.term).await;
    europe.proxy.heal();
    let later = later?;
    ensure!(later.unread.contains(EUROPE), "{:?}", later.unread);
    ensure!(ready(&later, "kept") == [(EUROPE, 2)], "{:?}", later.services);
    // Its place is known from the last status: only its nodes would say it again.
    let region = later.clusters[EUROPE].region.as_ref();
    ensure!(region.is_some_and(|region| region.as_str() == EUROPE), "{:?}", later.clusters);
    rig.until("member that was read", SOON, |snapshot| snapshot.unread.is_empty()).await?;
    rig.until_ready("kept", AT_ONCE, &[(EUROPE, 2)]).await?;
    rig.end(&["kept"]).await
}

async fn claimed_twice(bed: Arc<Bed>) -> anyhow::Result<()> {
    let rig = Rig::start(&bed).await?;
    let zone = json!({
        "apiVersion": "meridian.io/v1alpha1", "kind": "DnsZone", "metadata": {"name": "twice"},
        "spec": {"domain": "twice.example.org", "allowedNamespaces": {"all": true},
                 "nameServers": [{"name": "ns.twice.example.org", "addresses": ["192.0.2.53"]}]},
    });
    let claim = |service: &str| json!({"targetRefs": [{"kind": "Service", "name": service}], "dns": {"hostnames": ["app.twice.example.org"]}});
    rig.apply(&[zone, policy("first", claim("first"))]).await?;
    rig.condition("trafficpolicy", "first", "Accepted", "True").await?;
    rig.condition("dnszone", "twice", "Accepted", "True").await?;
    // Creation times have seconds; the younger must be younger.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    rig.apply(&[policy("second", claim("second"))]).await?;
    let lost = rig.condition("trafficpolicy", "second", "Accepted", "False").await?;
    let message = lost["message"].as_str().unwrap_or_default();
    ensure!(lost["reason"] == "HostnameConflict", "{lost}");
    ensure!(message.contains("app.twice.example.org") && message.contains("default/first"), "{lost}");
    rig.condition("trafficpolicy", "first", "Accepted", "True").await?;
    // A FederatedIngress that asks for the same host is told by an Event: its status is KubeFed's.
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let path = json!({"path": "/", "pathType": "Prefix", "backend": backend});
    let rules = json!([{"host": "app.twice.example.org", "http": {"paths": [path]}}]);
    let ingress = json!({
        "apiVersion": "types.kubefed.io/v1beta1", "kind": "FederatedIngress",
        "metadata": {"name": "third", "namespace": "default"},
        "spec": {"template": {"spec": {"rules": rules}}, "placement": {"clusters": []}},
    });
    rig.apply(&[ingress]).await?;
    let event = wait_until("an Event on the FederatedIngress", SOON, async || {
        let text = rig.bed.kubectl(HUB, &["get", "events", "-o", "json"]).await?;
        let events: Value = serde_json::from_str(&text)?;
        let all = events["items"].as_array().into_iter().flatten();
        let mut ours = all.filter(|event| event["involvedObject"]["name"] == "third");
        Ok(ours.find(|event| event["reason"] == "HostnameConflict").cloned())
    })
    .await?;
    ensure!(event["message"].as_str().is_some_and(|text| text.contains("default/first")), "{event}");
    rig.bed.kubectl(HUB, &["delete", "federatedingress", "third"]).await?;
    // The name falls to the other when the winner goes.
    rig.bed.kubectl(HUB, &["delete", "trafficpolicy", "first"]).await?;
    rig.condition("trafficpolicy", "second", "Accepted", "True").await?;
    let text = rig.bed.kubectl(HUB, &["get", "dnszone", "twice", "-o", "json"]).await?;
    let zone: Value = serde_json::from_str(&text)?;
    ensure!(zone.pointer("/status/serial").is_some_and(Value::is_u64), "{zone}");
    rig.bed.kubectl(HUB, &["delete", "dnszone", "twice"]).await?;
    rig.end(&["second"]).await
}

async fn shown_address(bed: Arc<Bed>) -> anyhow::Result<()> {
    let mut rig = Rig::start(&bed).await?;
    let site = json!({
        "apiVersion": "meridian.io/v1alpha1", "kind": "Site", "metadata": {"name": "edge"},
        "spec": {"vips": ["203.0.113.1"], "memberCluster": ASIA},
    });
    let spec = json!({"targetRefs": [
        {"group": "networking.k8s.io", "kind": "Ingress", "name": "ours"},
        {"group": "networking.k8s.io", "kind": "Ingress", "name": "foreign"},
    ]});
    let asia: Api<Ingress> = Api::default_namespaced(bed.member(ASIA).cluster.client());
    for (name, class) in [("ours", None), ("foreign", Some("foreign"))] {
        let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
        let ingress = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name},
            "spec": {"ingressClassName": class, "defaultBackend": backend},
        });
        asia.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&ingress)).await?;
    }
    rig.apply(&[site, policy("shown", spec)]).await?;
    rig.until("site in the region of its member", SOON, |snapshot| {
        snapshot
            .sites
            .get("edge")
            .is_some_and(|site| site.region.as_ref().is_some_and(|r| r.as_str() == ASIA))
            && snapshot.ingresses.len() == 2
    })
    .await?;
    let broken = json!({
        "apiVersion": "meridian.io/v1alpha1", "kind": "Site", "metadata": {"name": "wrong"},
        "spec": {"vips": ["nowhere"], "memberCluster": ASIA},
    });
    rig.apply(&[broken]).await?;
    let wrong = rig.condition("site", "wrong", "Accepted", "False").await?;
    ensure!(wrong["message"].as_str().is_some_and(|text| text.contains("spec.vips[0]")), "{wrong}");
    rig.condition("site", "edge", "Accepted", "True").await?;
    let address = async |name: &str| {
        let status = asia.get(name).await?.status.and_then(|status| status.load_balancer);
        let first = status.and_then(|status| status.ingress).unwrap_or_default().into_iter().next();
        anyhow::Ok(first.and_then(|ingress| ingress.ip))
    };
    wait_until("the VIP in the member's Ingress", SOON, async || {
        Ok(address("ours").await?.filter(|ip| ip == "203.0.113.1"))
    })
    .await?;
    ensure!(
        address("foreign").await?.is_none_or(|ip| ip != "203.0.113.1"),
        "a foreign Ingress was written to"
    );
    rig.bed.kubectl(HUB, &["delete", "site", "edge", "wrong"]).await?;
    rig.end(&["shown"]).await
}
