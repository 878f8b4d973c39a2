//! What happens on one TCP connection to the resolver? (RFC 7766)
//!
//! Queries are read as long as few enough wait; answers go out in the order in which they come. A connection that is
//! silent for too long ends, and its place listens again.

use model::limits::{DNS_PIPELINE_MAX, DNS_QUERY_MAX, DNS_TCP_IDLE};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use std::collections::VecDeque;
use std::time::Duration;

/// Bytes of the length in front of each message (RFC 1035, section 4.2.2).
const LENGTH: usize = 2;
/// Bytes of one answer with its length.
const ANSWER_MAX: usize = LENGTH + u16::MAX as usize;
/// How many times longer a connection may be silent while a query of its is worked on.
const PATIENCE_FACTOR: u32 = 6;
const SEND_BUFFER: usize = 8 << 10;

/// One place for a connection.
pub struct Stream {
    handle: SocketHandle,
    life: u64,
    incoming: Vec<u8>,
    outgoing: VecDeque<u8>,
    waiting: usize,
    /// The last time that something moved; `None` while nobody is connected.
    active: Option<Duration>,
    broken: bool,
}

impl Stream {
    /// A place that listens from its first [`Stream::advance`].
    pub fn new(sockets: &mut SocketSet<'static>) -> Self {
        let buffer = |len| SocketBuffer::new(vec![0; len]);
        let mut socket = Socket::new(buffer(LENGTH + DNS_QUERY_MAX), buffer(SEND_BUFFER));
        // A back-up: `advance` ends what is silent, and knows whose turn it is to speak.
        socket.set_timeout(Some(smoltcp::time::Duration::from(DNS_TCP_IDLE * PATIENCE_FACTOR)));
        socket.set_nagle_enabled(false);
        // Port 53 is a port, and the socket is new: neither refusal can occur.
        let _ = socket.listen(super::stack::PORT);
        Self {
            handle: sockets.add(socket),
            life: 0,
            incoming: Vec::new(),
            outgoing: VecDeque::new(),
            waiting: 0,
            active: None,
            broken: false,
        }
    }

    /// The socket.
    pub const fn handle(&self) -> SocketHandle {
        self.handle
    }

    /// Moves bytes and ends what has to end.
    pub fn advance(&mut self, socket: &mut Socket<'_>, now: Duration) {
        match socket.state() {
            State::Listen => return,
            State::Closed => return self.listen(socket),
            // Ours was the last word; the other side has nothing left to say.
            State::TimeWait => return socket.abort(),
            _ => {}
        }
        let active = *self.active.get_or_insert(now);
        if self.read(socket) | self.write(socket) {
            self.active = Some(now);
        } else if now.saturating_sub(active) >= self.patience() {
            // The first time orderly; whoever does not take that is cut off.
            if socket.may_send() && self.waiting == 0 {
                socket.close()
            } else {
                socket.abort()
            }
            self.active = Some(now);
        }
        if self.broken {
            socket.abort();
        } else if socket.state() == State::CloseWait && self.is_done() {
            socket.close();
        }
    }

    fn listen(&mut self, socket: &mut Socket<'_>) {
        self.life += 1;
        self.incoming.clear();
        self.outgoing = VecDeque::new();
        (self.waiting, self.active, self.broken) = (0, None, false);
        let _ = socket.listen(super::stack::PORT);
    }

    /// A query that is worked on has its own end, so its connection waits for it; but not for ever.
    fn patience(&self) -> Duration {
        if self.waiting == 0 { DNS_TCP_IDLE } else { DNS_TCP_IDLE * PATIENCE_FACTOR }
    }

    fn is_done(&self) -> bool {
        self.waiting == 0 && self.outgoing.is_empty() && self.message_len().is_none_or(|len| self.incoming.len() < len)
    }

    fn read(&mut self, socket: &mut Socket<'_>) -> bool {
        let room = (LENGTH + DNS_QUERY_MAX).saturating_sub(self.incoming.len());
        if room == 0 || !socket.can_recv() {
            return false;
        }
        let incoming = &mut self.incoming;
        let read = socket.recv(|bytes| {
            let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
            incoming.extend_from_slice(taken);
            (taken.len(), taken.len())
        });
        read.is_ok_and(|len| len > 0)
    }

    fn write(&mut self, socket: &mut Socket<'_>) -> bool {
        let sent = socket.send_slice(self.outgoing.as_slices().0).unwrap_or(0);
        self.outgoing.drain(..sent);
        sent > 0
    }

    /// Bytes of the message in front, with its length.
    fn message_len(&self) -> Option<usize> {
        let length = self.incoming.get(..LENGTH)?.try_into().ok()?;
        Some(LENGTH + usize::from(u16::from_be_bytes(length)))
    }

    /// Takes a query out, with the number of the connection.
    pub fn query(&mut self) -> Option<(u64, Vec<u8>)> {
        let len = self.message_len()?;
        if len > LENGTH + DNS_QUERY_MAX {
            self.broken = true;
            return None;
        }
        if self.broken || self.waiting >= DNS_PIPELINE_MAX || self.outgoing.len() >= ANSWER_MAX {
            return None;
        }
        let query = self.incoming.get(LENGTH..len)?.to_vec();
        self.incoming.drain(..len);
        self.waiting += 1;
        Some((self.life, query))
    }

    /// Puts an answer in, if the connection is still the one that asked.
    pub fn answer(&mut self, life: u64, message: Option<&[u8]>, now: Duration) {
        if life != self.life {
            return;
        }
        self.waiting = self.waiting.saturating_sub(1);
        self.active = Some(now);
        let Some(message) = message else { return };
        let Ok(len) = u16::try_from(message.len()) else { return };
        self.outgoing.extend(len.to_be_bytes());
        self.outgoing.extend(message);
    }

    /// When silence has lasted too long.
    pub fn wait(&self, now: Duration) -> Option<Duration> {
        self.active.map(|active| (active + self.patience()).saturating_sub(now))
    }
}
