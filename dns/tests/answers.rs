//! Answers as text: who asks for what and gets which addresses.

#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use meridian_core::{
    snapshot::{
        Address, Dial, DnsTarget, GeoOverride, GeoSource, NameTarget, RecordData, Strategy, WhenAllUnhealthy,
    },
    steer::Why,
    zone::{NameKey, RecordType},
};
use meridian_dns::{
    answer::{Answer, Asker, Data, Owner, Question, Rcode, answer},
    ecs::MAX_PREFIX_V4,
    view::View,
};

const APP: &str = "app.example.org";
const WEB: &str = "web.shop.fed.svc.example.org";

fn ask_kind(view: &View, client: &str, question: &str, kind: RecordType) -> Answer {
    let network = client.parse().unwrap();
    let located = database().locate_network(network, MAX_PREFIX_V4);
    let asker = Asker { network, location: located.location, tile: located.tile };
    answer(Some(view), &Question { name: NameKey::from(&name(question)), kind }, &asker)
}

/// `rcode [record ...] /scope`, negative answers with the TTL of their SOA.
fn text(answer: &Answer) -> String {
    let mut parts = vec![format!("{:?}", answer.rcode).to_uppercase()];
    for entry in &answer.answers {
        let owner = match &entry.owner {
            Owner::Question => "",
            Owner::Name(name) => &format!("{name}:"),
        };
        parts.push(match &entry.data {
            Data::Record(RecordData::A(address)) => format!("{owner}{address}"),
            Data::Record(RecordData::Aaaa(address)) => format!("{owner}{address}"),
            Data::Record(RecordData::Cname(target)) => format!("{owner}>{target}"),
            Data::Record(other) => format!("{owner}{other:?}"),
            Data::Soa(soa) => format!("{owner}soa:{}", soa.serial),
            Data::Any => format!("{owner}any"),
        });
    }
    for entry in &answer.authority {
        if matches!(entry.data, Data::Soa(_)) {
            parts.push(format!("soa-ttl:{}", entry.ttl));
        }
    }
    parts.push(format!("/{}", answer.scope));
    parts.join(" ")
}

fn ask(view: &View, client: &str, question: &str) -> String {
    text(&ask_kind(view, client, question, RecordType::A))
}

#[test]
fn each_client_gets_its_nearest_site_for_an_ingress_host() {
    let view = Fleet::new().view();
    assert_eq!(ask(&view, TAIWAN, APP), "NOERROR 198.18.1.1 /24");
    assert_eq!(ask(&view, FRANKFURT, APP), "NOERROR 198.18.1.2 /24");
    assert_eq!(ask(&view, IOWA, APP), "NOERROR 198.18.1.3 /24");
    assert_eq!(ask_kind(&view, IOWA, APP, RecordType::A).answers[0].ttl, 30);
}

#[test]
fn aaaa_is_the_same_choice_as_a() {
    let view = Fleet::new().view();
    let aaaa = |client| text(&ask_kind(&view, client, APP, RecordType::AAAA));
    assert_eq!(aaaa(TAIWAN), "NOERROR 2001:db8:1::1 /24");
    assert_eq!(aaaa(FRANKFURT), "NOERROR 2001:db8:1::2 /24");
    // Members have no IPv6 here: NODATA, for everybody, rather than another member's address.
    assert_eq!(text(&ask_kind(&view, TAIWAN, WEB, RecordType::AAAA)), "NOERROR soa-ttl:60 /0");
}

#[test]
fn each_client_gets_its_nearest_load_balancer_for_a_service_name() {
    let view = Fleet::new().view();
    assert_eq!(ask(&view, TAIWAN, WEB), "NOERROR 198.18.2.1 /24");
    assert_eq!(ask(&view, FRANKFURT, WEB), "NOERROR 198.18.2.2 /24");
    assert_eq!(ask(&view, IOWA, WEB), "NOERROR 198.18.2.3 /24");
}

#[test]
fn unknown_place_is_answered_from_the_servers_own_site() {
    let mut fleet = Fleet::new();
    assert!(ask(&Fleet::new().view(), NOWHERE, APP).starts_with("NOERROR 198.18.1.1 "), "first by name");
    fleet.home = Some("europe".into());
    assert!(ask(&fleet.view(), NOWHERE, APP).starts_with("NOERROR 198.18.1.2 "));
}

#[test]
fn taiwan_goes_to_iowa_when_asia_has_no_endpoints() {
    let view = Fleet::new().shard("asia", |shard| shard.ready = 0).view();
    assert_eq!(ask(&view, TAIWAN, WEB), "NOERROR 198.18.2.3 /24");
    // The site in Asia still stands: it forwards to where the endpoints are.
    assert_eq!(ask(&view, TAIWAN, APP), "NOERROR 198.18.1.1 /24");
}

