//! The one value that queries are answered from, swapped as a whole.

use std::{collections::HashMap, sync::Arc};

use meridian_core::{
    geo::GeoPoint,
    id::SiteName,
    name::DnsName,
    snapshot::Snapshot,
    time::Timestamp,
    zone::{Authorities, Found, NameKey, RecordType, Unserved},
};

use crate::choice::{Choice, Masks, same_sources};

/// A snapshot with what this server's probes say, compiled for answering. Immutable.
#[derive(Debug)]
pub struct View {
    snapshot: Arc<Snapshot>,
    zones: Arc<Authorities>,
    choices: HashMap<DnsName, Arc<Choice>>,
    masks: Masks,
    home: Option<SiteName>,
    unserved: Arc<[Unserved]>,
    compiled: Timestamp,
}

impl View {
    /// Compiles `snapshot`. `home` is the site this server belongs to: clients of unknown place are
    /// answered as from there. `now` is wall-clock time, for dials that expire.
    #[must_use]
    pub fn compile(snapshot: Arc<Snapshot>, masks: Masks, home: Option<SiteName>, now: Timestamp) -> Self {
        Self::build(None, snapshot, masks, home, now)
    }

    /// The view after this one, of another snapshot. What did not change is shared: with one service
    /// changed, only its names are compiled again.
    #[must_use]
    pub fn succeeded_by(&self, snapshot: Arc<Snapshot>, masks: Masks, now: Timestamp) -> Self {
        Self::build(Some(self), snapshot, masks, self.home.clone(), now)
    }

    /// The same snapshot with other probe results or at another time.
    #[must_use]
    pub fn refreshed(&self, masks: Masks, now: Timestamp) -> Self {
        Self::build(Some(self), Arc::clone(&self.snapshot), masks, self.home.clone(), now)
    }

    fn build(
        previous: Option<&Self>,
        snapshot: Arc<Snapshot>,
        masks: Masks,
        home: Option<SiteName>,
        now: Timestamp,
    ) -> Self {
        // Zones are compared before anything is compiled; equal ones are mostly the same allocation.
        let same_zones = previous.filter(|previous| previous.snapshot.zones == snapshot.zones);
        let (zones, unserved) = match same_zones {
            Some(previous) => (Arc::clone(&previous.zones), Arc::clone(&previous.unserved)),
            None => {
                let (zones, unserved) = Authorities::compile(snapshot.zones.values());
                (Arc::new(zones), unserved.into())
            }
        };
        let mut view =
            Self { snapshot, zones, choices: HashMap::new(), masks, home, unserved, compiled: now };
        let reusable = same_zones.filter(|previous| view.has_same_places(previous));
        view.choices = view.choose(reusable);
        view
    }

    /// True when places, probe results and dials are what they were in `previous`, so that a name whose
    /// own sources are the same means the same.
    fn has_same_places(&self, previous: &Self) -> bool {
        let no_dial_expired =
            previous.next_expiry(previous.compiled).is_none_or(|expiry| expiry > self.compiled);
        no_dial_expired
            && previous.masks == self.masks
            && previous.snapshot.clusters == self.snapshot.clusters
            && previous.snapshot.sites == self.snapshot.sites
    }

    fn choose(&self, reusable: Option<&Self>) -> HashMap<DnsName, Arc<Choice>> {
        let mut choices = HashMap::new();
        for authority in self.zones.iter() {
            for (name, target) in authority.dynamic_names() {
                // A name that another zone serves, or that lies below a cut, is never asked for.
                let Some((holder, Found::Dynamic { alone, .. })) =
                    self.zones.lookup(&NameKey::from(name), RecordType::A)
                else {
                    continue;
                };
                if holder.apex() != authority.apex() {
                    continue;
                }
                let held = reusable
                    .filter(|previous| same_sources(&previous.snapshot, &self.snapshot, name, target))
                    .and_then(|previous| previous.choices.get(name));
                let choice = held.map_or_else(
                    || {
                        let (masks, now) = (&self.masks, self.compiled);
                        Arc::new(Choice::compile(&self.snapshot, name, target, alone, masks, now))
                    },
                    Arc::clone,
                );
                choices.insert(name.clone(), choice);
            }
        }
        choices
    }

