//! The plan of one federated object.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::hash::Fingerprint;
use super::object::{Target, from_template, seal};
use super::overrides::{Overrides, apply};
use super::select::Selector;
use crate::id::ClusterName;

/// Where a wrapper wants its object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Clusters by name; even empty it beats the selector.
    pub clusters: Option<Vec<String>>,
    /// Clusters by label; used only without `clusters`. Neither is nowhere.
    pub selector: Option<Selector>,
}

/// Whether the object's namespace is federated, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Nothing limits the object: its kind is cluster-scoped, or it is the namespace itself.
    Open,
    /// The namespace is in these clusters; the object goes nowhere else.
    Within(BTreeSet<ClusterName>),
    /// The namespace is not federated: the object goes nowhere.
    NotFederated,
    /// Where the namespace goes cannot be said: nothing is written and nothing is removed.
    Held,
}

/// What a plan needs to know of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Labels of the member.
    pub labels: BTreeMap<String, String>,
    /// Whether the member is the hub itself: its namespaces are never deleted.
    pub is_hub: bool,
    /// Whether a managed object of this kind and name exists there; `None` if that is not known.
    pub holds: Option<bool>,
}

/// All that one object's plan depends on.
#[derive(Clone, Debug)]
pub struct PlanInput {
    /// Namespace of the wrapper.
    pub namespace: String,
    /// Name of the wrapper and of the object.
    pub name: String,
    /// Kind of the object.
    pub target: Target,
    /// Template; `None` for a bare object.
    pub template: Option<Value>,
    /// Where it goes.
    pub placement: Placement,
    /// Where its namespace is.
    pub gate: Gate,
    /// How it differs.
    pub overrides: Overrides,
    /// Whether `/spec/replicas` is left to the member once the object exists. An override of it still wins, as in
    /// KubeFed.
    pub retain_replicas: bool,
    /// The fleet, by name.
    pub members: BTreeMap<ClusterName, Member>,
}

/// The exact object for one cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// What to apply, sealed with the managed label and the fingerprint.
    pub object: Arc<Value>,
    /// Fingerprint of the object, as in its annotation.
    pub print: Fingerprint,
    /// What to create first where the object does not exist: with fields that only the first version sets and that
    /// are the member's afterwards (retained replicas).
    pub initial: Option<Arc<Value>>,
}

/// How an object leaves a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prune {
    /// Deleted.
    Delete,
    /// Only the managed label is removed: a namespace of the hub itself.
    Unlabel,
}

/// Why one cluster gets no object although it is selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFault {
    /// KubeFed's word: `ComputeResourceFailed` or `ApplyOverridesFailed`.
    pub status: &'static str,
    /// What is wrong and where.
    pub message: String,
}

/// What concerns the placement as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// KubeFed's `NamespaceNotFederated`: selected nowhere.
    NamespaceNotFederated,
    /// The FederatedNamespace cannot be understood; what there is stays as it is.
    NamespaceInvalid,
    /// The placement names clusters that are not registered; the others are served. Sorted.
    UnknownClusters(Vec<String>),
}

/// What is to be done about one federated object. A cluster is in at most one of the maps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Exact object per selected cluster.
    pub objects: BTreeMap<ClusterName, Desired>,
    /// Clusters that hold the object and must not.
    pub prunes: BTreeMap<ClusterName, Prune>,
    /// Selected clusters for which no object can be computed. What they hold stays as it is.
    pub faults: BTreeMap<ClusterName, ClusterFault>,
    /// What concerns the placement.
    pub problem: Option<Problem>,
}

impl Plan {
    /// Every cluster that is selected, with or without a fault, sorted.
    pub fn selected(&self) -> impl Iterator<Item = &ClusterName> {
        self.objects.keys().chain(self.faults.keys())
    }
}

