//! What pods run: an HTTP server per pod address that says which pod it is.
//!
//! A listener exists only while its pod runs, so that every other address of the range refuses at once. Answers are
//! JSON; headers say the same, so that a load generator need not parse:
//! `x-cluster`, `x-namespace`, `x-pod`, `x-zone`, `x-region`. A request may ask for a bad day:
//! `?status=503&delay_ms=200`.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// How much of a request's body is echoed.
const BODY_LIMIT: usize = 64 * 1024;

/// Who answered: the pod's own idea of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The member cluster.
    pub cluster: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The zone of its node.
    pub zone: String,
    /// The region of its node.
    pub region: String,
    /// Its address.
    pub address: IpAddr,
}

/// The body of an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// Who answers.
    #[serde(flatten)]
    pub identity: Identity,
    /// The request's method.
    pub method: String,
    /// The request's target: path and query.
    pub target: String,
    /// The request's headers, in order; values that are not text are replaced.
    pub headers: Vec<(String, String)>,
    /// The request's body, as text.
    pub body: String,
    /// From where the connection came.
    pub peer: SocketAddr,
}

/// What all pods of a cluster share: settings that tests change, and a count.
#[derive(Debug, Default)]
pub struct Behaviour {
    requests: AtomicU64,
    latency_ms: AtomicU64,
    status: AtomicU64,
}

