//! The testbed proves itself: what later suites rely on is true, and can become false.

use std::net::SocketAddr;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use meridian_tests::bed::{Bed, BedSpec, Member};
use meridian_tests::kubelet::Running;
use meridian_tests::load::{self, Load, Plan};
use meridian_tests::probe::{Reach, get, reach, who};
use meridian_tests::site::VIP;
use meridian_tests::suite::{Case, case, processes, run};
use meridian_tests::wait::wait_until;
use meridian_tests::{kubeconfig, namespace};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ASIA: &str = "asia-east1";
const EUROPE: &str = "europe-west1";
const AMERICA: &str = "us-central1";
/// Long enough for a busy machine, short enough to notice that something hangs.
const SOON: Duration = Duration::from_secs(30);
/// What stalls must stall for so long; what answers does so sooner.
const STALL: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let cases: Vec<Case> = vec![
        case("four_api_servers_are_ready_and_enforce_rbac", four_api_servers_are_ready),
        case("deployment_of_nine_is_spread_over_three_zones_and_listed", deployment_of_nine),
        case("pod_answers_and_says_who_it_is", pod_answers),
        case("address_without_a_pod_is_refused_at_once", address_without_a_pod),
        case("readiness_flip_moves_the_slice", readiness_flip),
        case("pods_of_a_killed_zone_wait_until_it_is_restored", killed_zone),
        case("partition_stalls_connects_and_open_flows_until_healed", partition),
        case("pod_that_starts_during_a_partition_answers_after_it", start_during_partition),
        case("site_sees_answers_refusals_and_partitions", from_a_site),
        case("vip_is_separate_in_each_site", vip_is_separate),
        case("cut_site_is_silent_until_healed", cut_site),
        case("load_balancer_answers_and_refuses_without_pods", load_balancer),
        case("foreign_ingress_gets_an_address_that_answers", foreign_ingress),
        case("terminating_pod_drains_and_then_refuses", terminating_pod),
        case("terminating_pod_serves_until_it_is_withdrawn", withdrawn_late),
        case("load_generator_counts_answers_by_cluster_and_failures", load_counts),
        case("audit_log_records_writes_by_user", audit_log),
        case("api_server_returns_on_its_port_and_pods_never_notice", api_restart),
        case("proxied_api_server_stalls_until_healed", proxied_api),
        case("killed_program_leaves_no_process_behind", killed_program),
        case("interrupted_program_ends_tidily", interrupted_program),
    ];
    run(BedSpec::default(), cases)
}

/// Scales the Deployment "NAME" of echo pods, with a LoadBalancer Service of the same name, and waits until just so
/// many pods are ready and listed.
async fn scale(member: &Member, name: &str, replicas: usize) -> anyhow::Result<Vec<Running>> {
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
        "spec": {"type": "LoadBalancer", "selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    deployments.patch(name, &params, &Patch::Apply(&deployment)).await?;
    let services: Api<Service> = Api::default_namespaced(client);
    services.patch(name, &params, &Patch::Apply(&service)).await?;
    listed_ready(member, name, replicas).await?;
    wait_until(format!("{replicas} pods of {name} in {}", member.name()), SOON, async || {
        let pods = pods_of(member, name).await?;
        let settled = pods.len() == replicas && pods.iter().all(|pod| pod.ready && !pod.terminating);
        Ok(settled.then_some(pods))
    })
    .await
}

async fn pods_of(member: &Member, name: &str) -> anyhow::Result<Vec<Running>> {
    let prefix = format!("{name}-");
    Ok(member.kubelet.pods().await?.into_iter().filter(|pod| pod.name.starts_with(&prefix)).collect())
}

/// Waits until the slices of a Service list just so many ready endpoints, and returns how many there are of any kind.
async fn listed_ready(member: &Member, service: &str, wanted: usize) -> anyhow::Result<usize> {
    let slices: Api<EndpointSlice> = Api::default_namespaced(member.cluster.client());
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    wait_until(format!("{wanted} ready endpoints of {service} in {}", member.name()), SOON, async || {
        let slices = slices.list(&of_service).await?;
        let endpoints: Vec<_> =
            slices.items.into_iter().flat_map(|slice| slice.endpoints.unwrap_or_default()).collect();
        let ready =
            endpoints.iter().filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true))).count();
        ensure!(ready == wanted, "{ready} are ready");
        Ok(Some(endpoints.len()))
    })
    .await
}

