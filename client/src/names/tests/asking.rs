//! Questions over UDP, about what is ours.

use super::*;
use hickory_proto::op::Edns;
use hickory_proto::rr::DNSClass;
use model::limits::DNS_UDP_MAX;
use proptest::prelude::*;

#[tokio::test]
async fn both_addresses_answer_and_case_comes_back() {
    let mut laptop = Laptop::new();
    for to in [v4(), v6()] {
        let bytes = laptop.ask_raw(to, &query("DB.corp.Example", RecordType::A)).await;
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(told(&answer), ["10.77.64.1"]);
        assert_eq!(answer.metadata.id, 0x1234);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        assert!(answer.metadata.recursion_desired);
        assert_eq!(answer.answers[0].ttl, model::limits::NAME_TTL_S);
        assert!(answer.answers[0].name.eq_case(&name("DB.corp.Example")));
        assert!(answer.queries[0].name.eq_case(&name("DB.corp.Example")));
        assert_eq!(answer.edns, None, "who does not speak EDNS is not spoken to in it");
    }
}

#[tokio::test]
async fn none_and_missing_say_for_how_long() {
    let mut laptop = Laptop::new();
    for (text, kind, code) in [
        ("db.corp.example", RecordType::MX, ResponseCode::NoError),
        ("nothing.umbra.internal", RecordType::A, ResponseCode::NXDomain),
        (CANARY, RecordType::A, ResponseCode::NXDomain),
    ] {
        let answer = laptop.ask(text, kind).await;
        assert_eq!(answer.metadata.response_code, code, "{text}");
        assert!(answer.answers.is_empty());
        let [authority] = answer.authorities.as_slice() else { panic!("{text}: {:?}", answer.authorities) };
        let hickory_proto::rr::RData::SOA(soa) = &authority.data else { panic!("{authority}") };
        assert_eq!((authority.ttl, soa.minimum), (10, 10));
        assert!(authority.name.zone_of(&name(text)));
    }
}

