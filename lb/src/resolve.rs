//! Names of gateways -> addresses, in the background, so that no request ever waits for DNS.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use meridian_core::name::DnsName;
use tokio::{net::lookup_host, sync::watch, time};
use tokio_util::sync::CancellationToken;

use crate::addresses::Hosts;

/// Between two lookups of the same name. The system's resolver tells no TTL; cloud load balancers use 60 s.
const INTERVAL: Duration = Duration::from_secs(30);
/// A lookup that takes longer counts as failed.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Lookups at the same time: the system's resolver blocks a thread each.
const CONCURRENT: usize = 8;

/// Resolves `names` again and again, and at once when they change, until `token` is cancelled. A name that
/// cannot be resolved keeps its last addresses; a name that is not asked for any more is forgotten.
pub async fn run(
    mut names: watch::Receiver<BTreeSet<DnsName>>,
    resolved: watch::Sender<Arc<Hosts>>,
    token: CancellationToken,
) {
    loop {
        let wanted = names.borrow_and_update().clone();
        let pass = async {
            let held = resolved.borrow().clone();
            let hosts = resolve_all(wanted, &held).await;
            resolved.send_if_modified(|held| {
                let changed = **held != hosts;
                if changed {
                    *held = Arc::new(hosts);
                }
                changed
            });
            time::sleep(INTERVAL).await;
        };
        tokio::select! {
            () = token.cancelled() => return,
            changed = names.changed() => if changed.is_err() { return },
            () = pass => {}
        }
    }
}

async fn resolve_all(names: BTreeSet<DnsName>, held: &Hosts) -> Hosts {
    stream::iter(names)
        .map(|name| async move {
            let addresses = match time::timeout(TIMEOUT, lookup(&name)).await {
                Ok(Ok(addresses)) => addresses,
                Ok(Err(error)) => {
                    tracing::warn!(host = %name, %error, "Gateway name cannot be resolved, last addresses stay");
                    held.get(&name).cloned().unwrap_or_default()
                }
                Err(_) => {
                    tracing::warn!(host = %name, "Gateway name is not resolved in time, last addresses stay");
                    held.get(&name).cloned().unwrap_or_default()
                }
            };
            (name, addresses)
        })
        .buffer_unordered(CONCURRENT)
        .collect()
        .await
}

async fn lookup(name: &DnsName) -> std::io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<IpAddr> = lookup_host((name.as_str(), 0)).await?.map(|found| found.ip()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn name_that_fails_keeps_its_last_addresses() {
        // RFC 6761 section 6.4: `.invalid` never resolves.
        let name: DnsName = "gateway.invalid".parse().unwrap();
        let held = Hosts::from([(name.clone(), vec![[192, 0, 2, 1].into()])]);
        assert_eq!(resolve_all([name].into(), &held).await, held);
    }

    #[tokio::test]
    async fn name_is_resolved() {
        let name: DnsName = "localhost".parse().unwrap();
        let hosts = resolve_all([name.clone()].into(), &Hosts::new()).await;
        assert!(hosts[&name].iter().all(IpAddr::is_loopback) && !hosts[&name].is_empty(), "{hosts:?}");
    }
}
