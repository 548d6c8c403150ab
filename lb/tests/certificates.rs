//! TLS as its clients see it: SNI, hot swap, fallback.

// Helpers outside of test functions may end a test too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use meridian_core::{
    id::ObjectKey,
    snapshot::{Certificate, Snapshot, TlsHosts},
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

#[path = "../src/fixtures.rs"]
#[allow(dead_code)]
mod fixtures;
#[allow(dead_code)]
mod rig;

use fixtures::{catch_all, service, shard, world};
use rig::{Backend, Manner, Rig, exchange};

const SITE: &str = "europe-west1";

fn certificate(host: &str) -> Arc<Certificate> {
    let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    Arc::new(Certificate { chain_pem: chain.into(), key_pem: key.into() })
}

fn der(certificate: &Certificate) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(certificate.chain_pem.as_bytes()).unwrap()
}

/// A fleet whose Ingress has `certificates` by host, and serves only those hosts.
fn fleet(backend: &Backend, certificates: &[(&str, &Arc<Certificate>)]) -> Snapshot {
    let mut ingress = catch_all("web");
    let paths = ingress.rules.remove(0).paths;
    let mut held = Vec::new();
    for (host, certificate) in certificates {
        let key = ObjectKey::new("shop", *host);
        let name: meridian_core::name::DnsName = host.parse().unwrap();
        ingress.tls.push(TlsHosts { hosts: vec![name.clone()], certificate: key.clone() });
        ingress.rules.push(meridian_core::snapshot::HostRule { host: Some(name), paths: paths.clone() });
        held.push((key, Arc::clone(certificate)));
    }
    let web = service("web", [shard(SITE, &[backend.address])]);
    Snapshot { certificates: held.into_iter().collect(), ..world([web], ingress) }
}

async fn connect(rig: &Rig, name: &str, trusted: &[&Certificate]) -> std::io::Result<TlsStream<TcpStream>> {
    connect_for(rig, name, trusted, &[]).await
}

async fn connect_for(
    rig: &Rig,
    name: &str,
    trusted: &[&Certificate],
    protocols: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(der(certificate)).unwrap();
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let stream = TcpStream::connect(rig.lb.https[0]).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn served(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test]
async fn each_name_gets_its_certificate_and_requests_say_https() {
    let backend = Backend::start("eu", Manner::Proper).await;
    let (a, b) = (certificate("a.example"), certificate("b.example"));
    let rig = Rig::start(SITE, fleet(&backend, &[("a.example", &a), ("b.example", &b)])).await;
    for (name, expected) in [("a.example", &a), ("b.example", &b)] {
        let stream = connect(&rig, name, &[&a, &b]).await.unwrap();
        assert_eq!(served(&stream), der(expected));
        let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        let answer = exchange(stream, &request).await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.body.to_ascii_lowercase().contains("x-forwarded-proto: https"), "{}", answer.body);
    }
}

#[tokio::test]
async fn renewed_certificate_is_served_to_the_next_connection_and_keeps_the_ones_that_are_open() {
    let backend = Backend::start("eu", Manner::Proper).await;
    let (old, new) = (certificate("a.example"), certificate("a.example"));
    let mut rig = Rig::start(SITE, fleet(&backend, &[("a.example", &old)])).await;
    let open = connect(&rig, "a.example", &[&old]).await.unwrap();
    rig.publish(fleet(&backend, &[("a.example", &new)])).await;
    assert_eq!(served(&connect(&rig, "a.example", &[&new]).await.unwrap()), der(&new));
    let request = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    assert_eq!(exchange(open, request).await.unwrap().status, 200);
}

#[tokio::test]
async fn unknown_name_gets_a_handshake_that_only_trust_can_refuse() {
    let backend = Backend::start("eu", Manner::Proper).await;
    let a = certificate("a.example");
    let rig = Rig::start(SITE, fleet(&backend, &[("a.example", &a)])).await;
    let error = connect(&rig, "unknown.example", &[&a]).await.unwrap_err();
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
}

#[tokio::test]
async fn http2_clients_are_served_over_http1_backends() {
    let backend = Backend::start("eu", Manner::Proper).await;
    let a = certificate("a.example");
    let rig = Rig::start(SITE, fleet(&backend, &[("a.example", &a)])).await;
    let stream = connect_for(&rig, "a.example", &[&a], &[b"h2"]).await.unwrap();
    let (mut sender, connection) =
        http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    for (path, status) in [("/x", 200), ("/y", 200)] {
        let request = Request::get(format!("https://a.example{path}")).body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), status);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8_lossy(&body).to_ascii_lowercase();
        for line in [&format!("get {path} http/1.1"), "host: a.example", "via: 2.0 meridian-europe-west1"] {
            assert!(body.contains(line), "{line} is missing in {body}");
        }
    }
    drop(sender);
    connection.await.unwrap().unwrap();
}
