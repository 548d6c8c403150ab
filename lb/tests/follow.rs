//! The proxy behind a real feed: snapshots come in, load goes out, and both may stop.

// Helpers outside of test functions may end a test too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{net::SocketAddr, path::Path, sync::Arc};

use meridian_core::{
    id::ObjectKey,
    snapshot::{Generation, Role, Snapshot},
};
use meridian_feed::{
    follower::{FeedArgs, Follower},
    load::SiteLoad,
    server::FeedServer,
};
use meridian_lb::app::{Lb, Source};
use meridian_runtime::tasks::Tasks;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};

#[path = "../src/fixtures.rs"]
#[allow(dead_code)]
mod fixtures;
#[allow(dead_code)]
mod rig;

use fixtures::{catch_all, service, shard, world};
use rig::{Backend, Manner, Response, exchange, until};

const ASIA: &str = "asia-east1";
const US: &str = "us-central1";

/// A controller's end of the feed.
struct Hub {
    address: SocketAddr,
    snapshots: watch::Sender<Arc<Snapshot>>,
    loads: mpsc::Receiver<SiteLoad>,
    tasks: Tasks,
}

impl Hub {
    async fn start(snapshot: Snapshot) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (snapshots, published) = watch::channel(Arc::new(snapshot));
        let (sink, loads) = mpsc::channel(16);
        let tasks = Tasks::new();
        let token = tasks.token();
        tasks.spawn(
            "feed",
            async move { FeedServer::new(published, sink).serve(listener, None, token).await },
        );
        Self { address, snapshots, loads, tasks }
    }

    async fn stop(self) {
        self.tasks.finish(std::time::Duration::from_secs(5)).await.unwrap();
    }
}

/// A proxy that follows the feed at `address` and keeps its last good snapshot in `state`.
async fn proxy(address: SocketAddr, state: &Path) -> (Lb, Tasks) {
    let args = FeedArgs {
        feed: format!("http://{address}"),
        feed_ca: None,
        feed_cert: None,
        feed_key: None,
        site: ASIA.to_owned(),
        state_dir: Some(state.to_owned()),
    };
    let follower = Follower::new(&args, Role::Lb).unwrap();
    let source = Source {
        snapshots: follower.snapshots(),
        loads: Some(follower.loads()),
        status: Some(follower.status()),
    };
    let (lb, tasks) = rig::start(ASIA, source, &[]).await;
    let token = tasks.token();
    tasks.spawn("feed", follower.run(token));
    (lb, tasks)
}

async fn get(lb: &Lb) -> Response {
    let stream = TcpStream::connect(lb.http[0]).await.unwrap();
    exchange(stream, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap()
}

fn snapshot(asia: &[SocketAddr], us: &[SocketAddr], seq: u64) -> Snapshot {
    let web = service("web", [shard(ASIA, asia), shard(US, us)]);
    let generation = Generation { hub: "hub".into(), term: 1, seq };
    Snapshot { generation, ..world([web], catch_all("web")) }
}

#[tokio::test]
async fn snapshots_come_in_and_load_goes_out() {
    let (asia, us) =
        (Backend::start("asia", Manner::Proper).await, Backend::start("us", Manner::Proper).await);
    let mut hub = Hub::start(snapshot(&[asia.address], &[us.address], 1)).await;
    let state = tempfile::tempdir().unwrap();
    let (lb, tasks) = proxy(hub.address, state.path()).await;
    until(async || get(&lb).await.body.contains("served-by: asia")).await;
    hub.snapshots.send_replace(Arc::new(snapshot(&[], &[us.address], 2)));
    until(async || get(&lb).await.body.contains("served-by: us")).await;
    loop {
        let report = hub.loads.recv().await.unwrap();
        assert_eq!((report.site.as_str(), report.role), (ASIA, Role::Lb));
        if report.services.get(&ObjectKey::new("shop", "web")).is_some_and(|load| load.rate > 0.0) {
            break;
        }
    }
    lb.drain().await;
    tasks.finish(std::time::Duration::from_secs(5)).await.unwrap();
    hub.stop().await;
}

#[tokio::test]
async fn restarted_without_a_controller_it_serves_the_last_good_and_still_fails_over() {
    let (asia, us) =
        (Backend::start("asia", Manner::Proper).await, Backend::start("us", Manner::Proper).await);
    let hub = Hub::start(snapshot(&[asia.address], &[us.address], 1)).await;
    let gone = hub.address;
    let state = tempfile::tempdir().unwrap();
    let (lb, tasks) = proxy(gone, state.path()).await;
    until(async || get(&lb).await.status == 200).await;
    // Written behind the answer; what is waited for is the file itself.
    until(async || std::fs::read_dir(state.path()).is_ok_and(|files| files.count() > 0)).await;
    lb.drain().await;
    tasks.finish(std::time::Duration::from_secs(5)).await.unwrap();
    hub.stop().await;

    let (lb, tasks) = proxy(gone, state.path()).await;
    until(async || get(&lb).await.body.contains("served-by: asia")).await;
    asia.kill().await;
    for _ in 0..5 {
        assert!(get(&lb).await.body.contains("served-by: us"));
    }
    lb.drain().await;
    tasks.finish(std::time::Duration::from_secs(5)).await.unwrap();
}
