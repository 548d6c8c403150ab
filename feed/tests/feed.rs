//! Server and follower over real loopback sockets.

mod rig;

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use meridian_core::{
    id::ObjectKey,
    snapshot::{GlobalService, Role},
};
use meridian_feed::{
    follower::{Follower, FollowerError, ServiceLoad},
    server::{FeedServer, ServeError},
};
use rig::{Edge, Edit, Hub, Pki, contents, generation, services};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

#[tokio::test]
async fn first_contact_brings_everything_and_then_only_what_changed() {
    let mut hub = Hub::start(contents(1, &["a", "b", "c"])).await;
    let edge = Edge::start(&hub, Role::Lb);
    let first = edge.at(generation(1, 1)).await;
    assert_eq!(first, contents(1, &["a", "b", "c"]).scoped(Role::Lb));

    let before = hub.bytes_to_edges();
    hub.publish(hub.latest().with_demand("b", 7.0).removed("c").at(1, 2));
    let second = edge.at(generation(1, 2)).await;
    assert_eq!(services(&second), ["a", "b"]);
    assert_eq!(second.services[&key("b")].load.demand["eu"], 7.0);
    // What did not change was not sent: it is the same allocation as before.
    assert!(std::sync::Arc::ptr_eq(&first.services[&key("a")], &second.services[&key("a")]));
    let wire = hub.wire_since(before);
    assert!(wire.contains("shop/b") && wire.contains("shop/c"), "{wire}");
    assert!(!wire.contains("shop/a"), "{wire}");
}

#[tokio::test]
async fn dns_never_receives_endpoints_or_keys() {
    let hub = Hub::start(contents(1, &["a"])).await;
    let (dns, lb) = (Edge::start(&hub, Role::Dns), Edge::start(&hub, Role::Lb));
    assert_eq!(lb.at(generation(1, 1)).await.certificates.len(), 1);
    assert!(hub.wire_since(0).contains(rig::KEY) && hub.wire_since(0).contains(rig::ENDPOINT));
    drop(lb);

    let alone = Hub::start(contents(1, &["a"])).await;
    let edge = Edge::start(&alone, Role::Dns);
    for held in [dns.at(generation(1, 1)).await, edge.at(generation(1, 1)).await] {
        assert!(held.certificates.is_empty());
        assert_eq!(held.zones.len(), 1);
        assert_eq!(held.services[&key("a")].shards[0].ready, 1);
    }
    let wire = alone.wire_since(0);
    assert!(wire.contains("shop/a"), "{wire}");
    assert!(!wire.contains(rig::KEY) && !wire.contains(rig::ENDPOINT), "{wire}");
}

#[tokio::test]
async fn lb_receives_no_zones() {
    let hub = Hub::start(contents(1, &["a"])).await;
    let edge = Edge::start(&hub, Role::Lb);
    assert!(edge.at(generation(1, 1)).await.zones.is_empty());
}

#[tokio::test]
async fn older_generation_is_refused_and_the_hub_learns_what_is_held() {
    let hub = Hub::start(contents(1, &["a"]).at(5, 9)).await;
    let edge = Edge::start(&hub, Role::Lb);
    edge.at(generation(5, 9)).await;
    let port = hub.address;
    hub.stop().await;

    // The hub comes back having forgotten its term.
    let mut hub = Hub::start_at(port, contents(1, &["b"]).at(1, 1)).await;
    hub.held_at_least(generation(5, 9)).await;
    assert_eq!(services(&edge.held().unwrap()), ["a"]);
    hub.publish(contents(1, &["b"]).at(1, 2));
    hub.publish(contents(1, &["b"]).at(6, 1));
    assert_eq!(services(&edge.at(generation(6, 1)).await), ["b"]);
    assert!(!edge.seen().iter().any(|seen| seen.term == 1), "{:?}", edge.seen());
}

#[tokio::test]
async fn another_hub_starts_anew() {
    let hub = Hub::start(contents(1, &["a"]).at(5, 9)).await;
    let edge = Edge::start(&hub, Role::Lb);
    edge.at(generation(5, 9)).await;
    let port = hub.address;
    hub.stop().await;
    let mut other = contents(1, &["b"]).at(1, 1);
    other.generation.hub = "another".into();
    let _hub = Hub::start_at(port, other.clone()).await;
    assert_eq!(edge.at(other.generation.clone()).await, other.scoped(Role::Lb));
}

