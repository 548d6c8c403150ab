//! Certificates for tests: one authority per cluster (or feed), and what it signs.

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};

/// A certificate authority. Its keys are ECDSA P-256; what it signs does not expire.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate (chain of one) and its private key, as PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The key, PKCS #8.
    pub key: String,
}

impl Authority {
    /// A new authority called `name`.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(name, "");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)
            .context("signing an authority's certificate")?;
        Ok(Self { issuer })
    }

    /// The authority's own certificate, as PEM.
    #[must_use]
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// A server's certificate for `names`: DNS names and IP addresses.
    ///
    /// # Errors
    /// When a name is not one.
    pub fn server(&self, names: &[&str]) -> anyhow::Result<Identity> {
        let params = params(
            names.first().copied().unwrap_or("server"),
            "",
            names,
            &[ExtendedKeyUsagePurpose::ServerAuth],
        )?;
        self.issue(params)
    }

    /// A client's certificate: to Kubernetes, `user` and, if not empty, its `group`.
    ///
    /// # Errors
    /// When signing fails.
    pub fn client(&self, user: &str, group: &str) -> anyhow::Result<Identity> {
        self.issue(params(user, group, &[], &[ExtendedKeyUsagePurpose::ClientAuth])?)
    }

    /// A certificate for both sides of mutual TLS.
    ///
    /// # Errors
    /// When a name is not one.
    pub fn peer(&self, common_name: &str, names: &[&str]) -> anyhow::Result<Identity> {
        let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params(common_name, "", names, &usages)?)
    }

    /// Signs any certificate, with a new key.
    ///
    /// # Errors
    /// When signing fails.
    pub fn issue(&self, params: CertificateParams) -> anyhow::Result<Identity> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer).context("signing a certificate")?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// The key that signs service account tokens: (private, public), as PEM.
///
/// # Errors
/// When the system gives no randomness.
pub fn service_account_key() -> anyhow::Result<(String, String)> {
    let key = KeyPair::generate()?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

fn params(
    common_name: &str,
    organization: &str,
    names: &[&str],
    usages: &[ExtendedKeyUsagePurpose],
) -> anyhow::Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
    let mut params = CertificateParams::new(names).context("subject alternative names")?;
    params.distinguished_name = distinguished_name(common_name, organization);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages.to_vec();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn distinguished_name(common_name: &str, organization: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    if !organization.is_empty() {
        name.push(DnType::OrganizationName, organization);
    }
    name
}
