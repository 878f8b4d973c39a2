//! Every table of the resolver, filled.

use super::*;
use model::limits::{DNS_ASSIGN_MAX, DNS_MISMATCH_MAX, DNS_SERVERS_MAX, DNS_WAITING_MAX, SUFFIX_NAMES_MAX};
use tokio::net::UdpSocket;

/// A server that never answers, and one answer's time is longer than the test.
async fn mute() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

async fn fail_code(laptop: &mut Laptop) -> ResponseCode {
    Message::from_vec(&udp_payload(&laptop.receive().await).2).unwrap().metadata.response_code
}

#[tokio::test]
async fn queries_that_wait_are_bounded_and_ours_are_answered_all_the_same() {
    let mut laptop = Laptop::new();
    let server = mute().await;
    laptop.names.set_servers(vec![server.local_addr().unwrap()]);
    for number in 0..DNS_WAITING_MAX {
        laptop.send_query(v4(), &query(&format!("n{number}.example.org"), RecordType::A)).await;
    }
    laptop.send_query(v4(), &query("surplus.example.org", RecordType::A)).await;
    assert_eq!(fail_code(&mut laptop).await, ResponseCode::ServFail, "one too many is told at once");
    assert_eq!(laptop.names.counts().busy, 1);
    assert_eq!(told(&laptop.ask("db.corp.example", RecordType::A).await), ["10.77.64.1"]);
}

#[tokio::test]
async fn a_circle_of_one_question_ends() {
    let mut laptop = Laptop::new();
    let server = mute().await;
    laptop.names.set_servers(vec![server.local_addr().unwrap()]);
    for _ in 0..=DNS_SAME_MAX {
        laptop.send_query(v4(), &query("round.example.org", RecordType::A)).await;
    }
    assert_eq!(fail_code(&mut laptop).await, ResponseCode::ServFail);
    let counts = laptop.names.counts();
    assert_eq!((counts.busy, counts.forwarded), (1, u64::try_from(DNS_SAME_MAX).unwrap()));
}

#[tokio::test]
async fn turns_come_back() {
    let table = Mutex::default();
    let question = |text| wire::question(&query(text, RecordType::A)).unwrap();
    let (one, other_case, two) = (question("one.example"), question("ONE.example"), question("two.example"));
    let taken: Vec<_> = (0..DNS_SAME_MAX).map(|_| Turn::take(&table, &one).unwrap()).collect();
    assert!(Turn::take(&table, &other_case).is_none() && Turn::take(&table, &two).is_some());
    drop(taken);
    assert!(Turn::take(&table, &one).is_some());
    assert!(table.lock().unwrap().is_empty(), "and nothing is kept");
}

#[tokio::test]
async fn questions_to_the_controller_are_bounded() {
    let mut laptop = Laptop::new();
    for number in 0..=DNS_ASSIGN_MAX {
        laptop.send_query(v4(), &query(&format!("slow{number}.svc.example"), RecordType::A)).await;
    }
    assert_eq!(fail_code(&mut laptop).await, ResponseCode::ServFail);
    assert_eq!(laptop.controller.asked.load(Ordering::SeqCst), DNS_ASSIGN_MAX);
    assert_eq!(laptop.names.counts().unassigned, 1);
}

#[tokio::test]
async fn names_with_an_address_are_bounded_and_the_oldest_is_asked_for_again() {
    let controller = Arc::new(Controller::default());
    let assigned = Assigned::new(Arc::clone(&controller));
    let resource = ResourceId::from_bytes([1; 10]);
    let nth = |number: usize| -> HostName { format!("n{number}.svc.example").parse().unwrap() };
    for number in 0..=SUFFIX_NAMES_MAX {
        let _ = assigned.addresses(&nth(number), resource, &pool()).await;
    }
    assert_eq!(controller.asked.load(Ordering::SeqCst), SUFFIX_NAMES_MAX + 1);
    assert_eq!(assigned.known(&nth(0), resource), None);
    assert!(assigned.known(&nth(1), resource).is_some());
    let _ = assigned.addresses(&nth(0), resource, &pool()).await;
    assert_eq!(controller.asked.load(Ordering::SeqCst), SUFFIX_NAMES_MAX + 2);
    assert_eq!(assigned.known(&nth(1), resource), None, "the table is full again");
}

#[tokio::test]
async fn packets_that_wait_are_bounded() {
    let mut stack = Stack::new(pool().resolver_v4(), pool().resolver_v6(), 1);
    let packet = udp_packet(42_000, v4(), &query("db.corp.example", RecordType::A));
    for _ in 0..DNS_PACKETS_MAX {
        assert!(stack.receive(packet.clone()));
    }
    assert!(!stack.receive(packet.clone()));
    // All at once: as many queries as the socket holds, and as many answers; then it goes on.
    stack.poll(Duration::ZERO);
    let askers: Vec<_> = std::iter::from_fn(|| stack.query()).collect();
    assert_eq!(askers.len(), DNS_PACKETS_MAX);
    for (asker, _) in askers.iter().chain(&askers) {
        stack.answer(*asker, Some(b"an answer"), Duration::ZERO);
    }
    stack.poll(Duration::ZERO);
    assert_eq!(std::iter::from_fn(|| stack.transmit()).count(), DNS_PACKETS_MAX);
    assert!(stack.receive(packet));
}

#[tokio::test]
async fn a_server_that_only_guesses_is_given_up() {
    let guesser = mute().await;
    let servers = [guesser.local_addr().unwrap()];
    let asked = query("www.example.org", RecordType::A);
    let question = wire::question(&asked).unwrap();
    let answer = forward::forward(&servers, &asked, &question, Transport::Udp);
    let guess = async {
        let mut bytes = [0; 512];
        let (len, from) = guesser.recv_from(&mut bytes).await.unwrap();
        for _ in 0..DNS_MISMATCH_MAX {
            guesser.send_to(&bytes[..len], from).await.unwrap();
        }
        Instant::now()
    };
    let (answer, guessed) = timeout(PATIENCE, async { tokio::join!(answer, guess) }).await.unwrap();
    assert_eq!(answer, None);
    assert!(guessed.elapsed() < model::limits::DNS_SERVER_WAIT, "without waiting for more");
}

#[test]
fn servers_are_few_and_never_ourselves() {
    let server = |n: u8| SocketAddr::from(([192, 0, 2, n], 53));
    let mut servers = vec![server(1), server(1), SocketAddr::new(v4(), 53), SocketAddr::new(v6(), 5_353)];
    servers.push("[::ffff:10.77.0.53]:53".parse().unwrap());
    servers.push("[::]:53".parse().unwrap());
    servers.extend((2..20).map(server));
    let usable = forward::usable(&servers, &pool());
    assert_eq!(usable, (1..=4).map(server).collect::<Vec<_>>());
    assert_eq!(usable.len(), DNS_SERVERS_MAX);
}
