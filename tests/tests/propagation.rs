//! Join and propagation on real API servers: what arrives, what is repaired, what is removed, and what is said.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::jiff::Timestamp;
use meridian_tests::bed::{Bed, BedSpec, HUB};
use meridian_tests::process::Process;
use meridian_tests::suite::{case, run};
use meridian_tests::wait::wait_until;
use serde_json::{Value, json};

const ASIA: &str = "asia-east1";
const EUROPE: &str = "europe-west1";
/// Long enough for a busy machine, short enough to notice that something hangs.
const SOON: Duration = Duration::from_secs(60);
/// How long silence must last to count.
const QUIET: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let default = BedSpec::default();
    let spec = BedSpec {
        members: default.members.into_iter().filter(|m| [ASIA, EUROPE].contains(&m.name.as_str())).collect(),
        sites: Vec::new(),
    };
    let cases = vec![
        case("joined_member_is_ready_and_says_which_cluster_it_is", joined),
        case("token_is_renewed_before_it_expires_and_nothing_is_written_for_it", renewed),
        case("federated_objects_arrive_with_their_overrides", arrive),
        case("drift_in_a_member_is_repaired", drift),
        case("changed_placement_prunes_and_the_selector_places", placement),
        case("unknown_cluster_and_bad_override_are_named_and_hinder_nobody", faults),
        case("template_that_fits_no_schema_is_said_once_per_member", malformed),
        case("object_marked_unmanaged_is_left_alone", unmanaged),
        case("wrong_certificate_and_exec_plugin_are_conditions_of_their_member_only", bad_members),
        case("object_deleted_while_its_member_is_away_is_removed_on_return", tombstone),
        case("orphaned_objects_stay", orphan),
        case("kubefed_cluster_of_the_same_name_yields_to_the_member_cluster", twin_names),
        case("killed_controller_converges_and_is_then_silent", killed),
        case("unjoined_member_keeps_its_objects_and_loses_our_rights", unjoined),
    ];
    run(spec, cases)
}

/// A controller on the hub, with both members joined.
struct Rig {
    bed: Arc<Bed>,
    controller: Process,
}

impl Rig {
    async fn start(bed: &Arc<Bed>) -> anyhow::Result<Self> {
        let rig = Self { bed: Arc::clone(bed), controller: controller(bed)? };
        wait_until("definitions", SOON, async || Ok(bed.kubectl(HUB, &["get", "memberclusters"]).await.ok()))
            .await?;
        for member in bed.members() {
            rig.call(&["join", member.name()]).await?;
            rig.until_ready(member.name()).await?;
        }
        Ok(rig)
    }

    /// Stops the controller tidily, so that the next one need not wait for the lease.
    async fn stop(mut self) -> anyhow::Result<()> {
        self.controller.terminate(Duration::from_secs(15)).await?;
        Ok(())
    }

    async fn call(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self
            .bed
            .call_binary("meridianctl", &[arguments, &["--host-cluster-context", HUB]].concat())
            .await?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "meridianctl {}: {error}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    async fn until_ready(&self, member: &str) -> anyhow::Result<Value> {
        wait_until(format!("{member} to be ready"), SOON, async || {
            let object = get(&self.bed, HUB, &["membercluster", member]).await?;
            Ok((condition(&object, "Ready")["status"] == "True").then_some(object))
        })
        .await
    }

    /// Applies a namespace that is federated everywhere, and what is in it.
    async fn apply(&self, namespace: &str, objects: &[Value]) -> anyhow::Result<()> {
        let mut all = vec![
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
            federated("Namespace", namespace, namespace, json!({"placement": {"clusterSelector": {}}})),
        ];
        all.extend_from_slice(objects);
        let text: Vec<String> = all.iter().map(ToString::to_string).collect();
        self.bed.apply(HUB, &text.join("\n---\n")).await.map(|_| ())
    }