#[test]
fn a_drained_site_or_member_is_not_answered_and_comes_back_when_the_drain_expires() {
    let drain = |until| Dial { percent: 0, until };
    let view = Fleet::new().site("asia", |site| site.dial = drain(None)).view();
    assert_eq!(ask(&view, TAIWAN, APP), "NOERROR 198.18.1.3 /24");
    let later = now() + std::time::Duration::from_secs(60);
    let view = Fleet::new().cluster("asia", |cluster| cluster.dial = drain(Some(later))).view();
    assert_eq!(ask(&view, TAIWAN, WEB), "NOERROR 198.18.2.3 /24");
    assert_eq!(view.next_expiry(now()), Some(later));
    let view = view.refreshed(view.masks().clone(), later);
    assert_eq!(ask(&view, TAIWAN, WEB), "NOERROR 198.18.2.1 /24");
}

#[test]
fn a_dead_region_is_left_by_probes_alone() {
    let view = Fleet::new()
        .masks(|masks| {
            masks.sites.insert("europe".into(), Why::ProbeFailed);
            masks.clusters.insert("europe".into(), Why::ProbeFailed);
        })
        .view();
    assert_eq!(ask(&view, FRANKFURT, APP), "NOERROR 198.18.1.3 /24");
    assert_eq!(ask(&view, FRANKFURT, WEB), "NOERROR 198.18.2.3 /24");
    let regional = "web.shop.fed.svc.europe-west1.example.org";
    assert_eq!(ask(&view, FRANKFURT, regional), format!("NOERROR >{WEB} {WEB}:198.18.2.3 /24"));
}

#[test]
fn when_all_are_down_the_nearest_is_answered_all_the_same_unless_the_policy_says_empty() {
    let all_down = || {
        Fleet::new().masks(|masks| {
            for (place, _, _) in PLACES {
                masks.clusters.insert(place.into(), Why::ProbeFailed);
            }
        })
    };
    assert_eq!(ask(&all_down().view(), FRANKFURT, WEB), "NOERROR 198.18.2.2 /24");
    let regional = "web.shop.fed.svc.us-central1.example.org";
    assert_eq!(ask(&all_down().view(), FRANKFURT, regional), "NOERROR 198.18.2.3 /0", "still its region");
    let empty = all_down().policy(|policy| policy.health.all_unhealthy = WhenAllUnhealthy::Empty);
    assert_eq!(ask(&empty.view(), FRANKFURT, WEB), "NOERROR soa-ttl:60 /0");
}

#[test]
fn a_fence_is_never_crossed() {
    let fenced = || Fleet::new().policy(|policy| policy.allowed_regions = Some(vec!["europe-west1".into()]));
    for client in [TAIWAN, FRANKFURT, IOWA] {
        // One place is left, so the answer is for everybody.
        assert_eq!(ask(&fenced().view(), client, WEB), "NOERROR 198.18.2.2 /0");
        assert_eq!(ask(&fenced().view(), client, APP), "NOERROR 198.18.1.2 /0");
    }
    let down = fenced().masks(|masks| masks.clusters.extend([("europe".into(), Why::ProbeFailed)]));
    assert_eq!(ask(&down.view(), IOWA, WEB), "NOERROR 198.18.2.2 /0", "failing open stays inside");
}

#[test]
fn answers_limits_places_and_the_first_is_the_best() {
    let view = Fleet::new().policy(|policy| policy.dns.answers = 2).view();
    assert_eq!(ask(&view, TAIWAN, APP), "NOERROR 198.18.1.1 198.18.1.3 /24");
    let view = Fleet::new()
        .policy(|policy| policy.dns.answers = 3)
        .site("asia", |site| site.addresses.push([198, 18, 1, 101].into()))
        .view();
    assert_eq!(ask(&view, TAIWAN, APP), "NOERROR 198.18.1.1 198.18.1.3 198.18.1.2 /24");
}

#[test]
fn failover_order_beats_distance_and_is_the_same_for_everybody() {
    let tiers = vec![vec!["us".into()], vec!["europe".into()], vec!["asia".into()]];
    let view = Fleet::new().policy(|policy| policy.strategy = Strategy::Failover(tiers)).view();
    assert_eq!(ask(&view, TAIWAN, WEB), "NOERROR 198.18.2.3 /0");
}

#[test]
fn site_without_own_address_is_answered_with_its_vip() {
    let view = Fleet::new().site("asia", |site| site.addresses.clear()).view();
    assert_eq!(ask(&view, TAIWAN, APP), "NOERROR 198.18.255.1 /24");
}