#[tokio::test]
async fn the_catalogue_may_change_at_any_time() {
    let mut laptop = Laptop::new();
    assert_eq!(told(&laptop.ask("db.corp.example", RecordType::A).await), ["10.77.64.1"]);
    laptop.names.update(Zone::new(pool(), &["corp.example".parse().unwrap()], &[]));
    let answer = laptop.ask("db.corp.example", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_by_its_code() {
    let mut laptop = Laptop::new();
    let plain = question_message("db.corp.example", RecordType::A);
    let with = |change: &dyn Fn(&mut Message)| {
        let mut message = plain.clone();
        change(&mut message);
        message.to_vec().unwrap()
    };
    let two = with(&|m| _ = m.add_query(Query::query(name("a.example"), RecordType::A)));
    let none = with(&|m| m.queries.clear());
    let update = with(&|m| m.metadata.op_code = OpCode::Update);
    let chaos = with(&|m| m.queries[0].query_class = DNSClass::CH);
    let transfer = query("umbra.internal", RecordType::AXFR);
    let future = with(&|m| {
        let mut edns = Edns::new();
        edns.set_version(1);
        m.set_edns(edns);
    });
    let short = query("db.corp.example", RecordType::A)[..20].to_vec();
    for (what, query, code) in [
        ("two questions", two, ResponseCode::FormErr),
        ("no question", none, ResponseCode::FormErr),
        ("half a question", short, ResponseCode::FormErr),
        ("an update", update, ResponseCode::NotImp),
        ("another class", chaos, ResponseCode::Refused),
        ("a transfer", transfer, ResponseCode::Refused),
        ("a later EDNS", future, ResponseCode::BADVERS),
    ] {
        let answer = Message::from_vec(&laptop.ask_raw(v4(), &query).await).unwrap();
        // 16 has two names.
        assert_eq!(u16::from(answer.metadata.response_code), u16::from(code), "{what}");
        assert_eq!((answer.metadata.id, answer.metadata.message_type), (0x1234, MessageType::Response), "{what}");
    }
}

#[tokio::test]
async fn answers_and_scraps_are_met_with_silence() {
    let mut laptop = Laptop::new();
    let mut answer = question_message("db.corp.example", RecordType::A);
    answer.metadata.message_type = MessageType::Response;
    laptop.send_query(v4(), &answer.to_vec().unwrap()).await;
    laptop.send_query(v4(), b"scrap").await;
    laptop.send_query(v4(), b"").await;
    // The next packet is the answer to this, or `ask` would see another port.
    assert_eq!(told(&laptop.ask("db.corp.example", RecordType::A).await), ["10.77.64.1"]);
}

#[tokio::test]
async fn long_answers_are_cut_to_what_the_asker_takes() {
    let mut laptop = Laptop::new();
    let mut message = question_message("many.corp.example", RecordType::A);
    for (size, limit) in [(None, 512), (Some(800), 800), (Some(100), 512), (Some(u16::MAX), DNS_UDP_MAX)] {
        message.edns = size.map(|size| {
            let mut edns = Edns::new();
            edns.set_max_payload(size).set_dnssec_ok(true);
            edns
        });
        let bytes = laptop.ask_raw(v6(), &message.to_vec().unwrap()).await;
        assert!(bytes.len() <= limit, "{} > {limit}", bytes.len());
        let answer = Message::from_vec(&bytes).unwrap();
        assert!(answer.metadata.truncation && answer.queries == message.queries);
        assert_eq!(
            answer.edns.map(|edns| (edns.max_payload(), edns.flags().dnssec_ok)),
            size.map(|_| (DNS_UDP_MAX as u16, true))
        );
    }
}

#[tokio::test]
async fn a_name_below_a_suffix_gets_its_address_once() {
    let mut laptop = Laptop::new();
    for kind in [RecordType::A, RecordType::AAAA] {
        laptop.send_query(v4(), &query("One.svc.example", kind)).await;
    }
    let mut answers = Vec::new();
    for _ in 0..2 {
        answers.extend(told(&Message::from_vec(&udp_payload(&laptop.receive().await).2).unwrap()));
    }
    assert_eq!(answers, ["10.77.70.0"], "an address in one family, none in the other");
    assert_eq!(told(&laptop.ask("one.SVC.example", RecordType::A).await), ["10.77.70.0"]);
    assert_eq!(told(&laptop.ask("0.70.77.10.in-addr.arpa", RecordType::PTR).await), ["one.svc.example."]);
    assert!(told(&laptop.ask("two.svc.example", RecordType::MX).await).is_empty());
    assert_eq!(laptop.controller.asked.load(Ordering::SeqCst), 1, "one name, one question to the controller");

    laptop.names.update(Zone::new(pool(), &["svc.example".parse().unwrap()], &[]));
    let gone = laptop.ask("one.svc.example", RecordType::A).await;
    assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain);
    assert!(told(&laptop.ask("0.70.77.10.in-addr.arpa", RecordType::PTR).await).is_empty());
}

#[tokio::test]
async fn a_name_without_an_address_is_a_failure_and_not_a_lie() {
    let mut laptop = Laptop::new();
    for text in ["refused.svc.example", "foreign.svc.example", "other.svc.example", "-.svc.example"] {
        let answer = laptop.ask(text, RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail, "{text}");
    }
    let before = laptop.controller.asked.load(Ordering::SeqCst);
    laptop.ask("refused.svc.example", RecordType::A).await;
    assert_eq!(laptop.controller.asked.load(Ordering::SeqCst), before, "the controller is not asked again at once");
    assert_eq!(laptop.names.counts().unassigned, 4);
}

/// An echo request (RFC 792, RFC 4443 section 4.1), by hand.
fn echo_request(to: IpAddr) -> Vec<u8> {
    use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr};
    let checksums = ChecksumCapabilities::default();
    let (ident, seq_no, data) = (7, 1, b"are you there".as_slice());
    let (from, to) = (laptop_address(to), to);
    let v4 = Icmpv4Repr::EchoRequest { ident, seq_no, data };
    let v6 = Icmpv6Repr::EchoRequest { ident, seq_no, data };
    let (protocol, len) =
        if to.is_ipv4() { (IpProtocol::Icmp, v4.buffer_len()) } else { (IpProtocol::Icmpv6, v6.buffer_len()) };
    let ip = IpRepr::new(from.into(), to.into(), protocol, len, 64);
    let mut bytes = vec![0; ip.buffer_len()];
    ip.emit(&mut bytes, &checksums);
    let payload = &mut bytes[ip.header_len()..];
    match (from, to) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            v6.emit(&from, &to, &mut Icmpv6Packet::new_unchecked(payload), &checksums);
        }
        _ => v4.emit(&mut Icmpv4Packet::new_unchecked(payload), &checksums),
    }
    bytes
}

