//! Setting a standard condition so that times move only on transitions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// What a condition is to say; the time is added by [`set`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim<'a> {
    /// Type of the condition, UpperCamelCase, unique in its list.
    pub type_: &'a str,
    /// `Some(true)` is `True`, `Some(false)` is `False`, `None` is `Unknown`.
    pub status: Option<bool>,
    /// UpperCamelCase word from a closed set; never empty.
    pub reason: &'a str,
    /// A sentence for people; may be empty.
    pub message: &'a str,
    /// `metadata.generation` that was looked at.
    pub generation: Option<i64>,
}

/// Sets or adds one condition. The result says whether anything changed; `lastTransitionTime` becomes `now`
/// only if the status flipped or the condition is new. Messages are cut at 1,024 characters.
pub fn set(conditions: &mut Vec<Condition>, claim: Claim<'_>, now: &Time) -> bool {
    let status = match claim.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let message: String = claim.message.chars().take(1024).collect();
    let Some(old) = conditions.iter_mut().find(|c| c.type_ == claim.type_) else {
        conditions.push(Condition {
            type_: claim.type_.to_owned(),
            status: status.to_owned(),
            reason: claim.reason.to_owned(),
            message,
            observed_generation: claim.generation,
            last_transition_time: now.clone(),
        });
        // Sorted so that equal sets give equal bytes, whoever was first.
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        return true;
    };
    let before = old.clone();
    if old.status != status {
        old.last_transition_time = now.clone();
        old.status = status.to_owned();
    }
    old.reason = claim.reason.to_owned();
    old.message = message;
    old.observed_generation = claim.generation;
    *old != before
}

/// Removes a condition; says whether it was there.
pub fn clear(conditions: &mut Vec<Condition>, type_: &str) -> bool {
    let before = conditions.len();
    conditions.retain(|c| c.type_ != type_);
    conditions.len() != before
}

/// Whether the condition exists and is `True`.
#[must_use]
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|c| c.type_ == type_ && c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::{Claim, set};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).expect("in range"))
    }

    fn ready(status: bool, message: &str) -> Claim<'_> {
        Claim { type_: "Ready", status: Some(status), reason: "Probed", message, generation: None }
    }

    #[test]
    fn time_moves_only_when_the_status_flips() {
        let mut list = Vec::new();
        assert!(set(&mut list, ready(true, "a"), &at(1)));
        assert!(!set(&mut list, ready(true, "a"), &at(2)));
        assert!(set(&mut list, ready(true, "b"), &at(3)));
        assert_eq!(list[0].last_transition_time, at(1));
        assert!(set(&mut list, ready(false, "b"), &at(4)));
        assert_eq!(list[0].last_transition_time, at(4));
    }
}