#[test]
fn policy_may_ask_for_members_instead_of_sites_and_the_reverse() {
    let view = Fleet::new().policy(|policy| policy.dns.target = DnsTarget::Members).view();
    assert_eq!(ask(&view, TAIWAN, APP), "NOERROR 198.18.3.1 /24", "the member's own Ingress controller");
    let view = Fleet::new().policy(|policy| policy.dns.target = DnsTarget::Sites).view();
    assert_eq!(ask(&view, TAIWAN, WEB), "NOERROR 198.18.1.1 /24");
    let mut fleet = Fleet::new();
    fleet.snapshot.sites.clear();
    assert_eq!(ask(&fleet.view(), TAIWAN, APP), "NOERROR 198.18.3.1 /24", "no site exists");
}

#[test]
fn kubefed_names_answer_locally_or_point_one_level_up() {
    let view = Fleet::new().view();
    let regional = "web.shop.fed.svc.europe-west1.example.org";
    let zonal = "web.shop.fed.svc.europe-west1-b.europe-west1.example.org";
    assert_eq!(ask(&view, TAIWAN, regional), "NOERROR 198.18.2.2 /0");
    assert_eq!(ask(&view, TAIWAN, zonal), "NOERROR 198.18.2.2 /0");

    let view = Fleet::new().shard("europe", |shard| shard.ready = 0).view();
    assert_eq!(
        ask(&view, FRANKFURT, zonal),
        format!("NOERROR >{regional} {regional}:>{WEB} {WEB}:198.18.2.3 /24")
    );
    let cname = ask_kind(&view, FRANKFURT, zonal, RecordType::CNAME);
    assert_eq!(text(&cname), format!("NOERROR >{regional} /0"));
    let txt = ask_kind(&view, FRANKFURT, zonal, RecordType::TXT);
    assert!(text(&txt).starts_with(&format!("NOERROR >{regional}")), "an alias answers every type");
}

#[test]
fn kubefed_chain_ends_at_the_global_name_even_when_nothing_is_left() {
    let view = Fleet::new()
        .policy(|policy| policy.health.all_unhealthy = WhenAllUnhealthy::Empty)
        .service(|service| service.shards.iter_mut().for_each(|shard| shard.ready = 0))
        .view();
    let regional = "web.shop.fed.svc.europe-west1.example.org";
    assert_eq!(ask(&view, FRANKFURT, regional), format!("NOERROR >{WEB} soa-ttl:60 /0"));
}

#[test]
fn static_aliases_are_followed_inside_our_zones_to_their_end() {
    let view = Fleet::new().view();
    assert_eq!(ask(&view, TAIWAN, "www.example.org"), format!("NOERROR >{APP} {APP}:198.18.1.1 /24"));
    assert_eq!(ask(&view, TAIWAN, "away.example.org"), "NOERROR >www.example.net /0");
    assert_eq!(ask(&view, TAIWAN, "dangling.example.org"), "NXDOMAIN >missing.example.org soa-ttl:60 /0");
    assert_eq!(ask(&view, TAIWAN, "loop.example.org"), "NOERROR >loop.example.org /0");
}

#[test]
fn load_balancer_with_only_a_name_is_answered_by_that_name() {
    let hostname = || Address::Hostname(name("lb.provider.example.net"));
    let fleet = || Fleet::new().shard("asia", |shard| shard.load_balancer = vec![hostname()]);
    assert_eq!(ask(&fleet().view(), TAIWAN, WEB), "NOERROR >lb.provider.example.net /24");
    assert_eq!(ask(&fleet().view(), IOWA, WEB), "NOERROR 198.18.2.3 /24");
    // Beside another record no CNAME may stand: the place has no address then.
    let beside = fleet().zone(|zone| zone.records.push(record(WEB, RecordData::Txt(vec!["x".into()]))));
    assert_eq!(ask(&beside.view(), TAIWAN, WEB), "NOERROR 198.18.2.3 /24");
}

#[test]
fn shard_without_address_is_never_answered() {
    let view = Fleet::new().shard("asia", |shard| shard.load_balancer.clear()).view();
    assert_eq!(ask(&view, TAIWAN, WEB), "NOERROR 198.18.2.3 /24");
    let view = Fleet::new()
        .service(|service| service.shards.iter_mut().for_each(|shard| shard.load_balancer.clear()))
        .view();
    assert_eq!(ask(&view, TAIWAN, WEB), "NOERROR soa-ttl:60 /0");
}

