//! Every answer that the proxy gives by itself.

use serde::Serialize;

/// Why a request was not answered by a backend. The name is the value of the `meridian-reason` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Refusal {
    /// An HTTP/1.1 request must name exactly one host (RFC 9112 section 3.2).
    BadHost,
    /// Content-Length and Transfer-Encoding together: two parties could see two different requests.
    BadFraming,
    /// The target leads above the root.
    BadTarget,
    /// pingora refuses the request: malformed headers, a body that does not keep its framing.
    BadRequest,
    /// No snapshot has arrived yet: nothing is known of any host.
    NotReady,
    /// No rule matches host and path, and there is no default backend.
    NoRoute,
    /// Every cluster that has the service is unusable.
    NoUsableCluster,
    /// Every usable cluster is at its limit of requests in flight.
    Overloaded,
    /// No endpoint accepted a connection.
    ConnectFailed,
    /// The endpoint broke off before it answered.
    UpstreamFailed,
    /// The endpoint did not answer in time.
    UpstreamTimedOut,
    /// The request passed this site before.
    Loop,
    /// The proxy is shutting down.
    Draining,
    /// A defect of the proxy itself.
    Internal,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::BadHost,
        Self::BadFraming,
        Self::BadTarget,
        Self::BadRequest,
        Self::NotReady,
        Self::NoRoute,
        Self::NoUsableCluster,
        Self::Overloaded,
        Self::ConnectFailed,
        Self::UpstreamFailed,
        Self::UpstreamTimedOut,
        Self::Loop,
        Self::Draining,
        Self::Internal,
    ];

    /// The HTTP status code.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadHost | Self::BadFraming | Self::BadTarget | Self::BadRequest => 400,
            Self::NoRoute => 404,
            Self::NotReady
            | Self::NoUsableCluster
            | Self::Overloaded
            | Self::ConnectFailed
            | Self::Draining => 503,
            Self::UpstreamFailed => 502,
            Self::UpstreamTimedOut => 504,
            Self::Loop => 508,
            Self::Internal => 500,
        }
    }

    /// Seconds after which trying again may help.
    #[must_use]
    pub const fn retry_after(self) -> Option<&'static str> {
        if self.status() == 503 { Some("1") } else { None }
    }

    /// The bounded label: header value and metric label.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::BadHost => "BadHost",
            Self::BadFraming => "BadFraming",
            Self::BadTarget => "BadTarget",
            Self::BadRequest => "BadRequest",
            Self::NotReady => "NotReady",
            Self::NoRoute => "NoRoute",
            Self::NoUsableCluster => "NoUsableCluster",
            Self::Overloaded => "Overloaded",
            Self::ConnectFailed => "ConnectFailed",
            Self::UpstreamFailed => "UpstreamFailed",
            Self::UpstreamTimedOut => "UpstreamTimedOut",
            Self::Loop => "Loop",
            Self::Draining => "Draining",
            Self::Internal => "Internal",
        }
    }

    /// One line for people. Says nothing of the fleet: what is behind is nobody's business out there.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::BadHost => "the request must carry exactly one valid Host header\n",
            Self::BadFraming => "the request must not carry both Content-Length and Transfer-Encoding\n",
            Self::BadTarget => "the request target leads above the root\n",
            Self::BadRequest => "the request is malformed\n",
            Self::NotReady => "starting\n",
            Self::NoRoute => "no route for this host and path\n",
            Self::NoUsableCluster => "no cluster can serve this at the moment\n",
            Self::Overloaded => "every cluster is at its limit\n",
            Self::ConnectFailed => "no endpoint could be reached\n",
            Self::UpstreamFailed => "the endpoint broke off\n",
            Self::UpstreamTimedOut => "the endpoint did not answer in time\n",
            Self::Loop => "the request has passed here before\n",
            Self::Draining => "shutting down\n",
            Self::Internal => "internal error\n",
        }
    }
}
