//! The last good snapshot on disk, so that an edge starts without its hub.
//!
//! Two files, both for the owner's eyes only: `snapshot.json`, and `secrets.json` with the certificates,
//! which change seldom. Each is written beside its place, synced and renamed, so a reader finds the old
//! or the new and never a half. What cannot be read is logged and left where it is: the edge waits for
//! its hub, and somebody may want to look.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write,
    path::Path,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use meridian_core::{
    id::ObjectKey,
    snapshot::{Certificate, Role, Snapshot},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{FORMAT, reads_format};

const SNAPSHOT_FILE: &str = "snapshot.json";
const SECRETS_FILE: &str = "secrets.json";
/// Between two writes: a burst of publications is one file.
const WRITE_PAUSE: Duration = Duration::from_secs(1);

type Certificates = BTreeMap<ObjectKey, Arc<Certificate>>;

#[derive(Serialize, Deserialize)]
struct SnapshotFile {
    format: u32,
    role: Role,
    snapshot: Snapshot,
}

#[derive(Serialize, Deserialize)]
struct SecretsFile {
    format: u32,
    certificates: Certificates,
}

/// Only the part by which it is decided whether the rest can be read.
#[derive(Deserialize)]
struct Header {
    format: u32,
}

#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("reading it")]
    Read(#[source] io::Error),
    #[error("it is not what this release writes")]
    Decode(#[source] serde_json::Error),
    #[error("it is of format {0}, which is not understood here")]
    Format(u32),
    #[error("it is of role {0}")]
    Role(Role),
}

/// The last good snapshot for `role` and when it was written; none if there is none that can be read.
pub(super) fn read(directory: &Path, role: Role) -> Option<(Snapshot, SystemTime)> {
    let path = directory.join(SNAPSHOT_FILE);
    let file: SnapshotFile = match decode(&path) {
        Ok(None) => return None,
        Ok(Some(file)) => file,
        Err(error) => return give_up(&path, &error),
    };
    if file.role != role {
        return give_up(&path, &Unreadable::Role(file.role));
    }
    let written = fs::metadata(&path).and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::now());
    let secrets = directory.join(SECRETS_FILE);
    let certificates = match decode::<SecretsFile>(&secrets) {
        Ok(file) => file.map(|file| file.certificates).unwrap_or_default(),
        Err(error) => give_up(&secrets, &error).unwrap_or_default(),
    };
    Some((Snapshot { certificates, ..file.snapshot }, written))
}

/// Writes what `snapshots` brings until `token` is cancelled, and then once more if something is unwritten.
pub(super) async fn writer(
    directory: Option<PathBuf>,
    role: Role,
    mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    token: CancellationToken,
) {
    let Some(directory) = directory else { return };
    let mut secrets: Option<Certificates> = None;
    let mut is_failing = false;
    loop {
        tokio::select! {
            biased;
            changed = snapshots.changed() => if changed.is_err() { return },
            () = token.cancelled() => return,
        }
        let Some(snapshot) = snapshots.borrow_and_update().clone() else { continue };
        let new_secrets =
            (secrets.as_ref() != Some(&snapshot.certificates)).then(|| snapshot.certificates.clone());
        let target = directory.clone();
        let certificates = new_secrets.clone();
        let written =
            tokio::task::spawn_blocking(move || write(&target, role, &snapshot, certificates)).await;
        match written.map_err(io::Error::other).and_then(|written| written) {
            Ok(()) => {
                secrets = new_secrets.or(secrets);
                is_failing = false;
            }
            Err(error) if !is_failing => {
                is_failing = true;
                let directory = directory.display();
                tracing::warn!(%directory, %error, "Last good snapshot cannot be written");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(WRITE_PAUSE) => {}
            () = token.cancelled() => {}
        }
    }
}

fn write(directory: &Path, role: Role, snapshot: &Snapshot, secrets: Option<Certificates>) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    if let Some(certificates) = secrets {
        replace(directory, SECRETS_FILE, &SecretsFile { format: FORMAT, certificates })?;
    }
    let snapshot = Snapshot { certificates: Certificates::new(), ..snapshot.clone() };
    replace(directory, SNAPSHOT_FILE, &SnapshotFile { format: FORMAT, role, snapshot })
}

fn replace(directory: &Path, name: &str, content: &impl Serialize) -> io::Result<()> {
    // Created with mode 0600 and an unguessable name, and removed if anything below fails.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    let mut buffer = io::BufWriter::new(file.as_file_mut());
    serde_json::to_writer(&mut buffer, content)?;
    buffer.flush()?;
    drop(buffer);
    file.as_file().sync_all()?;
    file.persist(directory.join(name))?;
    // The rename itself lives in the directory.
    fs::File::open(directory)?.sync_all()
}

/// None when there is no such file.
fn decode<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Unreadable> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Unreadable::Read(error)),
    };
    let header: Header = serde_json::from_slice(&bytes).map_err(Unreadable::Decode)?;
    if !reads_format(header.format) {
        return Err(Unreadable::Format(header.format));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(Unreadable::Decode)
}

fn give_up<T>(path: &Path, error: &Unreadable) -> Option<T> {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(file = %path.display(), %error, cause, "Last good file cannot be used, waiting for the hub");
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn snapshot() -> Snapshot {
        let certificate = Certificate { chain_pem: "chain".into(), key_pem: "top-secret".into() };
        Snapshot {
            certificates: [(ObjectKey::new("shop", "tls"), Arc::new(certificate))].into(),
            ..Snapshot::default()
        }
    }

    fn written() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), Role::Lb, &snapshot(), Some(snapshot().certificates)).unwrap();
        directory
    }

    fn text(directory: &tempfile::TempDir, name: &str) -> String {
        fs::read_to_string(directory.path().join(name)).unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let directory = written();
        assert_eq!(read(directory.path(), Role::Lb).unwrap().0, snapshot());
    }

    #[test]
    fn keys_stand_only_in_the_secrets_file_and_both_are_private() {
        let directory = written();
        assert!(!text(&directory, SNAPSHOT_FILE).contains("top-secret"));
        assert!(text(&directory, SECRETS_FILE).contains("top-secret"));
        for name in [SNAPSHOT_FILE, SECRETS_FILE] {
            let mode = fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn nothing_broken_or_foreign_is_used() {
        let directory = written();
        assert!(read(directory.path(), Role::Dns).is_none(), "another role");
        let file = directory.path().join(SNAPSHOT_FILE);
        let good = text(&directory, SNAPSHOT_FILE);
        fs::write(&file, &good[..good.len() / 2]).unwrap();
        assert!(read(directory.path(), Role::Lb).is_none(), "cut off");
        fs::write(&file, good.replace("\"format\":1", "\"format\":9")).unwrap();
        assert!(read(directory.path(), Role::Lb).is_none(), "far future");
        fs::write(&file, good.replace("\"format\":1", "\"format\":2,\"new\":true")).unwrap();
        assert!(read(directory.path(), Role::Lb).is_some(), "next release");
    }

    #[test]
    fn broken_secrets_leave_the_rest_usable() {
        let directory = written();
        fs::write(directory.path().join(SECRETS_FILE), b"{").unwrap();
        let (read, _) = read(directory.path(), Role::Lb).unwrap();
        assert!(read.certificates.is_empty());
    }

    #[test]
    fn no_file_is_no_snapshot() {
        assert!(read(tempfile::tempdir().unwrap().path(), Role::Lb).is_none());
    }
}