async fn load_balancer_address(member: &Member, service: &str) -> anyhow::Result<SocketAddr> {
    let services: Api<Service> = Api::default_namespaced(member.cluster.client());
    wait_until(format!("an address for {service}"), SOON, async || {
        let status =
            services.get(service).await?.status.unwrap_or_default().load_balancer.unwrap_or_default();
        let address = status.ingress.unwrap_or_default().into_iter().find_map(|ingress| ingress.ip);
        Ok(address.map(|ip| format!("{ip}:80").parse()).transpose()?)
    })
    .await
}

fn socket(pod: &Running) -> anyhow::Result<SocketAddr> {
    Ok((pod.address.with_context(|| format!("{} has no address", pod.name))?, 8080).into())
}

async fn four_api_servers_are_ready(bed: Arc<Bed>) -> anyhow::Result<()> {
    for context in ["hub", ASIA, EUROPE, AMERICA] {
        assert_eq!(bed.kubectl(context, &["get", "--raw", "/readyz"]).await?, "ok");
        let version = bed.kubectl(context, &["version", "-o", "json"]).await?;
        assert!(version.contains("\"gitVersion\": \"v1.36.3\""), "{version}");
    }
    let nobody = bed.member(ASIA).cluster.identity("nobody", "")?;
    let entry = kubeconfig::Entry { identity: nobody, ..bed.member(ASIA).cluster.entry().clone() };
    let client = kubeconfig::client(&kubeconfig::text(&[entry])).await?;
    let denied = Api::<Pod>::all(client).list(&ListParams::default()).await;
    assert!(matches!(&denied, Err(kube::Error::Api(status)) if status.is_forbidden()), "{denied:?}");
    let nodes = Api::<Node>::all(bed.hub().client()).list(&ListParams::default()).await?;
    assert_eq!(nodes.items.len(), 0, "the hub runs no workloads");
    Ok(())
}

async fn deployment_of_nine(bed: Arc<Bed>) -> anyhow::Result<()> {
    for member in bed.members() {
        let pods = scale(member, "web", 9).await?;
        let nodes = Api::<Node>::all(member.cluster.client()).list(&ListParams::default()).await?;
        assert_eq!(nodes.items.len(), 3);
        for node in nodes {
            assert_eq!(
                node.labels().get("topology.kubernetes.io/region").map(String::as_str),
                Some(member.name())
            );
            let zone = node.labels().get("topology.kubernetes.io/zone").cloned();
            assert_eq!(pods.iter().filter(|pod| pod.zone == zone).count(), 3, "{zone:?} of {pods:?}");
        }
        assert_eq!(listed_ready(member, "web", 9).await?, 9);
    }
    Ok(())
}

async fn pod_answers(bed: Arc<Bed>) -> anyhow::Result<()> {
    let member = bed.member(EUROPE);
    for pod in scale(member, "web", 9).await? {
        let answer = who(socket(&pod)?, "any.example", PATIENCE).await?;
        assert_eq!(answer.identity.cluster, EUROPE);
        assert_eq!(answer.identity.region, EUROPE);
        assert_eq!((answer.identity.namespace, answer.identity.pod), (pod.namespace, pod.name));
        assert_eq!(Some(answer.identity.zone), pod.zone);
        assert!(
            answer.headers.contains(&("host".to_owned(), "any.example".to_owned())),
            "{:?}",
            answer.headers
        );
    }
    Ok(())
}

async fn address_without_a_pod(bed: Arc<Bed>) -> anyhow::Result<()> {
    let member = bed.member(ASIA);
    let unused = SocketAddr::from((member.cluster.net().zone_pods(0).broadcast(), 8080));
    let start = Instant::now();
    assert_eq!(reach(unused, PATIENCE).await, Reach::Refused);
    assert!(start.elapsed() < STALL, "refused only after {:?}", start.elapsed());
    // A port that the pod does not listen on.
    let pod = scale(member, "web", 9).await?.swap_remove(0);
    let other = SocketAddr::new(socket(&pod)?.ip(), 8081);
    assert_eq!(reach(other, PATIENCE).await, Reach::Refused);
    Ok(())
}

