//! How is a query read, and how is an answer of our own written? (RFC 1035, RFC 6891, RFC 8482)

use super::wire::{self, Transport};
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use model::limits::{DNS_UDP_MAX, NAME_TTL_S};

/// A query that makes sense.
#[derive(Debug)]
pub struct Request {
    metadata: Metadata,
    query: Query,
    /// `Some` where the asker speaks EDNS, with its DO bit.
    edns: Option<bool>,
    limit: usize,
}

/// What came in.
#[derive(Debug)]
pub enum Reading {
    /// Nothing that may be answered: no header, or itself an answer.
    Silence,
    /// Answered at once: an error.
    Answer(Vec<u8>),
    /// A question.
    Request(Request),
}

/// Reads a query.
pub fn read(bytes: &[u8], transport: Transport) -> Reading {
    let Some(header) = wire::header(bytes).filter(|header| !header.response) else { return Reading::Silence };
    if header.opcode != 0 {
        return Reading::Answer(bare(bytes, header.opcode, ResponseCode::NotImp));
    }
    let (Some(question), Ok(message)) = (wire::question(bytes), Message::from_vec(bytes)) else {
        return Reading::Answer(bare(bytes, 0, ResponseCode::FormErr));
    };
    let ([query], metadata) = (message.queries.as_slice(), message.metadata) else {
        return Reading::Answer(bare(bytes, 0, ResponseCode::FormErr));
    };
    let limit = match transport {
        Transport::Udp => wire::udp_limit(bytes, &question, DNS_UDP_MAX),
        Transport::Tcp => usize::from(u16::MAX),
    };
    let edns = message.edns.as_ref().map(|edns| edns.flags().dnssec_ok);
    let request = Request { metadata, query: query.clone(), edns, limit };
    if message.edns.is_some_and(|edns| edns.version() != 0) {
        return Reading::Answer(request.code(ResponseCode::BADVERS));
    }
    match (request.kind(), request.query.query_class) {
        (RecordType::AXFR | RecordType::IXFR, _) => Reading::Answer(request.code(ResponseCode::Refused)),
        (_, DNSClass::IN) => Reading::Request(request),
        _ => Reading::Answer(request.code(ResponseCode::Refused)),
    }
}

/// A header alone, to a query that nothing more can be said of.
fn bare(query: &[u8], opcode: u8, code: ResponseCode) -> Vec<u8> {
    let id = query.get(..2).unwrap_or(&[0, 0]);
    let desired = query.get(2).copied().unwrap_or(0) & 1;
    let mut answer = id.to_vec();
    answer.extend([0x80 | (opcode << 3) | desired, 0x80 | code.low()]);
    answer.resize(wire::HEADER, 0);
    answer
}

impl Request {
    /// The name, as it was written.
    pub const fn name(&self) -> &Name {
        &self.query.name
    }
    /// The type.
    pub const fn kind(&self) -> RecordType {
        self.query.query_type
    }
    /// How long an answer may be, bytes.
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// The records, or that there are none of this type (RFC 2308, section 2.2).
    pub fn records(&self, apex: Name, data: Vec<RData>) -> Vec<u8> {
        let mut answer = self.start(ResponseCode::NoError, true);
        if data.is_empty() {
            answer.add_authority(soa(apex));
        }
        for one in data {
            answer.add_answer(Record::from_rdata(self.query.name.clone(), NAME_TTL_S, one));
        }
        self.write(&answer)
    }
    /// There is no such name (RFC 2308, section 2.1).
    pub fn missing(&self, apex: Name) -> Vec<u8> {
        let mut answer = self.start(ResponseCode::NXDomain, true);
        answer.add_authority(soa(apex));
        self.write(&answer)
    }
    /// A code alone.
    pub fn code(&self, code: ResponseCode) -> Vec<u8> {
        self.write(&self.start(code, false))
    }

    fn start(&self, code: ResponseCode, ours: bool) -> Message {
        let mut answer = Message::new(self.metadata.id, MessageType::Response, OpCode::Query);
        answer.metadata = Metadata::response_from_request(&self.metadata);
        answer.metadata.recursion_available = true;
        answer.metadata.authoritative = ours;
        answer.metadata.response_code = code;
        answer.add_query(self.query.clone());
        if let Some(dnssec_ok) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(u16::try_from(DNS_UDP_MAX).unwrap_or(512)).set_dnssec_ok(dnssec_ok);
            answer.set_edns(edns);
        }
        answer
    }

    fn write(&self, answer: &Message) -> Vec<u8> {
        let written = |message: &Message| message.to_vec().unwrap_or_default();
        let whole = written(answer);
        if whole.len() <= self.limit { whole } else { written(&answer.truncate()) }
    }
}

/// Our zones are made on the spot: serial and timers mean nothing, but the last field says how long "none" holds.
fn soa(apex: Name) -> Record {
    let host = |label: &str| Name::from_ascii(format!("{label}.{}.", super::zone::OWN_ZONE)).unwrap_or_default();
    let soa = SOA::new(host("resolver"), host("nobody"), 1, 3_600, 600, 86_400, NAME_TTL_S);
    Record::from_rdata(apex, NAME_TTL_S, RData::SOA(soa))
}
