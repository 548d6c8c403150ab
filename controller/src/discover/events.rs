//! Events on FederatedIngresses that did not get a host: their status is KubeFed's and has no place for it.

use kube::api::{ApiResource, GroupVersionKind};
use kube::core::DynamicObject;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use meridian_api::kubefed::{TYPES_GROUP, VERSION};
use meridian_core::id::ObjectKey;
use meridian_core::index::Fault;
use tokio::sync::mpsc;

use crate::call::{self, CallError, within};

/// Events that may wait. More conflicts than this at once are one mistake, which the first ones show.
pub(super) const QUEUE: usize = 64;

/// Records each fault as an Event. A failure costs only the Event: the log has the same words.
pub(super) async fn run(hub: Client, mut faults: mpsc::Receiver<(ObjectKey, Fault)>) {
    let reporter = Reporter { controller: "meridian-controller".to_owned(), instance: None };
    let recorder = Recorder::new(hub.clone(), reporter);
    let gvk = GroupVersionKind::gvk(TYPES_GROUP, VERSION, "FederatedIngress");
    let resource = ApiResource::from_gvk_with_plural(&gvk, "federatedingresses");
    while let Some((key, fault)) = faults.recv().await {
        tracing::warn!(ingress = %key, reason = fault.reason, message = fault.message, "Host was not granted");
        let api: Api<DynamicObject> = Api::namespaced_with(hub.clone(), &key.namespace, &resource);
        if let Err(error) = record(&recorder, &api, &resource, &key, fault).await {
            tracing::debug!(ingress = %key, error = %error.message(), "Event cannot be recorded");
        }
    }
}

async fn record(
    recorder: &Recorder,
    api: &Api<DynamicObject>,
    resource: &ApiResource,
    key: &ObjectKey,
    fault: Fault,
) -> Result<(), CallError> {
    // With its UID, which is what `kubectl describe` finds events by.
    let object = within(call::WRITE, api.get(&key.name)).await?;
    let event = Event {
        type_: EventType::Warning,
        reason: fault.reason.to_owned(),
        note: Some(call::cut(&fault.message)),
        action: "Discover".to_owned(),
        secondary: None,
    };
    within(call::WRITE, recorder.publish(&event, &object.object_ref(resource))).await
}
