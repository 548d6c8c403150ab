//! The whole server in process: feed, probes, GeoIP, admin port, restart from the last-good file.

#![allow(clippy::unwrap_used)]

mod common;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use clap::Parser;
use common::*;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        Name, RecordType,
        rdata::opt::{ClientSubnet, EdnsOption},
    },
};
use meridian_core::snapshot::{Generation, Snapshot};
use meridian_dns::{
    app::{self, Args, Started},
    testkit::{Fixture, Schema},
};
use meridian_feed::server::FeedServer;
use meridian_runtime::tasks::Tasks;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes; a test that meets it has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// The hub's side of the feed.
struct Hub {
    address: SocketAddr,
    snapshots: watch::Sender<Arc<Snapshot>>,
    token: CancellationToken,
    task: JoinHandle<Result<(), meridian_feed::server::ServeError>>,
}

impl Hub {
    async fn start(snapshot: Snapshot) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (snapshots, seen) = watch::channel(Arc::new(snapshot));
        let (loads, _) = mpsc::channel(8);
        let token = CancellationToken::new();
        let task = tokio::spawn(FeedServer::new(seen, loads).serve(listener, None, token.clone()));
        Self { address, snapshots, token, task }
    }

    async fn stop(self) {
        self.token.cancel();
        self.task.await.unwrap().unwrap();
    }
}

struct Dns {
    tasks: Tasks,
    started: Started,
}

impl Dns {
    async fn start(feed: SocketAddr, directory: &Path) -> Self {
        let geoip = directory.join("city.mmdb");
        std::fs::write(&geoip, Fixture::standard().encode(Schema::Flat).unwrap()).unwrap();
        let args = Args::try_parse_from([
            "meridian-dns",
            "--listen=127.0.0.1:0",
            "--admin-listen=127.0.0.1:0",
            &format!("--feed=http://{feed}"),
            "--site=us",
            "--failback-hold=0",
            &format!("--geoip={}", geoip.display()),
            &format!("--state-dir={}", directory.display()),
        ])
        .unwrap();
        let tasks = Tasks::new();
        let started = app::start(&args, &tasks).await.unwrap();
        Self { tasks, started }
    }

    async fn stop(self) {
        self.tasks.finish(DEADLINE).await.unwrap();
    }

    async fn ask(&self, client: &str) -> (ResponseCode, Vec<String>) {
        let network: ipnet::IpNet = client.parse().unwrap();
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii("app.example.org.").unwrap(), RecordType::A));
        let mut edns = Edns::new();
        edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(
            network.addr(),
            network.prefix_len(),
            0,
        )));
        message.edns = Some(edns);
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&message.to_vec().unwrap(), self.started.dns[0]).await.unwrap();
        let mut buffer = [0; 1500];
        let length = socket.recv(&mut buffer).await.unwrap();
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        let addresses = answer.answers.iter().filter_map(|record| record.data.ip_addr());
        (answer.metadata.response_code, addresses.map(|ip| ip.to_string()).collect())
    }

    /// Asks until the answer is `expected`.
    async fn until(&self, client: &str, expected: &str) {
        let asking = async {
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            while self.ask(client).await.1 != [expected] {
                pace.tick().await;
            }
        };
        let outcome = tokio::time::timeout(DEADLINE, asking).await;
        assert!(outcome.is_ok(), "{client} gets {:?}, not {expected}", self.ask(client).await);
    }

    async fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.started.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

/// Sites at 127.0.0.11 to .13 whose probe port is open as long as the listener is held.
async fn fleet_on_loopback() -> (Snapshot, Vec<TcpListener>) {
    let mut fleet = Fleet::new();
    let mut listeners = Vec::new();
    for (place, _, octet) in PLACES {
        let address = SocketAddr::from(([127, 0, 0, 10 + octet], 0));
        let listener = TcpListener::bind(address).await.unwrap();
        let bound = listener.local_addr().unwrap();
        listeners.push(listener);
        fleet = fleet.site(place, |site| {
            site.addresses = vec![bound.ip()];
            site.probe_port = bound.port();
        });
    }
    fleet.snapshot.generation = Generation { hub: "hub".into(), term: 1, seq: 1 };
    (fleet.snapshot, listeners)
}

#[tokio::test]
async fn follows_the_feed_fails_over_alone_and_restarts_without_the_controller() {
    let directory = tempfile::tempdir().unwrap();
    let (mut snapshot, mut sites) = fleet_on_loopback().await;
    let hub = Hub::start(snapshot.clone()).await;
    let feed = hub.address;
    let dns = Dns::start(feed, directory.path()).await;

    dns.until(TAIWAN, "127.0.0.11").await;
    dns.until(FRANKFURT, "127.0.0.12").await;
    dns.until(IOWA, "127.0.0.13").await;
    assert!(dns.page("/readyz").await.starts_with("HTTP/1.1 200"));

    // The hub drains Asia: a delta.
    Arc::make_mut(snapshot.sites.get_mut("asia").unwrap()).dial.percent = 0;
    snapshot.generation.seq = 2;
    hub.snapshots.send_replace(Arc::new(snapshot));
    dns.until(TAIWAN, "127.0.0.13").await;

    // The controller goes away, then Europe's site: nobody is asked.
    hub.stop().await;
    let europe = sites[1].local_addr().unwrap();
    drop(sites.remove(1));
    dns.until(FRANKFURT, "127.0.0.13").await;
    let explained = dns.page("/explain?name=app.example.org&client=192.0.2.7").await;
    assert!(explained.contains(r#"{"place":"europe","why":"probeFailed"}"#), "{explained}");
    assert!(explained.contains(r#"{"place":"asia","why":"drained"}"#), "{explained}");
    let _site = TcpListener::bind(europe).await.unwrap();
    dns.until(FRANKFURT, "127.0.0.12").await;

    let metrics = dns.page("/metrics").await;
    assert!(metrics.contains(r#"meridian_dns_queries_total{rcode="noerror",qtype="a"}"#), "{metrics}");
    assert!(metrics.contains(r#"meridian_dns_geoip_loads_total{result="loaded"} 1"#), "{metrics}");
    dns.stop().await;

    let dns = Dns::start(feed, directory.path()).await;
    dns.until(FRANKFURT, "127.0.0.12").await;
    dns.until(TAIWAN, "127.0.0.13").await;
    dns.stop().await;
}

#[tokio::test]
async fn without_any_snapshot_it_is_unready_and_answers_servfail() {
    let directory = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let dns = Dns::start(free, directory.path()).await;
    assert_eq!(dns.ask(TAIWAN).await.0, ResponseCode::ServFail);
    assert!(dns.page("/readyz").await.starts_with("HTTP/1.1 503"));
    assert!(dns.page("/metrics").await.contains("meridian_dns_snapshot_age_seconds NaN"));
    assert!(dns.page("/explain?name=a.example.org&client=nobody").await.starts_with("HTTP/1.1 400"));
    dns.stop().await;
}
