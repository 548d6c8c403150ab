//! A fake kubelet and scheduler for one member cluster: all its nodes in one task.
//!
//! ```text
//!  no node --bind--> bound --zone up: listen, status--> Running, Ready <--set_ready--> Running, not Ready
//!                      ^                                     |
//!              zone down: stays Pending        deletionTimestamp: withdrawn, drain, close, delete
//!                                              kill: listener gone, delete
//! ```
//! Each zone has one node. Unbound pods go to the zone with the fewest pods of the same owner, also while that zone
//! is down: a killed zone's replacements stay Pending there, as on a cluster whose spread is required.

mod agent;
mod status;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use crate::control_plane::Cluster;
use crate::echo::Behaviour;
use crate::watch::Key;
use agent::Agent;

/// The user under which the kubelet appears in the audit log.
pub const USER: &str = "testbed-kubelet";
/// Where a pod listens that declares no container port.
pub const DEFAULT_PORT: u16 = 8080;
/// How long a request of a test to the kubelet may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the nodes of a member are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// The region's name: label `topology.kubernetes.io/region`.
    pub name: String,
    /// Its zones, one node each: label `topology.kubernetes.io/zone`.
    pub zones: Vec<String>,
}

/// A pod as the kubelet knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its zone, once bound.
    pub zone: Option<String>,
    /// Its address, while its server runs.
    pub address: Option<Ipv4Addr>,
    /// Whether its status says Ready.
    pub ready: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
}

/// The handle on the fake kubelet. Dropping it stops the kubelet and kills its pods.
#[derive(Debug)]
pub struct Kubelet {
    commands: mpsc::Sender<Command>,
    _task: AbortOnDropHandle<()>,
}

impl Kubelet {
    /// Creates the cluster's nodes and begins to run its pods.
    ///
    /// # Errors
    /// When the nodes cannot be created.
    pub async fn start(cluster: &Cluster, region: Region, behaviour: Arc<Behaviour>) -> anyhow::Result<Self> {
        let client = cluster.client_as(USER).await?;
        let mut agent = Agent::new(cluster.name(), &region.name, client.clone(), behaviour);
        for (index, zone) in region.zones.iter().enumerate() {
            let pods = cluster.net().zone_pods(u8::try_from(index).context("a region has few zones")?);
            let node = format!("node-{zone}");
            status::create_node(&client, &node, &region.name, zone, pods).await?;
            agent.add_zone(zone, node, pods);
        }
        let (commands, asked) = mpsc::channel(64);
        let task = AbortOnDropHandle::new(tokio::spawn(agent.run(asked)));
        Ok(Self { commands, _task: task })
    }

    /// Makes a pod ready or unready; returns when its status says so.
    ///
    /// # Errors
    /// When there is no such running pod, or its status cannot be written.
    pub async fn set_ready(&self, namespace: &str, pod: &str, ready: bool) -> anyhow::Result<()> {
        let key = (namespace.to_owned(), pod.to_owned());
        self.ask(|ack| Command::SetReady(key, ready, ack))
            .await
            .with_context(|| format!("setting {namespace}/{pod} ready={ready}"))
    }

    /// Kills a pod: its address refuses at once, then the object is deleted without grace.
    ///
    /// # Errors
    /// When there is no such pod, or it cannot be deleted.
    pub async fn kill_pod(&self, namespace: &str, pod: &str) -> anyhow::Result<()> {
        let key = (namespace.to_owned(), pod.to_owned());
        self.ask(|ack| Command::KillPod(key, ack)).await.with_context(|| format!("killing {namespace}/{pod}"))
    }

    /// Kills all pods of a zone and its node; pods bound to it stay Pending until [`Kubelet::restore_zone`].
    ///
    /// # Errors
    /// When there is no such zone, or an object cannot be written.
    pub async fn kill_zone(&self, zone: &str) -> anyhow::Result<()> {
        self.ask(|ack| Command::Zone(zone.to_owned(), true, ack))
            .await
            .with_context(|| format!("killing zone {zone}"))
    }

    /// Undoes [`Kubelet::kill_zone`]: the pods that wait there begin to run.
    ///
    /// # Errors
    /// When there is no such zone, or its node cannot be written.
    pub async fn restore_zone(&self, zone: &str) -> anyhow::Result<()> {
        self.ask(|ack| Command::Zone(zone.to_owned(), false, ack))
            .await
            .with_context(|| format!("restoring zone {zone}"))
    }

    /// Changes how long a terminating pod goes on accepting after its withdrawal from the slices (its grace period
    /// permitting); 1.5 s at the start.
    ///
    /// # Errors
    /// When the kubelet is gone.
    pub async fn set_drain(&self, drain: Duration) -> anyhow::Result<()> {
        self.ask(|ack| Command::SetDrain(drain, ack)).await
    }

    /// The pods it knows, by namespace and name.
    ///
    /// # Errors
    /// When the kubelet is gone.
    pub async fn pods(&self) -> anyhow::Result<Vec<Running>> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::List(answer)).await.ok().context("the kubelet is gone")?;
        answered.await.context("the kubelet is gone")
    }

    async fn ask(&self, command: impl FnOnce(Ack) -> Command) -> anyhow::Result<()> {
        let (ack, acked) = oneshot::channel();
        self.commands.send(command(ack)).await.ok().context("the kubelet is gone")?;
        let outcome =
            tokio::time::timeout(PATIENCE, acked).await.context("the kubelet did not manage in time")?;
        outcome.context("the kubelet gave up")?
    }
}

type Ack = oneshot::Sender<anyhow::Result<()>>;

#[derive(Debug)]
enum Command {
    SetReady(Key, bool, Ack),
    KillPod(Key, Ack),
    /// Whether the zone is to be down.
    Zone(String, bool, Ack),
    SetDrain(Duration, Ack),
    List(oneshot::Sender<Vec<Running>>),
}
