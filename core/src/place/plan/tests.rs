use super::*;
use crate::place::Operation;
use crate::place::select::Selector;
use serde_json::json;

/// A ConfigMap shop/web for a fleet m1, m2 (tier gold), m3 (the hub itself), held nowhere.
fn input() -> PlanInput {
    let member = |tier: &str, is_hub| Member {
        labels: BTreeMap::from([("tier".to_owned(), tier.to_owned())]),
        is_hub,
        holds: Some(false),
    };
    PlanInput {
        namespace: "shop".into(),
        name: "web".into(),
        target: Target { api_version: "v1".into(), kind: "ConfigMap".into(), is_namespaced: true },
        template: Some(json!({"data": {"k": "v"}})),
        placement: Placement { clusters: None, selector: Some(Selector::default()) },
        gate: Gate::Within(["m1", "m2", "m3"].map(ClusterName::from).into()),
        overrides: vec![],
        retain_replicas: false,
        members: BTreeMap::from([
            ("m1".into(), member("tin", false)),
            ("m2".into(), member("gold", false)),
            ("m3".into(), member("tin", true)),
        ]),
    }
}

fn named(names: &[&str]) -> Placement {
    Placement {
        clusters: Some(names.iter().map(|n| (*n).to_owned()).collect()),
        selector: Some(Selector::default()),
    }
}

fn places(plan: &Plan) -> Vec<&str> {
    plan.objects.keys().map(ClusterName::as_str).collect()
}

fn held_everywhere(mut input: PlanInput) -> PlanInput {
    input.members.values_mut().for_each(|m| m.holds = Some(true));
    input
}

#[test]
fn names_beat_the_selector_even_when_there_are_none() {
    assert_eq!(places(&plan(&PlanInput { placement: named(&["m2"]), ..input() })), ["m2"]);
    assert!(places(&plan(&PlanInput { placement: named(&[]), ..input() })).is_empty());
}

#[test]
fn no_placement_is_nowhere_and_an_empty_selector_everywhere() {
    assert!(places(&plan(&PlanInput { placement: Placement::default(), ..input() })).is_empty());
    assert_eq!(places(&plan(&input())), ["m1", "m2", "m3"]);
}

#[test]
fn a_selector_takes_members_by_label() {
    let selector =
        Selector { labels: BTreeMap::from([("tier".into(), "gold".into())]), ..Selector::default() };
    let placement = Placement { clusters: None, selector: Some(selector) };
    assert_eq!(places(&plan(&PlanInput { placement, ..input() })), ["m2"]);
}

#[test]
fn an_object_goes_only_where_its_namespace_is() {
    let gate = Gate::Within(["m1"].map(ClusterName::from).into());
    let planned = plan(&held_everywhere(PlanInput { gate, ..input() }));
    assert_eq!(places(&planned), ["m1"]);
    assert_eq!(planned.prunes.len(), 2);
}

#[test]
fn a_namespace_that_is_not_federated_sends_its_objects_nowhere() {
    let planned = plan(&PlanInput { gate: Gate::NotFederated, ..input() });
    assert!(places(&planned).is_empty());
    assert_eq!(planned.problem, Some(Problem::NamespaceNotFederated));
}

#[test]
fn a_namespace_that_cannot_be_understood_holds_its_objects() {
    let planned = plan(&held_everywhere(PlanInput { gate: Gate::Held, ..input() }));
    assert!(places(&planned).is_empty() && planned.prunes.is_empty(), "nothing written, nothing removed");
    assert_eq!(planned.problem, Some(Problem::NamespaceInvalid));
}

#[test]
fn unknown_clusters_are_named_and_hinder_nobody() {
    let planned = plan(&PlanInput { placement: named(&["nope", "m1", "gone"]), ..input() });
    assert_eq!(places(&planned), ["m1"]);
    assert_eq!(planned.problem, Some(Problem::UnknownClusters(vec!["gone".into(), "nope".into()])));
}