    /// Waits until a federated object's status satisfies `check`, and returns it.
    async fn status(
        &self,
        type_: &str,
        namespace: &str,
        name: &str,
        what: &str,
        check: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        wait_until(format!("{type_} {namespace}/{name}: {what}"), SOON, async || {
            let object = get(&self.bed, HUB, &["-n", namespace, type_, name]).await?;
            ensure!(check(&object["status"]), "{}", object["status"]);
            Ok(Some(object["status"].clone()))
        })
        .await
    }
}

fn controller(bed: &Bed) -> anyhow::Result<Process> {
    let arguments = [
        format!("--kubeconfig={}", bed.kubeconfig().display()),
        format!("--context={HUB}"),
        "--install-crds".to_owned(),
        "--probe-interval-ms=500".to_owned(),
        "--lease-duration-s=5".to_owned(),
        "--admin-listen=127.0.0.1:0".to_owned(),
        "--feed-listen=127.0.0.1:0".to_owned(),
    ];
    bed.run_binary("meridian-controller", None, &arguments, "controller")
}

fn federated(kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "types.kubefed.io/v1beta1", "kind": format!("Federated{kind}"),
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    })
}

fn config_map(namespace: &str, name: &str, placement: Value) -> Value {
    federated("ConfigMap", namespace, name, json!({"template": {"data": {"k": "v"}}, "placement": placement}))
}

async fn get(bed: &Bed, context: &str, arguments: &[&str]) -> anyhow::Result<Value> {
    let text = bed.kubectl(context, &[&["get", "-o", "json"], arguments].concat()).await?;
    Ok(serde_json::from_str(&text)?)
}

fn condition<'a>(object: &'a Value, type_: &str) -> &'a Value {
    let list = object["status"]["conditions"].as_array();
    list.into_iter().flatten().find(|c| c["type"] == type_).unwrap_or(&Value::Null)
}

fn propagated(status: &Value) -> bool {
    status["conditions"][0]["status"] == "True"
}

fn of_cluster<'a>(status: &'a Value, cluster: &str) -> &'a Value {
    let list = status["clusters"].as_array();
    list.into_iter().flatten().find(|c| c["name"] == cluster).unwrap_or(&Value::Null)
}

/// Waits until an object in a member satisfies `check`.
async fn until(
    bed: &Bed,
    member: &str,
    arguments: &[&str],
    what: &str,
    check: impl Fn(&Value) -> bool,
) -> anyhow::Result<Value> {
    wait_until(format!("{} in {member}: {what}", arguments.join(" ")), SOON, async || {
        let object = get(bed, member, arguments).await?;
        Ok(check(&object).then_some(object))
    })
    .await
}

async fn until_gone(bed: &Bed, context: &str, arguments: &[&str]) -> anyhow::Result<()> {
    wait_until(format!("{} to be gone from {context}", arguments.join(" ")), SOON, async || {
        let text =
            bed.kubectl(context, &[&["get", "--ignore-not-found", "-o", "name"], arguments].concat()).await?;
        Ok(text.trim().is_empty().then_some(()))
    })
    .await
}

/// Asserts that nothing of ours is written in any member for a while, once it has been silent at all.
async fn silent(bed: &Bed) -> anyhow::Result<()> {
    wait_until(format!("{QUIET:?} without a write"), SOON, async || {
        let mut marks = Vec::new();
        for member in bed.members() {
            marks.push(member.cluster.audit().mark()?);
        }
        tokio::time::sleep(QUIET).await;
        for (member, mark) in bed.members().iter().zip(marks) {
            let writes = member.cluster.audit().writes_since(mark, |user| user.contains("meridian"))?;
            ensure!(writes.is_empty(), "{}: {writes:?}", member.name());
        }
        Ok(Some(()))
    })
    .await
}

