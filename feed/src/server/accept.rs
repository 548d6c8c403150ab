//! New connections: plaintext as they are, TLS after a handshake that names the edge.
//!
//! tonic's own TLS keeps the certificate it was started with; here every handshake takes the files as
//! they are at that moment.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::either::Either;
use tonic::transport::server::Connected;

use crate::{identity::Edge, tls::Reloading};

/// A handshake takes a few round trips; whoever needs longer is not an edge.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at the same time; more wait in the listener's backlog.
const MAX_HANDSHAKES: usize = 128;
/// Pause after the system could not accept, which is usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// What its certificate says; none on plaintext.
    pub(super) edge: Option<Edge>,
}

/// An accepted connection.
#[derive(Debug)]
pub(super) struct Connection {
    io: Either<TcpStream, TlsStream<TcpStream>>,
    peer: Peer,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// Connections of `listener`, without end. Those that fail their handshake are left out.
pub(super) fn incoming(
    listener: TcpListener,
    tls: Option<Reloading<ServerConfig>>,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    let state = (listener, tls, FuturesUnordered::<BoxFuture<'static, Option<Connection>>>::new());
    futures::stream::unfold(state, |(listener, tls, mut handshakes)| async move {
        loop {
            tokio::select! {
                Some(finished) = handshakes.next(), if !handshakes.is_empty() => {
                    if let Some(connection) = finished {
                        return Some((Ok(connection), (listener, tls, handshakes)));
                    }
                }
                accepted = listener.accept(), if handshakes.len() < MAX_HANDSHAKES => match accepted {
                    Ok((stream, address)) => {
                        let config = tls.as_ref().map(Reloading::current);
                        handshakes.push(establish(stream, address, config).boxed());
                    }
                    Err(error) => {
                        tracing::warn!(%error, "Feed could not accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    })
}

async fn establish(
    stream: TcpStream,
    address: SocketAddr,
    config: Option<Arc<ServerConfig>>,
) -> Option<Connection> {
    // Deltas are small and must not wait for more bytes to fill a packet.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "Feed connection was gone at once");
        return None;
    }
    let Some(config) = config else {
        return Some(Connection { io: Either::Left(stream), peer: Peer { address, edge: None } });
    };
    let handshake = TlsAcceptor::from(config).accept(stream);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::info!(peer = %address, %error, "Feed handshake failed");
            return None;
        }
        Err(_) => {
            tracing::info!(peer = %address, "Feed handshake took too long");
            return None;
        }
    };
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    match leaf.map(|leaf| Edge::of_certificate(leaf)) {
        Some(Ok(edge)) => {
            Some(Connection { io: Either::Right(stream), peer: Peer { address, edge: Some(edge) } })
        }
        Some(Err(error)) => {
            tracing::warn!(peer = %address, %error, "Feed refused a certificate that names no edge");
            None
        }
        // The verifier requires a certificate; without one there is no session to serve.
        None => None,
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
