//! Real control planes: one etcd, and per cluster a kube-apiserver and a kube-controller-manager.
//!
//! Ports are fixed, which is safe only because the network namespace is ours alone: cluster c's API server is at
//! 127.0.0.1:(6440+c). The clusters share one etcd under a prefix each, so resource versions of different
//! clusters interleave; to fail one cluster, stop its API server, not etcd.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use rustix::process::Signal;

use crate::audit::{self, AuditLog};
use crate::kubeconfig::{self, Entry};
use crate::net::ClusterNet;
use crate::pki::{Authority, Identity};
use crate::process::Process;
use crate::wait::wait_until;

const ETCD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 2379);
/// How long an API server may take to become ready on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// The API groups that are served. Each one left out saves a watch cache, some 5 MiB.
const GROUPS: &[&str] = &[
    "api/v1",
    "admissionregistration.k8s.io/v1",
    "apiextensions.k8s.io/v1",
    "apiregistration.k8s.io/v1",
    "apps/v1",
    "authentication.k8s.io/v1",
    "authorization.k8s.io/v1",
    "autoscaling/v2",
    "batch/v1",
    "coordination.k8s.io/v1",
    "discovery.k8s.io/v1",
    "events.k8s.io/v1",
    "networking.k8s.io/v1",
    "policy/v1",
    "rbac.authorization.k8s.io/v1",
    // Nothing here uses claims, but quota keeps asking for them.
    "resource.k8s.io/v1",
    "scheduling.k8s.io/v1",
    "storage.k8s.io/v1",
];

/// What a hub needs that runs no workloads: namespaces and owned objects can be deleted, roles aggregate.
const HUB_CONTROLLERS: &str = "namespace-controller,garbage-collector-controller,serviceaccount-controller,clusterrole-aggregation-controller";

const MEMBER_CONTROLLERS: &str = "deployment-controller,replicaset-controller,statefulset-controller,daemonset-controller,\
job-controller,cronjob-controller,endpointslice-controller,endpoints-controller,endpointslice-mirroring-controller,\
namespace-controller,garbage-collector-controller,pod-garbage-collector-controller,serviceaccount-controller,\
serviceaccount-token-controller,root-ca-certificate-publisher-controller,disruption-controller,\
horizontal-pod-autoscaler-controller,resourcequota-controller,ttl-after-finished-controller,\
clusterrole-aggregation-controller,validatingadmissionpolicy-status-controller";

/// Whether a cluster runs workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// No workload controllers: a Deployment there is only an object.
    Hub,
    /// All the controllers an ordinary cluster has, but for those of nodes and volumes.
    Member,
}

/// The store that all clusters share.
#[derive(Debug)]
pub struct Etcd {
    process: Process,
}

impl Etcd {
    /// Starts etcd with its data in memory: a private tmpfs, gone with the namespace.
    ///
    /// # Errors
    /// When it cannot be started or is not healthy within 30 s.
    pub async fn start(programs: &Path, run: &Path) -> anyhow::Result<Self> {
        let data = run.join("etcd");
        std::fs::create_dir_all(&data)?;
        crate::net::run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=700", "tmpfs"]).arg(&data))?;
        let (client, peer) = (format!("http://{ETCD}"), "http://127.0.0.1:2380");
        let mut command = Command::new(programs.join("etcd"));
        command
            .arg(format!("--data-dir={}", data.join("data").display()))
            .args(["--unsafe-no-fsync", "--log-level=warn", "--quota-backend-bytes=4294967296"])
            .args(["--auto-compaction-mode=periodic", "--auto-compaction-retention=5m"])
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=default={peer}"))
            .env("GOMAXPROCS", "2");
        let process = Mutex::new(Some(Process::start("etcd", &mut command, run.join("etcd.log"))?));
        let accepts = wait_until("etcd to accept connections", Duration::from_secs(30), async || {
            Ok(tokio::net::TcpStream::connect(ETCD).await.is_ok().then_some(()))
        });
        unless_ended(&process, accepts).await?;
        let process = process.into_inner().ok().flatten().context("etcd was just started")?;
        Ok(Self { process })
    }

    /// Its resident memory in MiB.
    #[must_use]
    pub fn resident_mib(&self) -> u64 {
        self.process.resident_mib()
    }
}

/// One Kubernetes cluster, as far as a control plane makes one.
pub struct Cluster {
    name: String,
    role: Role,
    net: ClusterNet,
    programs: PathBuf,
    dir: PathBuf,
    authority: Authority,
    entry: Entry,
    client: Client,
    audit: AuditLog,
    // In the order of their end: the controllers first, or they log a storm of errors.
    controllers: Mutex<Option<Process>>,
    api: Mutex<Option<Process>>,
}