async fn readiness_flip(bed: Arc<Bed>) -> anyhow::Result<()> {
    let member = bed.member(ASIA);
    let pod = scale(member, "web", 9).await?.swap_remove(4);
    member.kubelet.set_ready(&pod.namespace, &pod.name, false).await?;
    assert_eq!(listed_ready(member, "web", 8).await?, 9, "an unready endpoint is listed as such");
    who(socket(&pod)?, "h", PATIENCE).await.context("an unready pod still runs")?;
    member.kubelet.set_ready(&pod.namespace, &pod.name, true).await?;
    listed_ready(member, "web", 9).await?;
    Ok(())
}

async fn killed_zone(bed: Arc<Bed>) -> anyhow::Result<()> {
    let (member, zone) = (bed.member(EUROPE), "europe-west1-b");
    let before = scale(member, "web", 9).await?;
    let (dead, alive): (Vec<_>, Vec<_>) =
        before.into_iter().partition(|pod| pod.zone.as_deref() == Some(zone));
    assert_eq!((dead.len(), alive.len()), (3, 6));
    member.kubelet.kill_zone(zone).await?;
    for pod in &dead {
        assert_eq!(reach(socket(pod)?, PATIENCE).await, Reach::Refused, "{}", pod.name);
    }
    listed_ready(member, "web", 6).await?;
    let waiting = wait_until("three replacements bound to the dead zone", SOON, async || {
        let pods = pods_of(member, "web").await?;
        let waiting: Vec<_> =
            pods.into_iter().filter(|pod| pod.zone.as_deref() == Some(zone) && !pod.terminating).collect();
        Ok((waiting.len() == 3).then_some(waiting))
    })
    .await?;
    assert!(waiting.iter().all(|pod| !pod.ready && pod.address.is_none()), "{waiting:?}");
    for pod in &alive {
        who(socket(pod)?, "h", PATIENCE).await?;
    }
    member.kubelet.restore_zone(zone).await?;
    listed_ready(member, "web", 9).await?;
    assert!(member.kubelet.kill_zone("no-such-zone").await.is_err());
    Ok(())
}

async fn partition(bed: Arc<Bed>) -> anyhow::Result<()> {
    let member = bed.member(ASIA);
    let pod = scale(member, "web", 9).await?.swap_remove(0);
    let elsewhere = scale(bed.member(AMERICA), "web", 9).await?.swap_remove(0);
    let mut open = OpenFlow::start(socket(&pod)?).await?;
    open.exchange(PATIENCE).await?;

    member.partition_pods()?;
    let cut = async {
        assert_eq!(reach(socket(&pod)?, STALL).await, Reach::Stalled, "a new connection");
        assert!(open.exchange(STALL).await.is_err(), "an open flow got an answer through a partition");
        who(socket(&elsewhere)?, "h", PATIENCE).await.context("another member is not cut off")
    }
    .await;
    member.heal_pods()?;
    cut?;

    // The request that was held back is answered, without a new connection.
    open.read(PATIENCE).await?;
    who(socket(&pod)?, "h", PATIENCE).await?;
    Ok(())
}

async fn start_during_partition(bed: Arc<Bed>) -> anyhow::Result<()> {
    let member = bed.member(ASIA);
    scale(member, "late", 0).await?;
    member.partition_pods()?;
    let pods = scale(member, "late", 3).await;
    member.heal_pods()?;
    for pod in pods? {
        who(socket(&pod)?, "h", PATIENCE).await?;
    }
    scale(member, "late", 0).await?;
    Ok(())
}

