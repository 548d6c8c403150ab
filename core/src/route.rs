//! Which backend serves a host and a path: networking.k8s.io/v1 Ingress semantics for the whole fleet.
//!
//! A request is matched by host first: a rule for exactly that host, then one for `*.` and the rest
//! after its first label, then rules without host, which serve every Host. Among the rules of one
//! host an Exact path beats a Prefix, and the longer Prefix the shorter; prefixes are compared element
//! by element. Where no path of the more specific host matches, the less specific one is asked.
//! Last come default backends: of an Ingress that names the host, then of any Ingress.
//!
//! Two objects that claim the same host and path: the older one has it ([`Claim`] for the order),
//! the other is listed in [`RouteTable::conflicts`] and keeps its other paths.

use std::{collections::HashMap, sync::Arc};

use crate::{
    id::ObjectKey,
    name::DnsName,
    snapshot::{Backend, GlobalIngress, PathKind, Policy, Snapshot},
};

mod host;
mod paths;

pub use host::HostBuffer;
use paths::Paths;

/// Routes of one snapshot, compiled for lookup. Immutable.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    routes: Vec<Route>,
    hosts: HashMap<Box<str>, Paths>,
    /// Keyed by what follows `*.`.
    wildcards: HashMap<Box<str>, Paths>,
    every_host: Paths,
    conflicts: Vec<Conflict>,
}

/// Where requests of one host and path go.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Position in [`RouteTable::routes`]: what callers compile beside it has the same index.
    pub index: usize,
    /// The Ingress that says so.
    pub ingress: ObjectKey,
    /// What it claims.
    pub claim: Claim,
    /// Where requests go.
    pub backend: Backend,
    /// The Ingress's own steering policy, if it has one. See [`effective_policy`].
    pub policy: Option<Arc<Policy>>,
}

/// A host and a path, as a rule writes them.
///
/// When two objects make the same claim, the one created earlier has it; among those created in the
/// same moment the lower key; inside one object the rule that comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The host, possibly a wildcard; none for every host.
    pub host: Option<DnsName>,
    /// The path; none for a default backend.
    pub path: Option<(PathKind, Arc<str>)>,
}

/// A claim that two rules make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What both claim.
    pub claim: Claim,
    /// The Ingress that has it.
    pub winner: ObjectKey,
    /// The Ingress that does not. Equal to `winner` when one object claims it twice.
    pub loser: ObjectKey,
}

impl RouteTable {
    /// Compiles every Ingress of `snapshot`. Sizes and order follow from the snapshot alone.
    #[must_use]
    pub fn compile(snapshot: &Snapshot) -> Self {
        let mut ingresses: Vec<&GlobalIngress> = snapshot.ingresses.values().map(|i| &**i).collect();
        ingresses.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.key.cmp(&b.key)));
        let mut table = Self::default();
        for ingress in ingresses {
            table.add(ingress);
        }
        table
    }

    /// The route of a request; none when nothing matches. `host` is a Host header or SNI as it came:
    /// any case, with or without port and trailing dot; none when there is no usable one. `path` starts
    /// with a slash and has no query. Does not allocate; O(distinct prefix lengths of the host).
    #[must_use]
    pub fn find(&self, host: Option<&str>, path: &str) -> Option<&Route> {
        let mut buffer = HostBuffer::default();
        let host = host.and_then(|host| buffer.normalise(host));
        let exact = host.and_then(|host| self.hosts.get(host));
        let wildcard = host.and_then(|host| match host.split_once('.')? {
            ("", _) => None,
            (_, rest) => self.wildcards.get(rest),
        });
        let levels = [exact, wildcard, Some(&self.every_host)];
        let by_rule = levels.iter().flatten().find_map(|paths| paths.find(path));
        let index = by_rule.or_else(|| levels.iter().flatten().find_map(|paths| paths.default_backend()))?;
        self.routes.get(index)
    }

    /// All routes that can be found, in order of precedence of their objects.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Claims that lost, in the order in which they were met.
    #[must_use]
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    fn add(&mut self, ingress: &GlobalIngress) {
        let policy = ingress.policy.clone().map(Arc::new);
        for rule in &ingress.rules {
            for path in &rule.paths {
                let claim =
                    Claim { host: rule.host.clone(), path: Some((path.kind, Arc::clone(&path.path))) };
                self.claim(ingress, claim, &path.backend, policy.as_ref());
            }
        }
        let Some(backend) = &ingress.default_backend else { return };
        // Its own hosts first: what misses there is more the affair of this object than of another's
        // catch-all.
        let mut hosts: Vec<&DnsName> = ingress.rules.iter().filter_map(|rule| rule.host.as_ref()).collect();
        hosts.sort();
        hosts.dedup();
        for host in hosts.into_iter().cloned().map(Some).chain([None]) {
            self.claim(ingress, Claim { host, path: None }, backend, policy.as_ref());
        }
    }

    fn claim(
        &mut self,
        ingress: &GlobalIngress,
        claim: Claim,
        backend: &Backend,
        policy: Option<&Arc<Policy>>,
    ) {
        let index = self.routes.len();
        let paths = match claim.host.as_ref().map(|host| (host.as_str().strip_prefix("*."), host)) {
            None => &mut self.every_host,
            Some((None, host)) => self.hosts.entry(host.as_str().into()).or_default(),
            Some((Some(suffix), _)) => self.wildcards.entry(suffix.into()).or_default(),
        };
        let holder = match &claim.path {
            None => paths.claim_default(index),
            Some((PathKind::Exact, path)) => paths.claim_exact(path, index),
            Some((PathKind::Prefix, path)) => paths.claim_prefix(path, index),
        };
        if holder == index {
            let policy = policy.map(Arc::clone);
            self.routes.push(Route {
                index,
                ingress: ingress.key.clone(),
                claim,
                backend: backend.clone(),
                policy,
            });
            return;
        }
        let winner = &self.routes[holder];
        if winner.ingress != ingress.key || winner.backend != *backend {
            let winner = winner.ingress.clone();
            self.conflicts.push(Conflict { claim, winner, loser: ingress.key.clone() });
        }
    }
}

/// The policy that steers a route: the Ingress's, field by field, over the service's own.
///
/// A field that the Ingress leaves at its default declares nothing, so a fence or a failover order
/// set on the Service still holds when a policy on the Ingress only names hosts.
#[must_use]
pub fn effective_policy(ingress: Option<&Policy>, service: &Policy) -> Policy {
    let Some(ingress) = ingress else { return service.clone() };
    let unset = Policy::default();
    Policy {
        strategy: pick(&ingress.strategy, &service.strategy, &unset.strategy),
        allowed_regions: pick(&ingress.allowed_regions, &service.allowed_regions, &unset.allowed_regions),
        health: pick(&ingress.health, &service.health, &unset.health),
        dns: pick(&ingress.dns, &service.dns, &unset.dns),
    }
}

fn pick<T: Clone + PartialEq>(declared: &T, base: &T, unset: &T) -> T {
    if declared == unset { base.clone() } else { declared.clone() }
}

#[cfg(test)]
mod tests;
