//! Which calls does the wire have, and where does it carry text? Read from the descriptors, so that nothing is forgotten.

pub mod calls;
pub mod texts;

use prost::Message as _;
use prost::encoding::encode_varint;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};
use std::collections::BTreeMap;

/// How deep messages may hold each other; the wire's are far less deep.
const DEPTH_MAX: usize = 8;

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `/umbra.v1.Devices/Login`.
    pub path: String,
    /// Its request, `umbra.v1.LoginRequest`.
    pub request: String,
    /// Its answer, likewise.
    pub answer: String,
}

/// Where text stands in a message: the field's name, and the field numbers that lead to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `umbra.admin.v1.PolicyFile.name`.
    pub field: String,
    /// From the outermost message inwards.
    pub numbers: Vec<u32>,
}

/// The wire, as it is described.
pub struct Wire {
    /// Every message by its whole name.
    pub messages: BTreeMap<String, DescriptorProto>,
    /// Every call of every service.
    pub calls: Vec<Call>,
}

impl Wire {
    /// Reads the descriptors.
    pub fn read() -> anyhow::Result<Self> {
        let set = FileDescriptorSet::decode(proto::DESCRIPTORS)?;
        let mut wire = Self { messages: BTreeMap::new(), calls: Vec::new() };
        for file in set.file {
            for service in &file.service {
                wire.calls.extend(service.method.iter().map(|method| Call {
                    path: format!("/{}.{}/{}", file.package(), service.name(), method.name()),
                    request: whole(method.input_type()).to_owned(),
                    answer: whole(method.output_type()).to_owned(),
                }));
            }
            let package = file.package().to_owned();
            wire.messages.extend(file.message_type.into_iter().map(|m| (format!("{package}.{}", m.name()), m)));
        }
        Ok(wire)
    }

    /// Every field that carries text, as `umbra.v1.LoginRequest.user`.
    pub fn texts(&self) -> Vec<String> {
        let own = |(name, message): (&String, &DescriptorProto)| -> Vec<String> {
            let texts = message.field.iter().filter(|field| field.r#type() == Type::String);
            texts.map(|field| format!("{name}.{}", field.name())).collect()
        };
        self.messages.iter().flat_map(own).collect()
    }

    /// Every place of a message, and of those inside it, that carries text.
    pub fn places(&self, message: &str) -> Vec<Place> {
        let mut found = Vec::new();
        self.walk(message, &mut Vec::new(), &mut found);
        found
    }

    fn walk(&self, message: &str, numbers: &mut Vec<u32>, found: &mut Vec<Place>) {
        let Some(described) = self.messages.get(message).filter(|_| numbers.len() < DEPTH_MAX) else { return };
        for field in &described.field {
            numbers.push(u32::try_from(field.number()).unwrap_or_default());
            match field.r#type() {
                Type::String => {
                    found.push(Place { field: format!("{message}.{}", field.name()), numbers: numbers.clone() });
                }
                Type::Message => self.walk(whole(field.type_name()), numbers, found),
                _ => {}
            }
            numbers.pop();
        }
    }
}

/// A message's whole name, as descriptors refer to it.
pub fn whole(name: &str) -> &str {
    name.trim_start_matches('.')
}

/// A message with `text` at this place. Of two values of a field the later counts, and a list gets longer: so it stands at the
/// end (protobuf's encoding, "last one wins").
pub fn with_text(message: &[u8], numbers: &[u32], text: &str) -> Vec<u8> {
    let inner = numbers.iter().rev().fold(text.as_bytes().to_vec(), |inside, number| {
        let mut field = Vec::with_capacity(inside.len() + 12);
        encode_varint(u64::from(*number) << 3 | 2, &mut field);
        encode_varint(inside.len() as u64, &mut field);
        field.extend(inside);
        field
    });
    [message, &inner].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_put_where_it_belongs() {
        let wire = Wire::read().unwrap();
        let login = proto::v1::LoginRequest { user: "a".into(), password: "b".into() };
        let places = wire.places("umbra.v1.LoginRequest");
        assert_eq!(places.len(), 2);
        let long = "x".repeat(70_000);
        let changed = with_text(&login.encode_to_vec(), &places[0].numbers, &long);
        let changed = proto::v1::LoginRequest::decode(&changed[..]).unwrap();
        assert_eq!((changed.user, changed.password), (long, "b".into()));
        let places = wire.places("umbra.admin.v1.PolicyFiles");
        let files = with_text(&[], &places[1].numbers, "permit");
        let files = proto::admin::PolicyFiles::decode(&files[..]).unwrap();
        assert_eq!(
            (places[1].field.as_str(), files.files[0].text.as_str()),
            ("umbra.admin.v1.PolicyFile.text", "permit")
        );
    }
}
