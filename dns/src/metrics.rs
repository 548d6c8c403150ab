//! What the server counts. Query counters are made once, so that counting takes no lock.

use std::{fmt, sync::atomic::AtomicU64};

use meridian_core::zone::RecordType;
use meridian_runtime::metrics::Metrics;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

/// How a query ended, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// NOERROR.
    NoError,
    /// FORMERR.
    FormErr,
    /// SERVFAIL.
    ServFail,
    /// NXDOMAIN.
    NxDomain,
    /// NOTIMP.
    NotImp,
    /// REFUSED.
    Refused,
    /// BADVERS.
    BadVers,
}

impl Outcome {
    const ALL: [Self; 7] = [
        Self::NoError,
        Self::FormErr,
        Self::ServFail,
        Self::NxDomain,
        Self::NotImp,
        Self::Refused,
        Self::BadVers,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::NoError => "noerror",
            Self::FormErr => "formerr",
            Self::ServFail => "servfail",
            Self::NxDomain => "nxdomain",
            Self::NotImp => "notimp",
            Self::Refused => "refused",
            Self::BadVers => "badvers",
        }
    }
}

/// What was asked for, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A.
    A,
    /// AAAA.
    Aaaa,
    /// Anything else, unreadable questions included.
    Other,
}

impl Kind {
    const ALL: [Self; 3] = [Self::A, Self::Aaaa, Self::Other];

    /// The label of a type.
    #[must_use]
    pub const fn of(kind: RecordType) -> Self {
        match kind {
            RecordType::A => Self::A,
            RecordType::AAAA => Self::Aaaa,
            _ => Self::Other,
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::Aaaa => "aaaa",
            Self::Other => "other",
        }
    }
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.label().encode(encoder)
    }
}

impl EncodeLabelValue for Kind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.label().encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueryLabels {
    rcode: Outcome,
    qtype: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoadLabels {
    result: &'static str,
}

/// Counters and gauges of the server. Clones share them.
#[derive(Clone, Debug)]
pub struct Counts {
    queries: [[Counter; Outcome::ALL.len()]; Kind::ALL.len()],
    loads: Family<LoadLabels, Counter>,
    /// Seconds since the hub last vouched for the snapshot that is answered from; NaN without one.
    pub snapshot_age: Gauge<f64, AtomicU64>,
    /// 1 when the feed is connected.
    pub feed_connected: Gauge,
    /// Parts of the zones that cannot be served.
    pub unserved: Gauge,
    /// Names whose every place is unhealthy.
    pub names_failed_open: Gauge,
}

impl Counts {
    /// Registers everything under `dns_`.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let queries: Family<QueryLabels, Counter> =
            metrics.register("dns_queries", "Queries answered, by response code and type", Family::default());
        let counter = |kind: usize, outcome: usize| {
            let labels = QueryLabels { rcode: Outcome::ALL[outcome], qtype: Kind::ALL[kind] };
            queries.get_or_create(&labels).clone()
        };
        let snapshot_age: Gauge<f64, AtomicU64> = metrics.register(
            "dns_snapshot_age_seconds",
            "Age of the snapshot that is answered from; NaN without one",
            Gauge::default(),
        );
        snapshot_age.set(f64::NAN);
        Self {
            queries: std::array::from_fn(|kind| std::array::from_fn(|outcome| counter(kind, outcome))),
            loads: metrics.register(
                "dns_geoip_loads",
                "Attempts to load the GeoIP database, by result",
                Family::default(),
            ),
            snapshot_age,
            feed_connected: metrics.register(
                "dns_feed_connected",
                "Whether the feed is connected",
                Gauge::default(),
            ),
            unserved: metrics.register(
                "dns_unserved_records",
                "Records and names of zones that cannot be served",
                Gauge::default(),
            ),
            names_failed_open: metrics.register(
                "dns_names_failed_open",
                "Names answered with unhealthy places because nothing else is left",
                Gauge::default(),
            ),
        }
    }

    /// Counts one query.
    pub fn query(&self, kind: Kind, outcome: Outcome) {
        self.queries[kind as usize][outcome as usize].inc();
    }

    /// Counts one attempt to load the GeoIP database; `result` is `loaded` or an error's reason.
    pub fn geoip_load(&self, result: &'static str) {
        self.loads.get_or_create(&LoadLabels { result }).inc();
    }
}

/// Counters that nobody reads, for tests of other things.
impl Default for Counts {
    fn default() -> Self {
        Self::register(&Metrics::new())
    }
}
