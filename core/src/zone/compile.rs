//! From a zone as the controller hands it over to one that can be looked up.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use super::{Authority, NameKey, Node, RecordSet, RecordType};
use crate::{
    name::DnsName,
    snapshot::{RecordData, Zone},
};

/// A part of a zone that cannot be served. The rest of the zone is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("zone {zone}, name {name}: {why}")]
pub struct Unserved {
    /// The apex of the zone.
    pub zone: DnsName,
    /// The name.
    pub name: DnsName,
    /// Why.
    pub why: WhyUnserved,
}

/// Why a record or name is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum WhyUnserved {
    /// The name does not lie in the zone.
    #[error("the name does not lie in the zone")]
    OutsideZone,
    /// A CNAME at the apex, where SOA and NS stand already (RFC 1034 section 3.6.2).
    #[error("a CNAME cannot stand at the apex")]
    CnameAtApex,
    /// More than a CNAME at one name: only the first CNAME is served.
    #[error("nothing can stand beside a CNAME")]
    BesideCname,
    /// NS records at the apex: the zone's name servers are declared elsewhere.
    #[error("the name servers of the apex are the zone's nameServers")]
    NsAtApex,
    /// NS records at a wildcard (RFC 4592 section 4.2).
    #[error("a wildcard cannot be delegated")]
    NsAtWildcard,
    /// A dynamic name where static addresses, an alias or a delegation stand.
    #[error("static records beat the dynamic name")]
    StaticBeatsDynamic,
}

/// Compiles `zone`; the second part lists what cannot be served, in no particular order.
pub(super) fn compile(zone: &Arc<Zone>) -> (Authority, Vec<Unserved>) {
    let apex = NameKey::from(&zone.domain);
    let mut nodes = HashMap::new();
    let mut unserved = Vec::new();
    let root = Node { name: Some(zone.domain.clone()), is_apex: true, ..Node::default() };
    nodes.insert(apex.clone(), root);

    let mut refuse = |name: &DnsName, why| {
        unserved.push(Unserved { zone: zone.domain.clone(), name: name.clone(), why });
    };
    for record in &zone.records {
        match misplaced(zone, &record.name, &record.data) {
            Some(why) => refuse(&record.name, why),
            None => add(own(&mut nodes, &record.name), record.ttl, &record.data),
        }
    }
    for node in nodes.values_mut() {
        if leave_alias_alone(node)
            && let Some(name) = &node.name
        {
            refuse(name, WhyUnserved::BesideCname);
        }
    }
    add_name_servers(zone, &mut nodes);
    for (name, target) in &zone.names {
        if !name.is_in(&zone.domain) {
            refuse(name, WhyUnserved::OutsideZone);
            continue;
        }
        let node = own(&mut nodes, name);
        if node.sets.iter().any(|set| beats_dynamic(node.is_apex, set.kind)) {
            refuse(name, WhyUnserved::StaticBeatsDynamic);
        } else {
            node.target = Some(target.clone());
        }
    }
    let has_cuts = nodes.values().any(Node::is_cut);
    add_empty_non_terminals(&apex, &mut nodes);
    (Authority { zone: Arc::clone(zone), apex, nodes, has_cuts }, unserved)
}

fn misplaced(zone: &Zone, name: &DnsName, data: &RecordData) -> Option<WhyUnserved> {
    match data {
        _ if !name.is_in(&zone.domain) => Some(WhyUnserved::OutsideZone),
        RecordData::Cname(_) if *name == zone.domain => Some(WhyUnserved::CnameAtApex),
        RecordData::Ns(_) if *name == zone.domain => Some(WhyUnserved::NsAtApex),
        RecordData::Ns(_) if name.is_wildcard() => Some(WhyUnserved::NsAtWildcard),
        _ => None,
    }
}

/// Addresses and aliases claim the name's meaning; TXT, MX and CAA stand beside a dynamic name.
fn beats_dynamic(is_apex: bool, kind: RecordType) -> bool {
    match kind {
        RecordType::A | RecordType::AAAA | RecordType::CNAME => true,
        RecordType::NS => !is_apex,
        _ => false,
    }
}

fn own<'n>(nodes: &'n mut HashMap<NameKey, Node>, name: &DnsName) -> &'n mut Node {
    let node = nodes.entry(NameKey::from(name)).or_default();
    node.name.get_or_insert_with(|| name.clone());
    node
}

fn add(node: &mut Node, ttl: u32, data: &RecordData) {
    let kind = RecordType::of(data);
    match node.sets.iter_mut().find(|set| set.kind == kind) {
        Some(set) => {
            set.ttl = set.ttl.min(ttl);
            if !set.data.contains(data) {
                set.data.push(data.clone());
            }
        }
        None => node.sets.push(RecordSet { kind, ttl, data: vec![data.clone()] }),
    }
}

