//! Whether a path is well: hysteresis both ways, and a hold before traffic returns.
//!
//! Nothing here measures anything. Whoever probes says what it saw and when; the [`Machine`] says what
//! that amounts to.

use std::time::Duration;

use crate::{steer::Why, time::Timestamp};

/// What one probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The path answered in time.
    Success,
    /// It did not.
    Failure,
}

/// When a [`Machine`] changes its mind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Failures in a row that make an `Up` path `Down`; 0 counts as 1.
    pub failures: u32,
    /// Successes in a row that end `Down`; 0 counts as 1.
    pub successes: u32,
    /// How long a recovered path must stay well before it is `Up`; zero skips `Holding`.
    pub hold: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { failures: 3, successes: 2, hold: Duration::from_secs(10) }
    }
}

/// How a path stands.
///
/// ```text
///            `failures` failures in a row
///      +---------------------------------------+
///      |                                       v
///   +----+                                 +------+
///   | Up |                                 | Down |<---------+
///   +----+                                 +------+          |
///      ^                                       |             |
///      |  `until` has come    +---------+      | `successes` | one failure: it
///      +----------------------| Holding |<-----+ in a row    | did not stay well
///                             +---------+--------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Traffic may use it.
    Up,
    /// Traffic must not use it.
    Down {
        /// When it was lost.
        since: Timestamp,
    },
    /// It recovered, but traffic does not return before `until`.
    Holding {
        /// When it is `Up` if it stays well.
        until: Timestamp,
    },
}

impl State {
    /// Why steering must not use the path; none when it may.
    #[must_use]
    pub const fn why(self) -> Option<Why> {
        match self {
            Self::Up => None,
            Self::Down { .. } => Some(Why::ProbeFailed),
            Self::Holding { .. } => Some(Why::Holding),
        }
    }
}

/// A change of [`State`] that somebody must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// How it stood before.
    pub from: State,
    /// How it stands now.
    pub to: State,
}

/// The state of one path and the evidence that speaks against it. Starts `Up`: a path counts as well
/// until it is shown to be lost, or a restart would empty every answer.
#[derive(Clone, Debug)]
pub struct Machine {
    thresholds: Thresholds,
    state: State,
    /// Outcomes in a row that contradict `state`.
    against: u32,
}

