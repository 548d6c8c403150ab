//! Whether a field manager still owns everything that it wants: how drift is seen without the object.
//!
//! Server-side apply moves the ownership of a field to whoever changes its value. So an object is as it was applied
//! exactly if the manager's entry in `metadata.managedFields` still holds every field of the desired object. The
//! entry's format (`fieldsV1`) is described in `sigs.k8s.io/structured-merge-diff` (`fieldpath/serialize.go`): maps
//! nest under `f:<name>`; list items under `k:<key fields as JSON>`, `v:<value as JSON>` or `i:<index>`; `.` is the
//! container itself; an empty node is owned as a whole.

use serde_json::{Map, Value};

/// Whether `fields` (a `fieldsV1` value) holds every leaf of `desired`. `apiVersion`, `kind`, name and namespace are
/// not fields. Null values and empty containers count as covered: servers drop them. O(size of desired).
#[must_use]
pub fn covers(fields: &Value, desired: &Value) -> bool {
    let (Value::Object(fields), Value::Object(desired)) = (fields, desired) else { return false };
    desired.iter().all(|(key, value)| match key.as_str() {
        "apiVersion" | "kind" => true,
        "metadata" => metadata(fields, value),
        _ => field(fields, key, value),
    })
}

fn metadata(fields: &Map<String, Value>, desired: &Value) -> bool {
    let Value::Object(desired) = desired else { return false };
    let empty = Map::new();
    let owned = fields.get("f:metadata").and_then(Value::as_object).unwrap_or(&empty);
    desired
        .iter()
        .filter(|(key, _)| !matches!(key.as_str(), "name" | "namespace"))
        .all(|(key, value)| field(owned, key, value))
}

/// Whether the member `key` of a map is owned with all its leaves.
fn field(owned: &Map<String, Value>, key: &str, desired: &Value) -> bool {
    if is_void(desired) {
        return true;
    }
    owned.get(&format!("f:{key}")).is_some_and(|node| value(node, desired))
}

fn value(node: &Value, desired: &Value) -> bool {
    let Value::Object(node) = node else { return false };
    // Owned as a whole: scalars, and containers that the schema calls atomic.
    if node.is_empty() {
        return true;
    }
    match desired {
        Value::Object(map) => map.iter().all(|(key, inner)| field(node, key, inner)),
        Value::Array(items) => items.iter().enumerate().all(|(index, item)| element(node, index, item)),
        // The desired object has a scalar where the owned one has structure: another value.
        _ => false,
    }
}

fn element(node: &Map<String, Value>, index: usize, item: &Value) -> bool {
    if let Some(owned) = node.get(&format!("i:{index}")) {
        return value(owned, item);
    }
    node.iter().any(|(name, owned)| {
        if let Some(text) = name.strip_prefix("v:") {
            return serde_json::from_str::<Value>(text).is_ok_and(|set| set == *item);
        }
        let Some(text) = name.strip_prefix("k:") else { return false };
        let Ok(Value::Object(keys)) = serde_json::from_str::<Value>(text) else { return false };
        matches(&keys, item) && value(owned, item)
    })
}

/// Whether a list item has these key fields. A key field that the item lacks was filled in by a default.
fn matches(keys: &Map<String, Value>, item: &Value) -> bool {
    let Value::Object(item) = item else { return false };
    // An item with none of the key fields would match anything.
    keys.keys().any(|key| item.contains_key(key))
        && keys.iter().all(|(key, value)| item.get(key).is_none_or(|own| own == value))
}

