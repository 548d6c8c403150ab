//! How an object differs in single clusters: JSON patches (RFC 6902).

use std::collections::BTreeSet;

use json_patch::{AddOperation, PatchOperation, RemoveOperation, ReplaceOperation, jsonptr::PointerBuf};
use serde_json::Value;

use crate::id::ClusterName;

/// Paths that no override may touch: they say which object it is.
const FORBIDDEN: [&str; 4] = ["/metadata/namespace", "/metadata/name", "/metadata/generateName", "/kind"];

/// One operation as a user wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// `add`, `remove`, `replace`, or empty for `replace`.
    pub op: String,
    /// JSON pointer (RFC 6901).
    pub path: String,
    /// New value; `None` for `remove`.
    pub value: Option<Value>,
}

/// Operations per cluster, in the order in which they were written; a name may wrongly come twice.
pub type Overrides = Vec<(ClusterName, Vec<Operation>)>;

/// What is wrong with the overrides of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverrideFault {
    /// The cluster is named more than once.
    #[error("cluster {cluster} is named more than once in overrides")]
    DuplicateCluster {
        /// Its name.
        cluster: ClusterName,
    },
    /// A path comes more than once.
    #[error("overrides of cluster {cluster}: path {path} comes more than once")]
    DuplicatePath {
        /// Name of the cluster.
        cluster: ClusterName,
        /// The path.
        path: String,
    },
    /// The path says which object it is.
    #[error("overrides of cluster {cluster}: path {path} must not be changed")]
    Forbidden {
        /// Name of the cluster.
        cluster: ClusterName,
        /// The path.
        path: String,
    },
    /// The operation cannot be read or applied.
    #[error("overrides of cluster {cluster}: path {path}: {message}")]
    Failed {
        /// Name of the cluster.
        cluster: ClusterName,
        /// The path.
        path: String,
        /// What is wrong.
        message: String,
    },
}

/// Applies the overrides of one cluster to an object; without overrides for it nothing changes.
///
/// # Errors
/// The first [`OverrideFault`]; the object is then half changed and must not be used.
pub(super) fn apply(
    object: &mut Value,
    cluster: &ClusterName,
    overrides: &Overrides,
) -> Result<(), OverrideFault> {
    let mut mine = overrides.iter().filter(|(name, _)| name == cluster);
    let Some((_, operations)) = mine.next() else { return Ok(()) };
    if mine.next().is_some() {
        return Err(OverrideFault::DuplicateCluster { cluster: cluster.clone() });
    }
    let mut seen = BTreeSet::new();
    for operation in operations {
        let path = operation.path.as_str();
        if FORBIDDEN.contains(&path) || FORBIDDEN.iter().any(|f| covers_parent(path, f)) {
            return Err(OverrideFault::Forbidden { cluster: cluster.clone(), path: path.to_owned() });
        }
        // Appending to one list several times is meant; any other repetition is a mistake.
        if !seen.insert(path) && !path.ends_with("/-") {
            return Err(OverrideFault::DuplicatePath { cluster: cluster.clone(), path: path.to_owned() });
        }
        let failed = |message: String| OverrideFault::Failed {
            cluster: cluster.clone(),
            path: path.to_owned(),
            message,
        };
        let parsed = parse(operation).map_err(failed)?;
        // One at a time, so that the fault names its path.
        json_patch::patch(object, std::slice::from_ref(&parsed)).map_err(|e| failed(e.kind.to_string()))?;
    }
    Ok(())
}

/// Whether replacing `path` as a whole would replace `inner` as well.
fn covers_parent(path: &str, inner: &str) -> bool {
    inner.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
}

fn parse(operation: &Operation) -> Result<PatchOperation, String> {
    let path = PointerBuf::parse(operation.path.clone()).map_err(|_| "not a JSON pointer".to_owned())?;
    // An absent value is null in JSON, as KubeFed's patches had it.
    let value = operation.value.clone().unwrap_or_default();
    match operation.op.as_str() {
        "" | "replace" => Ok(PatchOperation::Replace(ReplaceOperation { path, value })),
        "add" => Ok(PatchOperation::Add(AddOperation { path, value })),
        "remove" => Ok(PatchOperation::Remove(RemoveOperation { path })),
        other => Err(format!("operation {other:?} is not one of add, remove, replace")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Operation, OverrideFault, Overrides, apply};
    use serde_json::{Value, json};

    fn op(op: &str, path: &str, value: Value) -> Operation {
        Operation { op: op.to_owned(), path: path.to_owned(), value: Some(value) }
    }

    fn patched(operations: Vec<Operation>) -> Result<Value, OverrideFault> {
        let mut object =
            json!({"kind": "X", "metadata": {"name": "n"}, "spec": {"replicas": 1, "args": ["a"]}});
        let overrides: Overrides = vec![("m1".into(), operations)];
        apply(&mut object, &"m1".into(), &overrides).map(|()| object)
    }

    #[test]
    fn an_empty_operation_is_replace() {
        let object = patched(vec![op("", "/spec/replicas", json!(5))]).expect("valid");
        assert_eq!(object["spec"]["replicas"], 5);
    }

    #[test]
    fn operations_apply_in_order_and_append_may_repeat() {
        let object =
            patched(vec![op("add", "/spec/args/-", json!("b")), op("add", "/spec/args/-", json!("c"))]);
        assert_eq!(object.expect("valid")["spec"]["args"], json!(["a", "b", "c"]));
    }

    #[test]
    fn another_cluster_is_left_alone() {
        let mut object = json!({"spec": {"replicas": 1}});
        let overrides: Overrides = vec![("m1".into(), vec![op("", "/spec/replicas", json!(5))])];
        apply(&mut object, &"m2".into(), &overrides).expect("nothing to do");
        assert_eq!(object["spec"]["replicas"], 1);
    }

    #[test]
    fn faults_name_cluster_and_path() {
        for (operations, text) in [
            (
                vec![op("replace", "/spec/nothing/here", json!(1))],
                "overrides of cluster m1: path /spec/nothing/here: ",
            ),
            (
                vec![op("replace", "no-slash", json!(1))],
                "overrides of cluster m1: path no-slash: not a JSON pointer",
            ),
            (
                vec![op("move", "/spec/replicas", json!(1))],
                "overrides of cluster m1: path /spec/replicas: operation",
            ),
            (
                vec![op("", "/metadata/name", json!("x"))],
                "overrides of cluster m1: path /metadata/name must not",
            ),
            (vec![op("", "/metadata", json!({}))], "overrides of cluster m1: path /metadata must not"),
            (vec![op("", "", json!({}))], "overrides of cluster m1: path  must not"),
            (
                vec![op("", "/spec/replicas", json!(1)), op("", "/spec/replicas", json!(2))],
                "overrides of cluster m1: path /spec/replicas comes more than once",
            ),
        ] {
            let fault = patched(operations).expect_err(text).to_string();
            assert!(fault.starts_with(text), "{fault}");
        }
    }

    #[test]
    fn a_cluster_named_twice_is_a_fault() {
        let overrides: Overrides = vec![("m1".into(), vec![]), ("m1".into(), vec![])];
        let fault = apply(&mut json!({}), &"m1".into(), &overrides).expect_err("duplicate");
        assert_eq!(fault, OverrideFault::DuplicateCluster { cluster: "m1".into() });
    }
}
