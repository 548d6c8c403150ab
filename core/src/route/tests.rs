//! Facts about routes, and a slow reference matcher that the table must agree with.

use proptest::prelude::*;

use super::*;
use crate::{
    snapshot::{BackendPort, HostRule, PathRule, Strategy as Steering},
    time::Timestamp,
};

fn backend(name: &str) -> Backend {
    Backend { service: ObjectKey::new("shop", name), port: BackendPort::Number(80) }
}

fn ingress(name: &str, created: u64) -> GlobalIngress {
    GlobalIngress {
        key: ObjectKey::new("shop", name),
        created: Timestamp::from_millis(created),
        rules: Vec::new(),
        default_backend: None,
        tls: Vec::new(),
        policy: None,
    }
}

fn rule(host: &str, paths: &[(PathKind, &str, &str)]) -> HostRule {
    let path = |&(kind, path, service): &(PathKind, &str, &str)| PathRule {
        kind,
        path: path.into(),
        backend: backend(service),
    };
    let host = if host.is_empty() { None } else { Some(host.parse().unwrap()) };
    HostRule { host, paths: paths.iter().map(path).collect() }
}

fn snapshot(ingresses: impl IntoIterator<Item = GlobalIngress>) -> Snapshot {
    let ingresses = ingresses.into_iter().map(|i| (i.key.clone(), Arc::new(i))).collect();
    Snapshot { ingresses, ..Snapshot::default() }
}

fn one(rules: impl IntoIterator<Item = HostRule>) -> RouteTable {
    let mut ingress = ingress("one", 1);
    ingress.rules = rules.into_iter().collect();
    RouteTable::compile(&snapshot([ingress]))
}

fn found<'a>(table: &'a RouteTable, host: &str, path: &str) -> Option<&'a str> {
    table.find(Some(host), path).map(|route| &*route.backend.service.name)
}

use PathKind::{Exact, Prefix};

/// The table of the Kubernetes documentation, "Ingress: Examples" (path types).
#[test]
fn paths_match_as_kubernetes_documents_it() {
    for (kind, path, request, matches) in [
        (Prefix, "/", "/anything", true),
        (Exact, "/foo", "/foo", true),
        (Exact, "/foo", "/bar", false),
        (Exact, "/foo", "/foo/", false),
        (Exact, "/foo/", "/foo", false),
        (Prefix, "/foo", "/foo", true),
        (Prefix, "/foo", "/foo/", true),
        (Prefix, "/foo/", "/foo", true),
        (Prefix, "/foo/", "/foo/", true),
        (Prefix, "/aaa/bb", "/aaa/bbb", false),
        (Prefix, "/aaa/bbb", "/aaa/bbb", true),
        (Prefix, "/aaa/bbb/", "/aaa/bbb", true),
        (Prefix, "/aaa/bbb", "/aaa/bbb/", true),
        (Prefix, "/aaa/bbb", "/aaa/bbb/ccc", true),
        (Prefix, "/aaa/bbb", "/aaa/bbbxyz", false),
        (Prefix, "/Foo", "/foo", false),
    ] {
        let table = one([rule("a.example", &[(kind, path, "web")])]);
        assert_eq!(found(&table, "a.example", request).is_some(), matches, "{kind:?} {path} {request}");
    }
}

#[test]
fn longest_prefix_wins_and_exact_beats_prefix() {
    let table = one([rule(
        "a.example",
        &[
            (Prefix, "/", "root"),
            (Prefix, "/aaa", "aaa"),
            (Prefix, "/aaa/bbb", "bbb"),
            (Exact, "/aaa/bbb", "exact"),
        ],
    )]);
    assert_eq!(found(&table, "a.example", "/aaa/ccc"), Some("aaa"));
    assert_eq!(found(&table, "a.example", "/ccc"), Some("root"));
    assert_eq!(found(&table, "a.example", "/aaa/bbb/c"), Some("bbb"));
    assert_eq!(found(&table, "a.example", "/aaa/bbb"), Some("exact"));
}

