//! TrafficPolicy to a policy.

use std::{collections::BTreeMap, time::Duration};

use meridian_api::traffic_policy as api;
use meridian_core::{
    id::{ClusterName, ObjectKey, RegionName},
    index::{CapacityDeclaration, ClusterSelector, DnsDeclaration, PolicyFact, Target, TargetKind},
    name::DnsName,
    snapshot::{DnsTarget, Health, Strategy, WhenAllUnhealthy},
};

/// The policy.
#[must_use]
pub fn facts(object: &api::TrafficPolicy) -> Option<(ObjectKey, Option<PolicyFact>)> {
    let key = super::key_of(&object.metadata)?;
    let spec = &object.spec;
    let fact = PolicyFact {
        created: super::created_of(&object.metadata),
        targets: spec.target_refs.iter().map(|target| self::target(&key, target)).collect(),
        clusters: spec.clusters.as_ref().map(selector).unwrap_or_default(),
        strategy: strategy(&spec.strategy),
        allowed_regions: spec
            .fence
            .as_ref()
            .map(|fence| fence.allowed_regions.iter().map(|name| RegionName::from(name.as_str())).collect()),
        capacity: spec.capacity.as_ref().map(capacity),
        health: Health {
            failback_hold: Duration::from_secs(
                spec.health.failback_hold_seconds.max(0).unsigned_abs().into(),
            ),
            all_unhealthy: match spec.health.all_unhealthy {
                api::AllUnhealthy::FailOpen => WhenAllUnhealthy::FailOpen,
                api::AllUnhealthy::Empty => WhenAllUnhealthy::Empty,
            },
        },
        dns: spec.dns.as_ref().map(dns).unwrap_or_default(),
    };
    Some((key, Some(fact)))
}

fn target(policy: &ObjectKey, target: &api::TargetRef) -> Target {
    let kind = match target.kind {
        api::TargetKind::FederatedService => TargetKind::FederatedService,
        api::TargetKind::FederatedIngress => TargetKind::FederatedIngress,
        api::TargetKind::Service => TargetKind::Service,
        api::TargetKind::Ingress => TargetKind::Ingress,
    };
    Target { kind, key: ObjectKey::new(policy.namespace.clone(), target.name.as_str()) }
}

fn selector(selector: &meridian_api::selector::ClusterSelector) -> ClusterSelector {
    ClusterSelector {
        labels: selector.match_labels.clone(),
        names: selector.names.iter().map(|name| ClusterName::from(name.as_str())).collect(),
    }
}

fn strategy(strategy: &api::Strategy) -> Strategy {
    match strategy.type_ {
        api::StrategyType::Proximity => Strategy::Proximity,
        api::StrategyType::Failover => {
            let tier =
                |names: &Vec<String>| names.iter().map(|name| ClusterName::from(name.as_str())).collect();
            Strategy::Failover(strategy.tiers.iter().map(tier).collect())
        }
    }
}

fn capacity(capacity: &api::Capacity) -> CapacityDeclaration {
    let per_cluster: BTreeMap<_, _> = capacity
        .per_cluster
        .iter()
        .map(|one| {
            let declared = (one.max_rate_per_endpoint, one.max_in_flight_per_endpoint);
            (ClusterName::from(one.cluster.as_str()), declared)
        })
        .collect();
    CapacityDeclaration {
        rate: capacity.max_rate_per_endpoint,
        in_flight: capacity.max_in_flight_per_endpoint,
        per_cluster,
    }
}

fn dns(dns: &api::Dns) -> DnsDeclaration {
    let hostnames = dns.hostnames.iter().enumerate().map(|(position, text)| {
        let parsed = text.parse::<DnsName>();
        parsed.map_err(|error| format!("spec.dns.hostnames[{position}]: {error}"))
    });
    DnsDeclaration {
        hostnames: hostnames.collect(),
        ttl: dns.ttl.and_then(|ttl| u32::try_from(ttl).ok()),
        answers: dns.answers.and_then(|answers| u8::try_from(answers).ok()),
        target: match dns.target {
            None => DnsTarget::Auto,
            Some(api::DnsTarget::Sites) => DnsTarget::Sites,
            Some(api::DnsTarget::Members) => DnsTarget::Members,
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_mean_what_they_say() {
        let object = serde_json::from_value(json!({
            "apiVersion": "meridian.io/v1alpha1", "kind": "TrafficPolicy",
            "metadata": {"namespace": "shop", "name": "p"},
            "spec": {
                "targetRefs": [{"kind": "Service", "name": "web"}],
                "clusters": {"names": ["eu"]},
                "strategy": {"type": "Failover", "tiers": [["eu", "us"], ["asia"]]},
                "fence": {"allowedRegions": ["europe-west1"]},
                "capacity": {"maxRatePerEndpoint": 50, "perCluster": [{"cluster": "us", "maxInFlightPerEndpoint": 4}]},
                "health": {"failbackHoldSeconds": 7, "allUnhealthy": "Empty"},
                "dns": {"hostnames": ["app.example.org", "no name"], "ttl": 9, "answers": 2, "target": "Members"},
            },
        }));
        let (key, fact) = facts(&object.expect("a TrafficPolicy")).expect("a key");
        let fact = fact.expect("facts");
        assert_eq!(key, ObjectKey::new("shop", "p"));
        assert_eq!(fact.targets, [Target { kind: TargetKind::Service, key: ObjectKey::new("shop", "web") }]);
        assert_eq!(fact.clusters.names, ["eu".into()].into());
        assert_eq!(
            fact.strategy,
            Strategy::Failover(vec![vec!["eu".into(), "us".into()], vec!["asia".into()]])
        );
        let capacity = fact.capacity.expect("declared");
        assert_eq!(capacity.in_cluster(&"eu".into()), Some((Some(50.0), None)));
        assert_eq!(capacity.in_cluster(&"us".into()), Some((None, Some(4.0))));
        assert_eq!(fact.health.failback_hold, Duration::from_secs(7));
        assert_eq!(fact.dns.target, DnsTarget::Members);
        let wrong = fact.dns.hostnames[1].as_ref().expect_err("not a name");
        assert!(wrong.contains("spec.dns.hostnames[1]"), "{wrong}");
    }
}
