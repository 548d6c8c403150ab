//! The stream to the hub: Hello, batches in, reports out, and again after it breaks.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use meridian_core::{
    id::ClusterName,
    snapshot::{Generation, Snapshot},
};
use rand::Rng;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{FeedStatus, Follower, LoadSink, MAX_FRAME_BYTES, connect::connect};
use crate::{
    FORMAT,
    delta::Draft,
    proto::{EdgeFrame, Hello, HubFrame, Refusal, edge_frame, feed_client, hub_frame},
    reads_format,
};

/// Shortest and longest pause between two attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often load is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Frames to the hub that may wait: a report more would be newer than the one that waits.
const OUTBOUND: usize = 4;
/// Bound on answering Hello: a hub that accepts and then says nothing is no hub.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("connecting")]
    Connect(#[source] tonic::transport::Error),
    #[error("the hub ended the stream: {0}")]
    Status(String),
    #[error("the hub closed the stream")]
    Closed,
    #[error("the hub offers generation {offered}, which does not supersede {held}")]
    Stale { offered: Generation, held: Generation },
    #[error("the hub writes format {0}, which is not understood here")]
    Format(u32),
    #[error("the hub broke the protocol: {0}")]
    Protocol(&'static str),
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self::Status(format!("{:?}: {}", status.code(), status.message()))
    }
}

/// Follows for ever.
pub(super) async fn follow(follower: &Follower) {
    let mut backoff = BACKOFF.0;
    // What the hub sent last. None before this process was sent anything: what came from a file is not
    // resumed from.
    let mut sent = None;
    let mut is_away = false;
    loop {
        let mut link = Link { follower, sent: &mut sent, progress: false };
        let outcome = link.run().await;
        let progressed = link.progress;
        set_connected(follower, false);
        if let Err(broken) = outcome {
            let cause = chain(&broken);
            // Once per outage; each further attempt is only of interest to who looks for it.
            if progressed || !is_away {
                tracing::info!(error = cause, "Feed is not connected");
            } else {
                tracing::debug!(error = cause, "Feed is not connected");
            }
            is_away = true;
        }
        backoff = if progressed { BACKOFF.0 } else { (backoff * 2).min(BACKOFF.1) };
        // Full jitter above the minimum: a restarted hub must not meet all its edges at one moment.
        let pause = rand::rng().random_range(BACKOFF.0..=backoff.max(BACKOFF.0 + BACKOFF.0 / 2));
        tokio::time::sleep(pause).await;
    }
}

/// One stream.
struct Link<'a> {
    follower: &'a Follower,
    /// The basis of deltas. What is held may be more: see [`Snapshot::completed_by`].
    sent: &'a mut Option<Arc<Snapshot>>,
    /// Whether a batch was committed: the next attempt may come soon. Merely being answered is not enough, or a
    /// hub whose batches are refused would be asked ten times a second.
    progress: bool,
}

