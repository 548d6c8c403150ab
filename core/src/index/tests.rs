//! Facts in, snapshots out.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proptest::prelude::*;

use super::{testkit::*, *};
use crate::{
    id::RegionName,
    snapshot::{Address, Capacity, DnsPolicy, NameTarget, Network, Strategy},
};

use TargetKind::{FederatedIngress, FederatedService, Ingress, Service};

fn pairs(list: &[(&str, u32)]) -> Vec<(String, u32)> {
    list.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[test]
fn shard_is_a_member_that_has_the_service() {
    let mut fleet =
        Fleet::of(&["asia-east1", "europe-west1"]).federates("web").runs("europe-west1", "web", 2);
    assert_eq!(fleet.ready("web"), pairs(&[("europe-west1", 2)]));
}

#[test]
fn member_service_that_nobody_names_is_not_global() {
    let mut fleet = Fleet::of(&["asia-east1"]).runs("asia-east1", "internal", 2);
    assert!(fleet.settle().services.is_empty());
}

#[test]
fn nothing_is_published_when_nothing_changed() {
    let mut fleet = Fleet::of(&["asia-east1"]).federates("web").runs("asia-east1", "web", 2);
    let first = fleet.settle();
    assert_eq!(first.generation.seq, 1);
    fleet.scale("asia-east1", "web", 2);
    assert_eq!(fleet.publish(), None);
    fleet.scale("asia-east1", "web", 3);
    assert_eq!(fleet.publish().unwrap().generation.seq, 2);
}

#[test]
fn what_did_not_change_keeps_its_pointer() {
    let mut fleet = Fleet::of(&["asia-east1"]).federates("a").federates("b").runs("asia-east1", "a", 1).runs(
        "asia-east1",
        "b",
        1,
    );
    let first = fleet.settle();
    fleet.scale("asia-east1", "a", 2);
    let second = fleet.settle();
    assert!(Arc::ptr_eq(&first.services[&key("b")], &second.services[&key("b")]));
    assert!(!Arc::ptr_eq(&first.services[&key("a")], &second.services[&key("a")]));
}

#[test]
fn only_ready_endpoints_count_and_leaving_ones_are_kept_for_failing_open() {
    let mut fleet = Fleet::of(&["eu"]).federates("web").runs("eu", "web", 0);
    let all = [endpoint("10.0.0.1"), unready("10.0.0.2"), leaving("10.0.0.3")];
    fleet.slice("eu", "slice", slice("web", all.clone()));
    let shard = &fleet.shards("web")[0];
    assert_eq!((shard.ready, shard.total), (1, 2));
    assert_eq!(shard.groups[0].endpoints[0].address, all[0].address);

    fleet.slice("eu", "slice", slice("web", all[1..].to_vec()));
    let shard = &fleet.shards("web")[0];
    assert_eq!((shard.ready, shard.total), (0, 1));
    assert_eq!(shard.groups[0].endpoints[0].address, all[2].address);
}

#[test]
fn slices_of_one_service_are_merged_and_a_deleted_one_is_taken_out() {
    let mut fleet = Fleet::of(&["eu"]).federates("web").runs("eu", "web", 0);
    fleet.slice("eu", "one", slice("web", [endpoint("10.0.0.1"), endpoint("10.0.0.2")]));
    fleet.slice("eu", "two", slice("web", [endpoint("10.0.0.2"), endpoint("10.0.0.3")]));
    assert_eq!(fleet.ready("web"), pairs(&[("eu", 3)]));
    fleet.index.member_slices(&"eu".into(), Change::Delete(key("web-one")));
    assert_eq!(fleet.ready("web"), pairs(&[("eu", 2)]));
}

#[test]
fn dual_stack_pods_are_counted_once_and_both_addresses_are_kept() {
    let mut fleet = Fleet::of(&["eu"]).federates("web").runs("eu", "web", 0);
    fleet.slice("eu", "v4", slice("web", [endpoint("10.0.0.1"), endpoint("10.0.0.2")]));
    fleet.slice("eu", "v6", slice("web", [endpoint("fd00::1"), endpoint("fd00::2")]));
    let shard = &fleet.shards("web")[0];
    assert_eq!(shard.ready, 2);
    assert_eq!(shard.groups[0].endpoints.len(), 4);
}

#[test]
fn relist_drops_what_was_deleted_while_nobody_looked() {
    let mut fleet = Fleet::of(&["eu"]).federates("web").runs("eu", "web", 1);
    fleet.slice("eu", "old", slice("web", [endpoint("10.0.0.9")]));
    assert_eq!(fleet.ready("web"), pairs(&[("eu", 2)]));
    let left = vec![(key("web-slice"), slice("web", [endpoint("10.0.0.0")]))];
    fleet.index.member_slices(&"eu".into(), Change::Reset(left));
    assert_eq!(fleet.ready("web"), pairs(&[("eu", 1)]));
}

#[test]
fn only_removal_from_the_hub_drops_a_members_facts() {
    let mut fleet = Fleet::of(&["asia", "eu"]).federates("web").runs("asia", "web", 1).runs("eu", "web", 1);
    // A member that says nothing more is a member whose API server is away.
    assert_eq!(fleet.ready("web"), pairs(&[("asia", 1), ("eu", 1)]));
    fleet.index.remove_member(&"eu".into());
    assert_eq!(fleet.ready("web"), pairs(&[("asia", 1)]));
    assert!(!fleet.settle().clusters.contains_key("eu"));
}

#[test]
fn facts_of_a_member_that_the_hub_does_not_know_wait_for_it() {
    let mut fleet = Fleet::of(&[]).federates("web").runs("eu", "web", 1);
    assert_eq!(fleet.ready("web"), []);
    fleet.index.apply_member(Fleet::member("eu"));
    assert_eq!(fleet.ready("web"), pairs(&[("eu", 1)]));
}

#[test]
fn policy_takes_shards_of_a_plain_service_from_selected_members_only() {
    let mut fleet =
        Fleet::of(&["asia", "eu", "us"]).runs("asia", "web", 1).runs("eu", "web", 2).runs("us", "web", 3);
    let mut wanted = policy(&[(Service, "web")]);
    wanted.clusters.names = ["asia".into(), "eu".into()].into();
    fleet.policy("p", 1, wanted.clone());
    assert_eq!(fleet.ready("web"), pairs(&[("asia", 1), ("eu", 2)]));
    wanted.clusters = ClusterSelector { labels: [("name".into(), "us".into())].into(), ..Default::default() };
    fleet.policy("p", 1, wanted);
    assert_eq!(fleet.ready("web"), pairs(&[("us", 3)]));
    fleet.index.policies(Change::Delete(key("p")));
    assert!(fleet.settle().services.is_empty());
}

#[test]
fn declared_capacity_is_per_ready_endpoint() {
    let mut fleet = Fleet::of(&["asia", "eu", "us"])
        .federates("web")
        .runs("asia", "web", 2)
        .runs("eu", "web", 2)
        .runs("us", "web", 2);
    let capacity = CapacityDeclaration {
        per_cluster: BTreeMap::from([("eu".into(), (None, Some(1.5)))]),
        ..rate(100.0)
    };
    let declared = PolicyFact { capacity: Some(capacity), ..policy(&[(FederatedService, "web")]) };
    fleet.policy("p", 1, declared);
    let capacities: Vec<Capacity> = fleet.shards("web").iter().map(|shard| shard.capacity).collect();
    assert_eq!(capacities, [Capacity::Rate(200.0), Capacity::InFlight(3), Capacity::Rate(200.0)]);
}

#[test]
fn policy_on_the_ingress_beats_the_services_which_beats_annotations() {
    let mut fleet = Fleet::of(&["eu"]).federates("web").runs("eu", "web", 1);
    let capacity_now = |fleet: &mut Fleet| fleet.shards("web")[0].capacity;
    assert_eq!(capacity_now(&mut fleet), Capacity::Undeclared);
    fleet.serve("eu", "web", ServiceFact { capacity: Some(rate(1.0)), ..ServiceFact::default() });
    assert_eq!(capacity_now(&mut fleet), Capacity::Rate(1.0));
    let on_service = PolicyFact { capacity: Some(rate(2.0)), ..policy(&[(FederatedService, "web")]) };
    fleet.policy("service", 1, on_service);
    assert_eq!(capacity_now(&mut fleet), Capacity::Rate(2.0));
    fleet.ingress(key("front"), 1, ingress(None, "web"));
    let on_ingress = PolicyFact { capacity: Some(rate(3.0)), ..policy(&[(FederatedIngress, "front")]) };
    fleet.policy("ingress", 1, on_ingress);
    assert_eq!(capacity_now(&mut fleet), Capacity::Rate(3.0));
}

#[test]
fn steering_of_the_policy_reaches_the_service() {
    let mut fleet = Fleet::of(&["eu"]).federates("web").runs("eu", "web", 1);
    let strategy = Strategy::Failover(vec![vec!["eu".into()]]);
    let allowed_regions = Some(vec![RegionName::from("eu")]);
    let wanted = PolicyFact {
        strategy: strategy.clone(),
        allowed_regions: allowed_regions.clone(),
        ..policy(&[(FederatedService, "web")])
    };
    fleet.policy("p", 1, wanted);
    let policy = fleet.settle().services[&key("web")].policy.clone();
    assert_eq!((policy.strategy, policy.allowed_regions), (strategy, allowed_regions));
}

#[test]
fn older_policy_has_the_target_and_the_younger_is_told() {
    let mut fleet = Fleet::of(&["eu"]).federates("web").runs("eu", "web", 1);
    let declared =
        |per: f64| PolicyFact { capacity: Some(rate(per)), ..policy(&[(FederatedService, "web")]) };
    fleet.policy("young", 20, declared(2.0));
    fleet.policy("old", 10, declared(1.0));
    assert_eq!(fleet.shards("web")[0].capacity, Capacity::Rate(1.0));
    assert_eq!(fleet.policy_fault("old"), None);
    let fault = fleet.policy_fault("young").unwrap();
    assert_eq!(fault.reason, "Conflicted");
    assert!(fault.message.contains("shop/old"), "{}", fault.message);
}

#[test]
fn target_that_does_not_exist_is_named() {
    let mut fleet = Fleet::of(&["eu"]);
    fleet.policy("p", 1, policy(&[(FederatedService, "nowhere")]));
    fleet.settle();
    let fault = fleet.index.verdicts().policies[&key("p")].unresolved.clone().unwrap();
    assert_eq!(fault.reason, "TargetNotFound");
    assert!(fault.message.contains("FederatedService shop/nowhere"), "{}", fault.message);
    fleet = fleet.federates("nowhere");
    fleet.settle();
    assert_eq!(fleet.index.verdicts().policies[&key("p")].unresolved, None);
}

#[test]
fn addresses_of_sites_in_a_members_ingress_lead_back_here_and_do_not_count() {
    let mut fleet = Fleet::of(&["eu"]).federates("web").runs("eu", "web", 1);
    fleet.site("edge", "eu");
    let addresses = ["203.0.113.1", "198.51.100.7"].map(|ip| Address::Ip(ip.parse().unwrap()));
    let fact = MemberIngressFact { ingress: ingress(None, "web"), addresses: addresses.to_vec() };
    fleet.index.member_ingresses(&"eu".into(), Change::Apply(key("front"), fact));
    assert_eq!(fleet.shards("web")[0].ingress, addresses[1..]);
}

#[test]
fn services_behind_an_ingress_are_global_without_more_ado() {
    let mut fleet = Fleet::of(&["eu"]).runs("eu", "web", 1);
    fleet.ingress(key("front"), 1, ingress(None, "web"));
    assert_eq!(fleet.ready("web"), pairs(&[("eu", 1)]));
    assert_eq!(fleet.settle().ingresses[&key("front")].rules.len(), 1);
}

#[test]
fn plain_ingress_named_by_a_policy_takes_its_rules_from_a_selected_member() {
    let mut fleet = Fleet::of(&["asia", "eu"]).runs("eu", "web", 1).runs("asia", "web", 1);
    let fact = MemberIngressFact { ingress: ingress(Some("a.example.org"), "web"), addresses: vec![] };
    fleet.index.member_ingresses(&"eu".into(), Change::Apply(key("front"), fact));
    assert!(fleet.settle().ingresses.is_empty());
    fleet.policy("p", 1, policy(&[(Ingress, "front")]));
    assert_eq!(fleet.settle().ingresses[&key("front")].rules[0].host, Some(name("a.example.org")));
    assert_eq!(fleet.ready("web"), pairs(&[("asia", 1), ("eu", 1)]));
}

#[test]
fn hostname_is_served_by_the_zone_with_the_longest_suffix() {
    let mut fleet = Fleet::of(&["eu"]).federates("web").runs("eu", "web", 1);
    fleet.zone("parent", zone("example.org"));
    fleet.zone("child", zone("eu.example.org"));
    let hosts = ["app.eu.example.org", "app.example.org", "app.example.net"];
    fleet.policy("p", 1, with_hostnames(&hosts, policy(&[(FederatedService, "web")])));
    assert_eq!(fleet.names("eu.example.org"), ["app.eu.example.org"]);
    assert_eq!(fleet.names("example.org"), ["app.example.org"]);
    assert_eq!(fleet.policy_fault("p").unwrap().reason, "NoZone");
}

#[test]
fn older_claim_to_a_hostname_beats_the_younger_which_is_told_the_winner() {
    let mut fleet = Fleet::of(&["eu"]).federates("web").federates("api");
    fleet.zone("z", zone("example.org"));
    let claim = |service| with_hostnames(&["app.example.org"], policy(&[(FederatedService, service)]));
    fleet.policy("young", 20, claim("web"));
    fleet.policy("old", 10, claim("api"));
    let target = fleet.settle().zones[&name("example.org")].names[&name("app.example.org")].clone();
    assert_eq!(target, NameTarget::Service(key("api")));
    assert_eq!(fleet.policy_fault("old"), None);
    let fault = fleet.policy_fault("young").unwrap();
    assert_eq!(fault.reason, "HostnameConflict");
    assert!(fault.message.contains("app.example.org") && fault.message.contains("TrafficPolicy shop/old"));
}

#[test]
fn ingress_of_another_namespace_loses_a_taken_host_in_dns_and_in_routes() {
    let mut fleet = Fleet::of(&["eu"]);
    fleet.zone("z", zone("example.org"));
    let other = ObjectKey::new("rival", "front");
    fleet.ingress(key("front"), 10, ingress(Some("app.example.org"), "web"));
    fleet.ingress(other.clone(), 20, ingress(Some("app.example.org"), "web"));
    let snapshot = fleet.settle();
    assert_eq!(snapshot.ingresses[&key("front")].rules.len(), 1);
    assert!(snapshot.ingresses[&other].rules.is_empty());
    let fault = &fleet.index.verdicts().ingresses[&other];
    assert!(fault.message.contains("FederatedIngress shop/front"), "{}", fault.message);
    assert!(!fleet.index.verdicts().ingresses.contains_key(&key("front")));
}

#[test]
fn policy_is_told_of_the_host_that_its_plain_ingress_lost() {
    let mut fleet = Fleet::of(&["eu"]);
    fleet.ingress(ObjectKey::new("rival", "front"), 1, ingress(Some("app.example.org"), "web"));
    let rules = IngressFact { created: Timestamp::from_millis(9), ..ingress(Some("app.example.org"), "web") };
    let fact = MemberIngressFact { ingress: rules, addresses: vec![] };
    fleet.index.member_ingresses(&"eu".into(), Change::Apply(key("front"), fact));
    fleet.policy("p", 9, policy(&[(Ingress, "front")]));
    let fault = fleet.policy_fault("p").unwrap();
    assert!(fault.message.contains("FederatedIngress rival/front"), "{}", fault.message);
}

#[test]
fn ingress_is_told_of_what_was_left_out_and_of_paths_that_another_has() {
    let mut fleet = Fleet::of(&["eu"]);
    let faults = vec!["spec.rules[0].host: no".to_owned()];
    fleet.ingress(key("broken"), 1, IngressFact { faults, ..ingress(None, "web") });
    fleet.ingress(key("young"), 2, ingress(None, "api"));
    fleet.settle();
    let told = &fleet.index.verdicts().ingresses;
    assert_eq!(told[&key("broken")], Fault::new("Invalid", "spec.rules[0].host: no".to_owned()));
    assert_eq!(told[&key("young")].reason, "Conflicted");
    assert!(told[&key("young")].message.contains("FederatedIngress shop/broken"), "{told:?}");
}

#[test]
fn site_is_told_of_a_member_that_does_not_exist() {
    let mut fleet = Fleet::of(&["eu"]);
    fleet.site("edge", "eu");
    let mut site = fleet.settle().sites["edge"].as_ref().clone();
    assert_eq!(fleet.index.verdicts().sites["edge"], None);
    site.cluster = Some("nowhere".into());
    fleet.index.sites(Change::Apply("edge".into(), SiteFact { site, faults: vec![] }));
    fleet.settle();
    let fault = fleet.index.verdicts().sites["edge"].clone().unwrap();
    assert!(fault.message.contains("spec.memberCluster") && fault.message.contains("nowhere"), "{fault:?}");
    fleet.index.apply_member(Fleet::member("nowhere"));
    fleet.settle();
    assert_eq!(fleet.index.verdicts().sites["edge"], None);
}

#[test]
fn ingresses_of_one_namespace_share_a_host() {
    let mut fleet = Fleet::of(&["eu"]);
    fleet.ingress(key("one"), 10, ingress(Some("app.example.org"), "web"));
    let mut two = ingress(Some("app.example.org"), "web");
    two.rules[0].paths[0].path = "/two".into();
    fleet.ingress(key("two"), 20, two);
    let snapshot = fleet.settle();
    assert_eq!(snapshot.ingresses[&key("two")].rules.len(), 1);
    assert!(fleet.index.verdicts().ingresses.is_empty());
}

#[test]
fn namespace_that_the_zone_does_not_admit_stands_in_nobodys_way() {
    let mut fleet = Fleet::of(&["eu"]);
    let admits = Admits { all: false, names: ["shop".to_owned()].into() };
    fleet.zone("z", ZoneFact { admits, ..zone("example.org") });
    let other = ObjectKey::new("rival", "front");
    fleet.ingress(other.clone(), 10, ingress(Some("app.example.org"), "web"));
    fleet.ingress(key("front"), 20, ingress(Some("app.example.org"), "web"));
    let target = fleet.settle().zones[&name("example.org")].names[&name("app.example.org")].clone();
    assert_eq!(target, NameTarget::Ingress(key("front")));
    assert_eq!(fleet.index.verdicts().ingresses[&other].reason, "HostnameNotAllowed");
}

#[test]
fn static_record_beats_a_dynamic_name() {
    let mut fleet = Fleet::of(&["eu"]).federates("web");
    let mut fact = zone("example.org");
    fact.zone.records = vec![a_record("app.example.org")];
    fleet.zone("z", fact);
    fleet.policy("p", 1, with_hostnames(&["app.example.org"], policy(&[(FederatedService, "web")])));
    assert!(fleet.names("example.org").is_empty());
    let fault = fleet.policy_fault("p").unwrap();
    assert!(fault.message.contains("static record of DnsZone z"), "{}", fault.message);
}

#[test]
fn older_zone_of_one_domain_is_served() {
    let mut fleet = Fleet::of(&[]);
    fleet.zone("a-young", ZoneFact { created: Timestamp::from_millis(2000), ..zone("example.org") });
    fleet.zone("z-old", zone("example.org"));
    fleet.settle();
    let zones = &fleet.index.verdicts().zones;
    assert_eq!(zones["z-old"].not_accepted, None);
    assert!(zones["z-old"].serial.is_some());
    assert_eq!(zones["a-young"].not_accepted.as_ref().unwrap().reason, "DomainConflict");
    assert_eq!(zones["a-young"].serial, None);
}

#[test]
fn balanced_service_has_kubefeds_names_at_all_levels() {
    let mut fleet = Fleet::of(&["eu"])
        .federates("web")
        .federates("internal")
        .runs_balanced("eu", "web", "198.51.100.1")
        .runs("eu", "internal", 1);
    fleet.zone("z", ZoneFact { federation: Some("fed".into()), ..zone("example.org") });
    let names = fleet.names("example.org");
    assert_eq!(
        names,
        [
            "web.shop.fed.svc.eu-a.eu.example.org",
            "web.shop.fed.svc.eu-b.eu.example.org",
            "web.shop.fed.svc.eu.example.org",
            "web.shop.fed.svc.example.org",
        ]
    );
    let snapshot = fleet.settle();
    let target = &snapshot.zones[&name("example.org")].names[&name("web.shop.fed.svc.eu-a.eu.example.org")];
    let fallback = name("web.shop.fed.svc.eu.example.org");
    let expected =
        NameTarget::ZonalService { service: key("web"), region: "eu".into(), zone: "eu-a".into(), fallback };
    assert_eq!(*target, expected);
}

#[test]
fn serial_rises_with_each_change_of_the_zone_and_only_then() {
    let mut fleet = Fleet::of(&["eu"]).federates("web").runs("eu", "web", 1);
    fleet.zone("z", zone("example.org"));
    let serial = |fleet: &mut Fleet| fleet.settle().zones[&name("example.org")].soa.serial;
    let first = serial(&mut fleet);
    assert_eq!(u64::from(first), fleet.now.as_millis() / 1000);
    fleet.scale("eu", "web", 5);
    assert_eq!(serial(&mut fleet), first);
    // In the same second, so that the clock does not help.
    fleet.policy("p", 1, with_hostnames(&["app.example.org"], policy(&[(FederatedService, "web")])));
    assert_eq!(serial(&mut fleet), first + 1);
}

#[test]
fn serial_never_falls_behind_what_the_status_says() {
    let mut fleet = Fleet::of(&[]);
    let mut fact = zone("example.org");
    fact.zone.soa.serial = 4_000_000_000;
    fleet.zone("z", fact);
    assert_eq!(fleet.settle().zones[&name("example.org")].soa.serial, 4_000_000_001);
    // Our own write of the status comes back and changes nothing.
    let mut echo = zone("example.org");
    echo.zone.soa.serial = 4_000_000_001;
    fleet.zone("z", echo);
    assert_eq!(fleet.publish(), None);
}

#[test]
fn ttl_comes_from_the_policy_else_from_the_zone() {
    let mut fleet = Fleet::of(&["eu"]).federates("web").runs("eu", "web", 1);
    fleet.zone("z", ZoneFact { ttl: 7, ..zone("example.org") });
    let wanted = with_hostnames(&["app.example.org"], policy(&[(FederatedService, "web")]));
    fleet.policy("p", 1, wanted.clone());
    let dns = |fleet: &mut Fleet| fleet.settle().services[&key("web")].policy.dns.clone();
    let expected = DnsPolicy { ttl: 7, hostnames: vec![name("app.example.org")], ..DnsPolicy::default() };
    assert_eq!(dns(&mut fleet), expected);
    let declared = DnsDeclaration { ttl: Some(99), ..wanted.dns.clone() };
    fleet.policy("p", 1, PolicyFact { dns: declared, ..wanted });
    assert_eq!(dns(&mut fleet).ttl, 99);
}

#[test]
fn certificate_is_the_hubs_own_else_the_federated_one_and_only_if_named() {
    let mut fleet = Fleet::of(&["eu"]);
    let certificate = |key: &str| Certificate { chain_pem: "chain".into(), key_pem: key.into() };
    fleet.index.certificates(Change::Apply(key("unused"), certificate("unused")));
    fleet.index.federated_certificates(Change::Apply(key("tls"), certificate("federated")));
    let tls = vec![TlsFact { hosts: vec![], secret: key("tls") }];
    fleet.ingress(key("front"), 1, IngressFact { tls, ..ingress(None, "web") });
    let held = |fleet: &mut Fleet| {
        let certificates = fleet.settle().certificates.clone();
        certificates.into_iter().map(|(key, c)| (key, c.key_pem.to_string())).collect::<Vec<_>>()
    };
    assert_eq!(held(&mut fleet), [(key("tls"), "federated".to_owned())]);
    fleet.index.certificates(Change::Apply(key("tls"), certificate("own")));
    assert_eq!(held(&mut fleet), [(key("tls"), "own".to_owned())]);
}

#[test]
fn site_takes_region_and_place_of_its_member() {
    let mut fleet = Fleet::of(&["asia-east1"]);
    fleet.site("edge", "europe-west1");
    let own = fleet.settle().sites["edge"].location;
    assert_eq!(own, crate::geo::region_location("europe-west1"));
    let mut site = fleet.settle().sites["edge"].as_ref().clone();
    (site.region, site.location, site.cluster) = (None, None, Some("asia-east1".into()));
    fleet.index.sites(Change::Apply("edge".into(), SiteFact { site, faults: vec![] }));
    let snapshot = fleet.settle();
    assert_eq!(snapshot.sites["edge"].region, Some("asia-east1".into()));
    assert_eq!(snapshot.sites["edge"].location, snapshot.clusters["asia-east1"].location);
}

#[test]
fn only_the_excess_of_two_sites_leaves_a_full_shard() {
    let mut fleet = loaded();
    fleet.report("asia", 75.0);
    fleet.report("asia-2", 75.0);
    let load = fleet.settle().services[&key("web")].load.clone();
    let away: f64 = ["asia", "asia-2"]
        .map(|site| load.shares[site].get("us-central1").unwrap_or(&0.0) * 75.0)
        .iter()
        .sum();
    assert!((away - 50.0).abs() < 1e-6, "{load:?}");
}

#[test]
fn steady_demand_makes_no_new_generation() {
    let mut fleet = loaded();
    fleet.report("asia", 75.0);
    fleet.settle();
    for wobble in [75.3, 74.8, 75.1] {
        fleet.report("asia", wobble);
        assert_eq!(fleet.publish(), None);
    }
    fleet.report("asia", 140.0);
    assert!(fleet.publish().is_some());
}

#[test]
fn demand_dies_away_and_then_is_quiet() {
    let mut fleet = loaded();
    fleet.report("asia", 75.0);
    fleet.settle();
    for _ in 0..60 {
        fleet.report("asia", 0.0);
        fleet.settle();
    }
    assert!(fleet.settle().services[&key("web")].load.demand.is_empty());
    fleet.report("asia", 0.0);
    assert_eq!(fleet.publish(), None);
}

#[test]
fn silent_site_keeps_its_demand() {
    let mut fleet = loaded();
    fleet.report("asia", 75.0);
    let before = fleet.settle().services[&key("web")].load.clone();
    fleet.now = fleet.now + Duration::from_secs(3600);
    fleet.scale("us-central1", "web", 3);
    assert_eq!(fleet.settle().services[&key("web")].load, before);
}

#[test]
fn without_declared_rate_load_is_not_published() {
    let mut fleet = Fleet::of(&["eu"]).federates("web").runs("eu", "web", 1);
    fleet.site("asia", "asia-east1");
    fleet.settle();
    fleet.report("asia", 75.0);
    assert_eq!(fleet.publish(), None);
}

#[test]
fn shares_follow_when_a_shard_is_lost() {
    let mut fleet = loaded();
    fleet.report("asia", 75.0);
    assert_eq!(fleet.settle().services[&key("web")].load.shares["asia"].len(), 1);
    fleet.scale("asia-east1", "web", 0);
    let shares = fleet.settle().services[&key("web")].load.shares["asia"].clone();
    assert_eq!(shares.into_iter().collect::<Vec<_>>(), [("us-central1".into(), 1.0)]);
}

#[test]
fn term_rises_above_what_an_edge_holds() {
    let mut fleet = Fleet::of(&["eu"]);
    fleet.settle();
    let held = Generation { hub: "hub".into(), term: 4, seq: 7 };
    assert!(fleet.index.outrank(&held));
    let snapshot = fleet.publish().unwrap();
    assert!(snapshot.generation.supersedes(&held));
    assert!(!fleet.index.outrank(&held));
    assert!(!fleet.index.outrank(&Generation { hub: "another".into(), ..held }));
}

#[test]
fn changed_network_of_a_member_reaches_the_edges() {
    let mut fleet = Fleet::of(&["eu"]);
    fleet.settle();
    let mut fact = Fleet::member("eu");
    fact.cluster.network = Network::Gateway(vec![]);
    fleet.index.apply_member(fact);
    assert_eq!(fleet.publish().unwrap().clusters["eu"].network, Network::Gateway(vec![]));
}

/// Two members with 100 requests per second each, two sites in Asia.
fn loaded() -> Fleet {
    let mut fleet = Fleet::of(&["asia-east1", "us-central1"])
        .federates("web")
        .runs("asia-east1", "web", 1)
        .runs("us-central1", "web", 1);
    fleet.policy("p", 1, PolicyFact { capacity: Some(rate(100.0)), ..policy(&[(FederatedService, "web")]) });
    fleet.site("asia", "asia-east1");
    fleet.site("asia-2", "asia-east2");
    fleet.settle();
    fleet
}

impl Fleet {
    fn report(&mut self, site: &str, rate: f64) {
        self.now = self.now + Duration::from_secs(1);
        self.index.report(&site.into(), [(key("web"), rate)], self.now);
    }
}

proptest! {
    /// Whatever order facts come in, and however often, the same facts make the same snapshot.
    #[test]
    fn order_of_facts_does_not_matter(
        steps in prop::collection::vec((0..3_usize, 0..3_usize, 0..4_u8), 1..40),
        publish_every in 1..10_usize,
    ) {
        let (members, services) = (["asia", "eu", "us"], ["a", "b", "c"]);
        let mut last = BTreeMap::new();
        let mut stepwise = Fleet::of(&members).federates("a").federates("b");
        for (position, &(member, service, ready)) in steps.iter().enumerate() {
            stepwise = stepwise.runs(members[member], services[service], ready);
            last.insert((member, service), ready);
            if position % publish_every == 0 { stepwise.settle(); }
        }
        let mut at_once = Fleet::of(&members).federates("b").federates("a");
        for ((member, service), ready) in last.into_iter().rev() {
            at_once = at_once.runs(members[member], services[service], ready);
        }
        let (a, b) = (stepwise.settle(), at_once.settle());
        prop_assert_eq!(&a.services, &b.services);
        prop_assert_eq!(&a.clusters, &b.clusters);
    }
}

#[test]
fn a_certificate_counts_only_for_hosts_that_its_ingress_routes() {
    let mut fleet = Fleet::of(&["eu"]).federates("web").runs("eu", "web", 1);
    let tls = || vec![TlsFact { hosts: vec!["shop.example.org".parse().unwrap()], secret: key("tls") }];
    fleet.ingress(key("shop"), 2, IngressFact { tls: tls(), ..ingress(Some("shop.example.org"), "web") });
    fleet.ingress(key("thief"), 1, IngressFact { tls: tls(), ..ingress(Some("thief.example.org"), "web") });
    fleet.ingress(key("bare"), 1, IngressFact { tls: tls(), ..ingress(None, "web") });
    let snapshot = fleet.settle();
    let certificates = |name: &str| snapshot.ingresses[&key(name)].tls.len();
    assert_eq!([certificates("shop"), certificates("thief"), certificates("bare")], [1, 0, 0]);
}
