//! The proxy as its clients see it: real sockets on loopback, snapshots handed over directly.

// Helpers outside of test functions may end a test too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use meridian_core::snapshot::{Address, Capacity, Gateway, GlobalService, Network, Snapshot};
use meridian_lb::app::Source;
use tokio::{net::TcpStream, sync::watch};

#[path = "../src/fixtures.rs"]
#[allow(dead_code)]
mod fixtures;
#[allow(dead_code)]
mod rig;

use fixtures::{catch_all, cluster, service, shard, world};
use rig::{Backend, BlackHole, Manner, Rig, exchange, until};

const ASIA: &str = "asia-east1";
const EUROPE: &str = "europe-west1";
const US: &str = "us-central1";

/// Service `web` with endpoints by region, behind an Ingress for every host.
fn web(shards: &[(&str, &[SocketAddr])]) -> GlobalService {
    service("web", shards.iter().map(|(region, endpoints)| shard(region, endpoints)))
}

fn fleet(shards: &[(&str, &[SocketAddr])]) -> Snapshot {
    world([web(shards)], catch_all("web"))
}

/// An address that refuses.
async fn refused() -> SocketAddr {
    Backend::start("gone", Manner::Proper).await.kill().await
}

#[tokio::test]
async fn nearest_cluster_serves_with_forwarded_headers_and_the_original_host() {
    let (asia, us) =
        (Backend::start("asia", Manner::Proper).await, Backend::start("us", Manner::Proper).await);
    let rig = Rig::start(ASIA, fleet(&[(ASIA, &[asia.address]), (US, &[us.address])])).await;
    let answer = rig.get("/page?x=1").await;
    assert_eq!(answer.status, 200);
    for line in [
        "served-by: asia",
        "GET /page?x=1 HTTP/1.1",
        "Host: web.example",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: web.example",
        "via: 1.1 meridian-asia-east1",
    ] {
        let body = answer.body.to_ascii_lowercase();
        assert!(body.contains(&line.to_ascii_lowercase()), "{line} is missing in {}", answer.body);
    }
    assert_eq!(us.served(), 0);
    assert_eq!(rig.stop().await, 0);
}

#[tokio::test]
async fn malformed_requests_are_answered_and_never_forwarded() {
    let backend = Backend::start("asia", Manner::Proper).await;
    let rig = Rig::start(ASIA, fleet(&[(ASIA, &[backend.address])])).await;
    for (request, status, reason) in [
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 400, "BadHost"),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "BadFraming",
        ),
        ("GET /../x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 400, "BadTarget"),
        (
            "GET / HTTP/1.1\r\nHost: h\r\nVia: 1.1 meridian-asia-east1\r\nConnection: close\r\n\r\n",
            508,
            "Loop",
        ),
    ] {
        let answer = rig.send(request).await;
        assert_eq!(answer.status, status, "{request:?} {answer:?}");
        assert_eq!(answer.headers["meridian-reason"], reason);
    }
    assert_eq!(backend.served(), 0);
    assert!(rig.admin("/metrics").await.body.contains("meridian_lb_refused_total{reason=\"BadHost\"} 1"));
}

#[tokio::test]
async fn nothing_is_known_before_the_first_snapshot() {
    let (_snapshots, seen) = watch::channel(None);
    let source = Source { snapshots: seen, loads: None, status: None };
    let (lb, _tasks) = rig::start(ASIA, source, &[]).await;
    for path in ["/", "/.well-known/meridian/healthz"] {
        let stream = TcpStream::connect(lb.http[0]).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let answer = exchange(stream, &request).await.unwrap();
        assert_eq!((answer.status, answer.headers["meridian-reason"].as_str()), (503, "NotReady"));
    }
}

#[tokio::test]
async fn odd_targets_are_forwarded_in_one_form_only() {
    let backend = Backend::start("asia", Manner::Proper).await;
    let rig = Rig::start(ASIA, fleet(&[(ASIA, &[backend.address])])).await;
    for (target, forwarded) in [
        ("/a b", "/a%20b"),
        ("/a/./c/%2e%2E/b?q=/../", "/a/b?q=/../"),
        ("http://h/absolute?q", "/absolute?q"),
    ] {
        let answer =
            rig.send(&format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.body.contains(&format!("\nGET {forwarded} HTTP/1.1")), "{target}: {answer:?}");
    }
}

#[tokio::test]
async fn unknown_route_is_not_found_and_health_needs_no_host() {
    let mut ingress = catch_all("web");
    ingress.rules[0].host = Some("other.example".parse().unwrap());
    let rig = Rig::start(ASIA, world([web(&[])], ingress)).await;
    let answer = rig.get("/").await;
    assert_eq!((answer.status, answer.headers["meridian-reason"].as_str()), (404, "NoRoute"));
    let health = rig.send("GET /.well-known/meridian/healthz HTTP/1.0\r\n\r\n").await;
    assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
}

