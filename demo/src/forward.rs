//! From an ordinary terminal into the private namespace, over Unix sockets.
//!
//! A Unix socket belongs to the file system, not to a network namespace, so both sides can meet there without any
//! link between the two networks. DNS over UDP is carried as DNS over TCP (RFC 1035 section 4.2.2), which every name
//! server answers alike.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Queries that may be under way at once; more are dropped, as a busy server would.
const QUERIES: usize = 64;
/// How long one query may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// One forwarded listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Door {
    /// Name for people and for the socket's file.
    pub(crate) name: String,
    /// Where it leads, inside.
    pub(crate) target: SocketAddr,
    /// True when UDP is answered too.
    pub(crate) is_dns: bool,
}

impl Door {
    fn socket(&self, directory: &Path) -> PathBuf {
        directory.join(format!("{}.sock", self.name))
    }
}

/// The inner half: accepts on the door's socket and connects to its target, until dropped.
pub(crate) async fn inside(door: Door, directory: PathBuf) -> anyhow::Result<()> {
    let listener = UnixListener::bind(door.socket(&directory))?;
    loop {
        let (mut outer, _) = listener.accept().await?;
        let target = door.target;
        tokio::spawn(async move {
            // A broken connection is seen by whoever uses it; nobody reads an error of ours.
            if let Ok(mut inner) = TcpStream::connect(target).await {
                copy_bidirectional(&mut outer, &mut inner).await.ok();
            }
        });
    }
}

/// The outer half: listens on loopback, at `preferred` if that is free. Returns the port; serves in the background.
pub(crate) async fn outside(door: &Door, directory: &Path, preferred: u16) -> anyhow::Result<u16> {
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, preferred)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
    };
    let port = listener.local_addr()?.port();
    let socket = door.socket(directory);
    if door.is_dns {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).await?;
        tokio::spawn(queries(Arc::new(udp), socket.clone()));
    }
    tokio::spawn(async move {
        while let Ok((mut outer, _)) = listener.accept().await {
            let socket = socket.clone();
            tokio::spawn(async move {
                if let Ok(mut inner) = UnixStream::connect(socket).await {
                    copy_bidirectional(&mut outer, &mut inner).await.ok();
                }
            });
        }
    });
    Ok(port)
}

/// Carries datagrams, each over a connection of its own.
async fn queries(udp: Arc<UdpSocket>, socket: PathBuf) {
    let permits = Arc::new(Semaphore::new(QUERIES));
    let mut buffer = vec![0; 4096];
    while let Ok((length, client)) = udp.recv_from(&mut buffer).await {
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
        let (query, udp, socket) = (buffer[..length].to_vec(), Arc::clone(&udp), socket.clone());
        tokio::spawn(async move {
            let answer = tokio::time::timeout(PATIENCE, ask(&socket, &query)).await;
            if let Ok(Ok(answer)) = answer {
                udp.send_to(&answer, client).await.ok();
            }
            drop(permit);
        });
    }
}

async fn ask(socket: &Path, query: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(&u16::try_from(query.len())?.to_be_bytes()).await?;
    stream.write_all(query).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name server that answers each query with its bytes reversed.
    async fn reversing_server() -> anyhow::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let Ok(length) = stream.read_u16().await else { continue };
                let mut query = vec![0; usize::from(length)];
                stream.read_exact(&mut query).await.ok();
                query.reverse();
                stream.write_u16(length).await.ok();
                stream.write_all(&query).await.ok();
            }
        });
        Ok(address)
    }

    #[tokio::test]
    async fn a_datagram_comes_back_from_the_other_side() -> anyhow::Result<()> {
        let directory = tempfile::tempdir()?;
        let door = Door { name: "dns".into(), target: reversing_server().await?, is_dns: true };
        let socket = door.socket(directory.path());
        tokio::spawn(inside(door.clone(), directory.path().to_owned()));
        while !socket.exists() {
            tokio::task::yield_now().await;
        }
        let port = outside(&door, directory.path(), 0).await?;
        let client = UdpSocket::bind("127.0.0.1:0").await?;
        client.send_to(b"abc", ("127.0.0.1", port)).await?;
        let mut answer = [0; 16];
        let (length, _) = tokio::time::timeout(PATIENCE, client.recv_from(&mut answer)).await??;
        assert_eq!(&answer[..length], b"cba");
        Ok(())
    }
}