/// Null, or a container without leaves.
fn is_void(desired: &Value) -> bool {
    match desired {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_void),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::covers;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    fn deployment() -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {"spec": {
                "containers": [{"name": "c", "image": "i", "resources": {}, "ports": [{"containerPort": 80}],
                    "args": ["a", "b"]}]}}}})
    }

    /// As kube-apiserver 1.36 writes it for the object above.
    fn owned() -> Value {
        json!({"f:metadata": {"f:labels": {"f:app": {}}},
            "f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {"f:spec": {"f:containers": {
                "k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}, "f:args": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}})
    }

    #[test]
    fn what_was_applied_is_covered_with_defaulted_keys_and_atomic_fields() {
        assert!(covers(&owned(), &deployment()));
    }

    #[test]
    fn a_field_that_somebody_else_changed_is_not() {
        let mut fields = owned();
        fields["f:spec"].as_object_mut().expect("map").remove("f:replicas");
        assert!(!covers(&fields, &deployment()));
    }

    #[test]
    fn a_list_item_that_somebody_else_removed_is_not() {
        let mut fields = owned();
        fields["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"]
            .as_object_mut()
            .expect("map")
            .insert("f:ports".to_owned(), json!({"k:{\"containerPort\":81,\"protocol\":\"TCP\"}": {}}));
        assert!(!covers(&fields, &deployment()));
    }

    #[test]
    fn finalizers_are_a_set() {
        let desired = json!({"metadata": {"name": "n", "finalizers": ["a/b"]}});
        assert!(covers(&json!({"f:metadata": {"f:finalizers": {".": {}, "v:\"a/b\"": {}}}}), &desired));
        assert!(!covers(&json!({"f:metadata": {"f:finalizers": {".": {}, "v:\"c/d\"": {}}}}), &desired));
    }

    #[test]
    fn nothing_owned_covers_only_what_has_no_leaves() {
        assert!(covers(
            &json!({}),
            &json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "n"}, "data": {}})
        ));
        assert!(!covers(&json!({}), &json!({"data": {"k": "v"}})));
        assert!(!covers(&Value::Null, &json!({})));
    }

    /// Objects as a schema-less server would see them: maps and atomic leaves.
    fn object() -> impl Strategy<Value = Map<String, Value>> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<u8>().prop_map(Value::from),
            Just(json!(["x"]))
        ];
        let tree = leaf.prop_recursive(3, 24, 4, |inner| {
            proptest::collection::btree_map("[a-d]", inner, 1..4)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
        });
        proptest::collection::btree_map("[a-d]", tree, 1..4).prop_map(|map| map.into_iter().collect())
    }

    fn fields_of(map: &Map<String, Value>) -> Value {
        Value::Object(
            map.iter()
                .map(|(key, value)| {
                    let node = value.as_object().map_or_else(|| json!({}), fields_of);
                    (format!("f:{key}"), node)
                })
                .collect(),
        )
    }

    /// Removes the `index`-th leaf of a field tree.
    fn lose(node: &mut Value, index: &mut usize) -> bool {
        let Value::Object(map) = node else { return false };
        let keys: Vec<String> = map.keys().cloned().collect();
        for key in keys {
            let child = &mut map[&key];
            if child.as_object().is_some_and(Map::is_empty) {
                if *index == 0 {
                    map.remove(&key);
                    return true;
                }
                *index -= 1;
            } else if lose(child, index) {
                // A parent without children is no longer listed.
                if map[&key].as_object().is_some_and(Map::is_empty) {
                    map.remove(&key);
                }
                return true;
            }
        }
        false
    }

    proptest! {
        #[test]
        fn own_fields_cover_and_any_lost_leaf_uncovers(map in object(), index in 0usize..24) {
            let desired = Value::Object(map.clone());
            let mut fields = fields_of(&map);
            prop_assert!(covers(&fields, &desired));
            let mut index = index;
            if lose(&mut fields, &mut index) {
                prop_assert!(!covers(&fields, &desired));
            }
        }

        #[test]
        fn owning_more_never_uncovers(map in object(), more in object()) {
            let desired = Value::Object(map.clone());
            let mut all = map;
            for (key, value) in more {
                all.entry(format!("z{key}")).or_insert(value);
            }
            prop_assert!(covers(&fields_of(&all), &desired));
        }
    }
}
