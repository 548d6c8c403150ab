//! Which Ingresses of members show the sites' addresses, so that every cluster shows the one address.

use std::collections::{BTreeMap, BTreeSet};

use meridian_core::id::{ClusterName, ObjectKey};
use meridian_core::snapshot::{Address, Snapshot};
use serde_json::{Value, json};

use super::members::MemberChange;
use super::writer::{Place, Wanted};
use crate::convert::ingress::{CLASS, MemberIngress};
use crate::fleet::Change;

/// What is known of the members' Ingresses and of the classes that decide whose they are.
#[derive(Debug, Default)]
pub(super) struct Shown {
    members: BTreeMap<ClusterName, Member>,
}

#[derive(Debug, Default)]
struct Member {
    /// Class and addresses of each Ingress.
    ingresses: BTreeMap<ObjectKey, (Option<String>, Vec<Address>)>,
    /// Classes, and whether each is the default; none until they have been read, because an Ingress
    /// without a class may be the default controller's.
    classes: Option<BTreeMap<String, bool>>,
}

impl Shown {
    pub(super) fn ingresses(&mut self, cluster: &ClusterName, change: &Change<ObjectKey, MemberIngress>) {
        let member = self.members.entry(cluster.clone()).or_default();
        let slim = |ingress: &MemberIngress| (ingress.class.clone(), ingress.fact.addresses.clone());
        match change {
            Change::Apply(key, ingress) => drop(member.ingresses.insert(key.clone(), slim(ingress))),
            Change::Delete(key) => drop(member.ingresses.remove(key)),
            Change::Reset(all) => {
                member.ingresses = all.iter().map(|(key, ingress)| (key.clone(), slim(ingress))).collect();
            }
        }
    }

    pub(super) fn classes(&mut self, cluster: &ClusterName, change: Change<String, bool>) {
        let member = self.members.entry(cluster.clone()).or_default();
        match change {
            Change::Apply(name, is_default) => {
                member.classes.get_or_insert_default().insert(name, is_default);
            }
            Change::Delete(name) => drop(member.classes.get_or_insert_default().remove(&name)),
            Change::Reset(all) => member.classes = Some(all.into_iter().collect()),
        }
    }

    pub(super) fn forget(&mut self, cluster: &ClusterName) {
        self.members.remove(cluster);
    }

    /// Statuses that differ from what they should show. Nothing while there is no site: an Ingress then
    /// keeps what it shows.
    pub(super) fn differences(&self, snapshot: &Snapshot) -> Wanted {
        let vips = vips(snapshot);
        let mut wanted = Wanted::new();
        if vips.is_empty() {
            return wanted;
        }
        for (cluster, member) in &self.members {
            let Some(classes) = &member.classes else { continue };
            let has_default = classes.values().any(|is_default| *is_default);
            for key in snapshot.ingresses.keys() {
                let Some((class, shown)) = member.ingresses.get(key) else { continue };
                let is_ours = match class.as_deref() {
                    Some(class) => class == CLASS,
                    None => !has_default,
                };
                if is_ours && *shown != vips {
                    let place = Place::MemberIngress { cluster: cluster.clone(), key: key.clone() };
                    wanted.insert(place, status(&vips));
                }
            }
        }
        wanted
    }
}

/// Addresses that sites share; where no site shares one, the sites' own.
fn vips(snapshot: &Snapshot) -> Vec<Address> {
    let all = |of: fn(&meridian_core::snapshot::Site) -> &[std::net::IpAddr]| -> BTreeSet<Address> {
        snapshot.sites.values().flat_map(|site| of(site)).copied().map(Address::Ip).collect()
    };
    let shared = all(|site| &site.vips);
    let addresses = if shared.is_empty() { all(|site| &site.addresses) } else { shared };
    addresses.into_iter().collect()
}

fn status(addresses: &[Address]) -> Value {
    let ingress: Vec<Value> = addresses
        .iter()
        .map(|address| match address {
            Address::Ip(ip) => json!({"ip": ip}),
            Address::Hostname(name) => json!({"hostname": name}),
        })
        .collect();
    json!({"loadBalancer": {"ingress": ingress}})
}

/// Whether a change is one that [`Shown`] looks at.
pub(super) const fn concerns(change: &MemberChange) -> bool {
    matches!(change, MemberChange::Ingresses(_) | MemberChange::Classes(_))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use meridian_core::index::MemberIngressFact;
    use meridian_core::snapshot::{Dial, GlobalIngress, Site};

    use super::*;

    fn key() -> ObjectKey {
        ObjectKey::new("shop", "front")
    }

    fn snapshot(vip: &str) -> Snapshot {
        let site = Site {
            name: "asia".into(),
            cluster: None,
            region: None,
            location: None,
            vips: vec![vip.parse().expect("an address")],
            addresses: vec![],
            dial: Dial::default(),
            max_rate: None,
            distances: BTreeMap::new(),
            probe_port: 80,
        };
        let ingress = GlobalIngress {
            key: key(),
            created: Default::default(),
            rules: vec![],
            default_backend: None,
            tls: vec![],
            policy: None,
        };
        Snapshot {
            sites: [("asia".into(), Arc::new(site))].into(),
            ingresses: [(key(), Arc::new(ingress))].into(),
            ..Snapshot::default()
        }
    }

    fn shown(class: Option<&str>, addresses: &[&str], classes: Option<&[(&str, bool)]>) -> Shown {
        let mut shown = Shown::default();
        let addresses = addresses.iter().map(|ip| Address::Ip(ip.parse().expect("an address"))).collect();
        let fact = MemberIngressFact { addresses, ..MemberIngressFact::default() };
        let ingress = MemberIngress { fact, class: class.map(str::to_owned) };
        shown.ingresses(&"eu".into(), &Change::Apply(key(), ingress));
        if let Some(classes) = classes {
            let classes = classes.iter().map(|(name, is_default)| ((*name).to_owned(), *is_default));
            shown.classes(&"eu".into(), Change::Reset(classes.collect()));
        }
        shown
    }

    fn writes(shown: &Shown) -> usize {
        shown.differences(&snapshot("203.0.113.1")).len()
    }

    #[test]
    fn ingress_of_our_class_or_of_nobodys_shows_the_vip() {
        assert_eq!(writes(&shown(Some("meridian"), &[], Some(&[("nginx", true)]))), 1);
        assert_eq!(writes(&shown(None, &[], Some(&[("nginx", false)]))), 1);
    }

    #[test]
    fn ingress_of_another_controller_is_left_alone() {
        assert_eq!(writes(&shown(Some("nginx"), &[], Some(&[]))), 0);
        assert_eq!(writes(&shown(None, &[], Some(&[("nginx", true)]))), 0);
        assert_eq!(writes(&shown(None, &[], None)), 0, "classes were not read yet");
    }

    #[test]
    fn status_that_shows_the_vip_is_not_written_again() {
        assert_eq!(writes(&shown(None, &["203.0.113.1"], Some(&[]))), 0);
        assert_eq!(writes(&shown(None, &["203.0.113.9"], Some(&[]))), 1);
    }
}
