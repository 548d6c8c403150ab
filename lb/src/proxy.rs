//! The phases of a request, thin: each asks a module that can be tested without a socket.
//!
//! ```text
//! request_filter          guard -> loop check -> table.find -> meter
//! upstream_peer           target.next: one endpoint            <--+ retry
//! fail_to_connect         eject, breaker -----------------------> |
//! error_while_proxy       idempotent and nothing answered yet --> +
//! upstream_request_filter X-Forwarded-*, Via
//! upstream_response_filter the path and the endpoint are alive
//! fail_to_proxy           our own answer with its reason
//! logging                 counters
//! ```

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use pingora::{
    Error, ErrorSource, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
    protocols::{TcpKeepalive, l4::socket::SocketAddr},
    proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session},
    upstreams::peer::HttpPeer,
};

use crate::{
    balance::{Permit, Target, Tried},
    clock::Clock,
    drain::{Drain, InFlight},
    forward::{self, Origin, Pseudonym},
    guard,
    load::Arrival,
    metrics::LbMetrics,
    refusal::Refusal,
    table::Table,
};

/// Answered by the proxy itself on every listener, whatever the Host: "this site takes requests".
pub const HEALTH_PATH: &str = "/.well-known/meridian/healthz";

/// How long upstreams may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// One attempt to connect.
    pub connect: Duration,
    /// Silence while an answer is awaited or read.
    pub read: Duration,
    /// Silence while a request is written.
    pub write: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
    /// How long the peer's kernel may leave our bytes or keep-alives unacknowledged before the
    /// connection counts as dead. Tells a dead path from a slow answer, which a read timeout cannot.
    pub dead_after: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_millis(500),
            read: Duration::from_secs(60),
            write: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            dead_after: Duration::from_secs(2),
        }
    }
}

/// The proxy application: what all listeners share.
#[derive(Debug)]
pub struct Proxy {
    /// What requests are answered from.
    pub table: Arc<ArcSwap<Table>>,
    /// How long upstreams may take.
    pub timeouts: Timeouts,
    /// Our name in Via.
    pub pseudonym: Pseudonym,
    /// Counts requests until the last one is finished.
    pub drain: Drain,
    /// The clock of ejections.
    pub clock: Clock,
    /// What is measured.
    pub metrics: LbMetrics,
}

/// What is known of one request.
#[derive(Debug)]
pub struct Ctx {
    _in_flight: InFlight,
    target: Option<(Arc<Target>, Arrival)>,
    tried: Tried,
    permit: Option<Permit>,
    refusal: Option<Refusal>,
    has_answer: bool,
}

