//! Messages over real sockets on free ports.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use common::*;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::opt::{ClientSubnet, EdnsCode, EdnsOption},
    },
    serialize::binary::BinEncoder,
};
use hickory_server::{
    net::{NetError, runtime::TokioTime, xfer::Protocol},
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponse,
};
use meridian_core::snapshot::RecordData;
use meridian_dns::{
    handler::{Handler, State},
    server::Listeners,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// A server on a free port of loopback, stopped and awaited by [`Server::stop`].
struct Server {
    address: SocketAddr,
    state: Arc<State>,
    token: CancellationToken,
    task: JoinHandle<Result<(), meridian_dns::server::Error>>,
}

impl Server {
    async fn start(fleet: Fleet) -> Self {
        let server = Self::empty().await;
        server.state.view.store(Some(Arc::new(fleet.view())));
        server.state.database.store(Some(Arc::clone(database())));
        server
    }

    async fn empty() -> Self {
        let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()]).await.unwrap();
        let address = listeners.addresses()[0];
        let (state, token) = (Arc::new(State::default()), CancellationToken::new());
        let task = tokio::spawn(listeners.serve(Handler::new(Arc::clone(&state)), token.clone()));
        Self { address, state, token, task }
    }

    async fn stop(self) {
        self.token.cancel();
        self.task.await.unwrap().unwrap();
    }

    async fn udp_raw(&self, query: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(query, self.address).await.unwrap();
        let mut buffer = vec![0; 65536];
        let (length, _) = socket.recv_from(&mut buffer).await.unwrap();
        buffer.truncate(length);
        buffer
    }

    async fn udp(&self, query: &Message) -> Message {
        Message::from_vec(&self.udp_raw(&query.to_vec().unwrap()).await).unwrap()
    }

    async fn tcp(&self, queries: &[Message]) -> Vec<Message> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        for query in queries {
            let bytes = query.to_vec().unwrap();
            stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
        let mut answers = Vec::new();
        for _ in queries {
            let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut bytes).await.unwrap();
            answers.push(Message::from_vec(&bytes).unwrap());
        }
        answers
    }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4242, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_edns(mut message: Message, size: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    message.edns = Some(edns);
    message
}

fn with_subnet(message: Message, network: &str) -> Message {
    let mut message = with_edns(message, 1232);
    let network: ipnet::IpNet = network.parse().unwrap();
    let subnet = ClientSubnet::new(network.addr(), network.prefix_len(), 0);
    message.edns.as_mut().unwrap().options_mut().insert(EdnsOption::Subnet(subnet));
    message
}

fn subnet(message: &Message) -> Option<ClientSubnet> {
    match message.edns.as_ref()?.option(EdnsCode::Subnet)? {
        EdnsOption::Subnet(subnet) => Some(*subnet),
        _ => None,
    }
}

fn addresses(message: &Message) -> Vec<String> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).map(|ip| ip.to_string()).collect()
}

#[tokio::test]
async fn udp_and_tcp_give_the_same_answer_and_keep_the_spelling_of_the_question() {
    let server = Server::start(Fleet::new()).await;
    let asked = with_subnet(query("ApP.eXample.ORG.", RecordType::A), FRANKFURT);
    let over_udp = server.udp(&asked).await;
    assert_eq!(addresses(&over_udp), ["198.18.1.2"]);
    assert_eq!(over_udp.metadata.id, 4242);
    assert!(over_udp.metadata.authoritative && over_udp.metadata.recursion_desired);
    assert!(!over_udp.metadata.recursion_available);
    assert_eq!(over_udp.queries[0].name().to_ascii(), "ApP.eXample.ORG.");
    assert_eq!(over_udp.answers[0].name.to_ascii(), "ApP.eXample.ORG.");
    let over_tcp = server.tcp(&[asked.clone(), asked]).await;
    assert_eq!(over_tcp, [over_udp.clone(), over_udp]);
    server.stop().await;
}

