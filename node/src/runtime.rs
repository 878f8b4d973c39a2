//! The packet threads: what moves bytes between TUN, engine and UDP socket, and how does control code reach the engine?
//!
//! Plain threads with blocking reads: TUN to UDP, UDP to TUN, handshakes (what comes by UDP and is no data), and timers. Control code calls [`Runtime::apply`]
//! from anywhere. A panic in the engine ends one train, not the program.

use crate::pulse::Pulse;
use host::clock::SystemClock;
use host::offload::Steps;
use host::tun::Tun;
use host::turn::{self, Turn};
use host::udp::{BUFFER_BYTES, Batch, Udp};
use model::limits::{BATCH_BYTES_MAX, BATCH_FRAMES_MAX, ENGINE_EVENTS_MAX, HANDSHAKE_BYTES_MAX, STREAM_QUEUE_MAX};
use model::packet::{Frame, Train};
use model::time::{Clock, Instant};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tunnel::{Change, Engine, Event, Generation, Out};

/// One program's packet path.
pub struct Runtime {
    /// All tunnels.
    pub engine: Arc<Engine>,
    /// The TUN device.
    pub tun: Arc<Tun>,
    /// The one outside socket.
    pub udp: Arc<Udp>,
    /// Time.
    pub clock: Arc<SystemClock>,
    outbox: Outbox,
    /// Held for reading while a thread works on packets and until what became of them has left.
    under_way: parking_lot::RwLock<()>,
    panics: AtomicU64,
    pulses: Pulses,
}

/// Who has to get on for the program to be alive.
#[derive(Default)]
struct Pulses {
    tun: Pulse,
    udp: Pulse,
    handshakes: Pulse,
    timers: Pulse,
    control: Pulse,
}

/// Where the packet path puts what is for control code; it never waits for a place.
struct Outbox {
    events: mpsc::Sender<Event>,
    local: mpsc::Sender<Frame>,
    lost: AtomicU64,
}

impl Outbox {
    fn new() -> (Self, Inbox) {
        let (events, events_in) = mpsc::channel(ENGINE_EVENTS_MAX);
        let (local, local_in) = mpsc::channel(STREAM_QUEUE_MAX);
        (Self { events, local, lost: AtomicU64::new(0) }, Inbox { events: events_in, local: local_in })
    }

