//! Who is connected right now, and how is each one told? Bounded queues; a reader that is too slow loses its stream and
//! starts again with a snapshot.

use grant::sync::Update;
use model::audit::SignedHead;
use model::grant::Ending;
use model::ids::{DeviceId, GatewayId, GrantId, ResourceId};
use model::key::PublicKey;
use model::revision::Revision;
use model::time::Instant;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// News for a gateway.
#[derive(Debug)]
pub enum GatewayNews {
    /// A table or a change of it, counted from request `as_of`.
    Update {
        /// The request's number.
        as_of: u64,
        /// What.
        update: Update,
    },
    /// The answer to request `seq`.
    Renewed {
        /// The request's number.
        seq: u64,
        /// New lives.
        lives: Vec<(GrantId, Duration)>,
    },
    /// Flow records up to this number are on disk.
    FlowsKept(u64),
    /// Up to where the audit trail goes.
    AuditHead(SignedHead),
}

/// News for a device.
#[derive(Debug)]
pub enum DeviceNews {
    /// The directory changed: look whether the catalogue or the session did.
    Look,
    /// A grant ended.
    Ended {
        /// Which.
        grant: GrantId,
        /// To what.
        resource: ResourceId,
        /// Why.
        ending: Ending,
    },
    /// A grant lives on.
    Renewed {
        /// Which.
        grant: GrantId,
        /// How long.
        ends_in: Duration,
    },
}

/// One gateway's stream.
#[derive(Debug)]
pub struct GatewayLine {
    stream: u64,
    news: mpsc::Sender<GatewayNews>,
    /// The newest request and when it was received.
    pub as_of: Option<(u64, Instant)>,
    /// The state that it was last sent.
    pub sent: Option<Revision>,
    /// When the oldest unacknowledged update left.
    pub asked: Option<Instant>,
    /// How long its last acknowledgement took.
    pub rtt: Duration,
}

impl GatewayLine {
    /// Sends; false when the queue is full, and then the stream ends, so that it starts again with a snapshot.
    pub fn send(&mut self, news: GatewayNews) -> bool {
        self.news.try_send(news).is_ok()
    }
}

/// One device's stream.
#[derive(Debug)]
pub struct DeviceLine {
    stream: u64,
    news: mpsc::Sender<DeviceNews>,
}

/// Everybody who is connected.
#[derive(Debug, Default)]
pub struct Lines {
    gateways: Mutex<BTreeMap<GatewayId, GatewayLine>>,
    devices: Mutex<BTreeMap<DeviceId, DeviceLine>>,
    /// Of every gateway that ever said hello: what a stream that just broke was told is still its key.
    pairing_keys: Mutex<BTreeMap<GatewayId, PublicKey>>,
    streams: std::sync::atomic::AtomicU64,
}

impl Lines {
    fn next_stream(&self) -> u64 {
        self.streams.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }

    /// A gateway opened a stream; an older one of it ends.
    pub fn open_gateway(&self, id: GatewayId, pairing_key: PublicKey, news: mpsc::Sender<GatewayNews>) -> u64 {
        let stream = self.next_stream();
        self.pairing_keys.lock().unwrap_or_else(PoisonError::into_inner).insert(id, pairing_key);
        let line = GatewayLine { stream, news, as_of: None, sent: None, asked: None, rtt: Duration::ZERO };
        self.gateways.lock().unwrap_or_else(PoisonError::into_inner).insert(id, line);
        stream
    }

    /// With which key does a gateway answer pairings since its last start?
    pub fn pairing_key(&self, id: GatewayId) -> Option<PublicKey> {
        self.pairing_keys.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied()
    }

    /// Its stream ended.
    pub fn close_gateway(&self, id: GatewayId, stream: u64) {
        let mut lines = self.gateways.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.get(&id).is_some_and(|l| l.stream == stream) {
            lines.remove(&id);
        }
    }

    /// Is this stream still the gateway's?
    pub fn is_current(&self, id: GatewayId, stream: u64) -> bool {
        self.gateways.lock().unwrap_or_else(PoisonError::into_inner).get(&id).is_some_and(|l| l.stream == stream)
    }

    /// Works on a gateway's line. One whose reader is gone is removed.
    pub fn with_gateway<T>(&self, id: GatewayId, work: impl FnOnce(&mut GatewayLine) -> T) -> Option<T> {
        let mut lines = self.gateways.lock().unwrap_or_else(PoisonError::into_inner);
        let line = lines.get_mut(&id)?;
        let full = line.news.capacity() == 0;
        if line.news.is_closed() || full {
            // Dropping the sender ends the stream.
            lines.remove(&id);
            return None;
        }
        Some(work(line))
    }