#[tokio::test]
async fn client_subnet_comes_back_with_our_scope_and_only_when_asked() {
    let server = Server::start(Fleet::new()).await;
    let app = || query("app.example.org.", RecordType::A);
    for (network, expected, scope) in [
        ("203.0.113.0/24", "198.18.1.1", 24),
        ("192.0.2.128/25", "198.18.1.2", 24),
        ("198.51.100.7/32", "198.18.1.3", 24),
        // Shorter than what the database knows: more bits would help, and the scope says so.
        ("203.0.0.0/16", "198.18.1.1", 18),
        ("2001:db8:49:1::/64", "198.18.1.2", 48),
        ("::ffff:192.0.2.0/120", "198.18.1.2", 120),
    ] {
        let answer = server.udp(&with_subnet(app(), network)).await;
        let network: ipnet::IpNet = network.parse().unwrap();
        let subnet = subnet(&answer).unwrap();
        assert_eq!(addresses(&answer), [expected], "{network}");
        assert_eq!((subnet.addr(), subnet.source_prefix()), (network.addr(), network.prefix_len()));
        assert_eq!(subnet.scope_prefix(), scope, "{network}");
    }
    assert_eq!(subnet(&server.udp(&with_edns(app(), 1232)).await), None);
    assert!(server.udp(&app()).await.edns.is_none());

    let private = subnet(&server.udp(&with_subnet(app(), "0.0.0.0/0")).await).unwrap();
    assert_eq!((private.source_prefix(), private.scope_prefix()), (0, 0));
    for (name, kind) in [("txt.example.org.", RecordType::TXT), ("no.example.org.", RecordType::A)] {
        let answer = server.udp(&with_subnet(query(name, kind), TAIWAN)).await;
        assert_eq!(subnet(&answer).unwrap().scope_prefix(), 0, "{name}");
    }
    server.stop().await;
}

#[tokio::test]
async fn malformed_client_subnets_are_formerr_with_opt() {
    let server = Server::start(Fleet::new()).await;
    let good = with_subnet(query("app.example.org.", RecordType::A), "192.0.2.0/24").to_vec().unwrap();
    // The option is the last 7 bytes: family (2), source, scope, address (3).
    let end = good.len();
    let broken = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    let host_bits = broken(end - 5, 23);
    let mut host_bits = host_bits;
    host_bits[end - 1] = 1;
    for (what, bytes) in
        [("scope", broken(end - 4, 24)), ("short source", broken(end - 5, 8)), ("host bits", host_bits)]
    {
        let answer = Message::from_vec(&server.udp_raw(&bytes).await).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::FormErr, "{what}");
        assert!(answer.answers.is_empty() && answer.edns.is_some(), "{what}");
    }
    server.stop().await;
}

#[tokio::test]
async fn odd_queries_get_the_code_the_rfcs_name() {
    let server = Server::start(Fleet::new()).await;
    let code = async |message: Message| server.udp(&message).await.metadata.response_code;
    let app = || query("app.example.org.", RecordType::A);

    let mut two = app();
    two.add_query(Query::query(Name::from_ascii("www.example.org.").unwrap(), RecordType::A));
    assert_eq!(code(two).await, ResponseCode::FormErr);
    assert_eq!(code(Message::new(1, MessageType::Query, OpCode::Query)).await, ResponseCode::FormErr);

    let mut notify = app();
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(code(notify).await, ResponseCode::NotImp);

    let mut chaos = Query::query(Name::from_ascii("version.bind.").unwrap(), RecordType::TXT);
    chaos.set_query_class(DNSClass::CH);
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.add_query(chaos);
    assert_eq!(code(message).await, ResponseCode::Refused);

    assert_eq!(code(query("example.com.", RecordType::A)).await, ResponseCode::Refused);
    assert_eq!(code(query("example.org.", RecordType::AXFR)).await, ResponseCode::Refused);
    assert_eq!(code(query("none.example.org.", RecordType::A)).await, ResponseCode::NXDomain);

    let mut newer = with_edns(app(), 1232);
    newer.edns.as_mut().unwrap().set_version(1);
    let answer = server.udp(&newer).await;
    // 16 is BADVERS here; the decoder takes it for its namesake of TSIG.
    assert_eq!(u16::from(answer.metadata.response_code), 16);
    assert_eq!(answer.edns.unwrap().version(), 0);
    server.stop().await;
}

