//! Addresses and routes of the private network.
//!
//! ```text
//! 10.(100+c).0.0/16    pods of cluster c; its zone z has 10.(100+c).(16z).0/20
//! 10.(100+c).250.0/24  load balancers of cluster c: they are cut off together with its pods
//! 10.c.0.0/24          Service addresses of cluster c (nobody answers them)
//! 10.200.n.2/16        site n; 10.200.0.1 is the root namespace, as sites see it
//! 203.0.113.10         the VIP, in each site's namespace
//! ```
//! A `local` route makes every address of a range an address of this machine: a program may listen on each, and
//! where nobody listens the kernel refuses, as a real pod network does. Without that route, but with an ordinary
//! one to `lo`, packets leave, come back, are nobody's, and vanish: connects and open flows stall, which is what a
//! partition looks like. (No route at all gives an error at once, which is not a partition.)

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, bail};
use ipnet::Ipv4Net;

/// The addresses of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterNet(u8);

impl ClusterNet {
    /// The addresses of cluster number `index`, below 100; 0 is the hub.
    ///
    /// # Panics
    /// When `index` is 100 or more: its ranges would collide with the sites'.
    #[must_use]
    pub fn new(index: u8) -> Self {
        assert!(index < 100, "cluster number {index} has no address range of its own");
        Self(index)
    }

    /// The number this was made from.
    #[must_use]
    pub fn index(self) -> u8 {
        self.0
    }

    /// Everything that pods and load balancers of the cluster may be given.
    #[must_use]
    pub fn pods(self) -> Ipv4Net {
        net(Ipv4Addr::new(10, 100 + self.0, 0, 0), 16)
    }

    /// The podCIDR of the node in zone number `zone`, below 15: 4,094 addresses.
    ///
    /// # Panics
    /// When `zone` is 15 or more: that range holds the load balancers.
    #[must_use]
    pub fn zone_pods(self, zone: u8) -> Ipv4Net {
        assert!(zone < 15, "zone number {zone} has no address range of its own");
        net(Ipv4Addr::new(10, 100 + self.0, zone * 16, 0), 20)
    }

    /// What the fake cloud gives to load balancers.
    #[must_use]
    pub fn load_balancers(self) -> Ipv4Net {
        net(Ipv4Addr::new(10, 100 + self.0, 250, 0), 24)
    }

    /// The API server's Service range.
    #[must_use]
    pub fn services(self) -> Ipv4Net {
        net(Ipv4Addr::new(10, self.0, 0, 0), 24)
    }
}

/// Makes every address of `net` an address of this namespace.
///
/// # Errors
/// When the route cannot be changed.
pub fn open(net: Ipv4Net) -> anyhow::Result<()> {
    ip(["route", "replace", "local", &net.to_string(), "dev", "lo"])
}

/// Cuts `net` off: connects to it and open flows with it stall, for everybody, until [`heal`].
///
/// # Errors
/// When the routes cannot be changed, for example because it is cut off already.
pub fn partition(net: Ipv4Net) -> anyhow::Result<()> {
    let net = net.to_string();
    ip(["route", "del", "local", &net, "dev", "lo"])?;
    ip(["route", "add", &net, "dev", "lo"])
}

/// Undoes [`partition`]; stalled flows continue with TCP's next retransmission.
///
/// # Errors
/// When the routes cannot be changed, for example because it is not cut off.
pub fn heal(net: Ipv4Net) -> anyhow::Result<()> {
    let net = net.to_string();
    ip(["route", "del", &net, "dev", "lo"])?;
    ip(["route", "add", "local", &net, "dev", "lo"])
}

/// Runs `ip` (iproute2) in this namespace.
///
/// # Errors
/// With what it printed, when it fails.
pub fn ip<I, S>(args: I) -> anyhow::Result<()>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new("ip");
    command.args(args);
    run(&mut command)
}

/// Runs `command` to its end.
///
/// # Errors
/// With what it printed, when it cannot be started or fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn net(base: Ipv4Addr, prefix: u8) -> Ipv4Net {
    Ipv4Net::new(base, prefix).expect("the prefix length is a constant below 33")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_two_clusters_do_not_overlap() {
        let (one, two) = (ClusterNet::new(1), ClusterNet::new(2));
        for a in [one.pods(), one.services()] {
            for b in [two.pods(), two.services()] {
                assert!(!a.contains(&b) && !b.contains(&a), "{a} and {b}");
            }
        }
    }

    #[test]
    fn zones_and_load_balancers_are_disjoint_parts_of_the_pod_range() {
        let cluster = ClusterNet::new(3);
        let mut parts: Vec<_> = (0..15).map(|z| cluster.zone_pods(z)).collect();
        parts.push(cluster.load_balancers());
        for (i, a) in parts.iter().enumerate() {
            assert!(cluster.pods().contains(a), "{a}");
            assert!(parts[..i].iter().all(|b| !a.contains(b) && !b.contains(a)), "{a}");
        }
    }
}
