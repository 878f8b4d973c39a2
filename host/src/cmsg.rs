//! How does a UDP socket speak of local addresses, ECN and segments? Control messages beside the datagram (ip(7),
//! ipv6(7), udp(7)).
#![allow(unsafe_code)]

use model::packet::Local;
use std::net::{IpAddr, Ipv4Addr};

/// Room for all messages that are used, with their headers and padding: a dual-stack socket tells of an IPv4 datagram in
/// the words of both families, and of its segments, in 144 bytes.
const CONTROL_BYTES: usize = 192;
/// The two bits of the traffic class that are ECN (RFC 3168).
const ECN_MASK: u8 = 0b11;

/// Aligned as the kernel wants the headers.
#[repr(C, align(8))]
struct Buffer([u8; CONTROL_BYTES]);

/// What the control messages of a received datagram say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct About {
    /// Where the datagram came to.
    pub local: Local,
    /// Its ECN bits.
    pub ecn: u8,
    /// Bytes of each datagram but the last, where several came together.
    pub segment: Option<usize>,
}

/// Room for control messages of `recvmsg`.
pub struct Reader(Buffer);

impl Reader {
    pub const fn new() -> Self {
        Self(Buffer([0; CONTROL_BYTES]))
    }

    /// Points the message at this room; it must not be moved until `about`.
    pub fn attach(&mut self, message: &mut libc::msghdr) {
        message.msg_control = self.0.0.as_mut_ptr().cast();
        message.msg_controllen = CONTROL_BYTES as _;
    }

    /// Reads what the kernel left here.
    pub fn about(&self, message: &libc::msghdr) -> About {
        let mut about = About::default();
        // SAFETY: the kernel filled `msg_control` with `msg_controllen` bytes of well-formed messages in our buffer;
        // CMSG_FIRSTHDR and CMSG_NXTHDR stay within them.
        let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
        while !header.is_null() {
            // SAFETY: not null, so it names a whole header inside the buffer.
            let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
            // SAFETY: CMSG_DATA is the payload of that header; each kind has the type that ip(7), ipv6(7) and
            // udp(7) give.
            unsafe {
                let data = libc::CMSG_DATA(header);
                match (level, kind) {
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                        // Not ipi_addr, the header's destination: that may be a broadcast address.
                        let address = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                        about.local = local(address.into(), info.ipi_ifindex.cast_unsigned());
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                        let address = IpAddr::from(info.ipi6_addr.s6_addr).to_canonical();
                        about.local = local(address, info.ipi6_ifindex);
                    }
                    (libc::IPPROTO_IP, libc::IP_TOS) => about.ecn = data.read() & ECN_MASK,
                    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                        let class = data.cast::<i32>().read_unaligned();
                        about.ecn = class.to_le_bytes()[0] & ECN_MASK;
                    }
                    (libc::SOL_UDP, libc::UDP_GRO) => {
                        about.segment = usize::try_from(data.cast::<i32>().read_unaligned()).ok();
                    }
                    _ => {}
                }
                header = libc::CMSG_NXTHDR(message, header);
            }
        }
        about
    }
}

fn local(address: IpAddr, interface: u32) -> Local {
    Local { address: Some(address), interface }
}

/// Control messages for `sendmsg`.
pub struct Writer {
    buffer: Buffer,
    used: usize,
}

impl Writer {
    pub const fn new() -> Self {
        Self { buffer: Buffer([0; CONTROL_BYTES]), used: 0 }
    }

    /// The address and interface to send from, towards a peer of this family. Without an address of that family the
    /// kernel chooses.
    pub fn local(&mut self, remote: IpAddr, local: Local) {
        if local.address.is_none() && local.interface == 0 {
            return;
        }
        match (remote, local.address.map(|address| address.to_canonical())) {
            (IpAddr::V4(_), Some(IpAddr::V4(address))) => self.pktinfo_v4(address, local.interface),
            (IpAddr::V4(_), None) => self.pktinfo_v4(Ipv4Addr::UNSPECIFIED, local.interface),
            (IpAddr::V6(_), Some(IpAddr::V6(address))) => self.pktinfo_v6(address.octets(), local.interface),
            (IpAddr::V6(_), None) => self.pktinfo_v6([0; 16], local.interface),
            _ => {}
        }
    }

    /// The ECN bits to send.
    pub fn ecn(&mut self, remote: IpAddr, ecn: u8) {
        let bits = i32::from(ecn & ECN_MASK);
        if bits == 0 {
            return;
        }
        match remote {
            IpAddr::V4(_) => self.push(libc::IPPROTO_IP, libc::IP_TOS, bits),
            IpAddr::V6(_) => self.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, bits),
        }
    }

    /// The message is cut into datagrams of this many bytes.
    pub fn segment(&mut self, bytes: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, bytes);
    }

    /// Points the message at what was written; nothing when that is nothing.
    pub fn attach(&mut self, message: &mut libc::msghdr) {
        if self.used > 0 {
            message.msg_control = self.buffer.0.as_mut_ptr().cast();
            message.msg_controllen = self.used as _;
        }
    }

    fn pktinfo_v4(&mut self, address: Ipv4Addr, interface: u32) {
        let info = libc::in_pktinfo {
            ipi_ifindex: interface.cast_signed(),
            ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
    }

    fn pktinfo_v6(&mut self, address: [u8; 16], interface: u32) {
        let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: address }, ipi6_ifindex: interface };
        self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
    }

    fn push<T: Copy>(&mut self, level: i32, kind: i32, value: T) {
        let payload = u32::try_from(size_of::<T>()).unwrap_or(u32::MAX);
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute.
        let (space, len) = unsafe { (libc::CMSG_SPACE(payload) as usize, libc::CMSG_LEN(payload) as usize) };
        let Some(slot) = self.buffer.0.get_mut(self.used..self.used.saturating_add(space)) else {
            return;
        };
        let header = slot.as_mut_ptr().cast::<libc::cmsghdr>();
        // SAFETY: `slot` has room for one aligned header and the payload (CMSG_SPACE), and is borrowed for the writes.
        unsafe {
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = len as _;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        }
        self.used = self.used.saturating_add(space);
    }
}