async fn joined(bed: Arc<Bed>) -> anyhow::Result<()> {
    let rig = Rig::start(&bed).await?;
    let system = get(&bed, ASIA, &["namespace", "kube-system"]).await?;
    wait_until("region and zones of Asia", SOON, async || {
        let object = get(&bed, HUB, &["membercluster", ASIA]).await?;
        let status = &object["status"];
        ensure!(
            status["version"] == "v1.36.3" && status["clusterUID"] == system["metadata"]["uid"],
            "{status}"
        );
        ensure!(status["region"] == ASIA, "{status}");
        ensure!(
            status["zones"] == json!([format!("{ASIA}-a"), format!("{ASIA}-b"), format!("{ASIA}-c")]),
            "{status}"
        );
        Ok(Some(()))
    })
    .await?;
    // Times move only on transitions: nothing changes while nothing changes.
    let before = get(&bed, HUB, &["membercluster", ASIA]).await?["metadata"]["resourceVersion"].clone();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(get(&bed, HUB, &["membercluster", ASIA]).await?["metadata"]["resourceVersion"], before);
    let again = rig.call(&["join", ASIA, "--error-on-existing"]).await.expect_err("it exists");
    assert!(format!("{again:#}").contains("exists already"), "{again:#}");
    let twin =
        rig.call(&["join", "twin", "--cluster-context", ASIA]).await.expect_err("one cluster, two names");
    assert!(format!("{twin:#}").contains(ASIA), "{twin:#}");
    rig.stop().await
}

async fn renewed(bed: Arc<Bed>) -> anyhow::Result<()> {
    let rig = Rig::start(&bed).await?;
    rig.apply("renewed", &[config_map("renewed", "web", json!({"clusterSelector": {}}))]).await?;
    rig.status("federatedconfigmap", "renewed", "web", "propagated", propagated).await?;
    let name = format!("{ASIA}-credentials");
    let at = ["-n", "meridian-system", "secret", name.as_str()];
    let before = get(&bed, HUB, &at).await?;
    // A token of 50 minutes, 40 of which are over: two thirds, so it is due.
    let now = Timestamp::now().as_second();
    let issued = Timestamp::from_second(now - 2400)?.to_string();
    let expires = Timestamp::from_second(now + 600)?.to_string();
    let annotations = json!({"metadata": {"annotations": {
        "meridian.io/token-issued": issued, "meridian.io/token-expires": expires}}});
    let mark = bed.member(ASIA).cluster.audit().mark()?;
    let patch = ["-n", "meridian-system", "patch", "secret", name.as_str(), "--type=merge", "-p"];
    bed.kubectl(HUB, &[&patch[..], &[&annotations.to_string()]].concat()).await?;
    let after = until(&bed, HUB, &at, "a new token", |o| o["data"] != before["data"]).await?;
    assert_ne!(after["metadata"]["annotations"]["meridian.io/token-expires"], expires.as_str());
    rig.until_ready(ASIA).await?;
    // The new token works, and the member that came with it had nothing to write.
    let patch = json!({"spec": {"template": {"data": {"k": "new"}}}}).to_string();
    bed.kubectl(HUB, &["-n", "renewed", "patch", "federatedconfigmap", "web", "--type=merge", "-p", &patch])
        .await?;
    until(&bed, ASIA, &["-n", "renewed", "configmap", "web"], "edited", |o| o["data"]["k"] == "new").await?;
    let writes = bed.member(ASIA).cluster.audit().writes_since(mark, |user| user.contains("meridian"))?;
    let kinds: Vec<&str> = writes.iter().map(|w| w.resource.as_str()).collect();
    assert_eq!(kinds, ["serviceaccounts/token", "configmaps"], "{writes:?}");
    rig.stop().await
}

