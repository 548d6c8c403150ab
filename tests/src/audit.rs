//! What was written at an API server, and by whom, from its audit log.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::Context;
use serde::Deserialize;

/// Records every request that changes something, at its end, without bodies. Reads are not recorded: they are
/// many, and cost the server a line each.
pub(crate) const POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted, Panic]
rules:
  - level: None
    verbs: [get, list, watch]
  - level: None
    resources:
      - {group: authentication.k8s.io}
      - {group: authorization.k8s.io}
  - level: Metadata
";

/// The audit log of one API server.
#[derive(Debug, Clone)]
pub struct AuditLog {
    path: PathBuf,
}

/// A moment in an audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(u64);

/// One request that changed something, or tried to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// create, update, patch, delete, deletecollection.
    pub verb: String,
    /// The API group, empty for the core group.
    pub group: String,
    /// The resource, with its subresource if there is one: `pods/status`.
    pub resource: String,
    /// The namespace, empty for what has none.
    pub namespace: String,
    /// The object's name, empty when the server chose it.
    pub name: String,
    /// Who asked, after impersonation if there was one.
    pub user: String,
    /// The HTTP status of the answer.
    pub code: u16,
}

impl Mark {
    /// The beginning of the log.
    pub const START: Self = Self(0);
}

impl AuditLog {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Now: what is written from here on comes after it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn mark(&self) -> anyhow::Result<Mark> {
        match std::fs::metadata(&self.path) {
            Ok(file) => Ok(Mark(file.len())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Mark(0)),
            Err(error) => Err(error).with_context(|| format!("reading {}", self.path.display())),
        }
    }

    /// What was written after `mark` by users whom `who` accepts, in the order of the answers. A request appears
    /// a moment after its answer.
    ///
    /// # Errors
    /// When the file cannot be read or holds something else.
    pub fn writes_since(&self, mark: Mark, who: impl Fn(&str) -> bool) -> anyhow::Result<Vec<Write>> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.with_context(|| format!("opening {}", self.path.display()))?,
        };
        file.seek(SeekFrom::Start(mark.0))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // A last line without its end is still being written.
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut writes = Vec::new();
        for line in complete.lines() {
            let entry: Entry =
                serde_json::from_str(line).with_context(|| format!("in {}: {line}", self.path.display()))?;
            let write = Write::from(entry);
            if who(&write.user) {
                writes.push(write);
            }
        }
        Ok(writes)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    verb: String,
    user: User,
    impersonated_user: Option<User>,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    response_status: ResponseStatus,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ObjectRef {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ResponseStatus {
    code: u16,
}

impl From<Entry> for Write {
    fn from(entry: Entry) -> Self {
        let object = entry.object_ref;
        let resource = if object.subresource.is_empty() {
            object.resource
        } else {
            format!("{}/{}", object.resource, object.subresource)
        };
        Self {
            verb: entry.verb,
            group: object.api_group,
            resource,
            namespace: object.namespace,
            name: object.name,
            user: entry.impersonated_user.unwrap_or(entry.user).username,
            code: entry.response_status.code,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn only_complete_lines_after_the_mark_by_the_asked_user_are_returned() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let log = AuditLog::new(file.path().to_owned());
        let line = |user: &str, name: &str| {
            format!(
                r#"{{"verb":"patch","user":{{"username":"{user}"}},"objectRef":{{"resource":"pods","subresource":"status","namespace":"n","name":"{name}"}},"responseStatus":{{"code":200}}}}"#
            )
        };
        writeln!(file, "{}", line("a", "before")).unwrap();
        let mark = log.mark().unwrap();
        writeln!(file, "{}", line("a", "wanted")).unwrap();
        writeln!(file, "{}", line("b", "other")).unwrap();
        write!(file, "{{\"verb\":").unwrap();

        let writes = log.writes_since(mark, |user| user == "a").unwrap();
        assert_eq!(writes.len(), 1);
        assert_eq!(
            (writes[0].name.as_str(), writes[0].resource.as_str(), writes[0].code),
            ("wanted", "pods/status", 200)
        );
    }
}