async fn from_a_site(bed: Arc<Bed>) -> anyhow::Result<()> {
    let (member, site) = (bed.member(ASIA), bed.site("europe"));
    let pod = socket(&scale(member, "web", 9).await?.swap_remove(0))?;
    let unused = SocketAddr::from((member.cluster.net().zone_pods(0).broadcast(), 8080));
    let answer = site.inside(move || async move { who(pod, "h", PATIENCE).await }).await??;
    assert_eq!(answer.peer.ip(), site.address(), "the pod sees the site's own address");
    assert_eq!(site.inside(move || reach(unused, PATIENCE)).await?, Reach::Refused);

    member.partition_pods()?;
    let seen = site.inside(move || reach(pod, STALL)).await;
    member.heal_pods()?;
    assert_eq!(seen?, Reach::Stalled);
    site.inside(move || async move { who(pod, "h", PATIENCE).await }).await??;

    // A program in the site, not only a thread.
    let output = site.command("curl").args(["-sS", "-m", "10", &format!("http://{pod}/")]).output()?;
    assert!(String::from_utf8_lossy(&output.stdout).contains(ASIA), "{output:?}");
    Ok(())
}

async fn vip_is_separate(bed: Arc<Bed>) -> anyhow::Result<()> {
    let vip = SocketAddr::from((VIP, 80));
    let mut servers = Vec::new();
    for site in bed.sites() {
        let name = site.name().to_owned();
        let (listening, listens) = tokio::sync::oneshot::channel();
        // Answers one connection with the site's name.
        let serve = move || async move {
            let listener = TcpListener::bind(vip).await?;
            listening.send(()).ok();
            let (mut stream, _) = listener.accept().await?;
            stream.write_all(name.as_bytes()).await
        };
        let server = site.inside(serve);
        let client = async move {
            listens.await.context("the site's server did not start")?;
            let read = site.inside(move || async move {
                let mut text = String::new();
                TcpStream::connect(vip).await?.read_to_string(&mut text).await?;
                std::io::Result::Ok(text)
            });
            anyhow::Ok(read.await??)
        };
        servers.push(async move {
            let (served, text) = tokio::join!(server, client);
            served??;
            assert_eq!(text?, site.name());
            anyhow::Ok(())
        });
    }
    // All at once: the same address and port is bound in every site.
    tokio::time::timeout(PATIENCE, futures::future::try_join_all(servers)).await??;
    assert!(
        matches!(reach(vip, STALL).await, Reach::Failed(_) | Reach::Stalled),
        "the root namespace has no VIP"
    );
    Ok(())
}

async fn cut_site(bed: Arc<Bed>) -> anyhow::Result<()> {
    let (site, other) = (bed.site("asia"), bed.site("america"));
    let pod = socket(&scale(bed.member(ASIA), "web", 9).await?.swap_remove(0))?;
    let here = SocketAddr::from((site.address(), 9000));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (listening, listens) = tokio::sync::oneshot::channel();
    let serve = move || async move {
        let listener = TcpListener::bind(here).await?;
        listening.send(()).ok();
        let accept = async { while listener.accept().await.is_ok() {} };
        tokio::select! { () = accept => {}, _ = stopped => {} }
        std::io::Result::Ok(())
    };
    let look = async {
        listens.await.context("the site's server did not start")?;
        let inward = reach(here, STALL).await;
        let between = other.inside(move || reach(here, STALL)).await?;
        let outward = site.inside(move || reach(pod, STALL)).await?;
        anyhow::Ok([inward, between, outward])
    };
    let story = async {
        let before = {
            let (inward, between) = (reach(here, PATIENCE), other.inside(move || reach(here, PATIENCE)));
            // The listener may be a moment late.
            wait_until("the site to answer", SOON, async || {
                Ok((reach(here, PATIENCE).await == Reach::Open).then_some(()))
            })
            .await?;
            (inward.await, between.await?)
        };
        assert_eq!(before, (Reach::Open, Reach::Open));
        site.cut()?;
        let during = look.await;
        site.heal()?;
        assert_eq!(during?, [Reach::Stalled; 3], "into the site, from another site, out of the site");
        assert_eq!(reach(here, PATIENCE).await, Reach::Open);
        assert_eq!(site.inside(move || reach(pod, PATIENCE)).await?, Reach::Open);
        stop.send(()).ok();
        anyhow::Ok(())
    };
    let (served, told) = tokio::join!(site.inside(serve), story);
    told?;
    served??;
    Ok(())
}

