//! What goes into the engine besides packets, and what comes out of it: peers, changes, events.

use crate::headers::Packet;
use crate::segment::leave_checksum;
use grant::View;
use model::ids::{GrantId, NodeId, PairingId, ResourceId};
use model::key::{PrivateKey, Psk, PublicKey};
use model::net::{HostName, PortRange, Prefix, Protocol};
use model::packet::{Frame, Gso, Local, Offloads, Spare, Train};
use model::pool::Pool;
use model::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Which program the engine serves; decides what a tunnel may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// TCP from nodes to the control port, from provisional peers to the enrolment port. Nothing else.
    Controller,
    /// Control traffic with the controller, and pairings filtered by grants.
    Gateway,
    /// Control traffic with the controller, pairings by routes, the resolver's address.
    Client,
}

/// What an engine is told at its start.
pub struct Config {
    /// Which program.
    pub role: Role,
    /// The organisation's addresses; for a node that has not enrolled yet, as its join file says.
    pub pool: Pool,
    /// The node's control key.
    pub key: Arc<PrivateKey>,
    /// Gateway: the key of its pairings. It lives as long as they do, in memory alone, whatever becomes of the control key.
    pub pairing_key: Arc<PrivateKey>,
    /// Random bits for indices and hashes.
    pub seed: [u8; 32],
}

/// Who is at the other end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerId {
    /// An enrolled node (or, on a node, the controller).
    Node(NodeId),
    /// A machine that knocked and may enrol.
    Provisional(PublicKey),
    /// A pairing.
    Pairing(PairingId),
}

/// What kind of tunnel; a pairing cannot be described without its pre-shared key.
#[derive(Debug, Clone)]
pub enum PeerKind {
    /// Only TCP to the enrolment port, from the address that its key hashes to.
    Provisional,
    /// The control tunnel.
    Control,
    /// A pairing's data tunnel.
    Pairing(Psk),
}

/// A tunnel to be admitted.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Who.
    pub id: PeerId,
    /// Which kind.
    pub kind: PeerKind,
    /// Our static key of this tunnel: the control key, or on a client the pairing's data key.
    pub local: Arc<PrivateKey>,
    /// The far end's static key.
    pub remote: PublicKey,
    /// The overlay addresses that the far end owns as sources. Pairings on a client: empty, flows decide.
    pub addresses: Vec<IpAddr>,
    /// Where it may be reached, best first; may be empty when the far end speaks first.
    pub endpoints: Vec<SocketAddr>,
    /// Sends an empty packet after this much silence.
    pub keepalive: Option<Duration>,
}

/// What a client may send where: virtual addresses and CIDRs by longest prefix. Swapped whole.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    /// The device's own addresses: the only sources that may enter the tunnel.
    pub own: Vec<IpAddr>,
    /// Longest prefix wins; several resources may share a prefix with different ports.
    pub entries: BTreeMap<Prefix, Vec<RouteEntry>>,
    /// Tunnels whose far end may be gone: what opens a flow through them is kept, too, and sent again should another tunnel
    /// take over.
    pub doubtful: BTreeSet<PairingId>,
}

/// One resource at one prefix.
#[derive(Debug, Clone)]
pub struct RouteEntry {
    /// Which.
    pub resource: ResourceId,
    /// What it speaks.
    pub ports: Vec<(Protocol, PortRange)>,
    /// What happens to its packets now.
    pub state: RouteState,
}

/// See [`RouteEntry::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteState {
    /// No grant: the first packet waits and asks ([`Event::Want`]).
    Ask,
    /// Denied: ICMP administratively prohibited at once, and no question until then.
    Denied(Instant),
    /// Granted, through this pairing, until then.
    Granted {
        /// The tunnel.
        pairing: PairingId,
        /// The grant.
        grant: GrantId,
        /// Its end.
        until: Instant,
    },
}

