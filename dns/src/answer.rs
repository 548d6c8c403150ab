//! From a question and who asks to an answer. Pure, and free of any DNS library's types.

use std::net::IpAddr;

use ipnet::IpNet;
use meridian_core::{
    geo::ClientLocation,
    name::DnsName,
    snapshot::{RecordData, Soa, Zone},
    steer::Vantage,
    zone::{Authority, Client, Delegation, Found, NameKey, RecordSet, RecordType, overriding},
};

use crate::{
    choice::{Addresses, Choice},
    view::View,
};

/// Aliases followed in one answer at most; the resolver may ask on from there.
const MAX_ALIASES: usize = 16;

/// Addresses in one answer at most, whatever the policy says.
const MAX_ADDRESSES: usize = 32;

/// What is asked, in class IN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name.
    pub name: NameKey,
    /// The type.
    pub kind: RecordType,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Asker {
    /// Its network: what EDNS Client Subnet says, else the address of the resolver at full length.
    pub network: IpNet,
    /// What is known of where that is.
    pub location: ClientLocation,
    /// The prefix around the address for which the location holds; 0 when nothing is known of any.
    pub tile: u8,
}

impl Asker {
    /// Somebody at `address` of whom nothing else is known.
    #[must_use]
    pub fn nowhere(address: IpAddr) -> Self {
        Self { network: IpNet::from(address), location: ClientLocation::default(), tile: 0 }
    }
}

/// Response codes of RFC 1035 that answers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rcode {
    /// The name exists.
    NoError,
    /// There is no snapshot yet.
    ServFail,
    /// The name does not exist.
    NxDomain,
    /// The name is none of our business.
    Refused,
}

/// Whose record it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The name in the question, in the spelling it was asked in.
    Question,
    /// Another name.
    Name(DnsName),
}

/// The value of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// An ordinary record.
    Record(RecordData),
    /// A start of authority.
    Soa(Soa),
    /// The minimal answer to ANY (RFC 8482 section 4.2).
    Any,
}

/// One record of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose it is.
    pub owner: Owner,
    /// Seconds.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// An answer, section by section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How it went.
    pub rcode: Rcode,
    /// True when it is ours to say, false for referrals.
    pub authoritative: bool,
    /// Answer section.
    pub answers: Vec<Entry>,
    /// Authority section.
    pub authority: Vec<Entry>,
    /// Additional section, without OPT.
    pub additional: Vec<Entry>,
    /// Prefix length for which the answer holds around the asker's address; 0 for everybody. Already
    /// fit for EDNS Client Subnet.
    pub scope: u8,
}

impl Answer {
    fn empty(rcode: Rcode) -> Self {
        Self {
            rcode,
            authoritative: false,
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
            scope: 0,
        }
    }

    fn push_set(&mut self, owner: &Owner, set: &RecordSet) {
        self.answers.extend(entries(owner, set));
    }

    fn push_alias(&mut self, owner: &Owner, ttl: u32, target: &DnsName) {
        let data = Data::Record(RecordData::Cname(target.clone()));
        self.answers.push(Entry { owner: owner.clone(), ttl, data });
    }

    /// Ends a chain at a name without what was asked for.
    fn close(mut self, zone: &Zone, rcode: Rcode) -> Self {
        // RFC 7871 section 7.4: negative answers are for everybody. A chain that ends so is not.
        if self.answers.is_empty() {
            self.scope = 0;
        }
        self.close_for_asker(zone, rcode)
    }

    /// As [`Answer::close`], for a negative answer that others would not get.
    fn close_for_asker(mut self, zone: &Zone, rcode: Rcode) -> Self {
        self.rcode = rcode;
        // RFC 2308 section 3.
        let ttl = zone.soa.ttl.min(zone.soa.minimum);
        let owner = Owner::Name(zone.domain.clone());
        self.authority.push(Entry { owner, ttl, data: Data::Soa(zone.soa.clone()) });
        self
    }

