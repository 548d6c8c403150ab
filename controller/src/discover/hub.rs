//! Watches of the hub: one per kind that discovery reads.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, GroupVersionKind};
use kube::core::{DeserializeGuard, DynamicObject};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use meridian_api::dns_zone::{DnsZone, DnsZoneStatus};
use meridian_api::kubefed::{TYPES_GROUP, VERSION};
use meridian_api::site::{Site, SiteStatus};
use meridian_api::traffic_policy::{TrafficPolicy, TrafficPolicyStatus};
use meridian_core::id::{ObjectKey, SiteName};
use meridian_core::index::{FederatedServiceFact, IngressFact, PolicyFact, SiteFact, ZoneFact};
use meridian_core::snapshot::Certificate;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::engine::Message;
use crate::call::{self, within};
use crate::convert::{dns_zone, ingress, secret, service, site, traffic_policy};
use crate::fleet::{Change, jittered, supervise, watch_reporting};

/// A dead link to the hub shows after this many seconds at the latest.
const WATCH_TIMEOUT: u32 = 60;

/// Pause before a definition is asked for again.
const RETRY: Duration = Duration::from_secs(1);

/// A fact with the status that its object has, so that only differences are written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told<F, S> {
    pub(super) fact: F,
    pub(super) status: S,
    pub(super) generation: Option<i64>,
}

/// Facts of an object, with its status.
type WithStatus<K, F, S> = Option<(K, Option<Told<F, S>>)>;

/// What changed on the hub.
#[derive(Debug)]
pub(super) enum HubChange {
    FederatedServices(Change<ObjectKey, FederatedServiceFact>),
    FederatedIngresses(Change<ObjectKey, IngressFact>),
    Policies(Change<ObjectKey, Told<PolicyFact, TrafficPolicyStatus>>),
    Sites(Change<SiteName, Told<SiteFact, SiteStatus>>),
    Zones(Change<Arc<str>, Told<ZoneFact, DnsZoneStatus>>),
    Certificates(Change<ObjectKey, Certificate>),
    FederatedCertificates(Change<ObjectKey, Certificate>),
}

/// Kinds of the hub, each to be read before anything is published.
pub(super) const KINDS: [&str; 7] =
    ["FederatedService", "FederatedIngress", "TrafficPolicy", "Site", "DnsZone", "Secret", "FederatedSecret"];

impl HubChange {
    /// The kind, as in [`KINDS`].
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::FederatedServices(_) => KINDS[0],
            Self::FederatedIngresses(_) => KINDS[1],
            Self::Policies(_) => KINDS[2],
            Self::Sites(_) => KINDS[3],
            Self::Zones(_) => KINDS[4],
            Self::Certificates(_) => KINDS[5],
            Self::FederatedCertificates(_) => KINDS[6],
        }
    }

    /// Whether it is a whole list.
    pub(super) const fn is_reset(&self) -> bool {
        matches!(
            self,
            Self::FederatedServices(Change::Reset(_))
                | Self::FederatedIngresses(Change::Reset(_))
                | Self::Policies(Change::Reset(_))
                | Self::Sites(Change::Reset(_))
                | Self::Zones(Change::Reset(_))
                | Self::Certificates(Change::Reset(_))
                | Self::FederatedCertificates(Change::Reset(_))
        )
    }
}

/// Definitions of the kinds that need one.
const DEFINITIONS: [(&str, &str); 6] = [
    (KINDS[0], "federatedservices.types.kubefed.io"),
    (KINDS[1], "federatedingresses.types.kubefed.io"),
    (KINDS[2], "trafficpolicies.meridian.io"),
    (KINDS[3], "sites.meridian.io"),
    (KINDS[4], "dnszones.meridian.io"),
    (KINDS[6], "federatedsecrets.types.kubefed.io"),
];

/// Says of every kind that the hub does not define that there is nothing to wait for. A watch that ends
/// with 404 does not say it: an API server that just started answers so for kinds that it has.
async fn find_absent(hub: Client, sink: mpsc::Sender<Message>) {
    let api: Api<CustomResourceDefinition> = Api::all(hub);
    for (kind, name) in DEFINITIONS {
        loop {
            match within(call::WRITE, api.get_opt(name)).await {
                Ok(Some(_)) => break,
                Ok(None) => {
                    tracing::warn!(kind, "Kind is not installed on the hub");
                    if sink.send(Message::HubAbsent { kind }).await.is_err() {
                        return;
                    }
                    break;
                }
                Err(error) => {
                    tracing::warn!(kind, error = %error.message(), "Definition of a kind cannot be read");
                    tokio::time::sleep(jittered(RETRY)).await;
                }
            }
        }
    }
}

