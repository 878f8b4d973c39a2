//! What do D-Bus messages look like? Little-endian, each value aligned to its own size (D-Bus Specification, "Marshaling" and
//! "Message Protocol"); as much of it as our calls and their answers take.

use std::io::{self, Read};

/// Bytes of a message of a bus that we look at; the protocol's own bound is 128 MiB.
const MESSAGE_MAX: usize = 64 << 10;
const FIXED: usize = 16;
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
/// Nothing is to be started for a call.
const NO_AUTO_START: u8 = 2;
const VERSION: u8 = 1;
/// Header fields.
const FIELD_PATH: u8 = 1;
const FIELD_INTERFACE: u8 = 2;
const FIELD_MEMBER: u8 = 3;
const FIELD_ERROR_NAME: u8 = 4;
const FIELD_REPLY_SERIAL: u8 = 5;
const FIELD_DESTINATION: u8 = 6;
const FIELD_SIGNATURE: u8 = 8;

/// Values, one behind the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body(pub Vec<u8>);

impl Body {
    fn align(&mut self, to: usize) {
        let len = self.0.len().next_multiple_of(to);
        self.0.resize(len, 0);
    }
    /// A 32-bit integer.
    pub fn int(mut self, value: u32) -> Self {
        self.align(4);
        self.0.extend(value.to_le_bytes());
        self
    }
    /// A truth.
    pub fn boolean(self, value: bool) -> Self {
        self.int(u32::from(value))
    }
    /// A string, or an object's path.
    pub fn text(self, text: &str) -> Self {
        let mut body = self.int(u32::try_from(text.len()).unwrap_or(u32::MAX));
        body.0.extend(text.as_bytes());
        body.0.push(0);
        body
    }
    /// A signature.
    fn signature(mut self, text: &str) -> Self {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
        self
    }
    /// An array of bytes.
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let mut body = self.int(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        body.0.extend(bytes);
        body
    }
    /// The beginning of a structure.
    pub fn structure(mut self) -> Self {
        self.align(8);
        self
    }
    /// An array of structures, made from its own beginning: its length leaves out what aligns the first of them.
    pub fn array(self, elements: Self) -> Self {
        let mut body = self.int(u32::try_from(elements.0.len()).unwrap_or(u32::MAX));
        body.align(8);
        body.0.extend(elements.0);
        body
    }
}

/// Whom to call, and what.
pub struct Call<'a> {
    /// The name on the bus.
    pub to: &'a str,
    /// The object.
    pub path: &'a str,
    /// The interface.
    pub interface: &'a str,
    /// The method.
    pub member: &'a str,
    /// The types of the body.
    pub signature: &'a str,
}

impl Call<'_> {
    /// The whole message.
    pub fn message(&self, serial: u32, body: &Body) -> Vec<u8> {
        let mut fields = Body::default();
        for (field, kind, value) in [
            (FIELD_PATH, "o", self.path),
            (FIELD_INTERFACE, "s", self.interface),
            (FIELD_MEMBER, "s", self.member),
            (FIELD_DESTINATION, "s", self.to),
        ] {
            fields = fields.field(field, kind).text(value);
        }
        if !self.signature.is_empty() {
            fields = fields.field(FIELD_SIGNATURE, "g").signature(self.signature);
        }
        message(METHOD_CALL, serial, fields, body)
    }
}

impl Body {
    fn field(self, field: u8, kind: &str) -> Self {
        let mut body = self.structure();
        body.0.push(field);
        body.signature(kind)
    }
}

fn message(kind: u8, serial: u32, fields: Body, body: &Body) -> Vec<u8> {
    let head = Body(vec![b'l', kind, NO_AUTO_START, VERSION]);
    let len = u32::try_from(body.0.len()).unwrap_or(u32::MAX);
    let mut message = head.int(len).int(serial).array(fields).structure();
    message.0.extend(&body.0);
    message.0
}

/// What became of a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was done.
    Return,
    /// The name of an error.
    Error(String),
}

