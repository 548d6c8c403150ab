//! Makes a cluster a member: an account with the rights it needs there, its token on the hub, and the object that
//! says so.

use std::io::Write;

use anyhow::{Context as _, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role as RbacRole, RoleBinding};
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Config, Resource};
use meridian_api::kubefed::{FederatedTypeConfig, KubeFedCluster};
use meridian_api::member_cluster::MemberCluster;
use meridian_controller::call::{self, within};
use meridian_controller::fleet::{kubeconfig_of, request_token};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::args::{HubArgs, Join, NetworkMode};
use crate::{clusters, rights};

/// Manager of the fields that this command sets.
const MANAGER: &str = "meridianctl";

/// Name of everything that a join creates in a member.
#[must_use]
pub fn account(member: &str) -> String {
    format!("meridian-{member}")
}

/// Name of the credentials Secret on the hub.
#[must_use]
pub fn secret(member: &str) -> String {
    format!("{member}-credentials")
}

/// Joins a cluster. Repeating it mends what is missing and renews the token.
///
/// # Errors
/// The step that failed, and why.
pub async fn run(hub_args: &HubArgs, args: Box<Join>, out: &mut dyn Write) -> anyhow::Result<()> {
    let hub = clusters::hub(hub_args).await?;
    let context = args.cluster_context.clone().unwrap_or_else(|| args.name.clone());
    let (member, config) = clusters::member(hub_args, &context).await?;
    let namespace = if args.kubefed { hub_args.kubefed_namespace.clone() } else { args.namespace.clone() };

    if args.error_on_existing && exists(&hub, hub_args, &args).await? {
        bail!("member {} exists already", args.name);
    }
    let targets = targets(&hub, &hub_args.kubefed_namespace).await?;
    let uid =
        cluster_uid(&member).await.with_context(|| format!("reading the cluster of context {context}"))?;
    refuse_twins(&hub, &args.name, &uid).await?;
    if args.dry_run {
        return describe(&args, &context, &namespace, out);
    }

    rights_in(&member, &args, &targets)
        .await
        .with_context(|| format!("preparing the cluster of context {context}"))?;
    writeln!(out, "account {}/{} is ready in context {context}", args.namespace, account(&args.name))?;
    let lifetime = i64::from(args.token_hours) * 3600;
    let (token, lease) = request_token(&member, &args.namespace, &account(&args.name), lifetime)
        .await
        .map_err(|e| anyhow::anyhow!("asking the member for a token: {}", e.message()))?;

    meridian_controller::hub::ensure_namespace(&hub, &namespace).await?;
    let url = args.endpoint.clone().unwrap_or_else(|| config.cluster_url.to_string());
    let ca = ca_of(&config);
    let data = if args.kubefed {
        json!({"token": ByteString(token.clone().into_bytes())})
    } else {
        let kubeconfig = kubeconfig_of(&url, ca.as_ref(), &token, config.accept_invalid_certs);
        let text = serde_saphyr::to_string(&serde_json::to_value(&kubeconfig)?)?;
        json!({"kubeconfig": ByteString(text.into_bytes())})
    };
    let credentials = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret(&args.name),
            "namespace": namespace,
            "annotations": lease.annotations(),
            "labels": {"meridian.io/member": args.name},
        },
        "data": data,
    });
    apply_in::<Secret>(&hub, &namespace, &credentials).await.context("writing the credentials on the hub")?;
    writeln!(
        out,
        "credentials {namespace}/{} are on the hub, valid until {}",
        secret(&args.name),
        lease.expires
    )?;
    if args.kubefed {
        let object = kubefed_cluster(&args, &namespace, &url, ca.as_ref(), config.accept_invalid_certs);
        apply_in::<KubeFedCluster>(&hub, &namespace, &object).await.context("writing the KubeFedCluster")?;
        writeln!(out, "kubefedcluster {namespace}/{} joined", args.name)?;
    } else {
        let object = member_cluster(&args, &namespace);
        apply::<MemberCluster>(&hub, &object).await.context("writing the MemberCluster")?;
        writeln!(out, "membercluster {} joined", args.name)?;
    }
    Ok(())
}