#[test]
fn a_member_that_cannot_be_read_is_never_pruned() {
    let mut input = held_everywhere(PlanInput { placement: named(&[]), ..input() });
    input.members.get_mut("m2").expect("there").holds = None;
    let planned = plan(&input);
    assert_eq!(planned.prunes.keys().map(ClusterName::as_str).collect::<Vec<_>>(), ["m1", "m3"]);
}

#[test]
fn the_hubs_own_namespace_is_unlabelled_and_not_deleted() {
    let target = Target { api_version: "v1".into(), kind: "Namespace".into(), is_namespaced: false };
    let input = PlanInput { target, gate: Gate::Open, template: None, placement: named(&[]), ..input() };
    let planned = plan(&held_everywhere(input));
    assert_eq!(planned.prunes.get("m3"), Some(&Prune::Unlabel));
    assert_eq!(planned.prunes.get("m1"), Some(&Prune::Delete));
}

#[test]
fn a_bad_override_concerns_its_cluster_only_and_removes_nothing() {
    let bad = Operation { op: String::new(), path: "/data/none".into(), value: Some(json!("x")) };
    let planned = plan(&held_everywhere(PlanInput { overrides: vec![("m2".into(), vec![bad])], ..input() }));
    assert_eq!(places(&planned), ["m1", "m3"]);
    let fault = &planned.faults["m2"];
    assert_eq!(fault.status, "ApplyOverridesFailed");
    assert!(fault.message.contains("m2") && fault.message.contains("/data/none"), "{}", fault.message);
    assert!(planned.prunes.is_empty());
}

#[test]
fn an_override_changes_its_cluster_only_and_its_fingerprint() {
    let op = Operation { op: String::new(), path: "/data/k".into(), value: Some(json!("w")) };
    let planned = plan(&PlanInput { overrides: vec![("m2".into(), vec![op])], ..input() });
    assert_eq!(planned.objects["m1"].object["data"]["k"], "v");
    assert_eq!(planned.objects["m2"].object["data"]["k"], "w");
    assert_eq!(planned.objects["m1"].print, planned.objects["m3"].print);
    assert_ne!(planned.objects["m1"].print, planned.objects["m2"].print);
}

#[test]
fn the_managed_label_survives_an_override_that_removes_labels() {
    let op = Operation { op: "add".into(), path: "/metadata/labels".into(), value: Some(json!({})) };
    let planned = plan(&PlanInput { overrides: vec![("m1".into(), vec![op])], ..input() });
    assert_eq!(planned.objects["m1"].object["metadata"]["labels"]["kubefed.io/managed"], "true");
}

fn deployment() -> PlanInput {
    let target = Target { api_version: "apps/v1".into(), kind: "Deployment".into(), is_namespaced: true };
    let template = Some(json!({"spec": {"replicas": 3, "paused": false}}));
    PlanInput { target, template, retain_replicas: true, ..input() }
}

#[test]
fn retained_replicas_are_set_at_creation_only() {
    let planned = plan(&deployment());
    let desired = &planned.objects["m1"];
    assert!(desired.object.pointer("/spec/replicas").is_none());
    assert_eq!(desired.initial.as_ref().expect("created so").pointer("/spec/replicas"), Some(&json!(3)));
}

#[test]
fn an_override_of_retained_replicas_wins() {
    for op in ["replace", "add"] {
        let op = Operation { op: op.into(), path: "/spec/replicas".into(), value: Some(json!(7)) };
        let planned = plan(&PlanInput { overrides: vec![("m1".into(), vec![op])], ..deployment() });
        let desired = &planned.objects["m1"];
        assert_eq!(desired.object.pointer("/spec/replicas"), Some(&json!(7)));
        assert_eq!(desired.initial, None);
    }
}

#[test]
fn a_template_fault_concerns_every_selected_cluster() {
    let planned = plan(&PlanInput { template: Some(json!({"kind": "Secret"})), ..input() });
    assert_eq!(planned.faults.len(), 3);
    assert_eq!(planned.faults["m1"].status, "ComputeResourceFailed");
    assert_eq!(planned.selected().count(), 3);
}

#[test]
fn same_input_gives_the_same_plan() {
    assert_eq!(plan(&input()), plan(&input()));
}
