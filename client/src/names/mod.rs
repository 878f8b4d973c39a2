//! Who answers the machine's name queries? A resolver at two virtual addresses inside the engine: ours it answers itself,
//! everything else goes to the servers that the machine had before. Nothing that is ours ever leaves.
//!
//! | file | question |
//! |---|---|
//! | `zone.rs` | which names are ours, and what is the answer? (pure) |
//! | `assigned.rs` | which names below a suffix have an address? |
//! | `forward.rs` | how are other people's names resolved? |
//! | `reply.rs`, `wire.rs` | how are messages read and written? |
//! | `stack.rs`, `stream.rs` | how do IP packets become queries? |

mod assigned;
mod forward;
pub mod reply;
mod stack;
mod stream;
pub mod wire;
mod zone;

pub use assigned::Assign;
pub use zone::{CANARY, CONTROLLER, OWN_ZONE, Zone};

use assigned::Assigned;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use model::ids::ResourceId;
use model::limits::{DNS_PACKETS_MAX, DNS_SAME_MAX, DNS_WAITING_MAX};
use model::net::HostName;
use model::packet::Frame;
use reply::{Reading, Request};
use stack::{Asker, Stack};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::{Question, Transport};
use zone::Verdict;

/// How often the stack is polled when nothing is due.
const QUIET: Duration = Duration::from_secs(60);

/// What the resolver did since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Queries answered from what is ours.
    pub own: u64,
    /// Queries sent to another server.
    pub forwarded: u64,
    /// Queries that no server answered, or for which there is none.
    pub unanswered: u64,
    /// Names below a suffix that got no address.
    pub unassigned: u64,
    /// Answers of others that led into the pool (DNS rebinding) or were malformed, refused.
    pub rebound: u64,
    /// Queries refused because too many waited.
    pub busy: u64,
    /// Packets that were none, fragments, or too many.
    pub dropped: u64,
}