/// What a dry run says.
fn describe(args: &Join, context: &str, namespace: &str, out: &mut dyn Write) -> anyhow::Result<()> {
    let kind = if args.kubefed { "KubeFedCluster" } else { "MemberCluster" };
    let (account, own) = (account(&args.name), &args.namespace);
    writeln!(
        out,
        "in context {context}: namespace {own}, service account {own}/{account}, cluster role and binding {account}, role and binding {own}/{account}"
    )?;
    writeln!(
        out,
        "on the hub: namespace {namespace}, secret {namespace}/{}, {kind} {}",
        secret(&args.name),
        args.name
    )?;
    Ok(())
}

async fn exists(hub: &Client, hub_args: &HubArgs, args: &Join) -> anyhow::Result<bool> {
    let found = if args.kubefed {
        let api: Api<KubeFedCluster> = Api::namespaced(hub.clone(), &hub_args.kubefed_namespace);
        within(call::WRITE, api.get_opt(&args.name)).await.map(|o| o.is_some())
    } else {
        let api: Api<MemberCluster> = Api::all(hub.clone());
        within(call::WRITE, api.get_opt(&args.name)).await.map(|o| o.is_some())
    };
    found.map_err(|e| anyhow::anyhow!("looking for member {}: {}", args.name, e.message()))
}

/// Group and plural of the kinds that are federated on the hub.
async fn targets(hub: &Client, namespace: &str) -> anyhow::Result<Vec<(String, String)>> {
    let api: Api<FederatedTypeConfig> = Api::namespaced(hub.clone(), namespace);
    match within(call::LIST, api.list(&Default::default())).await {
        Ok(list) => {
            Ok(list.into_iter().map(|c| (c.spec.target_type.group, c.spec.target_type.plural_name)).collect())
        }
        Err(error) if error.is_not_found() => {
            bail!("the hub does not serve Meridian's kinds: run `meridianctl install` first")
        }
        Err(error) => bail!("reading FederatedTypeConfigs: {}", error.message()),
    }
}

async fn cluster_uid(member: &Client) -> anyhow::Result<String> {
    let api: Api<Namespace> = Api::all(member.clone());
    let system =
        within(call::WRITE, api.get("kube-system")).await.map_err(|e| anyhow::anyhow!("{}", e.message()))?;
    system.metadata.uid.context("kube-system has no UID")
}

/// One cluster under two names would be written twice, and each name would fight the other.
async fn refuse_twins(hub: &Client, name: &str, uid: &str) -> anyhow::Result<()> {
    let api: Api<MemberCluster> = Api::all(hub.clone());
    let list = within(call::LIST, api.list(&Default::default()))
        .await
        .map_err(|e| anyhow::anyhow!("reading MemberClusters: {}", e.message()))?;
    for other in list {
        let is_same = other.status.as_ref().and_then(|s| s.cluster_uid.as_deref()) == Some(uid);
        if let Some(other) = other.metadata.name.filter(|n| is_same && n != name) {
            bail!("this cluster is a member already, under the name {other}");
        }
    }
    Ok(())
}