#[tokio::test]
async fn edge_reconnects_and_resumes_after_the_hub_restarts() {
    let hub = Hub::start(contents(1, &["a"])).await;
    let edge = Edge::start(&hub, Role::Lb);
    edge.at(generation(1, 1)).await;
    let port = hub.address;
    hub.stop().await;
    edge.status_until(|status| !status.connected).await;
    assert!(edge.held().is_some());

    let mut hub = Hub::start_at(port, contents(1, &["a"])).await;
    edge.status_until(|status| status.connected).await;
    hub.publish(contents(1, &["a", "b"]).at(1, 2));
    edge.at(generation(1, 2)).await;
    // It held the same generation from the same hub, so the service it had was not sent again.
    assert!(!hub.wire_since(0).contains("shop/a"), "{}", hub.wire_since(0));
}

#[tokio::test]
async fn slow_edge_gets_the_latest_state_only() {
    let mut hub = Hub::start(contents(1, &["a"])).await;
    let edge = Edge::start(&hub, Role::Lb);
    edge.at(generation(1, 1)).await;
    for seq in 2..=500 {
        hub.publish(hub.latest().with_demand("a", seq as f64).at(1, seq));
    }
    let last = edge.at(generation(1, 500)).await;
    assert_eq!(last.services[&key("a")].load.demand["eu"], 500.0);
    assert!(edge.seen().is_sorted_by(|a, b| b.supersedes(a)), "{:?}", edge.seen());
}

#[tokio::test]
async fn shards_of_members_that_the_hub_could_not_read_are_kept_until_it_can() {
    let state = tempfile::tempdir().unwrap();
    let mut hub = Hub::start(contents(1, &["a"])).await;
    let edge = Edge::start_in(&hub, Role::Lb, state.path());
    edge.at(generation(1, 1)).await;
    // A new controller that cannot reach the member.
    let unread = hub.latest().without_shards("a").unread(&["asia"]);
    hub.publish(unread.clone().at(2, 1));
    let held = edge.at(generation(2, 1)).await;
    assert_eq!(held.services[&key("a")].shards.len(), 1);
    // What is kept survives a restart of the edge too.
    edge.stop().await;
    let edge = Edge::start_in(&hub, Role::Lb, state.path());
    hub.publish(unread.at(2, 2));
    assert_eq!(edge.at(generation(2, 2)).await.services[&key("a")].shards.len(), 1);
    // Then it is reached, and has no such Service any more.
    hub.publish(contents(1, &["a"]).without_shards("a").at(2, 3));
    assert!(edge.at(generation(2, 3)).await.services[&key("a")].shards.is_empty());
}

#[tokio::test]
async fn load_reports_travel_back_under_the_edges_own_name() {
    let mut hub = Hub::start(contents(1, &["a"])).await;
    let edge = Edge::start(&hub, Role::Lb);
    edge.at(generation(1, 1)).await;
    let load = ServiceLoad { rate: 12.5, in_flight: 3 };
    edge.loads.report(BTreeMap::from([(key("a"), load)]));
    let report = hub.loads.recv().await.unwrap();
    assert_eq!((report.site.as_str(), report.role), ("eu", Role::Lb));
    assert_eq!(report.services, BTreeMap::from([(key("a"), load)]));
}

#[tokio::test]
async fn edge_starts_from_last_good_without_a_hub() {
    let state = tempfile::tempdir().unwrap();
    let hub = Hub::start(contents(1, &["a"])).await;
    let edge = Edge::start_in(&hub, Role::Lb, state.path());
    edge.at(generation(1, 1)).await;
    edge.stop().await;
    let mut args = rig::args(hub.address, Role::Lb);
    hub.stop().await;

    args.state_dir = Some(state.path().to_owned());
    let follower = Follower::new(&args, Role::Lb).unwrap();
    let held = follower.snapshots().borrow().clone().unwrap();
    assert_eq!(*held, contents(1, &["a"]).scoped(Role::Lb));
    let status = follower.status().borrow().clone();
    assert!(!status.connected && status.age(SystemTime::now()).is_some());
}

#[tokio::test]
async fn corrupted_last_good_means_waiting_for_the_hub() {
    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join("snapshot.json"), b"\x00\xffnot json").unwrap();
    let hub = Hub::start(contents(1, &["a"])).await;
    let edge = Edge::start_in(&hub, Role::Lb, state.path());
    assert!(edge.at(generation(1, 1)).await.services.contains_key(&key("a")));
}