async fn load_balancer(bed: Arc<Bed>) -> anyhow::Result<()> {
    let member = bed.member(AMERICA);
    scale(member, "web", 9).await?;
    let address = load_balancer_address(member, "web").await?;
    let mut answered = std::collections::BTreeSet::new();
    for _ in 0..9 {
        answered.insert(who(address, "h", PATIENCE).await?.identity.pod);
    }
    assert_eq!(answered.len(), 9, "it takes the pods in turn");
    scale(member, "web", 0).await?;
    wait_until("a refusal", SOON, async || {
        Ok((reach(address, PATIENCE).await == Reach::Refused).then_some(()))
    })
    .await?;
    scale(member, "web", 9).await?;
    wait_until("an answer", SOON, async || Ok(Some(who(address, "h", PATIENCE).await?))).await?;
    Ok(())
}

async fn foreign_ingress(bed: Arc<Bed>) -> anyhow::Result<()> {
    let member = bed.member(ASIA);
    scale(member, "web", 9).await?;
    let ingresses: Api<Ingress> = Api::default_namespaced(member.cluster.client());
    for (name, class) in [("theirs", Some("nginx")), ("ours", Some("meridian")), ("nobodys", None)] {
        let ingress = serde_json::from_value(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name},
            "spec": {"ingressClassName": class, "defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}},
        }))?;
        ingresses.create(&PostParams::default(), &ingress).await?;
    }
    let address = |ingress: Ingress| -> Option<String> {
        ingress.status?.load_balancer?.ingress?.into_iter().next()?.ip
    };
    let ip = wait_until("an address for the foreign Ingress", SOON, async || {
        Ok(address(ingresses.get("theirs").await?))
    })
    .await?;
    let target: SocketAddr = format!("{ip}:80").parse()?;
    let answer = wait_until("an answer", SOON, async || Ok(Some(who(target, "h", PATIENCE).await?))).await?;
    assert_eq!(answer.identity.cluster, ASIA);
    for name in ["ours", "nobodys"] {
        assert_eq!(address(ingresses.get(name).await?), None, "{name}");
    }
    for name in ["theirs", "ours", "nobodys"] {
        ingresses.delete(name, &DeleteParams::default()).await?;
    }
    Ok(())
}

async fn terminating_pod(bed: Arc<Bed>) -> anyhow::Result<()> {
    let member = bed.member(EUROPE);
    let pod = scale(member, "brief", 1).await?.swap_remove(0);
    let mut open = OpenFlow::start(socket(&pod)?).await?;
    assert!(!open.exchange(PATIENCE).await?.contains("connection: close"));
    let pods: Api<Pod> = Api::default_namespaced(member.cluster.client());
    pods.delete(&pod.name, &DeleteParams::default()).await?;
    wait_until("the pod to drain", SOON, async || {
        let asked = get(socket(&pod)?, "h", "/", PATIENCE).await?;
        ensure!(asked.status() == 200);
        Ok(pods_of(member, "brief").await?.iter().any(|p| p.name == pod.name && p.terminating).then_some(()))
    })
    .await
    .context("a terminating pod still accepts")?;
    let last = open.exchange(PATIENCE).await?;
    assert!(last.contains("connection: close"), "{last}");
    assert!(open.exchange(PATIENCE).await.is_err(), "the connection is closed after that");
    wait_until("a refusal", SOON, async || {
        Ok((reach(socket(&pod)?, PATIENCE).await == Reach::Refused).then_some(()))
    })
    .await?;
    scale(member, "brief", 0).await?;
    Ok(())
}

async fn withdrawn_late(bed: Arc<Bed>) -> anyhow::Result<()> {
    let member = bed.member(AMERICA);
    let pod = scale(member, "late", 1).await?.swap_remove(0);
    member.cluster.freeze_controllers()?;
    let frozen = async {
        let pods: Api<Pod> = Api::default_namespaced(member.cluster.client());
        pods.delete(&pod.name, &DeleteParams::default()).await?;
        // Twice as long as a pod drains: the slice still sends clients to it.
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            get(socket(&pod)?, "h", "/", PATIENCE).await.context("still listed, and does not answer")?;
        }
        anyhow::Ok(())
    }
    .await;
    member.cluster.thaw_controllers()?;
    frozen?;
    let refuses = async || Ok((reach(socket(&pod)?, PATIENCE).await == Reach::Refused).then_some(()));
    wait_until("a refusal once it is withdrawn", SOON, refuses).await?;
    scale(member, "late", 0).await?;
    Ok(())
}