async fn arrive(bed: Arc<Bed>) -> anyhow::Result<()> {
    let rig = Rig::start(&bed).await?;
    let everywhere = json!({"clusterSelector": {}});
    let pods = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
        {"name": "c", "image": "echo", "resources": {}, "ports": [{"containerPort": 8080}]}]}});
    let deployment =
        json!({"spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": pods}});
    let service = json!({"spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
    let overrides = json!([{"clusterName": EUROPE, "clusterOverrides": [
        {"path": "/spec/replicas", "value": 3},
        {"op": "add", "path": "/metadata/annotations", "value": {"where": "europe"}}]}]);
    let objects = [
        config_map("arrive", "web", everywhere.clone()),
        federated(
            "Secret",
            "arrive",
            "web",
            json!({"template": {"stringData": {"k": "v"}}, "placement": everywhere}),
        ),
        federated(
            "Deployment",
            "arrive",
            "web",
            json!({"template": deployment, "placement": everywhere, "overrides": overrides}),
        ),
        federated("Service", "arrive", "web", json!({"template": service, "placement": everywhere})),
    ];
    rig.apply("arrive", &objects).await?;
    for type_ in ["federatedconfigmap", "federatedsecret", "federateddeployment", "federatedservice"] {
        let status = rig.status(type_, "arrive", "web", "propagated", propagated).await?;
        assert_eq!(status["clusters"].as_array().map(Vec::len), Some(2), "{status}");
    }
    for (member, replicas) in [(ASIA, 2), (EUROPE, 3)] {
        let found = get(&bed, member, &["-n", "arrive", "deployment", "web"]).await?;
        assert_eq!(found["spec"]["replicas"], replicas, "{member}");
        assert_eq!(found["metadata"]["labels"]["kubefed.io/managed"], "true");
        let secret = get(&bed, member, &["-n", "arrive", "secret", "web"]).await?;
        assert_eq!(secret["data"]["k"], "dg==");
    }
    let europe = get(&bed, EUROPE, &["-n", "arrive", "deployment", "web"]).await?;
    assert_eq!(europe["metadata"]["annotations"]["where"], "europe");
    let plan = rig.call(&["plan", "-n", "arrive", "federateddeployment/web"]).await?;
    assert_eq!(plan.matches("keep").count(), 2, "{plan}");
    silent(&bed).await?;
    rig.stop().await
}

async fn drift(bed: Arc<Bed>) -> anyhow::Result<()> {
    let rig = Rig::start(&bed).await?;
    rig.apply("drift", &[config_map("drift", "web", json!({"clusterSelector": {}}))]).await?;
    rig.status("federatedconfigmap", "drift", "web", "propagated", propagated).await?;
    let at = ["-n", "drift", "configmap", "web"];
    bed.kubectl(
        ASIA,
        &["-n", "drift", "patch", "configmap", "web", "-p", r#"{"data":{"k":"x","mine":"y"}}"#],
    )
    .await?;
    let repaired = until(&bed, ASIA, &at, "repaired", |o| o["data"]["k"] == "v").await?;
    assert_eq!(repaired["data"]["mine"], "y", "a field that nobody federates stays the member's");
    bed.kubectl(ASIA, &["-n", "drift", "delete", "configmap", "web"]).await?;
    until(&bed, ASIA, &at, "there again", |o| o["data"]["k"] == "v").await?;
    bed.kubectl(EUROPE, &["-n", "drift", "label", "configmap", "web", "kubefed.io/managed-"]).await?;
    until(&bed, EUROPE, &at, "labelled again", |o| o["metadata"]["labels"]["kubefed.io/managed"] == "true")
        .await?;
    silent(&bed).await?;
    rig.stop().await
}

async fn placement(bed: Arc<Bed>) -> anyhow::Result<()> {
    let rig = Rig::start(&bed).await?;
    bed.kubectl(HUB, &["label", "--overwrite", "membercluster", EUROPE, "tier=gold"]).await?;
    let gold = json!({"clusterSelector": {"matchLabels": {"tier": "gold"}}});
    rig.apply("placement", &[config_map("placement", "web", gold)]).await?;
    let at = ["-n", "placement", "configmap", "web"];
    until(&bed, EUROPE, &at, "placed", |_| true).await?;
    until_gone(&bed, ASIA, &at).await?;
    let asia = json!({"spec": {"placement": {"clusters": [{"name": ASIA}]}}}).to_string();
    bed.kubectl(HUB, &["-n", "placement", "patch", "federatedconfigmap", "web", "--type=merge", "-p", &asia])
        .await?;
    until(&bed, ASIA, &at, "placed", |_| true).await?;
    until_gone(&bed, EUROPE, &at).await?;
    bed.kubectl(HUB, &["-n", "placement", "delete", "federatednamespace", "placement"]).await?;
    until_gone(&bed, ASIA, &["namespace", "placement"]).await?;
    let reason = |s: &Value| s["conditions"][0]["reason"] == "NamespaceNotFederated";
    rig.status("federatedconfigmap", "placement", "web", "not federated", reason).await?;
    rig.stop().await
}

async fn faults(bed: Arc<Bed>) -> anyhow::Result<()> {
    let rig = Rig::start(&bed).await?;
    let unknown =
        config_map("faults", "unknown", json!({"clusters": [{"name": ASIA}, {"name": "atlantis"}]}));
    let mut bad = config_map("faults", "bad", json!({"clusterSelector": {}}));
    bad["spec"]["overrides"] =
        json!([{"clusterName": EUROPE, "clusterOverrides": [{"path": "/data/no/such", "value": 1}]}]);
    let selector = json!({"clusterSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}});
    rig.apply("faults", &[unknown, bad, config_map("faults", "selector", selector)]).await?;
    let told = |s: &Value| s["conditions"][0]["message"].as_str().is_some_and(|m| m.contains("atlantis"));
    let status = rig.status("federatedconfigmap", "faults", "unknown", "names atlantis", told).await?;
    assert_eq!(status["conditions"][0]["reason"], "CheckClusters");
    until(&bed, ASIA, &["-n", "faults", "configmap", "unknown"], "placed", |_| true).await?;
    let told = |s: &Value| of_cluster(s, EUROPE)["status"] == "ApplyOverridesFailed";
    let status = rig.status("federatedconfigmap", "faults", "bad", "names the override", told).await?;
    let message = of_cluster(&status, EUROPE)["message"].as_str().unwrap_or_default();
    assert!(message.contains(EUROPE) && message.contains("/data/no/such"), "{message}");
    until(&bed, ASIA, &["-n", "faults", "configmap", "bad"], "placed", |_| true).await?;
    let told = |s: &Value| s["conditions"][0]["reason"] == "ComputePlacementFailed";
    let status = rig.status("federatedconfigmap", "faults", "selector", "names the operator", told).await?;
    assert!(
        status["conditions"][0]["message"]
            .as_str()
            .is_some_and(|m| m.contains("matchExpressions[0].operator"))
    );
    rig.stop().await
}

async fn malformed(bed: Arc<Bed>) -> anyhow::Result<()> {
    let rig = Rig::start(&bed).await?;
    let spec = json!({"template": {"spec": {"replicas": "three"}}, "placement": {"clusterSelector": {}}});
    rig.apply("malformed", &[federated("Deployment", "malformed", "web", spec)]).await?;
    let told = |s: &Value| of_cluster(s, ASIA)["status"] == "CreationFailed";
    let status = rig.status("federateddeployment", "malformed", "web", "names the field", told).await?;
    let message = of_cluster(&status, ASIA)["message"].as_str().unwrap_or_default();
    assert!(message.contains(".spec.replicas"), "{message}");
    // What cannot succeed is not tried again and again; but once by every controller that starts, so it must not be
    // left to the cases that follow.
    silent(&bed).await?;
    bed.kubectl(HUB, &["-n", "malformed", "delete", "federateddeployment", "web", "--timeout=30s"]).await?;
    rig.stop().await
}

async fn unmanaged(bed: Arc<Bed>) -> anyhow::Result<()> {
    let rig = Rig::start(&bed).await?;
    rig.apply("unmanaged", &[]).await?;
    until(&bed, ASIA, &["namespace", "unmanaged"], "placed", |_| true).await?;
    let own = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "mine"}, "metadata":
        {"name": "web", "namespace": "unmanaged", "labels": {"kubefed.io/managed": "false"}}});
    let adopted = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "mine"}, "metadata":
        {"name": "adopted", "namespace": "unmanaged"}});
    bed.apply(ASIA, &format!("{own}\n---\n{adopted}")).await?;
    let everywhere = json!({"clusterSelector": {}});
    let objects =
        [config_map("unmanaged", "web", everywhere.clone()), config_map("unmanaged", "adopted", everywhere)];
    rig.apply("unmanaged", &objects).await?;
    let told = |s: &Value| of_cluster(s, ASIA)["status"] == "ManagedLabelFalse";
    rig.status("federatedconfigmap", "unmanaged", "web", "left alone", told).await?;
    let left = get(&bed, ASIA, &["-n", "unmanaged", "configmap", "web"]).await?;
    assert_eq!(left["data"]["k"], "mine");
    until(&bed, ASIA, &["-n", "unmanaged", "configmap", "adopted"], "taken over", |o| o["data"]["k"] == "v")
        .await?;
    bed.kubectl(HUB, &["-n", "unmanaged", "delete", "federatedconfigmap", "web", "--timeout=30s"]).await?;
    get(&bed, ASIA, &["-n", "unmanaged", "configmap", "web"]).await.context("what is not ours stays")?;
    rig.stop().await
}

