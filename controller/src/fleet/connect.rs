//! From what the hub says about a member's connection to a client configuration.
//!
//! Kubeconfigs come from Secrets that tenants may write, so only inline data is accepted: an exec plugin would
//! run a program of the tenant's choice in the controller, a file path would read the controller's files.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use k8s_openapi::ByteString;
use kube::config::{
    AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext,
};
use kube::{Client, Config};
use meridian_api::kubefed::KubeFedClusterSpec;
use meridian_api::member_cluster::Connection;

use crate::call::causes;

/// How long a TCP and TLS connect to a member may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the bytes of a request may take to leave.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest kubeconfig that is looked at, in bytes.
const KUBECONFIG_LIMIT: usize = 256 * 1024;

/// Data of a Secret.
pub type SecretData = BTreeMap<String, ByteString>;

/// A connection that cannot be used: which field, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Malformed {
    /// Path of the field in the object or Secret.
    pub field: String,
    /// What is wrong, without the value.
    pub message: String,
}

fn malformed(field: impl Into<String>, message: impl Into<String>) -> Malformed {
    Malformed { field: field.into(), message: message.into() }
}

/// A usable connection and a hash that changes with it.
#[derive(Debug)]
pub(super) struct Usable {
    kubeconfig: Kubeconfig,
    /// Equal for equal connections, within one process.
    pub(super) hash: u64,
}

/// Reads the connection of a MemberCluster. `secret` is the data of the Secret that it refers to, `None` if
/// there is none.
///
/// # Errors
/// [`Malformed`] naming the field.
pub(super) fn of_member(connection: &Connection, secret: Option<&SecretData>) -> Result<Usable, Malformed> {
    let mut kubeconfig = match (&connection.secret_ref, &connection.endpoint) {
        (Some(reference), None) => {
            let field = "spec.connection.secretRef";
            let at = format!("Secret {}/{}", reference.namespace, reference.name);
            let data = secret.ok_or_else(|| malformed(field, format!("{at} does not exist")))?;
            let bytes = data
                .get("kubeconfig")
                .ok_or_else(|| malformed(field, format!("{at} has no key kubeconfig")))?;
            inline_kubeconfig(&bytes.0)?
        }
        (None, Some(endpoint)) => {
            let reference = &endpoint.token_secret_ref;
            let field = "spec.connection.endpoint.tokenSecretRef";
            let at = format!("Secret {}/{}", reference.namespace, reference.name);
            let data = secret.ok_or_else(|| malformed(field, format!("{at} does not exist")))?;
            let token = token_of(data, &reference.key, field, &at)?;
            kubeconfig_of(&endpoint.url, endpoint.ca_bundle.as_ref(), token, false)
        }
        _ => return Err(malformed("spec.connection", "set exactly one of secretRef and endpoint")),
    };
    if let Some(proxy) = &connection.proxy_url {
        set_proxy(&mut kubeconfig, proxy);
    }
    usable(kubeconfig)
}

/// Reads the connection of a KubeFedCluster, as [`of_member`].
///
/// # Errors
/// [`Malformed`] naming the field.
pub(super) fn of_kubefed(
    spec: &KubeFedClusterSpec,
    secret: Option<&SecretData>,
) -> Result<Usable, Malformed> {
    let field = "spec.secretRef";
    let at = format!("Secret {}", spec.secret_ref.name);
    let data = secret.ok_or_else(|| malformed(field, format!("{at} does not exist")))?;
    let token = token_of(data, "token", field, &at)?;
    let url = if spec.api_endpoint.contains("://") {
        spec.api_endpoint.clone()
    } else {
        format!("https://{}", spec.api_endpoint)
    };
    if spec.disabled_tls_validations.iter().any(|v| v != "*") {
        return Err(malformed(
            "spec.disabledTLSValidations",
            "only * is possible: single checks of a certificate cannot be turned off",
        ));
    }
    if !url.starts_with("https://") {
        // A token must not travel in clear text.
        return Err(malformed("spec.apiEndpoint", "must be an https URL"));
    }
    let insecure = !spec.disabled_tls_validations.is_empty();
    let mut kubeconfig = kubeconfig_of(&url, spec.ca_bundle.as_ref(), token, insecure);
    if let Some(proxy) = &spec.proxy_url {
        set_proxy(&mut kubeconfig, proxy);
    }
    usable(kubeconfig)
}

