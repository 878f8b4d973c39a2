//! IP packets made by hand: with any source, and whole.

use std::net::{IpAddr, SocketAddr};
use tunnel::checksum::{pseudo, sum};

const ICMP4: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;

/// A UDP datagram.
pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let head = [from.port(), to.port(), length, 0].map(u16::to_be_bytes).concat();
    whole(from.ip(), to.ip(), UDP, [&head, payload].concat(), 6)
}

/// The first segment of a TCP connection; it carries data, so that it is known again.
pub fn syn(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let ports = [from.port(), to.port()].map(u16::to_be_bytes).concat();
    let head = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0];
    whole(from.ip(), to.ip(), TCP, [&ports, &head[..], payload].concat(), 16)
}

/// An ICMP echo request.
pub fn echo(from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let (kind, protocol) = if from.is_ipv4() { (8, ICMP4) } else { (128, ICMP6) };
    whole(from, to, protocol, [&[kind, 0, 0, 0, 0, 77, 0, 1], payload].concat(), 2)
}

/// A router that everybody on the link shall take for the best, with networks that are on the link (RFC 4861, section 4.2;
/// RFC 4191).
pub fn advertisement(from: IpAddr, prefixes: &[model::net::Prefix]) -> Vec<u8> {
    let all_nodes = IpAddr::from([0xff02, 0, 0, 0, 0, 0, 0, 1]);
    let mut body = vec![134, 0, 0, 0, 64, 0b0000_1000];
    body.extend(1_800_u16.to_be_bytes());
    body.extend([0; 8]);
    for prefix in prefixes {
        // On the link, and to be used for addresses.
        body.extend([3, 4, prefix.bits(), 0b1100_0000]);
        body.extend([1_800_u32, 1_800, 0].map(u32::to_be_bytes).concat());
        body.extend(octets(prefix.address()));
    }
    let mut packet = whole(from, all_nodes, ICMP6, body, 2);
    if let Some(hops) = packet.get_mut(7) {
        *hops = 255;
    }
    packet
}

/// The packet around `body`, whose checksum is at `at`.
pub fn whole(from: IpAddr, to: IpAddr, protocol: u8, mut body: Vec<u8>, at: usize) -> Vec<u8> {
    let start = if protocol == ICMP4 { 0 } else { pseudo(from, to, protocol, body.len()) };
    let check = !sum(&body, start);
    put(&mut body, at, check);
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (from, to) else {
        let head = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[protocol, 64]].concat();
        return [head, octets(from), octets(to), body].concat();
    };
    let total = length.saturating_add(20).to_be_bytes();
    let head = [&[0x45, 0][..], &total, &[0, 7, 0x40, 0, 64, protocol, 0, 0]].concat();
    let mut head = [&head[..], &source.octets(), &destination.octets()].concat();
    let check = !sum(&head, 0);
    put(&mut head, 10, check);
    [head, body].concat()
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    for (byte, part) in bytes.iter_mut().skip(at).zip(value.to_be_bytes()) {
        *byte = part;
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tunnel::headers::Packet;

    #[test]
    fn they_are_whole() {
        for (from, to) in [("10.0.0.1:9", "10.0.0.2:80"), ("[fd00::1]:9", "[fd00::2]:80")] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            for packet in [udp(from, to, b"odd"), syn(from, to, b"x"), echo(from.ip(), to.ip(), b"ping")] {
                let parsed = Packet::parse(&packet).unwrap();
                assert_eq!((parsed.source, parsed.destination, parsed.len), (from.ip(), to.ip(), packet.len()));
            }
        }
    }
}
