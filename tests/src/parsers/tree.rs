//! What is a message made of? Its encoding taken apart by its descriptor, so that any field can be left out or changed.

use crate::wire::{Wire, whole};
use prost_types::FieldDescriptorProto;
use prost_types::field_descriptor_proto::Type;
use std::collections::BTreeSet;

/// Messages within messages, at most: ours have four.
const DEPTH_MAX: usize = 12;

/// All messages of the wire.
pub struct Types(Wire);

/// A message.
pub type Tree = Vec<Field>;

/// One field of one.
#[derive(Debug, Clone)]
pub struct Field {
    number: u32,
    value: Value,
}

#[derive(Debug, Clone)]
enum Value {
    Number(u64),
    Enumeration(u64),
    Bytes(Vec<u8>),
    Message(Tree),
}

/// What a field gets where a message is made: (message, field, family) to bytes. The family is 6 inside of what is called so.
pub struct Words<'a> {
    /// Of a string or of bytes.
    pub bytes: &'a dyn Fn(&str, &str, u8) -> Vec<u8>,
    /// Of a number.
    pub number: &'a dyn Fn(&str, &str, u8) -> u64,
}

impl Types {
    /// Those of the descriptors of `proto`.
    pub fn new() -> anyhow::Result<Self> {
        Wire::read().map(Self)
    }

    /// The methods of a service.
    pub fn calls_of(&self, service: &str) -> Vec<String> {
        let parts = self.0.calls.iter().filter_map(|call| call.path.rsplit_once('/'));
        let own = parts.filter(|(of, _)| of.rsplit('.').next() == Some(service));
        own.map(|(_, method)| method.to_owned()).collect()
    }

    /// The messages that an RPC takes or answers.
    pub fn spoken(&self) -> BTreeSet<String> {
        self.0.calls.iter().flat_map(|call| [call.request.clone(), call.answer.clone()]).collect()
    }

    /// A message in which every field is there; of the alternatives of a `oneof` the `choice`-th, wherever one is.
    pub fn filled(&self, name: &str, choice: usize, words: &Words<'_>) -> Vec<u8> {
        self.fill(name, choice, words, 4, DEPTH_MAX).map(|tree| encode(&tree)).unwrap_or_default()
    }

    fn fill(&self, name: &str, choice: usize, words: &Words<'_>, family: u8, depth: usize) -> Option<Tree> {
        let message = self.0.messages.get(name).filter(|_| depth > 0)?;
        let mut tree = Tree::new();
        for field in &message.field {
            let alternatives =
                message.field.iter().filter(|other| is_choice(field) && other.oneof_index == field.oneof_index);
            let alternatives: Vec<_> =
                alternatives.filter(|other| is_choice(other)).map(FieldDescriptorProto::number).collect();
            if alternatives.len() > 1 && alternatives.get(choice % alternatives.len()) != Some(&field.number()) {
                continue;
            }
            let family = if field.name().ends_with("v6") { 6 } else { family };
            let value = match field.r#type() {
                Type::Message => {
                    Value::Message(self.fill(whole(field.type_name()), choice, words, family, depth - 1)?)
                }
                Type::String | Type::Bytes => Value::Bytes((words.bytes)(name, field.name(), family)),
                Type::Enum => Value::Enumeration(1),
                _ => Value::Number((words.number)(name, field.name(), family)),
            };
            tree.push(Field { number: u32::try_from(field.number()).ok()?, value });
        }
        Some(tree)
    }

    /// The same message, each time with one thing changed, at whatever depth: a field left out, or there twice; a number or an
    /// enumeration at its edges and unknown; bytes empty, and one more or less.
    pub fn variants(&self, name: &str, encoded: &[u8]) -> Vec<Vec<u8>> {
        let Some(tree) = self.read(name, encoded, DEPTH_MAX) else { return Vec::new() };
        vary(&tree).iter().map(Vec::as_slice).map(encode).collect()
    }

    fn read(&self, name: &str, mut bytes: &[u8], depth: usize) -> Option<Tree> {
        let message = self.0.messages.get(name).filter(|_| depth > 0)?;
        let mut tree = Tree::new();
        while !bytes.is_empty() {
            let tag = take_number(&mut bytes)?;
            let number = u32::try_from(tag >> 3).ok()?;
            let field = message.field.iter().find(|field| u32::try_from(field.number()) == Ok(number))?;
            let value = match tag & 7 {
                0 if field.r#type() == Type::Enum => Value::Enumeration(take_number(&mut bytes)?),
                0 => Value::Number(take_number(&mut bytes)?),
                2 => {
                    let len = usize::try_from(take_number(&mut bytes)?).ok()?;
                    let (content, rest) = bytes.split_at_checked(len)?;
                    bytes = rest;
                    match field.r#type() {
                        Type::Message => Value::Message(self.read(whole(field.type_name()), content, depth - 1)?),
                        _ => Value::Bytes(content.to_vec()),
                    }
                }
                _ => return None,
            };
            tree.push(Field { number, value });
        }
        Some(tree)
    }
}