/// Builds the client of a connection: own deadlines, no retries inside the client, because those may sleep for
/// minutes while they hold a worker.
///
/// # Errors
/// [`Malformed`] if the certificates, keys or URL cannot be used.
pub(super) async fn client(usable: Usable) -> Result<Client, Malformed> {
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(usable.kubeconfig, &options)
        .await
        .map_err(|e| malformed("kubeconfig", causes(&e)))?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.write_timeout = Some(WRITE_TIMEOUT);
    config.read_timeout = None;
    config.default_retry = false;
    Client::try_from(config).map_err(|e| malformed("kubeconfig", causes(&e)))
}

/// Parses a kubeconfig that may hold inline data only.
fn inline_kubeconfig(bytes: &[u8]) -> Result<Kubeconfig, Malformed> {
    if bytes.len() > KUBECONFIG_LIMIT {
        return Err(malformed("kubeconfig", format!("longer than {KUBECONFIG_LIMIT} bytes")));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("kubeconfig", "not UTF-8"))?;
    // The parser's own text may quote the document, which holds credentials.
    let config = Kubeconfig::from_yaml(text).map_err(|_| malformed("kubeconfig", "not a kubeconfig"))?;
    for NamedAuthInfo { name, auth_info, .. } in &config.auth_infos {
        let Some(user) = auth_info else { continue };
        refuse_indirect(&format!("kubeconfig.users[{name}].user"), user)?;
    }
    for NamedCluster { name, cluster, .. } in &config.clusters {
        let Some(cluster) = cluster else { continue };
        let field = format!("kubeconfig.clusters[{name}].cluster");
        if cluster.certificate_authority.is_some() {
            return Err(malformed(
                format!("{field}.certificate-authority"),
                "file paths are not allowed; use certificate-authority-data",
            ));
        }
        if cluster.server.as_deref().is_none_or(|s| !s.starts_with("https://")) {
            return Err(malformed(format!("{field}.server"), "must be an https URL"));
        }
    }
    let current = config.current_context.as_deref().unwrap_or_default();
    if !config.contexts.iter().any(|c| c.name == current) {
        return Err(malformed("kubeconfig.current-context", "names no context"));
    }
    Ok(config)
}

fn refuse_indirect(field: &str, user: &AuthInfo) -> Result<(), Malformed> {
    let inline = "are not allowed in a member's kubeconfig";
    if user.exec.is_some() {
        return Err(malformed(format!("{field}.exec"), format!("exec plugins {inline}")));
    }
    if user.auth_provider.is_some() {
        return Err(malformed(format!("{field}.auth-provider"), format!("auth providers {inline}")));
    }
    let paths = [
        ("tokenFile", &user.token_file),
        ("client-certificate", &user.client_certificate),
        ("client-key", &user.client_key),
    ];
    for (key, path) in paths {
        if path.is_some() {
            return Err(malformed(format!("{field}.{key}"), format!("file paths {inline}")));
        }
    }
    Ok(())
}

fn token_of<'a>(data: &'a SecretData, key: &str, field: &str, at: &str) -> Result<&'a str, Malformed> {
    let bytes = data.get(key).ok_or_else(|| malformed(field, format!("{at} has no key {key}")))?;
    let token = std::str::from_utf8(&bytes.0)
        .map_err(|_| malformed(field, format!("key {key} of {at} is not text")))?;
    Ok(token.trim())
}

/// A kubeconfig with inline data for one server and one token.
#[must_use]
pub fn kubeconfig_of(url: &str, ca: Option<&ByteString>, token: &str, insecure: bool) -> Kubeconfig {
    let name = "member".to_owned();
    let cluster = Cluster {
        server: Some(url.to_owned()),
        certificate_authority_data: ca.filter(|c| !c.0.is_empty()).map(|c| BASE64.encode(&c.0)),
        insecure_skip_tls_verify: insecure.then_some(true),
        ..Cluster::default()
    };
    let user = AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() };
    let context = Context { cluster: name.clone(), user: Some(name.clone()), ..Context::default() };
    Kubeconfig {
        clusters: vec![NamedCluster {
            name: name.clone(),
            cluster: Some(cluster),
            ..NamedCluster::default()
        }],
        auth_infos: vec![NamedAuthInfo {
            name: name.clone(),
            auth_info: Some(user),
            ..NamedAuthInfo::default()
        }],
        contexts: vec![NamedContext {
            name: name.clone(),
            context: Some(context),
            ..NamedContext::default()
        }],
        current_context: Some(name),
        kind: Some("Config".to_owned()),
        api_version: Some("v1".to_owned()),
        ..Kubeconfig::default()
    }
}

