//! Looking at an address from outside: does it accept, refuse or stall, and what does it answer?

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::echo::Answer;

/// What became of an attempt to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Somebody accepted.
    Open,
    /// The address exists and nobody listens: refused at once.
    Refused,
    /// Nothing came back in time.
    Stalled,
    /// Another error, such as "no route to host".
    Failed(ErrorKind),
}

/// Tries to connect for as long as `patience`.
pub async fn reach(target: SocketAddr, patience: Duration) -> Reach {
    match timeout(patience, TcpStream::connect(target)).await {
        Err(_) => Reach::Stalled,
        Ok(Ok(_)) => Reach::Open,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Reach::Refused,
        Ok(Err(error)) => Reach::Failed(error.kind()),
    }
}

/// One GET on a connection of its own.
///
/// # Errors
/// When there is no whole answer within `patience`.
pub async fn get(
    target: SocketAddr,
    host: &str,
    path: &str,
    patience: Duration,
) -> anyhow::Result<Response<Bytes>> {
    let exchange = async {
        let stream = TcpStream::connect(target).await.context("connecting")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(path)
            .header(http::header::HOST, host)
            .header(http::header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        let (parts, body) = sender.send_request(request).await.context("sending the request")?.into_parts();
        Ok(Response::from_parts(parts, body.collect().await.context("reading the answer")?.to_bytes()))
    };
    let outcome: anyhow::Result<_> = timeout(patience, exchange).await.context("no answer in time").flatten();
    outcome.with_context(|| format!("GET {path} from {target} with Host {host}"))
}

/// Which pod answers there: [`get`] of `/`, and its body understood.
///
/// # Errors
/// As [`get`], and when the answer is not a pod's.
pub async fn who(target: SocketAddr, host: &str, patience: Duration) -> anyhow::Result<Answer> {
    let response = get(target, host, "/", patience).await?;
    let text = String::from_utf8_lossy(response.body()).into_owned();
    serde_json::from_str(&text)
        .with_context(|| format!("{} from {target} is not a pod's answer: {text}", response.status()))
}
