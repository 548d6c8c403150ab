//! The two clocks of the proxy: one that only goes forward, one that other processes share.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use meridian_core::time::Timestamp;

/// Monotonic time since the process began, for ejections and breakers.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Begins now. Its first moment is 1 ms, so that 0 can mean "never".
    #[must_use]
    pub fn start() -> Self {
        let now = Instant::now();
        Self { origin: now.checked_sub(Duration::from_millis(1)).unwrap_or(now) }
    }

    /// Milliseconds since the beginning.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        millis(self.origin.elapsed())
    }
}

/// Wall-clock time, for what crosses processes: dials that expire.
#[must_use]
pub fn wall() -> Timestamp {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(length: Duration) -> Timestamp {
    Timestamp::from_millis(u64::try_from(length.as_millis()).unwrap_or(u64::MAX))
}
