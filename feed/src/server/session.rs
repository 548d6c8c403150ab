//! One edge on its stream.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{Stream, stream};
use meridian_core::{
    id::SiteName,
    snapshot::{Generation, Role, Snapshot},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Sent, Shared,
    accept::Peer,
    scope::{Scoped, Scopes},
};
use crate::{
    FORMAT,
    delta::{Change, changes},
    follower::MAX_RESOURCE_BYTES,
    identity::role_of,
    load::{self, SiteLoad},
    proto::{
        Begin, Commit, EdgeFrame, Hello, HubFrame, Remove, Upsert, WireGeneration, edge_frame, feed_server,
        hub_frame,
    },
    reads_format,
};

/// How long an edge may take to say Hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Hubs of which held generations are remembered; edges that moved between more have a story to tell.
const MAX_HUBS: usize = 8;

/// The gRPC service.
#[derive(Debug)]
pub(super) struct Service {
    shared: Shared,
    scopes: Scopes,
    token: CancellationToken,
}

impl Service {
    pub(super) const fn new(shared: Shared, scopes: Scopes, token: CancellationToken) -> Self {
        Self { shared, scopes, token }
    }
}

#[tonic::async_trait]
impl feed_server::Feed for Service {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<HubFrame, Status>> + Send>>;

    async fn follow(
        &self,
        request: Request<Streaming<EdgeFrame>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("connection without a peer"))?;
        let mut inbound = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIMEOUT, inbound.message());
        let first = first.await.map_err(|_| Status::deadline_exceeded("no Hello"))??;
        let Some(edge_frame::Frame::Hello(hello)) = first.and_then(|frame| frame.frame) else {
            return Err(Status::invalid_argument("the first frame must be Hello"));
        };
        let session = Session::start(hello, &peer, inbound, self)?;
        let frames = stream::try_unfold(session, |mut session| async move {
            Ok(session.next().await?.map(|frame| (frame, session)))
        });
        Ok(Response::new(Box::pin(frames)))
    }
}

/// What is kept of one edge.
struct Session {
    role: Role,
    site: SiteName,
    stream: u64,
    inbound: Streaming<EdgeFrame>,
    scope: watch::Receiver<Scoped>,
    /// What the edge holds as far as this stream knows; none before its first batch.
    sent: Option<Arc<Snapshot>>,
    /// Generation that the edge said it holds and that a batch must supersede.
    floor: Option<Generation>,
    pending: Pending,
    shared: Shared,
    token: CancellationToken,
}

/// Frames of the batch that is under way.
enum Pending {
    None,
    /// Encoded one by one as the edge takes them, so that a slow edge costs no buffer.
    Lazy(Box<dyn Iterator<Item = HubFrame> + Send>),
    Ready(VecDeque<HubFrame>),
}

impl Session {
    fn start(
        hello: Hello,
        peer: &Peer,
        inbound: Streaming<EdgeFrame>,
        service: &Service,
    ) -> Result<Self, Status> {
        let role = role_of(&hello.role).ok_or_else(|| Status::invalid_argument("unknown role"))?;
        if hello.site.is_empty() {
            return Err(Status::invalid_argument("an edge must name its site"));
        }
        if !reads_format(hello.format) {
            let message = format!("format {} is not understood here, {FORMAT} is", hello.format);
            return Err(Status::failed_precondition(message));
        }
        let site = SiteName::from(hello.site.as_str());
        if peer.edge.as_ref().is_some_and(|edge| edge.role != role || edge.site != site) {
            tracing::warn!(%role, %site, peer = %peer.address, "Edge says it is another than its certificate says");
            return Err(Status::permission_denied("the certificate names another edge"));
        }
        let floor = hello.held.map(Generation::from).filter(|held| held.seq > 0);
        let scope = service.scopes.of(role);
        let current = scope.borrow().snapshot.clone();
        // Equal generations are equal content, unless it came from a file of another release.
        let resumes = hello.resume && floor.as_ref() == Some(&current.generation);
        let session = Self {
            role,
            site,
            stream: service.shared.streams.fetch_add(1, Ordering::Relaxed),
            inbound,
            scope,
            sent: resumes.then_some(current),
            floor,
            pending: Pending::None,
            shared: service.shared.clone(),
            token: service.token.clone(),
        };
        session.note_held();
        session
            .note_sent(session.sent.as_ref().map(|snapshot| snapshot.generation.clone()).unwrap_or_default());
        let held = session.floor.as_ref().map(ToString::to_string);
        tracing::info!(role = %session.role, site = %session.site, held, resumes, "Edge follows");
        Ok(session)
    }

    /// The next frame for the edge; none when it hung up.
    async fn next(&mut self) -> Result<Option<HubFrame>, Status> {
        loop {
            if let Some(frame) = self.pending.next() {
                return Ok(Some(frame));
            }
            if self.plan_batch() {
                continue;
            }
            tokio::select! {
                () = self.token.cancelled() => return Err(Status::unavailable("the feed is shutting down")),
                message = self.inbound.message() => match message? {
                    Some(frame) => self.take_in(frame),
                    None => return Ok(None),
                },
                changed = self.scope.changed() => {
                    if changed.is_err() {
                        return Err(Status::unavailable("the feed has no publisher"));
                    }
                }
            }
        }
    }

