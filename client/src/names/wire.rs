//! What must be known of a DNS message without understanding all of it? (RFC 1035, section 4)
//!
//! Forwarded messages pass as they are, with options and types that we have never heard of; only the header, the question
//! and the addresses among the answers are looked at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of the header.
pub const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;
/// Bytes of a name (RFC 1035, section 2.3.4), which also bounds the labels.
const NAME_BYTES_MAX: usize = 255;

/// Was it asked in a datagram or in a stream?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP: answers are short, or cut.
    Udp,
    /// TCP.
    Tcp,
}

/// The header, as far as it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Chosen by who asks.
    pub id: u16,
    /// Is it an answer?
    pub response: bool,
    /// 0 is a standard query.
    pub opcode: u8,
    /// The answer is cut.
    pub truncated: bool,
    /// The lower four bits of the response code.
    pub rcode: u8,
    /// How many questions, answers, authorities, additionals.
    pub counts: [u16; 4],
}

/// The one question of a message; names compare without case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    name: Vec<u8>,
    kind: u16,
    class: u16,
    end: usize,
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at.checked_add(2)?)?;
    pair.try_into().ok().map(u16::from_be_bytes)
}

/// Reads the header.
pub fn header(message: &[u8]) -> Option<Header> {
    let flags = number(message, 2)?;
    Some(Header {
        id: number(message, 0)?,
        response: flags & 0x8000 != 0,
        opcode: u8::try_from((flags >> 11) & 15).ok()?,
        truncated: flags & 0x0200 != 0,
        rcode: u8::try_from(flags & 15).ok()?,
        counts: [number(message, 4)?, number(message, 6)?, number(message, 8)?, number(message, 10)?],
    })
}

/// Puts another id in.
pub fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

/// Reads the question, if there is exactly one.
pub fn question(message: &[u8]) -> Option<Question> {
    if header(message)?.counts.first() != Some(&1) {
        return None;
    }
    let mut name = Vec::new();
    let mut at = HEADER;
    loop {
        let len = usize::from(*message.get(at)?);
        // The first name of a message has nothing to point back to.
        if len > 63 || name.len() + len + 1 > NAME_BYTES_MAX {
            return None;
        }
        let label = message.get(at..at + 1 + len)?;
        name.extend(label.iter().map(u8::to_ascii_lowercase));
        at += 1 + len;
        if len == 0 {
            break;
        }
    }
    Some(Question { name, kind: number(message, at)?, class: number(message, at + 2)?, end: at + 4 })
}

fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let len = *message.get(at)?;
        match len {
            0 => return Some(at + 1),
            1..=63 => at += 1 + usize::from(len),
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

/// Calls `see` with type, class and data of each record behind the question. `None`: the message is malformed.
fn each_record(message: &[u8], question: &Question, mut see: impl FnMut(u16, u16, &[u8])) -> Option<()> {
    let records = header(message)?.counts.iter().skip(1).map(|n| usize::from(*n)).sum::<usize>();
    let mut at = question.end;
    for _ in 0..records {
        at = skip_name(message, at)?;
        let (kind, class, len) = (number(message, at)?, number(message, at + 2)?, number(message, at + 8)?);
        let data = message.get(at + 10..at + 10 + usize::from(len))?;
        see(kind, class, data);
        at += 10 + data.len();
    }
    Some(())
}

/// The addresses that an answer tells. `None`: the message is malformed.
pub fn addresses(message: &[u8], question: &Question) -> Option<Vec<IpAddr>> {
    let mut found = Vec::new();
    each_record(message, question, |kind, _, data| {
        let address = match kind {
            TYPE_A => <[u8; 4]>::try_from(data).ok().map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
            TYPE_AAAA => <[u8; 16]>::try_from(data).ok().map(|octets| Ipv6Addr::from(octets).to_canonical()),
            _ => None,
        };
        found.extend(address);
    })?;
    Some(found)
}

/// How long may the answer to this query be over UDP, bytes? (RFC 6891, section 6.2.3)
pub fn udp_limit(query: &[u8], question: &Question, most: usize) -> usize {
    let mut size = 512;
    let whole = each_record(query, question, |kind, class, _| {
        if kind == TYPE_OPT {
            size = usize::from(class);
        }
    });
    if whole.is_some() { size.clamp(512, most.max(512)) } else { 512 }
}

/// The same message without its records, marked as cut: the asker comes back over TCP.
pub fn cut(message: &[u8], question: &Question) -> Option<Vec<u8>> {
    let mut short = message.get(..question.end)?.to_vec();
    *short.get_mut(2)? |= 2;
    short.get_mut(6..HEADER)?.fill(0);
    Some(short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
    use hickory_proto::rr::rdata::{A, AAAA};
    use hickory_proto::rr::{Name, RData, Record, RecordType};
    use proptest::prelude::*;

    fn message() -> Message {
        let mut message = Message::new(7, MessageType::Response, OpCode::Query);
        let name = Name::from_ascii("WWW.Example.org.").unwrap();
        message.add_query(Query::query(name.clone(), RecordType::A));
        message.add_answer(Record::from_rdata(name.clone(), 60, RData::A(A::new(192, 0, 2, 1))));
        let mapped = "::ffff:192.0.2.2".parse().unwrap();
        message.add_answer(Record::from_rdata(name, 60, RData::AAAA(AAAA(mapped))));
        let mut edns = Edns::new();
        edns.set_max_payload(1_000);
        message.set_edns(edns);
        message
    }

    #[test]
    fn another_library_s_message_is_read() {
        let bytes = message().to_vec().unwrap();
        let header = header(&bytes).unwrap();
        assert!(header.response && header.id == 7 && header.counts == [1, 2, 0, 1]);
        let asked = question(&bytes).unwrap();
        assert_eq!(asked.name, b"\x03www\x07example\x03org\x00");
        let told: Vec<String> = addresses(&bytes, &asked).unwrap().iter().map(IpAddr::to_string).collect();
        assert_eq!(told, ["192.0.2.1", "192.0.2.2"], "a mapped address is the address that it carries");
        assert_eq!(udp_limit(&bytes, &asked, 1_232), 1_000);
        assert_eq!(udp_limit(&bytes, &asked, 600), 600);
    }

    #[test]
    fn a_cut_message_is_still_one() {
        let bytes = message().to_vec().unwrap();
        let short = cut(&bytes, &question(&bytes).unwrap()).unwrap();
        let read = Message::from_vec(&short).unwrap();
        assert!(read.metadata.truncation && read.answers.is_empty() && read.queries == message().queries);
    }

    #[test]
    fn two_questions_are_none() {
        let mut two = message();
        two.add_query(Query::query(Name::root(), RecordType::A));
        assert_eq!(question(&two.to_vec().unwrap()), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), one: bool) {
            let mut bytes = bytes;
            if one && bytes.len() > 5 { bytes[4] = 0; bytes[5] = 1; }
            let _ = header(&bytes);
            if let Some(question) = question(&bytes) {
                let _ = addresses(&bytes, &question);
                let _ = cut(&bytes, &question);
                prop_assert!((512..=1_232).contains(&udp_limit(&bytes, &question, 1_232)));
            }
        }
    }
}
