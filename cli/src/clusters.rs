//! Clients of hub and members, from the contexts of a kubeconfig.

use anyhow::Context as _;
use kube::config::Config;
use kube::{Client, api::PostParams};
use meridian_controller::hub as controller_hub;

use crate::args::HubArgs;

/// Parameters of a create.
pub(crate) fn create() -> PostParams {
    PostParams { field_manager: Some("meridianctl".to_owned()), ..PostParams::default() }
}

/// A client of the hub.
///
/// # Errors
/// If the kubeconfig or its context cannot be used.
pub async fn hub(args: &HubArgs) -> anyhow::Result<Client> {
    let name = args.host_cluster_context.as_deref();
    let client = controller_hub::connect(args.kubeconfig.as_deref(), name).await;
    client.with_context(|| format!("connecting to the hub (context {})", name.unwrap_or("current")))
}

/// A client of a cluster by its context, and how it is reached.
///
/// # Errors
/// If the kubeconfig or its context cannot be used.
pub async fn member(args: &HubArgs, context: &str) -> anyhow::Result<(Client, Config)> {
    let of = || format!("connecting to the cluster of context {context}");
    let config = controller_hub::config(args.kubeconfig.as_deref(), Some(context)).await.with_context(of)?;
    let client = Client::try_from(config.clone()).with_context(of)?;
    Ok((client, config))
}