impl Link<'_> {
    async fn run(&mut self) -> Result<(), Broken> {
        let channel = connect(&self.follower.target).await.map_err(Broken::Connect)?;
        let mut client = feed_client::FeedClient::new(channel).max_decoding_message_size(MAX_FRAME_BYTES);
        let (outbound, frames) = mpsc::channel::<EdgeFrame>(OUTBOUND);
        let hello = edge_frame::Frame::Hello(self.hello());
        outbound.try_send(hello.into()).map_err(|_| Broken::Closed)?;
        let opened = client.follow(ReceiverStream::new(frames));
        let opened = tokio::time::timeout(HELLO_TIMEOUT, opened).await;
        let mut inbound = opened.map_err(|_| Broken::Protocol("no answer to Hello"))??.into_inner();
        set_connected(self.follower, true);
        tracing::info!(site = %self.follower.site, role = %self.follower.role, "Feed is connected");

        let mut loads = self.follower.loads.latest.subscribe();
        let mut tick = interval_at(Instant::now() + REPORT_INTERVAL, REPORT_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = None;
        loop {
            tokio::select! {
                frame = inbound.message() => {
                    let frame = frame?.ok_or(Broken::Closed)?;
                    if let Err(broken) = self.take_in(frame, &mut batch) {
                        refuse(&outbound, &broken, &mut inbound).await;
                        return Err(broken);
                    }
                    // A batch was committed: this hub can be followed.
                    self.progress |= batch.is_none();
                }
                _ = tick.tick() => {
                    if loads.has_changed().unwrap_or(false) {
                        let report = edge_frame::Frame::Load(LoadSink::encoded(&mut loads));
                        // Full means that the hub does not read; the keepalive decides whether it lives.
                        drop(outbound.try_send(report.into()));
                    }
                }
            }
        }
    }

    fn hello(&self) -> Hello {
        let held = self.follower.snapshots.borrow().as_ref().map(|held| (&held.generation).into());
        Hello {
            format: FORMAT,
            role: self.follower.role.to_string(),
            site: self.follower.site.to_string(),
            held,
            resume: self.sent.is_some(),
        }
    }

    fn take_in(&mut self, frame: HubFrame, batch: &mut Option<Draft>) -> Result<(), Broken> {
        match frame.frame {
            Some(hub_frame::Frame::Begin(begin)) => {
                if !reads_format(begin.format) {
                    return Err(Broken::Format(begin.format));
                }
                *batch = Some(match (begin.full, &*self.sent) {
                    (true, _) => Draft::default(),
                    (false, Some(base)) => Draft::on(base),
                    (false, None) => return Err(Broken::Protocol("a delta to nothing")),
                });
            }
            Some(hub_frame::Frame::Upsert(upsert)) => {
                let draft = batch.as_mut().ok_or(Broken::Protocol("a change outside a batch"))?;
                let (kind, name) = (upsert.kind, upsert.name);
                if let Err(skipped) = draft.upsert(&kind, &name, &upsert.body) {
                    tracing::warn!(kind, name, error = chain(&skipped), "Resource of the feed was skipped");
                }
            }
            Some(hub_frame::Frame::Remove(remove)) => {
                let draft = batch.as_mut().ok_or(Broken::Protocol("a change outside a batch"))?;
                let (kind, name) = (remove.kind, remove.name);
                if let Err(skipped) = draft.remove(&kind, &name) {
                    tracing::warn!(kind, name, error = chain(&skipped), "Removal of the feed was skipped");
                }
            }
            Some(hub_frame::Frame::Commit(commit)) => {
                let draft = batch.take().ok_or(Broken::Protocol("a commit without a batch"))?;
                let generation =
                    commit.generation.ok_or(Broken::Protocol("a commit without a generation"))?;
                let unread = commit.unread.into_iter().map(ClusterName::from).collect();
                self.commit(draft, generation.into(), unread)?;
            }
            // A frame of a newer release.
            None => {}
        }
        Ok(())
    }

    fn commit(
        &mut self,
        draft: Draft,
        generation: Generation,
        unread: BTreeSet<ClusterName>,
    ) -> Result<(), Broken> {
        let held = self.follower.snapshots.borrow().clone();
        if let Some(held) = held.as_ref().filter(|held| !generation.supersedes(&held.generation)) {
            return Err(Broken::Stale { offered: generation, held: held.generation.clone() });
        }
        tracing::debug!(%generation, unread = unread.len(), "Snapshot received");
        let sent = Arc::new(draft.commit(generation.clone(), unread));
        let whole = match held {
            Some(held) if !sent.unread.is_empty() => Arc::new(sent.completed_by(&held)),
            _ => sent.clone(),
        };
        self.follower.snapshots.send_replace(Some(whole));
        *self.sent = Some(sent);
        let confirmed = Some(SystemTime::now());
        self.follower.status.send_modify(|status| {
            *status = FeedStatus { held: Some(generation), confirmed, ..status.clone() };
        });
        Ok(())
    }
}

/// Tells the hub why, and gives the word a moment to leave before the connection is dropped.
async fn refuse(outbound: &mpsc::Sender<EdgeFrame>, broken: &Broken, inbound: &mut Streaming<HubFrame>) {
    let offered = match broken {
        Broken::Stale { offered, .. } => Some(offered.into()),
        _ => None,
    };
    let refusal = Refusal { offered, reason: broken.to_string() };
    if outbound.try_send(edge_frame::Frame::Refusal(refusal).into()).is_ok() {
        drop(tokio::time::timeout(BACKOFF.0, inbound.message()).await);
    }
}

fn set_connected(follower: &Follower, connected: bool) {
    follower.status.send_if_modified(|status| {
        if status.connected == connected {
            return false;
        }
        let now = SystemTime::now();
        if status.connected && status.held.is_some() {
            status.confirmed = Some(now);
        }
        status.connected = connected;
        status.since = now;
        true
    });
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}