#[derive(Default)]
struct Counters {
    own: AtomicU64,
    forwarded: AtomicU64,
    unanswered: AtomicU64,
    unassigned: AtomicU64,
    rebound: AtomicU64,
    busy: AtomicU64,
    dropped: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The resolver.
pub struct Names<A> {
    zone: watch::Sender<Arc<Zone>>,
    servers: watch::Sender<Arc<[SocketAddr]>>,
    assigned: Assigned<A>,
    /// How often each question is being forwarded now.
    forwarding: Mutex<BTreeMap<Question, usize>>,
    counters: Counters,
}

/// What is to be done with a query.
enum Step {
    /// Nothing.
    Drop,
    /// Send this.
    Answer(Vec<u8>),
    /// It takes time.
    Later(Box<Later>),
}

/// A query that takes time.
enum Later {
    Assign { request: Request, name: HostName, resource: ResourceId, apex: Name },
    Forward { request: Request, query: Vec<u8>, question: Question, transport: Transport },
}

impl Later {
    const fn request(&self) -> &Request {
        match self {
            Self::Assign { request, .. } | Self::Forward { request, .. } => request,
        }
    }
}

impl<A: Assign> Names<A> {
    /// A resolver that owns `zone`, and knows no servers yet.
    pub fn new(zone: Zone, assign: A) -> Self {
        Self {
            zone: watch::Sender::new(Arc::new(zone)),
            servers: watch::Sender::new(Arc::from([])),
            assigned: Assigned::new(assign),
            forwarding: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// Replaces what is ours; the very next query is answered from it.
    pub fn update(&self, zone: Zone) {
        self.assigned.retain(&zone);
        self.zone.send_replace(Arc::new(zone));
    }

    /// Replaces the servers for everything else, best first. Those that are ourselves are left out.
    pub fn set_servers(&self, servers: Vec<SocketAddr>) {
        self.servers.send_replace(Arc::from(servers));
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let all = &self.counters;
        Counts {
            own: read(&all.own),
            forwarded: read(&all.forwarded),
            unanswered: read(&all.unanswered),
            unassigned: read(&all.unassigned),
            rebound: read(&all.rebound),
            busy: read(&all.busy),
            dropped: read(&all.dropped),
        }
    }

    /// Answers until `frames` closes: packets to the resolver's addresses come in there, and packets to the TUN device go
    /// out through `out`, which should not block for long.
    pub async fn run<F>(
        self: Arc<Self>,
        mut frames: mpsc::Receiver<Frame>,
        out: F,
    ) -> Result<(), host::entropy::EntropyError>
    where
        F: Fn(Frame) + Send + Sync,
    {
        let pool = *self.zone().pool();
        let seed = u64::from_be_bytes(host::entropy::random()?);
        let mut stack = Stack::new(pool.resolver_v4(), pool.resolver_v6(), seed);
        let mut waiting: JoinSet<(Asker, Vec<u8>)> = JoinSet::new();
        let start = Instant::now();
        loop {
            stack.poll(start.elapsed());
            self.take_queries(&mut stack, &mut waiting, start.elapsed());
            stack.poll(start.elapsed());
            while let Some(packet) = stack.transmit() {
                out(Frame::packet(packet));
            }
            let pause = stack.wait(start.elapsed()).unwrap_or(QUIET).min(QUIET);
            tokio::select! {
                frame = frames.recv() => {
                    let Some(frame) = frame else { return Ok(()) };
                    self.take_frames(&mut stack, frame, &mut frames);
                }
                Some(done) = waiting.join_next() => {
                    if let Ok((asker, answer)) = done {
                        stack.answer(asker, Some(&answer), start.elapsed());
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn take_frames(&self, stack: &mut Stack, first: Frame, frames: &mut mpsc::Receiver<Frame>) {
        let rest = std::iter::from_fn(|| frames.try_recv().ok());
        for frame in std::iter::once(first).chain(rest).take(DNS_PACKETS_MAX) {
            if !stack.receive(frame.bytes) {
                count(&self.counters.dropped);
            }
        }
    }

    fn take_queries(self: &Arc<Self>, stack: &mut Stack, waiting: &mut JoinSet<(Asker, Vec<u8>)>, now: Duration) {
        while let Some((asker, query)) = stack.query() {
            match self.begin(query, asker.transport()) {
                Step::Drop => stack.answer(asker, None, now),
                Step::Answer(answer) => stack.answer(asker, Some(&answer), now),
                Step::Later(later) if waiting.len() < DNS_WAITING_MAX => {
                    let names = Arc::clone(self);
                    waiting.spawn(async move { (asker, names.finish(later).await) });
                }
                Step::Later(later) => {
                    count(&self.counters.busy);
                    stack.answer(asker, Some(&later.request().code(ResponseCode::ServFail)), now);
                }
            }
        }
    }

    fn zone(&self) -> Arc<Zone> {
        Arc::clone(&self.zone.borrow())
    }

    /// Answers what can be answered at once.
    fn begin(&self, query: Vec<u8>, transport: Transport) -> Step {
        let request = match reply::read(&query, transport) {
            Reading::Silence => return Step::Drop,
            Reading::Answer(answer) => return Step::Answer(answer),
            Reading::Request(request) => request,
        };
        let verdict = self.zone().look_up(request.name(), request.kind(), |ip| self.assigned.name_of(ip));
        if verdict != Verdict::Forward {
            count(&self.counters.own);
        }
        match verdict {
            Verdict::Exists { apex, data } => Step::Answer(request.records(apex, data)),
            Verdict::Missing { apex } => Step::Answer(request.missing(apex)),
            Verdict::Impossible => Step::Answer(request.code(ResponseCode::ServFail)),
            Verdict::Assign { name, resource, apex } => match self.assigned.known(&name, resource) {
                Some(known) => Step::Answer(request.records(apex, known.data(request.kind()))),
                None => Step::Later(Box::new(Later::Assign { request, name, resource, apex })),
            },
            Verdict::Forward => match wire::question(&query) {
                Some(question) => Step::Later(Box::new(Later::Forward { request, query, question, transport })),
                None => Step::Answer(request.code(ResponseCode::FormErr)),
            },
        }
    }

    /// Answers the rest.
    async fn finish(&self, later: Box<Later>) -> Vec<u8> {
        match *later {
            Later::Assign { request, name, resource, apex } => {
                let zone = self.zone();
                match self.assigned.addresses(&name, resource, zone.pool()).await {
                    Some(addresses) => request.records(apex, addresses.data(request.kind())),
                    None => {
                        count(&self.counters.unassigned);
                        request.code(ResponseCode::ServFail)
                    }
                }
            }
            Later::Forward { request, query, question, transport } => {
                let answer = self.ask_others(&query, &question, transport).await;
                let answer = answer.and_then(|answer| self.checked(answer, &question, request.limit()));
                answer.unwrap_or_else(|| request.code(ResponseCode::ServFail))
            }
        }
    }

    async fn ask_others(&self, query: &[u8], question: &Question, transport: Transport) -> Option<Vec<u8>> {
        let Some(_turn) = Turn::take(&self.forwarding, question) else {
            count(&self.counters.busy);
            return None;
        };
        let servers = Arc::clone(&self.servers.borrow());
        let servers = forward::usable(&servers, self.zone().pool());
        if !servers.is_empty() {
            count(&self.counters.forwarded);
        }
        let answer = forward::forward(&servers, query, question, transport).await;
        if answer.is_none() {
            count(&self.counters.unanswered);
        }
        answer
    }

    /// An outsider's name must not lead into the pool: a page of theirs would speak to our services (DNS rebinding).
    fn checked(&self, answer: Vec<u8>, question: &Question, limit: usize) -> Option<Vec<u8>> {
        if wire::header(&answer)?.truncated {
            return wire::cut(&answer, question);
        }
        let zone = self.zone();
        let told = wire::addresses(&answer, question);
        if told.is_none_or(|told| told.iter().any(|ip| zone.pool().contains(*ip))) {
            count(&self.counters.rebound);
            return None;
        }
        if answer.len() <= limit { Some(answer) } else { wire::cut(&answer, question) }
    }
}

/// One of the few that may forward the same question at once.
struct Turn<'a> {
    table: &'a Mutex<BTreeMap<Question, usize>>,
    question: Question,
}

impl<'a> Turn<'a> {
    fn take(table: &'a Mutex<BTreeMap<Question, usize>>, question: &Question) -> Option<Self> {
        let mut turns = table.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = turns.entry(question.clone()).or_default();
        if *taken >= DNS_SAME_MAX {
            return None;
        }
        *taken += 1;
        drop(turns);
        Some(Self { table, question: question.clone() })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = turns.get_mut(&self.question) {
            *taken -= 1;
            if *taken == 0 {
                turns.remove(&self.question);
            }
        }
    }
}

#[cfg(test)]
mod tests;