    fn put(&self, out: &mut Out) {
        let local = out.local.drain(..).map(|frame| self.local.try_send(frame).is_err());
        let lost = local.chain(out.events.drain(..).map(|event| self.events.try_send(event).is_err()));
        let lost = lost.filter(|lost| *lost).count();
        self.lost.fetch_add(u64::try_from(lost).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What the packet path hands to control code.
pub struct Inbox {
    /// Everything that the engine tells.
    pub events: mpsc::Receiver<Event>,
    /// Client: packets to the resolver's addresses.
    pub local: mpsc::Receiver<Frame>,
}

impl Runtime {
    /// Starts the threads. They end with the process.
    pub fn start(engine: Engine, tun: Tun, udp: Udp, clock: Arc<SystemClock>) -> std::io::Result<(Arc<Self>, Inbox)> {
        let (outbox, inbox) = Outbox::new();
        let runtime = Arc::new(Self {
            engine: Arc::new(engine),
            tun: Arc::new(tun),
            udp: Arc::new(udp),
            clock,
            outbox,
            under_way: parking_lot::RwLock::new(()),
            panics: AtomicU64::new(0),
            pulses: Pulses::default(),
        });
        let without = runtime.without();
        if !without.is_empty() {
            tracing::info!(%without, "the packet path works without these fast ways of the kernel");
        }
        let threads = [
            ("tun-to-udp", Some(turn::SENDING), Self::pump_tun as fn(&Self)),
            ("udp-to-tun", Some(turn::RECEIVING), Self::pump_udp),
            ("handshakes", Some(turn::HANDSHAKING), Self::pump_handshakes),
            ("timers", None, Self::pump_timers),
        ];
        for (name, turn, run) in threads {
            let runtime = Arc::clone(&runtime);
            std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                if let Some(Err(error)) = turn.map(Turn::take) {
                    tracing::info!(name, %error, "this thread cannot choose its turns: packets wait longer under load");
                }
                run(&runtime);
            })?;
        }
        Ok((runtime, inbox))
    }

    /// Now.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Applies a change and does what follows from it; answers the events that belong to it. When this returns, no
    /// packet is handled by the state from before, and none that was is still to leave.
    pub fn apply(&self, change: Change) -> (Generation, Vec<Event>) {
        let mut out = Out::default();
        let generation = self.engine.apply(self.now(), change, &mut out);
        let events = std::mem::take(&mut out.events);
        drop(self.under_way.write());
        self.flush(&mut out);
        (generation, events)
    }

    /// The fast ways of the kernel that it lacks or was told to leave, as `--offload` names them; empty: it has them all.
    pub fn without(&self) -> String {
        let (tun, udp, buffers) = (self.tun.offloads(), self.udp.offloads(), self.udp.buffers());
        let large_buffers = buffers.receive.min(buffers.send) >= BUFFER_BYTES;
        let queues = self.tun.queues() > 1;
        Steps { vnet: tun.vnet, tso: tun.tso, uso: tun.uso, queues, gso: udp.gso, gro: udp.gro, large_buffers }
            .to_string()
    }

    /// Sends a raw datagram from the outside socket (a knock).
    pub fn send_raw(&self, train: Train) {
        self.send(&[train]);
    }

    /// Writes a packet to the TUN device, as if it had come out of a tunnel (the resolver's answers).
    pub fn write_local(&self, frame: &Frame) {
        if let Err(error) = self.tun.write(frame) {
            tracing::debug!(%error, "a packet could not be written to the TUN device");
        }
    }

    /// Events and local packets that found no room, and panics that were caught.
    pub fn losses(&self) -> (u64, u64) {
        (self.outbox.lost.load(Ordering::Relaxed), self.panics.load(Ordering::Relaxed))
    }

    /// A turn of the program's own task, which is never away for long.
    pub fn beat(&self) {
        self.pulses.control.begin(self.now());
    }

    /// Whether every packet thread, and the task that calls [`Runtime::beat`], gets on.
    pub fn is_alive(&self) -> bool {
        let (now, Pulses { tun, udp, handshakes, timers, control }) = (self.now(), &self.pulses);
        [tun, udp, handshakes, timers, control].into_iter().all(|pulse| !pulse.is_stuck(now))
    }

    fn send(&self, trains: &[Train]) {
        self.udp.send(trains);
    }

    fn flush(&self, out: &mut Out) {
        if !out.udp.is_empty() {
            self.send(&out.udp);
        }
        for frame in &out.tun {
            self.write_local(frame);
        }
        self.outbox.put(out);
        out.clear();
    }

    /// A bug in packet code must not end the gateway: the train is lost, the thread goes on.
    fn guarded(&self, what: &str, pulse: &Pulse, out: &mut Out, run: impl FnOnce(Instant, &mut Out)) {
        let _until_it_left = self.under_way.read();
        let now = self.now();
        pulse.begin(now);
        if catch_unwind(AssertUnwindSafe(|| run(now, out))).is_err() {
            self.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!(what, "a defect in the packet path was contained; please report it");
            out.clear();
        }
        self.flush(out);
        pulse.rest();
    }

    fn pump_tun(&self) {
        let (mut frame, mut out) = (Frame::default(), self.out());
        loop {
            match self.tun.read(&mut frame) {
                Ok(()) => {
                    self.guarded("tun", &self.pulses.tun, &mut out, |now, out| self.take_batch(now, &mut frame, out));
                }
                Err(error) => pause_after("reading the TUN device", &error),
            }
        }
    }

    /// This frame and all that lie behind it, so that they leave together.
    fn take_batch(&self, now: Instant, frame: &mut Frame, out: &mut Out) {
        self.engine.from_tun(now, frame, out);
        let mut frames = 1;
        // An error shows again at the next read, which tells of it.
        while !is_full(frames, out) && self.tun.try_read(frame).unwrap_or(false) {
            self.engine.from_tun(now, frame, out);
            frames += 1;
        }
    }

    /// For one packet thread.
    fn out(&self) -> Out {
        Out::with(self.tun.offloads())
    }

    fn pump_udp(&self) {
        let mut train = Train::datagram(([0, 0, 0, 0], 0).into(), model::packet::Local::default(), Vec::new());
        let mut out = self.out();
        loop {
            match self.udp.recv(&mut train) {
                Ok(()) => {
                    self.guarded("udp", &self.pulses.udp, &mut out, |now, out| {
                        self.engine.from_udp(now, &mut train, out)
                    });
                }
                Err(error) => pause_after("reading the UDP socket", &error),
            }
        }
    }

    /// What is no data, as many datagrams as lie there with one call: a flood costs as little as it can.
    fn pump_handshakes(&self) {
        let Some(udp) = self.udp.beside() else { return };
        let (mut batch, mut out) = (Batch::new(HANDSHAKE_BYTES_MAX), self.out());
        loop {
            match udp.recv_batch(&mut batch) {
                Ok(()) => self.guarded("handshakes", &self.pulses.handshakes, &mut out, |now, out| {
                    batch.each(|train| self.engine.from_udp(now, train, out));
                }),
                Err(error) => pause_after("reading the UDP socket", &error),
            }
        }
    }

    fn pump_timers(&self) {
        let mut out = Out::default();
        loop {
            let mut next = self.now().plus(Duration::from_millis(100));
            self.guarded("tick", &self.pulses.timers, &mut out, |now, out| next = self.engine.tick(now, out));
            let wait = next.since(self.now()).clamp(Duration::from_millis(1), Duration::from_millis(250));
            std::thread::sleep(wait);
        }
    }
}

/// Has a thread collected so much that it sends it first?
fn is_full(frames: usize, out: &Out) -> bool {
    let collected: usize = out.udp.iter().map(|train| train.bytes.len()).sum();
    frames >= BATCH_FRAMES_MAX || collected >= BATCH_BYTES_MAX
}

/// An error of a device that persists must not burn a processor.
fn pause_after(what: &str, error: &std::io::Error) {
    // One frame or datagram that cannot be used is gone; the next is as good as any.
    if !matches!(error.kind(), std::io::ErrorKind::Interrupted | std::io::ErrorKind::InvalidData) {
        tracing::warn!(%error, "{what} failed");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_with_so_many_frames_or_bytes() {
        let collected = |bytes: usize| {
            let mut out = Out::default();
            out.udp.push(Train::datagram(
                ([192, 0, 2, 1], 443).into(),
                model::packet::Local::default(),
                vec![0; bytes],
            ));
            out
        };
        assert!(!is_full(BATCH_FRAMES_MAX - 1, &collected(BATCH_BYTES_MAX - 1)));
        assert!(is_full(BATCH_FRAMES_MAX, &Out::default()));
        assert!(is_full(1, &collected(BATCH_BYTES_MAX)));
    }

    #[test]
    fn what_finds_no_room_is_counted_and_there_is_room_again() {
        let (outbox, mut inbox) = Outbox::new();
        let put = |events: usize, packets: usize| {
            let mut out = Out::default();
            let (from, local) = (([192, 0, 2, 1], 443).into(), model::key::PublicKey([9; 32]));
            let knock = || Event::Knock { bytes: vec![1], from, local };
            out.events.extend((0..events).map(|_| knock()));
            out.local.extend((0..packets).map(|_| Frame::packet(vec![0x45])));
            outbox.put(&mut out);
            assert!(out.events.is_empty() && out.local.is_empty());
            outbox.lost.load(Ordering::Relaxed)
        };
        assert_eq!(put(ENGINE_EVENTS_MAX, STREAM_QUEUE_MAX), 0);
        assert_eq!(put(1, 0), 1);
        assert_eq!(put(1, 1), 3);
        inbox.events.try_recv().unwrap();
        inbox.local.try_recv().unwrap();
        assert_eq!(put(1, 1), 3);
    }
}
