//! THE decision: which place serves whom.
//!
//! DNS, LB and in-cluster discovery all call this module with what they know and compile the result
//! into whatever their hot path needs. Three steps, each a pure function:
//!
//! 1. [`service_candidates`] turns a service's shards into [`Candidate`]s, [`site_candidates`] the sites:
//!    what is usable, how much it can take. What the caller's own probes say is lost comes in as a mask.
//! 2. [`rank`] filters by health, dial and fence and orders the rest by tier and distance from a
//!    [`Vantage`].
//! 3. [`solve`] fills the nearest up to its capacity and sends only the excess on, for all sites that
//!    share the capacity at once. [`pick`] then draws one place for one request.
//!
//! Equal inputs give equal bytes: ties go by name, never by hash order or chance.

use std::collections::BTreeMap;

use serde::Serialize;

mod candidates;
mod pick;
mod rank;
mod solve;

pub use candidates::{Mask, service_candidates, service_ranking, site_candidates};
pub use pick::{pick, weight_key};
pub use rank::{distance, rank};
pub use solve::{Demand, shares_of, solve};

use crate::{
    geo::GeoPoint,
    id::RegionName,
    snapshot::{Cluster, Site, WhenAllUnhealthy},
    time::Millis,
};

/// The place from which a choice is made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vantage {
    /// Where it is; none when unknown.
    pub location: Option<GeoPoint>,
    /// Its region, if it has one (a site or a member does, a client does not).
    pub region: Option<RegionName>,
    /// Measured round-trip times to candidates, by name. They beat everything.
    pub measured: BTreeMap<String, Millis>,
    /// Supplied round-trip times to regions. They beat what is computed from locations.
    pub supplied: BTreeMap<RegionName, Millis>,
}

impl Vantage {
    /// A client of whom only the place is known.
    #[must_use]
    pub fn at(location: Option<GeoPoint>) -> Self {
        Self { location, ..Self::default() }
    }

    /// A site.
    #[must_use]
    pub fn site(site: &Site) -> Self {
        Self {
            location: site.location,
            region: site.region.clone(),
            measured: BTreeMap::new(),
            supplied: site.distances.clone(),
        }
    }

    /// A member, for lookups of its own pods.
    #[must_use]
    pub fn member(cluster: &Cluster) -> Self {
        Self { location: cluster.location, region: cluster.region.clone(), ..Self::default() }
    }
}

/// A place that could be chosen: a member's shard of a service, or a site.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Name of the cluster or site; unique in its list.
    pub name: String,
    /// Its region.
    pub region: Option<RegionName>,
    /// Where it is.
    pub location: Option<GeoPoint>,
    /// Why it cannot be used; none if it can.
    pub unusable: Option<Why>,
    /// Requests per second it can take, dial applied; infinite when undeclared.
    pub capacity: f64,
    /// Preference before distance: lower tiers are filled first.
    pub tier: u32,
}

/// Rules of the policy that apply to a ranking.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Regions that may be used; none allows all.
    pub allowed_regions: Option<Vec<RegionName>>,
    /// What to do when nothing is healthy.
    pub when_all_unhealthy: WhenAllUnhealthy,
}

/// Why a candidate was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Why {
    /// The service has no ready endpoint there.
    NoReadyEndpoint,
    /// Its dial stands at 0.
    Drained,
    /// The asker's own probes find its data path dead.
    ProbeFailed,
    /// It recovered, but the failback hold has not passed.
    Holding,
    /// The policy's fence forbids its region. Never lifted.
    Fenced,
    /// It has no address of the kind that is asked for. Never lifted.
    NoAddress,
}

impl Why {
    /// True when only the asker's own probes speak against the candidate.
    #[must_use]
    pub const fn is_doubtful(self) -> bool {
        matches!(self, Self::ProbeFailed | Self::Holding)
    }
}

/// One candidate in its rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Index into the candidates.
    pub index: usize,
    /// How far it is from the vantage; none when neither side's place is known.
    pub distance: Option<Millis>,
}

/// The order in which a vantage uses candidates, and why the others are left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranking {
    /// Best first.
    pub order: Vec<Ranked>,
    /// The rest, in input order.
    pub excluded: Vec<(usize, Why)>,
    /// True when nothing was healthy and the order lists unhealthy candidates.
    pub failed_open: bool,
}
