//! The hub's side: publishes snapshots to edges and takes in their load.
//!
//! ```text
//! snapshots (watch) --> scope: once per role and publication --> one session per edge --> stream
//!                                                     loads (mpsc) <-- reports <--+
//! ```
//! A session keeps only what its edge was sent last. A slow edge skips what it missed: its next batch
//! goes from there straight to the latest, so nothing queues up.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use meridian_core::{
    id::SiteName,
    snapshot::{Generation, Role, Snapshot},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

mod accept;
mod scope;
mod session;

pub use crate::{
    load::{ServiceLoad, SiteLoad},
    tls::{TlsError, TlsFiles},
};
use crate::{proto::feed_server, tls};

/// An edge says one Hello and small reports.
const MAX_INBOUND_BYTES: usize = 4 << 20;
/// How often a silent connection is asked whether it lives, and how long it may take to say so; together
/// they bound how long a dead link goes unnoticed.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// See [`KEEPALIVE_INTERVAL`].
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Flow-control window: a full snapshot of a large fleet in few round trips.
pub(crate) const WINDOW_BYTES: u32 = 4 << 20;

/// Why the feed cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Snapshots carry private keys; without TLS they may not leave the machine.
    #[error("feed on {0} needs TLS: only loopback may be plaintext")]
    PlaintextOffLoopback(SocketAddr),
    /// The TLS files cannot be used.
    #[error("feed TLS")]
    Tls(#[source] TlsError),
    /// The listener cannot say its address.
    #[error("feed listener")]
    Listener(#[source] io::Error),
    /// The server ended by itself.
    #[error("feed server")]
    Transport(#[source] tonic::transport::Error),
}

/// Who follows. See [`FeedServer::followers`].
pub type Followers = Arc<BTreeMap<(Role, SiteName), Sent>>;

/// How far an edge was brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Generation last sent to it; `seq` 0 when none was yet.
    pub generation: Generation,
    /// Number of its stream, so that the end of an old one does not erase a new one.
    stream: u64,
}

/// The server. Built before it serves, so that others can read what it learns.
#[derive(Debug)]
pub struct FeedServer {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    shared: Shared,
}

/// What all sessions share.
#[derive(Clone, Debug)]
struct Shared {
    loads: mpsc::Sender<SiteLoad>,
    held: Arc<watch::Sender<BTreeMap<Arc<str>, Generation>>>,
    followers: Arc<watch::Sender<Followers>>,
    streams: Arc<AtomicU64>,
}

impl FeedServer {
    /// A server of what `snapshots` holds. A snapshot whose generation has `seq` 0 counts as none: edges
    /// wait until there is one. Reports go to `loads`; those that find it full are dropped, because the
    /// next second brings newer ones.
    #[must_use]
    pub fn new(snapshots: watch::Receiver<Arc<Snapshot>>, loads: mpsc::Sender<SiteLoad>) -> Self {
        let shared = Shared {
            loads,
            held: Arc::new(watch::Sender::new(BTreeMap::new())),
            followers: Arc::new(watch::Sender::new(Followers::default())),
            streams: Arc::default(),
        };
        Self { snapshots, shared }
    }

    /// The highest generation that any edge said it holds, by the hub's UID. Where it is not superseded
    /// by what is published, those edges will take nothing: the publisher must raise its term above it.
    #[must_use]
    pub fn highest_held(&self) -> watch::Receiver<BTreeMap<Arc<str>, Generation>> {
        self.shared.held.subscribe()
    }

    /// Edges that are connected, with the generation last sent to each.
    #[must_use]
    pub fn followers(&self) -> watch::Receiver<Followers> {
        self.shared.followers.subscribe()
    }

    /// Serves until `token` is cancelled. Without `files` only on loopback; with them every edge must
    /// show a certificate that names its role and site.
    ///
    /// # Errors
    /// [`ServeError`]; none of its kinds goes away by trying again.
    pub async fn serve(
        self,
        listener: TcpListener,
        files: Option<TlsFiles>,
        token: CancellationToken,
    ) -> Result<(), ServeError> {
        let address = listener.local_addr().map_err(ServeError::Listener)?;
        if files.is_none() && !address.ip().is_loopback() {
            return Err(ServeError::PlaintextOffLoopback(address));
        }
        let tls = files.map(tls::server).transpose().map_err(ServeError::Tls)?;
        tracing::info!(%address, tls = tls.is_some(), "Feed is open");

        let (scoper, scopes) = scope::scoper(self.snapshots);
        let service = session::Service::new(self.shared, scopes, token.clone());
        let service = feed_server::FeedServer::new(service).max_decoding_message_size(MAX_INBOUND_BYTES);
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .initial_connection_window_size(WINDOW_BYTES)
            .initial_stream_window_size(WINDOW_BYTES)
            .add_service(service)
            .serve_with_incoming_shutdown(accept::incoming(listener, tls), token.clone().cancelled_owned());
        tokio::select! {
            served = server => served.map_err(ServeError::Transport),
            () = scoper => {
                // The publisher is gone: nothing new will come, but what there is stays served.
                token.cancelled().await;
                Ok(())
            }
        }
    }
}
