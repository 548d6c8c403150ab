//! What arrives here: demand per service, measured and reported.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use meridian_core::{id::ObjectKey, snapshot::Rate};

/// Time constant of the average: long against bursts, short against a flash crowd.
const TAU: Duration = Duration::from_secs(3);
/// Below this a rate is nothing: an idle service must not report ever smaller numbers for minutes.
const FLOOR: Rate = 0.01;
/// Counters per meter. More than the workers of a usual machine share without harm.
const SHARDS: usize = 8;

/// A counter on its own cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(AtomicU64);

thread_local! {
    static SHARD: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The shard of this thread: threads take turns.
fn shard() -> usize {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    SHARD.with(|cell| {
        cell.get().unwrap_or_else(|| {
            let taken = NEXT.fetch_add(1, Relaxed) as usize % SHARDS;
            cell.set(Some(taken));
            taken
        })
    })
}

/// Requests of one service that arrive at this process.
#[derive(Debug, Default)]
pub struct Meter {
    arrivals: [Shard; SHARDS],
    in_flight: AtomicU32,
}

impl Meter {
    /// A request arrives; it is in flight until the result is dropped.
    pub fn arrive(self: &Arc<Self>) -> Arrival {
        self.arrivals[shard()].0.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        Arrival(Arc::clone(self))
    }

    /// Requests that have arrived since the beginning.
    #[must_use]
    pub fn arrivals(&self) -> u64 {
        self.arrivals.iter().map(|shard| shard.0.load(Relaxed)).sum()
    }

    /// Requests that have not been answered yet.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }
}

/// A request in flight.
#[derive(Debug)]
pub struct Arrival(Arc<Meter>);

impl Drop for Arrival {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// Averages of all services. Fed once a second or so, by one task.
#[derive(Debug, Default)]
pub struct Averages {
    services: BTreeMap<ObjectKey, Average>,
}

#[derive(Debug, Default)]
struct Average {
    seen: u64,
    rate: Rate,
}

impl Averages {
    /// Takes in what arrived during `elapsed`: an exponential average with a time constant of 3 s.
    /// Services that are not in `meters` any more are forgotten.
    pub fn observe<'a>(
        &mut self,
        meters: impl IntoIterator<Item = (&'a ObjectKey, &'a Arc<Meter>)>,
        elapsed: Duration,
    ) {
        let seconds = elapsed.as_secs_f64().max(1e-3);
        let weight = 1.0 - (-seconds / TAU.as_secs_f64()).exp();
        let mut services = BTreeMap::new();
        for (key, meter) in meters {
            let mut average = self.services.remove(key).unwrap_or_default();
            let arrivals = meter.arrivals();
            // A meter that was made anew counts from 0 again.
            let new = arrivals.checked_sub(average.seen).unwrap_or(arrivals);
            average.seen = arrivals;
            average.rate += weight * (new as f64 / seconds - average.rate);
            if average.rate < FLOOR {
                average.rate = 0.0;
            }
            services.insert(key.clone(), average);
        }
        self.services = services;
    }

    /// Requests per second of each service.
    #[must_use]
    pub fn rates(&self) -> BTreeMap<ObjectKey, Rate> {
        self.services.iter().map(|(key, average)| (key.clone(), average.rate)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key() -> ObjectKey {
        ObjectKey::new("shop", "web")
    }

    #[test]
    fn steady_arrivals_become_their_rate() {
        let (meter, mut averages) = (Arc::new(Meter::default()), Averages::default());
        for _ in 0..30 {
            (0..200).for_each(|_| drop(meter.arrive()));
            averages.observe([(&key(), &meter)], SECOND);
        }
        assert!((averages.rates()[&key()] - 200.0).abs() < 0.1);
    }

    #[test]
    fn idle_service_reports_zero_in_the_end() {
        let (meter, mut averages) = (Arc::new(Meter::default()), Averages::default());
        (0..10).for_each(|_| drop(meter.arrive()));
        for _ in 0..30 {
            averages.observe([(&key(), &meter)], SECOND);
        }
        assert_eq!(averages.rates()[&key()], 0.0);
    }

    #[test]
    fn request_is_in_flight_until_it_is_dropped() {
        let meter = Arc::new(Meter::default());
        let arrival = meter.arrive();
        assert_eq!(meter.in_flight(), 1);
        drop(arrival);
        assert_eq!((meter.in_flight(), meter.arrivals()), (0, 1));
    }

    #[test]
    fn service_that_is_gone_is_forgotten() {
        let (meter, mut averages) = (Arc::new(Meter::default()), Averages::default());
        averages.observe([(&key(), &meter)], SECOND);
        averages.observe([], SECOND);
        assert!(averages.rates().is_empty());
    }
}
