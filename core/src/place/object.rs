//! From a template to the object that goes into a cluster.

use serde_json::{Map, Value};

use super::hash::Fingerprint;
use super::{HASH_ANNOTATION, MANAGED_LABEL};

/// The kind of the objects in the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `group/version`, or the version alone for the core group; used where the template has none.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Whether objects of the kind live in namespaces.
    pub is_namespaced: bool,
}

impl Target {
    /// Whether the objects are themselves namespaces.
    #[must_use]
    pub fn is_namespace(&self) -> bool {
        self.kind == "Namespace" && self.api_version == "v1"
    }
}

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("template{path}: {message}")]
pub struct TemplateFault {
    /// JSON pointer into the template; empty for the template itself.
    pub path: &'static str,
    /// What is wrong.
    pub message: String,
}

/// Fields of metadata that belong to one API server and must not travel.
const SERVER_FIELDS: [&str; 9] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
];

/// Annotations that describe one copy of an object and must not travel.
const LOCAL_ANNOTATIONS: [&str; 3] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deployment.kubernetes.io/revision",
    HASH_ANNOTATION,
];

/// The object of a template under the wrapper's name, before overrides.
pub(super) fn from_template(
    template: Option<&Value>,
    target: &Target,
    namespace: &str,
    name: &str,
) -> Result<Value, TemplateFault> {
    let fault = |path: &'static str, message: &str| TemplateFault { path, message: message.to_owned() };
    let mut object = match template {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(map)) => map.clone(),
        Some(_) => return Err(fault("", "must be an object")),
    };
    object.remove("status");
    match object.get("apiVersion") {
        None | Some(Value::Null) => {
            object.insert("apiVersion".to_owned(), Value::from(target.api_version.clone()));
        }
        Some(Value::String(text)) if text.is_empty() => {
            object.insert("apiVersion".to_owned(), Value::from(target.api_version.clone()));
        }
        Some(Value::String(_)) => {}
        Some(_) => return Err(fault("/apiVersion", "must be a string")),
    }
    match object.get("kind") {
        None | Some(Value::Null) => {}
        Some(Value::String(kind)) if kind.is_empty() || *kind == target.kind => {}
        Some(other) => {
            return Err(fault("/kind", &format!("is {other}, but objects of this type are {}", target.kind)));
        }
    }
    object.insert("kind".to_owned(), Value::from(target.kind.clone()));
    let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if metadata.is_null() {
        *metadata = Value::Object(Map::new());
    }
    let Some(metadata) = metadata.as_object_mut() else {
        return Err(fault("/metadata", "must be an object"));
    };
    for field in SERVER_FIELDS.iter().chain(["uid"].iter()) {
        metadata.remove(*field);
    }
    metadata.insert("name".to_owned(), Value::from(name));
    if target.is_namespaced {
        metadata.insert("namespace".to_owned(), Value::from(namespace));
    } else {
        metadata.remove("namespace");
    }
    for (key, path) in [("labels", "/metadata/labels"), ("annotations", "/metadata/annotations")] {
        match metadata.get(key) {
            None => {}
            Some(Value::Null) => {
                metadata.remove(key);
            }
            Some(Value::Object(map)) if map.values().all(Value::is_string) => {}
            Some(_) => return Err(fault(path, "must be a map of strings")),
        }
    }
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        for key in LOCAL_ANNOTATIONS {
            annotations.remove(key);
        }
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    if target.kind == "Secret" && target.api_version == "v1" {
        string_data(&mut object)?;
    }
    Ok(Value::Object(object))
}

/// Moves a Secret's `stringData` into `data`: the API server does so on writing, and the field would then look as
/// if somebody had removed it.
fn string_data(object: &mut Map<String, Value>) -> Result<(), TemplateFault> {
    let plain = match object.remove("stringData") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Object(map)) => map,
        Some(_) => {
            return Err(TemplateFault {
                path: "/stringData",
                message: "must be a map of strings".to_owned(),
            });
        }
    };
    let data = object.entry("data").or_insert_with(|| Value::Object(Map::new()));
    if data.is_null() {
        *data = Value::Object(Map::new());
    }
    let Some(data) = data.as_object_mut() else {
        return Err(TemplateFault { path: "/data", message: "must be a map".to_owned() });
    };
    for (key, value) in plain {
        let Value::String(text) = value else {
            return Err(TemplateFault {
                path: "/stringData",
                message: "must be a map of strings".to_owned(),
            });
        };
        data.insert(key, Value::from(base64(text.as_bytes())));
    }
    Ok(())
}