async fn bad_members(bed: Arc<Bed>) -> anyhow::Result<()> {
    let rig = Rig::start(&bed).await?;
    let server = format!("https://{}", bed.member(ASIA).cluster.api_address());
    // The hub's own serving certificate is signed, but not by this authority.
    let stranger = rcgen::generate_simple_self_signed(["stranger".to_owned()])?.cert.pem();
    let kubeconfig = |cluster: Value, user: Value| {
        json!({"apiVersion": "v1", "kind": "Config", "current-context": "a",
            "clusters": [{"name": "a", "cluster": cluster}], "users": [{"name": "a", "user": user}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}]})
        .to_string()
    };
    let wrong_ca = json!({"server": server, "certificate-authority-data": base64(stranger.as_bytes())});
    let exec = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "id"}});
    let members = [
        ("wrong-ca", kubeconfig(wrong_ca, json!({"token": "t"}))),
        ("exec", kubeconfig(json!({"server": server}), exec)),
    ];
    for (name, text) in members {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"kubeconfig": text},
            "metadata": {"name": name, "namespace": "meridian-system"}});
        let member = json!({"apiVersion": "meridian.io/v1alpha1", "kind": "MemberCluster", "metadata": {"name": name},
            "spec": {"connection": {"secretRef": {"namespace": "meridian-system", "name": name}}}});
        bed.apply(HUB, &format!("{secret}\n---\n{member}")).await?;
    }
    let object = until(&bed, HUB, &["membercluster", "wrong-ca"], "offline", |o| {
        condition(o, "Offline")["status"] == "True"
    })
    .await?;
    assert_eq!(condition(&object, "Ready")["reason"], "CertificateInvalid");
    let object = until(&bed, HUB, &["membercluster", "exec"], "malformed", |o| {
        condition(o, "ConfigMalformed")["status"] == "True"
    })
    .await?;
    let message = condition(&object, "ConfigMalformed")["message"].as_str().unwrap_or_default();
    assert!(message.contains("users[a].user.exec"), "{message}");
    // Neither hinders the others.
    rig.apply("besides", &[config_map("besides", "web", json!({"clusterSelector": {}}))]).await?;
    until(&bed, ASIA, &["-n", "besides", "configmap", "web"], "placed", |_| true).await?;
    let told = |s: &Value| {
        of_cluster(s, "exec")["status"] == "ClusterNotReady" && s["clusters"][0]["status"].is_null()
    };
    rig.status("federatedconfigmap", "besides", "web", "names the members that are not ready", told).await?;
    bed.kubectl(HUB, &["delete", "membercluster", "wrong-ca", "exec"]).await?;
    rig.status("federatedconfigmap", "besides", "web", "propagated", propagated).await?;
    rig.stop().await
}