#[tokio::test]
async fn any_is_answered_minimally_and_an_unknown_type_with_nodata() {
    let server = Server::start(Fleet::new()).await;
    let any = server.udp(&query("app.example.org.", RecordType::ANY)).await;
    assert!(matches!(&any.answers[..], [record] if matches!(record.data, RData::HINFO(_))));
    let unknown = server.udp(&query("app.example.org.", RecordType::Unknown(65280))).await;
    assert_eq!((unknown.metadata.response_code, unknown.answers.len()), (ResponseCode::NoError, 0));
    assert!(matches!(unknown.authorities[0].data, RData::SOA(_)));
    assert_eq!(unknown.authorities[0].ttl, 60);
    server.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_is_truncated_with_opt_kept_and_comes_whole_over_tcp() {
    let many = |zone: &mut meridian_core::snapshot::Zone| {
        for octet in 0..200 {
            zone.records.push(record("many.example.org", RecordData::A([198, 18, 9, octet].into())));
        }
        for octet in 0..40 {
            zone.records.push(record("forty.example.org", RecordData::A([198, 18, 8, octet].into())));
        }
    };
    let server = Server::start(Fleet::new().zone(many)).await;
    let asked = with_edns(query("many.example.org.", RecordType::A), 65535);
    let cut = server.udp(&asked).await;
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    assert_eq!(cut.edns.unwrap().max_payload(), 1232);
    let whole = server.tcp(&[asked]).await.remove(0);
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (200, false));

    // 40 addresses take some 700 bytes: more than a client without EDNS takes.
    let forty = || query("forty.example.org.", RecordType::A);
    assert!(server.udp(&forty()).await.metadata.truncation);
    assert!(server.udp(&with_edns(forty(), 512)).await.metadata.truncation);
    assert_eq!(server.udp(&with_edns(forty(), 1232)).await.answers.len(), 40);
    server.stop().await;
}

#[tokio::test]
async fn before_the_first_snapshot_everything_is_servfail() {
    let server = Server::empty().await;
    let answer = server.udp(&query("app.example.org.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    server.stop().await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_that_names_it() {
    let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let holder = UdpSocket::bind(taken).await.unwrap();
    let error = Listeners::bind(&[taken]).await.unwrap_err();
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
    drop(holder);
}

/// Keeps the last response instead of sending it.
#[derive(Clone, Default)]
struct Capture(Arc<Mutex<Vec<u8>>>);

#[async_trait::async_trait]
impl ResponseHandler for Capture {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::new();
        let sent = response.destructive_emit(&mut BinEncoder::new(&mut bytes))?;
        *self.0.lock().unwrap() = bytes;
        Ok(sent)
    }
}

#[tokio::test]
async fn every_bit_flip_of_a_query_is_answered_with_a_message_that_can_be_read() {
    let state = Arc::new(State::default());
    state.view.store(Some(Arc::new(Fleet::new().view())));
    state.database.store(Some(Arc::clone(database())));
    let handler = Handler::new(state);
    let good = with_subnet(query("app.example.org.", RecordType::A), FRANKFURT).to_vec().unwrap();
    let mut answered = 0;
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let source = SocketAddr::from(([192, 0, 2, 1], 5353));
        let Ok(request) = Request::from_bytes(bytes, source, Protocol::Udp) else { continue };
        let capture = Capture::default();
        handler.handle_request::<_, TokioTime>(&request, capture.clone()).await;
        let response = capture.0.lock().unwrap().clone();
        assert!(response.len() <= 1232, "bit {bit}");
        let response = Message::from_vec(&response).unwrap();
        assert_eq!(response.metadata.id, request.metadata.id, "bit {bit}");
        assert_eq!(response.edns.is_some(), request.edns.is_some(), "bit {bit}");
        answered += 1;
    }
    assert!(answered > good.len() * 4, "only {answered} flips were decoded");
}
