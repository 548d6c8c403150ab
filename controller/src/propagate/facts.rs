//! What is kept of an object in a member: enough to say whether it is as it was applied.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meridian_api::names::{APPLIED_HASH_ANNOTATION, FIELD_MANAGER};
use meridian_core::place::{Desired, Fingerprint, covers};
use serde_json::Value;

/// A managed object in a member.
#[derive(Clone, Debug)]
pub(super) struct Fact {
    pub(super) uid: Arc<str>,
    pub(super) resource_version: Box<str>,
    /// Fingerprint in its annotation.
    pub(super) print: Option<Fingerprint>,
    /// Fields that we own, shared by all objects of the same shape.
    pub(super) fields: Arc<Value>,
    /// Whether its deletion has begun.
    pub(super) is_deleting: bool,
}

impl Fact {
    /// Reads an object's metadata.
    pub(super) fn of(meta: &ObjectMeta, shapes: &Shapes) -> Self {
        let print = meta.annotations.as_ref().and_then(|a| a.get(APPLIED_HASH_ANNOTATION)?.parse().ok());
        let own = meta.managed_fields.iter().flatten().find(|entry| {
            entry.manager.as_deref() == Some(FIELD_MANAGER)
                && entry.operation.as_deref() == Some("Apply")
                && entry.subresource.as_deref().unwrap_or_default().is_empty()
        });
        let fields = own.and_then(|entry| entry.fields_v1.as_ref()).map_or(&Value::Null, |f| &f.0);
        Self {
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            resource_version: meta.resource_version.as_deref().unwrap_or_default().into(),
            print,
            fields: shapes.shared(fields),
            is_deleting: meta.deletion_timestamp.is_some(),
        }
    }

    /// Whether the object is as it was applied: our fingerprint, and every field still ours.
    pub(super) fn is_as(&self, desired: &Desired) -> bool {
        self.print == Some(desired.print) && covers(&self.fields, &desired.object)
    }
}

/// Field sets, each kept once: a thousand ConfigMaps with one key share one.
#[derive(Debug, Default)]
pub(super) struct Shapes(Mutex<HashMap<Fingerprint, Weak<Value>>>);

impl Shapes {
    fn shared(&self, fields: &Value) -> Arc<Value> {
        let print = Fingerprint::of(fields);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shape) = known.get(&print).and_then(Weak::upgrade) {
            return shape;
        }
        // Dead entries go when the map would grow anyway, so that it never holds more than twice what lives.
        if known.len() == known.capacity() {
            known.retain(|_, shape| shape.strong_count() > 0);
        }
        let shape = Arc::new(fields.clone());
        known.insert(print, Arc::downgrade(&shape));
        shape
    }
}

#[cfg(test)]
mod tests {
    use super::{Fact, Shapes};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, ObjectMeta};
    use serde_json::json;
    use std::sync::Arc;

    fn meta(manager: &str, subresource: Option<&str>) -> ObjectMeta {
        let entry = ManagedFieldsEntry {
            manager: Some(manager.into()),
            operation: Some("Apply".into()),
            subresource: subresource.map(Into::into),
            fields_v1: Some(FieldsV1(json!({"f:data": {"f:k": {}}}))),
            ..ManagedFieldsEntry::default()
        };
        ObjectMeta { managed_fields: Some(vec![entry]), ..ObjectMeta::default() }
    }

    #[test]
    fn only_our_own_applied_fields_count() {
        let shapes = Shapes::default();
        assert_eq!(*Fact::of(&meta("meridian", None), &shapes).fields, json!({"f:data": {"f:k": {}}}));
        assert!(Fact::of(&meta("kubectl", None), &shapes).fields.is_null());
        assert!(Fact::of(&meta("meridian", Some("status")), &shapes).fields.is_null());
    }

    #[test]
    fn equal_shapes_are_kept_once() {
        let shapes = Shapes::default();
        let (a, b) = (Fact::of(&meta("meridian", None), &shapes), Fact::of(&meta("meridian", None), &shapes));
        assert!(Arc::ptr_eq(&a.fields, &b.fields));
    }
}