async fn tombstone(bed: Arc<Bed>) -> anyhow::Result<()> {
    let rig = Rig::start(&bed).await?;
    let everywhere = json!({"clusterSelector": {}});
    let objects = [config_map("tomb", "web", everywhere.clone()), config_map("tomb", "stays", everywhere)];
    rig.apply("tomb", &objects).await?;
    rig.status("federatedconfigmap", "tomb", "web", "propagated", propagated).await?;
    rig.status("federatedconfigmap", "tomb", "stays", "propagated", propagated).await?;
    bed.member(EUROPE).cluster.stop_api()?;
    until(&bed, HUB, &["membercluster", EUROPE], "offline", |o| condition(o, "Offline")["status"] == "True")
        .await?;
    bed.kubectl(HUB, &["-n", "tomb", "delete", "federatedconfigmap", "web", "--timeout=30s"]).await?;
    until_gone(&bed, ASIA, &["-n", "tomb", "configmap", "web"]).await?;
    let ledger = get(&bed, HUB, &["memberledger", EUROPE]).await?;
    assert_eq!(ledger["spec"]["entries"][0]["name"], "web");
    let patch = json!({"spec": {"template": {"data": {"k": "new"}}}}).to_string();
    bed.kubectl(HUB, &["-n", "tomb", "patch", "federatedconfigmap", "stays", "--type=merge", "-p", &patch])
        .await?;
    let told = |s: &Value| of_cluster(s, EUROPE)["status"] == "ClusterNotReady";
    rig.status("federatedconfigmap", "tomb", "stays", "waits for Europe", told).await?;
    // A tombstone must survive the controller.
    rig.stop().await?;
    bed.member(EUROPE).cluster.start_api().await?;
    let rig = Rig::start(&bed).await?;
    until_gone(&bed, EUROPE, &["-n", "tomb", "configmap", "web"]).await?;
    until(&bed, EUROPE, &["-n", "tomb", "configmap", "stays"], "edited", |o| o["data"]["k"] == "new").await?;
    until_gone(&bed, HUB, &["memberledger", EUROPE]).await?;
    rig.stop().await
}