#[test]
fn exact_host_beats_wildcard_beats_no_host() {
    let table = one([
        rule("", &[(Prefix, "/", "any")]),
        rule("*.example.org", &[(Prefix, "/", "wild")]),
        rule("a.example.org", &[(Prefix, "/", "exact")]),
    ]);
    assert_eq!(found(&table, "A.Example.org.:80", "/"), Some("exact"));
    assert_eq!(found(&table, "b.example.org", "/"), Some("wild"));
    assert_eq!(found(&table, "b.c.example.org", "/"), Some("any"), "a wildcard covers one label");
    assert_eq!(found(&table, "example.org", "/"), Some("any"));
    assert_eq!(found(&table, "192.0.2.1:8080", "/"), Some("any"));
    assert_eq!(table.find(None, "/").map(|r| &*r.backend.service.name), Some("any"));
}

#[test]
fn rule_without_host_serves_what_the_host_has_no_path_for() {
    let table = one([rule("a.example", &[(Prefix, "/a", "a")]), rule("", &[(Prefix, "/", "any")])]);
    assert_eq!(found(&table, "a.example", "/a"), Some("a"));
    assert_eq!(found(&table, "a.example", "/b"), Some("any"));
}

#[test]
fn default_backend_takes_what_no_rule_matches_its_own_hosts_first() {
    let mut old = ingress("old", 1);
    old.rules = vec![rule("old.example", &[(Prefix, "/a", "a")])];
    old.default_backend = Some(backend("old-default"));
    let mut young = ingress("young", 2);
    young.rules = vec![rule("young.example", &[(Prefix, "/a", "b")])];
    young.default_backend = Some(backend("young-default"));
    let table = RouteTable::compile(&snapshot([young, old]));
    assert_eq!(found(&table, "old.example", "/z"), Some("old-default"));
    assert_eq!(found(&table, "young.example", "/z"), Some("young-default"));
    assert_eq!(found(&table, "other.example", "/z"), Some("old-default"));
    assert_eq!(table.conflicts().len(), 1, "the catch-all of every host is claimed twice");
}

#[test]
fn older_object_has_the_claim_and_the_younger_keeps_its_other_paths() {
    let mut old = ingress("z-old", 1);
    old.rules = vec![rule("a.example", &[(Prefix, "/x/", "old")])];
    let mut young = ingress("a-young", 2);
    young.rules = vec![rule("a.example", &[(Prefix, "/x", "young"), (Prefix, "/y", "young")])];
    let table = RouteTable::compile(&snapshot([old, young]));
    assert_eq!(found(&table, "a.example", "/x"), Some("old"));
    assert_eq!(found(&table, "a.example", "/y"), Some("young"));
    let [conflict] = table.conflicts() else { panic!("{:?}", table.conflicts()) };
    assert_eq!((&*conflict.winner.name, &*conflict.loser.name), ("z-old", "a-young"));
    assert_eq!(conflict.claim.host.as_ref().map(DnsName::as_str), Some("a.example"));
}

#[test]
fn same_age_goes_by_key() {
    let mut b = ingress("b", 1);
    b.rules = vec![rule("a.example", &[(Prefix, "/", "b")])];
    let mut a = ingress("a", 1);
    a.rules = vec![rule("a.example", &[(Prefix, "/", "a")])];
    assert_eq!(found(&RouteTable::compile(&snapshot([b, a])), "a.example", "/"), Some("a"));
}

#[test]
fn route_index_is_its_position() {
    let table = one([rule("a.example", &[(Prefix, "/", "a"), (Prefix, "/", "dup"), (Exact, "/e", "e")])]);
    for (position, route) in table.routes().iter().enumerate() {
        assert_eq!(route.index, position);
    }
    assert_eq!(table.conflicts().len(), 1, "one object that contradicts itself");
}

#[test]
fn nothing_matches_in_an_empty_table() {
    assert_eq!(RouteTable::default().find(Some("a.example"), "/"), None);
}

#[test]
fn ingress_policy_that_only_names_hosts_keeps_the_fence_of_the_service() {
    let service = Policy { allowed_regions: Some(vec!["eu".into()]), ..Policy::default() };
    let mut ingress = Policy { strategy: Steering::Failover(vec![vec!["a".into()]]), ..Policy::default() };
    ingress.dns.ttl = 5;
    let policy = effective_policy(Some(&ingress), &service);
    assert_eq!(policy.allowed_regions, service.allowed_regions);
    assert_eq!(policy.strategy, ingress.strategy);
    assert_eq!(policy.dns.ttl, 5);
}

