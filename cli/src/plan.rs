//! Shows what would be created, changed and deleted, and where. The same function that the controller decides by.

use std::io::Write;

use anyhow::{Context as _, bail};
use kube::Api;
use kube::core::DynamicObject;
use meridian_controller::call::{self, within};
use meridian_controller::propagate::{Key, Kind, Wrapper, preview};

use crate::args::{HubArgs, Plan};
use crate::clusters;

/// Prints the plan of one object.
///
/// # Errors
/// If the hub cannot be read, the object does not exist, or it cannot be planned.
pub async fn run(hub_args: &HubArgs, args: Plan, out: &mut dyn Write) -> anyhow::Result<()> {
    let hub = clusters::hub(hub_args).await?;
    let kinds = preview::kinds(&hub, &hub_args.kubefed_namespace).await?;
    let (kind, key, spec) = match (&args.file, &args.object) {
        (Some(path), _) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            let object: DynamicObject = serde_saphyr::from_str(&text)
                .with_context(|| format!("{} is not a manifest", path.display()))?;
            let types = object.types.clone().context("the manifest has no kind")?;
            let kind = kinds
                .iter()
                .find(|k| k.federated.kind == types.kind && k.federated.api_version == types.api_version)
                .with_context(|| format!("{} {} is not federated here", types.api_version, types.kind))?;
            let name = object.metadata.name.clone().context("the manifest has no name")?;
            let namespace = object.metadata.namespace.clone().unwrap_or_else(|| args.namespace.clone());
            (kind, key(kind, &namespace, &name), Wrapper::of(&object).spec)
        }
        (None, Some(reference)) => {
            let (type_, name) = reference.split_once('/').context("the object must be TYPE/NAME")?;
            let kind = kinds
                .iter()
                .find(|k| is_named(k, type_))
                .with_context(|| format!("{type_} is not a federated type; known: {}", names(&kinds)))?;
            let api: Api<DynamicObject> = Api::namespaced_with(hub.clone(), &args.namespace, &kind.federated);
            let object = within(call::WRITE, api.get(name))
                .await
                .map_err(|e| anyhow::anyhow!("reading {reference} in {}: {}", args.namespace, e.message()))?;
            (kind, key(kind, &args.namespace, name), Wrapper::of(&object).spec)
        }
        (None, None) => bail!("name an object or a file"),
    };
    let shown = preview::preview(&hub, &hub_args.kubefed_namespace, &kinds, kind, &key, &spec).await?;
    writeln!(out, "{} {}/{} -> {}", kind.federated.kind, key.namespace, key.name, kind.target.kind)?;
    if let Some(problem) = &shown.problem {
        writeln!(out, "  {problem}")?;
    }
    let width = shown.effects.keys().map(|c| c.as_str().len()).max().unwrap_or(0);
    for (cluster, effect) in &shown.effects {
        writeln!(out, "  {:width$}  {effect}", cluster.as_str())?;
    }
    if shown.effects.is_empty() {
        writeln!(out, "  nothing anywhere")?;
    }
    Ok(())
}

fn key(kind: &Kind, namespace: &str, name: &str) -> Key {
    Key { kind: kind.name.clone(), namespace: namespace.into(), name: name.into() }
}

/// Whether a type was meant by kind, plural or singular of the wrapper, or by name of its FederatedTypeConfig.
fn is_named(kind: &Kind, text: &str) -> bool {
    let text = text.to_lowercase();
    text == kind.federated.kind.to_lowercase() || text == kind.federated.plural || text == *kind.name
}

fn names(kinds: &[Kind]) -> String {
    kinds.iter().map(|k| k.federated.plural.as_str()).collect::<Vec<_>>().join(", ")
}
