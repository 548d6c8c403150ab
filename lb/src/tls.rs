//! Certificates by SNI, replaced while connections are accepted.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use meridian_core::{
    id::ObjectKey,
    name::DnsName,
    route::HostBuffer,
    snapshot::{Certificate, GlobalIngress, Snapshot},
};
use rustls::{
    crypto::ring::sign::any_supported_type,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The chain is no PEM certificate.
    #[error("reading the certificate chain")]
    Chain(#[source] rustls_pki_types::pem::Error),
    /// The key is no PEM private key.
    #[error("reading the private key")]
    Key(#[source] rustls_pki_types::pem::Error),
    /// Key and chain do not go together, or their kind is not supported.
    #[error("using key and chain")]
    Pair(#[source] rustls::Error),
    /// The fallback certificate could not be made.
    #[error("making the fallback certificate")]
    Fallback(#[source] rcgen::Error),
}

/// Chooses the certificate of a connection. One map, swapped as a whole.
#[derive(Debug)]
pub struct Certificates {
    map: ArcSwap<Map>,
    fallback: Arc<CertifiedKey>,
}

#[derive(Debug, Default)]
struct Map {
    hosts: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// Keyed by what follows `*.`.
    wildcards: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// Of an Ingress without hosts.
    every_host: Option<Arc<CertifiedKey>>,
    /// By the hub's Secret, with what it was read from: unchanged ones are not parsed again.
    parsed: HashMap<ObjectKey, (Arc<Certificate>, Arc<CertifiedKey>)>,
}

impl Certificates {
    /// No certificate but a self-signed one, made now. Names that nobody has a certificate for are
    /// served with it, so that they get an HTTP answer instead of a broken handshake.
    ///
    /// # Errors
    /// [`Error::Fallback`], if the system has no randomness.
    pub fn new() -> Result<Self, Error> {
        let made = rcgen::generate_simple_self_signed(vec!["meridian.invalid".to_owned()])
            .map_err(Error::Fallback)?;
        let chain = vec![made.cert.der().clone()];
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let key = any_supported_type(&key).map_err(Error::Pair)?;
        Ok(Self { map: ArcSwap::default(), fallback: Arc::new(CertifiedKey::new(chain, key)) })
    }

    /// Takes over the certificates of `snapshot` and says which cannot be used: their hosts get the
    /// fallback, nothing else is touched. Older objects have a host before younger ones.
    pub fn update(&self, snapshot: &Snapshot) -> Vec<(ObjectKey, Error)> {
        let held = self.map.load();
        let mut map = Map::default();
        let mut bad = Vec::new();
        for (key, certificate) in &snapshot.certificates {
            let parsed = match held.parsed.get(key) {
                Some((source, parsed)) if source == certificate => Ok(Arc::clone(parsed)),
                _ => parse(certificate).map(Arc::new),
            };
            match parsed {
                Ok(parsed) => drop(map.parsed.insert(key.clone(), (Arc::clone(certificate), parsed))),
                Err(error) => bad.push((key.clone(), error)),
            }
        }
        let mut ingresses: Vec<&Arc<GlobalIngress>> = snapshot.ingresses.values().collect();
        ingresses.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.key.cmp(&b.key)));
        for ingress in ingresses {
            for tls in &ingress.tls {
                let Some((_, certified)) = map.parsed.get(&tls.certificate) else { continue };
                let certified = Arc::clone(certified);
                if tls.hosts.is_empty() {
                    map.add_every_host_of(ingress, &certified);
                }
                for host in &tls.hosts {
                    map.add(host, &certified);
                }
            }
        }
        self.map.store(Arc::new(map));
        bad
    }

    fn choose(&self, server_name: Option<&str>) -> Arc<CertifiedKey> {
        let map = self.map.load();
        let mut buffer = HostBuffer::default();
        let name = server_name.and_then(|name| buffer.normalise(name));
        let exact = name.and_then(|name| map.hosts.get(name));
        let wildcard = || map.wildcards.get(name?.split_once('.')?.1);
        let found = exact.or_else(wildcard).or(map.every_host.as_ref());
        Arc::clone(found.unwrap_or(&self.fallback))
    }
}

impl Map {
    fn add(&mut self, host: &DnsName, certified: &Arc<CertifiedKey>) {
        let (map, name) = match host.as_str().strip_prefix("*.") {
            Some(suffix) => (&mut self.wildcards, suffix),
            None => (&mut self.hosts, host.as_str()),
        };
        map.entry(name.into()).or_insert_with(|| Arc::clone(certified));
    }

    fn add_every_host_of(&mut self, ingress: &GlobalIngress, certified: &Arc<CertifiedKey>) {
        for rule in &ingress.rules {
            match &rule.host {
                Some(host) => self.add(host, certified),
                None => drop(self.every_host.get_or_insert_with(|| Arc::clone(certified))),
            }
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.choose(client_hello.server_name()))
    }
}

fn parse(certificate: &Certificate) -> Result<CertifiedKey, Error> {
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(certificate.chain_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(Error::Chain)?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes()).map_err(Error::Key)?;
    let certified = CertifiedKey::new(chain, any_supported_type(&key).map_err(Error::Pair)?);
    match certified.keys_match() {
        // A kind of key that cannot tell is taken at its word.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(error) => Err(Error::Pair(error)),
    }
}

#[cfg(test)]
mod tests {
    use meridian_core::{
        snapshot::{HostRule, TlsHosts},
        time::Timestamp,
    };

    use super::*;

    fn certificate(host: &str) -> Arc<Certificate> {
        let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        Arc::new(Certificate { chain_pem: chain.into(), key_pem: key.into() })
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("shop", name)
    }

    fn snapshot(hosts: &[(&str, &str)], certificates: &[(&str, &Arc<Certificate>)]) -> Snapshot {
        let tls = hosts.iter().map(|(host, certificate)| TlsHosts {
            hosts: if host.is_empty() { Vec::new() } else { vec![host.parse().unwrap()] },
            certificate: key(certificate),
        });
        let ingress = GlobalIngress {
            key: key("web"),
            created: Timestamp::default(),
            rules: vec![HostRule { host: None, paths: Vec::new() }],
            default_backend: None,
            tls: tls.collect(),
            policy: None,
        };
        Snapshot {
            ingresses: [(key("web"), Arc::new(ingress))].into(),
            certificates: certificates.iter().map(|(name, c)| (key(name), Arc::clone(c))).collect(),
            ..Snapshot::default()
        }
    }

    fn der(certificate: &Certificate) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(certificate.chain_pem.as_bytes()).unwrap()
    }

    #[test]
    fn exact_name_beats_wildcard_beats_fallback() {
        let (exact, wild) = (certificate("a.example.org"), certificate("*.example.org"));
        let certificates = Certificates::new().unwrap();
        let hosts = [("a.example.org", "exact"), ("*.example.org", "wild")];
        let bad = certificates.update(&snapshot(&hosts, &[("exact", &exact), ("wild", &wild)]));
        assert!(bad.is_empty());
        let chosen = |name| certificates.choose(Some(name)).cert[0].clone();
        assert_eq!(chosen("A.example.org"), der(&exact));
        assert_eq!(chosen("b.example.org"), der(&wild));
        assert_eq!(chosen("c.b.example.org"), certificates.fallback.cert[0]);
        assert_eq!(certificates.choose(None).cert, certificates.fallback.cert);
    }

    #[test]
    fn ingress_without_host_gives_its_certificate_to_every_name() {
        let any = certificate("any.example");
        let certificates = Certificates::new().unwrap();
        certificates.update(&snapshot(&[("", "any")], &[("any", &any)]));
        assert_eq!(certificates.choose(None).cert[0], der(&any));
    }

    #[test]
    fn broken_certificate_is_named_and_disturbs_no_other() {
        let good = certificate("a.example");
        let broken = Arc::new(Certificate { chain_pem: good.chain_pem.clone(), key_pem: "nonsense".into() });
        let foreign = certificate("b.example");
        let mixed =
            Arc::new(Certificate { chain_pem: good.chain_pem.clone(), key_pem: foreign.key_pem.clone() });
        let certificates = Certificates::new().unwrap();
        let hosts = [("a.example", "good"), ("b.example", "broken"), ("c.example", "mixed")];
        let all = [("good", &good), ("broken", &broken), ("mixed", &mixed)];
        let bad = certificates.update(&snapshot(&hosts, &all));
        assert_eq!(bad.iter().map(|(key, _)| &*key.name).collect::<Vec<_>>(), ["broken", "mixed"]);
        assert_eq!(certificates.choose(Some("a.example")).cert[0], der(&good));
        assert_eq!(certificates.choose(Some("b.example")).cert, certificates.fallback.cert);
    }
}
