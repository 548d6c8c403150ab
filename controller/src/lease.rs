//! Leader election on a Lease (coordination.k8s.io/v1).
//!
//! ```text
//! following ──(no holder, or the holder did not renew for `duration` on OUR clock)──► replace with precondition
//!     ▲                                                                                 │ won: term + 1
//!     └──── lost: the process ends and starts again ◄──── leading, renews each `retry` ◄┘
//! ```
//!
//! Every write replaces the Lease with the resourceVersion that was read, so that two followers cannot both win.
//! A follower judges only by what it has itself seen change, on its own monotonic clock: wall clocks of different
//! machines are never compared. The term is `leaseTransitions`; every process has an identity of its own and every
//! acquisition raises it, so that a restart has a higher term than anything it published before.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as LeaseObject, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::core::ObjectMeta;
use kube::{Api, Client};
use rand::Rng;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::call::{CallError, within};
use crate::fleet::jittered;

/// Name of the controller's Lease.
const NAME: &str = "meridian-controller";

/// How long a leader may be silent before another may lead.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Followers wait this long without a renewal.
    pub duration: Duration,
}

impl Timing {
    /// A leader that could not renew for this long gives up: sooner than a follower may take over.
    fn deadline(self) -> Duration {
        self.duration.mul_f64(2.0 / 3.0)
    }

    /// Longest wait for one call: two of them fit before a leader must give up.
    fn call(self) -> Duration {
        self.deadline() / 2
    }

    /// Time between tries.
    fn retry(self) -> Duration {
        self.duration.div_f64(7.5)
    }
}

/// Why a leader must stop.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Another process leads.
    #[error("lease taken by {holder}")]
    Taken {
        /// Its identity.
        holder: String,
    },
    /// The Lease could not be renewed in time.
    #[error("lease not renewed for {} s: {message}", after.as_secs())]
    Deadline {
        /// How long it was tried.
        after: Duration,
        /// Last failure.
        message: String,
    },
}

/// One process's part in the election.
pub struct Lease {
    api: Api<LeaseObject>,
    identity: String,
    timing: Timing,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// What a leader holds: the Lease as it last wrote it.
#[derive(Debug)]
pub struct Leadership {
    object: LeaseObject,
    renewed: Instant,
}

impl Leadership {
    /// The term: higher than every earlier leader's, and than this process's own before it restarted.
    #[must_use]
    pub fn term(&self) -> u64 {
        let transitions = self.object.spec.as_ref().and_then(|s| s.lease_transitions).unwrap_or_default();
        u64::try_from(transitions).unwrap_or_default()
    }
}

impl Lease {
    /// Takes part in the election in `namespace` under a new identity that begins with `host`.
    #[must_use]
    pub fn new(hub: Client, namespace: &str, host: &str, timing: Timing) -> Self {
        let identity = format!("{host}-{:016x}", rand::rng().random::<u64>());
        Self { api: Api::namespaced(hub, namespace), identity, timing }
    }

    /// Waits until this process leads; `None` if `token` is cancelled first.
    pub async fn acquire(&self, token: &CancellationToken) -> Option<Leadership> {
        let mut seen: Option<(Option<String>, Option<MicroTime>)> = None;
        let mut since = Instant::now();
        let mut last_holder: Option<String> = None;
        loop {
            match self.read().await {
                Ok(None) => match self.create().await {
                    Ok(leadership) => return Some(leadership),
                    Err(error) if error.is_conflict() => {}
                    Err(error) => tracing::warn!(error = %error.message(), "Cannot create the lease"),
                },
                Ok(Some(object)) => {
                    let spec = object.spec.clone().unwrap_or_default();
                    let state = (spec.holder_identity.clone(), spec.renew_time.clone());
                    if seen.as_ref() != Some(&state) {
                        since = Instant::now();
                        seen = Some(state);
                    }
                    let holder = spec.holder_identity.clone().filter(|h| !h.is_empty());
                    let promised = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
                    let patience = promised.map_or(self.timing.duration, Duration::from_secs);
                    if holder.is_none() || since.elapsed() >= patience {
                        match self
                            .write(&object, spec.lease_transitions.unwrap_or_default().saturating_add(1))
                            .await
                        {
                            Ok(leadership) => return Some(leadership),
                            Err(error) if error.is_conflict() => {}
                            Err(error) => tracing::warn!(error = %error.message(), "Cannot take the lease"),
                        }
                    } else if holder != last_holder {
                        tracing::info!(holder = holder.as_deref(), "Following");
                        last_holder = holder;
                    }
                }
                Err(error) => tracing::warn!(error = %error.message(), "Cannot read the lease"),
            }
            tokio::select! {
                () = token.cancelled() => return None,
                () = tokio::time::sleep(jittered(self.timing.retry())) => {}
            }
        }
    }

