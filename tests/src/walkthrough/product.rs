//! Meridian's own processes on a bed: one controller on the hub, a name server and a proxy in each site.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use meridian_dns::testkit::{Fixture, Schema};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, SanType};

use crate::bed::{Bed, HUB};
use crate::pki::{Authority, Identity};
use crate::process::Process;
use crate::site::{ROOT, Site};

/// Where the controller's feed listens: an address that sites reach, so mutual TLS is in force.
pub const FEED: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(ROOT), 7800);
/// How long a process may take to end when asked.
const FAREWELL: Duration = Duration::from_secs(15);

/// The running processes.
#[derive(Debug)]
pub struct Product {
    files: Files,
    controller: Option<Process>,
    edges: Vec<Edge>,
}

/// The two processes of one site.
#[derive(Debug)]
struct Edge {
    site: String,
    dns: Option<Process>,
    lb: Option<Process>,
}

impl Product {
    /// Starts the controller (it installs its CRDs) and the edges.
    ///
    /// # Errors
    /// With the process that did not start.
    pub async fn start(bed: &Bed) -> anyhow::Result<Self> {
        let files = Files::write(bed)?;
        let mut product = Self { files, controller: None, edges: Vec::new() };
        product.start_controller(bed)?;
        for site in bed.sites() {
            product.edges.push(Edge { site: site.name().to_owned(), dns: None, lb: None });
            product.start_edge(bed, site.name())?;
        }
        Ok(product)
    }

    /// Starts the controller.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_controller(&mut self, bed: &Bed) -> anyhow::Result<()> {
        let mut arguments = flags(&[
            ("kubeconfig", bed.kubeconfig().display().to_string()),
            ("context", HUB.to_owned()),
            ("probe-interval-ms", "1000".to_owned()),
            ("lease-duration-s", "3".to_owned()),
            ("admin-listen", "127.0.0.1:9090".to_owned()),
            ("feed-listen", FEED.to_string()),
            ("feed-tls-ca", self.files.path("feed-ca.crt")),
            ("feed-tls-cert", self.files.path("feed.crt")),
            ("feed-tls-key", self.files.path("feed.key")),
        ]);
        arguments.push("--install-crds".to_owned());
        self.controller = Some(bed.run_binary("meridian-controller", None, &arguments, "controller")?);
        Ok(())
    }

    /// Asks the controller to end and waits until it has.
    ///
    /// # Errors
    /// When it is not running, or does not end in time.
    pub async fn stop_controller(&mut self) -> anyhow::Result<()> {
        let mut process = self.controller.take().context("the controller is not running")?;
        process.terminate(FAREWELL).await?;
        Ok(())
    }

    /// Kills the controller without warning.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill_controller(&mut self) -> anyhow::Result<()> {
        self.controller.take().context("the controller is not running")?.kill9()
    }

    /// The controller's process id, while it runs.
    #[must_use]
    pub fn controller_id(&self) -> Option<u32> {
        self.controller.as_ref().map(Process::id)
    }

    /// Starts name server and proxy of a site.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start_edge(&mut self, bed: &Bed, site: &str) -> anyhow::Result<()> {
        let place = bed.site(site);
        let dns =
            bed.run_binary("meridian-dns", Some(place), &self.dns_flags(place), &format!("dns-{site}"))?;
        let lb = bed.run_binary("meridian-lb", Some(place), &self.lb_flags(place), &format!("lb-{site}"))?;
        let edge = self.edges.iter_mut().find(|edge| edge.site == site).context("no such edge")?;
        (edge.dns, edge.lb) = (Some(dns), Some(lb));
        Ok(())
    }

    /// Asks name server and proxy of a site to end and waits until they have.
    ///
    /// # Errors
    /// When they do not end in time.
    pub async fn stop_edge(&mut self, site: &str) -> anyhow::Result<()> {
        let edge = self.edges.iter_mut().find(|edge| edge.site == site).context("no such edge")?;
        for process in [&mut edge.dns, &mut edge.lb] {
            if let Some(mut process) = process.take() {
                process.terminate(FAREWELL).await?;
            }
        }
        Ok(())
    }

    /// Fails when a process has ended that should be running; the error holds the end of its log.
    ///
    /// # Errors
    /// As said.
    pub fn check_running(&mut self) -> anyhow::Result<()> {
        let edges = self.edges.iter_mut().flat_map(|edge| [&mut edge.dns, &mut edge.lb]);
        for process in edges.chain([&mut self.controller]).flatten() {
            process.check_running()?;
        }
        Ok(())
    }

    /// A file of this run: `shop.crt`, `shop.key` and `shop-ca.crt` are those of the shop's host.
    #[must_use]
    pub fn file(&self, name: &str) -> String {
        self.files.path(name)
    }

    fn dns_flags(&self, site: &Site) -> Vec<String> {
        let mut arguments = self.edge_flags(site, "dns");
        arguments.extend(flags(&[
            ("listen", format!("{}:53", site.address())),
            ("geoip", self.files.path("geoip.mmdb")),
            ("admin-listen", "127.0.0.1:9053".to_owned()),
        ]));
        arguments
    }

    fn lb_flags(&self, site: &Site) -> Vec<String> {
        let mut arguments = self.edge_flags(site, "lb");
        arguments.extend(flags(&[
            ("http-listen", format!("{}:80", Ipv4Addr::UNSPECIFIED)),
            ("https-listen", format!("{}:443", Ipv4Addr::UNSPECIFIED)),
            ("admin-listen", "127.0.0.1:9080".to_owned()),
        ]));
        arguments
    }

    fn edge_flags(&self, site: &Site, role: &str) -> Vec<String> {
        let name = site.name();
        flags(&[
            ("feed", format!("https://{FEED}")),
            ("feed-ca", self.files.path("feed-ca.crt")),
            ("feed-cert", self.files.path(&format!("{role}-{name}.crt"))),
            ("feed-key", self.files.path(&format!("{role}-{name}.key"))),
            ("site", name.to_owned()),
            ("state-dir", self.files.path(&format!("{role}-{name}-state"))),
        ])
    }
}