async fn load_counts(bed: Arc<Bed>) -> anyhow::Result<()> {
    let (member, site) = (bed.member(ASIA), bed.site("asia"));
    let pod = socket(&scale(member, "web", 9).await?.swap_remove(0))?;
    for keep_alive in [false, true] {
        let plan = Plan { keep_alive, seconds: Some(2), ..Plan::new(pod, "h") };
        let load = Load::start(&plan, |program| site.command(program))?;
        sent(&load, 400).await?;
        let sum = load::total(&load.stop().await?);
        assert_eq!((sum.sent, sum.ok, sum.failed()), (400, 400, 0), "keep_alive={keep_alive} {sum:?}");
        assert_eq!(sum.by_cluster.get(ASIA), Some(&400));
    }
    let refused = Load::start(&Plan::new(SocketAddr::new(pod.ip(), 9), "h"), Command::new)?;
    sent(&refused, 1).await?;
    let sum = load::total(&refused.stop().await?);
    assert!(sum.sent > 0 && sum.errors == sum.sent, "{sum:?}");

    let failing = Plan { path: "/?status=503".into(), seconds: Some(1), ..Plan::new(pod, "h") };
    let failing = Load::start(&failing, Command::new)?;
    sent(&failing, 200).await?;
    let sum = load::total(&failing.stop().await?);
    assert_eq!((sum.non_2xx, sum.by_status.get(&503)), (200, Some(&200)), "{sum:?}");
    Ok(())
}

/// Waits until so many requests are reported.
async fn sent(load: &Load, wanted: u64) -> anyhow::Result<()> {
    wait_until(format!("{wanted} requests"), SOON, async || {
        let sent = load::total(&load.seconds()).sent;
        ensure!(sent >= wanted, "{sent} were sent");
        Ok(Some(()))
    })
    .await
}

async fn audit_log(bed: Arc<Bed>) -> anyhow::Result<()> {
    let cluster = &bed.member(AMERICA).cluster;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client_as("somebody").await?);
    let mark = cluster.audit().mark()?;
    let mine = |user: &str| user == "somebody";
    maps.list(&ListParams::default()).await?;
    let map = serde_json::from_value(json!({"metadata": {"name": "noted"}}))?;
    maps.create(&PostParams::default(), &map).await?;
    maps.delete("noted", &DeleteParams::default()).await?;
    let writes = wait_until("two lines", SOON, async || {
        let writes = cluster.audit().writes_since(mark, mine)?;
        Ok((writes.len() >= 2).then_some(writes))
    })
    .await?;
    let seen: Vec<_> =
        writes.iter().map(|w| (w.verb.as_str(), w.resource.as_str(), w.name.as_str(), w.code)).collect();
    assert_eq!(seen, [("create", "configmaps", "noted", 201), ("delete", "configmaps", "noted", 200)]);
    let after = cluster.audit().mark()?;
    assert_eq!(cluster.audit().writes_since(after, mine)?, []);
    Ok(())
}

async fn api_restart(bed: Arc<Bed>) -> anyhow::Result<()> {
    let member = bed.member(ASIA);
    let pod = socket(&scale(member, "web", 9).await?.swap_remove(0))?;
    member.cluster.stop_api()?;
    let stopped = async {
        assert_eq!(reach(member.cluster.api_address(), PATIENCE).await, Reach::Refused);
        who(pod, "h", PATIENCE).await.context("pods do not need the API server")
    }
    .await;
    member.cluster.start_api().await?;
    stopped?;
    // Controllers, kubelet and cloud find their way back by themselves.
    let pods = scale(member, "web", 10).await?;
    assert!(pods.iter().any(|p| p.address.is_some_and(|a| a == pod.ip())), "a pod was replaced");
    scale(member, "web", 9).await?;
    Ok(())
}

