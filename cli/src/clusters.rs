//! Clients of hub and members, from the contexts of a kubeconfig.

use anyhow::Context as _;
use kube::Client;
use kube::config::Config;
use meridian_controller::hub as controller_hub;

use crate::args::HubArgs;

/// A client of the hub.
///
/// # Errors
/// If the kubeconfig or its context cannot be used.
pub async fn hub(args: &HubArgs) -> anyhow::Result<Client> {
    let name = args.host_cluster_context.as_deref();
    let of = || format!("connecting to the hub (context {})", name.unwrap_or("current"));
    let config = controller_hub::config(args.kubeconfig.as_deref(), name).await.with_context(of)?;
    client(config).with_context(of)
}

/// A client of a cluster by its context, and how it is reached.
///
/// # Errors
/// If the kubeconfig or its context cannot be used.
pub async fn member(args: &HubArgs, context: &str) -> anyhow::Result<(Client, Config)> {
    let of = || format!("connecting to the cluster of context {context}");
    let config = controller_hub::config(args.kubeconfig.as_deref(), Some(context)).await.with_context(of)?;
    Ok((client(config.clone()).with_context(of)?, config))
}

/// A client that asks a busy server again: a command has nobody who would repeat it, and every call of it has a
/// deadline that bounds the retries.
fn client(mut config: Config) -> Result<Client, kube::Error> {
    config.default_retry = true;
    Client::try_from(config)
}
