//! How do records lie on the disk? In one ordered tree of small pieces.
//!
//! A disk key is a space (`d`ata, change `l`og, `a`udit, `m`eta), a name, a zero byte and the number of the piece. sled
//! writes items above about 128 KiB of page to blob files which it never syncs; pieces of at most
//! [`STORE_VALUE_MAX`] bytes keep every page (16 items) far below that.

use model::limits::STORE_VALUE_MAX;

/// Live records and head keys.
pub(super) const DATA: u8 = b'd';
/// Changes for watchers, by revision.
pub(super) const LOG: u8 = b'l';
/// Audit records, by sequence number.
pub(super) const AUDIT: u8 = b'a';
/// The one record about the store itself.
pub(super) const META: u8 = b'm';

/// Bytes of the count in front of the first piece.
const COUNT: usize = 4;

/// One write of a batch: a disk key, and a value or its removal.
pub(super) type Write = (Vec<u8>, Option<Vec<u8>>);

/// How many pieces a payload of `len` bytes takes.
pub(super) const fn pieces(len: usize) -> u32 {
    let n = (len + COUNT).div_ceil(STORE_VALUE_MAX);
    if n == 0 { 1 } else { n as u32 }
}

/// The disk key of one piece.
pub(super) fn disk_key(space: u8, name: &str, piece: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 6);
    key.push(space);
    key.extend_from_slice(name.as_bytes());
    key.push(0);
    key.extend_from_slice(&piece.to_be_bytes());
    key
}

/// The name of a numbered record, such that order of names is order of numbers.
pub(super) fn number_name(number: u64) -> String {
    format!("{number:016x}")
}

/// Adds the writes that store `payload`, where `before` pieces lay.
pub(super) fn put(writes: &mut Vec<Write>, space: u8, name: &str, payload: &[u8], before: u32) {
    let count = pieces(payload.len());
    let (first, rest) = payload.split_at(payload.len().min(STORE_VALUE_MAX - COUNT));
    let mut value = Vec::with_capacity(COUNT + first.len());
    value.extend_from_slice(&count.to_be_bytes());
    value.extend_from_slice(first);
    writes.push((disk_key(space, name, 0), Some(value)));
    for (piece, chunk) in (1..).zip(rest.chunks(STORE_VALUE_MAX)) {
        writes.push((disk_key(space, name, piece), Some(chunk.to_vec())));
    }
    writes.extend((count..before).map(|piece| (disk_key(space, name, piece), None)));
}

/// Adds the writes that remove a record of `before` pieces.
pub(super) fn remove(writes: &mut Vec<Write>, space: u8, name: &str, before: u32) {
    writes.extend((0..before).map(|piece| (disk_key(space, name, piece), None)));
}

/// Puts records together again from pieces in the order of their disk keys.
#[derive(Debug, Default)]
pub struct Assembler {
    open: Option<(String, Vec<u8>, u32, u32)>,
}

impl Assembler {
    /// Takes the next piece; answers a record when it is whole. The error says what does not fit.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<Option<(String, Vec<u8>)>, String> {
        let (name, piece) = split(key).ok_or_else(|| format!("unknown key {:?}", key.escape_ascii().to_string()))?;
        let (name, payload, next, count) = match self.open.take() {
            None if piece == 0 => {
                let (count, first) = value.split_first_chunk::<COUNT>().ok_or_else(|| format!("`{name}` is cut"))?;
                (name.to_owned(), first.to_vec(), 1, u32::from_be_bytes(*count))
            }
            Some((open, mut payload, next, count)) if open == name && next == piece => {
                payload.extend_from_slice(value);
                (open, payload, next.saturating_add(1), count)
            }
            _ => return Err(format!("pieces of `{name}` are missing")),
        };
        if next >= count {
            return Ok(Some((name, payload)));
        }
        self.open = Some((name, payload, next, count));
        Ok(None)
    }

    /// Says whether the last record was whole.
    pub fn finish(&self) -> Result<(), String> {
        self.open.as_ref().map_or(Ok(()), |(name, ..)| Err(format!("pieces of `{name}` are missing")))
    }
}

/// The name and the piece number in a disk key.
fn split(key: &[u8]) -> Option<(&str, u32)> {
    let (rest, piece) = key.split_last_chunk::<4>()?;
    let name = rest.strip_suffix(&[0])?.get(1..)?;
    Some((std::str::from_utf8(name).ok()?, u32::from_be_bytes(*piece)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn read(tree: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Vec<(String, Vec<u8>)>, String> {
        let (mut assembler, mut all) = (Assembler::default(), Vec::new());
        for (key, value) in tree {
            all.extend(assembler.push(key, value)?);
        }
        assembler.finish().map(|()| all)
    }

    #[test]
    fn records_of_every_size_come_back_and_leave_nothing_behind() {
        let mut tree = BTreeMap::new();
        let mut before = 0;
        for len in [0, 1, 4_091, 4_092, 4_093, 8_188, 8_189, 1 << 20, 9_000, 10, 0] {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut writes = Vec::new();
            put(&mut writes, DATA, "user/a", &payload, before);
            before = pieces(len);
            for (key, value) in writes {
                assert!(value.as_ref().is_none_or(|v| v.len() <= STORE_VALUE_MAX));
                match value {
                    Some(value) => drop(tree.insert(key, value)),
                    None => drop(tree.remove(&key)),
                }
            }
            assert_eq!(tree.len(), before as usize, "{len}");
            assert_eq!(read(&tree).unwrap(), vec![("user/a".to_owned(), payload)]);
        }
        let mut writes = Vec::new();
        remove(&mut writes, DATA, "user/a", before);
        writes.iter().for_each(|(key, _)| drop(tree.remove(key)));
        assert!(tree.is_empty());
    }

    #[test]
    fn a_missing_piece_is_told() {
        for gone in 0..3 {
            let mut writes = Vec::new();
            put(&mut writes, DATA, "a/b", &[7; 3 * STORE_VALUE_MAX - 4], 0);
            let mut tree: BTreeMap<_, _> = writes.into_iter().map(|(k, v)| (k, v.unwrap())).collect();
            tree.remove(&disk_key(DATA, "a/b", gone));
            assert!(read(&tree).is_err(), "{gone}");
        }
        assert!(Assembler::default().push(b"d", b"").is_err());
        assert!(Assembler::default().push(&disk_key(DATA, "x", 0), b"12").is_err());
    }
}