    /// Renews until `token` is cancelled, and gives back what is held then.
    ///
    /// # Errors
    /// [`Lost`]: the process must stop its work at once.
    pub async fn hold(&self, mut held: Leadership, token: &CancellationToken) -> Result<Leadership, Lost> {
        loop {
            tokio::select! {
                () = token.cancelled() => return Ok(held),
                () = tokio::time::sleep(jittered(self.timing.retry())) => {}
            }
            // The deadline holds during the call too: a follower may lead soon after it.
            let renewal = self.write(&held.object, i32::try_from(held.term()).unwrap_or(i32::MAX));
            let left = self.timing.deadline().saturating_sub(held.renewed.elapsed());
            let Ok(written) = tokio::time::timeout(left, renewal).await else {
                let message = "the call did not return in time".to_owned();
                return Err(Lost::Deadline { after: held.renewed.elapsed(), message });
            };
            match written {
                Ok(next) => held = next,
                Err(error) => {
                    let message = error.message();
                    if error.is_conflict() {
                        // Somebody wrote: another leader, or a person. Only the former ends this one.
                        let left = self.timing.deadline().saturating_sub(held.renewed.elapsed());
                        let Ok(read) = tokio::time::timeout(left, self.read()).await else {
                            return Err(Lost::Deadline { after: held.renewed.elapsed(), message });
                        };
                        match read {
                            Ok(Some(object)) => {
                                let holder = object
                                    .spec
                                    .as_ref()
                                    .and_then(|s| s.holder_identity.clone())
                                    .unwrap_or_default();
                                if holder != self.identity {
                                    return Err(Lost::Taken { holder });
                                }
                                held.object = object;
                            }
                            Ok(None) => {
                                return Err(Lost::Taken { holder: "nobody: it was deleted".to_owned() });
                            }
                            Err(_) => {}
                        }
                    }
                    let after = held.renewed.elapsed();
                    if after >= self.timing.deadline() {
                        return Err(Lost::Deadline { after, message });
                    }
                    tracing::warn!(error = message, "Cannot renew the lease");
                }
            }
        }
    }

    /// Gives the Lease back, so that a follower need not wait. Failure costs only that wait.
    pub async fn release(&self, held: Leadership) {
        let mut object = held.object;
        if let Some(spec) = &mut object.spec {
            spec.holder_identity = Some(String::new());
        }
        match within(self.timing.call(), self.api.replace(NAME, &PostParams::default(), &object)).await {
            Ok(_) => tracing::info!("Lease released"),
            Err(error) => tracing::warn!(error = %error.message(), "Cannot release the lease"),
        }
    }

    async fn read(&self) -> Result<Option<LeaseObject>, CallError> {
        within(self.timing.call(), self.api.get_opt(NAME)).await
    }

    async fn create(&self) -> Result<Leadership, CallError> {
        let object = LeaseObject {
            metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
            spec: Some(self.spec(1, None)),
        };
        let renewed = Instant::now();
        let object = within(self.timing.call(), self.api.create(&PostParams::default(), &object)).await?;
        Ok(Leadership { object, renewed })
    }

    /// Replaces the Lease that was read by one that this process holds.
    async fn write(&self, read: &LeaseObject, term: i32) -> Result<Leadership, CallError> {
        let acquired = read
            .spec
            .as_ref()
            .filter(|s| s.holder_identity.as_deref() == Some(&self.identity))
            .and_then(|s| s.acquire_time.clone());
        let object = LeaseObject { metadata: read.metadata.clone(), spec: Some(self.spec(term, acquired)) };
        // Counted from before the call: a renewal that was slow is as old as its request.
        let renewed = Instant::now();
        let object =
            within(self.timing.call(), self.api.replace(NAME, &PostParams::default(), &object)).await?;
        Ok(Leadership { object, renewed })
    }

    fn spec(&self, term: i32, acquired: Option<MicroTime>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(
                i32::try_from(self.timing.duration.as_secs().max(1)).unwrap_or(i32::MAX),
            ),
            acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(term),
            ..LeaseSpec::default()
        }
    }
}
