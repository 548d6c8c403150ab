//! The slow path: hickory's message in, hickory's message out, [`answer`](crate::answer) in between.
//!
//! Not hickory's `Catalog`: it ignores the class, cannot say for whom an answer holds (EDNS Client
//! Subnet), loses OPT when it truncates, and obeys any buffer size that a client claims.

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwapOption;
use hickory_proto::{
    op::{Edns, Header, HeaderCounts, Metadata, OpCode, ResponseCode},
    rr::{
        DNSClass, Record,
        rdata::opt::{ClientSubnet as EdnsSubnet, EdnsOption},
    },
    serialize::binary::BinEncoder,
};
use hickory_server::{
    net::{runtime::Time, xfer::Protocol},
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::{MessageResponse, MessageResponseBuilder, Queries},
};
use ipnet::{IpNet, Ipv4Net};
use meridian_core::{geo::ClientLocation, zone::RecordType};

use crate::{
    answer::{Answer, Asker, Question, Rcode, answer},
    ecs::{self, ClientSubnet, MAX_PREFIX_V4, MAX_PREFIX_V6},
    locate::Database,
    metrics::{Counts, Kind, Outcome},
    view::View,
    wire,
};

/// Largest UDP message that is sent, and the size that is advertised: what fits every path without
/// fragments (RFC 9715 section 3.1).
const MAX_UDP: u16 = 1232;

/// Largest UDP message without EDNS (RFC 1035 section 4.2.1).
const PLAIN_UDP: u16 = 512;

/// IXFR and AXFR: the zones are dynamic and cannot be transferred.
const TRANSFERS: [u16; 2] = [251, 252];

/// What queries are answered from. Each part is swapped as a whole; reading takes no lock.
#[derive(Debug, Default)]
pub struct State {
    /// Zones and places; none until the first snapshot.
    pub view: ArcSwapOption<View>,
    /// Where clients are; none without a database.
    pub database: ArcSwapOption<Database>,
    /// Counters.
    pub counts: Counts,
}

/// Answers queries from a [`State`].
#[derive(Clone, Debug)]
pub struct Handler {
    state: Arc<State>,
}

/// A response before it is encoded.
struct Response {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authority: Vec<Record>,
    additional: Vec<Record>,
    subnet: Option<EdnsSubnet>,
}

impl Response {
    fn code(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
            subnet: None,
        }
    }
}

impl Handler {
    /// A handler that answers from `state`.
    #[must_use]
    pub const fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    fn respond(&self, request: &Request) -> Response {
        // Order of checks as in RFC 6891 section 6.1.3 and RFC 9619: a newer EDNS first, because the
        // rest of the message may mean something else there.
        if request.version() > 0 {
            return Response::code(ResponseCode::BADVERS);
        }
        if request.metadata.op_code != OpCode::Query {
            return Response::code(ResponseCode::NotImp);
        }
        let [query] = request.queries.queries() else { return Response::code(ResponseCode::FormErr) };
        if query.query_class() != DNSClass::IN {
            return Response::code(ResponseCode::Refused);
        }
        let kind = u16::from(query.query_type());
        if TRANSFERS.contains(&kind) {
            return Response::code(ResponseCode::Refused);
        }
        let subnet = match ecs::read(request.as_slice()) {
            Ok(subnet) => subnet,
            Err(error) => {
                tracing::debug!(%error, "Query refused");
                return Response::code(ResponseCode::FormErr);
            }
        };

        let name = query.original().name();
        let question = Question { name: wire::key_of(name), kind: RecordType(kind) };
        let (asker, offset) = asker(self.state.database.load().as_deref(), subnet, request.src().ip());
        let answer = answer(self.state.view.load().as_deref(), &question, &asker);
        let records = |entries| wire::records(entries, name);
        let sections = (records(&answer.answers), records(&answer.authority), records(&answer.additional));
        let (Ok(answers), Ok(authority), Ok(additional)) = sections else {
            tracing::error!(%name, "Answer cannot be encoded");
            return Response::code(ResponseCode::ServFail);
        };
        Response {
            code: code_of(answer.rcode),
            authoritative: answer.authoritative,
            answers,
            authority,
            additional,
            subnet: subnet.map(|subnet| echo(subnet, &answer, offset)),
        }
    }
}

/// Who asks, and by how much a scope grows when it is told in the query's own family.
fn asker(database: Option<&Database>, subnet: Option<ClientSubnet>, source: IpAddr) -> (Asker, u8) {
    let Some(subnet) = subnet else {
        let source = source.to_canonical();
        let located = database.map(|database| database.locate(source)).unwrap_or_default();
        let asker = Asker { network: source.into(), location: located.location, tile: located.tile };
        return (asker, 0);
    };
    let (network, offset) = canonical(subnet.network);
    (asker_at(database, network), offset)
}

/// Somebody in `network`, as EDNS Client Subnet would name it.
#[must_use]
pub fn asker_at(database: Option<&Database>, network: IpNet) -> Asker {
    if network.prefix_len() == 0 {
        // RFC 7871 section 7.1.2: the client does not want its address to be used.
        return Asker { network, location: ClientLocation::default(), tile: 0 };
    }
    let max_prefix = if network.addr().is_ipv4() { MAX_PREFIX_V4 } else { MAX_PREFIX_V6 };
    let located = database.map(|database| database.locate_network(network, max_prefix)).unwrap_or_default();
    Asker { network, location: located.location, tile: located.tile }
}

