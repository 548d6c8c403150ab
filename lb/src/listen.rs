//! Listening sockets, and pingora's service on a runtime of our own.
//!
//! Not `Server::run_forever`: that owns the process, sleeps through its grace period and exits by itself.
//! The service is driven as a task; sockets are bound here, where a failure is an error and port 0 works.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::IntoRawFd,
    sync::Arc,
    time::Duration,
};

use pingora::{
    apps::HttpServerOptions,
    listeners::{ListenerConfig, tls::TlsSettings},
    protocols::l4::stream::L4BufferSettings,
    proxy::{HttpProxy, ProxyServiceBuilder},
    server::{Fds, ListenFds, configuration::ServerConf},
    services::{Service as _, listening::Service},
};
use tokio::sync::watch;

use crate::{proxy::Proxy, tls::Certificates};

/// Read buffer of a connection. pingora's 64 KiB make an idle connection cost 100 KB; this halves it.
const READ_BUFFER: usize = 8 * 1024;
/// Write buffer of a connection: one segment, which is pingora's own choice.
const WRITE_BUFFER: usize = 1460;
/// Idle HTTP/2 connections are closed, or their buffers pile up.
const H2_IDLE: Duration = Duration::from_secs(60);

/// Why listening failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken, not ours, or not allowed.
    #[error("listening on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// pingora's TLS settings could not be made.
    #[error("preparing TLS: {0}")]
    Tls(String),
}

/// Bound sockets that do not accept yet.
#[derive(Debug)]
pub struct Listeners {
    http: Vec<(SocketAddr, TcpListener)>,
    https: Vec<(SocketAddr, TcpListener)>,
}

impl Listeners {
    /// Binds all addresses. Port 0 takes a free one.
    ///
    /// # Errors
    /// [`Error::Bind`] with the first address that fails.
    pub fn bind(http: &[SocketAddr], https: &[SocketAddr]) -> Result<Self, Error> {
        let all =
            |addresses: &[SocketAddr]| addresses.iter().copied().map(bind).collect::<Result<Vec<_>, _>>();
        Ok(Self { http: all(http)?, https: all(https)? })
    }

    /// Addresses for plain HTTP, in the order given.
    pub fn http(&self) -> impl Iterator<Item = SocketAddr> {
        self.http.iter().map(|(address, _)| *address)
    }

    /// Addresses for HTTPS, in the order given.
    pub fn https(&self) -> impl Iterator<Item = SocketAddr> {
        self.https.iter().map(|(address, _)| *address)
    }

    /// The service that accepts on these sockets.
    ///
    /// # Errors
    /// [`Error::Tls`].
    pub fn service(self, proxy: Proxy, certificates: &Arc<Certificates>) -> Result<Edge, Error> {
        let conf = ServerConf { upstream_keepalive_pool_size: 1024, ..ServerConf::default() };
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(H2_IDLE);
        let builder = ProxyServiceBuilder::new(&Arc::new(conf), proxy).name("meridian-lb");
        let mut service = builder.server_options(options).build();
        let mut fds = Fds::new();
        for (address, listener) in self.http {
            service.add_listener(config(address));
            fds.add(address.to_string(), listener.into_raw_fd());
        }
        for (address, listener) in self.https {
            let mut tls = TlsSettings::intermediate("", "").map_err(|error| Error::Tls(error.to_string()))?;
            let resolver: Arc<Certificates> = Arc::clone(certificates);
            tls.set_cert_resolver(resolver);
            tls.enable_h2();
            service.add_listener(config(address).tls(tls));
            fds.add(address.to_string(), listener.into_raw_fd());
        }
        Ok(Edge { service, fds: ListenFds::new(fds.into()) })
    }
}

/// The accepting proxy.
pub struct Edge {
    service: Service<HttpProxy<Proxy>>,
    fds: ListenFds,
}

impl Edge {
    /// Accepts until `shutdown` becomes true, then closes listeners and idle connections and returns.
    /// Requests in flight go on; wait for them with [`crate::drain::Drain`]. Connections run on the
    /// runtime that polls this.
    pub async fn serve(mut self, shutdown: watch::Receiver<bool>) {
        self.service.start_service(Some(self.fds), shutdown, 1).await;
    }
}

fn bind(address: SocketAddr) -> Result<(SocketAddr, TcpListener), Error> {
    let bound = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok((listener.local_addr()?, listener))
    };
    bound().map_err(|source| Error::Bind { address, source })
}

fn config(address: SocketAddr) -> ListenerConfig {
    ListenerConfig::tcp(address.to_string()).l4_buffer(L4BufferSettings::new(READ_BUFFER, WRITE_BUFFER))
}
