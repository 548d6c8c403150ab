//! The hub: connecting to it, and installing the kinds that Meridian serves.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt as _};
use meridian_api::kubefed::{FederatedTypeConfig, default_type_configs};
use meridian_api::names::FIELD_MANAGER;
use serde_json::json;

use crate::call::{self, CallError, causes, patiently, within};

/// How long a connect to the hub may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long definitions may take to be served after they were applied.
const ESTABLISHED: Duration = Duration::from_secs(30);

/// Why the hub cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be read or does not name the context.
    #[error("reading the hub's kubeconfig: {message}")]
    Kubeconfig {
        /// What is wrong.
        message: String,
    },
    /// No client can be made of it.
    #[error("building the hub's client: {message}")]
    Client {
        /// What is wrong.
        message: String,
    },
    /// A call failed.
    #[error("{step}: {}", source.message())]
    Call {
        /// What was being done.
        step: String,
        /// The failure.
        #[source]
        source: CallError,
    },
    /// Definitions were applied but are not served.
    #[error("definition {name} is not established after {} s", ESTABLISHED.as_secs())]
    NotEstablished {
        /// Name of the definition.
        name: String,
    },
}

/// The client configuration of the hub: a kubeconfig file, else the cluster that the process runs in, else the
/// default kubeconfig.
///
/// # Errors
/// [`Error::Kubeconfig`].
pub async fn config(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Config, Error> {
    let wrong = |message: String| Error::Kubeconfig { message };
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|e| wrong(causes(&e)))?;
            Config::from_custom_kubeconfig(file, &options).await.map_err(|e| wrong(causes(&e)))?
        }
        None if context.is_some() => {
            Config::from_kubeconfig(&options).await.map_err(|e| wrong(causes(&e)))?
        }
        None => Config::infer().await.map_err(|e| wrong(causes(&e)))?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.default_retry = false;
    Ok(config)
}

/// A client of the hub, as [`config`].
///
/// # Errors
/// [`Error::Kubeconfig`], [`Error::Client`].
pub async fn connect(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Client, Error> {
    let config = config(kubeconfig, context).await?;
    Client::try_from(config).map_err(|e| Error::Client { message: causes(&e) })
}

/// Applies every definition and the default FederatedTypeConfigs, and creates the namespaces that they live in.
/// Idempotent; a FederatedTypeConfig that exists is left as it is, because people switch kinds off there.
///
/// # Errors
/// [`Error::Call`], [`Error::NotEstablished`].
pub async fn install(hub: &Client, namespaces: &[&str], kubefed_namespace: &str) -> Result<(), Error> {
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let crds: Api<CustomResourceDefinition> = Api::all(hub.clone());
    for crd in meridian_api::crds::all() {
        let name = crd.name_any();
        let patch = Patch::Apply(&crd);
        patiently(ESTABLISHED, || crds.patch(&name, &params, &patch))
            .await
            .map_err(|source| Error::Call { step: format!("applying definition {name}"), source })?;
    }
    for crd in meridian_api::crds::all() {
        established(&crds, &crd.name_any()).await?;
    }
    for namespace in namespaces.iter().chain(std::iter::once(&kubefed_namespace)) {
        ensure_namespace(hub, namespace).await?;
    }
    let configs: Api<FederatedTypeConfig> = Api::namespaced(hub.clone(), kubefed_namespace);
    for config in default_type_configs() {
        let name = config.name_any();
        let step = || format!("creating FederatedTypeConfig {name}");
        let there = patiently(ESTABLISHED, || configs.get_opt(&name))
            .await
            .map_err(|source| Error::Call { step: step(), source })?;
        if there.is_none() {
            let patch = Patch::Apply(&config);
            patiently(ESTABLISHED, || configs.patch(&name, &params, &patch))
                .await
                .map_err(|source| Error::Call { step: step(), source })?;
        }
    }
    Ok(())
}

/// Creates a namespace if it does not exist.
///
/// # Errors
/// [`Error::Call`].
pub async fn ensure_namespace(cluster: &Client, name: &str) -> Result<(), Error> {
    let api: Api<Namespace> = Api::all(cluster.clone());
    let failed = |source| Error::Call { step: format!("creating namespace {name}"), source };
    if within(call::WRITE, api.get_opt(name)).await.map_err(failed)?.is_some() {
        return Ok(());
    }
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let params = PatchParams::apply(FIELD_MANAGER).force();
    within(call::WRITE, api.patch(name, &params, &Patch::Apply(&body))).await.map(|_| ()).map_err(failed)
}

async fn established(crds: &Api<CustomResourceDefinition>, name: &str) -> Result<(), Error> {
    let condition = kube::runtime::conditions::is_crd_established();
    let waiting = kube::runtime::wait::await_condition(crds.clone(), name, condition);
    match tokio::time::timeout(ESTABLISHED, waiting).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(Error::NotEstablished { name: name.to_owned() }),
    }
}
