//! Why was a packet dropped, and how often? One reason, one counter, one stable name.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident = $name:literal),* $(,)?) => {
        /// Every reason for which a packet does not go on. Absent means denied, so this list is the whole of it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Drop { $($(#[$doc])* $reason),* }

        impl Drop {
            /// All reasons, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$reason),*];

            /// The counter's name: snake_case, never changed once released.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$reason => $name),* }
            }
        }
    };
}

reasons! {
    /// Neither IPv4 nor IPv6.
    NotIp = "drop_not_ip",
    /// Shorter than its headers or its own length field say.
    Truncated = "drop_truncated",
    /// Length fields contradict each other.
    BadLength = "drop_bad_length",
    /// A checksum that we must rely on is wrong.
    BadChecksum = "drop_bad_checksum",
    /// An IPv4 source-route option (RFC 7126 section 4.3).
    SourceRoute = "drop_source_route",
    /// An IP option other than padding: it could carry or collect addresses that nobody rewrites.
    IpOption = "drop_ip_option",
    /// A fragment where none is put together: on a control tunnel, to the resolver, inside another one.
    Fragment = "drop_fragment",
    /// A fragment that no whole packet is cut into: empty, not a multiple of 8 bytes, or beyond the largest packet.
    FragmentBad = "drop_fragment_bad",
    /// A first fragment without its whole transport header (RFC 1858).
    FragmentTiny = "drop_fragment_tiny",
    /// Fragments that overlap or contradict each other, and all others of their datagram (RFC 5722).
    FragmentOverlap = "drop_fragment_overlap",
    /// The same fragment once more.
    FragmentRepeated = "drop_fragment_repeated",
    /// Too many fragments of one datagram, one source, or in all.
    FragmentsFull = "drop_fragments_full",
    /// The rest of the datagram did not come in time.
    FragmentExpired = "drop_fragment_expired",
    /// An IPv6 routing header of type 0 (RFC 5095), or one with segments left.
    RoutingHeader = "drop_routing_header",
    /// An IPv6 extension header out of place, or too many of them.
    ExtensionHeader = "drop_extension_header",
    /// Marked on its way for congestion, and its sender would not understand (RFC 6040 section 4.2).
    Ecn = "drop_ecn",
    /// A super-packet, or a checksum left open, that its device describes wrongly.
    Offload = "drop_offload",
    /// A protocol that no rule can name.
    Protocol = "drop_protocol",
    /// Port 0.
    PortZero = "drop_port_zero",
    /// TCP flags that no stack sends.
    TcpFlags = "drop_tcp_flags",
    /// UDP over IPv6 without a checksum (RFC 8200 section 8.1).
    UdpNoChecksum = "drop_udp_no_checksum",
    /// ICMP that is neither an echo nor an error about a flow.
    IcmpKind = "drop_icmp_kind",
    /// The pairing is not in the view.
    UnknownPairing = "drop_unknown_pairing",
    /// The sender's key does not own the source address.
    SourceNotOwned = "drop_source_not_owned",
    /// No grant of the pairing speaks of it.
    NoGrant = "drop_no_grant",
    /// It belongs to no live flow, and may not open one.
    NoFlow = "drop_no_flow",
    /// An ICMP error whose embedded packet is no live flow in that direction.
    IcmpNoFlow = "drop_icmp_no_flow",
    /// The final destination may never be reached (design, 3.6).
    TargetRefused = "drop_target_refused",
    /// The name does not resolve.
    NameUnresolved = "drop_name_unresolved",
    /// Too many packets wait for one name or resource.
    WaitingFull = "drop_waiting_full",
    /// Too many names or resources have packets waiting.
    WaitingQueues = "drop_waiting_queues",
    /// It waited too long.
    WaitingExpired = "drop_waiting_expired",
    /// TTL or hop limit ran out.
    HopsExhausted = "drop_hops_exhausted",
    /// Too many flows in all, and none of this device can go.
    FlowsFull = "drop_flows_full",
    /// Too many flows to one real address.
    TargetFull = "drop_target_full",
    /// Every source port tried towards the service is taken.
    NatPortsUsed = "drop_nat_ports_used",
    /// Client: no route leads there.
    NoRoute = "drop_no_route",
    /// Client: the resource does not speak this protocol and port.
    NotSpoken = "drop_not_spoken",
    /// Client: the resource was denied.
    Denied = "drop_denied",
    /// Client: the source is not one of the device's addresses (a packet forwarded for others).
    SourceNotOwn = "drop_source_not_own",
    /// Client: a gateway sent something that is no answer to a flow of ours.
    Unasked = "drop_unasked",
    /// A control tunnel carries only its own ports.
    ControlPort = "drop_control_port",
    /// An ICMP error was due but the rate was used up.
    IcmpRate = "drop_icmp_rate",
}

/// One counter for each reason. Shared by reference; relaxed, because nothing is decided on it.
#[derive(Debug)]
pub struct Counters {
    dropped: Vec<AtomicU64>,
}

impl Default for Counters {
    fn default() -> Self {
        Self { dropped: Drop::ALL.iter().map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Counters {
    /// Counts one packet.
    pub fn count(&self, reason: Drop) {
        if let Some(counter) = self.dropped.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
    /// How often so far.
    pub fn of(&self, reason: Drop) -> u64 {
        self.dropped.get(reason as usize).map_or(0, |c| c.load(Ordering::Relaxed))
    }
    /// Every counter with its name, in a stable order.
    pub fn all(&self) -> Vec<(&'static str, u64)> {
        Drop::ALL.iter().map(|r| (r.name(), self.of(*r))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_reason_is_met_by_a_test() {
        let tests = [
            include_str!("headers/tests.rs"),
            include_str!("flow/tests.rs"),
            include_str!("fragments/tests.rs"),
            include_str!("ecn.rs").split("mod tests").last().unwrap(),
            include_str!("segment/tests.rs"),
            include_str!("site/tests.rs"),
            include_str!("routes/tests.rs"),
            include_str!("filter.rs").split("mod tests").last().unwrap(),
            include_str!("control.rs").split("mod tests").last().unwrap(),
        ];
        let missing = |r: &&Drop| !tests.iter().any(|t| t.contains(&format!("Drop::{r:?}")));
        assert_eq!(Drop::ALL.iter().filter(missing).collect::<Vec<_>>(), Vec::<&Drop>::new());
    }

    #[test]
    fn each_reason_has_its_own_counter_and_name() {
        let counters = Counters::default();
        for (i, reason) in Drop::ALL.iter().enumerate() {
            (0..=i).for_each(|_| counters.count(*reason));
        }
        let all = counters.all();
        assert_eq!(all.iter().map(|(_, n)| *n).collect::<Vec<_>>(), (1..=Drop::ALL.len() as u64).collect::<Vec<_>>());
        assert_eq!(all.iter().map(|(name, _)| name).collect::<BTreeSet<_>>().len(), Drop::ALL.len());
    }
}
