//! Questions over TCP. Where time matters the stack is driven by hand, in virtual time.

use super::*;
use model::limits::{DNS_PIPELINE_MAX, DNS_QUERY_MAX, DNS_TCP_IDLE, DNS_TCP_MAX};
use tcp::State;

const AFTER_IDLE: Duration = DNS_TCP_IDLE.saturating_add(Duration::from_millis(1));

#[tokio::test]
async fn a_connection_carries_long_answers_and_several_questions() {
    for to in [v4(), v6()] {
        let mut laptop = Laptop::new();
        let mut tcp = Tcp::new();
        let connection = tcp.connect(to);
        tcp.run_until(&mut laptop, |tcp| tcp.socket(connection).may_send()).await;
        let questions = ["many.corp.example", "db.corp.example", "one.svc.example"];
        let queries: Vec<_> = questions.iter().map(|text| query(text, RecordType::A)).collect();
        tcp.write(connection, &queries.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let mut answers = Vec::new();
        tcp.run_until(&mut laptop, |tcp| {
            answers.extend(tcp.read(connection).iter().map(|bytes| Message::from_vec(bytes).unwrap()));
            answers.len() == questions.len()
        })
        .await;
        let counts: Vec<_> = answers.iter().map(|answer| (answer.answers.len(), answer.metadata.truncation)).collect();
        assert_eq!(counts, [(200, false), (1, false), (1, false)]);

        tcp.socket(connection).close();
        tcp.run_until(&mut laptop, |tcp| tcp.socket(connection).state() == State::TimeWait).await;
    }
}

/// For how long a stack may keep an acknowledgement back, and a little more.
const DELAYED_ACK: Duration = Duration::from_millis(20);

/// A laptop and a resolver's stack, with no task in between.
struct Pair {
    stack: Stack,
    tcp: Tcp,
    now: Duration,
}

impl Pair {
    fn new() -> Self {
        Self { stack: Stack::new(pool().resolver_v4(), pool().resolver_v6(), 1), tcp: Tcp::new(), now: Duration::ZERO }
    }

    /// Lets packets pass until there are none.
    fn settle(&mut self) {
        loop {
            self.now += Duration::from_micros(10);
            self.tcp.poll(self.now);
            let mut moved = false;
            while let Some(packet) = self.tcp.packets.outward.pop_front() {
                moved = true;
                assert!(self.stack.receive(packet));
            }
            self.stack.poll(self.now);
            while let Some(packet) = self.stack.transmit() {
                moved = true;
                self.tcp.packets.inward.push_back(packet);
            }
            if !moved {
                return;
            }
        }
    }

    /// Time passes, in which nobody says anything new.
    fn pass(&mut self, time: Duration) {
        self.settle();
        self.now += time;
        self.settle();
    }

    fn connect(&mut self) -> SocketHandle {
        let connection = self.tcp.connect(v4());
        self.settle();
        connection
    }

    fn state(&mut self, connection: SocketHandle) -> State {
        self.tcp.socket(connection).state()
    }

    fn ask(&mut self, connection: SocketHandle, messages: &[&[u8]]) {
        self.tcp.write(connection, messages);
        self.settle();
    }

    fn queries(&mut self) -> Vec<(Asker, Vec<u8>)> {
        std::iter::from_fn(|| self.stack.query()).collect()
    }
}

#[test]
fn connections_are_few_and_silent_ones_make_room() {
    let mut pair = Pair::new();
    let all: Vec<_> = (0..DNS_TCP_MAX).map(|_| pair.connect()).collect();
    assert!(all.iter().all(|connection| pair.state(*connection) == State::Established));
    let surplus = pair.connect();
    assert_eq!(pair.state(surplus), State::Closed, "refused at once");

    pair.pass(DNS_TCP_IDLE / 2);
    pair.ask(all[0], &[b"a question"]);
    pair.pass(DNS_TCP_IDLE / 2 + Duration::from_millis(10));
    assert_eq!(pair.state(all[0]), State::Established, "it spoke meanwhile");
    assert_eq!(pair.state(all[1]), State::CloseWait, "ended in order");
    for silent in &all[1..] {
        pair.tcp.socket(*silent).close();
    }
    pair.settle();
    let next = pair.connect();
    assert_eq!(pair.state(next), State::Established);
}

#[test]
fn a_silent_connection_that_does_not_close_is_cut_off() {
    let mut pair = Pair::new();
    let all: Vec<_> = (0..DNS_TCP_MAX).map(|_| pair.connect()).collect();
    pair.pass(AFTER_IDLE);
    pair.pass(AFTER_IDLE);
    assert!(all.iter().all(|connection| pair.state(*connection) == State::Closed));
    let next = pair.connect();
    assert_eq!(pair.state(next), State::Established);
}

#[test]
fn half_open_connections_make_room() {
    let mut pair = Pair::new();
    for _ in 0..DNS_TCP_MAX {
        pair.tcp.connect(v4());
    }
    pair.tcp.poll(pair.now);
    let first_packets: Vec<_> = pair.tcp.packets.outward.drain(..).collect();
    assert_eq!(first_packets.len(), DNS_TCP_MAX);
    for packet in first_packets {
        pair.stack.receive(packet);
    }
    pair.stack.poll(pair.now);
    while pair.stack.transmit().is_some() {}
    pair.tcp = Tcp::new();
    pair.tcp.port = 60_000;
    let refused = pair.connect();
    assert_eq!(pair.state(refused), State::Closed);
    pair.pass(AFTER_IDLE * 2);
    let next = pair.connect();
    assert_eq!(pair.state(next), State::Established);
}

#[test]
fn few_queries_of_a_connection_wait() {
    let mut pair = Pair::new();
    let connection = pair.connect();
    let queries: Vec<Vec<u8>> = (0..DNS_PIPELINE_MAX + 3).map(|n| vec![u8::try_from(n).unwrap(); 20]).collect();
    pair.ask(connection, &queries.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let taken = pair.queries();
    assert_eq!(taken.len(), DNS_PIPELINE_MAX);
    // Out of order, and one without an answer: two more queries come.
    pair.stack.answer(taken[3].0, Some(b"answer three"), pair.now);
    pair.stack.answer(taken[1].0, None, pair.now);
    pair.settle();
    assert_eq!(pair.tcp.read(connection), [b"answer three"]);
    let more: Vec<_> = pair.queries().into_iter().map(|(_, query)| query).collect();
    assert_eq!(more, queries[DNS_PIPELINE_MAX..DNS_PIPELINE_MAX + 2]);
}

#[test]
fn who_reads_nothing_is_asked_for_nothing_more() {
    let mut pair = Pair::new();
    let connection = pair.connect();
    let answer = vec![7; usize::from(u16::MAX)];
    let mut answered = 0;
    for _ in 0..20 {
        pair.ask(connection, &[b"a long answer, please"]);
        for (asker, _) in pair.queries() {
            pair.stack.answer(asker, Some(&answer), pair.now);
            answered += 1;
        }
    }
    assert!(answered < 5, "{answered} long answers are kept for somebody who does not read");
}

#[test]
fn too_long_a_query_ends_its_connection() {
    let mut pair = Pair::new();
    let (good, bad) = (pair.connect(), pair.connect());
    let longest = vec![1; DNS_QUERY_MAX];
    pair.ask(good, &[&longest]);
    assert_eq!(pair.queries().pop().unwrap().1, longest);
    pair.ask(bad, &[&[longest.as_slice(), b"x"].concat()]);
    assert!(pair.queries().is_empty());
    pair.settle();
    assert_eq!((pair.state(bad), pair.state(good)), (State::Closed, State::Established));
}

#[test]
fn an_answer_does_not_reach_the_next_connection_in_its_place() {
    let mut pair = Pair::new();
    let connection = pair.connect();
    pair.ask(connection, &[b"a question"]);
    let (asker, _) = pair.queries().pop().unwrap();
    pair.tcp.socket(connection).abort();
    pair.settle();
    let others: Vec<_> = (0..DNS_TCP_MAX).map(|_| pair.connect()).collect();
    pair.stack.answer(asker, Some(b"somebody's secret"), pair.now);
    pair.settle();
    for other in others {
        assert_eq!(pair.state(other), State::Established);
        assert!(pair.tcp.read(other).is_empty());
    }
}

#[test]
fn the_last_answer_is_sent_to_who_has_said_all() {
    let mut pair = Pair::new();
    let connection = pair.connect();
    pair.tcp.write(connection, &[b"my only question"]);
    pair.tcp.socket(connection).close();
    pair.pass(DELAYED_ACK);
    let (asker, _) = pair.queries().pop().unwrap();
    assert_eq!(pair.state(connection), State::FinWait2, "the resolver still has something to say");
    pair.stack.answer(asker, Some(b"the answer"), pair.now);
    pair.settle();
    assert_eq!(pair.tcp.read(connection), [b"the answer"]);
    pair.pass(DELAYED_ACK);
    assert_eq!(pair.state(connection), State::TimeWait);
}