impl Proxy {
    /// Everything before a backend is involved. `Ok(None)` is the health page.
    fn admit(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Option<()>, Refusal> {
        if session.req_header().headers.contains_key(http::header::TRANSFER_ENCODING)
            && let Some(http1) = session.as_downstream().as_http1()
            && guard::has_content_length(&http1.get_headers_raw_bytes())
        {
            return Err(Refusal::BadFraming);
        }
        let request = session.req_header_mut();
        guard::to_origin_form(request)?;
        let table = self.table.load();
        if request.uri.path() == HEALTH_PATH {
            return match (self.drain.is_draining(), table.is_compiled) {
                (true, _) => Err(Refusal::Draining),
                (false, false) => Err(Refusal::NotReady),
                (false, true) => Ok(None),
            };
        }
        let host = guard::host(request)?;
        if self.pseudonym.is_in(&request.headers) {
            return Err(Refusal::Loop);
        }
        let unknown = if table.is_compiled { Refusal::NoRoute } else { Refusal::NotReady };
        let (_, target) = table.find(Some(host), request.uri.path()).ok_or(unknown)?;
        ctx.target = Some((Arc::clone(target), target.meter.arrive()));
        Ok(Some(()))
    }

    fn peer(&self, permit: &Permit) -> Box<HttpPeer> {
        let mut peer = Box::new(HttpPeer::new(permit.endpoint.address, false, String::new()));
        peer.group_key = permit.connection_group();
        let options = &mut peer.options;
        options.connection_timeout = Some(self.timeouts.connect);
        options.read_timeout = Some(self.timeouts.read);
        options.write_timeout = Some(self.timeouts.write);
        options.idle_timeout = Some(self.timeouts.idle);
        options.tcp_keepalive = Some(TcpKeepalive {
            idle: (self.timeouts.dead_after / 2).max(Duration::from_secs(1)),
            interval: Duration::from_secs(1),
            count: 3,
            user_timeout: self.timeouts.dead_after,
        });
        peer
    }

    /// The endpoint did not take the request: it is left out for a while.
    fn eject(&self, permit: &Permit) {
        if permit.endpoint.failed(self.clock.now()) {
            permit.path.counters.ejections.inc();
            let (cluster, address) = (&permit.path.cluster, permit.endpoint.address);
            tracing::debug!(%cluster, %address, "Endpoint ejected");
        }
    }

    /// The way to the cluster did not answer at all.
    fn blame_path(&self, permit: &Permit) {
        if permit.path.breaker.failed(self.clock.now()) {
            permit.path.forget_connections();
            permit.path.counters.breaker_opened.inc();
            tracing::warn!(cluster = %permit.path.cluster, "Cluster does not answer, breaker opened");
        }
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx {
            _in_flight: self.drain.enter(),
            target: None,
            tried: Tried::default(),
            permit: None,
            refusal: None,
            has_answer: false,
        }
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        if self.drain.is_draining() {
            // The client opens its next connection elsewhere, instead of losing a request on this one.
            session.set_keepalive(None);
        }
        match self.admit(session, ctx) {
            Ok(Some(())) => Ok(false),
            Ok(None) => {
                answer(session, 200, None, "ok\n").await?;
                Ok(true)
            }
            Err(refusal) => {
                ctx.refusal = Some(refusal);
                if matches!(refusal, Refusal::BadFraming | Refusal::BadTarget | Refusal::BadHost) {
                    // Where the next request begins is uncertain after these.
                    session.set_keepalive(None);
                }
                answer(session, refusal.status(), Some(refusal), refusal.text()).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        let Ctx { target, tried, permit, refusal, .. } = ctx;
        // Frees the room of the attempt before.
        *permit = None;
        let Some((target, _)) = target else { return Err(Error::new_in(ErrorType::InternalError)) };
        match target.next(tried, rand::random(), self.clock.now()) {
            Ok(next) => {
                if tried.attempts() > 1 {
                    next.path.counters.retries.inc();
                }
                let peer = self.peer(&next);
                *permit = Some(next);
                Ok(peer)
            }
            Err(why) => {
                // The reason of the attempt before says more than "nothing left".
                let why = *refusal.get_or_insert(why);
                Err(Error::new_up(ErrorType::HTTPStatus(why.status())))
            }
        }
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Ctx,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(permit) = &ctx.permit {
            self.eject(permit);
            if !matches!(error.etype(), ErrorType::ConnectRefused) {
                // Silence: other endpoints of this cluster would cost another timeout each.
                self.blame_path(permit);
                ctx.tried.give_up_cluster();
            }
        }
        ctx.refusal = None;
        // Nothing was sent, so any method may be tried elsewhere. upstream_peer says when to stop.
        error.set_retry(true);
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Ctx,
        client_reused: bool,
    ) -> Box<Error> {
        if *error.esource() != ErrorSource::Upstream {
            error.set_retry(false);
            return error;
        }
        let is_slow = matches!(error.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout);
        ctx.refusal = Some(if is_slow { Refusal::UpstreamTimedOut } else { Refusal::UpstreamFailed });
        let broke_off = matches!(
            error.etype(),
            ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError
        );
        if let Some(permit) = ctx.permit.as_ref().filter(|_| broke_off && !ctx.has_answer) {
            if is_unacknowledged(&error) {
                self.eject(permit);
                self.blame_path(permit);
                ctx.tried.give_up_cluster();
            } else if client_reused {
                // An idle connection that the backend has closed says nothing about the backend, but the
                // others that were pooled with it are as old.
                permit.endpoint.forget_connections();
                ctx.tried.forgive_endpoint();
            } else {
                self.eject(permit);
            }
        }
        let may_repeat = is_idempotent(&session.req_header().method)
            && !session.as_ref().retry_buffer_truncated()
            && !session.is_upgrade_req()
            && session.response_written().is_none();
        error.set_retry(broke_off && may_repeat);
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream_request: &mut RequestHeader,
        _ctx: &mut Ctx,
    ) -> Result<()> {
        let request = session.req_header();
        let origin = Origin {
            client: client_ip(session),
            is_tls: session.digest().is_some_and(|digest| digest.ssl_digest.is_some()),
            host: guard::host(request).unwrap_or_default(),
            version: request.version,
        };
        forward::add_headers(upstream_request, origin, &self.pseudonym)
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        _upstream_response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        ctx.has_answer = true;
        // What failed before was made good by a further attempt.
        ctx.refusal = None;
        if let Some(permit) = &ctx.permit {
            permit.endpoint.succeeded();
            permit.path.breaker.succeeded();
        }
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Ctx) -> FailToProxy {
        let nothing = FailToProxy { error_code: 0, can_reuse_downstream: false };
        let is_gone = *error.esource() == ErrorSource::Downstream
            && matches!(
                error.etype(),
                ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError
            );
        if is_gone {
            ctx.refusal = None;
            return nothing;
        }
        let refusal = match (error.esource(), ctx.refusal) {
            (_, Some(refusal)) => refusal,
            (ErrorSource::Downstream, None) => Refusal::BadRequest,
            (ErrorSource::Upstream, None) => Refusal::UpstreamFailed,
            _ => Refusal::Internal,
        };
        ctx.refusal = Some(refusal);
        tracing::debug!(%error, reason = refusal.reason(), "Request failed");
        if session.response_written().is_some() {
            return nothing;
        }
        session.set_keepalive(None);
        if let Err(error) = answer(session, refusal.status(), Some(refusal), refusal.text()).await {
            tracing::debug!(%error, "Answer could not be sent");
        }
        FailToProxy { error_code: refusal.status(), can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut Ctx) {
        if let Some(refusal) = ctx.refusal {
            self.metrics.refused(refusal);
        }
        if let (Some(permit), Some(response)) = (&ctx.permit, session.response_written()) {
            permit.path.counters.finished(response.status.as_u16());
        }
        // Room is free as soon as the answer is out, not when the connection asks again.
        ctx.permit = None;
        ctx.target = None;
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Ctx, _error: &Error) -> bool {
        // Counted and logged at debug in fail_to_proxy; never per request above that.
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Ctx,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

/// Methods that may be sent twice (RFC 9110 section 9.2.2).
fn is_idempotent(method: &Method) -> bool {
    method.is_idempotent()
}

/// True when the peer's kernel stopped acknowledging: the path is dead, not only the connection.
fn is_unacknowledged(error: &Error) -> bool {
    let cause = error.root_cause();
    let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
    matches!(
        kind,
        Some(io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable)
    )
}

fn client_ip(session: &Session) -> Option<IpAddr> {
    match session.client_addr() {
        Some(SocketAddr::Inet(address)) => Some(address.ip()),
        _ => None,
    }
}

/// Answers by ourselves.
async fn answer(
    session: &mut Session,
    status: u16,
    refusal: Option<Refusal>,
    text: &'static str,
) -> Result<()> {
    let mut header = ResponseHeader::build(status, Some(4))?;
    header.insert_header(http::header::CONTENT_TYPE, "text/plain; charset=utf-8")?;
    header.insert_header(http::header::CONTENT_LENGTH, text.len())?;
    header.insert_header(http::header::CACHE_CONTROL, "no-store")?;
    if let Some(refusal) = refusal {
        header.insert_header("meridian-reason", refusal.reason())?;
        if let Some(seconds) = refusal.retry_after() {
            header.insert_header(http::header::RETRY_AFTER, seconds)?;
        }
    }
    let has_body = session.req_header().method != Method::HEAD;
    session.write_response_header(Box::new(header), !has_body).await?;
    if has_body {
        session.write_response_body(Some(Bytes::from_static(text.as_bytes())), true).await?;
    }
    Ok(())
}