    /// Starts a batch if the edge does not hold the newest publication and may be given it.
    fn plan_batch(&mut self) -> bool {
        let scoped = self.scope.borrow_and_update().clone();
        let new = &scoped.snapshot.generation;
        let holds = self.sent.as_ref().map(|snapshot| &snapshot.generation).or(self.floor.as_ref());
        if new.seq == 0 || holds.is_some_and(|held| !new.supersedes(held)) {
            return false;
        }
        self.pending = match (&self.sent, &scoped.delta) {
            (Some(sent), Some(delta)) if delta.from == WireGeneration::from(&sent.generation) => {
                Pending::Ready(delta.frames.iter().cloned().collect())
            }
            (Some(sent), _) => {
                Pending::Lazy(Box::new(frames(false, changes(sent, &scoped.snapshot), &scoped.snapshot)))
            }
            (None, _) => {
                let all = changes(&Snapshot::default(), &scoped.snapshot);
                Pending::Lazy(Box::new(frames(true, all, &scoped.snapshot)))
            }
        };
        self.note_sent(new.clone());
        self.sent = Some(scoped.snapshot);
        true
    }

    fn take_in(&self, frame: EdgeFrame) {
        match frame.frame {
            Some(edge_frame::Frame::Load(report)) => {
                let services = load::decode(report);
                let load = SiteLoad { site: self.site.clone(), role: self.role, services };
                if self.shared.loads.try_send(load).is_err() {
                    tracing::debug!(site = %self.site, "Load report was dropped");
                }
            }
            Some(edge_frame::Frame::Refusal(refusal)) => {
                tracing::warn!(role = %self.role, site = %self.site, reason = refusal.reason, "Edge refused a batch");
            }
            // A second Hello, or a frame of a newer release.
            Some(edge_frame::Frame::Hello(_)) | None => {}
        }
    }

    /// Remembers the floor if it is the highest of its hub.
    fn note_held(&self) {
        let Some(held) = &self.floor else { return };
        let current = self.scope.borrow().snapshot.generation.clone();
        if current.hub == held.hub && current.seq > 0 && current != *held && !current.supersedes(held) {
            tracing::warn!(role = %self.role, site = %self.site, %held, published = %current,
                "Edge holds a later generation than is published, and waits");
        }
        self.shared.held.send_if_modified(|all| {
            let is_higher = match all.get(&held.hub) {
                Some(highest) => held.supersedes(highest),
                None => all.len() < MAX_HUBS,
            };
            if is_higher {
                all.insert(held.hub.clone(), held.clone());
            }
            is_higher
        });
    }

    fn note_sent(&self, generation: Generation) {
        self.shared.followers.send_modify(|followers| {
            let sent = Sent { generation, stream: self.stream };
            Arc::make_mut(followers).insert((self.role, self.site.clone()), sent);
        });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        tracing::info!(role = %self.role, site = %self.site, "Edge left");
        let key = (self.role, self.site.clone());
        self.shared.followers.send_if_modified(|followers| {
            let is_ours = followers.get(&key).is_some_and(|sent| sent.stream == self.stream);
            is_ours && Arc::make_mut(followers).remove(&key).is_some()
        });
    }
}

impl Pending {
    fn next(&mut self) -> Option<HubFrame> {
        let frame = match self {
            Self::None => return None,
            Self::Lazy(frames) => frames.next(),
            Self::Ready(frames) => frames.pop_front(),
        };
        if frame.is_none() {
            *self = Self::None;
        }
        frame
    }
}

/// The frames of a batch that ends at `snapshot`, encoded as they are drawn.
pub(super) fn frames(
    full: bool,
    changes: Vec<Change>,
    snapshot: &Snapshot,
) -> impl Iterator<Item = HubFrame> + Send + use<> {
    let begin = hub_frame::Frame::Begin(Begin { format: FORMAT, full });
    let unread = snapshot.unread.iter().map(ToString::to_string).collect();
    let commit = Commit { generation: Some((&snapshot.generation).into()), unread };
    let commit = hub_frame::Frame::Commit(commit);
    std::iter::once(begin)
        .chain(changes.into_iter().filter_map(encode))
        .chain(std::iter::once(commit))
        .map(HubFrame::from)
}

fn encode(change: Change) -> Option<hub_frame::Frame> {
    match change {
        Change::Remove { kind, name } => {
            Some(hub_frame::Frame::Remove(Remove { kind: kind.to_owned(), name }))
        }
        Change::Upsert { name, resource } => {
            let kind = resource.kind().to_owned();
            match resource.encode() {
                Ok(body) if body.len() <= MAX_RESOURCE_BYTES => {
                    Some(hub_frame::Frame::Upsert(Upsert { kind, name, body }))
                }
                Ok(body) => {
                    let bytes = body.len();
                    tracing::error!(
                        kind,
                        name,
                        bytes,
                        "Resource is too large for the feed; edges keep the old one"
                    );
                    None
                }
                Err(error) => {
                    tracing::error!(kind, name, %error, "Resource cannot be encoded; edges keep the old one");
                    None
                }
            }
        }
    }
}