    /// Tells a gateway on this very stream, if it still is its stream.
    pub fn tell_gateway(&self, id: GatewayId, stream: u64, news: GatewayNews) {
        if self.is_current(id, stream) {
            // A stream with a full queue ends; the next one begins with a snapshot, and flows are told again.
            self.with_gateway(id, |line| line.stream == stream && line.send(news));
        }
    }

    /// Tells those of the gateways up to where the audit trail goes.
    pub fn tell_head(&self, head: &SignedHead, who: impl Fn(GatewayId) -> bool) {
        let ids: Vec<GatewayId> =
            self.gateways.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        for id in ids.into_iter().filter(|id| who(*id)) {
            self.with_gateway(id, |line| line.send(GatewayNews::AuditHead(head.clone())));
        }
    }

    /// Ends the stream of every gateway.
    pub fn close_gateways(&self) {
        self.gateways.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The gateways that have a stream and made a request, with their round-trip times.
    pub fn ready_gateways(&self) -> BTreeMap<GatewayId, Duration> {
        let lines = self.gateways.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|(_, l)| l.as_of.is_some() && !l.news.is_closed()).map(|(id, l)| (*id, l.rtt)).collect()
    }

    /// A device opened its stream; an older one of it ends.
    pub fn open_device(&self, id: DeviceId, news: mpsc::Sender<DeviceNews>) -> u64 {
        let stream = self.next_stream();
        self.devices.lock().unwrap_or_else(PoisonError::into_inner).insert(id, DeviceLine { stream, news });
        stream
    }

    /// Its stream ended.
    pub fn close_device(&self, id: DeviceId, stream: u64) {
        let mut lines = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.get(&id).is_some_and(|l| l.stream == stream) {
            lines.remove(&id);
        }
    }

    /// Tells a device; one that does not read loses its stream.
    pub fn tell_device(&self, id: DeviceId, news: DeviceNews) {
        let mut lines = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.get(&id).is_some_and(|l| l.news.try_send(news).is_err()) {
            lines.remove(&id);
        }
    }

    /// Lets every device look whether its catalogue changed.
    pub fn tell_all_devices(&self) {
        let mut lines = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        // A full queue holds a `Look` or something that leads to one.
        lines.retain(|_, l| !l.news.is_closed());
        for line in lines.values() {
            let _ = line.news.try_send(DeviceNews::Look);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::limits::STREAM_QUEUE_MAX;

    #[test]
    fn a_gateway_that_does_not_read_loses_its_stream_and_begins_another() {
        let (lines, id) = (Lines::default(), GatewayId::from_bytes([1; 10]));
        let (news, mut reader) = mpsc::channel(STREAM_QUEUE_MAX);
        let stream = lines.open_gateway(id, PublicKey([1; 32]), news);
        let tell = |number: u64| lines.tell_gateway(id, stream, GatewayNews::FlowsKept(number));
        (0..STREAM_QUEUE_MAX as u64).for_each(tell);
        assert!(lines.is_current(id, stream), "at the limit it goes on");
        tell(9_999);
        assert!(!lines.is_current(id, stream));
        let told = std::iter::from_fn(|| reader.try_recv().ok()).count();
        assert_eq!(told, STREAM_QUEUE_MAX, "what was queued is told, and then the stream ends");
        assert_eq!(reader.try_recv().unwrap_err(), mpsc::error::TryRecvError::Disconnected);
        let (news, mut reader) = mpsc::channel(STREAM_QUEUE_MAX);
        let again = lines.open_gateway(id, PublicKey([1; 32]), news);
        lines.tell_gateway(id, again, GatewayNews::FlowsKept(7));
        assert!(matches!(reader.try_recv(), Ok(GatewayNews::FlowsKept(7))));
    }

    #[test]
    fn a_device_that_does_not_read_loses_its_stream_but_not_for_looks() {
        let (lines, id) = (Lines::default(), DeviceId::from_bytes([1; 10]));
        let (news, mut reader) = mpsc::channel(STREAM_QUEUE_MAX);
        lines.open_device(id, news);
        // A full queue leads to a look anyway.
        (0..2 * STREAM_QUEUE_MAX).for_each(|_| lines.tell_all_devices());
        assert!(lines.devices.lock().unwrap().contains_key(&id));
        let ends_in = Duration::from_secs(1);
        let renewed = || DeviceNews::Renewed { grant: GrantId::from_bytes([1; 10]), ends_in };
        lines.tell_device(id, renewed());
        assert!(!lines.devices.lock().unwrap().contains_key(&id));
        assert_eq!(std::iter::from_fn(|| reader.try_recv().ok()).count(), STREAM_QUEUE_MAX);
        assert_eq!(reader.try_recv().unwrap_err(), mpsc::error::TryRecvError::Disconnected);
        let (news, mut reader) = mpsc::channel(STREAM_QUEUE_MAX);
        lines.open_device(id, news);
        lines.tell_device(id, renewed());
        assert!(reader.try_recv().is_ok());
    }
}
