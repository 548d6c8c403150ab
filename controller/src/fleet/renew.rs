//! Renewing a member's token before it expires, through the member account's own TokenRequest right.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use kube::core::ObjectMeta;
use kube::{Api, Client};
use meridian_api::names::{
    FIELD_MANAGER, TOKEN_ACCOUNT_ANNOTATION, TOKEN_EXPIRES_ANNOTATION, TOKEN_ISSUED_ANNOTATION,
};
use meridian_api::selector::SecretRef;
use meridian_core::id::ClusterName;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::connect::SecretData;
use super::watch::jittered;
use crate::call::{self, CallError, within};

/// Shortest time between two tries.
const RETRY: Duration = Duration::from_secs(60);

/// When and for whom to renew: read from the annotations that `join` writes on the credentials Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Namespace of the account in the member.
    pub namespace: String,
    /// Name of the account in the member.
    pub account: String,
    /// When the token was issued.
    pub issued: Timestamp,
    /// When it expires.
    pub expires: Timestamp,
}

impl Lease {
    /// Reads the annotations of a credentials Secret; `None` if the token is not ours to renew.
    #[must_use]
    pub fn of(annotations: &BTreeMap<String, String>) -> Option<Self> {
        let (namespace, account) = annotations.get(TOKEN_ACCOUNT_ANNOTATION)?.split_once('/')?;
        Some(Self {
            namespace: namespace.to_owned(),
            account: account.to_owned(),
            issued: annotations.get(TOKEN_ISSUED_ANNOTATION)?.parse().ok()?,
            expires: annotations.get(TOKEN_EXPIRES_ANNOTATION)?.parse().ok()?,
        })
    }

    /// The annotations that say this.
    #[must_use]
    pub fn annotations(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (TOKEN_ACCOUNT_ANNOTATION.to_owned(), format!("{}/{}", self.namespace, self.account)),
            (TOKEN_ISSUED_ANNOTATION.to_owned(), self.issued.to_string()),
            (TOKEN_EXPIRES_ANNOTATION.to_owned(), self.expires.to_string()),
        ])
    }

    /// Lifetime of the token, in whole seconds, at least the 10 minutes that the API asks for.
    #[must_use]
    pub fn lifetime_seconds(&self) -> i64 {
        (self.expires.as_second() - self.issued.as_second()).max(600)
    }

    /// How long to wait from `now` until two thirds of the lifetime are over: late enough to be rare, early enough
    /// that a long outage of hub or member does not outlive the token.
    #[must_use]
    pub fn due_in(&self, now: Timestamp) -> Duration {
        let due = self.issued.as_second() + self.lifetime_seconds() * 2 / 3;
        Duration::from_secs(u64::try_from(due - now.as_second()).unwrap_or(0))
    }
}

/// Asks the member for a token of an account; the answer's own expiry counts, servers may shorten lifetimes.
///
/// # Errors
/// What the call gave; 403 if the credentials may not do it.
pub async fn request_token(
    member: &Client,
    namespace: &str,
    account: &str,
    lifetime_seconds: i64,
) -> Result<(String, Lease), CallError> {
    let api: Api<ServiceAccount> = Api::namespaced(member.clone(), namespace);
    let request = TokenRequest {
        metadata: ObjectMeta::default(),
        spec: Some(TokenRequestSpec {
            audiences: None,
            bound_object_ref: None,
            expiration_seconds: Some(lifetime_seconds),
        }),
        status: None,
    };
    let issued = Timestamp::now();
    let answer =
        within(call::WRITE, api.create_token_request(account, &PostParams::default(), &request)).await?;
    let status = answer.status.unwrap_or_default();
    let (Some(text), Some(expires)) = (status.token, status.expiration_timestamp) else {
        // A server that answers 201 without a token is not one that could be retried differently.
        return Err(CallError::Empty);
    };
    let lease =
        Lease { namespace: namespace.to_owned(), account: account.to_owned(), issued, expires: expires.0 };
    Ok((text, lease))
}