/// Adds the managed label last, whatever template and overrides say, and the fingerprint of the result.
pub(super) fn seal(object: &mut Value) -> Result<Fingerprint, TemplateFault> {
    set(object, "labels", MANAGED_LABEL, "true")?;
    // An override may have put it there.
    if let Some(Value::Object(annotations)) = object.pointer_mut("/metadata/annotations") {
        annotations.remove(HASH_ANNOTATION);
    }
    let print = Fingerprint::of(object);
    set(object, "annotations", HASH_ANNOTATION, &print.to_string())?;
    Ok(print)
}

fn set(object: &mut Value, map: &'static str, key: &str, value: &str) -> Result<(), TemplateFault> {
    let fault = || TemplateFault { path: "/metadata", message: format!("{map} must be a map of strings") };
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).ok_or_else(fault)?;
    let entry = metadata.entry(map).or_insert_with(|| Value::Object(Map::new()));
    if entry.is_null() {
        *entry = Value::Object(Map::new());
    }
    entry.as_object_mut().ok_or_else(fault)?.insert(key.to_owned(), Value::from(value));
    Ok(())
}

/// Standard base64 with padding (RFC 4648 section 4).
fn base64(data: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(data.len().div_ceil(3) * 4);
    for chunk in data.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4usize {
            if i <= chunk.len() {
                let six = (word >> (18 - 6 * i)) & 63;
                out.push(char::from(ALPHABET[six as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Target, base64, from_template, seal};
    use crate::place::Fingerprint;
    use serde_json::json;

    fn config_map() -> Target {
        Target { api_version: "v1".into(), kind: "ConfigMap".into(), is_namespaced: true }
    }

    #[test]
    fn name_namespace_and_kind_are_the_wrappers() {
        let template = json!({"metadata": {"name": "other", "namespace": "other", "uid": "u", "resourceVersion": "1",
            "creationTimestamp": null, "labels": {"a": "b"}}, "data": {"k": "v"}, "status": {"x": 1}});
        let object = from_template(Some(&template), &config_map(), "shop", "web").expect("valid");
        assert_eq!(
            object,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "v"},
                "metadata": {"name": "web", "namespace": "shop", "labels": {"a": "b"}}})
        );
    }

    #[test]
    fn a_missing_template_gives_a_bare_object() {
        let namespace = Target { api_version: "v1".into(), kind: "Namespace".into(), is_namespaced: false };
        let object = from_template(None, &namespace, "shop", "shop").expect("valid");
        assert_eq!(object, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
    }

    #[test]
    fn faults_name_the_field() {
        for (template, path) in [
            (json!("x"), ""),
            (json!({"kind": "Secret"}), "/kind"),
            (json!({"apiVersion": 1}), "/apiVersion"),
            (json!({"metadata": []}), "/metadata"),
            (json!({"metadata": {"labels": {"a": 1}}}), "/metadata/labels"),
            (json!({"metadata": {"annotations": "x"}}), "/metadata/annotations"),
        ] {
            let fault = from_template(Some(&template), &config_map(), "shop", "web").expect_err(path);
            assert_eq!(fault.path, path);
        }
    }

    #[test]
    fn string_data_becomes_data() {
        let secret = Target { api_version: "v1".into(), kind: "Secret".into(), is_namespaced: true };
        let template = json!({"stringData": {"a": "hi"}, "data": {"b": "eA=="}});
        let object = from_template(Some(&template), &secret, "shop", "web").expect("valid");
        assert_eq!(object["data"], json!({"a": "aGk=", "b": "eA=="}));
        assert!(object.get("stringData").is_none());
    }

    #[test]
    fn base64_pads_as_the_standard_says() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn the_seal_is_of_everything_but_itself() {
        let mut object = json!({"metadata": {"name": "a", "annotations": {"x": "y"}}});
        let print = seal(&mut object).expect("a map");
        let mut again = object.clone();
        assert_eq!(seal(&mut again).expect("a map"), print);
        assert_eq!(again, object);
        assert_eq!(object["metadata"]["annotations"]["meridian.io/applied-hash"], print.to_string());
        assert_ne!(Fingerprint::of(&object), print);
    }
}
