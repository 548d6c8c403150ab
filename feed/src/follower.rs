//! The edge's side: follows the hub's feed, keeps the last good snapshot, reports load.
//!
//! ```text
//! last-good files --> snapshots (watch) <-- Commit <-- stream <-- hub
//!                          |                             ^
//!                          +--> writer --> files         +-- reports, once a second
//! ```
//! What is held never goes back to an older generation and never goes away: without a hub the edge
//! answers from what it has.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::Args;
use http::Uri;
use meridian_core::{
    id::SiteName,
    snapshot::{Generation, Role, Snapshot},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod connect;
mod last_good;
mod link;

pub use crate::load::ServiceLoad;
use crate::{
    load,
    tls::{self, TlsError, TlsFiles},
};

/// One resource at most; a service with 100,000 endpoints has about 6 MiB.
pub(crate) const MAX_RESOURCE_BYTES: usize = 30 << 20;
/// One frame at most: a resource and its envelope.
const MAX_FRAME_BYTES: usize = MAX_RESOURCE_BYTES + (2 << 20);

/// How an edge reaches the feed. Flatten it into the arguments of a binary.
#[derive(Args, Clone, Debug)]
pub struct FeedArgs {
    /// Feed of the controller: https://HOST:PORT, or http://127.0.0.1:PORT on the same machine
    #[arg(long, env = "MERIDIAN_FEED", value_name = "URL")]
    pub feed: String,

    /// PEM file: certificates that the feed's certificate must come from (https)
    #[arg(long, env = "MERIDIAN_FEED_CA", value_name = "FILE")]
    pub feed_ca: Option<PathBuf>,

    /// PEM file: certificate of this edge, with the URI meridian://edge/ROLE/SITE (https)
    #[arg(long, env = "MERIDIAN_FEED_CERT", value_name = "FILE")]
    pub feed_cert: Option<PathBuf>,

    /// PEM file: private key of that certificate (https)
    #[arg(long, env = "MERIDIAN_FEED_KEY", value_name = "FILE")]
    pub feed_key: Option<PathBuf>,

    /// Name of this edge's Site
    #[arg(long, env = "MERIDIAN_SITE", value_name = "NAME")]
    pub site: String,

    /// Directory for the last good snapshot, from which the edge starts when the controller is away
    #[arg(long, env = "MERIDIAN_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

/// Why a follower cannot be made from its arguments.
#[derive(Debug, thiserror::Error)]
pub enum FollowerError {
    /// No http(s) URL with a host.
    #[error("feed URL {url:?} must be http://HOST:PORT or https://HOST:PORT")]
    Url {
        /// What was given.
        url: String,
    },
    /// Snapshots carry private keys; without TLS they may not leave the machine.
    #[error("feed URL {url:?} needs https: only loopback may be plaintext")]
    PlaintextOffLoopback {
        /// What was given.
        url: String,
    },
    /// https without one of the three files.
    #[error("feed URL {url:?} needs --feed-ca, --feed-cert and --feed-key")]
    MissingFiles {
        /// What was given.
        url: String,
    },
    /// The TLS files cannot be used.
    #[error("feed TLS")]
    Tls(#[source] TlsError),
}

/// Where the feed is and how it is reached.
#[derive(Debug)]
struct Target {
    host: String,
    port: u16,
    /// None on plaintext.
    tls: Option<tls::Reloading<rustls::ClientConfig>>,
}

/// Follows the feed. Built before it runs, so that others can read what it holds.
#[derive(Debug)]
pub struct Follower {
    role: Role,
    site: SiteName,
    target: Target,
    state_dir: Option<PathBuf>,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    status: watch::Sender<FeedStatus>,
    loads: LoadSink,
}

/// How the edge stands with its hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedStatus {
    /// Whether the stream is up.
    pub connected: bool,
    /// Since when that is so.
    pub since: SystemTime,
    /// Generation that is held; none before the first snapshot.
    pub held: Option<Generation>,
    /// When the hub last vouched for it: the end of the last connection, or the time of the file.
    pub confirmed: Option<SystemTime>,
}

impl FeedStatus {
    /// How old what is held may be: zero while connected, none when nothing is held.
    #[must_use]
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        self.held.as_ref()?;
        if self.connected {
            return Some(Duration::ZERO);
        }
        let confirmed = self.confirmed?;
        Some(now.duration_since(confirmed).unwrap_or_default())
    }
}

/// Where an edge puts its load. Clones share it.
#[derive(Clone, Debug)]
pub struct LoadSink {
    latest: Arc<watch::Sender<Loads>>,
}

/// By service.
type Loads = std::collections::BTreeMap<meridian_core::id::ObjectKey, ServiceLoad>;

impl LoadSink {
    fn new() -> Self {
        Self { latest: Arc::new(watch::Sender::new(Loads::new())) }
    }

    /// Replaces the report that is sent next. Call it once a second with every service that had or has
    /// traffic; a call is sent once, so silence is silence and the hub then keeps the last demand.
    pub fn report(&self, services: Loads) {
        self.latest.send_replace(services);
    }

    fn encoded(receiver: &mut watch::Receiver<Loads>) -> crate::proto::LoadReport {
        load::encode(&receiver.borrow_and_update())
    }
}

impl Follower {
    /// A follower that holds the last good snapshot, if there is one that can be read.
    ///
    /// # Errors
    /// [`FollowerError`]; all of its kinds are wrong arguments. A broken last-good file is only logged.
    pub fn new(args: &FeedArgs, role: Role) -> Result<Self, FollowerError> {
        let target = Target::new(args)?;
        let last_good = args.state_dir.as_ref().and_then(|directory| last_good::read(directory, role));
        let (snapshot, confirmed) = last_good.unzip();
        if let Some(snapshot) = &snapshot {
            tracing::info!(generation = %snapshot.generation, "Starting from the last good snapshot");
        }
        let held = snapshot.as_ref().map(|snapshot: &Snapshot| snapshot.generation.clone());
        let status = FeedStatus { connected: false, since: SystemTime::now(), held, confirmed };
        Ok(Self {
            role,
            site: args.site.as_str().into(),
            target,
            state_dir: args.state_dir.clone(),
            snapshots: watch::Sender::new(snapshot.map(Arc::new)),
            status: watch::Sender::new(status),
            loads: LoadSink::new(),
        })
    }

    /// What the edge answers from; none until there is any. Never goes back, never goes away.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.snapshots.subscribe()
    }

    /// Where to report load.
    #[must_use]
    pub fn loads(&self) -> LoadSink {
        self.loads.clone()
    }

    /// How the edge stands with its hub.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<FeedStatus> {
        self.status.subscribe()
    }

    /// Follows until `token` is cancelled; reconnects for ever, 100 ms to 5 s apart with jitter.
    pub async fn run(self, token: CancellationToken) {
        let writer =
            last_good::writer(self.state_dir.clone(), self.role, self.snapshots.subscribe(), token.clone());
        let following = async {
            tokio::select! {
                () = token.cancelled() => {}
                () = link::follow(&self) => {}
            }
        };
        tokio::join!(following, writer);
    }
}