/// What the semantics say, without any table: every rule is looked at and the best one kept.
fn reference<'a>(ingresses: &'a [GlobalIngress], host: &str, path: &str) -> Option<&'a Backend> {
    let host_rank = |rule: &Option<DnsName>| match rule.as_ref().map(DnsName::as_str) {
        None => Some(2),
        Some(name) if name == host => Some(0),
        Some(name) => {
            let (label, rest) = host.split_once('.')?;
            (!label.is_empty() && name.strip_prefix("*.") == Some(rest)).then_some(1)
        }
    };
    let elements =
        |path: &str| path.strip_suffix('/').unwrap_or(path).split('/').map(str::to_owned).collect::<Vec<_>>();
    // (default or rule, host rank, path rank, age, key, position): the least one wins.
    let mut best = None;
    for ingress in ingresses {
        let paths = ingress.rules.iter().flat_map(|r| r.paths.iter().map(move |p| (&r.host, p)));
        for (position, (rule_host, rule)) in paths.enumerate() {
            let Some(rank) = host_rank(rule_host) else { continue };
            let path_rank = match rule.kind {
                Exact if *rule.path == *path => 0,
                // Without the trailing slash on either side, so `//` in a request stays an element.
                Prefix
                    if path.strip_suffix('/').unwrap_or(path)
                        == rule.path.strip_suffix('/').unwrap_or(&rule.path)
                        || path.split('/').collect::<Vec<_>>().starts_with(
                            &elements(&rule.path).iter().map(String::as_str).collect::<Vec<_>>(),
                        ) =>
                {
                    usize::MAX - elements(&rule.path).join("/").len()
                }
                _ => continue,
            };
            let order = (0, rank, path_rank, ingress.created, &ingress.key, position);
            if best.as_ref().is_none_or(|(lowest, _)| order < *lowest) {
                best = Some((order, &rule.backend));
            }
        }
        if let Some(backend) = &ingress.default_backend {
            let own =
                ingress.rules.iter().filter_map(|r| r.host.is_some().then(|| host_rank(&r.host))?).min();
            let order = (1, own.unwrap_or(2), 0, ingress.created, &ingress.key, 0);
            if best.as_ref().is_none_or(|(lowest, _)| order < *lowest) {
                best = Some((order, backend));
            }
        }
    }
    best.map(|(_, backend)| backend)
}

fn any_ingress() -> impl Strategy<Value = (u64, Vec<HostRule>, bool)> {
    let host = prop::sample::select(vec!["", "a.ex", "b.ex", "*.ex", "*.a.ex"]);
    let path = prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c/"]);
    let kind = prop::sample::select(vec![Exact, Prefix]);
    let paths = prop::collection::vec((kind, path), 1..4);
    let rules = prop::collection::vec((host, paths), 0..4).prop_map(|rules| {
        rules
            .into_iter()
            .map(|(host, paths)| {
                rule(host, &paths.into_iter().map(|(kind, path)| (kind, path, "?")).collect::<Vec<_>>())
            })
            .collect()
    });
    (0..3_u64, rules, prop::bool::weighted(0.3))
}

proptest! {
    #[test]
    fn table_agrees_with_the_reference(
        objects in prop::collection::vec(any_ingress(), 0..5),
        host in prop::sample::select(vec!["a.ex", "b.ex", "c.ex", "x.a.ex", "x.y.ex", "ex"]),
        path in "(/(a|b|ab|c|)){1,4}",
    ) {
        let mut ingresses = Vec::new();
        for (number, (created, mut rules, has_default)) in objects.into_iter().enumerate() {
            let mut object = ingress(&format!("i{number}"), created);
            // Every backend differs, so that an equal answer is the same rule.
            for (r, rule) in rules.iter_mut().enumerate() {
                for (p, path) in rule.paths.iter_mut().enumerate() {
                    path.backend = backend(&format!("i{number}-{r}-{p}"));
                }
            }
            object.rules = rules;
            object.default_backend = has_default.then(|| backend(&format!("i{number}-default")));
            ingresses.push(object);
        }
        let table = RouteTable::compile(&snapshot(ingresses.clone()));
        let found = table.find(Some(host), &path).map(|route| &route.backend);
        prop_assert_eq!(found, reference(&ingresses, host, &path));
    }
}
