//! Name lookup in zones: which name means what (RFC 1034 section 4.3.2, RFC 4592).
//!
//! An [`Authority`] is one [`Zone`] compiled for lookup, [`Authorities`] are all zones of a snapshot.
//! A lookup decides everything but the addresses of dynamic names, which depend on who asks:
//!
//! ```text
//! name ─> longest zone ─> cut above or at the name? ── Delegation
//!                      ─> the name exists?          ── its sets, alias, target, or NoData
//!                      ─> closest encloser has `*`? ── the same of the wildcard
//!                      ─> NxDomain
//! ```
//!
//! A name exists when it or a name below it owns something: names between an owner and the apex
//! are empty non-terminals and get NODATA, and they stop wildcards.

use std::collections::HashMap;

mod compile;
mod key;
#[cfg(test)]
mod oracle;
mod overrides;

use std::sync::Arc;

pub use compile::{Unserved, WhyUnserved};
pub use key::NameKey;
pub use overrides::{Client, Overriding, overriding, prefer};

use crate::{
    name::DnsName,
    snapshot::{NameTarget, RecordData, Zone},
};

/// Type of a record or question, by its number (IANA "Resource Record (RR) TYPEs").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordType(pub u16);

impl RecordType {
    /// IPv4 address.
    pub const A: Self = Self(1);
    /// Name server.
    pub const NS: Self = Self(2);
    /// Alias.
    pub const CNAME: Self = Self(5);
    /// Start of authority.
    pub const SOA: Self = Self(6);
    /// Mail exchange.
    pub const MX: Self = Self(15);
    /// Text.
    pub const TXT: Self = Self(16);
    /// IPv6 address.
    pub const AAAA: Self = Self(28);
    /// Delegation signer: the only type that the parent's side of a cut answers.
    pub const DS: Self = Self(43);
    /// Question for any type.
    pub const ANY: Self = Self(255);
    /// Certification authority authorization.
    pub const CAA: Self = Self(257);

    /// The type of static data.
    #[must_use]
    pub const fn of(data: &RecordData) -> Self {
        match data {
            RecordData::A(_) => Self::A,
            RecordData::Aaaa(_) => Self::AAAA,
            RecordData::Cname(_) => Self::CNAME,
            RecordData::Ns(_) => Self::NS,
            RecordData::Mx { .. } => Self::MX,
            RecordData::Txt(_) => Self::TXT,
            RecordData::Caa { .. } => Self::CAA,
        }
    }
}

/// Static records of one name and type; they share one TTL (RFC 2181 section 5.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSet {
    /// Type of all of them.
    pub kind: RecordType,
    /// Seconds: the lowest that any of them declares.
    pub ttl: u32,
    /// Values, in the zone's order, unique, never empty.
    pub data: Vec<RecordData>,
}

