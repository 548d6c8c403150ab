//! From a compiled target to one endpoint for one attempt.
//!
//! Across clusters: a draw by weight (`steer::pick`), then, when that cluster has no room or failed,
//! the ranking in order. Inside a cluster: the less busy of two random endpoints. An attempt takes no
//! lock and does not allocate; what it learns is kept in atomics that all tables share.

mod breaker;
mod endpoint;
mod pool;

pub use breaker::Breaker;
pub use endpoint::Endpoint;
use meridian_core::{
    id::{ClusterName, ObjectKey},
    steer::{self, Why},
    time::{Millis, Timestamp},
};
pub use pool::{ClusterPath, Gate, Permit, Pool};
use serde::Serialize;
use std::sync::Arc;

use crate::{load::Meter, refusal::Refusal};

/// Attempts of one request at most, first one included.
const MAX_ATTEMPTS: usize = 4;
/// Clusters one request is sent to at most: a request that fails everywhere must not visit the fleet.
const MAX_CLUSTERS: usize = 2;
/// Endpoints tried inside one cluster.
const ENDPOINTS_PER_CLUSTER: usize = 2;

/// Where requests of a route go, compiled from one snapshot.
#[derive(Debug)]
pub struct Target {
    /// The service.
    pub service: ObjectKey,
    /// Counts its requests.
    pub meter: Arc<Meter>,
    /// Clusters that may be used, best first.
    pub choices: Vec<Choice>,
    /// The others, and why not.
    pub excluded: Vec<(ClusterName, Why)>,
    /// True when nothing is healthy and the choices are unhealthy ones.
    pub failed_open: bool,
    /// Where the weights come from.
    pub weights_from: WeightsFrom,
}

/// One cluster a target may use.
#[derive(Debug)]
pub struct Choice {
    /// The cluster.
    pub cluster: ClusterName,
    /// How far it is from this site; none when unknown.
    pub distance: Option<Millis>,
    /// Its part of the requests, 0 to 1. A cluster of weight 0 is used when others fail.
    pub weight: f64,
    /// Its seed for the draw.
    pub seed: u64,
    /// Requests in flight this site may have there; none is no limit.
    pub limit: Option<u32>,
    /// Its endpoints.
    pub pool: Pool,
}

/// Where the weights of a target come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum WeightsFrom {
    /// The controller solved them for this site.
    Shares,
    /// This site solved them from the demand of all sites.
    Solved,
    /// No demand is known: the nearest gets everything.
    Nearest,
}

/// What a request has tried so far.
#[derive(Debug, Default)]
pub struct Tried {
    attempts: usize,
    /// (choice, endpoint) of each attempt.
    endpoints: [(usize, usize); MAX_ATTEMPTS],
    /// Choices in the order in which they were entered.
    clusters: [usize; MAX_CLUSTERS],
    entered: usize,
    /// The current cluster did not answer at all: another endpoint there would only cost another timeout.
    is_given_up: bool,
}

impl Tried {
    /// Attempts made.
    #[must_use]
    pub const fn attempts(&self) -> usize {
        self.attempts
    }

    /// The next attempt goes to another cluster.
    pub const fn give_up_cluster(&mut self) {
        self.is_given_up = true;
    }

    /// The last endpoint may be tried once more: only its pooled connection was dead.
    pub const fn forgive_endpoint(&mut self) {
        if let Some(last) = self.attempts.checked_sub(1) {
            self.endpoints[last] = (usize::MAX, usize::MAX);
        }
    }

    fn current(&self) -> Option<usize> {
        if self.is_given_up { None } else { self.clusters[..self.entered].last().copied() }
    }

    fn has_cluster(&self, choice: usize) -> bool {
        self.clusters[..self.entered].contains(&choice)
    }

    fn has_endpoint(&self, choice: usize, endpoint: usize) -> bool {
        self.endpoints[..self.attempts].contains(&(choice, endpoint))
    }

    fn in_cluster(&self, choice: usize) -> usize {
        self.endpoints[..self.attempts].iter().filter(|(entered, _)| *entered == choice).count()
    }

    fn note(&mut self, choice: usize, endpoint: usize) {
        self.endpoints[self.attempts] = (choice, endpoint);
        self.attempts += 1;
        if !self.has_cluster(choice) {
            self.clusters[self.entered] = choice;
            self.entered += 1;
            self.is_given_up = false;
        }
    }
}

/// Why a cluster did not take an attempt.
enum Pass {
    Full,
    Unusable,
}

impl Target {
    /// The next attempt of a request: another endpoint of the cluster it is in, else the next cluster.
    ///
    /// `random` is uniform and new for each attempt. Ejected endpoints and clusters with an open
    /// breaker are used only when there is nothing else, so that wrong evidence cannot fail a request
    /// by itself.
    ///
    /// # Errors
    /// Why there is no further attempt.
    pub fn next(&self, tried: &mut Tried, random: u64, now: Timestamp) -> Result<Permit, Refusal> {
        if tried.attempts >= MAX_ATTEMPTS {
            return Err(Refusal::ConnectFailed);
        }
        let current = tried.current().filter(|&choice| tried.in_cluster(choice) < ENDPOINTS_PER_CLUSTER);
        if let Some(choice) = current
            && let Ok(permit) = self.enter(choice, tried, random, now, false)
        {
            return Ok(permit);
        }
        let mut is_full = false;
        if tried.entered < MAX_CLUSTERS {
            let drawn = (tried.attempts == 0).then(|| self.draw(random)).flatten();
            for desperate in [false, true] {
                for choice in drawn.into_iter().chain(0..self.choices.len()) {
                    if tried.has_cluster(choice) {
                        continue;
                    }
                    match self.enter(choice, tried, random, now, desperate) {
                        Ok(permit) => return Ok(permit),
                        Err(Pass::Full) => is_full = true,
                        Err(Pass::Unusable) => {}
                    }
                }
            }
        }
        Err(match (is_full, tried.attempts) {
            (true, _) => Refusal::Overloaded,
            (false, 0) => Refusal::NoUsableCluster,
            (false, _) => Refusal::ConnectFailed,
        })
    }

    /// The cluster that the weights draw.
    fn draw(&self, random: u64) -> Option<usize> {
        steer::pick(random, self.choices.iter().map(|choice| (choice.seed, choice.weight)))
    }

    fn enter(
        &self,
        index: usize,
        tried: &mut Tried,
        random: u64,
        now: Timestamp,
        desperate: bool,
    ) -> Result<Permit, Pass> {
        let choice = self.choices.get(index).ok_or(Pass::Unusable)?;
        let pool = &choice.pool;
        if !desperate && pool.path.breaker.is_open(now) {
            return Err(Pass::Unusable);
        }
        let allowed = |endpoint: usize, state: &Endpoint| {
            !tried.has_endpoint(index, endpoint) && (desperate || !state.is_ejected(now))
        };
        let endpoint = pool.choose(random, allowed).ok_or(Pass::Unusable)?;
        let permit = pool.enter(endpoint, choice.limit).ok_or(Pass::Full)?;
        // Asked last: asking uses up the one trial.
        if !desperate && !pool.path.breaker.admits(now) {
            return Err(Pass::Unusable);
        }
        tried.note(index, endpoint);
        Ok(permit)
    }
}

#[cfg(test)]
mod tests;