/// What control code tells the engine.
#[derive(Debug)]
pub enum Change {
    /// Admits a tunnel. One with the same id and keys keeps its tunnel state and takes the rest over.
    AddPeer(Peer),
    /// Ends a tunnel and all its flows.
    RemovePeer(PeerId),
    /// A provisional peer enrolled: same tunnel, now this node's control tunnel with this address.
    Promote {
        /// The WireGuard key.
        key: PublicKey,
        /// Who it is now.
        node: NodeId,
        /// Its overlay address.
        address: Ipv6Addr,
    },
    /// A control tunnel gets a successor under other keys. Both are answered; what is sent takes the old one until the new one
    /// has proven itself ([`Event::Succeeded`]), and a little later the old one ends. A node begins its handshake at once.
    Succeed {
        /// Whose.
        id: PeerId,
        /// Our key.
        local: Arc<PrivateKey>,
        /// The far end's.
        remote: PublicKey,
    },
    /// The same with several pairs of keys, where both ends change theirs: exactly these follow the one in use, and the first
    /// that proves itself takes over. Those that are no longer named end; the pair in use is left out of them.
    Successors {
        /// Whose.
        id: PeerId,
        /// Our key and the far end's, at most [`model::limits::SUCCESSORS_MAX`].
        keys: Vec<(Arc<PrivateKey>, PublicKey)>,
    },
    /// A successor that has not taken over ends: everything stays as it was.
    AbandonSuccessor(PeerId),
    /// The keys of ours under which strangers may knock and newcomers are let in; never none. At first that is
    /// [`Config::key`] alone.
    ControlKeys(Vec<Arc<PrivateKey>>),
    /// New candidate endpoints, best first.
    Endpoints(PeerId, Vec<SocketAddr>),
    /// Begin a handshake now, with the endpoint in use.
    ForceHandshake(PeerId),
    /// Try the next candidate endpoint, and begin a handshake.
    NextEndpoint(PeerId),
    /// Gateway: admit exactly this. New pairings become peers, missing ones go, flows of missing grants are reset
    /// and reported as [`Event::GrantClosed`].
    Grants(Arc<View>),
    /// Gateway: the answer to [`Event::Resolve`]; no addresses means that the name does not resolve.
    Resolved {
        /// The name.
        name: HostName,
        /// IPv4 or IPv6 addresses.
        v4: bool,
        /// What it resolves to, in order.
        addresses: Vec<IpAddr>,
        /// How long that may be used.
        ttl: Duration,
    },
    /// Client: what may be sent where. Waiting packets of resources that are granted now leave, those of denied ones
    /// are answered, flows of grants that are gone are reset.
    Routes(Arc<Routes>),
}

/// What the engine tells control code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Client: packets wait for this resource.
    Want(ResourceId),
    /// Gateway: a flow waits for this name's IPv4 (`v4`) or IPv6 addresses.
    Resolve {
        /// The name.
        name: HostName,
        /// Which family.
        v4: bool,
    },
    /// A handshake completed.
    Handshake {
        /// With whom.
        peer: PeerId,
        /// From where.
        endpoint: SocketAddr,
        /// The far end began it.
        theirs: bool,
    },
    /// A control tunnel's successor has taken over.
    Succeeded {
        /// Whose.
        peer: PeerId,
        /// The far end's key now.
        remote: PublicKey,
    },
    /// A well-formed datagram of a stranger that may be a knock (MAC1 held, rate limited).
    Knock {
        /// The datagram.
        bytes: Vec<u8>,
        /// Its source.
        from: SocketAddr,
        /// Under which key of ours it was made.
        local: PublicKey,
    },
    /// Gateway: a grant left the view. Its kernel conntrack entries are to be deleted.
    GrantClosed {
        /// Which.
        grant: GrantId,
        /// Its NAT source addresses.
        nat: [IpAddr; 2],
    },
    /// A flow ended.
    FlowEnded(FlowSummary),
    /// Gateway: a final destination was refused (design, 3.6); the administrator is told.
    TargetRefused {
        /// Of which grant.
        grant: GrantId,
        /// The address.
        target: IpAddr,
    },
}

