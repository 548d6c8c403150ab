//! Shows the fleet as the hub sees it.

use std::io::Write;

use kube::Api;
use kube::api::ListParams;
use meridian_api::kubefed::KubeFedCluster;
use meridian_api::member_cluster::MemberCluster;
use meridian_controller::call::{self, within};

use crate::args::{Get, HubArgs, What};
use crate::clusters;

/// One line of the table.
struct Row {
    name: String,
    kind: &'static str,
    ready: String,
    region: String,
    version: String,
    message: String,
}

/// Prints what was asked for.
///
/// # Errors
/// If the hub cannot be read.
pub async fn run(hub_args: &HubArgs, args: Get, out: &mut dyn Write) -> anyhow::Result<()> {
    match args.what {
        What::Clusters => {
            let rows = rows(hub_args).await?;
            print(&rows, out)
        }
    }
}

async fn rows(hub_args: &HubArgs) -> anyhow::Result<Vec<Row>> {
    let hub = clusters::hub(hub_args).await?;
    let failed = |e: call::CallError| anyhow::anyhow!("reading members: {}", e.message());
    let ours: Api<MemberCluster> = Api::all(hub.clone());
    let theirs: Api<KubeFedCluster> = Api::namespaced(hub, &hub_args.kubefed_namespace);
    let mut rows = Vec::new();
    for object in within(call::LIST, ours.list(&ListParams::default())).await.map_err(failed)? {
        let status = object.status.unwrap_or_default();
        let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
        rows.push(Row {
            name: object.metadata.name.unwrap_or_default(),
            kind: "MemberCluster",
            ready: ready.map_or_else(|| "Unknown".to_owned(), |c| c.status.clone()),
            message: ready.filter(|c| c.status != "True").map(|c| c.message.clone()).unwrap_or_default(),
            region: status.region.unwrap_or_default(),
            version: status.version.unwrap_or_default(),
        });
    }
    for object in within(call::LIST, theirs.list(&ListParams::default())).await.map_err(failed)? {
        let status = object.status.unwrap_or_default();
        let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
        rows.push(Row {
            name: object.metadata.name.unwrap_or_default(),
            kind: "KubeFedCluster",
            ready: ready.map_or_else(|| "Unknown".to_owned(), |c| c.status.clone()),
            message: ready.filter(|c| c.status != "True").and_then(|c| c.message.clone()).unwrap_or_default(),
            region: status.region.unwrap_or_default(),
            version: status.kubernetes_version.unwrap_or_default(),
        });
    }
    rows.sort_by(|a, b| (&a.name, a.kind).cmp(&(&b.name, b.kind)));
    Ok(rows)
}

fn print(rows: &[Row], out: &mut dyn Write) -> anyhow::Result<()> {
    let width = rows.iter().map(|r| r.name.len()).max().unwrap_or(0).max(4);
    writeln!(
        out,
        "{:width$}  {:14}  {:7}  {:16}  {:10}  MESSAGE",
        "NAME", "KIND", "READY", "REGION", "VERSION"
    )?;
    for Row { name, kind, ready, region, version, message } in rows {
        let line = format!("{name:width$}  {kind:14}  {ready:7}  {region:16}  {version:10}  {message}");
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
