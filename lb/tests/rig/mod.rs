//! A proxy in this process, backends on loopback, and a client that shows everything.

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use clap::Parser;
use meridian_core::snapshot::Snapshot;
use meridian_lb::app::{Lb, ServeArgs, Source};
use meridian_runtime::{admin::AdminArgs, tasks::Tasks};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

/// A running proxy.
pub(crate) struct Rig {
    pub(crate) lb: Lb,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    tasks: Tasks,
    seq: u64,
}

/// Starts a proxy at `site` that listens on free ports.
pub(crate) async fn start(site: &str, source: Source, flags: &[&str]) -> (Lb, Tasks) {
    let free = "lb --http-listen 127.0.0.1:0 --https-listen 127.0.0.1:0 --admin-listen 127.0.0.1:0";
    let args = Args::parse_from(free.split(' ').chain(flags.iter().copied()));
    let tasks = Tasks::new();
    let data = tokio::runtime::Handle::current();
    let lb = Lb::start(site.into(), args.serve, &args.admin, source, &tasks, &data).await.unwrap();
    (lb, tasks)
}

impl Rig {
    /// A proxy at `site` that has compiled `snapshot`.
    pub(crate) async fn start(site: &str, snapshot: Snapshot) -> Self {
        Self::start_with(site, snapshot, &[]).await
    }

    pub(crate) async fn start_with(site: &str, snapshot: Snapshot, flags: &[&str]) -> Self {
        let (snapshots, seen) = watch::channel(None);
        let source = Source { snapshots: seen, loads: None, status: None };
        let (lb, tasks) = start(site, source, flags).await;
        let mut rig = Self { lb, snapshots, tasks, seq: 0 };
        rig.publish(snapshot).await;
        rig
    }

    /// Publishes `snapshot` and waits until requests are answered from it.
    pub(crate) async fn publish(&mut self, mut snapshot: Snapshot) {
        self.seq += 1;
        snapshot.generation.seq = self.seq;
        self.snapshots.send_replace(Some(Arc::new(snapshot)));
        let wanted = format!("\"generation\":\"0.{}\"", self.seq);
        until(async || self.admin("/routes").await.body.contains(&wanted)).await;
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.lb.http[0]
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n")).await
    }

    pub(crate) async fn send(&self, request: &str) -> Response {
        let stream = TcpStream::connect(self.http()).await.unwrap();
        exchange(stream, request).await.unwrap()
    }

    pub(crate) async fn admin(&self, path: &str) -> Response {
        let stream = TcpStream::connect(self.lb.admin).await.unwrap();
        exchange(stream, &format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"))
            .await
            .unwrap()
    }

    /// Ends everything; returns how many requests were cut off.
    pub(crate) async fn stop(self) -> u64 {
        let left = self.lb.drain().await;
        self.tasks.finish(PATIENCE).await.unwrap();
        left
    }
}

/// What the client saw.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// Sends one request that closes the connection, and reads to the end.
pub(crate) async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> std::io::Result<Response> {
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("no answer")?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(": "));
    Ok(Response {
        status: status.unwrap_or(0),
        headers: headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect(),
        body: body.to_owned(),
    })
}

/// How a backend behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Manner {
    /// Answers and keeps the connection.
    Proper,
    /// Answers `Proper`ly after this time.
    Slow(Duration),
    /// Answers as if it kept the connection, then closes it.
    ClosesAfterwards,
    /// Reads the request and closes.
    BreaksOff,
    /// Announces more than it sends.
    BreaksOffInTheMiddle,
}

/// A pod: says its name and the request it got.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    served: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Backend {
    pub(crate) async fn start(name: &str, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, name, manner)
    }

    /// A backend at an address that was free a moment ago.
    pub(crate) async fn start_at(address: SocketAddr, name: &str) -> Self {
        Self::on(TcpListener::bind(address).await.unwrap(), name, Manner::Proper)
    }

    fn on(listener: TcpListener, name: &str, manner: Manner) -> Self {
        let address = listener.local_addr().unwrap();
        let (served, name) = (Arc::new(AtomicUsize::new(0)), name.to_owned());
        let count = Arc::clone(&served);
        let task = tokio::spawn(async move {
            // Dropped with this task, and with it every connection.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, name.clone(), manner, Arc::clone(&count)));
            }
        });
        Self { address, served, task }
    }

    /// Requests that arrived.
    pub(crate) fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    /// Dies: connections break, new ones are refused.
    pub(crate) async fn kill(self) -> SocketAddr {
        self.task.abort();
        let _ = self.task.await;
        self.address
    }
}

async fn serve(mut stream: TcpStream, name: String, manner: Manner, served: Arc<AtomicUsize>) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            match stream.read_buf(&mut buffer).await {
                Ok(1..) => {}
                _ => return,
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        buffer.drain(..end);
        served.fetch_add(1, Ordering::SeqCst);
        let body = format!("served-by: {name}\n{head}");
        let length = body.len();
        let answer = match manner {
            Manner::BreaksOff => return,
            Manner::BreaksOffInTheMiddle => {
                format!("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n{body}")
            }
            _ => format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"),
        };
        if let Manner::Slow(time) = manner {
            sleep(time).await;
        }
        let written = stream.write_all(answer.as_bytes()).await;
        if written.is_err() || matches!(manner, Manner::ClosesAfterwards | Manner::BreaksOffInTheMiddle) {
            return;
        }
    }
}

/// An address that neither accepts nor refuses: a listener whose queue is full drops further SYNs, which
/// is what a partition looks like from here.
pub(crate) struct BlackHole {
    pub(crate) address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<JoinHandle<()>>,
}

impl BlackHole {
    pub(crate) async fn start() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        loop {
            let filler = tokio::spawn(async move {
                let stream = TcpStream::connect(address).await;
                std::future::pending::<()>().await;
                drop(stream);
            });
            queued.push(filler);
            if timeout(Duration::from_millis(100), TcpStream::connect(address)).await.is_err() {
                return Self { address, _listener: listener, _queued: queued };
            }
        }
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "it never happened");
        sleep(Duration::from_millis(5)).await;
    }
}
