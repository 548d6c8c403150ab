//! Why a request goes where it goes: the table read aloud.

use meridian_core::{
    id::{ClusterName, ObjectKey, SiteName},
    route::{Claim, Conflict, Route},
    snapshot::{BackendPort, PathKind},
    steer::Why,
    time::Timestamp,
};
use serde::Serialize;

use crate::{
    balance::{Choice, Target, WeightsFrom},
    table::Table,
};

/// The whole answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    site: SiteName,
    generation: String,
    host: Option<String>,
    path: String,
    /// None when nothing matches: the request gets a 404.
    route: Option<ExplainedRoute>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExplainedRoute {
    ingress: String,
    rule: ExplainedClaim,
    service: String,
    port: String,
    failed_open: bool,
    weights_from: WeightsFrom,
    /// Best first.
    clusters: Vec<ExplainedChoice>,
    excluded: Vec<Excluded>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExplainedClaim {
    host: Option<String>,
    path_type: &'static str,
    path: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExplainedChoice {
    cluster: ClusterName,
    distance_ms: Option<f64>,
    weight: f64,
    in_flight: u32,
    limit: Option<u32>,
    breaker_open: bool,
    endpoints: Vec<ExplainedEndpoint>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExplainedEndpoint {
    address: String,
    in_flight: u32,
    ejected: bool,
}

#[derive(Debug, Serialize)]
struct Excluded {
    cluster: ClusterName,
    why: Why,
}

/// All routes and what lost against them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Routes {
    generation: String,
    routes: Vec<ListedRoute>,
    conflicts: Vec<ListedConflict>,
}

#[derive(Debug, Serialize)]
struct ListedRoute {
    ingress: String,
    rule: ExplainedClaim,
    service: String,
}

#[derive(Debug, Serialize)]
struct ListedConflict {
    rule: ExplainedClaim,
    winner: String,
    loser: String,
}

/// What `table` would do with a request for `host` and `path` at `now`.
#[must_use]
pub fn explain(
    table: &Table,
    site: &SiteName,
    host: Option<&str>,
    path: &str,
    now: Timestamp,
) -> Explanation {
    Explanation {
        site: site.clone(),
        generation: table.generation.to_string(),
        host: host.map(str::to_owned),
        path: path.to_owned(),
        route: table.find(host, path).map(|(route, target)| explain_route(route, target, now)),
    }
}

/// What `table` knows.
#[must_use]
pub fn routes(table: &Table) -> Routes {
    let listed = |route: &Route| ListedRoute {
        ingress: route.ingress.to_string(),
        rule: claim(&route.claim),
        service: route.backend.service.to_string(),
    };
    let lost = |conflict: &Conflict| ListedConflict {
        rule: claim(&conflict.claim),
        winner: conflict.winner.to_string(),
        loser: conflict.loser.to_string(),
    };
    Routes {
        generation: table.generation.to_string(),
        routes: table.routes.routes().iter().map(listed).collect(),
        conflicts: table.routes.conflicts().iter().map(lost).collect(),
    }
}

fn explain_route(route: &Route, target: &Target, now: Timestamp) -> ExplainedRoute {
    ExplainedRoute {
        ingress: route.ingress.to_string(),
        rule: claim(&route.claim),
        service: ObjectKey::to_string(&target.service),
        port: match &route.backend.port {
            BackendPort::Name(name) => name.to_string(),
            BackendPort::Number(number) => number.to_string(),
        },
        failed_open: target.failed_open,
        weights_from: target.weights_from,
        clusters: target.choices.iter().map(|choice| explain_choice(choice, now)).collect(),
        excluded: target
            .excluded
            .iter()
            .map(|(cluster, why)| Excluded { cluster: cluster.clone(), why: *why })
            .collect(),
    }
}

fn explain_choice(choice: &Choice, now: Timestamp) -> ExplainedChoice {
    let endpoints = choice.pool.endpoints.iter().map(|endpoint| ExplainedEndpoint {
        address: endpoint.address.to_string(),
        in_flight: endpoint.in_flight(),
        ejected: endpoint.is_ejected(now),
    });
    ExplainedChoice {
        cluster: choice.cluster.clone(),
        distance_ms: choice.distance.map(|distance| distance.as_f64()),
        weight: choice.weight,
        in_flight: choice.pool.gate.in_flight(),
        limit: choice.limit,
        breaker_open: choice.pool.path.breaker.is_open(now),
        endpoints: endpoints.collect(),
    }
}

fn claim(claim: &Claim) -> ExplainedClaim {
    ExplainedClaim {
        host: claim.host.as_ref().map(ToString::to_string),
        path_type: match claim.path {
            None => "defaultBackend",
            Some((PathKind::Exact, _)) => "Exact",
            Some((PathKind::Prefix, _)) => "Prefix",
        },
        path: claim.path.as_ref().map(|(_, path)| path.to_string()),
    }
}