#[tokio::test]
async fn what_came_from_a_file_is_sent_in_full_with_the_next_publication() {
    let state = tempfile::tempdir().unwrap();
    let mut hub = Hub::start(contents(1, &["a"])).await;
    let edge = Edge::start_in(&hub, Role::Lb, state.path());
    edge.at(generation(1, 1)).await;
    edge.stop().await;
    let edge = Edge::start_in(&hub, Role::Lb, state.path());
    edge.status_until(|status| status.connected).await;
    let before = hub.bytes_to_edges();
    hub.publish(contents(1, &["a", "b"]).at(1, 2));
    edge.at(generation(1, 2)).await;
    assert!(hub.wire_since(before).contains("shop/a"));
}

#[tokio::test]
async fn plaintext_is_refused_off_loopback() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let (_snapshots, seen) = watch::channel(Default::default());
    let (loads, _reports) = tokio::sync::mpsc::channel(1);
    let served = FeedServer::new(seen, loads).serve(listener, None, CancellationToken::new()).await;
    assert!(matches!(served, Err(ServeError::PlaintextOffLoopback(_))));
    let mut args = rig::args("127.0.0.1:1".parse().unwrap(), Role::Dns);
    args.feed = "http://192.0.2.1:9443".into();
    assert!(matches!(Follower::new(&args, Role::Dns), Err(FollowerError::PlaintextOffLoopback { .. })));
}

#[tokio::test]
async fn certificate_admits_its_own_role_and_site_only() {
    let pki = Pki::new();
    let hub = Hub::start_tls(contents(1, &["a"]), &pki).await;
    let good = Edge::start_tls(&hub, Role::Dns, &pki.edge("meridian://edge/dns/eu"));
    good.at(generation(1, 1)).await;
    for uri in ["meridian://edge/lb/eu", "meridian://edge/dns/us", "https://example.org"] {
        let edge = Edge::start_tls(&hub, Role::Dns, &pki.edge(uri));
        edge.refused_times(&hub, 2).await;
        assert!(edge.held().is_none(), "{uri}");
    }
    let stranger = Edge::start_tls(&hub, Role::Dns, &Pki::new().edge_for(&pki, "meridian://edge/dns/eu"));
    stranger.refused_times(&hub, 2).await;
    assert!(stranger.held().is_none());
}

#[tokio::test]
async fn edge_does_not_trust_a_hub_of_another_ca() {
    let (pki, other) = (Pki::new(), Pki::new());
    let hub = Hub::start_tls(contents(1, &["a"]), &other).await;
    let edge = Edge::start_tls(&hub, Role::Dns, &pki.edge("meridian://edge/dns/eu"));
    edge.refused_times(&hub, 2).await;
    assert!(edge.held().is_none());
}

#[tokio::test]
async fn renewed_files_are_used_by_the_next_connection() {
    let pki = Pki::new();
    let hub = Hub::start_tls(contents(1, &["a"]), &pki).await;
    let files = pki.edge("meridian://edge/dns/us");
    let edge = Edge::start_tls(&hub, Role::Dns, &files);
    edge.refused_times(&hub, 1).await;
    pki.renew(&files, "meridian://edge/dns/eu");
    edge.at(generation(1, 1)).await;

    // The hub too: its old certificate is for another name, the new one is right.
    let wrong = Pki::new();
    let hub = Hub::start_tls(contents(1, &["a"]), &wrong).await;
    let edge = Edge::start_tls(&hub, Role::Dns, &pki.edge("meridian://edge/dns/eu"));
    edge.refused_times(&hub, 1).await;
    wrong.become_like(&pki);
    edge.at(generation(1, 1)).await;
}

#[tokio::test]
async fn dead_link_is_noticed_within_five_seconds() {
    let hub = Hub::start(contents(1, &["a"])).await;
    let edge = Edge::start(&hub, Role::Lb);
    edge.at(generation(1, 1)).await;
    let begun = std::time::Instant::now();
    hub.freeze();
    edge.status_until(|status| !status.connected).await;
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

/// Compiles only while services stay comparable, which the deltas need.
const _: fn(&GlobalService, &GlobalService) -> bool = PartialEq::eq;
