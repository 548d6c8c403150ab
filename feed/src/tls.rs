//! TLS from files, with hot reload: a new connection uses the files as they are now.
//!
//! Files are looked at (not read) for each connection and read again when they changed. When the new
//! ones cannot be used, the last good ones stay in use and the failure is logged once.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

/// Three PEM files: who one is, the key to it, and whose word counts for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, leaf first.
    pub cert: PathBuf,
    /// Private key of the leaf.
    pub key: PathBuf,
    /// Certificates that the other side's certificate must come from.
    pub ca: PathBuf,
}

/// Why TLS files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or has no PEM section of the right kind.
    #[error("reading {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Certificate, key and CA do not make a configuration.
    #[error("using {cert} with its key and CA")]
    Config {
        /// The certificate.
        cert: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A configuration of rustls that follows its files.
#[derive(Debug)]
pub(crate) struct Reloading<C> {
    files: TlsFiles,
    build: fn(&TlsFiles) -> Result<C, TlsError>,
    held: Mutex<Held<C>>,
}

#[derive(Debug)]
struct Held<C> {
    config: Arc<C>,
    seen: Stamp,
}

/// What tells that a file changed, without reading it: modification time and size of each.
type Stamp = [Option<(SystemTime, u64)>; 3];

impl<C> Reloading<C> {
    fn new(files: TlsFiles, build: fn(&TlsFiles) -> Result<C, TlsError>) -> Result<Self, TlsError> {
        let seen = stamp(&files);
        let config = Arc::new(build(&files)?);
        Ok(Self { files, build, held: Mutex::new(Held { config, seen }) })
    }

    /// The configuration for a new connection.
    pub(crate) fn current(&self) -> Arc<C> {
        let now = stamp(&self.files);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.seen != now {
            // Remembered also when it fails, so that a broken file is reported once and not per connection.
            held.seen = now;
            match (self.build)(&self.files) {
                Ok(config) => {
                    held.config = Arc::new(config);
                    tracing::info!(cert = %self.files.cert.display(), "TLS files reloaded");
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, cause, "TLS files changed but cannot be used, keeping the old ones");
                }
            }
        }
        held.config.clone()
    }
}

/// The hub's side: every client must show a certificate from the CA.
pub(crate) fn server(files: TlsFiles) -> Result<Reloading<ServerConfig>, TlsError> {
    Reloading::new(files, |files| {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(files)?), provider())
            .build()
            .map_err(|error| config_error(files, error))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| config_error(files, error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain(&files.cert)?, key(&files.key)?)
            .map_err(|error| config_error(files, error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    })
}

/// The edge's side.
pub(crate) fn client(files: TlsFiles) -> Result<Reloading<ClientConfig>, TlsError> {
    Reloading::new(files, |files| {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| config_error(files, error))?
            .with_root_certificates(roots(files)?)
            .with_client_auth_cert(chain(&files.cert)?, key(&files.key)?)
            .map_err(|error| config_error(files, error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    })
}

// Named here rather than taken from the process, so that the feed needs no global set up.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(files: &TlsFiles) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in chain(&files.ca)? {
        store.add(certificate).map_err(|error| file_error(&files.ca, error))?;
    }
    Ok(store)
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| file_error(path, error))?;
    if certificates.is_empty() {
        return Err(file_error(path, io::Error::new(io::ErrorKind::InvalidData, "no PEM certificate in it")));
    }
    Ok(certificates)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| file_error(path, error))
}

fn stamp(files: &TlsFiles) -> Stamp {
    [&files.cert, &files.key, &files.ca].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn file_error(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TlsError {
    TlsError::File { path: path.to_owned(), source: source.into() }
}

fn config_error(files: &TlsFiles, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TlsError {
    TlsError::Config { cert: files.cert.clone(), source: source.into() }
}
