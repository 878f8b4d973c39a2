//! Questions about what is somebody else's, against real servers on loopback.

use super::*;
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

/// What a server sends for a query over UDP (`true`: TCP): no message, one, or several.
type Behaviour = fn(&[u8], bool) -> Vec<Vec<u8>>;

/// A name server on loopback, with all that it was asked.
struct Server {
    address: SocketAddr,
    asked: mpsc::UnboundedReceiver<(Message, bool)>,
}

impl Server {
    async fn start(behaviour: Behaviour) -> Self {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        let tcp = TcpListener::bind(address).await.unwrap();
        let (sender, asked) = mpsc::unbounded_channel();
        let by_tcp = sender.clone();
        tokio::spawn(async move {
            let mut bytes = vec![0; 4_096];
            loop {
                let (len, from) = udp.recv_from(&mut bytes).await.unwrap();
                let query = &bytes[..len];
                let _ = sender.send((Message::from_vec(query).unwrap(), false));
                for answer in behaviour(query, false) {
                    udp.send_to(&answer, from).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut query).await.unwrap();
                let _ = by_tcp.send((Message::from_vec(&query).unwrap(), true));
                for answer in behaviour(&query, true) {
                    stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
        Self { address, asked }
    }

    fn all_asked(&mut self) -> Vec<(String, bool)> {
        let next = || self.asked.try_recv().ok();
        std::iter::from_fn(next).map(|(query, tcp)| (query.queries[0].name.to_string(), tcp)).collect()
    }
}

fn reply(query: &[u8], addresses: &[[u8; 4]]) -> Message {
    let query = Message::from_vec(query).unwrap();
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    answer.queries = query.queries.clone();
    for octets in addresses {
        let data = RData::A(A(Ipv4Addr::from(*octets)));
        answer.add_answer(Record::from_rdata(query.queries[0].name.clone(), 60, data));
    }
    answer
}

fn whole(query: &[u8], _: bool) -> Vec<Vec<u8>> {
    vec![reply(query, &[[192, 0, 2, 1]]).to_vec().unwrap()]
}

fn failing(query: &[u8], _: bool) -> Vec<Vec<u8>> {
    let mut answer = reply(query, &[]);
    answer.metadata.response_code = ResponseCode::Refused;
    vec![answer.to_vec().unwrap()]
}

fn silent(_: &[u8], _: bool) -> Vec<Vec<u8>> {
    Vec::new()
}

/// Others answer first: with another id, to another question, without one, as a query, and in pieces.
fn guessed(query: &[u8], _: bool) -> Vec<Vec<u8>> {
    let right = reply(query, &[[192, 0, 2, 1]]);
    let wrong = |change: &dyn Fn(&mut Message)| {
        let mut message = reply(query, &[[198, 51, 100, 66]]);
        change(&mut message);
        message.to_vec().unwrap()
    };
    vec![
        wrong(&|m| m.metadata.id ^= 1),
        wrong(&|m| m.queries[0].name = name("bank.test")),
        wrong(&|m| m.queries[0].query_type = RecordType::AAAA),
        wrong(&|m| m.queries.clear()),
        wrong(&|m| m.metadata.message_type = MessageType::Query),
        right.to_vec().unwrap()[..10].to_vec(),
        right.to_vec().unwrap(),
    ]
}

/// Over UDP a piece, over TCP all.
fn long(query: &[u8], tcp: bool) -> Vec<Vec<u8>> {
    let mut answer = reply(query, &(0..60).map(|n| [192, 0, 2, n]).collect::<Vec<_>>());
    if !tcp {
        answer.answers.truncate(3);
        answer.metadata.truncation = true;
    }
    vec![answer.to_vec().unwrap()]
}

fn rebinding(query: &[u8], _: bool) -> Vec<Vec<u8>> {
    vec![reply(query, &[[192, 0, 2, 1], [10, 77, 64, 1]]).to_vec().unwrap()]
}

async fn laptop_with(servers: &[&Server]) -> Laptop {
    let laptop = Laptop::new();
    laptop.names.set_servers(servers.iter().map(|server| server.address).collect());
    laptop
}

/// An address at which nobody answers: of a server that is gone.
async fn closed() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn other_names_are_answered_by_the_server() {
    let mut server = Server::start(whole).await;
    let mut laptop = laptop_with(&[&server]).await;
    let answer = laptop.ask("WWW.example.org", RecordType::A).await;
    assert_eq!((told(&answer), answer.metadata.id), (vec!["192.0.2.1".to_owned()], 0x1234));
    let (asked, tcp) = server.asked.recv().await.unwrap();
    assert!(!tcp && asked.queries[0].name.eq_case(&name("WWW.example.org")));
    assert!(asked.metadata.recursion_desired);
}

#[tokio::test]
async fn ids_are_fresh() {
    let mut server = Server::start(whole).await;
    let mut laptop = laptop_with(&[&server]).await;
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..20 {
        laptop.ask("www.example.org", RecordType::A).await;
        ids.insert(server.asked.recv().await.unwrap().0.metadata.id);
    }
    assert!(ids.len() > 15, "{ids:?}");
}

#[tokio::test]
async fn nothing_of_ours_leaves() {
    let mut server = Server::start(whole).await;
    let mut laptop = laptop_with(&[&server]).await;
    let ours = [
        "db.corp.example",
        "DB.CORP.EXAMPLE",
        "umbra.internal",
        "Secret.Umbra.Internal",
        "private.example",
        "x.y.private.example",
        "one.svc.example",
        "refused.svc.example",
        "-.svc.example",
        "1.64.77.10.in-addr.arpa",
        "200.200.77.10.in-addr.arpa",
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.4.0.0.0.a.9.8.7.6.5.4.3.2.1.d.f.ip6.arpa",
        CANARY,
    ];
    for text in ours {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::PTR, RecordType::ANY, RecordType::from(65)] {
            laptop.ask(text, kind).await;
        }
    }
    // And over TCP.
    let mut tcp = Tcp::new();
    let connection = tcp.connect(v6());
    tcp.run_until(&mut laptop, |tcp| tcp.socket(connection).may_send()).await;
    tcp.write(connection, &[&query("secret.umbra.internal", RecordType::A)]);
    tcp.run_until(&mut laptop, |tcp| !tcp.read(connection).is_empty()).await;

    laptop.ask("www.example.org", RecordType::A).await;
    assert_eq!(server.all_asked(), [("www.example.org.".to_owned(), false)], "the one name that is not ours");
}

#[tokio::test]
async fn guesses_are_not_answers() {
    let server = Server::start(guessed).await;
    let mut laptop = laptop_with(&[&server]).await;
    assert_eq!(told(&laptop.ask("www.example.org", RecordType::A).await), ["192.0.2.1"]);
}

#[tokio::test]
async fn a_cut_answer_is_fetched_whole() {
    let mut server = Server::start(long).await;
    let mut laptop = laptop_with(&[&server]).await;
    let mut message = question_message("www.example.org", RecordType::A);
    let mut edns = hickory_proto::op::Edns::new();
    edns.set_max_payload(1_232);
    message.set_edns(edns);
    let answer = Message::from_vec(&laptop.ask_raw(v4(), &message.to_vec().unwrap()).await).unwrap();
    assert_eq!((answer.answers.len(), answer.metadata.truncation), (60, false));
    assert_eq!(server.all_asked().iter().map(|(_, tcp)| *tcp).collect::<Vec<_>>(), [false, true]);

    let answer = laptop.ask("www.example.org", RecordType::A).await;
    assert!(answer.metadata.truncation && answer.answers.is_empty(), "512 bytes do not hold it");
}

#[tokio::test]
async fn what_is_asked_over_tcp_is_asked_over_tcp() {
    let mut server = Server::start(long).await;
    let mut laptop = laptop_with(&[&server]).await;
    let mut tcp = Tcp::new();
    let connection = tcp.connect(v4());
    tcp.run_until(&mut laptop, |tcp| tcp.socket(connection).may_send()).await;
    tcp.write(connection, &[&query("www.example.org", RecordType::A)]);
    let mut answers = Vec::new();
    tcp.run_until(&mut laptop, |tcp| {
        answers.extend(tcp.read(connection));
        !answers.is_empty()
    })
    .await;
    assert_eq!(Message::from_vec(&answers[0]).unwrap().answers.len(), 60);
    assert_eq!(server.all_asked(), [("www.example.org.".to_owned(), true)]);
}

#[tokio::test]
async fn the_next_server_is_asked() {
    let mut refusing = Server::start(failing).await;
    let mut mute = Server::start(silent).await;
    let good = Server::start(whole).await;
    let mut laptop = laptop_with(&[]).await;
    laptop.names.set_servers(vec![closed().await, refusing.address, mute.address, good.address]);
    let start = Instant::now();
    assert_eq!(told(&laptop.ask("www.example.org", RecordType::A).await), ["192.0.2.1"]);
    assert_eq!((refusing.all_asked().len(), mute.all_asked().len()), (1, 1));
    assert!(start.elapsed() >= model::limits::DNS_SERVER_WAIT, "the silent one had its time");

    laptop.names.set_servers(vec![refusing.address, closed().await]);
    let answer = laptop.ask("www.example.org", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "the only word that there is");
}

#[tokio::test]
async fn without_a_server_there_is_a_failure_at_once() {
    let mut laptop = laptop_with(&[]).await;
    for servers in [vec![], vec![SocketAddr::new(v4(), 53), SocketAddr::new(v6(), 53), "0.0.0.0:53".parse().unwrap()]] {
        laptop.names.set_servers(servers);
        let answer = laptop.ask("www.example.org", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }
    let counts = laptop.names.counts();
    assert_eq!((counts.forwarded, counts.unanswered), (0, 2), "we never ask ourselves");
}

#[tokio::test]
async fn servers_may_change_at_any_time() {
    let mut laptop = laptop_with(&[&Server::start(failing).await]).await;
    laptop.ask("www.example.org", RecordType::A).await;
    laptop.names.set_servers(vec![Server::start(whole).await.address]);
    assert_eq!(told(&laptop.ask("www.example.org", RecordType::A).await), ["192.0.2.1"]);
}

#[tokio::test]
async fn no_outsiders_name_leads_to_our_services() {
    let mut laptop = laptop_with(&[&Server::start(rebinding).await]).await;
    let answer = laptop.ask("www.evil.example", RecordType::A).await;
    assert_eq!((answer.metadata.response_code, told(&answer)), (ResponseCode::ServFail, vec![]));
    assert_eq!(laptop.names.counts().rebound, 1);
}