    /// The snapshot it was compiled from.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The zones.
    #[must_use]
    pub fn zones(&self) -> &Authorities {
        &self.zones
    }

    /// What may be answered for a dynamic name, given as declared.
    #[must_use]
    pub fn choice(&self, declared: &DnsName) -> Option<&Choice> {
        self.choices.get(declared).map(AsRef::as_ref)
    }

    /// Everything that may be answered for dynamic names, in no order that anything may depend on.
    pub fn choices(&self) -> impl Iterator<Item = &Choice> {
        self.choices.values().map(AsRef::as_ref)
    }

    /// What the server's probes said when this was compiled.
    #[must_use]
    pub fn masks(&self) -> &Masks {
        &self.masks
    }

    /// Where clients of unknown place are taken to be.
    #[must_use]
    pub fn home(&self) -> Option<GeoPoint> {
        self.snapshot.sites.get(self.home.as_ref()?)?.location
    }

    /// Parts of the zones that cannot be served, sorted.
    #[must_use]
    pub fn unserved(&self) -> &[Unserved] {
        &self.unserved
    }

    /// The next moment after `now` at which a dial expires, so that the view has to be refreshed.
    #[must_use]
    pub fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        let clusters = self.snapshot.clusters.values().map(|cluster| cluster.dial);
        let sites = self.snapshot.sites.values().map(|site| site.dial);
        clusters.chain(sites).filter_map(|dial| dial.until).filter(|until| *until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use meridian_core::{
        id::ObjectKey,
        snapshot::{GlobalService, NameTarget, Policy, Soa, Zone},
        steer::Why,
    };

    use super::*;

    fn name(text: &str) -> DnsName {
        text.parse().unwrap()
    }

    fn service(key: &ObjectKey) -> Arc<GlobalService> {
        Arc::new(GlobalService {
            key: key.clone(),
            ports: Vec::new(),
            shards: Vec::new(),
            policy: Policy::default(),
            load: Default::default(),
        })
    }

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        let mut names = std::collections::BTreeMap::new();
        for service_name in ["a", "b"] {
            let key = ObjectKey::new("shop", service_name);
            snapshot.services.insert(key.clone(), service(&key));
            names.insert(name(&format!("{service_name}.example.org")), NameTarget::Service(key));
        }
        let soa = Soa {
            mname: name("ns.example.org"),
            rname: name("hostmaster.example.org"),
            serial: 1,
            refresh: 1,
            retry: 1,
            expire: 1,
            minimum: 1,
            ttl: 1,
        };
        let zone = Zone {
            domain: name("example.org"),
            soa,
            name_servers: Vec::new(),
            records: Vec::new(),
            names,
            overrides: Vec::new(),
        };
        snapshot.zones.insert(zone.domain.clone(), Arc::new(zone));
        snapshot
    }

    fn shares(a: &View, b: &View, text: &str) -> bool {
        Arc::ptr_eq(&a.choices[&name(text)], &b.choices[&name(text)])
    }

    #[test]
    fn only_names_of_a_changed_service_are_compiled_again() {
        let now = Timestamp::from_millis(1);
        let first = snapshot();
        let view = View::compile(Arc::new(first.clone()), Masks::default(), None, now);
        let mut second = first;
        let key = ObjectKey::new("shop", "a");
        second.services.insert(key.clone(), service(&key));
        let next = view.succeeded_by(Arc::new(second), Masks::default(), now);
        assert!(Arc::ptr_eq(&view.zones, &next.zones));
        assert!(!shares(&view, &next, "a.example.org"));
        assert!(shares(&view, &next, "b.example.org"));
    }

    #[test]
    fn a_changed_mask_compiles_every_name_again() {
        let now = Timestamp::from_millis(1);
        let view = View::compile(Arc::new(snapshot()), Masks::default(), None, now);
        let mut masks = Masks::default();
        masks.clusters.insert("asia".into(), Why::ProbeFailed);
        let next = view.refreshed(masks, now);
        assert!(!shares(&view, &next, "a.example.org") && !shares(&view, &next, "b.example.org"));
    }
}