/// What a lookup finds.
#[derive(Clone, Debug, PartialEq)]
pub enum Found<'a> {
    /// Static records of the type that was asked for.
    Records(&'a RecordSet),
    /// The zone's own start of authority.
    Soa,
    /// A static alias: one CNAME, whatever the type asked for.
    Alias(&'a RecordSet),
    /// A dynamic name: the answer depends on who asks. `alone` says that no static record stands
    /// beside it and that it is not the apex, so that it may be answered with a CNAME.
    Dynamic {
        /// What it means.
        target: &'a NameTarget,
        /// The name as it is declared; a wildcard when it was reached through one.
        declared: &'a DnsName,
        /// True when a CNAME is allowed here.
        alone: bool,
    },
    /// The name exists and has records; ANY asks for a minimal answer (RFC 8482).
    Any,
    /// The name exists without such records.
    NoData,
    /// The name does not exist, nor anything below it.
    NxDomain,
    /// The name lies in a zone that was delegated away.
    Delegation(Delegation<'a>),
}

/// A referral (RFC 1034 section 4.3.2, step 3b).
#[derive(Clone, Debug, PartialEq)]
pub struct Delegation<'a> {
    /// Owner of the NS set.
    pub cut: &'a DnsName,
    /// The NS set.
    pub servers: &'a RecordSet,
    /// Addresses of those servers whose names lie in our zone.
    pub glue: Vec<(&'a DnsName, &'a RecordSet)>,
}

/// One zone, compiled for lookup.
#[derive(Debug)]
pub struct Authority {
    zone: Arc<Zone>,
    apex: NameKey,
    nodes: HashMap<NameKey, Node>,
    has_cuts: bool,
}

/// What one name of a zone owns; nothing for an empty non-terminal.
#[derive(Debug, Default)]
struct Node {
    /// The name as the zone writes it; none for an empty non-terminal.
    name: Option<DnsName>,
    sets: Vec<RecordSet>,
    target: Option<NameTarget>,
    is_apex: bool,
}

impl Node {
    fn set(&self, kind: RecordType) -> Option<&RecordSet> {
        self.sets.iter().find(|set| set.kind == kind)
    }

    fn is_cut(&self) -> bool {
        !self.is_apex && self.set(RecordType::NS).is_some()
    }

    fn find(&self, kind: RecordType) -> Found<'_> {
        if kind == RecordType::ANY {
            let is_empty = self.sets.is_empty() && self.target.is_none();
            return if is_empty { Found::NoData } else { Found::Any };
        }
        if let Some(set) = self.set(kind) {
            return Found::Records(set);
        }
        if self.is_apex && kind == RecordType::SOA {
            return Found::Soa;
        }
        if let Some(alias) = self.set(RecordType::CNAME) {
            return Found::Alias(alias);
        }
        match (&self.target, &self.name) {
            (Some(target), Some(declared)) => {
                Found::Dynamic { target, declared, alone: self.sets.is_empty() && !self.is_apex }
            }
            _ => Found::NoData,
        }
    }
}

impl Authority {
    /// The zone it was compiled from.
    #[must_use]
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// The apex.
    #[must_use]
    pub fn apex(&self) -> &NameKey {
        &self.apex
    }

    /// Dynamic names with their targets, in no order that anything may depend on.
    pub fn dynamic_names(&self) -> impl Iterator<Item = (&DnsName, &NameTarget)> {
        self.nodes.values().filter_map(|node| Some((node.name.as_ref()?, node.target.as_ref()?)))
    }

    /// What `name`, which must lie in this zone, means for a question of type `kind`.
    /// O(labels); allocates for wildcards and glue only.
    #[must_use]
    pub fn lookup(&self, name: &NameKey, kind: RecordType) -> Found<'_> {
        if let Some(delegation) = self.delegation(name, kind) {
            return Found::Delegation(delegation);
        }
        if let Some(node) = self.nodes.get(name.as_bytes()) {
            return node.find(kind);
        }
        // The apex always exists, so the walk ends there at the latest.
        let encloser = name.ancestors().skip(1).find(|suffix| self.nodes.contains_key(*suffix));
        let wildcard = encloser.and_then(|suffix| self.nodes.get(NameKey::wildcard_of(suffix).as_bytes()));
        wildcard.map_or(Found::NxDomain, |node| node.find(kind))
    }

    /// The cut nearest to the apex, at or above `name`. The parent answers DS at the cut itself.
    fn delegation(&self, name: &NameKey, kind: RecordType) -> Option<Delegation<'_>> {
        if !self.has_cuts {
            return None;
        }
        let below_apex = name.ancestors().take_while(|suffix| suffix.len() > self.apex.as_bytes().len());
        let node = below_apex
            .filter(|suffix| !(kind == RecordType::DS && suffix.len() == name.as_bytes().len()))
            .filter_map(|suffix| self.nodes.get(suffix))
            .filter(|node| node.is_cut())
            .last()?;
        let servers = node.set(RecordType::NS)?;
        Some(Delegation { cut: node.name.as_ref()?, servers, glue: self.glue(servers) })
    }

    fn glue(&self, servers: &RecordSet) -> Vec<(&DnsName, &RecordSet)> {
        let hosts = servers.data.iter().filter_map(|data| match data {
            RecordData::Ns(host) => Some(host),
            _ => None,
        });
        let nodes = hosts.filter_map(|host| self.nodes.get(NameKey::from(host).as_bytes()));
        nodes
            .flat_map(|node| {
                let addresses =
                    node.sets.iter().filter(|set| [RecordType::A, RecordType::AAAA].contains(&set.kind));
                addresses.filter_map(|set| Some((node.name.as_ref()?, set)))
            })
            .collect()
    }
}