#[tokio::test]
async fn refused_connections_never_reach_the_client() {
    let us = Backend::start("us", Manner::Proper).await;
    let dead = [refused().await, refused().await, refused().await];
    let rig = Rig::start(ASIA, fleet(&[(ASIA, &dead), (US, &[us.address])])).await;
    for _ in 0..10 {
        assert!(rig.get("/").await.body.contains("served-by: us"));
    }
    let post =
        rig.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi").await;
    assert_eq!(post.status, 200, "nothing was sent to the dead endpoint, so a POST may go elsewhere");
}

#[tokio::test]
async fn stalled_cluster_costs_one_timeout_and_then_nothing() {
    let (hole, us) = (BlackHole::start().await, Backend::start("us", Manner::Proper).await);
    let snapshot = fleet(&[(ASIA, &[hole.address]), (US, &[us.address])]);
    let rig = Rig::start_with(ASIA, snapshot, &["--connect-timeout", "300ms"]).await;
    for _ in 0..20 {
        assert!(rig.get("/").await.body.contains("served-by: us"));
    }
    // Counted, not timed: the first request met the silence, and no other did.
    let metrics = rig.admin("/metrics").await.body;
    assert!(metrics.contains("meridian_lb_retries_total{cluster=\"us-central1\"} 1\n"), "{metrics}");
    until(async || {
        rig.admin("/explain").await.body.contains("\"cluster\":\"asia-east1\",\"why\":\"probeFailed\"")
    })
    .await;
}

#[tokio::test]
async fn all_clusters_down_is_503_with_retry_after() {
    let rig = Rig::start(ASIA, fleet(&[(ASIA, &[refused().await]), (US, &[refused().await])])).await;
    let answer = rig.get("/").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.headers["meridian-reason"], "ConnectFailed");
    let mut empty = rig;
    empty.publish(fleet(&[(ASIA, &[]), (US, &[])])).await;
    assert_eq!(empty.get("/").await.headers["meridian-reason"], "NoUsableCluster");
}

#[tokio::test]
async fn removed_endpoints_get_no_request_more_and_nothing_fails() {
    let (old, new) =
        (Backend::start("old", Manner::Proper).await, Backend::start("new", Manner::Proper).await);
    let mut rig = Rig::start(ASIA, fleet(&[(ASIA, &[old.address]), (US, &[new.address])])).await;
    let address = rig.http();
    let load = tokio::spawn(async move {
        let mut failed = 0;
        for _ in 0..200 {
            let stream = TcpStream::connect(address).await.unwrap();
            let request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
            failed += usize::from(exchange(stream, request).await.unwrap().status != 200);
        }
        failed
    });
    until(async || old.served() > 20).await;
    rig.publish(fleet(&[(ASIA, &[]), (US, &[new.address])])).await;
    // Whatever was on its way when the table changed has arrived; from now on nothing may.
    until(async || new.served() > 1).await;
    let before = old.served();
    assert_eq!(load.await.unwrap(), 0);
    assert_eq!(old.served(), before);
}

#[tokio::test]
async fn endpoint_that_comes_back_at_its_address_is_used_again() {
    let first = Backend::start("first", Manner::Proper).await;
    let mut rig = Rig::start(ASIA, fleet(&[(ASIA, &[first.address])])).await;
    assert_eq!(rig.get("/").await.status, 200);
    let address = first.kill().await;
    rig.publish(fleet(&[(ASIA, &[])])).await;
    let _second = Backend::start_at(address, "second").await;
    rig.publish(fleet(&[(ASIA, &[address])])).await;
    assert!(rig.get("/").await.body.contains("served-by: second"));
}

#[tokio::test]
async fn only_the_share_that_is_too_much_leaves() {
    let (asia, us) =
        (Backend::start("asia", Manner::Proper).await, Backend::start("us", Manner::Proper).await);
    let mut web = web(&[(ASIA, &[asia.address]), (US, &[us.address])]);
    // 150 % of what Asia declares, as the controller would solve it.
    web.load.shares = [(ASIA.into(), [(ASIA.into(), 2.0 / 3.0), (US.into(), 1.0 / 3.0)].into())].into();
    let rig = Rig::start(ASIA, world([web], catch_all("web"))).await;
    for _ in 0..600 {
        assert_eq!(rig.get("/").await.status, 200);
    }
    // 200 expected; 5 standard deviations are 58.
    assert!((142..258).contains(&us.served()), "{} of 600 left", us.served());
    assert_eq!(asia.served() + us.served(), 600);
}

#[tokio::test]
async fn cluster_at_its_limit_in_flight_passes_requests_on() {
    let slow = Backend::start("asia", Manner::Slow(Duration::from_millis(500))).await;
    let us = Backend::start("us", Manner::Proper).await;
    let mut web = web(&[(ASIA, &[slow.address]), (US, &[us.address])]);
    web.shards[0].capacity = Capacity::InFlight(1);
    let rig = Rig::start(ASIA, world([web], catch_all("web"))).await;
    let (first, second) = tokio::join!(rig.get("/first"), async {
        until(async || slow.served() == 1).await;
        rig.get("/second").await
    });
    assert!(first.body.contains("served-by: asia"));
    assert!(second.body.contains("served-by: us"));
}

