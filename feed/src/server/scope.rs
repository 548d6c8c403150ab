//! What each role may see, computed once per publication and not once per edge.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use meridian_core::{
    id::ObjectKey,
    snapshot::{GlobalService, Role, Snapshot},
};
use tokio::sync::watch;

use super::session::frames;
use crate::{
    delta::changes,
    proto::{HubFrame, WireGeneration},
};

/// One publication as one role sees it.
#[derive(Clone, Debug, Default)]
pub(super) struct Scoped {
    pub(super) snapshot: Arc<Snapshot>,
    /// How an edge that holds the publication before gets here: encoded once for all of them.
    pub(super) delta: Option<Arc<Delta>>,
}

/// A batch from one generation to the next.
#[derive(Debug)]
pub(super) struct Delta {
    pub(super) from: WireGeneration,
    pub(super) frames: Vec<HubFrame>,
}

/// The newest publication, by role.
#[derive(Clone, Debug)]
pub(super) struct Scopes {
    dns: watch::Receiver<Scoped>,
    lb: watch::Receiver<Scoped>,
}

impl Scopes {
    pub(super) fn of(&self, role: Role) -> watch::Receiver<Scoped> {
        match role {
            Role::Dns => self.dns.clone(),
            Role::Lb => self.lb.clone(),
        }
    }
}

/// A task that scopes what `snapshots` brings, and what it fills. Ends when the publisher is gone.
pub(super) fn scoper(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
) -> (impl Future<Output = ()> + Send, Scopes) {
    let (dns, dns_seen) = watch::channel(Scoped::default());
    let (lb, lb_seen) = watch::channel(Scoped::default());
    let task = async move {
        let mut last = Arc::new(Snapshot::default());
        snapshots.mark_changed();
        while snapshots.changed().await.is_ok() {
            let new = snapshots.borrow_and_update().clone();
            if new.generation.seq == 0 {
                continue;
            }
            publish(&lb, new.scoped(Role::Lb));
            let held = dns.borrow().snapshot.clone();
            publish(&dns, for_dns(&last, &held, &new));
            last = new;
        }
    };
    (task, Scopes { dns: dns_seen, lb: lb_seen })
}

fn publish(sender: &watch::Sender<Scoped>, snapshot: Snapshot) {
    let old = sender.borrow().snapshot.clone();
    let delta = (old.generation.seq > 0).then(|| {
        let frames = frames(false, changes(&old, &snapshot), &snapshot).collect();
        Arc::new(Delta { from: WireGeneration::from(&old.generation), frames })
    });
    sender.send_replace(Scoped { snapshot: Arc::new(snapshot), delta });
}

/// `new.scoped(Role::Dns)`, reusing what was scoped before: a service whose endpoints moved but whose
/// counts did not is the same value to DNS, and so is not sent again.
fn for_dns(last: &Snapshot, held: &Snapshot, new: &Snapshot) -> Snapshot {
    let scoped = |(key, service): (&ObjectKey, &Arc<GlobalService>)| {
        let before = last.services.get(key).zip(held.services.get(key));
        let slim = match before {
            Some((source, slim)) if Arc::ptr_eq(source, service) => slim.clone(),
            Some((_, slim)) => {
                let fresh = service.for_dns();
                if **slim == fresh { slim.clone() } else { Arc::new(fresh) }
            }
            None => Arc::new(service.for_dns()),
        };
        (key.clone(), slim)
    };
    Snapshot {
        services: new.services.iter().map(scoped).collect(),
        certificates: BTreeMap::new(),
        ..new.clone()
    }
}

#[cfg(test)]
mod tests {
    use meridian_core::snapshot::{Certificate, Endpoint, EndpointGroup, Shard};

    use super::*;

    fn snapshot(address: &str) -> Snapshot {
        let key = ObjectKey::new("shop", "web");
        let endpoint = Endpoint { address: address.parse().unwrap(), zone: None };
        let shard = Shard {
            cluster: "eu".into(),
            ready: 1,
            total: 1,
            groups: vec![EndpointGroup { ports: vec![], endpoints: vec![endpoint] }],
            load_balancer: vec![],
            ingress: vec![],
            capacity: Default::default(),
        };
        let service = GlobalService {
            key: key.clone(),
            ports: vec![],
            shards: vec![shard],
            policy: Default::default(),
            load: Default::default(),
        };
        let certificate = Certificate { chain_pem: "chain".into(), key_pem: "key".into() };
        Snapshot {
            services: [(key.clone(), Arc::new(service))].into(),
            certificates: [(key, Arc::new(certificate))].into(),
            ..Snapshot::default()
        }
    }

    #[test]
    fn what_dns_sees_equals_the_scope_of_core() {
        let new = snapshot("10.0.0.1");
        assert_eq!(for_dns(&Snapshot::default(), &Snapshot::default(), &new), new.scoped(Role::Dns));
    }

    #[test]
    fn moved_endpoint_is_no_change_to_dns() {
        let (old, new) = (snapshot("10.0.0.1"), snapshot("10.0.0.2"));
        let held = for_dns(&Snapshot::default(), &Snapshot::default(), &old);
        let scoped = for_dns(&old, &held, &new);
        let key = ObjectKey::new("shop", "web");
        assert!(Arc::ptr_eq(&held.services[&key], &scoped.services[&key]));
    }
}