/// One of several, and not merely `optional`.
fn is_choice(field: &FieldDescriptorProto) -> bool {
    field.oneof_index.is_some() && !field.proto3_optional()
}

fn vary(tree: &[Field]) -> Vec<Tree> {
    let mut all = Vec::new();
    for (at, field) in tree.iter().enumerate() {
        let with = |value: Value| {
            let mut other = tree.to_vec();
            if let Some(place) = other.get_mut(at) {
                place.value = value;
            }
            other
        };
        all.push(tree.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, field)| field.clone()).collect());
        all.push(tree.iter().chain([field]).cloned().collect());
        match &field.value {
            Value::Number(_) => {
                let edges =
                    [0, 1, 33, 129, 256, 65_535, 65_536, u64::from(u32::MAX), i64::MAX as u64, 1 << 63, u64::MAX];
                all.extend(edges.map(|edge| with(Value::Number(edge))));
            }
            Value::Enumeration(_) => {
                all.extend([0, 9_999, i32::MAX as u64, u64::MAX].map(|edge| with(Value::Enumeration(edge))));
            }
            Value::Bytes(bytes) => {
                let shorter = bytes.get(1..).unwrap_or_default().to_vec();
                let longer = [bytes.as_slice(), b"x"].concat();
                all.extend(
                    [Vec::new(), shorter, longer, vec![0; bytes.len()], vec![0xff; 3]].map(|b| with(Value::Bytes(b))),
                );
            }
            Value::Message(inner) => {
                all.push(with(Value::Message(Tree::new())));
                all.extend(vary(inner).into_iter().map(|inner| with(Value::Message(inner))));
            }
        }
    }
    all
}

fn encode(tree: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Field { number, value } in tree {
        let tag = u64::from(*number) << 3;
        match value {
            Value::Number(n) | Value::Enumeration(n) => {
                put_number(&mut bytes, tag);
                put_number(&mut bytes, *n);
            }
            Value::Bytes(content) => put_bytes(&mut bytes, tag, content),
            Value::Message(inner) => put_bytes(&mut bytes, tag, &encode(inner)),
        }
    }
    bytes
}

fn put_bytes(bytes: &mut Vec<u8>, tag: u64, content: &[u8]) {
    put_number(bytes, tag | 2);
    put_number(bytes, content.len() as u64);
    bytes.extend(content);
}

/// A varint.
fn put_number(bytes: &mut Vec<u8>, number: u64) {
    prost::encoding::encode_varint(number, bytes);
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(bytes).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use prost::Message as _;
    use proto::v1;

    #[test]
    fn a_message_is_filled_and_taken_apart() {
        let types = Types::new().unwrap();
        let words = Words { bytes: &|_, _, _| b"x".to_vec(), number: &|_, _, _| 7 };
        let filled =
            |choice| v1::GatewayDown::decode(types.filled("umbra.v1.GatewayDown", choice, &words).as_slice()).unwrap();
        assert!(matches!(filled(0).what, Some(v1::gateway_down::What::Snapshot(_))));
        assert!(matches!(filled(4).what, Some(v1::gateway_down::What::AuditHead(_))));
        let Some(v1::gateway_down::What::Snapshot(snapshot)) = filled(0).what else { return };
        let grant = snapshot.grants.first().unwrap();
        assert_eq!((grant.lease_ms, grant.rules.len()), (Some(7), 1), "optional fields and lists are there, too");
        let variants = types.variants("umbra.v1.Grant", &grant.encode_to_vec());
        let read: Vec<_> = variants.iter().map(|bytes| v1::Grant::decode(bytes.as_slice())).collect();
        let any = |what: &dyn Fn(&v1::Grant) -> bool| read.iter().flatten().any(what);
        assert!(any(&|g| g.lease_ms.is_none() && g.ends_in_ms.is_some()));
        assert!(any(&|g| g.rules.is_empty()) && any(&|g| g.rules.len() == 2));
        assert!(
            any(&|g| g.rules.iter().any(|r| r.target.is_none()))
                && any(&|g| g.rules.iter().any(|r| r.protocol == 9_999))
        );
        assert!(any(&|g| g.ends_in_ms == Some(u64::MAX)) && any(&|g| g.id.is_empty()));
        assert!(types.spoken().contains("umbra.v1.EnrollReply") && !types.spoken().contains("umbra.v1.Grant"));
    }
}
