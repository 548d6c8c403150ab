//! Why a client gets the answer it gets: `/explain?name=app.example.org&client=203.0.113.9`.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{Query, State as Shared},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use ipnet::IpNet;
use meridian_core::{
    id::ClusterName,
    name::DnsName,
    snapshot::RecordData,
    steer::{Vantage, Why},
    zone::{Client, Found, NameKey, RecordType, overriding},
};
use serde::{Deserialize, Serialize};

use crate::{
    answer::{Asker, Data, Owner, Question, answer},
    handler::{self, State},
    view::View,
};

/// A question to be explained.
#[derive(Clone, Debug, Deserialize)]
struct Asked {
    name: DnsName,
    client: String,
}

/// What was answered and why.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    generation: String,
    client: Whereabouts,
    rcode: String,
    answers: Vec<String>,
    scope: u8,
    /// The dynamic names on the way, in the order they were met.
    steps: Vec<Step>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Whereabouts {
    network: IpNet,
    country: Option<String>,
    latitude: Option<f64>,
    longitude: Option<f64>,
    /// Prefix for which the database says the same.
    tile: u8,
    /// True when the place is unknown and that of this server's site stands in.
    from_own_site: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    name: DnsName,
    zone: DnsName,
    target: String,
    /// Clusters that an override of the zone puts first.
    overridden_by: Vec<ClusterName>,
    order: Vec<Ranked>,
    excluded: Vec<Excluded>,
    failed_open: bool,
    fallback: Option<DnsName>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ranked {
    place: String,
    distance_ms: Option<f64>,
    addresses: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Excluded {
    place: String,
    why: Why,
}

/// The admin page.
pub fn routes(state: Arc<State>) -> Router {
    Router::new().route("/explain", get(explain)).with_state(state)
}

async fn explain(Shared(state): Shared<Arc<State>>, Query(asked): Query<Asked>) -> Response {
    let Some(network) = network_of(&asked.client) else {
        let message = format!("client {:?} is neither an address nor a network\n", asked.client);
        return (StatusCode::BAD_REQUEST, message).into_response();
    };
    let Some(view) = state.view.load_full() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "no snapshot yet\n").into_response();
    };
    let asker = handler::asker_at(state.database.load().as_deref(), network);
    Json(explanation(&view, &asked.name, &asker)).into_response()
}

fn network_of(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn explanation(view: &View, name: &DnsName, asker: &Asker) -> Explanation {
    let question = Question { name: NameKey::from(name), kind: RecordType::A };
    let answer = answer(Some(view), &question, asker);
    let mut met = vec![name.clone()];
    let mut answers = Vec::new();
    for entry in &answer.answers {
        let owner = match &entry.owner {
            Owner::Question => name,
            Owner::Name(owner) => owner,
        };
        if let Data::Record(RecordData::Cname(target)) = &entry.data {
            met.push(target.clone());
        }
        answers.push(format!("{owner} {} {}", entry.ttl, value(&entry.data)));
    }
    Explanation {
        generation: view.snapshot().generation.to_string(),
        client: Whereabouts {
            network: asker.network,
            country: asker.location.country.map(|code| code.as_str().to_owned()),
            latitude: asker.location.point.map(|point| point.latitude()),
            longitude: asker.location.point.map(|point| point.longitude()),
            tile: asker.tile,
            from_own_site: asker.location.point.is_none() && view.home().is_some(),
        },
        rcode: format!("{:?}", answer.rcode),
        answers,
        scope: answer.scope,
        steps: met.iter().filter_map(|name| step(view, name, asker)).collect(),
    }
}

fn step(view: &View, name: &DnsName, asker: &Asker) -> Option<Step> {
    let (authority, found) = view.zones().lookup(&NameKey::from(name), RecordType::A)?;
    let Found::Dynamic { target, declared, .. } = found else { return None };
    let choice = view.choice(declared)?;
    let client = Client { network: asker.network, country: asker.location.country };
    let overriding = overriding(&authority.zone().overrides, &client);
    let vantage = Vantage::at(asker.location.point.or_else(|| view.home()));
    let ranking = choice.rank(&vantage, overriding.clusters);
    let place = |index: usize| choice.candidates[index].name.clone();
    let order = ranking.order.iter().map(|ranked| {
        let addresses = &choice.addresses[ranked.index];
        let v4 = addresses.v4.iter().map(ToString::to_string);
        let v6 = addresses.v6.iter().map(ToString::to_string);
        Ranked {
            place: place(ranked.index),
            distance_ms: ranked.distance.map(|distance| (distance.as_f64() * 10.0).round() / 10.0),
            addresses: v4.chain(v6).chain(addresses.hostname.iter().map(ToString::to_string)).collect(),
        }
    });
    Some(Step {
        name: name.clone(),
        zone: authority.zone().domain.clone(),
        target: format!("{target:?}"),
        overridden_by: overriding.clusters.to_vec(),
        order: order.collect(),
        excluded: ranking
            .excluded
            .iter()
            .map(|&(index, why)| Excluded { place: place(index), why })
            .collect(),
        failed_open: ranking.failed_open,
        fallback: choice.fallback.clone(),
    })
}

fn value(data: &Data) -> String {
    match data {
        Data::Record(RecordData::A(address)) => format!("A {address}"),
        Data::Record(RecordData::Aaaa(address)) => format!("AAAA {address}"),
        Data::Record(RecordData::Cname(target)) => format!("CNAME {target}"),
        other => format!("{other:?}"),
    }
}