    fn refer(mut self, delegation: &Delegation<'_>) -> Self {
        // Authority ends above a cut, unless an alias of ours led there.
        self.authoritative = !self.answers.is_empty();
        self.authority.extend(entries(&Owner::Name(delegation.cut.clone()), delegation.servers));
        for (name, set) in &delegation.glue {
            self.additional.extend(entries(&Owner::Name((*name).clone()), set));
        }
        self
    }
}

fn entries<'a>(owner: &'a Owner, set: &'a RecordSet) -> impl Iterator<Item = Entry> + 'a {
    let entry =
        |data: &RecordData| Entry { owner: owner.clone(), ttl: set.ttl, data: Data::Record(data.clone()) };
    set.data.iter().map(entry)
}

/// Answers `question` for `asker` from `view`; without one, nothing is loaded yet.
///
/// Aliases are followed through our own zones to the end; the response code is that of the end
/// (RFC 6604). Does no I/O and takes no lock; O(labels + candidates log candidates) per alias.
#[must_use]
pub fn answer(view: Option<&View>, question: &Question, asker: &Asker) -> Answer {
    let Some(view) = view else { return Answer::empty(Rcode::ServFail) };
    let mut answer = Answer::empty(Rcode::NoError);
    let mut name = question.name.clone();
    let mut owner = Owner::Question;
    let mut seen = Vec::new();
    // Once one owner has been given another's records, no alias may stand at it: it has records of its own.
    let mut is_flattened = false;
    for _ in 0..=MAX_ALIASES {
        let Some((authority, found)) = view.zones().lookup(&name, question.kind) else {
            // The end of a chain outside our zones is the resolver's to find.
            answer.rcode = if answer.answers.is_empty() { Rcode::Refused } else { Rcode::NoError };
            return answer;
        };
        answer.authoritative = true;
        let zone = authority.zone();
        let step = match found {
            Found::Records(set) => {
                answer.push_set(&owner, set);
                add_server_addresses(&mut answer, authority, set);
                Step::Done
            }
            Found::Soa => {
                answer.answers.push(Entry { owner, ttl: zone.soa.ttl, data: Data::Soa(zone.soa.clone()) });
                return answer;
            }
            Found::Any => {
                answer.answers.push(Entry { owner, ttl: zone.soa.ttl, data: Data::Any });
                return answer;
            }
            Found::Alias(set) => match set.data.first() {
                Some(RecordData::Cname(target)) => {
                    answer.push_set(&owner, set);
                    Step::Alias(target.clone())
                }
                _ => Step::Nothing,
            },
            Found::Dynamic { declared, alone, .. } => {
                let choice = view.choice(declared);
                choice.map_or(Step::Nothing, |choice| {
                    let alone = alone && !is_flattened;
                    choose(&mut answer, view, zone, choice, alone, &owner, question.kind, asker)
                })
            }
            Found::NoData => Step::Nothing,
            Found::NxDomain => return answer.close(zone, Rcode::NxDomain),
            Found::Delegation(delegation) => return answer.refer(&delegation),
        };
        match step {
            Step::Done => return answer,
            Step::Nothing => return answer.close(zone, Rcode::NoError),
            Step::NothingNear => return answer.close_for_asker(zone, Rcode::NoError),
            Step::Alias(target) => {
                seen.push(std::mem::replace(&mut name, NameKey::from(&target)));
                owner = Owner::Name(target);
                is_flattened = false;
            }
            Step::Flatten(target) => {
                seen.push(std::mem::replace(&mut name, NameKey::from(&target)));
                is_flattened = true;
            }
        }
        if seen.contains(&name) {
            // A loop of aliases: what was found is all there is.
            return answer;
        }
    }
    answer
}

/// What a name's meaning leaves to do.
enum Step {
    /// The answer stands.
    Done,
    /// The name has nothing of that type.
    Nothing,
    /// The nearest places have nothing of that type, but others do.
    NothingNear,
    /// A CNAME was added; its target comes next.
    Alias(DnsName),
    /// No CNAME may stand here: the target's records are given to the same owner.
    Flatten(DnsName),
}

