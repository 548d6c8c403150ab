//! Tight loops that ask about once a millisecond and note when the answer became another.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::question;

/// The pause between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(1);
/// How long one question may take.
const PATIENCE: Duration = Duration::from_millis(500);

/// An answer, and when it was first given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// The answer.
    pub(super) value: String,
    /// When it was first given after another one.
    pub(super) since: Instant,
}

/// A running loop. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Poll {
    seen: watch::Receiver<Option<Seen>>,
    asked: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

impl Poll {
    /// Begins to ask.
    pub(super) fn start(mut questions: impl Ask) -> Self {
        let (tell, seen) = watch::channel(None);
        let (asked, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counts = (Arc::clone(&asked), Arc::clone(&failed));
        let task = async move {
            while !tell.is_closed() {
                counts.0.fetch_add(1, Ordering::Relaxed);
                match tokio::time::timeout(PATIENCE, questions.ask()).await {
                    Ok(Ok(value)) => note(&tell, value),
                    // A lost datagram or a broken connection is not another answer.
                    Ok(Err(_)) | Err(_) => {
                        counts.1.fetch_add(1, Ordering::Relaxed);
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        Self { seen, asked, failed, _task: AbortOnDropHandle::new(tokio::spawn(task)) }
    }

    /// Waits until the answer is one that `wanted` accepts, and returns it.
    ///
    /// # Errors
    /// After `within`, with the answer that was given instead.
    pub(super) async fn until(
        &mut self,
        within: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> anyhow::Result<Seen> {
        let accepted = |seen: &Option<Seen>| seen.as_ref().is_some_and(|seen| wanted(&seen.value));
        if let Ok(waited) = tokio::time::timeout(within, self.seen.wait_for(accepted)).await {
            return waited.context("the loop has ended")?.clone().context("an accepted answer is one");
        }
        bail!("after {within:?} the answer is still {:?}", self.seen.borrow().as_ref())
    }

    /// Questions asked and questions without a usable answer, so far.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.asked.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

/// Something to ask again and again.
pub(super) trait Ask: Send + 'static {
    /// Asks once.
    fn ask(&mut self) -> impl Future<Output = anyhow::Result<String>> + Send;
}

/// Asks a name server; the answer is the first address.
#[derive(Debug)]
pub(super) struct Dns {
    socket: UdpSocket,
    name: &'static str,
    client: Ipv4Addr,
    id: u16,
}

impl Dns {
    /// Will ask `server` for the A records of `name` on behalf of `client`.
    pub(super) async fn new(
        server: SocketAddr,
        name: &'static str,
        client: Ipv4Addr,
    ) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        socket.connect(server).await?;
        Ok(Self { socket, name, client, id: 0 })
    }
}

impl Ask for Dns {
    async fn ask(&mut self) -> anyhow::Result<String> {
        self.id = self.id.wrapping_add(1);
        self.socket.send(&question::query(self.id, self.name, self.client)?).await?;
        let mut buffer = [0; 1500];
        let length = self.socket.recv(&mut buffer).await?;
        Ok(question::first_address(self.id, &buffer[..length])?.to_string())
    }
}

/// Fetches a page over one connection, renewed only when it breaks; the answer is the serving cluster.
#[derive(Debug)]
pub(super) struct Route {
    proxy: SocketAddr,
    host: &'static str,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

impl Route {
    /// Will fetch `/` of `host` from `proxy`.
    pub(super) fn new(proxy: SocketAddr, host: &'static str) -> Self {
        Self { proxy, host, connection: None }
    }
}

impl Ask for Route {
    async fn ask(&mut self) -> anyhow::Result<String> {
        // Taken out, so that a connection on which something went wrong is not used again.
        let mut sender = match self.connection.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => connect(self.proxy).await?,
        };
        sender.ready().await?;
        let request = Request::get("/").header("host", self.host).body(Empty::new())?;
        let response = sender.send_request(request).await?;
        ensure!(response.status().is_success(), "status {}", response.status());
        let cluster = response.headers().get("x-cluster").context("the answer is not a pod's")?;
        let cluster = cluster.to_str()?.to_owned();
        response.into_body().collect().await?;
        self.connection = Some(sender);
        Ok(cluster)
    }
}

fn note(tell: &watch::Sender<Option<Seen>>, value: String) {
    let since = Instant::now();
    tell.send_if_modified(|seen| {
        let other = seen.as_ref().is_none_or(|seen| seen.value != value);
        if other {
            *seen = Some(Seen { value, since });
        }
        other
    });
}

async fn connect(proxy: SocketAddr) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Ends when the sender is dropped.
    tokio::spawn(connection);
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Script(std::vec::IntoIter<Option<&'static str>>);

    impl Ask for Script {
        async fn ask(&mut self) -> anyhow::Result<String> {
            match self.0.next() {
                Some(answer) => answer.map(str::to_owned).context("a lost datagram"),
                None => std::future::pending().await,
            }
        }
    }

    #[tokio::test]
    async fn failed_question_is_counted_and_changes_no_answer() {
        let answers = vec![Some("home"), None, Some("home"), Some("away")];
        let mut poll = Poll::start(Script(answers.into_iter()));
        let home = poll.until(PATIENCE, |value| value == "home").await.unwrap();
        let away = poll.until(PATIENCE, |value| value == "away").await.unwrap();
        assert!(away.since > home.since);
        assert_eq!(poll.counts().1, 1);
    }
}
