//! A channel to the hub, each time with the TLS files as they are now.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;
use tonic::{
    codegen::{Future, Service, http::Uri},
    transport::{Channel, Endpoint},
};

use super::Target;
use crate::server::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, WINDOW_BYTES};

/// TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Connects once. The channel is not used again after its stream ends.
pub(super) async fn connect(target: &Target) -> Result<Channel, tonic::transport::Error> {
    let dialer = Dialer {
        host: target.host.as_str().into(),
        port: target.port,
        tls: target.tls.as_ref().map(crate::tls::Reloading::current),
    };
    // The scheme is http on purpose: TLS is the dialer's, and tonic would ask for its own with https.
    Endpoint::from_static("http://feed.meridian.invalid")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_connection_window_size(WINDOW_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
        .connect_with_connector(dialer)
        .await
}

type Io = TokioIo<Either<TcpStream, TlsStream<TcpStream>>>;

/// Opens connections for tonic.
#[derive(Clone)]
struct Dialer {
    host: Arc<str>,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
}

impl Service<Uri> for Dialer {
    type Response = Io;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Io>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        self.clone().dial().boxed()
    }
}

impl Dialer {
    async fn dial(self) -> io::Result<Io> {
        let stream = TcpStream::connect((&*self.host, self.port)).await?;
        stream.set_nodelay(true)?;
        let Some(config) = self.tls else { return Ok(TokioIo::new(Either::Left(stream))) };
        let name = ServerName::try_from(self.host.to_string()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(TokioIo::new(Either::Right(stream)))
    }
}