#[tokio::test]
async fn gateway_is_used_where_pods_cannot_be_reached_and_the_host_stays() {
    let gateway = Backend::start("gateway", Manner::Proper).await;
    let mut snapshot = fleet(&[(ASIA, &[refused().await])]);
    let mut asia = cluster(ASIA);
    let address = Address::Hostname("localhost".parse().unwrap());
    asia.network = Network::Gateway(vec![Gateway { address, port: gateway.address.port() }]);
    snapshot.clusters.insert(ASIA.into(), Arc::new(asia));
    let rig = Rig::start(ASIA, snapshot).await;
    until(async || rig.get("/").await.status == 200).await;
    let answer = rig.get("/deep/path").await;
    assert!(answer.body.contains("served-by: gateway"));
    assert!(answer.body.contains("GET /deep/path HTTP/1.1"));
    assert!(answer.body.to_ascii_lowercase().contains("host: web.example"), "{}", answer.body);
}

#[tokio::test]
async fn connections_that_backends_close_behind_an_answer_fail_nothing() {
    let backend = Backend::start("asia", Manner::ClosesAfterwards).await;
    let rig = Rig::start(ASIA, fleet(&[(ASIA, &[backend.address])])).await;
    for _ in 0..50 {
        assert_eq!(rig.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn get_is_repeated_elsewhere_but_post_is_not() {
    let (bad, good) =
        (Backend::start("bad", Manner::BreaksOff).await, Backend::start("good", Manner::Proper).await);
    let rig = Rig::start(ASIA, fleet(&[(ASIA, &[bad.address]), (US, &[good.address])])).await;
    let request = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
    let post = rig.send(request).await;
    assert_eq!((post.status, post.headers["meridian-reason"].as_str()), (502, "UpstreamFailed"));
    assert_eq!((bad.served(), good.served()), (1, 0));
    assert!(rig.get("/").await.body.contains("served-by: good"));
}

#[tokio::test]
async fn answer_that_breaks_off_in_the_middle_is_not_sent_twice() {
    let bad = Backend::start("bad", Manner::BreaksOffInTheMiddle).await;
    let good = Backend::start("good", Manner::Proper).await;
    let rig = Rig::start(ASIA, fleet(&[(ASIA, &[bad.address]), (US, &[good.address])])).await;
    let answer = rig.get("/").await;
    assert!(answer.body.len() < 1_000_000 && !answer.body.contains("served-by: good"), "{answer:?}");
    assert_eq!(good.served(), 0);
}

#[tokio::test]
async fn shutdown_waits_for_requests_in_flight() {
    let slow = Backend::start("asia", Manner::Slow(Duration::from_millis(500))).await;
    let rig = Rig::start(ASIA, fleet(&[(ASIA, &[slow.address])])).await;
    let address = rig.http();
    let request = tokio::spawn(async move {
        let stream = TcpStream::connect(address).await.unwrap();
        exchange(stream, "GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap()
    });
    until(async || slow.served() == 1).await;
    assert_eq!(rig.stop().await, 0);
    assert_eq!(request.await.unwrap().status, 200);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn drain_deadline_bounds_the_wait() {
    let slow = Backend::start("asia", Manner::Slow(Duration::from_secs(60))).await;
    let snapshot = fleet(&[(ASIA, &[slow.address])]);
    let rig = Rig::start_with(ASIA, snapshot, &["--drain-deadline", "50ms"]).await;
    let mut stream = TcpStream::connect(rig.http()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    until(async || slow.served() == 1).await;
    assert_eq!(rig.stop().await, 1);
}

#[tokio::test]
async fn explain_says_where_and_why_not() {
    let (asia, us) =
        (Backend::start("asia", Manner::Proper).await, Backend::start("us", Manner::Proper).await);
    let snapshot = fleet(&[(ASIA, &[asia.address]), (EUROPE, &[]), (US, &[us.address])]);
    let rig = Rig::start(ASIA, snapshot).await;
    let answer = rig.admin("/explain?host=any.example&path=/x").await;
    let told: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let route = &told["route"];
    assert_eq!(route["service"], "shop/web");
    assert_eq!(route["clusters"][0]["cluster"], ASIA);
    assert_eq!(route["clusters"][0]["weight"], 1.0);
    assert_eq!(route["clusters"][1]["cluster"], US);
    assert!(route["clusters"][1]["distanceMs"].as_f64().unwrap() > 50.0);
    assert_eq!(route["excluded"][0]["cluster"], EUROPE);
    assert_eq!(route["excluded"][0]["why"], "noReadyEndpoint");
    assert!(rig.admin("/readyz").await.status == 200);
}