impl Cluster {
    /// Starts cluster number `index` and waits until its API server is ready. RBAC is on. Files go to a directory
    /// of the cluster's name under `run`.
    ///
    /// # Errors
    /// When a process cannot be started, ends early or does not become ready, with the end of its log.
    pub async fn start(
        programs: &Path,
        run: &Path,
        name: &str,
        index: u8,
        role: Role,
    ) -> anyhow::Result<Arc<Self>> {
        let net = ClusterNet::new(index);
        let dir = run.join(name);
        std::fs::create_dir_all(&dir)?;
        let authority = Authority::new(&format!("{name}-ca"))?;
        let entry = Entry {
            name: name.to_owned(),
            server: format!("https://127.0.0.1:{}", 6440 + u16::from(index)),
            authority: authority.certificate(),
            identity: authority.client("admin", "system:masters")?,
        };
        let files = Files::write(&dir, net, &authority, &entry)?;
        let client = kubeconfig::client(&kubeconfig::text(std::slice::from_ref(&entry))).await?;
        let cluster = Self {
            name: name.to_owned(),
            role,
            net,
            programs: programs.to_owned(),
            audit: AuditLog::new(dir.join("audit.log")),
            dir,
            authority,
            entry,
            client,
            controllers: Mutex::new(None),
            api: Mutex::new(None),
        };
        cluster.start_api().await?;
        let process = Process::start(
            format!("{name}'s controller manager"),
            &mut cluster.controller_command(&files),
            cluster.dir.join("controllers.log"),
        )?;
        *locked(&cluster.controllers) = Some(process);
        Ok(Arc::new(cluster))
    }

    /// The cluster's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its addresses.
    #[must_use]
    pub fn net(&self) -> ClusterNet {
        self.net
    }

    /// A client with all rights, called "admin".
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A client with all rights, under another name: the audit log tells them apart.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub async fn client_as(&self, user: &str) -> anyhow::Result<Client> {
        let entry = Entry { identity: self.identity(user, "system:masters")?, ..self.entry.clone() };
        kubeconfig::client(&kubeconfig::text(&[entry])).await
    }