/// Answers a dynamic name: the nearest places' addresses, or an alias.
#[expect(clippy::too_many_arguments, reason = "one call, from the loop above")]
fn choose(
    answer: &mut Answer,
    view: &View,
    zone: &Zone,
    choice: &Choice,
    alone: bool,
    owner: &Owner,
    kind: RecordType,
    asker: &Asker,
) -> Step {
    let client = Client { network: asker.network, country: asker.location.country };
    let overriding = overriding(&zone.overrides, &client);
    let vantage = Vantage::at(asker.location.point.or_else(|| view.home()));
    let ranking = choice.rank(&vantage, overriding.clusters);
    if choice.usable > 1 && (choice.is_geographic || !zone.overrides.is_empty()) {
        let tile = if choice.is_geographic || has_countries(zone) { asker.tile } else { 0 };
        answer.scope = answer.scope.max(tile).max(overriding.prefix);
    }

    let Some(best) = ranking.order.first() else {
        return match &choice.fallback {
            Some(fallback) if alone => {
                answer.push_alias(owner, choice.ttl, fallback);
                if kind == RecordType::CNAME { Step::Done } else { Step::Alias(fallback.clone()) }
            }
            Some(fallback) => Step::Flatten(fallback.clone()),
            None => Step::Nothing,
        };
    };
    let best = &choice.addresses[best.index];
    // Where the best place has nothing but a name, that name is the answer: addresses cannot stand
    // beside a CNAME, and the next place is farther away.
    if let Some(hostname) = best.hostname.as_ref().filter(|_| alone && !best.has_ip()) {
        answer.push_alias(owner, choice.ttl, hostname);
        return if kind == RecordType::CNAME { Step::Done } else { Step::Alias(hostname.clone()) };
    }
    let places: Vec<&Addresses> =
        ranking.order.iter().take(choice.limit).map(|ranked| &choice.addresses[ranked.index]).collect();
    let limit = choice.limit.min(MAX_ADDRESSES);
    let chosen: Vec<RecordData> = match kind {
        RecordType::A => in_turns(&places, limit, |place| &place.v4).map(RecordData::A).collect(),
        RecordType::AAAA => in_turns(&places, limit, |place| &place.v6).map(RecordData::Aaaa).collect(),
        _ => Vec::new(),
    };
    if chosen.is_empty() {
        let has_it = |place: &Addresses| match kind {
            RecordType::A => !place.v4.is_empty(),
            RecordType::AAAA => !place.v6.is_empty(),
            _ => false,
        };
        return if choice.addresses.iter().any(has_it) { Step::NothingNear } else { Step::Nothing };
    }
    let entry = |data| Entry { owner: owner.clone(), ttl: choice.ttl, data: Data::Record(data) };
    answer.answers.extend(chosen.into_iter().map(entry));
    Step::Done
}

fn has_countries(zone: &Zone) -> bool {
    use meridian_core::snapshot::GeoSource;
    zone.overrides.iter().any(|candidate| matches!(candidate.source, GeoSource::Country(_)))
}

/// Up to `limit` addresses: the first of each place in order, then the second of each, and so on, so
/// that an answer with several addresses names several places.
fn in_turns<'a, T: Copy + 'a>(
    places: &'a [&'a Addresses],
    limit: usize,
    family: impl Fn(&'a Addresses) -> &'a Vec<T> + Copy + 'a,
) -> impl Iterator<Item = T> + 'a {
    let rounds = places.iter().map(|place| family(place).len()).max().unwrap_or(0);
    let round = move |turn: usize| places.iter().filter_map(move |place| family(place).get(turn).copied());
    (0..rounds).flat_map(round).take(limit)
}

/// Addresses of name servers inside the zone go with the apex NS set.
fn add_server_addresses(answer: &mut Answer, authority: &Authority, set: &RecordSet) {
    if set.kind != RecordType::NS {
        return;
    }
    for data in &set.data {
        let RecordData::Ns(host) = data else { continue };
        if !host.is_in(&authority.zone().domain) {
            continue;
        }
        for kind in [RecordType::A, RecordType::AAAA] {
            if let Found::Records(addresses) = authority.lookup(&NameKey::from(host), kind) {
                answer.additional.extend(entries(&Owner::Name(host.clone()), addresses));
            }
        }
    }
}
