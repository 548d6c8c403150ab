//! What an edge reports of its site.

use std::collections::BTreeMap;

use meridian_core::{
    id::{ObjectKey, SiteName},
    snapshot::Role,
};

use crate::proto::{LoadReport, WireLoad};

/// Services in one report at most; an edge that sees more has no service to steer but an error.
pub(crate) const MAX_SERVICES: usize = 20_000;

/// Load of one service at one site.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ServiceLoad {
    /// Requests per second that arrived, finite and never negative.
    pub rate: f64,
    /// Requests in flight.
    pub in_flight: u32,
}

/// One report of one site, as the server hands it on.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteLoad {
    /// The site; with TLS, the one its certificate names.
    pub site: SiteName,
    /// Who reports.
    pub role: Role,
    /// By service. What is not listed is not known to have changed.
    pub services: BTreeMap<ObjectKey, ServiceLoad>,
}

pub(crate) fn encode(services: &BTreeMap<ObjectKey, ServiceLoad>) -> LoadReport {
    let services = services
        .iter()
        .take(MAX_SERVICES)
        .map(|(key, load)| WireLoad { service: key.to_string(), rate: load.rate, in_flight: load.in_flight })
        .collect();
    LoadReport { services }
}

/// Leaves out what is no load: a malformed key, a rate that is negative or not finite.
pub(crate) fn decode(report: LoadReport) -> BTreeMap<ObjectKey, ServiceLoad> {
    let sane = |load: &WireLoad| load.rate.is_finite() && load.rate >= 0.0;
    report
        .services
        .into_iter()
        .take(MAX_SERVICES)
        .filter(sane)
        .filter_map(|load| {
            let key = load.service.parse().ok()?;
            Some((key, ServiceLoad { rate: load.rate, in_flight: load.in_flight }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(service: &str, rate: f64) -> WireLoad {
        WireLoad { service: service.into(), rate, in_flight: 1 }
    }

    #[test]
    fn nonsense_in_a_report_is_left_out() {
        let services = ["shop/web", "no-key", "shop/api"].map(String::from);
        let report = LoadReport {
            services: vec![wire(&services[0], 5.0), wire(&services[1], 5.0), wire(&services[2], f64::NAN)],
        };
        let expected =
            BTreeMap::from([(ObjectKey::new("shop", "web"), ServiceLoad { rate: 5.0, in_flight: 1 })]);
        assert_eq!(decode(report), expected);
    }
}