fn flags(pairs: &[(&str, String)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

/// Certificates of the feed and of the shop, and the synthetic GeoIP database.
#[derive(Debug)]
struct Files {
    directory: PathBuf,
}

impl Files {
    fn write(bed: &Bed) -> anyhow::Result<Self> {
        let files = Self { directory: bed.run().join("product") };
        std::fs::create_dir_all(&files.directory)?;
        let authority = Authority::new("feed-ca")?;
        files.put("feed-ca.crt", &authority.certificate())?;
        files.put_identity("feed", &authority.server(&[&ROOT.to_string(), "127.0.0.1"])?)?;
        for site in bed.sites() {
            for role in ["dns", "lb"] {
                let identity = edge_identity(&authority, role, site.name())?;
                files.put_identity(&format!("{role}-{}", site.name()), &identity)?;
                std::fs::create_dir_all(files.directory.join(format!("{role}-{}-state", site.name())))?;
            }
        }
        let shop = Authority::new("shop-ca")?;
        files.put("shop-ca.crt", &shop.certificate())?;
        files.put_identity("shop", &shop.server(&[super::clients::HOST])?)?;
        let database = Fixture::standard().encode(Schema::Nested).context("encoding the GeoIP database")?;
        std::fs::write(files.directory.join("geoip.mmdb"), database).context("writing geoip.mmdb")?;
        Ok(files)
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn put(&self, name: &str, text: &str) -> anyhow::Result<()> {
        std::fs::write(self.directory.join(name), text).with_context(|| format!("writing {name}"))
    }

    fn put_identity(&self, name: &str, identity: &Identity) -> anyhow::Result<()> {
        self.put(&format!("{name}.crt"), &identity.certificate)?;
        self.put(&format!("{name}.key"), &identity.key)
    }
}

/// An edge's certificate: its URI says which role at which site it is.
///
/// # Errors
/// When signing fails.
pub fn edge_identity(authority: &Authority, role: &str, site: &str) -> anyhow::Result<Identity> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(format!("meridian://edge/{role}/{site}").try_into()?)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    authority.issue(params)
}

/// Joins a member through its proxy, with `meridianctl` as a person would.
///
/// # Errors
/// With what `meridianctl` said.
pub async fn join(bed: &Bed, member: &str) -> anyhow::Result<()> {
    let context = format!("{member}.proxied");
    let config = bed.kubeconfig().display().to_string();
    let arguments = [
        "join",
        member,
        "--cluster-context",
        &context,
        "--host-cluster-context",
        HUB,
        "--kubeconfig",
        &config,
    ];
    let output = bed.call_binary("meridianctl", &arguments).await?;
    if !output.status.success() {
        bail!("meridianctl join {member}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The file of a log of this run, for messages.
#[must_use]
pub fn log(bed: &Bed, name: &str) -> PathBuf {
    let directory: &Path = bed.run();
    directory.join(format!("{name}.log"))
}
