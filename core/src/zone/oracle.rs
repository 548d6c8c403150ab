//! A slow lookup straight from the words of RFC 1034 and RFC 4592, to test the fast one against.

use std::{collections::BTreeSet, sync::Arc};

use proptest::prelude::*;

use super::{
    Authorities, Found, NameKey, RecordType,
    tests::{name, zone},
};
use crate::{
    name::DnsName,
    snapshot::{RecordData, Zone},
};

/// What the test compares of a [`Found`].
#[derive(Debug, PartialEq)]
enum Outcome {
    Records,
    Dynamic(DnsName),
    Alias,
    NoData,
    NxDomain,
    Delegation(DnsName),
    Other,
}

fn outcome(found: &Found<'_>) -> Outcome {
    match found {
        Found::Records(_) => Outcome::Records,
        Found::Alias(_) => Outcome::Alias,
        Found::Dynamic { declared, .. } => Outcome::Dynamic((*declared).clone()),
        Found::NoData => Outcome::NoData,
        Found::NxDomain => Outcome::NxDomain,
        Found::Delegation(delegation) => Outcome::Delegation(delegation.cut.clone()),
        Found::Soa | Found::Any => Outcome::Other,
    }
}

/// Looks `question` up by scanning every owner of `zone`, which has no unservable parts.
fn slow_lookup(zone: &Zone, question: &DnsName, kind: RecordType) -> Outcome {
    let mut owners: BTreeSet<DnsName> = zone.records.iter().map(|record| record.name.clone()).collect();
    owners.extend(zone.names.keys().cloned());
    owners.insert(zone.domain.clone());
    owners.extend(zone.name_servers.iter().map(|server| server.name.clone()));
    let exists = |candidate: &DnsName| owners.iter().any(|owner| owner.is_in(candidate));

    let mut cuts: Vec<&DnsName> = zone
        .records
        .iter()
        .filter(|record| matches!(record.data, RecordData::Ns(_)) && question.is_in(&record.name))
        .map(|record| &record.name)
        .collect();
    cuts.sort_by_key(|cut| cut.labels().count());
    if let Some(cut) = cuts.first() {
        return Outcome::Delegation((*cut).clone());
    }

    let at = |owner: &DnsName| {
        let here: Vec<&RecordData> =
            zone.records.iter().filter(|record| record.name == *owner).map(|record| &record.data).collect();
        let is_server = zone.name_servers.iter().any(|server| server.name == *owner);
        if here.iter().any(|data| RecordType::of(data) == kind) || (is_server && kind == RecordType::A) {
            Outcome::Records
        } else if here.iter().any(|data| matches!(data, RecordData::Cname(_))) {
            Outcome::Alias
        } else if zone.names.contains_key(owner) {
            Outcome::Dynamic(owner.clone())
        } else {
            Outcome::NoData
        }
    };
    if exists(question) {
        return at(question);
    }
    let mut encloser = question.parent();
    while let Some(candidate) = encloser {
        if exists(&candidate) {
            let wildcard = candidate.child("*").unwrap();
            return if exists(&wildcard) { at(&wildcard) } else { Outcome::NxDomain };
        }
        encloser = candidate.parent();
    }
    unreachable!("the apex exists")
}

/// Names of up to four labels below the apex, from a small alphabet so that they meet.
fn below_apex(wildcards: bool) -> impl Strategy<Value = String> {
    let label = prop::sample::select(vec!["a", "b", "c"]);
    let first = if wildcards { vec!["a", "b", "c", "*"] } else { vec!["a", "b", "c"] };
    (prop::sample::select(first), prop::collection::vec(label, 0..3)).prop_map(|(first, rest)| {
        std::iter::once(first).chain(rest).chain(["example.org"]).collect::<Vec<_>>().join(".")
    })
}

fn any_zone() -> impl Strategy<Value = Arc<Zone>> {
    let data = prop::sample::select(vec![
        RecordData::A([192, 0, 2, 1].into()),
        RecordData::Txt(vec!["text".into()]),
        RecordData::Cname(name("example.net")),
        RecordData::Ns(name("ns.example.net")),
    ]);
    let records = prop::collection::vec((below_apex(true), data), 0..8);
    let dynamic = prop::collection::vec(below_apex(true), 0..6);
    (records, dynamic).prop_filter_map("zone with unservable parts", |(records, dynamic)| {
        let records: Vec<(&str, RecordData)> =
            records.iter().map(|(owner, data)| (owner.as_str(), data.clone())).collect();
        let dynamic: Vec<&str> = dynamic.iter().map(String::as_str).collect();
        let zone = zone("example.org", &records, &dynamic);
        Authorities::compile([&zone]).1.is_empty().then_some(zone)
    })
}

proptest! {
    #[test]
    fn fast_lookup_agrees_with_the_words_of_the_rfc(
        zone in any_zone(),
        questions in prop::collection::vec(below_apex(false), 1..20),
    ) {
        let (zones, _) = Authorities::compile([&zone]);
        for question in questions.iter().map(|text| name(text)) {
            for kind in [RecordType::A, RecordType::TXT, RecordType::MX] {
                let (_, found) = zones.lookup(&NameKey::from(&question), kind).unwrap();
                prop_assert_eq!(outcome(&found), slow_lookup(&zone, &question, kind), "{} {:?}", question, kind);
            }
        }
    }
}