impl Machine {
    /// A path that is `Up`.
    #[must_use]
    pub const fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, state: State::Up, against: 0 }
    }

    /// How the path stands at `now`. A hold that has passed reads as `Up` even before [`Machine::tick`].
    #[must_use]
    pub fn state(&self, now: Timestamp) -> State {
        match self.state {
            State::Holding { until } if now >= until => State::Up,
            state => state,
        }
    }

    /// Takes in one outcome. `now` must not go back; the result is the change it makes, if any.
    pub fn observe(&mut self, outcome: Outcome, now: Timestamp) -> Option<Transition> {
        let from = self.state;
        self.expire(now);
        match (self.state, outcome) {
            (State::Up, Outcome::Success) | (State::Down { .. }, Outcome::Failure) => self.against = 0,
            (State::Holding { .. }, Outcome::Success) => {}
            (State::Up, Outcome::Failure) => {
                self.against += 1;
                if self.against >= self.thresholds.failures {
                    self.enter(State::Down { since: now });
                }
            }
            (State::Holding { .. }, Outcome::Failure) => self.enter(State::Down { since: now }),
            (State::Down { .. }, Outcome::Success) => {
                self.against += 1;
                if self.against >= self.thresholds.successes {
                    self.enter(if self.thresholds.hold.is_zero() {
                        State::Up
                    } else {
                        State::Holding { until: now + self.thresholds.hold }
                    });
                }
            }
        }
        (from != self.state).then_some(Transition { from, to: self.state })
    }

    /// Lets time pass without an outcome: ends a hold that is over.
    pub fn tick(&mut self, now: Timestamp) -> Option<Transition> {
        let from = self.state;
        self.expire(now);
        (from != self.state).then_some(Transition { from, to: self.state })
    }

    fn expire(&mut self, now: Timestamp) {
        if self.state(now) != self.state {
            self.enter(State::Up);
        }
    }

    const fn enter(&mut self, state: State) {
        self.state = state;
        self.against = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn machine() -> Machine {
        Machine::new(Thresholds { failures: 3, successes: 2, hold: Duration::from_millis(1000) })
    }

    fn lost() -> Machine {
        let mut machine = machine();
        for time in 1..=3 {
            machine.observe(Outcome::Failure, at(time));
        }
        machine
    }

    #[test]
    fn only_failures_in_a_row_lose_a_path() {
        let mut machine = machine();
        for outcome in
            [Outcome::Failure, Outcome::Failure, Outcome::Success, Outcome::Failure, Outcome::Failure]
        {
            assert_eq!(machine.observe(outcome, at(1)), None);
        }
        let change = machine.observe(Outcome::Failure, at(9));
        assert_eq!(change, Some(Transition { from: State::Up, to: State::Down { since: at(9) } }));
    }

    #[test]
    fn recovered_path_is_held_before_traffic_returns() {
        let mut machine = lost();
        assert_eq!(machine.observe(Outcome::Success, at(10)), None);
        machine.observe(Outcome::Success, at(20));
        assert_eq!(machine.state(at(1019)), State::Holding { until: at(1020) });
        assert_eq!(machine.state(at(1020)), State::Up);
        assert_eq!(machine.tick(at(1020)).map(|change| change.to), Some(State::Up));
    }

    #[test]
    fn one_failure_during_the_hold_starts_over() {
        let mut machine = lost();
        machine.observe(Outcome::Success, at(10));
        machine.observe(Outcome::Success, at(20));
        machine.observe(Outcome::Failure, at(500));
        assert_eq!(machine.state(at(5000)), State::Down { since: at(500) });
    }

    #[test]
    fn without_a_hold_a_recovered_path_is_up_at_once() {
        let thresholds = Thresholds { failures: 1, successes: 1, hold: Duration::ZERO };
        let mut machine = Machine::new(thresholds);
        machine.observe(Outcome::Failure, at(1));
        machine.observe(Outcome::Success, at(2));
        assert_eq!(machine.state(at(2)), State::Up);
    }

    proptest! {
        /// Up is lost only to enough failures in a row, and won back only after enough successes in a
        /// row and a hold without any failure.
        #[test]
        fn every_change_has_its_evidence(
            failures in 1..5_u32,
            successes in 1..5_u32,
            hold in 0..3000_u64,
            steps in prop::collection::vec((prop::bool::ANY, 1..500_u64), 1..200),
        ) {
            let hold = Duration::from_millis(hold);
            let mut machine = Machine::new(Thresholds { failures, successes, hold });
            let (mut now, mut in_a_row, mut last, mut last_failure) = (0, 0_u32, None, at(0));
            for (is_success, pause) in steps {
                now += pause;
                let outcome = if is_success { Outcome::Success } else { Outcome::Failure };
                in_a_row = if last == Some(outcome) { in_a_row + 1 } else { 1 };
                last = Some(outcome);
                let before = machine.state(at(now));
                machine.observe(outcome, at(now));
                let after = machine.state(at(now));
                match (before, after) {
                    (State::Up, State::Down { since }) => {
                        prop_assert!(in_a_row >= failures && since == at(now) && !is_success);
                    }
                    (State::Down { .. }, State::Up | State::Holding { .. }) => {
                        prop_assert!(in_a_row >= successes && is_success);
                        if let State::Holding { until } = after { prop_assert_eq!(until, at(now) + hold); }
                    }
                    (State::Holding { .. }, State::Down { .. }) => prop_assert!(!is_success),
                    (State::Holding { .. }, State::Up) | (State::Up, State::Holding { .. }) => prop_assert!(false),
                    _ => {}
                }
                if !is_success { last_failure = at(now); }
                if let State::Holding { until } = after { prop_assert!(until >= last_failure + hold); }
            }
        }

        /// A path that always answers is never lost.
        #[test]
        fn success_never_loses_a_path(steps in prop::collection::vec(1..500_u64, 1..50)) {
            let (mut machine, mut now) = (machine(), 0);
            for pause in steps {
                now += pause;
                prop_assert_eq!(machine.observe(Outcome::Success, at(now)), None);
            }
        }
    }
}
