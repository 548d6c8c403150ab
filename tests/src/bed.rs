//! The whole fleet, started and ended together.
//!
//! ```text
//! root namespace: etcd, hub, members (API server, controllers, kubelet, cloud, pods), a proxy before each member's API
//! sites:          asia, europe, america; one address each and one VIP for all
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::cloud::Cloud;
use crate::control_plane::{Cluster, Etcd, Role};
use crate::echo::Behaviour;
use crate::kubeconfig::{self, Entry};
use crate::kubelet::{Kubelet, Region};
use crate::namespace::Inside;
use crate::net;
use crate::process::{Process, tail};
use crate::site::{Site, lay_bridge};
use crate::tcp_proxy::TcpProxy;

/// The name of the hub, its context and its directory.
pub const HUB: &str = "hub";

/// What to start.
#[derive(Debug, Clone)]
pub struct BedSpec {
    /// The members: each is named as its region.
    pub members: Vec<Region>,
    /// The names of the sites.
    pub sites: Vec<String>,
}

impl Default for BedSpec {
    /// The fleet of the Kubernetes 1.4 article: three members of three zones, three sites.
    fn default() -> Self {
        let member = |name: &str, zones: [&str; 3]| Region {
            name: name.to_owned(),
            zones: zones.iter().map(|letter| format!("{name}-{letter}")).collect(),
        };
        Self {
            members: vec![
                member("asia-east1", ["a", "b", "c"]),
                member("europe-west1", ["b", "c", "d"]),
                member("us-central1", ["a", "b", "c"]),
            ],
            sites: ["asia", "europe", "america"].map(str::to_owned).to_vec(),
        }
    }
}

/// A member cluster with its machinery.
#[derive(Debug)]
pub struct Member {
    /// The control plane.
    pub cluster: Arc<Cluster>,
    /// Runs its pods.
    pub kubelet: Kubelet,
    /// Gives its load balancers addresses.
    pub cloud: Cloud,
    /// What its pods have in common.
    pub pods: Arc<Behaviour>,
    /// Stands before its API server; the context `NAME.proxied` goes through it.
    pub proxy: TcpProxy,
}

impl Member {
    /// The member's name, which is also its region's.
    #[must_use]
    pub fn name(&self) -> &str {
        self.cluster.name()
    }

    /// Cuts its pods and load balancers off: for everybody, connects and open flows stall.
    ///
    /// # Errors
    /// When it is cut off already.
    pub fn partition_pods(&self) -> anyhow::Result<()> {
        net::partition(self.cluster.net().pods())
    }

    /// Undoes [`Member::partition_pods`].
    ///
    /// # Errors
    /// When it is not cut off.
    pub fn heal_pods(&self) -> anyhow::Result<()> {
        net::heal(self.cluster.net().pods())
    }
}

/// A running fleet. Fields are dropped in order: what depends on another goes first.
#[derive(Debug)]
pub struct Bed {
    members: Vec<Member>,
    sites: Vec<Site>,
    hub: Arc<Cluster>,
    etcd: Etcd,
    run: PathBuf,
    programs: PathBuf,
    started_in: Duration,
}

impl Bed {
    /// Starts everything, in parallel, and returns when all API servers are ready and all nodes exist. Must run
    /// inside a multi-threaded tokio runtime.
    ///
    /// # Errors
    /// With what did not start, and the end of its log.
    pub async fn start(inside: &Inside, spec: BedSpec) -> anyhow::Result<Self> {
        let begun = std::time::Instant::now();
        let (run, programs) = (inside.run.clone(), inside.programs.clone());
        lay_bridge().context("laying the bridge between the sites")?;
        let mut sites = Vec::new();
        for (name, number) in spec.sites.into_iter().zip(1..) {
            sites.push(Site::start(name, number)?);
        }
        let etcd = Etcd::start(&programs, &run).await?;
        let hub = Cluster::start(&programs, &run, HUB, 0, Role::Hub);
        let members = spec
            .members
            .into_iter()
            .zip(1..)
            .map(|(region, number)| start_member(&programs, &run, region, number));
        let (hub, members) = tokio::try_join!(hub, futures::future::try_join_all(members))?;
        let bed = Self { members, sites, hub, etcd, run, programs, started_in: begun.elapsed() };
        kubeconfig::write(&bed.kubeconfig(), &bed.entries())?;
        Ok(bed)
    }

    /// The hub.
    #[must_use]
    pub fn hub(&self) -> &Arc<Cluster> {
        &self.hub
    }

    /// All members, in the order of the spec.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// A member by its name.
    ///
    /// # Panics
    /// When there is none of that name: the test is wrong.
    #[must_use]
    pub fn member(&self, name: &str) -> &Member {
        let found = self.members.iter().find(|member| member.name() == name);
        found.unwrap_or_else(|| panic!("the bed has no member {name}"))
    }

    /// All sites, in the order of the spec.
    #[must_use]
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// A site by its name.
    ///
    /// # Panics
    /// When there is none of that name: the test is wrong.
    #[must_use]
    pub fn site(&self, name: &str) -> &Site {
        let found = self.sites.iter().find(|site| site.name() == name);
        found.unwrap_or_else(|| panic!("the bed has no site {name}"))
    }

    /// The directory of this run's logs and files.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The directory of `kubectl` and the control plane's programs.
    #[must_use]
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// How long the start took.
    #[must_use]
    pub fn started_in(&self) -> Duration {
        self.started_in
    }