/// Waits until the token is due, renews it on the hub and ends: the changed Secret replaces the member, whose new
/// task takes over.
pub(super) async fn run(
    name: ClusterName,
    hub: Client,
    member: Client,
    secret: SecretRef,
    lease: Lease,
    token: CancellationToken,
) {
    let mut wait = lease.due_in(Timestamp::now());
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(jittered(wait)) => {}
        }
        match renew(&hub, &member, &secret, &lease).await {
            Ok(expires) => {
                tracing::info!(cluster = %name, %expires, "Token renewed");
                return;
            }
            Err(error) => {
                tracing::warn!(cluster = %name, expires = %lease.expires, error = %error, "Cannot renew the token");
                wait = RETRY;
            }
        }
    }
}

/// Why a token could not be renewed.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("{step}: {message}")]
    Call { step: &'static str, message: String },
    #[error("the Secret holds neither a kubeconfig nor a token")]
    NoToken,
}

fn failed(step: &'static str) -> impl Fn(CallError) -> RenewError {
    move |error| RenewError::Call { step, message: error.message() }
}

async fn renew(
    hub: &Client,
    member: &Client,
    at: &SecretRef,
    lease: &Lease,
) -> Result<Timestamp, RenewError> {
    let (text, next) = request_token(member, &lease.namespace, &lease.account, lease.lifetime_seconds())
        .await
        .map_err(failed("asking the member for a token"))?;
    let secrets: Api<Secret> = Api::namespaced(hub.clone(), &at.namespace);
    let secret = within(call::WRITE, secrets.get(&at.name)).await.map_err(failed("reading the Secret"))?;
    let data = with_token(&secret.data.unwrap_or_default(), &text).ok_or(RenewError::NoToken)?;
    let patch = json!({
        // A precondition: whoever wrote in between knows better.
        "metadata": {"resourceVersion": secret.metadata.resource_version, "annotations": next.annotations()},
        "data": data,
    });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    within(call::WRITE, secrets.patch(&at.name, &params, &Patch::Merge(&patch)))
        .await
        .map_err(failed("writing the Secret"))?;
    Ok(next.expires)
}

/// The Secret's data with another token in it.
fn with_token(data: &SecretData, token: &str) -> Option<SecretData> {
    let mut changed = SecretData::new();
    if let Some(bytes) = data.get("kubeconfig") {
        let mut config = Kubeconfig::from_yaml(std::str::from_utf8(&bytes.0).ok()?).ok()?;
        for user in &mut config.auth_infos {
            if let Some(info) = &mut user.auth_info {
                info.token = Some(token.to_owned().into());
            }
        }
        let text = serde_saphyr::to_string(&serde_json::to_value(&config).ok()?).ok()?;
        changed.insert("kubeconfig".to_owned(), ByteString(text.into_bytes()));
    }
    if data.contains_key("token") {
        changed.insert("token".to_owned(), ByteString(token.as_bytes().to_vec()));
    }
    (!changed.is_empty()).then_some(changed)
}

#[cfg(test)]
mod tests {
    use super::{Lease, with_token};
    use crate::fleet::connect::kubeconfig_of;
    use k8s_openapi::ByteString;
    use k8s_openapi::jiff::Timestamp;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn lease() -> Lease {
        let at = |s| Timestamp::from_second(s).expect("in range");
        Lease { namespace: "ns".into(), account: "sa".into(), issued: at(1_000), expires: at(4_000) }
    }

    #[test]
    fn a_token_is_due_after_two_thirds_and_at_once_when_late() {
        let at = |s| Timestamp::from_second(s).expect("in range");
        assert_eq!(lease().due_in(at(1_000)), Duration::from_secs(2_000));
        assert_eq!(lease().due_in(at(9_000)), Duration::ZERO);
    }

    #[test]
    fn annotations_survive_a_round_trip() {
        assert_eq!(Lease::of(&lease().annotations()), Some(lease()));
        assert_eq!(Lease::of(&BTreeMap::new()), None);
    }

    #[test]
    fn only_the_token_changes_in_a_kubeconfig() {
        let config = kubeconfig_of("https://192.0.2.1", None, "old", false);
        let text = serde_saphyr::to_string(&serde_json::to_value(&config).expect("JSON")).expect("YAML");
        let data = BTreeMap::from([("kubeconfig".to_owned(), ByteString(text.into_bytes()))]);
        let changed = with_token(&data, "new").expect("it has a token");
        let text = String::from_utf8(changed["kubeconfig"].0.clone()).expect("text");
        assert!(text.contains("new") && !text.contains("old") && text.contains("192.0.2.1"));
        assert_eq!(with_token(&BTreeMap::new(), "new"), None);
    }
}
