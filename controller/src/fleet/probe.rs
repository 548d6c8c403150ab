//! Probing one member: is its API server ready, which cluster is it, where are its nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Api, Client};
use meridian_api::names::{REGION_LABELS, ZONE_LABELS};
use meridian_core::id::ClusterName;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::health::{Cause, Health, Machine, Probe};
use super::member::Observed;
use super::watch::{Change, jittered, watch_index};
use crate::call::{self, CallError, within};

/// How often a ready member is asked again whether it is still the same cluster.
const IDENTITY_PERIOD: Duration = Duration::from_secs(300);

/// Probes `/readyz` about each `period` until `token` is cancelled; publishes health on transitions, and version
/// and UID as soon as they can be read.
pub(super) async fn run(
    name: ClusterName,
    client: Client,
    period: Duration,
    token: CancellationToken,
    health: watch::Sender<Health>,
    observed: watch::Sender<Arc<Observed>>,
) {
    let mut machine = Machine::default();
    let mut asked: Option<tokio::time::Instant> = None;
    loop {
        let probe = readyz(&client).await;
        let answered = probe == Probe::Ok;
        // Identity first: who sees Ready may rely on the UID.
        let is_due = asked.is_none_or(|at| at.elapsed() >= IDENTITY_PERIOD);
        if answered && (is_due || !health.borrow().is_ready()) {
            match identity(&client).await {
                Ok((version, uid)) => {
                    asked = Some(tokio::time::Instant::now());
                    note_identity(&name, &observed, version, uid);
                }
                Err(error) => {
                    tracing::debug!(cluster = %name, error = %error.message(), "Cannot read identity")
                }
            }
        }
        if let Some(next) = machine.observe(probe) {
            match next.cause() {
                None => tracing::info!(cluster = %name, "Member is ready"),
                Some(cause) => {
                    tracing::warn!(cluster = %name, reason = cause.reason, error = %cause.message, "Member is not ready");
                }
            }
            health.send_replace(next);
        }
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(jittered(period)) => {}
        }
    }
}

async fn readyz(client: &Client) -> Probe {
    let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else {
        return Probe::Refused(Cause { reason: "Internal", message: "cannot build the probe".to_owned() });
    };
    match within(call::PROBE, client.request_text(request)).await {
        Ok(_) => Probe::Ok,
        Err(error) => {
            let cause = Cause { reason: error.reason(), message: error.message() };
            if error.is_unreachable() { Probe::NoAnswer(cause) } else { Probe::Refused(cause) }
        }
    }
}

async fn identity(client: &Client) -> Result<(String, String), CallError> {
    let version = within(call::PROBE, client.apiserver_version()).await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let system = within(call::PROBE, namespaces.get("kube-system")).await?;
    Ok((version.git_version, system.metadata.uid.unwrap_or_default()))
}

fn note_identity(name: &ClusterName, observed: &watch::Sender<Arc<Observed>>, version: String, uid: String) {
    observed.send_if_modified(|seen| {
        let next = Observed { version: Some(version), cluster_uid: Some(uid), ..(**seen).clone() };
        if next == **seen {
            return false;
        }
        if seen.cluster_uid.is_some() && seen.cluster_uid != next.cluster_uid {
            tracing::warn!(cluster = %name, "Another cluster answers at the member's address");
        }
        *seen = Arc::new(next);
        true
    });
}

/// Region and zone of one node.
type NodePlace = (Option<String>, Option<String>);

/// Watches the metadata of the member's nodes and publishes region and zones. Ends with its watch.
pub(super) async fn topology(client: Client, observed: watch::Sender<Arc<Observed>>) {
    let (sink, mut changes) = mpsc::channel::<Change<String, NodePlace>>(64);
    let api: Api<PartialObjectMeta<Node>> = Api::all(client);
    let watching = watch_index(api, watcher::Config::default(), place_of, sink, |change| change);
    let folding = async {
        let mut nodes: BTreeMap<String, NodePlace> = BTreeMap::new();
        while let Some(change) = changes.recv().await {
            match change {
                Change::Apply(name, place) => {
                    nodes.insert(name, place);
                }
                Change::Delete(name) => {
                    nodes.remove(&name);
                }
                Change::Reset(all) => nodes = all.into_iter().collect(),
            }
            note_topology(&observed, &nodes);
        }
    };
    tokio::join!(watching, folding);
}

fn place_of(node: PartialObjectMeta<Node>) -> Option<(String, Option<NodePlace>)> {
    let labels = node.metadata.labels.unwrap_or_default();
    let first = |keys: [&str; 2]| keys.iter().find_map(|k| labels.get(*k)).cloned();
    Some((node.metadata.name?, Some((first(REGION_LABELS), first(ZONE_LABELS)))))
}

fn note_topology(observed: &watch::Sender<Arc<Observed>>, nodes: &BTreeMap<String, NodePlace>) {
    let (region, zones) = summarise(nodes);
    observed.send_if_modified(|seen| {
        let next = Observed { region, zones, ..(**seen).clone() };
        let is_other = next != **seen;
        if is_other {
            *seen = Arc::new(next);
        }
        is_other
    });
}

/// The region of most nodes (ties: the first by name) and all zones, sorted.
fn summarise(nodes: &BTreeMap<String, NodePlace>) -> (Option<String>, Vec<String>) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut zones: Vec<String> = Vec::new();
    for (region, zone) in nodes.values() {
        if let Some(region) = region {
            *counts.entry(region).or_default() += 1;
        }
        zones.extend(zone.clone());
    }
    zones.sort();
    zones.dedup();
    // A status holds at most 64 zones.
    zones.truncate(64);
    let region =
        counts.iter().max_by(|a, b| a.1.cmp(b.1).then(b.0.cmp(a.0))).map(|(name, _)| (*name).to_owned());
    (region, zones)
}

#[cfg(test)]
mod tests {
    use super::{NodePlace, summarise};
    use std::collections::BTreeMap;

    #[test]
    fn region_is_that_of_most_nodes_and_zones_are_sorted_once() {
        let place = |r: &str, z: &str| -> NodePlace { (Some(r.into()), Some(z.into())) };
        let nodes = BTreeMap::from([
            ("a".to_owned(), place("eu", "eu-b")),
            ("b".to_owned(), place("eu", "eu-a")),
            ("c".to_owned(), place("us", "eu-a")),
            ("d".to_owned(), (None, None)),
        ]);
        assert_eq!(summarise(&nodes), (Some("eu".into()), vec!["eu-a".into(), "eu-b".into()]));
        assert_eq!(summarise(&BTreeMap::new()), (None, vec![]));
    }
}