    /// A kubeconfig with the contexts `hub`, each member's name, and `NAME.proxied` for each member, which reaches
    /// it through its proxy. Everything is inline. The current context is the hub's.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.run.join("kubeconfig")
    }

    /// Runs kubectl against a context of [`Bed::kubeconfig`] and returns what it printed.
    ///
    /// # Errors
    /// With its standard error, when it fails.
    pub async fn kubectl(&self, context: &str, args: &[&str]) -> anyhow::Result<String> {
        self.kubectl_with(context, args, "").await
    }

    /// Applies manifests (YAML or JSON, several documents) to a context.
    ///
    /// # Errors
    /// With kubectl's standard error, when it fails.
    pub async fn apply(&self, context: &str, manifests: &str) -> anyhow::Result<String> {
        self.kubectl_with(context, &["apply", "-f", "-"], manifests).await
    }

    async fn kubectl_with(&self, context: &str, args: &[&str], input: &str) -> anyhow::Result<String> {
        use tokio::io::AsyncWriteExt;
        let mut child = tokio::process::Command::new(self.programs.join("kubectl"))
            .arg(format!("--kubeconfig={}", self.kubeconfig().display()))
            // The cache of discovery would go to the home directory, and be shared by runs that share nothing.
            .arg(format!("--cache-dir={}", self.run.join("kubectl-cache").display()))
            .arg(format!("--context={context}"))
            .args(args)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            // kubectl may end without reading; its own error says more than a broken pipe.
            stdin.write_all(input.as_bytes()).await.ok();
        }
        let output = child.wait_with_output().await?;
        if !output.status.success() {
            bail!(
                "kubectl --context={context} {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts one of the project's binaries, in the root namespace or in a site, with its outputs in the file
    /// `LOG.log` of the run's directory. It ends when the returned value is dropped.
    ///
    /// # Errors
    /// When the binary was not built (the message says how to), or cannot be started.
    pub fn run_binary(
        &self,
        name: &str,
        site: Option<&Site>,
        args: &[String],
        log: &str,
    ) -> anyhow::Result<Process> {
        self.run_binary_with(name, site, args, log, |_| {})
    }

    /// As [`Bed::run_binary`]; `change` may set the environment or the working directory.
    ///
    /// # Errors
    /// As [`Bed::run_binary`].
    pub fn run_binary_with(
        &self,
        name: &str,
        site: Option<&Site>,
        args: &[String],
        log: &str,
        change: impl FnOnce(&mut Command),
    ) -> anyhow::Result<Process> {
        let program = binary(name)?;
        let mut command = site.map_or_else(|| Command::new(&program), |site| site.command(&program));
        command.args(args);
        change(&mut command);
        Process::start(log, &mut command, self.run.join(format!("{log}.log")))
    }

    /// Runs one of the project's binaries to its end, for example `meridianctl`.
    ///
    /// # Errors
    /// When the binary was not built or cannot be started. Its status is for the caller to judge.
    pub async fn call_binary(&self, name: &str, args: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(binary(name)?);
        command.args(args).env("KUBECONFIG", self.kubeconfig());
        crate::namespace::forget(&mut command);
        tokio::process::Command::from(command)
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("running {name}"))
    }

    /// Resident memory by process, in MiB.
    #[must_use]
    pub fn resident_mib(&self) -> Vec<(String, u64)> {
        let mut all = vec![("etcd".to_owned(), self.etcd.resident_mib())];
        for cluster in std::iter::once(&self.hub).chain(self.members.iter().map(|m| &m.cluster)) {
            let (api, controllers) = cluster.resident_mib();
            all.push((format!("{} API server", cluster.name()), api));
            all.push((format!("{} controller manager", cluster.name()), controllers));
        }
        all
    }

    /// The ends of all logs of the run, for the message of a failed test.
    #[must_use]
    pub fn log_tails(&self, lines: usize) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(&self.run).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                text += &format!("--- {}\n{}\n", path.display(), tail(&path, lines));
            }
        }
        text
    }

    fn entries(&self) -> Vec<Entry> {
        let mut entries = vec![self.hub.entry().clone()];
        for member in &self.members {
            let direct = member.cluster.entry().clone();
            let proxied = Entry {
                name: format!("{}.proxied", direct.name),
                server: format!("https://{}", member.proxy.address()),
                ..direct.clone()
            };
            entries.extend([direct, proxied]);
        }
        entries
    }
}

async fn start_member(programs: &Path, run: &Path, region: Region, number: u8) -> anyhow::Result<Member> {
    let cluster = Cluster::start(programs, run, &region.name, number, Role::Member).await?;
    net::open(cluster.net().pods())?;
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 7440 + u16::from(number)));
    let proxy = TcpProxy::start(listen, cluster.api_address())
        .await
        .context("starting a proxy before an API server")?;
    let pods = Arc::new(Behaviour::default());
    let kubelet = Kubelet::start(&cluster, region, Arc::clone(&pods)).await?;
    let cloud = Cloud::start(&cluster).await?;
    Ok(Member { cluster, kubelet, cloud, pods, proxy })
}

/// One of the project's binaries, built beforehand: looked for beside the running program, whose tests are in
/// `deps` of the same directory.
///
/// # Errors
/// When it does not exist; the message says how to build it.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("finding this program's own file")?;
    let mut places = here.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    match places.find(|file| file.is_file()) {
        Some(file) => Ok(file),
        None => bail!("there is no {name} beside {}; build it first: cargo build --bins", here.display()),
    }
}