/// Plans one object: where it goes, what it is there, and where it must go away. Never plans a removal from a member
/// whose state is not known.
#[must_use]
pub fn plan(input: &PlanInput) -> Plan {
    let mut plan = Plan::default();
    if input.gate == Gate::Held {
        plan.problem = Some(Problem::NamespaceInvalid);
        return plan;
    }
    let (selected, problem) = select(input);
    plan.problem = problem;
    for cluster in &selected {
        match build(input, cluster) {
            Ok(desired) => {
                plan.objects.insert(cluster.clone(), desired);
            }
            Err(fault) => {
                plan.faults.insert(cluster.clone(), fault);
            }
        }
    }
    for (cluster, member) in &input.members {
        if member.holds == Some(true) && !selected.contains(cluster) {
            let prune =
                if member.is_hub && input.target.is_namespace() { Prune::Unlabel } else { Prune::Delete };
            plan.prunes.insert(cluster.clone(), prune);
        }
    }
    plan
}

impl Placement {
    /// The registered clusters that are wanted, and the names that are wanted but not registered, sorted.
    #[must_use]
    pub fn resolve(&self, members: &BTreeMap<ClusterName, Member>) -> (BTreeSet<ClusterName>, Vec<String>) {
        let Some(names) = &self.clusters else {
            let selected = members
                .iter()
                .filter(|(_, m)| self.selector.as_ref().is_some_and(|s| s.selects(&m.labels)))
                .map(|(name, _)| name.clone())
                .collect();
            return (selected, Vec::new());
        };
        let mut selected = BTreeSet::new();
        let mut unknown = BTreeSet::new();
        for name in names {
            match members.get_key_value(name.as_str()) {
                Some((known, _)) => {
                    selected.insert(known.clone());
                }
                None => {
                    unknown.insert(name.clone());
                }
            }
        }
        (selected, unknown.into_iter().collect())
    }
}

fn select(input: &PlanInput) -> (BTreeSet<ClusterName>, Option<Problem>) {
    let (mut selected, unknown) = input.placement.resolve(&input.members);
    match &input.gate {
        Gate::Open => {}
        Gate::Within(clusters) => selected.retain(|c| clusters.contains(c)),
        Gate::NotFederated => return (BTreeSet::new(), Some(Problem::NamespaceNotFederated)),
        Gate::Held => return (BTreeSet::new(), Some(Problem::NamespaceInvalid)),
    }
    let problem = (!unknown.is_empty()).then_some(Problem::UnknownClusters(unknown));
    (selected, problem)
}

fn build(input: &PlanInput, cluster: &ClusterName) -> Result<Desired, ClusterFault> {
    let template = |message: String| ClusterFault { status: "ComputeResourceFailed", message };
    let mut full = from_template(input.template.as_ref(), &input.target, &input.namespace, &input.name)
        .map_err(|e| template(e.to_string()))?;
    let is_retained = input.retain_replicas && full.pointer("/spec/replicas").is_some();
    if !is_retained {
        let print = finish(input, cluster, &mut full)?;
        return Ok(Desired { object: Arc::new(full), print, initial: None });
    }
    let mut initial = full.clone();
    let initial_print = finish(input, cluster, &mut initial)?;
    if let Some(spec) = full.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("replicas");
    }
    match finish(input, cluster, &mut full) {
        Ok(print) if full.pointer("/spec/replicas").is_none() => {
            Ok(Desired { object: Arc::new(full), print, initial: Some(Arc::new(initial)) })
        }
        // The override sets or replaces the field itself: then nothing is left to the member. The full object passed
        // above, so a fault here can only come from the field's absence.
        Ok(_) | Err(_) => Ok(Desired { object: Arc::new(initial), print: initial_print, initial: None }),
    }
}

fn finish(input: &PlanInput, cluster: &ClusterName, object: &mut Value) -> Result<Fingerprint, ClusterFault> {
    apply(object, cluster, &input.overrides)
        .map_err(|e| ClusterFault { status: "ApplyOverridesFailed", message: e.to_string() })?;
    seal(object).map_err(|e| ClusterFault { status: "ApplyOverridesFailed", message: e.to_string() })
}

#[cfg(test)]
mod tests;