/// A message of somebody else.
pub struct Message {
    kind: u8,
    fields: Vec<u8>,
}

/// Reads one.
pub fn read(stream: &mut impl Read) -> io::Result<Message> {
    let mut fixed = [0; FIXED];
    stream.read_exact(&mut fixed)?;
    let [order, kind, ..] = fixed;
    if order != b'l' {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of the other byte order"));
    }
    let word = |at: usize| int(&fixed, at).and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let (body, fields) = (word(4), word(12));
    let rest = fields.min(MESSAGE_MAX).next_multiple_of(8).saturating_add(body);
    if fields > MESSAGE_MAX || rest > MESSAGE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message that is too long"));
    }
    let mut bytes = vec![0; rest];
    stream.read_exact(&mut bytes)?;
    bytes.truncate(fields);
    Ok(Message { kind, fields: bytes })
}

fn int(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl Message {
    /// What it says of our call, if it is the answer to that.
    pub fn answer_to(&self, serial: u32) -> Option<Answer> {
        let (mut reply_to, mut error) = (None, String::new());
        let mut at = 0_usize;
        while at < self.fields.len() {
            // A structure: a number, and a value with its type in front.
            at = at.next_multiple_of(8);
            let (field, kind) = (*self.fields.get(at)?, *self.fields.get(at + 2)?);
            if self.fields.get(at + 1) != Some(&1) {
                return None;
            }
            at += 4;
            match kind {
                b'g' => at = at.checked_add(usize::from(*self.fields.get(at)?))?.checked_add(2)?,
                b'u' => {
                    reply_to = if field == FIELD_REPLY_SERIAL { int(&self.fields, at) } else { reply_to };
                    at += 4;
                }
                b's' | b'o' => {
                    let len = usize::try_from(int(&self.fields, at)?).ok()?;
                    let end = at.checked_add(4)?.checked_add(len)?;
                    if field == FIELD_ERROR_NAME {
                        error = String::from_utf8_lossy(self.fields.get(at + 4..end)?).into_owned();
                    }
                    at = end.checked_add(1)?;
                }
                _ => return None,
            }
        }
        match self.kind {
            METHOD_RETURN if reply_to == Some(serial) => Some(Answer::Return),
            ERROR if reply_to == Some(serial) => Some(Answer::Error(error)),
            _ => None,
        }
    }
}

#[cfg(test)]
pub mod double {
    //! The other side, for tests.
    use super::*;

    /// The serial and the method of a call, and its body.
    pub fn read_call(stream: &mut impl Read) -> Option<(u32, String, Vec<u8>)> {
        let mut fixed = [0; FIXED];
        stream.read_exact(&mut fixed).ok()?;
        let (body, serial, fields) = (int(&fixed, 4)?, int(&fixed, 8)?, int(&fixed, 12)?);
        let mut rest = vec![0; (fields as usize).next_multiple_of(8)];
        stream.read_exact(&mut rest).ok()?;
        let mut bytes = vec![0; body as usize];
        stream.read_exact(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&rest).into_owned();
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
        let member = words.rfind(|w| w.starts_with("SetLink") || *w == "Hello")?.to_owned();
        Some((serial, member, bytes))
    }

    /// An answer, with a name of an error or without.
    pub fn answer(serial: u32, error: Option<&str>) -> Vec<u8> {
        let mut fields = Body::default().field(FIELD_REPLY_SERIAL, "u").int(serial);
        if let Some(name) = error {
            fields = fields.field(FIELD_ERROR_NAME, "s").text(name);
        }
        let kind = if error.is_some() { ERROR } else { METHOD_RETURN };
        message(kind, 7, fields, &Body::default())
    }

    /// A message that answers nothing.
    pub fn signal() -> Vec<u8> {
        let fields = Body::default().field(FIELD_MEMBER, "s").text("NameAcquired");
        message(4, 8, fields, &Body::default().text(":1.7"))
    }
}
