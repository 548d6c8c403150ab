//! Sites: namespaces of their own, where edges run and clients arrive.
//!
//! ```text
//! root namespace: pods, load balancers, API servers, controller        10.200.0.1 on the bridge "sites"
//!        bridge --- veth site1 === up0 in site 1: 10.200.1.2, and the VIP on lo
//!               --- veth site2 === up0 in site 2: 10.200.2.2, and the same VIP on lo
//! ```
//! Sites are joined by a bridge rather than by routing: with forwarding off everywhere, a packet from a site to a
//! partitioned pod range is dropped without a word, as it must be, where a forwarding kernel would answer "no route
//! to host". Neighbour entries are permanent, so that a site that is cut off (its port taken out of the bridge) is
//! silent instead of failing address resolution with an error after three seconds.

use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::net::{ip, run};

/// The root namespace's address, as sites see it: where the controller's feed listens.
pub const ROOT: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// The one virtual address that every site has (a documentation address, RFC 5737).
pub const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The most sites that have neighbour entries for each other.
const MOST: u8 = 16;
const BRIDGE: &str = "sites";

/// Makes the bridge that joins the sites. Once per namespace, before the first site.
///
/// # Errors
/// When the kernel has no bridges, or there is one already.
pub fn lay_bridge() -> anyhow::Result<()> {
    ip(["link", "add", BRIDGE, "type", "bridge"])?;
    ip(["link", "set", BRIDGE, "address", &mac(0)])?;
    ip(["addr", "add", &format!("{ROOT}/16"), "dev", BRIDGE])?;
    ip(["link", "set", BRIDGE, "up"])?;
    for n in 1..=MOST {
        ip([
            "neigh",
            "replace",
            &address(n).to_string(),
            "lladdr",
            &mac(n),
            "nud",
            "permanent",
            "dev",
            BRIDGE,
        ])?;
    }
    Ok(())
}

/// One site's namespace. Dropping it ends the process that holds it open, not the programs inside.
#[derive(Debug)]
pub struct Site {
    name: String,
    index: u8,
    holder: Child,
}

impl Site {
    /// Makes the namespace of site number `index`, from 1 to 16.
    ///
    /// # Errors
    /// When the namespace or its link cannot be made.
    pub fn start(name: impl Into<String>, index: u8) -> anyhow::Result<Self> {
        let name = name.into();
        if !(1..=MOST).contains(&index) {
            bail!("site {name} has number {index}; sites are numbered 1 to {MOST}");
        }
        let holder = Command::new("unshare")
            .args(["--net", "--", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .context("starting the process that holds a site's namespace")?;
        let site = Self { name, index, holder };
        site.wait_for_namespace()?;
        site.connect().with_context(|| format!("connecting site {}", site.name))?;
        Ok(site)
    }

    /// The site's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address that only this site has.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        address(self.index)
    }

    /// A command that will run inside the site. The process that it starts is the program itself.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--net", "--"]).arg(program);
        command
    }

    /// Runs asynchronous code inside the site, on a thread and a small runtime of its own: sockets that it opens
    /// are the site's, for as long as they live.
    ///
    /// # Errors
    /// When the thread cannot enter the namespace, or panics.
    pub async fn inside<T, F, Fut>(&self, f: F) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T>,
    {
        let namespace = std::fs::File::open(self.namespace())?;
        let (answer, answered) = tokio::sync::oneshot::channel();
        std::thread::Builder::new().name(format!("in-{}", self.name)).spawn(move || {
            let run = || -> anyhow::Result<T> {
                let link = std::os::fd::AsFd::as_fd(&namespace);
                move_into_link_name_space(link, Some(LinkNameSpaceType::Network))?;
                // Made here: its threads must be the site's too.
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                Ok(runtime.block_on(f()))
            };
            answer.send(run()).ok();
        })?;
        answered.await.with_context(|| format!("the thread in site {} panicked", self.name))?
    }

    /// Cuts the site off: nothing comes in or goes out, without an error, until [`Site::heal`].
    ///
    /// # Errors
    /// When the link cannot be changed.
    pub fn cut(&self) -> anyhow::Result<()> {
        ip(["link", "set", &self.link(), "nomaster"])
    }

    /// Undoes [`Site::cut`]; stalled flows continue with TCP's next retransmission.
    ///
    /// # Errors
    /// When the link cannot be changed.
    pub fn heal(&self) -> anyhow::Result<()> {
        ip(["link", "set", &self.link(), "master", BRIDGE])
    }

    fn link(&self) -> String {
        format!("site{}", self.index)
    }

    fn namespace(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    fn wait_for_namespace(&self) -> anyhow::Result<()> {
        let ours = std::fs::read_link("/proc/self/ns/net")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::fs::read_link(self.namespace())
            .with_context(|| format!("the holder of site {} is gone", self.name))?
            == ours
        {
            if Instant::now() > deadline {
                bail!("site {} got no namespace within 10 s", self.name);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn connect(&self) -> anyhow::Result<()> {
        let (link, holder) = (self.link(), self.holder.id().to_string());
        ip(["link", "add", &link, "type", "veth", "peer", "name", "up0", "netns", &holder])?;
        ip(["link", "set", &link, "master", BRIDGE, "up"])?;
        // One process for all: `ip -batch` would do, but reports errors by line number only.
        let mut lines = vec![
            "link set lo up".to_owned(),
            format!("link set up0 address {}", mac(self.index)),
            format!("addr add {}/16 dev up0", self.address()),
            format!("addr add {VIP}/32 dev lo"),
            "link set up0 up".to_owned(),
            format!("route add default via {ROOT}"),
        ];
        let others = (0..=MOST).filter(|n| *n != self.index);
        lines.extend(
            others.map(|n| format!("neigh replace {} lladdr {} nud permanent dev up0", address(n), mac(n))),
        );
        let mut script = lines.iter().map(|line| format!("ip {line}")).collect::<Vec<_>>().join(" && ");
        // A load generator with a connection per request would run out of ports within two minutes.
        script.push_str(" && echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse");
        run(self.command("sh").args(["-c", &script]))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

fn address(n: u8) -> Ipv4Addr {
    if n == 0 { ROOT } else { Ipv4Addr::new(10, 200, n, 2) }
}

/// Fixed, so that neighbours can be known beforehand; locally administered.
fn mac(n: u8) -> String {
    format!("02:00:00:00:00:{n:02x}")
}
