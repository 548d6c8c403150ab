//! Kubeconfigs with everything inline, as Meridian wants them.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::pki::Identity;

/// One context of a kubeconfig: a way to reach a cluster as somebody.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name of the context, its cluster and its user.
    pub name: String,
    /// The API server's URL.
    pub server: String,
    /// Who may vouch for the server: PEM certificates.
    pub authority: String,
    /// Who calls.
    pub identity: Identity,
}

/// The YAML text of a kubeconfig with these contexts; the first is the current one.
#[must_use]
pub fn text(entries: &[Entry]) -> String {
    let (mut clusters, mut users, mut contexts) = (String::new(), String::new(), String::new());
    for Entry { name, server, authority, identity } in entries {
        let authority = STANDARD.encode(authority);
        let (certificate, key) = (STANDARD.encode(&identity.certificate), STANDARD.encode(&identity.key));
        // Writing to a String cannot fail.
        let _ = write!(
            clusters,
            "- name: {name}\n  cluster:\n    server: {server}\n    certificate-authority-data: {authority}\n"
        );
        let _ = write!(
            users,
            "- name: {name}\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n"
        );
        let _ = write!(contexts, "- name: {name}\n  context:\n    cluster: {name}\n    user: {name}\n");
    }
    let current = entries.first().map_or("", |e| e.name.as_str());
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {current}\nclusters:\n{clusters}users:\n{users}contexts:\n{contexts}"
    )
}

/// Writes a kubeconfig, readable by its owner only.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, entries: &[Entry]) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))?;
    file.write_all(text(entries).as_bytes()).with_context(|| format!("writing {}", path.display()))
}

/// A client for the first context of a kubeconfig's text, with deadlines and without the built-in retry: a test
/// wants to see an error at once.
///
/// # Errors
/// When the text is not a kubeconfig that can be used.
pub async fn client(text: &str) -> anyhow::Result<kube::Client> {
    crate::install_crypto();
    let kubeconfig = kube::config::Kubeconfig::from_yaml(text)?;
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await?;
    config.default_retry = false;
    config.connect_timeout = Some(std::time::Duration::from_secs(5));
    config.proxy_url = None;
    Ok(kube::Client::try_from(config)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeconfig_text_reads_back_with_every_context() {
        let entry = |name: &str| Entry {
            name: name.into(),
            server: format!("https://127.0.0.1/{name}"),
            authority: "ca".into(),
            identity: Identity { certificate: "cert".into(), key: "key".into() },
        };
        let read = kube::config::Kubeconfig::from_yaml(&text(&[entry("a"), entry("b")])).unwrap();
        assert_eq!(read.current_context.as_deref(), Some("a"));
        assert_eq!(read.contexts.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(read.clusters[1].cluster.as_ref().unwrap().server.as_deref(), Some("https://127.0.0.1/b"));
    }
}
