//! What a wrapper's status says: pure, from what became of its plan.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use meridian_api::kubefed::{ClusterStatus, FederatedCondition, FederatedStatus};
use meridian_core::id::ClusterName;

use crate::call::cut;

/// How a wrapper's object is in one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// As wanted.
    Fine,
    /// Being written.
    Pending,
    /// Not as wanted.
    Bad {
        /// KubeFed's word.
        status: &'static str,
        /// For people.
        message: String,
    },
}

impl Cell {
    pub(super) fn bad(status: &'static str, message: impl Into<String>) -> Self {
        Self::Bad { status, message: message.into() }
    }
}

/// What concerns the wrapper as a whole: KubeFed's aggregate reason and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Overall {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The status of a wrapper. Equal inputs give an equal status whatever the time; times move only with what they date.
pub(super) fn rollup(
    generation: Option<i64>,
    overall: Option<&Overall>,
    cells: &BTreeMap<ClusterName, Cell>,
    before: &FederatedStatus,
    now: &Time,
) -> FederatedStatus {
    let clusters = cells
        .iter()
        .filter_map(|(name, cell)| {
            let name = name.as_str().to_owned();
            match cell {
                Cell::Fine => Some(ClusterStatus { name, ..ClusterStatus::default() }),
                // What was said before stays until there is something to say.
                Cell::Pending => before.clusters.iter().find(|c| c.name == name).cloned(),
                Cell::Bad { status, message } => Some(ClusterStatus {
                    name,
                    status: Some((*status).to_owned()),
                    message: Some(cut(message)),
                    remote_status: None,
                }),
            }
        })
        .collect();
    let (reason, message) = match overall {
        Some(overall) => (Some(overall.reason), Some(overall.message.clone())),
        None => check(cells),
    };
    FederatedStatus {
        observed_generation: generation,
        conditions: vec![condition(reason, message, before, now)],
        clusters,
    }
}

/// The aggregate of the clusters: nothing, or KubeFed's CheckClusters and the first few of them.
fn check(cells: &BTreeMap<ClusterName, Cell>) -> (Option<&'static str>, Option<String>) {
    let bad: Vec<String> = cells
        .iter()
        .filter_map(|(name, cell)| match cell {
            Cell::Fine => None,
            Cell::Pending => Some(format!("{name}: being written")),
            Cell::Bad { status, message } => Some(format!("{name}: {status}: {message}")),
        })
        .collect();
    if bad.is_empty() {
        return (None, None);
    }
    let more = if bad.len() > 3 { format!("; and {} more", bad.len() - 3) } else { String::new() };
    let shown: Vec<&str> = bad.iter().take(3).map(String::as_str).collect();
    (Some("CheckClusters"), Some(cut(&format!("{}{more}", shown.join("; ")))))
}

fn condition(
    reason: Option<&str>,
    message: Option<String>,
    before: &FederatedStatus,
    now: &Time,
) -> FederatedCondition {
    let status = if reason.is_none() { "True" } else { "False" };
    let old = before.conditions.iter().find(|c| c.type_ == "Propagation");
    let mut next = FederatedCondition {
        type_: "Propagation".to_owned(),
        status: status.to_owned(),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(now.clone()),
        reason: reason.map(str::to_owned),
        message,
    };
    if let Some(old) = old {
        if old.status == next.status {
            next.last_transition_time.clone_from(&old.last_transition_time);
        }
        if old.status == next.status && old.reason == next.reason && old.message == next.message {
            next.last_update_time.clone_from(&old.last_update_time);
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::{Cell, Overall, rollup};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use meridian_api::kubefed::FederatedStatus;
    use meridian_core::id::ClusterName;
    use std::collections::BTreeMap;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).expect("in range"))
    }

    fn cells(list: &[(&str, Cell)]) -> BTreeMap<ClusterName, Cell> {
        list.iter().map(|(name, cell)| (ClusterName::from(*name), cell.clone())).collect()
    }

    fn of(list: &[(&str, Cell)], before: &FederatedStatus, second: i64) -> FederatedStatus {
        rollup(Some(1), None, &cells(list), before, &at(second))
    }

    #[test]
    fn all_well_is_true_without_a_reason_and_stays_so() {
        let first = of(&[("m1", Cell::Fine)], &FederatedStatus::default(), 1);
        assert_eq!(first.conditions[0].status, "True");
        assert_eq!(first.conditions[0].reason, None);
        assert_eq!(of(&[("m1", Cell::Fine)], &first, 9), first);
    }

    #[test]
    fn a_bad_cluster_is_named_with_kubefeds_word_and_a_message() {
        let status = of(
            &[("m1", Cell::Fine), ("m2", Cell::bad("UpdateFailed", "immutable"))],
            &FederatedStatus::default(),
            1,
        );
        assert_eq!(status.conditions[0].reason.as_deref(), Some("CheckClusters"));
        assert_eq!(status.conditions[0].message.as_deref(), Some("m2: UpdateFailed: immutable"));
        assert_eq!(status.clusters[0].status, None);
        assert_eq!(status.clusters[1].status.as_deref(), Some("UpdateFailed"));
    }

    #[test]
    fn transition_time_moves_only_when_the_status_flips() {
        let bad = |text: &str| [("m1", Cell::bad("UpdateFailed", text))];
        let first = of(&bad("a"), &FederatedStatus::default(), 1);
        let second = of(&bad("b"), &first, 2);
        assert_eq!(second.conditions[0].last_transition_time, Some(at(1)));
        assert_eq!(second.conditions[0].last_update_time, Some(at(2)));
        let third = of(&[("m1", Cell::Fine)], &second, 3);
        assert_eq!(third.conditions[0].last_transition_time, Some(at(3)));
    }

    #[test]
    fn a_pending_cluster_keeps_what_was_said_of_it() {
        let before = of(&[("m1", Cell::Fine)], &FederatedStatus::default(), 1);
        let after = of(&[("m1", Cell::Pending), ("m2", Cell::Pending)], &before, 2);
        assert_eq!(after.clusters, before.clusters);
        assert_eq!(after.conditions[0].status, "False");
    }

    #[test]
    fn what_concerns_the_whole_comes_first() {
        let overall = Overall { reason: "NamespaceNotFederated", message: "shop is not federated".into() };
        let status = rollup(None, Some(&overall), &cells(&[]), &FederatedStatus::default(), &at(1));
        assert_eq!(status.conditions[0].reason.as_deref(), Some("NamespaceNotFederated"));
    }
}
