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

use crate::choice::{Choice, Masks};

/// A snapshot with what this server's probes say, compiled for answering. Immutable.
#[derive(Debug)]
pub struct View {
    snapshot: Arc<Snapshot>,
    zones: Arc<Authorities>,
    choices: HashMap<DnsName, Choice>,
    masks: Masks,
    home: Option<SiteName>,
    unserved: Arc<[Unserved]>,
}

impl View {
    /// Compiles `snapshot`. `home` is the site this server belongs to: clients of unknown place are
    /// answered as from there. `now` is wall-clock time, for dials that expire.
    #[must_use]
    pub fn compile(snapshot: Arc<Snapshot>, masks: Masks, home: Option<SiteName>, now: Timestamp) -> Self {
        let (zones, unserved) = Authorities::compile(snapshot.zones.values());
        let choices = HashMap::new();
        let view = Self { snapshot, zones: Arc::new(zones), choices, masks, home, unserved: unserved.into() };
        view.with_choices(now)
    }

    /// The same snapshot with other probe results or at another time. Zones are not compiled again.
    #[must_use]
    pub fn refreshed(&self, masks: Masks, now: Timestamp) -> Self {
        let view = Self {
            snapshot: Arc::clone(&self.snapshot),
            zones: Arc::clone(&self.zones),
            choices: HashMap::new(),
            masks,
            home: self.home.clone(),
            unserved: Arc::clone(&self.unserved),
        };
        view.with_choices(now)
    }

    fn with_choices(mut self, now: Timestamp) -> Self {
        let zones = Arc::clone(&self.zones);
        for authority in zones.iter() {
            for (name, target) in authority.dynamic_names() {
                // A name that another zone serves, or that lies below a cut, is never asked for.
                let Some((holder, Found::Dynamic { alone, .. })) =
                    zones.lookup(&NameKey::from(name), RecordType::A)
                else {
                    continue;
                };
                if holder.apex() == authority.apex() {
                    let choice = Choice::compile(&self.snapshot, name, target, alone, &self.masks, now);
                    self.choices.insert(name.clone(), choice);
                }
            }
        }
        self
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
        self.choices.get(declared)
    }

    /// Everything that may be answered for dynamic names, in no order that anything may depend on.
    pub fn choices(&self) -> impl Iterator<Item = &Choice> {
        self.choices.values()
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