/// An IPv4-mapped IPv6 network as the IPv4 network it is, and the bits that this takes off.
fn canonical(network: IpNet) -> (IpNet, u8) {
    let IpNet::V6(v6) = network else { return (network, 0) };
    let mapped = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    match mapped.and_then(|(address, length)| Ipv4Net::new(address, length).ok()) {
        Some(v4) => (IpNet::V4(v4), 96),
        None => (network, 0),
    }
}

/// RFC 7871 section 7.2.1: family, source and address as they came, the scope is ours.
fn echo(subnet: ClientSubnet, answer: &Answer, offset: u8) -> EdnsSubnet {
    let source = subnet.network.prefix_len();
    let scope = if source == 0 || answer.scope == 0 { 0 } else { answer.scope.saturating_add(offset) };
    EdnsSubnet::new(subnet.network.addr(), source, scope)
}

const fn code_of(rcode: Rcode) -> ResponseCode {
    match rcode {
        Rcode::NoError => ResponseCode::NoError,
        Rcode::ServFail => ResponseCode::ServFail,
        Rcode::NxDomain => ResponseCode::NXDomain,
        Rcode::Refused => ResponseCode::Refused,
    }
}

fn outcome_of(code: ResponseCode) -> Outcome {
    match code {
        ResponseCode::NoError => Outcome::NoError,
        ResponseCode::FormErr => Outcome::FormErr,
        ResponseCode::NXDomain => Outcome::NxDomain,
        ResponseCode::NotImp => Outcome::NotImp,
        ResponseCode::Refused => Outcome::Refused,
        ResponseCode::BADVERS => Outcome::BadVers,
        _ => Outcome::ServFail,
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut sender: R,
    ) -> ResponseInfo {
        let response = self.respond(request);
        let kind = request
            .queries
            .queries()
            .first()
            .map_or(Kind::Other, |query| Kind::of(RecordType(u16::from(query.query_type()))));
        self.state.counts.query(kind, outcome_of(response.code));

        let edns = request.edns.as_ref().map(|asked| edns(asked, response.subnet));
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = response.authoritative;
        metadata.checking_disabled = false;
        metadata.response_code = response.code;
        let envelope = Envelope { queries: &request.queries, edns: edns.as_ref() };
        let limit = limit(request);
        let sent = if envelope.fits(metadata, &response, limit) {
            sender.send_response(envelope.full(metadata, &response)).await
        } else {
            // Without any record, so that OPT and the question always fit: the client has to come
            // back over TCP anyway.
            metadata.truncation = true;
            sender.send_response(envelope.full(metadata, &Response::code(response.code))).await
        };
        sent.unwrap_or_else(|error| {
            tracing::debug!(%error, "Response could not be sent");
            ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
        })
    }
}

/// OPT of a response (RFC 6891 section 6.1.1): our own size, version 0, DO as it came, and what was
/// asked of the options.
fn edns(asked: &Edns, subnet: Option<EdnsSubnet>) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP);
    edns.set_version(0);
    edns.set_dnssec_ok(asked.flags().dnssec_ok);
    if let Some(subnet) = subnet {
        edns.options_mut().insert(EdnsOption::Subnet(subnet));
    }
    edns
}

/// Bytes that a response may have.
fn limit(request: &Request) -> usize {
    let bytes = match (request.protocol(), &request.edns) {
        (Protocol::Udp, Some(edns)) => edns.max_payload().clamp(PLAIN_UDP, MAX_UDP),
        (Protocol::Udp, None) => PLAIN_UDP,
        _ => u16::MAX,
    };
    usize::from(bytes)
}

/// What is around the records of a response.
struct Envelope<'q> {
    queries: &'q Queries,
    edns: Option<&'q Edns>,
}

impl<'q> Envelope<'q> {
    fn full<'a>(
        &self,
        metadata: Metadata,
        response: &'a Response,
    ) -> MessageResponse<
        'q,
        'a,
        impl Iterator<Item = &'a Record> + Send + use<'a>,
        impl Iterator<Item = &'a Record> + Send + use<'a>,
        impl Iterator<Item = &'a Record> + Send + use<'a>,
        impl Iterator<Item = &'a Record> + Send + use<'a>,
    > {
        MessageResponseBuilder::new(self.queries, self.edns).build(
            metadata,
            &response.answers,
            &response.authority,
            [],
            &response.additional,
        )
    }

    /// True when the whole response takes at most `limit` bytes. Encodes it to find out, unless it is
    /// short whatever the names compress to.
    fn fits(&self, metadata: Metadata, response: &Response, limit: usize) -> bool {
        const HEADER_AND_OPT: usize = 12 + 11 + 4 + 20;
        let sections = [&response.answers, &response.authority, &response.additional];
        let bound: usize = sections.into_iter().map(|records| wire::size_bound(records)).sum();
        if HEADER_AND_OPT + self.queries.as_bytes().len() + bound <= limit {
            return true;
        }
        let mut bytes = Vec::with_capacity(limit);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(u16::MAX);
        self.full(metadata, response).destructive_emit(&mut encoder).is_ok() && bytes.len() <= limit
    }
}