async fn orphan(bed: Arc<Bed>) -> anyhow::Result<()> {
    let rig = Rig::start(&bed).await?;
    rig.apply("orphan", &[config_map("orphan", "web", json!({"clusterSelector": {}}))]).await?;
    rig.status("federatedconfigmap", "orphan", "web", "propagated", propagated).await?;
    bed.kubectl(HUB, &["-n", "orphan", "annotate", "federatedconfigmap", "web", "kubefed.io/orphan=true"])
        .await?;
    bed.kubectl(HUB, &["-n", "orphan", "delete", "federatedconfigmap", "web", "--timeout=30s"]).await?;
    for member in [ASIA, EUROPE] {
        let left = get(&bed, member, &["-n", "orphan", "configmap", "web"]).await?;
        assert_eq!(left["data"]["k"], "v");
        assert!(left["metadata"]["labels"]["kubefed.io/managed"].is_null());
    }
    rig.stop().await
}

async fn twin_names(bed: Arc<Bed>) -> anyhow::Result<()> {
    let rig = Rig::start(&bed).await?;
    let twin = json!({"apiVersion": "core.kubefed.io/v1beta1", "kind": "KubeFedCluster",
        "metadata": {"name": ASIA, "namespace": "kube-federation-system"},
        "spec": {"apiEndpoint": "https://192.0.2.1", "secretRef": {"name": "none"}}});
    bed.apply(HUB, &twin.to_string()).await?;
    let at = ["-n", "kube-federation-system", "kubefedcluster", ASIA];
    let object = until(&bed, HUB, &at, "refused", |o| condition(o, "Accepted")["status"] == "False").await?;
    assert_eq!(condition(&object, "Accepted")["reason"], "NameTaken");
    assert_eq!(condition(&get(&bed, HUB, &["membercluster", ASIA]).await?, "Ready")["status"], "True");
    bed.kubectl(HUB, &["-n", "kube-federation-system", "delete", "kubefedcluster", ASIA]).await?;
    rig.stop().await
}

