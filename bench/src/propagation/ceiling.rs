//! The ceiling: the same server-side applies, issued by a bare loop.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, future, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use meridian_tests::bed::Bed;
use serde_json::json;

use super::{BETWEEN_EDITS, EDIT_WITHIN, IN_FLIGHT, Plan, ROUND_WITHIN, Round, data, ms, sightings};
use crate::sightings::Sightings;

const NAMESPACE: &str = "bench-ceiling";

/// Writes to the members directly.
#[derive(Debug)]
pub(super) struct Ceiling {
    members: Vec<Api<ConfigMap>>,
    sightings: Sightings,
}

impl Ceiling {
    /// Makes its namespace in every member and starts to watch there.
    pub(super) async fn prepare(bed: &Bed) -> anyhow::Result<Self> {
        let mut members = Vec::new();
        for member in bed.members() {
            let client = member.cluster.client_as("bench-ceiling").await?;
            let mut namespace = Namespace::default();
            namespace.metadata.name = Some(NAMESPACE.to_owned());
            Api::all(client.clone()).create(&PostParams::default(), &namespace).await?;
            members.push(Api::namespaced(client, NAMESPACE));
        }
        Ok(Self { members, sightings: sightings(bed, NAMESPACE).await? })
    }

    /// Creates, edits, deletes.
    pub(super) async fn round(&mut self, plan: &Plan, number: usize) -> anyhow::Result<Round> {
        let names = plan.names();
        let all = || names.iter().map(String::as_str);
        let mark = format!("round-{number}");
        let begun = Instant::now();
        let tasks = self.members.iter().map(|api| {
            let (api, names, mark) = (api.clone(), names.clone(), mark.clone());
            // A task per member, as the controller has: on one task they would share one core.
            tokio::spawn(async move {
                let applies = names.into_iter().map(|name| {
                    let (api, mark) = (api.clone(), mark.clone());
                    async move { apply(&api, &name, &mark).await }
                });
                stream::iter(applies).buffer_unordered(IN_FLIGHT).try_collect::<Vec<()>>().await
            })
        });
        for task in future::join_all(tasks).await {
            task.context("a loop of applies panicked")??;
        }
        let last = self.sightings.all(all(), Some(&mark), ROUND_WITHIN).await?;
        let objects = (plan.objects * self.members.len()) as f64;
        let objects_per_s = objects / last.duration_since(begun).as_secs_f64();

        let mut edits_ms = Vec::new();
        for (edit, name) in names.iter().cycle().take(plan.edits).enumerate() {
            tokio::time::sleep(BETWEEN_EDITS).await;
            let mark = format!("round-{number}-edit-{edit}");
            let begun = Instant::now();
            future::try_join_all(self.members.iter().map(|api| apply(api, name, &mark))).await?;
            let last = self.sightings.all([name.as_str()], Some(&mark), EDIT_WITHIN).await?;
            edits_ms.push(ms(begun, last));
        }

        for api in &self.members {
            api.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        }
        self.sightings.all(all(), None, ROUND_WITHIN).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(Round { objects_per_s, edits_ms })
    }
}

async fn apply(api: &Api<ConfigMap>, name: &str, mark: &str) -> kube::Result<()> {
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "data": data(mark),
    });
    let parameters = PatchParams::apply("bench-ceiling").force();
    api.patch(name, &parameters, &Patch::Apply(object)).await.map(|_| ())
}
