//! A region that falls silent: packets vanish, nothing is refused, nothing is closed.
//!
//! Loopback cannot lose packets, so the test runs itself again in a network namespace of its own, where pod
//! ranges are local routes that can be taken away. Needs `unshare` and `ip`.

// Helpers outside of test functions may end a test too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::{
    env,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

#[path = "../src/fixtures.rs"]
#[allow(dead_code)]
mod fixtures;
#[allow(dead_code)]
mod rig;

use fixtures::{catch_all, service, shard, world};
use rig::{Backend, Rig, exchange, until};

const ASIA: &str = "asia-east1";
const US: &str = "us-central1";
const INSIDE: &str = "MERIDIAN_TEST_INSIDE_NAMESPACE";

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(done.success(), "ip {arguments}");
}

#[test]
fn cut_region_fails_no_request_and_comes_home_after_the_hold() {
    if env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(cut_and_heal());
        return;
    }
    let this = env::current_exe().unwrap();
    let name = "cut_region_fails_no_request_and_comes_home_after_the_hold";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(this)
        .args([name, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare is needed");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    println!("{stdout}");
}

/// What a client saw.
struct Seen {
    at: Instant,
    took: Duration,
    by: Result<String, String>,
}

async fn request(address: SocketAddr, path: &str) -> Seen {
    let at = Instant::now();
    let answer = async {
        let stream = TcpStream::connect(address).await?;
        exchange(stream, &format!("GET {path} HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n"))
            .await
    };
    let by = match answer.await {
        Ok(answer) if answer.status == 200 => {
            Ok(answer.body.lines().next().unwrap_or_default().replace("served-by: ", ""))
        }
        Ok(answer) => Err(format!("{} {:?}", answer.status, answer.headers.get("meridian-reason"))),
        Err(error) => Err(error.to_string()),
    };
    Seen { at, took: at.elapsed(), by }
}

async fn cut_and_heal() {
    ip("link set lo up");
    ip("route add local 10.1.0.0/24 dev lo");
    ip("route add local 10.2.0.0/24 dev lo");
    let mut asia = Vec::new();
    for last in 1..=3 {
        asia.push(Backend::start_at(([10, 1, 0, last], 8080).into(), "asia").await);
    }
    let us = Backend::start_at(([10, 2, 0, 1], 8080).into(), "us").await;
    let addresses: Vec<SocketAddr> = asia.iter().map(|backend| backend.address).collect();
    let web = service("web", [shard(ASIA, &addresses), shard(US, &[us.address])]);
    let rig = Rig::start_with(ASIA, world([web], catch_all("web")), &["--failback-hold", "2s"]).await;

    let (address, stop) = (rig.http(), Arc::new(AtomicBool::new(false)));
    let load = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let (mut requests, mut tick) = (JoinSet::new(), interval(Duration::from_millis(5)));
            tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
            while !stop.load(Ordering::Relaxed) {
                tick.tick().await;
                requests.spawn(request(address, "/"));
            }
            requests.join_all().await
        }
    });
    sleep(Duration::from_secs(1)).await;
    let cut = Instant::now();
    ip("route del local 10.1.0.0/24 dev lo");
    ip("route add 10.1.0.0/24 dev lo");
    until(async || rig.admin("/explain").await.body.contains("\"why\":\"probeFailed\"")).await;
    let masked = cut.elapsed();
    sleep(Duration::from_secs(2)).await;
    ip("route del 10.1.0.0/24 dev lo");
    ip("route add local 10.1.0.0/24 dev lo");
    let healed = Instant::now();
    until(async || rig.admin("/explain").await.body.contains("\"excluded\":[]")).await;
    let home = healed.elapsed();
    sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);

    let seen = load.await.unwrap();
    let failed: Vec<&String> = seen.iter().filter_map(|seen| seen.by.as_ref().err()).collect();
    assert!(
        failed.is_empty(),
        "{} of {} failed: {:?}",
        failed.len(),
        seen.len(),
        &failed[..failed.len().min(5)]
    );
    let slowest = seen.iter().map(|seen| seen.took).max().unwrap();
    let slow = seen.iter().filter(|seen| seen.took > Duration::from_millis(100)).count();
    println!(
        "{} requests, none failed; slowest {slowest:?}, {slow} above 100 ms; masked after {masked:?}, home after {home:?}",
        seen.len(),
    );
    let by = |name: &str, from: Instant| {
        seen.iter().filter(|seen| seen.at >= from && seen.by.as_deref() == Ok(name)).count()
    };
    assert!(masked < Duration::from_secs(5), "{masked:?}");
    assert!(slowest < Duration::from_secs(6), "{slowest:?}");
    assert!(home >= Duration::from_secs(2), "{home:?}");
    assert_eq!(by("us", cut) + by("asia", cut), seen.iter().filter(|seen| seen.at >= cut).count());
    let last = seen.iter().map(|seen| seen.at).max().unwrap();
    assert!(by("asia", last - Duration::from_millis(500)) > 0, "home again");
}