async fn killed(bed: Arc<Bed>) -> anyhow::Result<()> {
    const OBJECTS: usize = 200;
    let mut rig = Rig::start(&bed).await?;
    let objects: Vec<Value> = (0..OBJECTS)
        .map(|i| config_map("killed", &format!("c{i}"), json!({"clusterSelector": {}})))
        .collect();
    let count = async |member: &str| -> anyhow::Result<usize> {
        Ok(bed
            .kubectl(
                member,
                &["-n", "killed", "get", "configmap", "-l", "kubefed.io/managed=true", "-o", "name"],
            )
            .await?
            .lines()
            .count())
    };
    let applying = rig.apply("killed", &objects);
    let killing = wait_until("the first objects", SOON, async || {
        Ok((count(ASIA).await.unwrap_or_default() > 5).then_some(()))
    });
    let (applied, begun) = tokio::join!(applying, killing);
    applied?;
    begun?;
    rig.controller.kill9()?;
    let rig = Rig { bed: Arc::clone(&bed), controller: controller(&bed)? };
    for member in [ASIA, EUROPE] {
        wait_until(format!("all objects in {member}"), SOON, async || {
            let count = count(member).await?;
            ensure!(count == OBJECTS, "{count} are there");
            Ok(Some(()))
        })
        .await?;
    }
    silent(&bed).await?;
    // A restart finds everything as it should be, and says so by writing nothing.
    rig.stop().await?;
    let mut marks = Vec::new();
    for member in bed.members() {
        marks.push(member.cluster.audit().mark()?);
    }
    let rig = Rig { bed: Arc::clone(&bed), controller: controller(&bed)? };
    rig.until_ready(ASIA).await?;
    tokio::time::sleep(QUIET).await;
    for (member, mark) in bed.members().iter().zip(marks) {
        let writes = member.cluster.audit().writes_since(mark, |user| user.contains("meridian"))?;
        ensure!(writes.is_empty(), "a restart wrote to {}: {writes:?}", member.name());
    }
    rig.stop().await
}

async fn unjoined(bed: Arc<Bed>) -> anyhow::Result<()> {
    let rig = Rig::start(&bed).await?;
    rig.apply("unjoin", &[config_map("unjoin", "web", json!({"clusterSelector": {}}))]).await?;
    rig.status("federatedconfigmap", "unjoin", "web", "propagated", propagated).await?;
    rig.call(&["unjoin", EUROPE]).await?;
    let account = format!("meridian-{EUROPE}");
    for (type_, context) in [("clusterrole", EUROPE), ("clusterrolebinding", EUROPE)] {
        until_gone(&bed, context, &[type_, &account]).await?;
    }
    until_gone(&bed, HUB, &["membercluster", EUROPE]).await?;
    until_gone(&bed, HUB, &["-n", "meridian-system", "secret", &format!("{EUROPE}-credentials")]).await?;
    get(&bed, EUROPE, &["-n", "unjoin", "configmap", "web"]).await.context("the object stays")?;
    let told = |s: &Value| propagated(s) && s["clusters"].as_array().is_some_and(|c| c.len() == 1);
    rig.status("federatedconfigmap", "unjoin", "web", "in Asia alone", told).await?;
    // A member that cannot be reached is refused without --force and leaves with it.
    bed.member(ASIA).cluster.stop_api()?;
    let refused = rig.call(&["unjoin", ASIA]).await.expect_err("the member is dead");
    assert!(format!("{refused:#}").contains("--force"), "{refused:#}");
    rig.call(&["unjoin", ASIA, "--force"]).await?;
    until_gone(&bed, HUB, &["membercluster", ASIA]).await?;
    bed.member(ASIA).cluster.start_api().await?;
    rig.stop().await
}

/// Standard base64 with padding.
fn base64(data: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(data)
}