async fn rights_in(member: &Client, args: &Join, targets: &[(String, String)]) -> anyhow::Result<()> {
    let (name, namespace) = (account(&args.name), args.namespace.as_str());
    meridian_controller::hub::ensure_namespace(member, namespace).await?;
    let subject = json!([{"kind": "ServiceAccount", "name": name, "namespace": namespace}]);
    let group = "rbac.authorization.k8s.io";
    let version = "rbac.authorization.k8s.io/v1";
    let metadata = json!({"name": name, "labels": {"meridian.io/member": args.name}});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata});
    apply_in::<ServiceAccount>(member, namespace, &account).await.context("service account")?;
    let rules = rights::rules(args.role, args.allow_escalation, targets);
    let role = json!({"apiVersion": version, "kind": "ClusterRole", "metadata": metadata, "rules": rules});
    apply::<ClusterRole>(member, &role).await.context("cluster role")?;
    let binding = json!({
        "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": metadata, "subjects": subject,
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
    });
    apply::<ClusterRoleBinding>(member, &binding).await.context("cluster role binding")?;
    let own = json!({"apiVersion": version, "kind": "Role", "metadata": metadata, "rules": [rights::renewal(&name)]});
    apply_in::<RbacRole>(member, namespace, &own).await.context("role")?;
    let binding = json!({
        "apiVersion": version, "kind": "RoleBinding", "metadata": metadata, "subjects": subject,
        "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
    });
    apply_in::<RoleBinding>(member, namespace, &binding).await.context("role binding")
}

/// Certificates of the context, as PEM.
fn ca_of(config: &Config) -> Option<ByteString> {
    use base64::Engine as _;
    let certificates = config.root_cert.as_ref()?;
    let mut pem = String::new();
    for der in certificates {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        for line in text.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    (!pem.is_empty()).then(|| ByteString(pem.into_bytes()))
}

fn labels(args: &Join) -> Value {
    args.labels
        .iter()
        .map(|(k, v)| (k.clone(), Value::from(v.clone())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn member_cluster(args: &Join, namespace: &str) -> Value {
    let mut spec = json!({
        "connection": {"secretRef": {"namespace": namespace, "name": secret(&args.name)}},
        "network": {"mode": match args.network_mode { NetworkMode::Flat => "Flat", NetworkMode::Gateway => "Gateway" }},
    });
    if let Some(region) = &args.region {
        spec["region"] = json!(region);
    }
    if !args.zones.is_empty() {
        spec["zones"] = json!(args.zones);
    }
    if let (Some(latitude), Some(longitude)) = (args.latitude, args.longitude) {
        spec["location"] = json!({"latitude": latitude, "longitude": longitude});
    }
    json!({
        "apiVersion": "meridian.io/v1alpha1",
        "kind": "MemberCluster",
        "metadata": {"name": args.name, "labels": labels(args)},
        "spec": spec,
    })
}

fn kubefed_cluster(
    args: &Join,
    namespace: &str,
    url: &str,
    ca: Option<&ByteString>,
    insecure: bool,
) -> Value {
    let mut spec = json!({"apiEndpoint": url, "secretRef": {"name": secret(&args.name)}});
    if let Some(ca) = ca {
        spec["caBundle"] = json!(ca);
    }
    if insecure {
        spec["disabledTLSValidations"] = json!(["*"]);
    }
    json!({
        "apiVersion": "core.kubefed.io/v1beta1",
        "kind": "KubeFedCluster",
        "metadata": {"name": args.name, "namespace": namespace, "labels": labels(args)},
        "spec": spec,
    })
}

/// Applies a cluster-scoped object.
async fn apply<K>(client: &Client, object: &Value) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
{
    put(&Api::<K>::all(client.clone()), object).await
}

/// Applies an object in a namespace.
async fn apply_in<K>(client: &Client, namespace: &str, object: &Value) -> anyhow::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    put(&Api::<K>::namespaced(client.clone(), namespace), object).await
}

async fn put<K>(api: &Api<K>, object: &(impl Serialize + std::fmt::Debug + Sync)) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
{
    let value = serde_json::to_value(object)?;
    let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let params = PatchParams::apply(MANAGER).force();
    within(call::WRITE, api.patch(&name, &params, &Patch::Apply(&value)))
        .await
        .map(|_| ())
        .map_err(|e| anyhow::anyhow!("{} {name}: {}", K::kind(&()), e.message()))
}
