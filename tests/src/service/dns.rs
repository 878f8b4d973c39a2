//! A name server for one file of addresses (RFC 1035), read anew at each question so that a test can turn a name.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use tokio::net::UdpSocket;

const HEADER_BYTES: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
/// Response, authoritative, recursion desired and available: what a stub resolver likes to see.
const FLAGS_ANSWER: u16 = 0x8580;
const CODE_NO_SUCH_NAME: u16 = 3;

/// Serves until the socket fails.
pub async fn serve(socket: UdpSocket, zone: PathBuf) -> io::Result<()> {
    let mut buffer = [0; 512];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        let zone = read_zone(&zone);
        if let Some(answer) = buffer.get(..length).and_then(|question| answer(question, &zone)) {
            let _lost = socket.send_to(&answer, from).await;
        }
    }
}

/// One line of the zone file: name in lower case, TTL in seconds, address.
type Line = (String, u32, IpAddr);

fn read_zone(file: &Path) -> Vec<Line> {
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_lowercase();
        Some((name, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    fs::read_to_string(file).unwrap_or_default().lines().filter_map(parse).collect()
}

/// The answer to a datagram; None where it is no question.
fn answer(question: &[u8], zone: &[Line]) -> Option<Vec<u8>> {
    let id = question.get(..2)?;
    let (name, end) = read_name(question)?;
    let kind = u16::from_be_bytes(question.get(end..end + 2)?.try_into().ok()?);
    let asked = question.get(HEADER_BYTES..end + 4)?;
    let known = zone.iter().any(|(known, ..)| *known == name);
    let matching =
        |(known, _, address): &&Line| *known == name && kind == if address.is_ipv4() { TYPE_A } else { TYPE_AAAA };
    let found: Vec<&Line> = zone.iter().filter(matching).collect();
    let flags = FLAGS_ANSWER | if known { 0 } else { CODE_NO_SUCH_NAME };
    let mut out = id.to_vec();
    for number in [flags, 1, u16::try_from(found.len()).ok()?, 0, 0] {
        out.extend(number.to_be_bytes());
    }
    out.extend_from_slice(asked);
    for (_, ttl, address) in found {
        let data = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        // A pointer to the question's name, the type, class IN.
        out.extend([0xc0, HEADER_BYTES as u8]);
        out.extend(kind.to_be_bytes());
        out.extend(1_u16.to_be_bytes());
        out.extend(ttl.to_be_bytes());
        out.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        out.extend(data);
    }
    Some(out)
}

/// The question's name in lower case, and where it ends.
fn read_name(question: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        let label = question.get(at..at + length).filter(|_| length < 64)?;
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, kind: u16) -> Vec<u8> {
        let mut question = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            question.push(label.len() as u8);
            question.extend(label.bytes());
        }
        question.push(0);
        question.extend(kind.to_be_bytes());
        question.extend([0, 1]);
        question
    }

    #[test]
    fn answers_by_family_and_tells_absent_from_empty() {
        let zone = [("web.corp.example".to_owned(), 2, "10.20.0.10".parse().unwrap())];
        let yes = answer(&ask("WEB.corp.example", TYPE_A), &zone).unwrap();
        assert_eq!((yes[3] & 15, yes[7]), (0, 1));
        assert!(yes.ends_with(&[10, 20, 0, 10]));
        let empty = answer(&ask("web.corp.example", TYPE_AAAA), &zone).unwrap();
        assert_eq!((empty[3] & 15, empty[7]), (0, 0));
        let absent = answer(&ask("no.corp.example", TYPE_A), &zone).unwrap();
        assert_eq!((absent[3] & 15, absent[7]), (3, 0));
    }

    #[test]
    fn nothing_that_arrives_is_a_panic() {
        let good = ask("web.corp.example", TYPE_A);
        for length in 0..good.len() {
            assert_eq!(answer(&good[..length], &[]), None);
        }
        assert_eq!(answer(&[0xff; 512], &[]), None);
    }
}