/// Starts all watches.
pub(super) fn watch(
    hub: &Client,
    tracker: &TaskTracker,
    token: &CancellationToken,
    sink: &mpsc::Sender<Message>,
) {
    let finding = find_absent(hub.clone(), sink.clone());
    let end = token.clone();
    tracker.spawn(async move { end.run_until_cancelled(finding).await });
    let start = Start { hub, tracker, token, sink };
    start.federated(KINDS[0], "federatedservices", service::federated, HubChange::FederatedServices);
    start.federated(KINDS[1], "federatedingresses", ingress::federated, HubChange::FederatedIngresses);
    start.ours(KINDS[2], policy, HubChange::Policies);
    start.ours(KINDS[3], site, HubChange::Sites);
    start.ours(KINDS[4], zone, HubChange::Zones);
    let secrets = watcher::Config::default().fields(&format!("type={}", secret::TLS_TYPE));
    start.kind(KINDS[5], secrets, Api::<Secret>::all, secret::facts, HubChange::Certificates);
    start.federated(KINDS[6], "federatedsecrets", secret::federated, HubChange::FederatedCertificates);
}

fn policy(object: TrafficPolicy) -> WithStatus<ObjectKey, PolicyFact, TrafficPolicyStatus> {
    let (key, fact) = traffic_policy::facts(&object)?;
    let (status, generation) = (object.status.unwrap_or_default(), object.metadata.generation);
    Some((key, fact.map(|fact| Told { fact, status, generation })))
}

fn site(object: Site) -> WithStatus<SiteName, SiteFact, SiteStatus> {
    let (name, fact) = site::facts(&object)?;
    let (status, generation) = (object.status.unwrap_or_default(), object.metadata.generation);
    Some((name, fact.map(|fact| Told { fact, status, generation })))
}

fn zone(object: DnsZone) -> WithStatus<Arc<str>, ZoneFact, DnsZoneStatus> {
    let (name, fact) = dns_zone::facts(&object)?;
    let (status, generation) = (object.status.unwrap_or_default(), object.metadata.generation);
    Some((name, fact.map(|fact| Told { fact, status, generation })))
}

/// What every watch needs.
struct Start<'a> {
    hub: &'a Client,
    tracker: &'a TaskTracker,
    token: &'a CancellationToken,
    sink: &'a mpsc::Sender<Message>,
}

impl Start<'_> {
    /// A watch of one of our kinds. One object that cannot be read is left out with a warning.
    fn ours<K, Key, Fact>(
        &self,
        kind: &'static str,
        convert: fn(K) -> Option<(Key, Option<Fact>)>,
        wrap: fn(Change<Key, Fact>) -> HubChange,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        Key: Send + 'static,
        Fact: Send + 'static,
    {
        let readable = move |guard: DeserializeGuard<K>| match guard.0 {
            Ok(object) => convert(object),
            Err(bad) => {
                let name = bad.metadata.name;
                tracing::warn!(kind, name, error = bad.error, "Object cannot be read");
                None
            }
        };
        self.kind(kind, watcher::Config::default(), Api::<DeserializeGuard<K>>::all, readable, wrap);
    }

    fn federated<Fact: Send + 'static>(
        &self,
        kind: &'static str,
        plural: &'static str,
        convert: fn(DynamicObject) -> Option<(ObjectKey, Option<Fact>)>,
        wrap: fn(Change<ObjectKey, Fact>) -> HubChange,
    ) {
        let gvk = GroupVersionKind::gvk(TYPES_GROUP, VERSION, kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        let api = move |hub: Client| Api::<DynamicObject>::all_with(hub, &resource);
        self.kind(kind, watcher::Config::default(), api, convert, wrap);
    }

    fn kind<K, Key, Fact>(
        &self,
        kind: &'static str,
        config: watcher::Config,
        api: impl Fn(Client) -> Api<K> + Send + 'static,
        convert: impl Fn(K) -> Option<(Key, Option<Fact>)> + Clone + Send + 'static,
        wrap: fn(Change<Key, Fact>) -> HubChange,
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        Key: Send + 'static,
        Fact: Send + 'static,
    {
        let (hub, sink) = (self.hub.clone(), self.sink.clone());
        supervise(self.tracker, self.token.clone(), kind, None, move || {
            watch_reporting(
                api(hub.clone()),
                config.clone().timeout(WATCH_TIMEOUT),
                convert.clone(),
                sink.clone(),
                move |change| Message::Hub(wrap(change)),
                move |error| Some(Message::HubFault { kind, error }),
            )
        });
    }
}