#[tokio::test]
async fn the_resolver_answers_ping() {
    let mut laptop = Laptop::new();
    for (to, reply) in [(v4(), 0), (v6(), 129)] {
        laptop.send(echo_request(to)).await;
        let packet = laptop.receive().await;
        let (from, back, _, icmp) = ip_payload(&packet);
        assert_eq!((from, back, icmp[0]), (to, laptop_address(to), reply));
        assert!(icmp.ends_with(b"are you there"));
    }
}

#[tokio::test]
async fn a_fragment_is_not_taken_for_the_whole() {
    let mut laptop = Laptop::new();
    let mut fragment = udp_packet(41_000, v4(), &query("db.corp.example", RecordType::A));
    fragment[6] |= 0x20;
    laptop.send(fragment).await;
    laptop.ask("db.corp.example", RecordType::A).await;
    assert_eq!(laptop.names.counts().dropped, 1);
}

fn stack() -> Stack {
    Stack::new(pool().resolver_v4(), pool().resolver_v6(), 1)
}

fn still_answers(stack: &mut Stack, now: Duration) -> bool {
    while stack.query().is_some() || stack.transmit().is_some() {}
    stack.receive(udp_packet(42_000, v6(), b"a query"));
    stack.poll(now);
    stack.query().is_some_and(|(_, query)| query == b"a query")
}

proptest! {
    #[test]
    fn no_bytes_upset_the_stack(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 1..20)) {
        let mut stack = stack();
        for packet in packets {
            stack.receive(packet);
            stack.poll(Duration::from_millis(1));
        }
        prop_assert!(still_answers(&mut stack, Duration::from_millis(2)));
    }

    #[test]
    fn no_damage_to_a_packet_upsets_the_stack(
        kind in 0..3usize, six: bool, at: prop::sample::Index, byte: u8, len: prop::sample::Index,
    ) {
        let to = if six { v6() } else { v4() };
        let mut packet = match kind {
            0 => echo_request(to),
            1 => udp_packet(42_000, to, &query("db.corp.example", RecordType::A)),
            _ => {
                let mut tcp = Tcp::new();
                tcp.connect(to);
                tcp.poll(Duration::ZERO);
                tcp.packets.outward.pop_front().unwrap()
            }
        };
        let place = at.index(packet.len());
        packet[place] = byte;
        packet.truncate(1 + len.index(packet.len() * 2).min(packet.len() - 1));
        let mut stack = stack();
        stack.receive(packet);
        stack.poll(Duration::from_millis(1));
        prop_assert!(still_answers(&mut stack, Duration::from_millis(2)));
    }

    #[test]
    fn no_query_upsets_the_resolver(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), header in any::<Option<u16>>(), tcp: bool,
    ) {
        let mut bytes = bytes;
        if let (Some(flags), true) = (header, bytes.len() >= 12) {
            bytes[2..4].copy_from_slice(&(flags & 0x01ff).to_be_bytes());
            bytes[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        }
        let names = Names::new(zone(), Arc::new(Controller::default()));
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        if let Step::Answer(answer) = names.begin(bytes.clone(), transport) {
            let read = Message::from_vec(&answer).unwrap();
            prop_assert_eq!(read.metadata.id.to_be_bytes(), [bytes[0], bytes[1]]);
        }
    }
}
