//! What would be done about one federated object, and where, without doing it: the same plan, held against what the
//! members have now.

use std::collections::BTreeMap;

use kube::api::ListParams;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::{Api, Client};
use meridian_api::kubefed::FederatedTypeConfig;
use meridian_api::names::{MANAGED_FALSE, MANAGED_LABEL, MANAGED_TRUE};
use meridian_core::id::ClusterName;
use meridian_core::place::{Gate, Member, Plan, Problem, Prune, plan};

use super::facts::{Fact, Shapes};
use super::{Key, Kind, Wrapper, validate};
use crate::call::{self, CallError, within};
use crate::fleet::{Enlisted, roster};

/// What would happen in one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The object would be created.
    Create,
    /// It would be changed.
    Change,
    /// It exists without being managed and would be taken over.
    Adopt,
    /// It is as it should be.
    Keep,
    /// It would be deleted.
    Delete,
    /// Its managed label would be removed.
    Unlabel,
    /// Nothing can be done: KubeFed's word and why.
    Fault(&'static str, String),
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Create => f.write_str("create"),
            Self::Change => f.write_str("change"),
            Self::Adopt => f.write_str("adopt"),
            Self::Keep => f.write_str("keep"),
            Self::Delete => f.write_str("delete"),
            Self::Unlabel => f.write_str("unlabel"),
            Self::Fault(status, message) => write!(f, "{status}: {message}"),
        }
    }
}

/// What would happen.
#[derive(Clone, Debug)]
pub struct Preview {
    /// What concerns the placement as a whole, if anything.
    pub problem: Option<String>,
    /// Effect per member that is concerned, sorted.
    pub effects: BTreeMap<ClusterName, Effect>,
    /// The plan itself, with the exact objects.
    pub plan: Plan,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A read of the hub failed.
    #[error("reading {what}: {}", source.message())]
    Hub {
        /// What was read.
        what: &'static str,
        /// The failure.
        #[source]
        source: CallError,
    },
    /// The object cannot be planned.
    #[error(transparent)]
    Invalid(#[from] validate::Invalid),
}

fn hub_error(what: &'static str) -> impl Fn(CallError) -> Error {
    move |source| Error::Hub { what, source }
}

/// The federated kinds of the hub.
///
/// # Errors
/// [`Error::Hub`].
pub async fn kinds(hub: &Client, kubefed_namespace: &str) -> Result<Vec<Kind>, Error> {
    let api: Api<FederatedTypeConfig> = Api::namespaced(hub.clone(), kubefed_namespace);
    let list = within(call::LIST, api.list(&ListParams::default()))
        .await
        .map_err(hub_error("FederatedTypeConfigs"))?;
    Ok(list.iter().filter_map(Kind::of).collect())
}

/// Plans one object as it is on the hub, or as it would be with this `spec` (JSON).
///
/// # Errors
/// [`Error::Hub`], [`Error::Invalid`]. A member that cannot be read is a fault of that member only.
pub async fn preview(
    hub: &Client,
    kubefed_namespace: &str,
    kinds: &[Kind],
    kind: &Kind,
    key: &Key,
    spec: &str,
) -> Result<Preview, Error> {
    let request = validate::request(kind, key, spec)?;
    let members = roster(hub, kubefed_namespace).await.map_err(hub_error("members"))?;
    let hub_uid = within(
        call::WRITE,
        Api::<k8s_openapi::api::core::v1::Namespace>::all(hub.clone()).get_metadata("kube-system"),
    )
    .await
    .map_err(hub_error("the hub's identity"))?
    .metadata
    .uid;
    let mut seen: BTreeMap<ClusterName, Seen> = BTreeMap::new();
    for member in members {
        let name = ClusterName::from(member.name.as_str());
        seen.insert(name, look(member, kind, key, hub_uid.as_deref()).await);
    }
    let fleet: BTreeMap<ClusterName, Member> =
        seen.iter().map(|(name, s)| (name.clone(), s.member.clone())).collect();
    let gate = if kind.target.is_namespaced { gate(hub, kinds, key, &fleet).await? } else { Gate::Open };
    let plan = plan(&request.into_input(kind, key, gate, fleet));
    let effects =
        seen.into_iter().filter_map(|(name, s)| Some((name.clone(), s.effect(&plan, &name)?))).collect();
    let problem = plan.problem.as_ref().map(|problem| match problem {
        Problem::NamespaceInvalid => {
            format!("FederatedNamespace {} is not valid: nothing is changed", key.namespace)
        }
        Problem::NamespaceNotFederated => {
            format!("NamespaceNotFederated: namespace {} has no FederatedNamespace", key.namespace)
        }
        Problem::UnknownClusters(names) => format!("unknown clusters: {}", names.join(", ")),
    });
    Ok(Preview { problem, effects, plan })
}

/// What one member has.
struct Seen {
    member: Member,
    found: Result<Option<(Fact, Option<String>)>, String>,
}

async fn look(enlisted: Enlisted, kind: &Kind, key: &Key, hub_uid: Option<&str>) -> Seen {
    let mut member = Member { labels: enlisted.labels, is_hub: true, holds: None };
    let found = match enlisted.client {
        Ok(client) => {
            let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
            if let Ok(system) = within(call::PROBE, namespaces.get_metadata("kube-system")).await {
                member.is_hub = system.metadata.uid.as_deref() == hub_uid;
            }
            let api: Api<PartialObjectMeta<DynamicObject>> = if kind.target.is_namespaced {
                Api::namespaced_with(client, &key.namespace, &kind.resource)
            } else {
                Api::all_with(client, &kind.resource)
            };
            match within(call::WRITE, api.get_opt(&key.name)).await {
                Ok(None) => Ok(None),
                Ok(Some(object)) => {
                    let label = object.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_LABEL)).cloned();
                    Ok(Some((Fact::of(&object.metadata, &Shapes::default()), label)))
                }
                Err(error) => Err(error.message()),
            }
        }
        Err(why) => Err(why),
    };
    if let Ok(found) = &found {
        member.holds = Some(found.as_ref().is_some_and(|(_, label)| label.as_deref() == Some(MANAGED_TRUE)));
    }
    Seen { member, found }
}

