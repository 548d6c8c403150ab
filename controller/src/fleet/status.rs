//! What a member's status says: pure, from what is known to what is written.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use meridian_api::condition::{Claim, clear, set};
use meridian_api::kubefed::{ClusterCondition, KubeFedClusterStatus};
use meridian_api::member_cluster::{MemberClusterStatus, conditions};

use super::connect::Malformed;
use super::health::Health;
use super::member::{Facts, Observed};

/// All that a member's status depends on.
#[derive(Clone, Debug)]
pub(super) struct Known<'a> {
    pub(super) facts: &'a Facts,
    pub(super) observed: &'a Observed,
    pub(super) health: &'a Health,
    pub(super) malformed: Option<&'a Malformed>,
    /// Whether region or spec say where the member is.
    pub(super) is_located: bool,
}

/// The conditions as (type, status, reason, message); Unknown health gives no word on Ready and Offline.
fn claims<'a>(known: &'a Known<'_>) -> Vec<(&'static str, Option<bool>, &'a str, &'a str)> {
    use conditions::{CONFIG_MALFORMED, OFFLINE, READY};
    if let Some(fault) = known.malformed {
        return vec![
            (CONFIG_MALFORMED, Some(true), "Malformed", fault.field.as_str()),
            (READY, Some(false), "ConfigMalformed", "the connection cannot be used"),
        ];
    }
    match known.health {
        Health::Unknown => Vec::new(),
        Health::Ready => vec![
            (READY, Some(true), "ClusterReady", "/readyz responded with ok"),
            (OFFLINE, Some(false), "ClusterReachable", "the API server answers"),
        ],
        Health::NotReady(cause) => vec![
            (READY, Some(false), cause.reason, cause.message.as_str()),
            (OFFLINE, Some(false), "ClusterReachable", "the API server answers"),
        ],
        Health::Offline(cause) => vec![
            (READY, Some(false), cause.reason, cause.message.as_str()),
            (OFFLINE, Some(true), cause.reason, cause.message.as_str()),
        ],
    }
}

/// The status of a MemberCluster, starting from the one it had. Equal inputs give an equal status, whatever the
/// time.
pub(super) fn of_member(known: &Known<'_>, before: &MemberClusterStatus, now: &Time) -> MemberClusterStatus {
    let mut list: Vec<Condition> = before.conditions.clone();
    let generation = known.facts.generation;
    let fault = known.malformed.map(ToString::to_string);
    for (type_, status, reason, message) in claims(known) {
        // The malformed condition names field and fault in one line.
        let message =
            if type_ == conditions::CONFIG_MALFORMED { fault.as_deref().unwrap_or(message) } else { message };
        set(&mut list, Claim { type_, status, reason, message, generation }, now);
    }
    match known.malformed {
        Some(_) => {
            // Nothing is known about an address that is not used.
            clear(&mut list, conditions::OFFLINE);
        }
        None => {
            clear(&mut list, conditions::CONFIG_MALFORMED);
        }
    }
    if known.is_located || known.health == &Health::Unknown {
        clear(&mut list, conditions::LOCATION_UNKNOWN);
    } else {
        let message = "neither spec.location nor a known region says where the member is; it is ranked last";
        let claim = Claim {
            type_: conditions::LOCATION_UNKNOWN,
            status: Some(true),
            reason: "NoLocation",
            message,
            generation,
        };
        set(&mut list, claim, now);
    }
    let observed = known.observed;
    MemberClusterStatus {
        conditions: list,
        // What was seen before a restart stays until something newer is seen.
        version: observed.version.clone().or_else(|| before.version.clone()),
        cluster_uid: observed.cluster_uid.clone().or_else(|| before.cluster_uid.clone()),
        region: region_of(known).or_else(|| before.region.clone()),
        zones: zones_of(known, &before.zones),
    }
}

/// The status of a KubeFedCluster, as [`of_member`].
pub(super) fn of_kubefed(
    known: &Known<'_>,
    before: &KubeFedClusterStatus,
    now: &Time,
) -> KubeFedClusterStatus {
    let fault = known.malformed.map(ToString::to_string);
    let mut list = Vec::new();
    for (type_, status, reason, message) in claims(known) {
        let message =
            if type_ == conditions::CONFIG_MALFORMED { fault.as_deref().unwrap_or(message) } else { message };
        list.push(kubefed_condition(&before.conditions, type_, status, reason, message, now));
    }
    if list.is_empty() {
        list.clone_from(&before.conditions);
    }
    list.sort_by(|a, b| a.type_.cmp(&b.type_));
    KubeFedClusterStatus {
        conditions: list,
        kubernetes_version: known.observed.version.clone().or_else(|| before.kubernetes_version.clone()),
        zones: zones_of(known, &before.zones),
        region: region_of(known).or_else(|| before.region.clone()),
    }
}

