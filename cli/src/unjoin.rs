//! Takes a member out of the fleet: the hub's object first, so that nothing is written to it any more, then what the
//! join created. Objects that were propagated stay in the member as they are.

use std::io::Write;

use anyhow::bail;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::DeleteParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use meridian_api::kubefed::KubeFedCluster;
use meridian_api::member_cluster::MemberCluster;
use meridian_api::member_ledger::MemberLedger;
use meridian_controller::call::{self, CallError, within};
use serde::de::DeserializeOwned;

use crate::args::{HubArgs, Unjoin};
use crate::clusters;
use crate::join::{account, secret};

/// Unjoins a member. What is gone already counts as done, so it can be repeated.
///
/// # Errors
/// The step that failed, and why; a member that cannot be reached only without `--force`.
pub async fn run(hub_args: &HubArgs, args: Unjoin, out: &mut dyn Write) -> anyhow::Result<()> {
    let hub = clusters::hub(hub_args).await?;
    let context = args.cluster_context.clone().unwrap_or_else(|| args.name.clone());
    let namespace = if args.kubefed { hub_args.kubefed_namespace.clone() } else { args.namespace.clone() };
    if args.dry_run {
        let kind = if args.kubefed { "KubeFedCluster" } else { "MemberCluster" };
        writeln!(
            out,
            "on the hub: delete {kind} {}, its ledger, secret {namespace}/{}",
            args.name,
            secret(&args.name)
        )?;
        writeln!(out, "in context {context}: delete account, roles and bindings {}", account(&args.name))?;
        return Ok(());
    }
    // Before anything is undone: without --force a dead member must leave everything as it is.
    let member = match reach(hub_args, &context).await {
        Ok(client) => Some(client),
        Err(error) if args.force => {
            writeln!(out, "the member cannot be reached, what is in it stays behind: {error:#}")?;
            None
        }
        Err(error) => bail!("{error:#}; use --force to leave what is in the member behind"),
    };
    if args.kubefed {
        remove_in::<KubeFedCluster>(&hub, &namespace, &args.name, out).await?;
    } else {
        remove::<MemberCluster>(&hub, &args.name, out).await?;
    }
    remove::<MemberLedger>(&hub, &args.name, out).await?;
    remove_in::<Secret>(&hub, &namespace, &secret(&args.name), out).await?;
    if let Some(member) = member {
        let name = account(&args.name);
        remove::<ClusterRoleBinding>(&member, &name, out).await?;
        remove::<ClusterRole>(&member, &name, out).await?;
        remove_in::<RoleBinding>(&member, &args.namespace, &name, out).await?;
        remove_in::<Role>(&member, &args.namespace, &name, out).await?;
        remove_in::<ServiceAccount>(&member, &args.namespace, &name, out).await?;
    }
    writeln!(out, "member {} left the fleet", args.name)?;
    Ok(())
}

/// A client of the member that has answered once.
async fn reach(hub_args: &HubArgs, context: &str) -> anyhow::Result<Client> {
    let (client, _) = clusters::member(hub_args, context).await?;
    within(call::PROBE, client.apiserver_version())
        .await
        .map_err(|e| anyhow::anyhow!("reaching the cluster of context {context}: {}", e.message()))?;
    Ok(client)
}

async fn remove<K>(client: &Client, name: &str, out: &mut dyn Write) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
{
    take_away(Api::<K>::all(client.clone()), name, out).await
}

async fn remove_in<K>(client: &Client, namespace: &str, name: &str, out: &mut dyn Write) -> anyhow::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    take_away(Api::<K>::namespaced(client.clone(), namespace), name, out).await
}

async fn take_away<K>(api: Api<K>, name: &str, out: &mut dyn Write) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
{
    let kind = K::kind(&());
    let result: Result<_, CallError> = within(call::WRITE, api.delete(name, &DeleteParams::default())).await;
    match result {
        Ok(_) => writeln!(out, "{kind} {name} deleted")?,
        Err(error) if error.is_not_found() => {}
        Err(error) => bail!("deleting {kind} {name}: {}", error.message()),
    }
    Ok(())
}