impl Seen {
    fn effect(&self, plan: &Plan, name: &ClusterName) -> Option<Effect> {
        if let Some(fault) = plan.faults.get(name) {
            return Some(Effect::Fault(fault.status, fault.message.clone()));
        }
        if let Some(prune) = plan.prunes.get(name) {
            return Some(match prune {
                Prune::Delete => Effect::Delete,
                Prune::Unlabel => Effect::Unlabel,
            });
        }
        let desired = plan.objects.get(name)?;
        Some(match &self.found {
            Err(why) => Effect::Fault("ClusterNotReady", why.clone()),
            Ok(None) => Effect::Create,
            Ok(Some((_, Some(label)))) if label == MANAGED_FALSE => Effect::Fault(
                "ManagedLabelFalse",
                format!("the object in the member carries {MANAGED_LABEL}={label}"),
            ),
            Ok(Some((fact, Some(label)))) if label == MANAGED_TRUE => {
                if fact.is_as(desired) {
                    Effect::Keep
                } else {
                    Effect::Change
                }
            }
            Ok(Some(_)) => Effect::Adopt,
        })
    }
}

async fn gate(
    hub: &Client,
    kinds: &[Kind],
    key: &Key,
    fleet: &BTreeMap<ClusterName, Member>,
) -> Result<Gate, Error> {
    let Some(kind) = kinds.iter().find(|k| k.target.is_namespace()) else { return Ok(Gate::NotFederated) };
    let api: Api<DynamicObject> = Api::namespaced_with(hub.clone(), &key.namespace, &kind.federated);
    let found = within(call::WRITE, api.get_opt(&key.namespace))
        .await
        .map_err(hub_error("the FederatedNamespace"))?;
    let Some(object) = found else { return Ok(Gate::NotFederated) };
    let wrapper = Wrapper::of(&object);
    if wrapper.is_deleting {
        return Ok(Gate::NotFederated);
    }
    let own = Key { kind: kind.name.clone(), namespace: key.namespace.clone(), name: key.namespace.clone() };
    let request = validate::request(kind, &own, &wrapper.spec)?;
    Ok(Gate::Within(request.placement().resolve(fleet).0))
}