/// What is known of a flow when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowSummary {
    /// Its grant.
    pub grant: GrantId,
    /// Its protocol.
    pub protocol: Protocol,
    /// The real destination.
    pub target: IpAddr,
    /// The destination port; 0 for ICMP.
    pub port: u16,
    /// From the client: packets, bytes of IP.
    pub up: (u64, u64),
    /// To the client.
    pub down: (u64, u64),
    /// From the first packet to the last.
    pub lasted: Duration,
    /// When the last packet came.
    pub last: Instant,
    /// Why it ended.
    pub end: FlowEnd,
}

/// Why a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowEnd {
    /// Both sides closed it, or one reset it.
    Closed,
    /// Nothing came for its idle time.
    Idle,
    /// Its grant ended.
    Grant,
    /// Room was needed.
    Evicted,
    /// The gateway stopped; the conversation may go on as a flow of its next start.
    Stopped,
}

/// What the engine wants sent, written, answered and done. The caller empties it after each call.
#[derive(Debug, Default)]
pub struct Out {
    /// To be sent on the UDP socket, in order.
    pub udp: Vec<Train>,
    /// To be written to the TUN device, in order.
    pub tun: Vec<Frame>,
    /// Client: packets to the resolver's addresses.
    pub local: Vec<Frame>,
    /// For control code.
    pub events: Vec<Event>,
    pub(crate) offloads: Offloads,
    /// Packets that waited for a session until their time was over; the engine counts them before it returns.
    pub(crate) expired: usize,
    pub(crate) spare: Spare,
    pub(crate) scratch: Scratch,
}

/// Memory of one packet thread, kept from one packet to the next.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// What a tunnel opened.
    pub opened: Vec<u8>,
    /// The packets of one run of datagrams, joined.
    pub frames: Vec<Frame>,
    /// One segment.
    pub segment: Vec<u8>,
}

impl Out {
    /// Empty, of a thread whose TUN device takes this whole.
    pub fn with(offloads: Offloads) -> Self {
        Self { offloads, ..Self::default() }
    }
    /// Is there nothing to do?
    pub fn is_empty(&self) -> bool {
        self.udp.is_empty() && self.tun.is_empty() && self.local.is_empty() && self.events.is_empty()
    }
    /// Forgets everything, keeps the room.
    pub fn clear(&mut self) {
        let sent = self.udp.drain(..).map(|train| train.bytes);
        let written = self.tun.drain(..).map(|frame| frame.bytes);
        sent.chain(written).for_each(|bytes| self.spare.give(bytes));
        self.local.clear();
        self.events.clear();
    }
    /// Puts a packet out, or several joined, whose ends are the last ones.
    pub(crate) fn write(&mut self, mut frame: Frame) {
        if frame.gso != Gso::NONE
            && let Ok(packet) = Packet::parse(&frame.bytes)
        {
            leave_checksum(&mut frame, &packet);
        }
        self.tun.push(frame);
    }
    /// Puts a datagram of `len` bytes out that `seal` appends to a buffer: into the last train if it goes the same way and has
    /// room for it, else into one of its own. On an error nothing is sent.
    pub(crate) fn append<E>(
        &mut self,
        (addr, local, ecn): (SocketAddr, Local, u8),
        len: usize,
        seal: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(last) = self.udp.last_mut()
            && (last.addr, last.local, last.ecn) == (addr, local, ecn)
            && last.takes(len)
        {
            return seal(&mut last.bytes);
        }
        let mut bytes = self.spare.buffer();
        seal(&mut bytes)?;
        self.udp.push(Train { addr, local, ecn, stride: len, bytes });
        Ok(())
    }
    /// Puts one datagram out.
    pub fn send(&mut self, to: SocketAddr, local: Local, bytes: Vec<u8>) {
        self.udp.push(Train::datagram(to, local, bytes));
    }
}

/// The state of one tunnel, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerStatus {
    /// When the last handshake completed.
    pub last_handshake: Option<Instant>,
    /// When the last authenticated packet came.
    pub last_received: Option<Instant>,
    /// Where the far end is.
    pub endpoint: Option<SocketAddr>,
    /// Bytes of IP received.
    pub received: u64,
    /// Bytes of IP sent.
    pub sent: u64,
    /// When the first IP packet was sent after the last authenticated packet came; none: all is answered.
    pub unanswered_since: Option<Instant>,
}