fn set_proxy(kubeconfig: &mut Kubeconfig, proxy: &str) {
    for named in &mut kubeconfig.clusters {
        if let Some(cluster) = &mut named.cluster {
            cluster.proxy_url = Some(proxy.to_owned());
        }
    }
}

fn usable(kubeconfig: Kubeconfig) -> Result<Usable, Malformed> {
    // Serialised only to be hashed: two Secrets with the same meaning are the same connection.
    let text =
        serde_json::to_string(&kubeconfig).map_err(|_| malformed("kubeconfig", "cannot be written"))?;
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    Ok(Usable { kubeconfig, hash: hasher.finish() })
}

#[cfg(test)]
mod tests {
    use super::{SecretData, of_kubefed, of_member};
    use k8s_openapi::ByteString;
    use meridian_api::kubefed::{KubeFedClusterSpec, LocalSecretReference};
    use meridian_api::member_cluster::Connection;
    use meridian_api::selector::SecretRef;

    fn by_secret() -> Connection {
        let secret_ref = Some(SecretRef { namespace: "ns".into(), name: "creds".into() });
        Connection { secret_ref, ..Connection::default() }
    }

    fn field_of(user: &str, cluster: &str) -> String {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
             clusters:\n- name: a\n  cluster:\n    server: https://192.0.2.1\n{cluster}\
             users:\n- name: a\n  user:\n{user}\
             contexts:\n- name: a\n  context: {{cluster: a, user: a}}\n"
        );
        let data = SecretData::from([("kubeconfig".to_owned(), ByteString(text.into_bytes()))]);
        of_member(&by_secret(), Some(&data)).map_or_else(|e| e.field, |_| String::new())
    }

    #[test]
    fn inline_kubeconfig_is_accepted() {
        assert_eq!(field_of("    token: t\n", ""), "");
    }

    #[test]
    fn whatever_reaches_outside_the_document_is_refused_by_name() {
        for (user, field) in [
            ("    exec: {apiVersion: v1, command: id}\n", "exec"),
            ("    auth-provider: {name: gcp}\n", "auth-provider"),
            ("    tokenFile: /etc/token\n", "tokenFile"),
            ("    client-certificate: /etc/crt\n", "client-certificate"),
            ("    client-key: /etc/key\n", "client-key"),
        ] {
            assert_eq!(field_of(user, ""), format!("kubeconfig.users[a].user.{field}"));
        }
        assert_eq!(
            field_of("    token: t\n", "    certificate-authority: /etc/ca\n"),
            "kubeconfig.clusters[a].cluster.certificate-authority"
        );
    }

    #[test]
    fn missing_secret_and_missing_key_name_the_reference() {
        let error = of_member(&by_secret(), None).expect_err("no Secret");
        assert_eq!(error.to_string(), "spec.connection.secretRef: Secret ns/creds does not exist");
        let error = of_member(&by_secret(), Some(&SecretData::new())).expect_err("no key");
        assert_eq!(error.to_string(), "spec.connection.secretRef: Secret ns/creds has no key kubeconfig");
    }

    #[test]
    fn text_that_is_no_kubeconfig_is_not_quoted() {
        let data = SecretData::from([("kubeconfig".to_owned(), ByteString(b"token: [s3cret".to_vec()))]);
        let error = of_member(&by_secret(), Some(&data)).expect_err("no kubeconfig");
        assert!(!error.to_string().contains("s3cret"));
    }

    #[test]
    fn another_token_is_another_connection() {
        let spec = KubeFedClusterSpec {
            api_endpoint: "192.0.2.1:6443".into(),
            secret_ref: LocalSecretReference { name: "creds".into() },
            ..KubeFedClusterSpec::default()
        };
        let hash = |token: &str| {
            let data = SecretData::from([("token".to_owned(), ByteString(token.into()))]);
            of_kubefed(&spec, Some(&data)).expect("usable").hash
        };
        assert_eq!(hash("a"), hash("a"));
        assert_ne!(hash("a"), hash("b"));
    }
}
