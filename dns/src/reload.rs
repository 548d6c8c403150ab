//! Keeps the GeoIP database as new as its file.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio_util::sync::CancellationToken;

use crate::{
    handler::State,
    locate::{Database, Error},
};

/// How often the file is looked at. Polled, because a watch on a file is lost when it is replaced by
/// another, which is how databases are updated and how volumes are mounted.
const POLL: Duration = Duration::from_secs(2);

/// What tells one version of a file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    modified: Option<SystemTime>,
    length: u64,
}

/// Loads the database at `path` into a [`State`] whenever the file changes.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    state: Arc<State>,
    /// The version that was tried last.
    tried: Option<Version>,
    /// Whether the last look found no file.
    is_missing: bool,
}

impl Reloader {
    /// Nothing is loaded yet; see [`Reloader::poll`].
    #[must_use]
    pub const fn new(path: PathBuf, state: Arc<State>) -> Self {
        Self { path, state, tried: None, is_missing: false }
    }

    /// Loads the file if it is not the version that was tried last. A file that cannot be used is
    /// logged once per version and counted; what was loaded before stays in use, and without anything
    /// loaded clients are of unknown place, which is answered too. True when a database was loaded.
    pub async fn poll(&mut self) -> bool {
        let version = match version_of(&self.path) {
            Ok(version) => version,
            Err(cause) => {
                self.tried = None;
                if !std::mem::replace(&mut self.is_missing, true) {
                    self.state.counts.geoip_load("missing");
                    tracing::error!(path = %self.path.display(), error = %cause, "GeoIP database cannot be read");
                }
                return false;
            }
        };
        self.is_missing = false;
        if self.tried == Some(version) {
            return false;
        }
        self.tried = Some(version);
        let path = self.path.clone();
        match tokio::task::spawn_blocking(move || Database::open(&path)).await {
            Ok(Ok(database)) => {
                self.state.database.store(Some(Arc::new(database)));
                self.state.counts.geoip_load("loaded");
                tracing::info!(path = %self.path.display(), "GeoIP database loaded");
                true
            }
            Ok(Err(error)) => {
                self.state.counts.geoip_load(error.reason());
                log(&error, self.state.database.load().is_some());
                false
            }
            Err(error) => {
                self.state.counts.geoip_load("panic");
                tracing::error!(%error, "Loading the GeoIP database ended abnormally");
                false
            }
        }
    }

    /// Polls until `token` is cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        while token.run_until_cancelled(tokio::time::sleep(POLL)).await.is_some() {
            self.poll().await;
        }
    }
}

fn log(error: &Error, keeps_older: bool) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::error!(%error, cause, keeps_older, "GeoIP database cannot be used");
}

fn version_of(path: &Path) -> io::Result<Version> {
    let facts = std::fs::metadata(path)?;
    Ok(Version { modified: facts.modified().ok(), length: facts.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{Fixture, Schema};

    #[tokio::test]
    async fn broken_file_keeps_the_old_database_and_a_good_one_replaces_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let state = Arc::new(State::default());
        let mut reloader = Reloader::new(file.path().to_owned(), Arc::clone(&state));

        std::fs::write(file.path(), b"broken").unwrap();
        assert!(!reloader.poll().await);
        assert!(state.database.load().is_none());

        std::fs::write(file.path(), Fixture::standard().encode(Schema::Nested).unwrap()).unwrap();
        assert!(reloader.poll().await);
        let first = state.database.load_full().unwrap();

        std::fs::write(file.path(), b"broken again").unwrap();
        assert!(!reloader.poll().await);
        assert!(Arc::ptr_eq(&first, &state.database.load_full().unwrap()));

        std::fs::write(file.path(), Fixture::standard().encode(Schema::Flat).unwrap()).unwrap();
        assert!(reloader.poll().await);
        assert!(!Arc::ptr_eq(&first, &state.database.load_full().unwrap()));
        assert!(!reloader.poll().await, "nothing changed");
    }

    #[tokio::test]
    async fn missing_file_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("city.mmdb");
        let mut reloader = Reloader::new(path.clone(), Arc::new(State::default()));
        assert!(!reloader.poll().await);
        std::fs::write(&path, Fixture::standard().encode(Schema::Nested).unwrap()).unwrap();
        assert!(reloader.poll().await);
    }
}