impl Target {
    fn new(args: &FeedArgs) -> Result<Self, FollowerError> {
        let invalid = || FollowerError::Url { url: args.feed.clone() };
        let uri: Uri = args.feed.parse().map_err(|_| invalid())?;
        let host = uri.host().ok_or_else(invalid)?.trim_start_matches('[').trim_end_matches(']').to_owned();
        match uri.scheme_str() {
            Some("http") if is_loopback(&host) => {
                Ok(Self { host, port: uri.port_u16().unwrap_or(80), tls: None })
            }
            Some("http") => Err(FollowerError::PlaintextOffLoopback { url: args.feed.clone() }),
            Some("https") => {
                let (Some(ca), Some(cert), Some(key)) = (&args.feed_ca, &args.feed_cert, &args.feed_key)
                else {
                    return Err(FollowerError::MissingFiles { url: args.feed.clone() });
                };
                let files = TlsFiles { cert: cert.clone(), key: key.clone(), ca: ca.clone() };
                let tls = Some(tls::client(files).map_err(FollowerError::Tls)?);
                Ok(Self { host, port: uri.port_u16().unwrap_or(443), tls })
            }
            _ => Err(invalid()),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(feed: &str) -> FeedArgs {
        FeedArgs {
            feed: feed.into(),
            feed_ca: None,
            feed_cert: None,
            feed_key: None,
            site: "eu".into(),
            state_dir: None,
        }
    }

    #[test]
    fn plaintext_is_refused_off_loopback() {
        for feed in ["http://10.0.0.1:9443", "http://hub.example.org"] {
            let refused = Follower::new(&args(feed), Role::Dns);
            assert!(matches!(refused, Err(FollowerError::PlaintextOffLoopback { .. })), "{feed}");
        }
        for feed in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"] {
            assert!(Follower::new(&args(feed), Role::Dns).is_ok(), "{feed}");
        }
    }

    #[test]
    fn wrong_url_and_missing_files_are_named() {
        let refused = Follower::new(&args("ftp://127.0.0.1"), Role::Dns);
        assert!(matches!(refused, Err(FollowerError::Url { .. })));
        let refused = Follower::new(&args("https://127.0.0.1:1"), Role::Dns);
        assert!(matches!(refused, Err(FollowerError::MissingFiles { .. })));
    }

    #[test]
    fn age_counts_from_the_last_word_of_the_hub() {
        let then = SystemTime::UNIX_EPOCH;
        let now = then + Duration::from_secs(60);
        let mut status = FeedStatus {
            connected: false,
            since: now,
            held: Some(Generation::default()),
            confirmed: Some(then),
        };
        assert_eq!(status.age(now), Some(Duration::from_secs(60)));
        status.connected = true;
        assert_eq!(status.age(now), Some(Duration::ZERO));
        status.held = None;
        assert_eq!(status.age(now), None);
    }
}
