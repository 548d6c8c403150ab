//! Meridian's side: FederatedConfigMaps on the hub.

use std::time::Instant;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use meridian_tests::bed::{Bed, HUB};
use meridian_tests::wait::wait_until;
use serde_json::json;

use super::{BETWEEN_EDITS, EDIT_WITHIN, IN_FLIGHT, Plan, ROUND_WITHIN, data, ms, sightings};
use crate::product::{PATIENCE, dynamic};
use crate::sightings::{MARK, Sightings};

const NAMESPACE: &str = "bench";
const GROUP: &str = "types.kubefed.io";
const VERSION: &str = "v1beta1";
const KIND: &str = "FederatedConfigMap";

/// The namespace, federated: KubeFed's rule is that objects go only where their namespace does.
const PLACE: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: bench}
---
apiVersion: types.kubefed.io/v1beta1
kind: FederatedNamespace
metadata: {name: bench, namespace: bench}
spec:
  placement: {clusterSelector: {}}
";

/// Writes to the hub.
#[derive(Debug)]
pub(super) struct Federated {
    objects: Api<DynamicObject>,
    members: usize,
    sightings: Sightings,
}

impl Federated {
    /// Federates the namespace and starts to watch it in every member.
    pub(super) async fn prepare(bed: &Bed) -> anyhow::Result<Self> {
        bed.apply(HUB, PLACE).await?;
        for member in bed.members() {
            let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(member.cluster.client());
            wait_until("the namespace to reach every member", PATIENCE, async || {
                Ok(namespaces.get_opt(NAMESPACE).await?)
            })
            .await?;
        }
        let client = bed.hub().client_as("bench-user").await?;
        let objects = dynamic(client, GROUP, VERSION, KIND, Some(NAMESPACE));
        Ok(Self { objects, members: bed.members().len(), sightings: sightings(bed, NAMESPACE).await? })
    }

    /// Creates a round's objects and returns how many a second reached the members, from the first create to the
    /// last member object seen.
    pub(super) async fn create(&mut self, plan: &Plan, number: usize) -> anyhow::Result<f64> {
        let names = plan.names();
        let mark = format!("round-{number}");
        let begun = Instant::now();
        let (objects, parameters) = (&self.objects, PostParams::default());
        let creates = names.iter().map(|name| {
            let (object, parameters) = (object(name, &mark), &parameters);
            async move { objects.create(parameters, &object?).await.map_err(anyhow::Error::from).map(|_| ()) }
        });
        stream::iter(creates).buffer_unordered(IN_FLIGHT).try_collect::<Vec<()>>().await?;
        let last = self.sightings.all(names.iter().map(String::as_str), Some(&mark), ROUND_WITHIN).await?;
        Ok((plan.objects * self.members) as f64 / last.duration_since(begun).as_secs_f64())
    }

    /// Edits objects one at a time; for each the milliseconds from the hub's answer to the last member.
    pub(super) async fn edit(&mut self, plan: &Plan, number: usize) -> anyhow::Result<Vec<f64>> {
        let mut edits_ms = Vec::new();
        for (edit, name) in plan.names().iter().cycle().take(plan.edits).enumerate() {
            tokio::time::sleep(BETWEEN_EDITS).await;
            let mark = format!("round-{number}-edit-{edit}");
            let patch = json!({"spec": {"template": {"data": {MARK: mark}}}});
            self.objects.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            let accepted = Instant::now();
            let last = self.sightings.all([name.as_str()], Some(&mark), EDIT_WITHIN).await?;
            edits_ms.push(ms(accepted, last));
        }
        Ok(edits_ms)
    }

    /// Deletes all objects and waits until they are gone, from the members and from the hub.
    pub(super) async fn delete(&mut self, plan: &Plan) -> anyhow::Result<()> {
        self.objects.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        let names = plan.names();
        self.sightings.all(names.iter().map(String::as_str), None, ROUND_WITHIN).await?;
        wait_until("the hub to let go of the objects", PATIENCE, async || {
            let left = self.objects.list(&ListParams::default().limit(1)).await?;
            Ok(left.items.is_empty().then_some(()))
        })
        .await
    }
}

fn object(name: &str, mark: &str) -> anyhow::Result<DynamicObject> {
    serde_json::from_value(json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": KIND,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"template": {"data": data(mark)}, "placement": {"clusterSelector": {}}},
    }))
    .context("making an object to create")
}