/// Keeps only the first CNAME where there is one; true when something had to go.
fn leave_alias_alone(node: &mut Node) -> bool {
    let Some(alias) = node.set(RecordType::CNAME) else { return false };
    if node.sets.len() == 1 && alias.data.len() == 1 {
        return false;
    }
    node.sets.retain(|set| set.kind == RecordType::CNAME);
    for set in &mut node.sets {
        set.data.truncate(1);
    }
    true
}

/// The apex NS set, and addresses of the servers inside the zone that no record gives.
fn add_name_servers(zone: &Zone, nodes: &mut HashMap<NameKey, Node>) {
    for server in &zone.name_servers {
        add(own(nodes, &zone.domain), zone.soa.ttl, &RecordData::Ns(server.name.clone()));
        if !server.name.is_in(&zone.domain) || server.addresses.is_empty() {
            continue;
        }
        let node = own(nodes, &server.name);
        let is_declared = |kind| [RecordType::A, RecordType::AAAA, RecordType::CNAME].contains(&kind);
        if node.sets.iter().any(|set| is_declared(set.kind)) {
            continue;
        }
        for address in &server.addresses {
            let data = match address {
                IpAddr::V4(v4) => RecordData::A(*v4),
                IpAddr::V6(v6) => RecordData::Aaaa(*v6),
            };
            add(node, zone.soa.ttl, &data);
        }
    }
}

fn add_empty_non_terminals(apex: &NameKey, nodes: &mut HashMap<NameKey, Node>) {
    let owners: Vec<NameKey> = nodes.keys().cloned().collect();
    for owner in &owners {
        let between = owner.ancestors().skip(1).take_while(|name| name.len() > apex.as_bytes().len());
        for name in between {
            match nodes.entry(NameKey::from_bytes(name)) {
                // What exists has its own ancestors in place or still to come.
                Entry::Occupied(_) => continue,
                Entry::Vacant(place) => place.insert(Node::default()),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::{
        Authorities, Found,
        tests::{name, zone},
    };

    fn whys(records: &[(&str, RecordData)], dynamic: &[&str]) -> Vec<(String, WhyUnserved)> {
        let (_, unserved) = Authorities::compile([&zone("example.org", records, dynamic)]);
        unserved.into_iter().map(|unserved| (unserved.name.to_string(), unserved.why)).collect()
    }

    #[test]
    fn what_cannot_be_served_is_named_and_the_rest_is_served() {
        let alias = || RecordData::Cname(name("www.example.net"));
        let a = || RecordData::A([192, 0, 2, 1].into());
        let records = [
            ("example.org", alias()),
            ("example.org", RecordData::Ns(name("ns.example.net"))),
            ("www.example.com", a()),
            ("*.example.org", RecordData::Ns(name("ns.example.net"))),
            ("both.example.org", a()),
            ("both.example.org", alias()),
            ("taken.example.org", a()),
            ("fine.example.org", a()),
        ];
        let dynamic = ["taken.example.org", "app.example.com"];
        assert_eq!(
            whys(&records, &dynamic),
            [
                ("*.example.org".into(), WhyUnserved::NsAtWildcard),
                ("app.example.com".into(), WhyUnserved::OutsideZone),
                ("both.example.org".into(), WhyUnserved::BesideCname),
                ("example.org".into(), WhyUnserved::CnameAtApex),
                ("example.org".into(), WhyUnserved::NsAtApex),
                ("taken.example.org".into(), WhyUnserved::StaticBeatsDynamic),
                ("www.example.com".into(), WhyUnserved::OutsideZone),
            ]
        );
        let (zones, _) = Authorities::compile([&zone("example.org", &records, &dynamic)]);
        let lookup = |text| zones.lookup(&NameKey::from(&name(text)), RecordType::A).unwrap().1;
        assert!(matches!(lookup("both.example.org"), Found::Alias(_)));
        assert!(matches!(lookup("fine.example.org"), Found::Records(_)));
        assert!(matches!(lookup("taken.example.org"), Found::Records(_)));
        assert_eq!(lookup("q.example.org"), Found::NxDomain);
    }

    #[test]
    fn records_of_one_set_share_the_lowest_ttl_and_repeat_nothing() {
        let mut zone = Arc::unwrap_or_clone(zone("example.org", &[], &[]));
        for (ttl, last) in [(300, 1), (60, 2), (600, 1)] {
            zone.records.push(crate::snapshot::Record {
                name: name("a.example.org"),
                ttl,
                data: RecordData::A([192, 0, 2, last].into()),
            });
        }
        let (zones, _) = Authorities::compile([&Arc::new(zone)]);
        let key = NameKey::from(&name("a.example.org"));
        let Some((_, Found::Records(set))) = zones.lookup(&key, RecordType::A) else { panic!() };
        assert_eq!((set.ttl, set.data.len()), (60, 2));
    }
}