#[test]
fn overrides_put_named_clusters_first_with_a_scope_that_is_true() {
    let cidr = |network: &str, cluster: &str| GeoOverride {
        source: GeoSource::Cidr(network.parse().unwrap()),
        clusters: vec![cluster.into()],
    };
    let country =
        GeoOverride { source: GeoSource::Country("DE".parse().unwrap()), clusters: vec!["us".into()] };
    let view = Fleet::new()
        .zone(|zone| {
            zone.overrides = vec![cidr("10.0.0.0/8", "europe"), cidr("10.9.0.0/16", "us"), country];
        })
        .view();
    // Nothing is known of 10/8 (a hole of the database), so the overrides alone decide.
    assert!(ask(&view, "10.9.8.0/24", APP).starts_with("NOERROR 198.18.1.3 "));
    assert!(ask(&view, "10.8.0.0/24", APP).starts_with("NOERROR 198.18.1.2 "));
    let scope = ask_kind(&view, "10.8.0.0/24", APP, RecordType::A).scope;
    assert!(scope >= 16, "a scope of {scope} would cover 10.9/16");
    assert_eq!(ask(&view, FRANKFURT, WEB), "NOERROR 198.18.2.3 /24", "by country");
    let drained = Fleet::new()
        .cluster("us", |cluster| cluster.dial.percent = 0)
        .zone(|zone| zone.overrides = vec![cidr("203.0.113.0/24", "us")])
        .view();
    assert_eq!(ask(&drained, TAIWAN, WEB), "NOERROR 198.18.2.1 /24", "an override revives nothing");
}

#[test]
fn apex_says_soa_and_ns_and_negative_answers_carry_the_soa() {
    let view = Fleet::new().view();
    let kind = |question, kind| ask_kind(&view, TAIWAN, question, kind);
    assert_eq!(text(&kind("example.org", RecordType::SOA)), "NOERROR soa:2026 /0");
    let ns = kind("example.org", RecordType::NS);
    assert_eq!((ns.answers.len(), ns.additional.len(), ns.authoritative), (1, 1, true));
    assert_eq!(text(&kind("example.org", RecordType::A)), "NOERROR soa-ttl:60 /0");
    assert_eq!(text(&kind("nothing.example.org", RecordType::A)), "NXDOMAIN soa-ttl:60 /0");
    assert_eq!(text(&kind("svc.example.org", RecordType::A)), "NOERROR soa-ttl:60 /0", "empty non-terminal");
    assert_eq!(text(&kind(APP, RecordType(65))), "NOERROR soa-ttl:60 /0", "a type we do not know");
    assert_eq!(text(&kind(APP, RecordType::ANY)), "NOERROR any /0");
}

#[test]
fn delegated_names_are_referred_without_authority() {
    let view = Fleet::new().view();
    let referral = ask_kind(&view, TAIWAN, "www.sub.example.org", RecordType::A);
    assert!(!referral.authoritative && referral.answers.is_empty());
    assert_eq!((referral.authority.len(), referral.additional.len()), (1, 1));
}

#[test]
fn names_outside_our_zones_are_refused_and_without_snapshot_nothing_is_known() {
    let view = Fleet::new().view();
    assert_eq!(ask(&view, TAIWAN, "example.com"), "REFUSED /0");
    let question = Question { name: NameKey::from(&name(APP)), kind: RecordType::A };
    let nobody = Asker::nowhere([192, 0, 2, 1].into());
    assert_eq!(answer(None, &question, &nobody).rcode, Rcode::ServFail);
}

#[test]
fn a_name_outside_its_zone_is_reported_and_the_rest_is_served() {
    let view = Fleet::new()
        .zone(|zone| drop(zone.names.insert(name("app.example.com"), NameTarget::Ingress(web()))))
        .view();
    let unserved: Vec<String> = view.unserved().iter().map(ToString::to_string).collect();
    assert_eq!(unserved, ["zone example.org, name app.example.com: the name does not lie in the zone"]);
    assert_eq!(ask(&view, TAIWAN, APP), "NOERROR 198.18.1.1 /24");
    assert_eq!(ask(&view, TAIWAN, "app.example.com"), "REFUSED /0");
}

#[test]
fn dns_and_steer_order_members_alike() {
    use meridian_core::steer::{Vantage, service_ranking};
    let view = Fleet::new().policy(|policy| policy.dns.answers = 8).view();
    for client in [TAIWAN, FRANKFURT, IOWA] {
        let network: ipnet::IpNet = client.parse().unwrap();
        let vantage = Vantage::at(database().locate(network.addr()).location.point);
        let service = &view.snapshot().services[&web()];
        let (candidates, ranking) =
            service_ranking(view.snapshot(), service, &vantage, &view.masks().clusters, now());
        let octet = |place: &str| PLACES.iter().find(|(name, _, _)| *name == place).unwrap().2;
        let expected: Vec<String> = ranking
            .order
            .iter()
            .map(|ranked| format!("198.18.2.{}", octet(&candidates[ranked.index].name)))
            .collect();
        assert_eq!(ask(&view, client, WEB), format!("NOERROR {} /24", expected.join(" ")));
    }
}