    /// A certificate with which the API server knows its holder as `user` in `group`.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn identity(&self, user: &str, group: &str) -> anyhow::Result<Identity> {
        self.authority.client(user, group)
    }

    /// The admin's entry for kubeconfigs; its context is called as the cluster.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The admin's kubeconfig, everything inline.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The directory of the cluster's logs and certificates.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the API server listens.
    #[must_use]
    pub fn api_address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 6440 + u16::from(self.net.index())))
    }

    /// What was written at this API server.
    #[must_use]
    pub fn audit(&self) -> &AuditLog {
        &self.audit
    }

    /// Kills the API server (SIGKILL). Pods go on answering; connects to the API are refused.
    ///
    /// # Errors
    /// When its end cannot be waited for.
    pub fn stop_api(&self) -> anyhow::Result<()> {
        match locked(&self.api).take() {
            Some(mut process) => process.kill9(),
            None => Ok(()),
        }
    }

    /// Starts the API server, on the same port and the same data as before, and waits until it is ready: `/readyz`
    /// says so and the default namespace exists.
    ///
    /// # Errors
    /// When it ends early or does not become ready, with the end of its log.
    pub async fn start_api(&self) -> anyhow::Result<()> {
        let log = self.dir.join("apiserver.log");
        let process = Process::start(format!("{}'s API server", self.name), &mut self.api_command(), log)?;
        *locked(&self.api) = Some(process);
        let namespaces: Api<Namespace> = Api::all(self.client());
        let ready = wait_until(format!("the API server of {}", self.name), READY_WITHIN, async || {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            self.client.request_text(request).await?;
            Ok(namespaces.get_opt("default").await?)
        });
        unless_ended(&self.api, ready).await?;
        Ok(())
    }

    /// Freezes the controller manager (SIGSTOP): Deployments, EndpointSlices and the like stay as they are.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze_controllers(&self) -> anyhow::Result<()> {
        self.signal_controllers(Signal::STOP)
    }

    /// Undoes [`Cluster::freeze_controllers`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw_controllers(&self) -> anyhow::Result<()> {
        self.signal_controllers(Signal::CONT)
    }

    fn signal_controllers(&self, signal: Signal) -> anyhow::Result<()> {
        locked(&self.controllers).as_ref().context("there is no controller manager")?.signal(signal)
    }

    /// Resident memory in MiB: (API server, controller manager).
    #[must_use]
    pub fn resident_mib(&self) -> (u64, u64) {
        let of = |process: &Mutex<Option<Process>>| locked(process).as_ref().map_or(0, Process::resident_mib);
        (of(&self.api), of(&self.controllers))
    }

    fn api_command(&self) -> Command {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let groups = GROUPS.iter().map(|g| format!(",{g}=true")).collect::<String>();
        let mut command = Command::new(self.programs.join("kube-apiserver"));
        command
            .arg(format!("--etcd-servers=http://{ETCD}"))
            .arg(format!("--etcd-prefix=/{}", self.name))
            .args(["--bind-address=127.0.0.1", "--endpoint-reconciler-type=none", "--allow-privileged"])
            .arg(format!("--secure-port={}", self.api_address().port()))
            // Loopback is refused here; nobody connects to it, as no endpoint is made from it.
            .arg(format!("--advertise-address={}", self.net.load_balancers().network()))
            .arg(format!("--service-cluster-ip-range={}", self.net.services()))
            .arg(format!("--tls-cert-file={}", file("server.crt")))
            .arg(format!("--tls-private-key-file={}", file("server.key")))
            .arg(format!("--client-ca-file={}", file("ca.crt")))
            .arg("--authorization-mode=RBAC")
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--service-account-key-file={}", file("service-account.pub")))
            .arg(format!("--service-account-signing-key-file={}", file("service-account.key")))
            .arg(concat!(
                "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition,DefaultStorageClass,",
                "StorageObjectInUseProtection,DefaultIngressClass,RuntimeClass"
            ))
            .args([
                "--enable-priority-and-fairness=false",
                "--max-requests-inflight=0",
                "--max-mutating-requests-inflight=0",
            ])
            .args(["--event-ttl=10m", "--profiling=false", "--v=1"])
            .arg(format!("--runtime-config=api/all=false{groups}"))
            .arg(format!("--audit-policy-file={}", file("audit-policy.yaml")))
            .arg(format!("--audit-log-path={}", file("audit.log")))
            .args(["--audit-log-mode=blocking", "--audit-log-maxsize=2000"])
            // Measured: GOGC=50 saves 60 MiB and costs a quarter more CPU per write.
            .envs([("GOMEMLIMIT", "400MiB"), ("GOMAXPROCS", "2")]);
        if self.net.index() > 0 {
            // One of those who share an etcd compacts it; etcd itself does so too.
            command.arg("--etcd-compaction-interval=0");
        }
        command
    }

    fn controller_command(&self, files: &Files) -> Command {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let kubeconfig = files.controllers.display();
        let mut command = Command::new(self.programs.join("kube-controller-manager"));
        command
            .arg(format!("--kubeconfig={kubeconfig}"))
            .args(["--leader-elect=false", "--secure-port=0", "--use-service-account-credentials=false"])
            .arg(format!("--root-ca-file={}", file("ca.crt")))
            .arg(format!("--service-account-private-key-file={}", file("service-account.key")))
            .args([
                "--allocate-node-cidrs=false",
                "--kube-api-qps=500",
                "--kube-api-burst=1000",
                "--profiling=false",
                "--v=1",
            ])
            .arg(format!(
                "--controllers={}",
                if self.role == Role::Hub { HUB_CONTROLLERS } else { MEMBER_CONTROLLERS }
            ))
            .envs([("GOMEMLIMIT", "150MiB"), ("GOGC", "50"), ("GOMAXPROCS", "2")]);
        command
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("name", &self.name)
            .field("api", &self.api_address())
            .finish_non_exhaustive()
    }
}

/// What the processes of a cluster read.
struct Files {
    controllers: PathBuf,
}

impl Files {
    fn write(dir: &Path, net: ClusterNet, authority: &Authority, admin: &Entry) -> anyhow::Result<Self> {
        let first_service = Ipv4Addr::from(u32::from(net.services().network()) + 1).to_string();
        let names = ["127.0.0.1", "localhost", &first_service, "kubernetes.default.svc"];
        let server = authority.server(&names)?;
        let (private, public) = crate::pki::service_account_key()?;
        for (name, text) in [
            ("ca.crt", authority.certificate()),
            ("server.crt", server.certificate),
            ("server.key", server.key),
            ("service-account.key", private),
            ("service-account.pub", public),
            ("audit-policy.yaml", audit::POLICY.to_owned()),
        ] {
            std::fs::write(dir.join(name), text).with_context(|| format!("writing {name}"))?;
        }
        kubeconfig::write(&dir.join("kubeconfig"), std::slice::from_ref(admin))?;
        let controllers = dir.join("controllers.kubeconfig");
        let identity = authority.client("system:kube-controller-manager", "system:masters")?;
        kubeconfig::write(&controllers, &[Entry { identity, ..admin.clone() }])?;
        Ok(Self { controllers })
    }
}

/// Waits for `started`, but not for a process that has ended.
async fn unless_ended<T>(
    process: &Mutex<Option<Process>>,
    started: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let ended = async {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if let Some(Err(error)) = locked(process).as_mut().map(Process::check_running) {
                return error;
            }
        }
    };
    tokio::select! {
        started = started => started.with_context(|| {
            let tail = locked(process).as_ref().map(|p| p.log_tail(10)).unwrap_or_default();
            format!("the end of its log:\n{tail}")
        }),
        error = ended => Err(error),
    }
}

/// A panic elsewhere must not keep a process from being ended.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
