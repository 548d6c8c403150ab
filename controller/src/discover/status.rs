//! Verdicts as conditions: pure, and only what differs from what the objects say already.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use meridian_api::condition::{Claim, set};
use meridian_api::dns_zone::DnsZoneStatus;
use meridian_api::site::SiteStatus;
use meridian_api::traffic_policy::TrafficPolicyStatus;
use meridian_core::id::{ObjectKey, SiteName};
use meridian_core::index::{Fault, PolicyVerdict, Verdicts, ZoneVerdict};
use serde_json::{Value, json};

use super::writer::{Place, Wanted};
use crate::fleet::Change;

/// Statuses as the hub last showed them.
#[derive(Debug, Default)]
pub(super) struct Statuses {
    pub(super) policies: BTreeMap<ObjectKey, Seen<TrafficPolicyStatus>>,
    pub(super) sites: BTreeMap<SiteName, Seen<SiteStatus>>,
    pub(super) zones: BTreeMap<Arc<str>, Seen<DnsZoneStatus>>,
}

/// A status and the generation of the spec beside it.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen<S> {
    pub(super) status: S,
    pub(super) generation: Option<i64>,
}

/// Folds what a watch says into a map of statuses.
pub(super) fn fold<K: Ord, S>(held: &mut BTreeMap<K, Seen<S>>, change: Change<K, Seen<S>>) {
    match change {
        Change::Apply(key, seen) => drop(held.insert(key, seen)),
        Change::Delete(key) => drop(held.remove(&key)),
        Change::Reset(all) => *held = all.into_iter().collect(),
    }
}

/// Statuses that say something else than the verdicts.
pub(super) fn differences(statuses: &Statuses, verdicts: &Verdicts, now: &Time) -> Wanted {
    let mut wanted = Wanted::new();
    for (key, verdict) in &verdicts.policies {
        let Some(seen) = statuses.policies.get(key) else { continue };
        if let Some(status) = policy_status(seen, verdict, now) {
            wanted.insert(Place::TrafficPolicy(key.clone()), status);
        }
    }
    for (name, fault) in &verdicts.sites {
        let Some(seen) = statuses.sites.get(name) else { continue };
        let mut conditions = seen.status.conditions.clone();
        if claim(&mut conditions, "Accepted", fault.as_ref(), seen.generation, now) {
            wanted.insert(Place::Site(name.clone()), json!({"conditions": conditions}));
        }
    }
    for (name, verdict) in &verdicts.zones {
        let Some(seen) = statuses.zones.get(name) else { continue };
        if let Some(status) = zone_status(seen, verdict, now) {
            wanted.insert(Place::DnsZone(name.clone()), status);
        }
    }
    wanted
}

fn policy_status(seen: &Seen<TrafficPolicyStatus>, verdict: &PolicyVerdict, now: &Time) -> Option<Value> {
    let mut conditions = seen.status.conditions.clone();
    let accepted = claim(&mut conditions, "Accepted", verdict.not_accepted.as_ref(), seen.generation, now);
    let resolved = claim(&mut conditions, "ResolvedRefs", verdict.unresolved.as_ref(), seen.generation, now);
    (accepted || resolved).then(|| json!({"conditions": conditions}))
}

fn zone_status(seen: &Seen<DnsZoneStatus>, verdict: &ZoneVerdict, now: &Time) -> Option<Value> {
    let mut conditions = seen.status.conditions.clone();
    let changed = claim(&mut conditions, "Accepted", verdict.not_accepted.as_ref(), seen.generation, now);
    // A serial that was published once stays: it is the floor for the next one.
    let serial = verdict.serial.map(i64::from).or(seen.status.serial);
    (changed || serial != seen.status.serial).then(|| match serial {
        Some(serial) => json!({"conditions": conditions, "serial": serial}),
        None => json!({"conditions": conditions}),
    })
}

/// Sets a condition that is true unless there is a fault; says whether anything changed.
fn claim(
    conditions: &mut Vec<Condition>,
    type_: &'static str,
    fault: Option<&Fault>,
    generation: Option<i64>,
    now: &Time,
) -> bool {
    // The type's own word is the reason of a condition that is as it should be.
    let (reason, message) = fault.map_or((type_, ""), |fault| (fault.reason, fault.message.as_str()));
    set(conditions, Claim { type_, status: Some(fault.is_none()), reason, message, generation }, now)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).expect("in range"))
    }

    fn verdicts(fault: Option<&'static str>) -> Verdicts {
        let not_accepted =
            fault.map(|message| Fault { reason: "HostnameConflict", message: message.to_owned() });
        let verdict = PolicyVerdict { not_accepted, unresolved: None };
        Verdicts { policies: [(ObjectKey::new("shop", "p"), verdict)].into(), ..Verdicts::default() }
    }

    fn written(statuses: &mut Statuses, wanted: &Wanted) {
        for (place, status) in wanted {
            let Place::TrafficPolicy(key) = place else { panic!("only policies here") };
            let status = serde_json::from_value(status.clone()).expect("a status");
            statuses.policies.insert(key.clone(), Seen { status, generation: Some(1) });
        }
    }

    #[test]
    fn verdict_is_written_once_and_its_time_moves_only_when_it_turns() {
        let mut statuses = Statuses::default();
        let key = ObjectKey::new("shop", "p");
        statuses.policies.insert(key.clone(), Seen { generation: Some(1), ..Seen::default() });
        let first = differences(&statuses, &verdicts(None), &at(1));
        written(&mut statuses, &first);
        assert!(differences(&statuses, &verdicts(None), &at(2)).is_empty());
        let lost = differences(&statuses, &verdicts(Some("app.example.org is taken")), &at(3));
        written(&mut statuses, &lost);
        let conditions = &statuses.policies[&key].status.conditions;
        assert_eq!(
            (conditions[0].status.as_str(), conditions[0].reason.as_str()),
            ("False", "HostnameConflict")
        );
        assert_eq!(conditions[0].last_transition_time, at(3));
        assert_eq!(conditions[1].last_transition_time, at(1));
    }

    #[test]
    fn serial_is_written_when_it_rises_and_never_taken_back() {
        let mut statuses = Statuses::default();
        statuses.zones.insert("z".into(), Seen::default());
        let served = |serial| Verdicts {
            zones: [("z".into(), ZoneVerdict { not_accepted: None, serial })].into(),
            ..Verdicts::default()
        };
        let wanted = differences(&statuses, &served(Some(7)), &at(1));
        let status = &wanted[&Place::DnsZone("z".into())];
        assert_eq!(status["serial"], 7);
        let status: DnsZoneStatus = serde_json::from_value(status.clone()).expect("a status");
        statuses.zones.insert("z".into(), Seen { status, generation: None });
        assert!(differences(&statuses, &served(Some(7)), &at(2)).is_empty());
        assert!(differences(&statuses, &served(None), &at(2)).is_empty());
        assert_eq!(differences(&statuses, &served(Some(8)), &at(2)).len(), 1);
    }
}
