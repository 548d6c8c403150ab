//! Who an edge is, as its certificate says.

use std::str::FromStr;

use meridian_core::{id::SiteName, snapshot::Role};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

/// Scheme and host of the URI that names an edge: `meridian://edge/<role>/<site>`.
const PREFIX: &str = "meridian://edge/";

/// An edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) role: Role,
    pub(crate) site: SiteName,
}

/// Why a certificate names no edge.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidIdentity {
    #[error("the client certificate cannot be read")]
    Malformed,
    #[error("the client certificate has no URI {PREFIX}<role>/<site>")]
    Missing,
    #[error("the client certificate names more than one edge")]
    Ambiguous,
}

impl Edge {
    /// The edge that a DER certificate's subject alternative names name.
    pub(crate) fn of_certificate(der: &[u8]) -> Result<Self, InvalidIdentity> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| InvalidIdentity::Malformed)?;
        let names = certificate.subject_alternative_name().map_err(|_| InvalidIdentity::Malformed)?;
        let mut edges =
            names.iter().flat_map(|extension| &extension.value.general_names).filter_map(|name| match name {
                GeneralName::URI(uri) => uri.parse().ok(),
                _ => None,
            });
        let edge = edges.next().ok_or(InvalidIdentity::Missing)?;
        if edges.next().is_some() { Err(InvalidIdentity::Ambiguous) } else { Ok(edge) }
    }
}

impl FromStr for Edge {
    type Err = InvalidIdentity;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        let (role, site) =
            uri.strip_prefix(PREFIX).and_then(|rest| rest.split_once('/')).ok_or(InvalidIdentity::Missing)?;
        if site.is_empty() || site.contains('/') {
            return Err(InvalidIdentity::Missing);
        }
        let role = role_of(role).ok_or(InvalidIdentity::Missing)?;
        Ok(Self { role, site: site.into() })
    }
}

/// A role by the word of [`Role`]'s Display.
pub(crate) fn role_of(word: &str) -> Option<Role> {
    [Role::Dns, Role::Lb].into_iter().find(|role| role.to_string() == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_names_role_and_site() {
        let edge: Edge = "meridian://edge/dns/asia-east1".parse().unwrap();
        assert_eq!(edge, Edge { role: Role::Dns, site: "asia-east1".into() });
    }

    #[test]
    fn anything_else_names_no_edge() {
        for uri in
            ["meridian://edge/dns/", "meridian://edge/admin/x", "meridian://edge/dns/a/b", "spiffe://a/b"]
        {
            assert!(uri.parse::<Edge>().is_err(), "{uri}");
        }
    }
}
