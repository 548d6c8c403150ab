//! The admin port: is it alive, is it ready, what does it measure.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use clap::Args;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::{CONTENT_TYPE, Metrics};

/// Where the admin port listens. Flatten it into the arguments of a binary.
#[derive(Args, Clone, Debug, Default)]
pub struct AdminArgs {
    /// Address of the admin port (/healthz, /readyz, /metrics and more); port 0 takes a free one
    #[arg(long, env = "MERIDIAN_ADMIN_LISTEN", value_name = "IP:PORT")]
    pub admin_listen: Option<SocketAddr>,
}

impl AdminArgs {
    /// Binds the port: the one that was asked for, else `default`.
    ///
    /// # Errors
    /// The system's, naming the address.
    pub async fn bind(&self, default: SocketAddr) -> io::Result<TcpListener> {
        let address = self.admin_listen.unwrap_or(default);
        TcpListener::bind(address)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("admin port {address}: {error}")))
    }
}

/// Whether the process may be sent work. Starts unready; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Not ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says how it stands; a change is logged.
    pub fn set_ready(&self, ready: bool) {
        if self.0.swap(ready, Ordering::Relaxed) != ready {
            tracing::info!(ready, "Readiness changed");
        }
    }

    /// How it stands.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The admin port's pages.
#[derive(Debug)]
pub struct Admin {
    router: Router,
}

impl Admin {
    /// `/healthz` (200 as long as the process answers), `/readyz` (200 or 503) and `/metrics`.
    #[must_use]
    pub fn new(metrics: Metrics, readiness: Readiness) -> Self {
        let router = Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(ready).with_state(readiness))
            .route("/metrics", get(encoded).with_state(metrics));
        Self { router }
    }

    /// Adds pages of the binary.
    ///
    /// # Panics
    /// If a path is taken already.
    #[must_use]
    pub fn routes(self, router: Router) -> Self {
        Self { router: self.router.merge(router) }
    }

    /// Serves until `token` is cancelled.
    ///
    /// # Errors
    /// If the listener fails.
    pub async fn serve(self, listener: TcpListener, token: CancellationToken) -> io::Result<()> {
        tracing::info!(address = %listener.local_addr()?, "Admin port is open");
        axum::serve(listener, self.router).with_graceful_shutdown(token.cancelled_owned()).await
    }
}

async fn ready(State(readiness): State<Readiness>) -> impl IntoResponse {
    if readiness.is_ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

async fn encoded(State(metrics): State<Metrics>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.encode())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readiness_and_own_pages_are_answered_until_shutdown() {
        let (readiness, token) = (Readiness::new(), CancellationToken::new());
        let listener = AdminArgs::default().bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let own = Router::new().route("/own", get(async || "own page"));
        let admin = Admin::new(Metrics::new(), readiness.clone()).routes(own);
        let server = tokio::spawn(admin.serve(listener, token.clone()));

        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        readiness.set_ready(true);
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/metrics").await.contains("# EOF"));
        assert!(fetch(address, "/own").await.ends_with("own page"));

        token.cancel();
        server.await.unwrap().unwrap();
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
    }
}