/// All zones that are served.
#[derive(Debug, Default)]
pub struct Authorities {
    by_apex: HashMap<NameKey, Authority>,
}

impl Authorities {
    /// Compiles `zones`; the second part lists what of them cannot be served, sorted by zone and name.
    #[must_use]
    pub fn compile<'a>(zones: impl IntoIterator<Item = &'a Arc<Zone>>) -> (Self, Vec<Unserved>) {
        let mut by_apex = HashMap::new();
        let mut unserved = Vec::new();
        for zone in zones {
            let (authority, left_out) = compile::compile(zone);
            by_apex.insert(authority.apex.clone(), authority);
            unserved.extend(left_out);
        }
        unserved.sort();
        (Self { by_apex }, unserved)
    }

    /// The zones, in no order that anything may depend on.
    pub fn iter(&self) -> impl Iterator<Item = &Authority> {
        self.by_apex.values()
    }

    /// The longest zone that holds `name`, and what it says; none outside our zones.
    ///
    /// DS of an apex is the parent's to answer (RFC 4035 section 3.1.4.1): where the parent zone
    /// is ours too it answers, with NODATA, because the child exists whatever the parent lists.
    #[must_use]
    pub fn lookup(&self, name: &NameKey, kind: RecordType) -> Option<(&Authority, Found<'_>)> {
        let mut holders = name.ancestors().filter_map(|suffix| self.by_apex.get(suffix));
        let authority = holders.next()?;
        if kind == RecordType::DS
            && authority.apex == *name
            && let Some(parent) = holders.next()
        {
            return Some((parent, Found::NoData));
        }
        Some((authority, authority.lookup(name, kind)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        id::ObjectKey,
        snapshot::{NameServer, Record, Soa},
    };

    pub(super) fn name(text: &str) -> DnsName {
        text.parse().unwrap()
    }

    fn key(text: &str) -> NameKey {
        NameKey::from(&name(text))
    }

    fn soa() -> Soa {
        Soa {
            mname: name("ns1.example.org"),
            rname: name("hostmaster.example.org"),
            serial: 1,
            refresh: 7200,
            retry: 900,
            expire: 1_209_600,
            minimum: 60,
            ttl: 300,
        }
    }

    pub(super) fn zone(domain: &str, records: &[(&str, RecordData)], dynamic: &[&str]) -> Arc<Zone> {
        let target = || NameTarget::Service(ObjectKey::new("shop", "web"));
        Arc::new(Zone {
            domain: name(domain),
            soa: soa(),
            name_servers: vec![NameServer {
                name: name(&format!("ns1.{domain}")),
                addresses: vec!["192.0.2.53".parse().unwrap()],
            }],
            records: records
                .iter()
                .map(|(owner, data)| Record { name: name(owner), ttl: 300, data: data.clone() })
                .collect(),
            names: dynamic.iter().map(|owner| (name(owner), target())).collect::<BTreeMap<_, _>>(),
            overrides: Vec::new(),
        })
    }

    fn compiled(records: &[(&str, RecordData)], dynamic: &[&str]) -> Authorities {
        Authorities::compile([&zone("example.org", records, dynamic)]).0
    }

    fn a(last: u8) -> RecordData {
        RecordData::A([192, 0, 2, last].into())
    }

    fn found<'a>(authorities: &'a Authorities, text: &str, kind: RecordType) -> Found<'a> {
        authorities.lookup(&key(text), kind).unwrap().1
    }

    #[test]
    fn apex_has_soa_and_its_name_servers_with_addresses() {
        let zones = compiled(&[], &[]);
        assert_eq!(found(&zones, "example.org", RecordType::SOA), Found::Soa);
        let Found::Records(servers) = found(&zones, "example.org", RecordType::NS) else { panic!() };
        assert_eq!(servers.data, [RecordData::Ns(name("ns1.example.org"))]);
        let Found::Records(glue) = found(&zones, "ns1.example.org", RecordType::A) else { panic!() };
        assert_eq!(glue.data, [a(53)]);
    }

    #[test]
    fn names_between_an_owner_and_the_apex_exist_without_data() {
        let zones = compiled(&[], &["a.b.c.example.org"]);
        assert_eq!(found(&zones, "b.c.example.org", RecordType::A), Found::NoData);
        assert_eq!(found(&zones, "c.example.org", RecordType::ANY), Found::NoData);
        assert_eq!(found(&zones, "x.c.example.org", RecordType::A), Found::NxDomain);
    }

    #[test]
    fn wildcard_answers_below_its_parent_unless_a_name_stands_in_between() {
        let zones = compiled(&[("x.c.example.org", a(1))], &["*.example.org"]);
        for hit in ["q.example.org", "q.r.example.org"] {
            assert!(matches!(found(&zones, hit, RecordType::A), Found::Dynamic { .. }), "{hit}");
        }
        // c exists as an empty non-terminal: it is the closest encloser and has no wildcard.
        assert_eq!(found(&zones, "q.c.example.org", RecordType::A), Found::NxDomain);
        assert_eq!(found(&zones, "c.example.org", RecordType::A), Found::NoData);
        assert_eq!(found(&zones, "x.c.example.org", RecordType::AAAA), Found::NoData);
    }

    #[test]
    fn wildcard_with_other_types_gives_nodata() {
        let zones = compiled(&[("*.example.org", RecordData::Txt(vec!["x".into()]))], &[]);
        assert_eq!(found(&zones, "q.example.org", RecordType::A), Found::NoData);
    }

    #[test]
    fn names_at_and_below_a_cut_are_referred_with_glue() {
        let zones = compiled(
            &[
                ("sub.example.org", RecordData::Ns(name("ns.sub.example.org"))),
                ("ns.sub.example.org", a(7)),
                ("deep.sub.example.org", a(8)),
            ],
            &[],
        );
        for text in ["sub.example.org", "deep.sub.example.org", "no.such.sub.example.org"] {
            let Found::Delegation(delegation) = found(&zones, text, RecordType::A) else { panic!("{text}") };
            assert_eq!(*delegation.cut, name("sub.example.org"));
            assert_eq!(delegation.glue[0].1.data, [a(7)]);
        }
        assert_eq!(found(&zones, "sub.example.org", RecordType::DS), Found::NoData);
    }

    #[test]
    fn longest_zone_wins_and_the_parent_answers_ds() {
        let zones = [zone("example.org", &[], &[]), zone("sub.example.org", &[], &["www.sub.example.org"])];
        let (zones, _) = Authorities::compile(&zones);
        let (authority, found) = zones.lookup(&key("www.sub.example.org"), RecordType::A).unwrap();
        assert_eq!(authority.zone().domain, name("sub.example.org"));
        assert!(matches!(found, Found::Dynamic { .. }));
        let (authority, found) = zones.lookup(&key("sub.example.org"), RecordType::DS).unwrap();
        assert_eq!((authority.zone().domain.as_str(), found), ("example.org", Found::NoData));
        assert!(zones.lookup(&key("example.com"), RecordType::A).is_none());
    }

    #[test]
    fn a_cname_is_allowed_only_where_nothing_else_stands() {
        let txt = RecordData::Txt(vec!["v".into()]);
        let zones = compiled(&[("b.example.org", txt)], &["a.example.org", "b.example.org", "example.org"]);
        let alone = |text| match found(&zones, text, RecordType::A) {
            Found::Dynamic { alone, .. } => alone,
            other => panic!("{other:?}"),
        };
        assert!(alone("a.example.org"));
        assert!(!alone("b.example.org"));
        assert!(!alone("example.org"));
        assert!(matches!(found(&zones, "b.example.org", RecordType::TXT), Found::Records(_)));
    }

    #[test]
    fn case_of_the_question_does_not_matter() {
        let zones = compiled(&[], &["app.example.org"]);
        let upper = NameKey::from_labels([b"APP".as_slice(), b"Example", b"ORG"]);
        assert!(matches!(zones.lookup(&upper, RecordType::A), Some((_, Found::Dynamic { .. }))));
    }
}
