//! What watches in the members see, and when: the measure of "is there" that favours no writer.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// The key of a measured ConfigMap's data that tells one version from the next.
pub(crate) const MARK: &str = "mark";

/// A version of an object as a member showed it.
#[derive(Debug)]
struct Sighting {
    member: usize,
    name: String,
    /// Its data's [`MARK`]; `None` when it is gone.
    mark: Option<String>,
    at: Instant,
}

/// Watches on the ConfigMaps of one namespace in several clusters.
#[derive(Debug)]
pub(crate) struct Sightings {
    members: usize,
    seen: mpsc::UnboundedReceiver<Sighting>,
    _watches: Vec<AbortOnDropHandle<()>>,
}

impl Sightings {
    /// Starts a watch per client and returns when each has listed.
    ///
    /// # Errors
    /// When one has not within 20 s.
    pub(crate) async fn start(clients: Vec<Client>, namespace: &str) -> anyhow::Result<Self> {
        // Unbounded: the measured objects are its bound, and a full channel would falsify times.
        let (tell, seen) = mpsc::unbounded_channel();
        let (listed, mut lists) = mpsc::channel(clients.len().max(1));
        let members = clients.len();
        let watches = clients.into_iter().enumerate().map(|(member, client)| {
            let api = Api::<ConfigMap>::namespaced(client, namespace);
            AbortOnDropHandle::new(tokio::spawn(follow(member, api, tell.clone(), listed.clone())))
        });
        let watches = watches.collect();
        for _ in 0..members {
            let one = tokio::time::timeout(Duration::from_secs(20), lists.recv()).await;
            one.context("a member's ConfigMaps could not be listed")?;
        }
        Ok(Self { members, seen, _watches: watches })
    }

    /// Waits until every member has shown every one of `names` with `mark` (`None`: has lost it), and says when
    /// the last one did. Sightings of anything else are forgotten.
    ///
    /// # Errors
    /// When that does not happen `within` a time, naming one that is missing.
    pub(crate) async fn all(
        &mut self,
        names: impl IntoIterator<Item = &str>,
        mark: Option<&str>,
        within: Duration,
    ) -> anyhow::Result<Instant> {
        let names: Vec<&str> = names.into_iter().collect();
        let mut missing: Vec<BTreeSet<&str>> = vec![names.iter().copied().collect(); self.members];
        let deadline = tokio::time::Instant::now() + within;
        let mut last = Instant::now();
        while let Some((member, first)) = first_of(&missing) {
            let Ok(sighting) = tokio::time::timeout_at(deadline, self.seen.recv()).await else {
                bail!(
                    "{} sightings are missing after {within:?}; the first is {first} in member {member} with mark {mark:?}",
                    missing.iter().map(BTreeSet::len).sum::<usize>(),
                );
            };
            let sighting = sighting.context("the watches have ended")?;
            if sighting.mark.as_deref() == mark && missing[sighting.member].remove(sighting.name.as_str()) {
                last = sighting.at;
            }
        }
        Ok(last)
    }
}

/// A member and the first of the names that it still lacks.
fn first_of<'a>(missing: &[BTreeSet<&'a str>]) -> Option<(usize, &'a str)> {
    let lacking = missing.iter().enumerate();
    lacking.filter_map(|(member, names)| names.first().map(|name| (member, *name))).next()
}

async fn follow(
    member: usize,
    api: Api<ConfigMap>,
    tell: mpsc::UnboundedSender<Sighting>,
    listed: mpsc::Sender<()>,
) {
    let mut events = std::pin::pin!(watcher(api, Config::default()));
    while let Some(event) = events.next().await {
        let at = Instant::now();
        let (object, gone) = match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => (object, false),
            Ok(Event::Delete(object)) => (object, true),
            Ok(Event::InitDone) => {
                listed.try_send(()).ok();
                continue;
            }
            Ok(Event::Init) => continue,
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let name = object.name_any();
        let found = object.data.and_then(|mut data| data.remove(MARK)).unwrap_or_default();
        let mark = (!gone).then_some(found);
        if tell.send(Sighting { member, name, mark, at }).is_err() {
            return;
        }
    }
}