async fn proxied_api(bed: Arc<Bed>) -> anyhow::Result<()> {
    let member = bed.member(EUROPE);
    let context = format!("{EUROPE}.proxied");
    bed.kubectl(&context, &["get", "nodes"]).await?;
    member.proxy.stall();
    let stalled = bed.kubectl(&context, &["get", "nodes", "--request-timeout=1s"]).await;
    let direct = bed.kubectl(EUROPE, &["get", "nodes"]).await;
    member.proxy.heal();
    assert!(stalled.is_err(), "{stalled:?}");
    direct?;
    bed.kubectl(&context, &["get", "nodes"]).await?;
    Ok(())
}

async fn killed_program(bed: Arc<Bed>) -> anyhow::Result<()> {
    let mut nested = Nested::start(&bed, "killed").await?;
    let inner = nested.processes()?;
    assert!(inner.len() >= 4, "etcd, two of Kubernetes, and the program itself: {inner:?}");
    nested.outer.kill()?;
    nested.outer.wait()?;
    wait_until("its processes to be gone", SOON, async || {
        let left = nested.processes()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(Some(()))
    })
    .await
}

async fn interrupted_program(bed: Arc<Bed>) -> anyhow::Result<()> {
    let mut nested = Nested::start(&bed, "interrupted").await?;
    let id =
        i32::try_from(nested.outer.id()).ok().and_then(rustix::process::Pid::from_raw).context("an id")?;
    rustix::process::kill_process(id, rustix::process::Signal::INT)?;
    let status = wait_until("it to end", SOON, || {
        let status = nested.outer.try_wait();
        async move { Ok(status?) }
    })
    .await?;
    assert_eq!(status.code(), Some(130));
    assert_eq!(nested.processes()?, Vec::<String>::new());
    let left: Vec<_> = std::fs::read_dir(&nested.temporary)?.flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "files were left: {left:?}");
    Ok(())
}

/// A testbed in the testbed: only a hub.
struct Nested {
    outer: std::process::Child,
    temporary: std::path::PathBuf,
}

impl Nested {
    async fn start(bed: &Bed, name: &str) -> anyhow::Result<Self> {
        let temporary = bed.run().join(format!("nested-{name}"));
        std::fs::create_dir(&temporary)?;
        let log = bed.run().join(format!("nested-{name}.log"));
        let mut command = Command::new(meridian_tests::bed::binary("meridian-testbed")?);
        command.args(["up", "--members=0"]).env("TMPDIR", &temporary).stdin(Stdio::null());
        command
            .stdout(std::fs::File::create(&log)?)
            .stderr(std::fs::File::create(log.with_extension("err"))?);
        namespace::forget(&mut command);
        let nested = Self { outer: command.spawn()?, temporary };
        wait_until("the nested testbed", Duration::from_secs(90), async || {
            Ok(std::fs::read_to_string(&log)?.contains("ready in").then_some(()))
        })
        .await?;
        Ok(nested)
    }

    /// Those whose command line shows that they belong to it, and its own program.
    fn processes(&self) -> anyhow::Result<Vec<String>> {
        let mark = self.temporary.display().to_string();
        Ok(processes()?
            .into_iter()
            .filter(|line| line.contains(&mark) || line.contains("up --members=0"))
            .collect())
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        self.outer.kill().ok();
        self.outer.wait().ok();
    }
}

/// A keep-alive connection to a pod.
struct OpenFlow {
    stream: TcpStream,
}

impl OpenFlow {
    async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self { stream: TcpStream::connect(target).await? })
    }

    /// Sends a request and returns the answer's head.
    async fn exchange(&mut self, patience: Duration) -> anyhow::Result<String> {
        self.stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await?;
        self.read(patience).await
    }

    async fn read(&mut self, patience: Duration) -> anyhow::Result<String> {
        let mut bytes = vec![0; 16 * 1024];
        let n = tokio::time::timeout(patience, self.stream.read(&mut bytes)).await.context("no answer")??;
        ensure!(n > 0, "the connection was closed");
        Ok(String::from_utf8_lossy(&bytes[..n]).into_owned())
    }
}
