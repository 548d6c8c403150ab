//! A TCP proxy that can go silent, to put between the controller and an API server.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// Passes bytes on, or, while stalled, holds them back without a sign.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    stalled: watch::Sender<bool>,
    _accepting: AbortOnDropHandle<()>,
}

impl TcpProxy {
    /// Listens on `listen` and connects each caller to `target`.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub async fn start(listen: SocketAddr, target: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (stalled, gate) = watch::channel(false);
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, target, gate)));
        Ok(Self { address, stalled, _accepting: accepting })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing passes, in either direction: new callers are not served (the kernel completes their
    /// handshake, nothing follows), open flows stall.
    pub fn stall(&self) {
        self.stalled.send_replace(true);
    }

    /// Undoes [`TcpProxy::stall`]: what was held back passes.
    pub fn heal(&self) {
        self.stalled.send_replace(false);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, mut gate: watch::Receiver<bool>) {
    // The tracker's tasks end with their gate, when the proxy is dropped.
    let flows = TaskTracker::new();
    loop {
        if gate.wait_for(|stalled| !stalled).await.is_err() {
            return;
        }
        let Ok((caller, _)) = listener.accept().await else { continue };
        let gate = gate.clone();
        flows.spawn(async move {
            let mut waiting = gate.clone();
            if waiting.wait_for(|stalled| !stalled).await.is_err() {
                return;
            }
            // A refused target is passed on as a closed connection.
            if let Ok(origin) = TcpStream::connect(target).await {
                pass(caller, origin, gate).await;
            }
        });
    }
}

async fn pass(caller: TcpStream, origin: TcpStream, gate: watch::Receiver<bool>) {
    caller.set_nodelay(true).ok();
    origin.set_nodelay(true).ok();
    let mut closed = gate.clone();
    let (caller_in, caller_out) = caller.into_split();
    let (origin_in, origin_out) = origin.into_split();
    tokio::select! {
        _ = async { tokio::join!(copy(caller_in, origin_out, gate.clone()), copy(origin_in, caller_out, gate)) } => {}
        // `changed` fails only when the proxy itself is gone.
        () = async { while closed.changed().await.is_ok() {} } => {}
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut gate: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await;
        // Asked after the read: bytes that arrive while stalled are held, and so is the end of the stream.
        if gate.wait_for(|stalled| !stalled).await.is_err() {
            return;
        }
        match read {
            Ok(n) if n > 0 => {
                if to.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
            _ => {
                to.shutdown().await.ok();
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn stalled_proxy_holds_bytes_back_and_passes_them_when_healed() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = TcpListener::bind(any).await.unwrap();
        let proxy = TcpProxy::start(any, server.local_addr().unwrap()).await.unwrap();
        let mut caller = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut origin, _) = server.accept().await.unwrap();

        proxy.stall();
        caller.write_all(b"x").await.unwrap();
        let mut byte = [0];
        let early = tokio::time::timeout(Duration::from_millis(100), origin.read(&mut byte)).await;
        assert!(early.is_err(), "a byte passed a stalled proxy");

        proxy.heal();
        assert_eq!(origin.read(&mut byte).await.unwrap(), 1);
        assert_eq!(&byte, b"x");
    }
}
