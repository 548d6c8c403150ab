//! Whether a member's API server answers, with hysteresis both ways.
//!
//! ```text
//!            first observation is taken as it is
//! Unknown ────────────────┬──────────────┬─────────────┐
//!                         ▼              ▼             ▼
//!                       Ready ◄─2 ok─ NotReady ◄──► Offline
//!                         └──3 failures──┘ (the newest failure names the state)
//! ```

/// Consecutive failures after which a member is no longer ready.
pub(super) const FAILURES: u32 = 3;
/// Consecutive successes after which it is ready again.
pub(super) const SUCCESSES: u32 = 2;

/// Health of a member's API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Not yet probed.
    #[default]
    Unknown,
    /// Answers its readiness probe.
    Ready,
    /// Answers, but not that it is ready.
    NotReady(Cause),
    /// Does not answer.
    Offline(Cause),
}

impl Health {
    /// Whether writes to the member make sense.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self == Self::Ready
    }

    /// Why not, if not.
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        match self {
            Self::NotReady(cause) | Self::Offline(cause) => Some(cause),
            Self::Unknown | Self::Ready => None,
        }
    }
}

/// Why a probe failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// A word from a closed set.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// Result of one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// The server says that it is ready.
    Ok,
    /// It answered otherwise.
    Refused(Cause),
    /// It did not answer.
    NoAnswer(Cause),
}

/// Counts probes; keeps a state until enough of them say otherwise.
#[derive(Debug, Default)]
pub(super) struct Machine {
    health: Health,
    run: u32,
}

impl Machine {
    /// Takes in one probe; gives the new health if it changed. A cause alone that changes is no change while the
    /// state stays: times and messages move on transitions only.
    pub(super) fn observe(&mut self, probe: Probe) -> Option<Health> {
        let next = match probe {
            Probe::Ok => Health::Ready,
            Probe::Refused(cause) => Health::NotReady(cause),
            Probe::NoAnswer(cause) => Health::Offline(cause),
        };
        if std::mem::discriminant(&next) == std::mem::discriminant(&self.health) {
            self.run = 0;
            return None;
        }
        self.run += 1;
        let needed = match (&self.health, &next) {
            (Health::Unknown, _) => 1,
            (_, Health::Ready) => SUCCESSES,
            (Health::Ready, _) => FAILURES,
            // From one failure to another only the name changes.
            _ => FAILURES,
        };
        if self.run < needed {
            return None;
        }
        self.run = 0;
        self.health = next;
        Some(self.health.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::{Cause, Health, Machine, Probe};

    fn cause() -> Cause {
        Cause { reason: "Timeout", message: "no answer".to_owned() }
    }

    fn offline() -> Probe {
        Probe::NoAnswer(cause())
    }

    #[test]
    fn first_observation_is_taken_as_it_is() {
        assert_eq!(Machine::default().observe(Probe::Ok), Some(Health::Ready));
        assert_eq!(Machine::default().observe(offline()), Some(Health::Offline(cause())));
    }

    #[test]
    fn three_failures_make_a_member_offline_and_two_successes_ready() {
        let mut machine = Machine::default();
        machine.observe(Probe::Ok);
        assert_eq!(machine.observe(offline()), None);
        assert_eq!(machine.observe(offline()), None);
        assert_eq!(machine.observe(offline()), Some(Health::Offline(cause())));
        assert_eq!(machine.observe(Probe::Ok), None);
        assert_eq!(machine.observe(Probe::Ok), Some(Health::Ready));
    }

    #[test]
    fn a_success_in_between_starts_the_count_again() {
        let mut machine = Machine::default();
        machine.observe(Probe::Ok);
        for _ in 0..5 {
            assert_eq!(machine.observe(offline()), None);
            assert_eq!(machine.observe(offline()), None);
            assert_eq!(machine.observe(Probe::Ok), None);
        }
    }
}
