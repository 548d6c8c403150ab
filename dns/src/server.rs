//! UDP and TCP listeners.

use std::{io, net::SocketAddr, time::Duration};

use hickory_server::Server;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use crate::handler::Handler;

/// How long a TCP connection may be silent (RFC 7766 section 6.2.3 asks for seconds, not minutes).
const TCP_IDLE: Duration = Duration::from_secs(10);

/// Responses that wait for one TCP client at most.
const TCP_RESPONSES: usize = 16;

/// How often a free port is looked for that both protocols have.
const ATTEMPTS: usize = 16;

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken, not ours, or needs a privilege.
    #[error("listening on {address} ({protocol})")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// `udp` or `tcp`.
        protocol: &'static str,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// A listener failed while serving.
    #[error("a listener failed: {0}")]
    Serve(String),
}

/// Bound sockets, one pair of UDP and TCP for each address.
#[derive(Debug, Default)]
pub struct Listeners {
    pairs: Vec<(UdpSocket, TcpListener)>,
    addresses: Vec<SocketAddr>,
}

impl Listeners {
    /// Binds UDP and TCP on each of `addresses`; port 0 takes one that is free for both.
    ///
    /// Name each address of a host that has several: a socket bound to the wildcard answers from
    /// whatever source address the routing table prefers, and resolvers drop such answers.
    ///
    /// # Errors
    /// [`Error::Bind`] with the address that failed.
    pub async fn bind(addresses: &[SocketAddr]) -> Result<Self, Error> {
        let mut listeners = Self::default();
        for &address in addresses {
            let (udp, tcp) = bind_pair(address).await?;
            let bound = udp.local_addr().map_err(|cause| Error::Bind { address, protocol: "udp", cause })?;
            listeners.addresses.push(bound);
            listeners.pairs.push((udp, tcp));
        }
        Ok(listeners)
    }

    /// The addresses that are bound, in the order they were asked for.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `token` is cancelled, and then until open requests are answered.
    ///
    /// # Errors
    /// [`Error::Serve`] if a socket fails for good.
    pub async fn serve(self, handler: Handler, token: CancellationToken) -> Result<(), Error> {
        let mut server = Server::new(handler);
        for (udp, tcp) in self.pairs {
            server.register_socket(udp);
            server.register_listener(tcp, TCP_IDLE, TCP_RESPONSES);
        }
        tracing::info!(addresses = ?self.addresses, "Answering queries");
        let stopping = server.shutdown_token().clone();
        let outcome = {
            let done = server.block_until_done();
            tokio::pin!(done);
            tokio::select! {
                outcome = &mut done => outcome,
                () = token.cancelled() => {
                    stopping.cancel();
                    done.await
                }
            }
        };
        outcome.map_err(|error| Error::Serve(error.to_string()))
    }
}

async fn bind_pair(address: SocketAddr) -> Result<(UdpSocket, TcpListener), Error> {
    let mut attempt = 1;
    loop {
        let udp = UdpSocket::bind(address).await.map_err(|cause| Error::Bind {
            address,
            protocol: "udp",
            cause,
        })?;
        let bound = udp.local_addr().map_err(|cause| Error::Bind { address, protocol: "udp", cause })?;
        match TcpListener::bind(bound).await {
            Ok(tcp) => return Ok((udp, tcp)),
            // The free UDP port may be taken for TCP; then another one is tried.
            Err(_) if address.port() == 0 && attempt < ATTEMPTS => attempt += 1,
            Err(cause) => return Err(Error::Bind { address, protocol: "tcp", cause }),
        }
    }
}
