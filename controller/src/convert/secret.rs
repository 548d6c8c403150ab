//! TLS Secrets (type `kubernetes.io/tls`) of the hub, and those in templates of FederatedSecrets.

use k8s_openapi::api::core::v1::Secret;
use kube::core::DynamicObject;
use meridian_core::{id::ObjectKey, snapshot::Certificate};

/// Type of the Secrets that hold a certificate.
pub const TLS_TYPE: &str = "kubernetes.io/tls";

/// A Secret; without facts unless it is a certificate with its key.
#[must_use]
pub fn facts(secret: Secret) -> Option<(ObjectKey, Option<Certificate>)> {
    let key = super::key_of(&secret.metadata)?;
    let certificate = certificate(secret);
    Some((key, certificate))
}

/// A FederatedSecret, as the Secret that its template makes.
#[must_use]
pub fn federated(object: DynamicObject) -> Option<(ObjectKey, Option<Certificate>)> {
    let key = super::key_of(&object.metadata)?;
    let template = object.data.pointer("/spec/template").cloned().unwrap_or_default();
    // The error of a template that cannot be read would quote it, and it holds secrets.
    let certificate = serde_json::from_value::<Secret>(template).ok().and_then(certificate);
    Some((key, certificate))
}

fn certificate(secret: Secret) -> Option<Certificate> {
    if secret.type_.as_deref() != Some(TLS_TYPE) {
        return None;
    }
    let (data, text) = (secret.data.unwrap_or_default(), secret.string_data.unwrap_or_default());
    let part = |name: &str| {
        let bytes = data.get(name).and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
        text.get(name).cloned().or(bytes).filter(|text| !text.is_empty())
    };
    Some(Certificate { chain_pem: part("tls.crt")?.into(), key_pem: part("tls.key")?.into() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn secret(type_: &str, data: Value) -> Option<Certificate> {
        let object = json!({"metadata": {"namespace": "shop", "name": "tls"}, "type": type_, "data": data});
        facts(serde_json::from_value(object).expect("a Secret")).expect("a key").1
    }

    #[test]
    fn only_a_whole_certificate_counts() {
        // "chain" and "key" in base64.
        let whole = json!({"tls.crt": "Y2hhaW4=", "tls.key": "a2V5"});
        let found = secret(TLS_TYPE, whole.clone()).expect("a certificate");
        assert_eq!((&*found.chain_pem, &*found.key_pem), ("chain", "key"));
        assert_eq!(secret(TLS_TYPE, json!({"tls.crt": "Y2hhaW4="})), None);
        assert_eq!(secret("Opaque", whole), None);
    }

    #[test]
    fn template_may_give_plain_text() {
        let object = json!({
            "apiVersion": "types.kubefed.io/v1beta1", "kind": "FederatedSecret",
            "metadata": {"namespace": "shop", "name": "tls"},
            "spec": {"template": {"type": TLS_TYPE, "stringData": {"tls.crt": "chain", "tls.key": "key"}}},
        });
        let (_, found) = federated(serde_json::from_value(object).expect("an object")).expect("a key");
        assert_eq!(&*found.expect("a certificate").key_pem, "key");
    }
}