/// The status of a KubeFedCluster whose name a MemberCluster has.
pub(super) fn of_shadowed(before: &KubeFedClusterStatus, now: &Time) -> KubeFedClusterStatus {
    let message = "a MemberCluster has the same name and wins";
    let condition = kubefed_condition(&before.conditions, "Accepted", Some(false), "NameTaken", message, now);
    KubeFedClusterStatus { conditions: vec![condition], ..KubeFedClusterStatus::default() }
}

fn kubefed_condition(
    before: &[ClusterCondition],
    type_: &str,
    status: Option<bool>,
    reason: &str,
    message: &str,
    now: &Time,
) -> ClusterCondition {
    let status = match status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let old = before.iter().find(|c| c.type_ == type_);
    let same = old.filter(|c| c.status == status);
    ClusterCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        last_probe_time: same.map_or_else(|| now.clone(), |c| c.last_probe_time.clone()),
        last_transition_time: Some(
            same.and_then(|c| c.last_transition_time.clone()).unwrap_or_else(|| now.clone()),
        ),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
    }
}

fn region_of(known: &Known<'_>) -> Option<String> {
    known.facts.region.clone().or_else(|| known.observed.region.clone())
}

fn zones_of(known: &Known<'_>, before: &[String]) -> Vec<String> {
    if !known.facts.zones.is_empty() {
        known.facts.zones.clone()
    } else if known.observed.zones.is_empty() {
        before.to_vec()
    } else {
        known.observed.zones.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::{Known, of_kubefed, of_member};
    use crate::fleet::connect::Malformed;
    use crate::fleet::health::{Cause, Health};
    use crate::fleet::member::{Facts, Observed, Source};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use meridian_api::condition::is_true;
    use meridian_api::kubefed::KubeFedClusterStatus;
    use meridian_api::member_cluster::{MemberClusterStatus, Network, Traffic};

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).expect("in range"))
    }

    fn facts() -> Facts {
        Facts {
            source: Source::MemberCluster,
            uid: "u".into(),
            generation: Some(1),
            labels: Default::default(),
            region: None,
            zones: vec![],
            location: None,
            provider: None,
            network: Network::default(),
            traffic: Traffic::default(),
        }
    }

    fn offline() -> Health {
        Health::Offline(Cause { reason: "Timeout", message: "no answer".into() })
    }

    fn status(
        health: &Health,
        malformed: Option<&Malformed>,
        before: &MemberClusterStatus,
        second: i64,
    ) -> MemberClusterStatus {
        let (facts, observed) = (facts(), Observed::default());
        let known = Known { facts: &facts, observed: &observed, health, malformed, is_located: true };
        of_member(&known, before, &at(second))
    }

    #[test]
    fn same_health_later_is_the_same_status() {
        let first = status(&Health::Ready, None, &MemberClusterStatus::default(), 1);
        assert!(is_true(&first.conditions, "Ready"));
        assert_eq!(status(&Health::Ready, None, &first, 9), first);
    }

    #[test]
    fn losing_the_api_server_keeps_what_was_seen_and_moves_times() {
        let before = MemberClusterStatus {
            version: Some("v1".into()),
            region: Some("eu".into()),
            ..status(&Health::Ready, None, &MemberClusterStatus::default(), 1)
        };
        let after = status(&offline(), None, &before, 5);
        assert!(is_true(&after.conditions, "Offline") && !is_true(&after.conditions, "Ready"));
        assert_eq!((after.version, after.region), (before.version, before.region));
        assert!(after.conditions.iter().all(|c| c.last_transition_time == at(5)));
    }

    #[test]
    fn malformed_connection_names_the_field_and_goes_away_when_mended() {
        let fault =
            Malformed { field: "kubeconfig.users[a].user.exec".into(), message: "not allowed".into() };
        let bad = status(&Health::Unknown, Some(&fault), &MemberClusterStatus::default(), 1);
        let condition = bad.conditions.iter().find(|c| c.type_ == "ConfigMalformed").expect("set");
        assert_eq!(condition.message, "kubeconfig.users[a].user.exec: not allowed");
        let good = status(&Health::Ready, None, &bad, 2);
        assert!(good.conditions.iter().all(|c| c.type_ != "ConfigMalformed"));
    }

    #[test]
    fn kubefed_times_move_only_on_transitions() {
        let (facts, observed) = (facts(), Observed::default());
        let known =
            |health| Known { facts: &facts, observed: &observed, health, malformed: None, is_located: true };
        let first = of_kubefed(&known(&Health::Ready), &KubeFedClusterStatus::default(), &at(1));
        assert_eq!(of_kubefed(&known(&Health::Ready), &first, &at(9)), first);
    }
}