impl Behaviour {
    /// How many requests the cluster's pods have answered.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// From now on each answer takes this long, in whole milliseconds.
    pub fn set_latency(&self, latency: Duration) {
        self.latency_ms.store(u64::try_from(latency.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// From now on each answer has this status instead of 200, until `None`.
    pub fn set_status(&self, status: Option<StatusCode>) {
        self.status.store(status.map_or(0, |s| u64::from(s.as_u16())), Ordering::Relaxed);
    }
}

/// The running server of one pod. Dropping it is a crash: listeners and connections are gone at once.
#[derive(Debug)]
pub struct Server {
    draining: CancellationToken,
    closed: CancellationToken,
    killed: CancellationToken,
}

impl Server {
    /// Listens on `ports` of the pod's address.
    ///
    /// # Errors
    /// When an address cannot be bound: it is not in an open range, or taken.
    pub async fn start(identity: Identity, ports: &[u16], behaviour: Arc<Behaviour>) -> anyhow::Result<Self> {
        let server = Self {
            draining: CancellationToken::new(),
            closed: CancellationToken::new(),
            killed: CancellationToken::new(),
        };
        let headers = Arc::new(headers(&identity)?);
        for &port in ports {
            let address = SocketAddr::new(identity.address, port);
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("listening on {address} for a pod"))?;
            let pod = Pod {
                identity: identity.clone(),
                headers: Arc::clone(&headers),
                behaviour: Arc::clone(&behaviour),
                draining: server.draining.clone(),
                closed: server.closed.clone(),
                killed: server.killed.clone(),
            };
            tokio::spawn(accept(listener, pod));
        }
        Ok(server)
    }

    /// The pod has begun to terminate, as between preStop and SIGTERM: it still accepts, but each answer now says
    /// `Connection: close`, and the connection is closed after it.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// The pod crashes: listeners and connections are gone at once.
    pub fn kill(&self) {
        self.killed.cancel();
    }

    /// The pod has received SIGTERM: it no longer accepts, idle connections are closed, answers under way are
    /// finished.
    pub fn close(&self) {
        self.draining.cancel();
        self.closed.cancel();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A server that was closed in order finishes its answers.
        if !self.closed.is_cancelled() {
            self.kill();
        }
    }
}

#[derive(Clone)]
struct Pod {
    identity: Identity,
    headers: Arc<[(&'static str, HeaderValue); 5]>,
    behaviour: Arc<Behaviour>,
    draining: CancellationToken,
    closed: CancellationToken,
    killed: CancellationToken,
}

async fn accept(listener: TcpListener, pod: Pod) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = pod.closed.cancelled() => return,
            () = pod.killed.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                stream.set_nodelay(true).ok();
                tokio::spawn(serve(stream, peer, pod.clone()));
            }
            // Out of descriptors, or the caller gave up already. Neither is a reason to spin.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, pod: Pod) {
    let (closed, killed) = (pod.closed.clone(), pod.killed.clone());
    let service = service_fn(|request| {
        let pod = pod.clone();
        async move { Ok::<_, Infallible>(answer(request, peer, &pod).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut closing = false;
    loop {
        tokio::select! {
            // A caller that hangs up is no concern of the pod.
            _ = connection.as_mut() => return,
            () = killed.cancelled() => return,
            () = closed.cancelled(), if !closing => {
                connection.as_mut().graceful_shutdown();
                closing = true;
            }
        }
    }
}

async fn answer(request: Request<Incoming>, peer: SocketAddr, pod: &Pod) -> Response<Full<Bytes>> {
    pod.behaviour.requests.fetch_add(1, Ordering::Relaxed);
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return status(StatusCode::PAYLOAD_TOO_LARGE),
    };
    let asked = |key: &str| {
        let pairs = parts.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(k, _)| *k == key).find_map(|(_, value)| value.parse::<u64>().ok())
    };
    let delay = asked("delay_ms").unwrap_or(0) + pod.behaviour.latency_ms.load(Ordering::Relaxed);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let code = asked("status").unwrap_or_else(|| pod.behaviour.status.load(Ordering::Relaxed));
    let header = |(name, value): (&http::HeaderName, &HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let text = Answer {
        identity: pod.identity.clone(),
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        headers: parts.headers.iter().map(header).collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
        peer,
    };
    let Ok(json) = serde_json::to_vec_pretty(&text) else { return status(StatusCode::INTERNAL_SERVER_ERROR) };
    let mut response = Response::new(Full::new(Bytes::from(json)));
    let valid = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    *response.status_mut() = valid.unwrap_or(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in pod.headers.iter() {
        headers.insert(*name, value.clone());
    }
    // Asked last: the pod may have begun to terminate while the answer was delayed.
    if pod.draining.is_cancelled() {
        headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn status(code: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = code;
    response
}

fn headers(identity: &Identity) -> anyhow::Result<[(&'static str, HeaderValue); 5]> {
    Ok([
        ("x-cluster", HeaderValue::from_str(&identity.cluster)?),
        ("x-namespace", HeaderValue::from_str(&identity.namespace)?),
        ("x-pod", HeaderValue::from_str(&identity.pod)?),
        ("x-zone", HeaderValue::from_str(&identity.zone)?),
        ("x-region", HeaderValue::from_str(&identity.region)?),
    ])
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn pod() -> (Server, SocketAddr) {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let identity = Identity {
            cluster: "c".into(),
            namespace: "n".into(),
            pod: "p".into(),
            zone: "z".into(),
            region: "r".into(),
            address: address.ip(),
        };
        (Server::start(identity, &[address.port()], Arc::default()).await.unwrap(), address)
    }

    async fn exchange(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET /?status=418 HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        let mut bytes = vec![0; 4096];
        let n = stream.read(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }

    #[tokio::test]
    async fn draining_pod_answers_and_then_closes_the_connection() {
        let (server, address) = pod().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let first = exchange(&mut stream).await;
        assert!(
            first.starts_with("HTTP/1.1 418")
                && first.contains("x-cluster: c")
                && !first.contains("connection: close"),
            "{first}"
        );
        server.drain();
        let second = exchange(&mut stream).await;
        assert!(second.contains("connection: close"), "{second}");
        assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn killed_pod_drops_connections_and_refuses_new_ones() {
        let (server, address) = pod().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        exchange(&mut stream).await;
        drop(server);
        assert!(matches!(stream.read(&mut [0; 16]).await, Ok(0) | Err(_)));
        // The listener's task ends a moment after the drop.
        crate::wait::wait_until("a refusal", Duration::from_secs(5), async || {
            Ok(TcpStream::connect(address).await.is_err().then_some(()))
        })
        .await
        .unwrap();
    }
}
