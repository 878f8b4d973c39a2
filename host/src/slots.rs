//! How is a small value kept that changes often? In two slots of one file, written in turn and in place: each write is
//! one block and one wait for the disk, where a new file and its name would be several.
//!
//! Each slot holds a number, the value and a checksum over both. The slot with the higher number counts; one that a power
//! cut tore does not pass its checksum, and the other one still holds the value before.

use crate::keyfile::{self, KeyFileError};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes from one slot to the next: a block, so that a write of one never touches the other.
const SLOT: usize = 4096;
/// Number, length, checksum.
const HEAD: usize = 8 + 2 + 8;
/// The longest value, in bytes: with its head it lies in one sector of 512 bytes.
pub const VALUE_MAX: usize = 512 - HEAD;

/// Why a value was not kept or not found.
#[derive(Debug, thiserror::Error)]
pub enum SlotsError {
    /// The file.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// Neither slot is whole.
    #[error("{0} is damaged: neither of its two slots is whole")]
    Damaged(PathBuf),
    /// More than a slot takes.
    #[error("{0} bytes do not fit into a slot of {VALUE_MAX}")]
    TooLong(usize),
    /// The operating system's refusal.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
}

/// An open file of two slots.
#[derive(Debug)]
pub struct Slots {
    path: PathBuf,
    file: File,
    number: u64,
}

impl Slots {
    /// Makes the file, mode 0600, with a first value; it must not be there. Durable when this returns.
    pub fn create(path: &Path, value: &[u8]) -> Result<Self, SlotsError> {
        let mut both = encode(0, value)?;
        // The second slot is as old as none: blocks that are there already need no change of the file system later.
        both.resize(2 * SLOT, 0);
        keyfile::create(path, &both)?;
        Ok(Self { path: path.to_owned(), file: open(path)?, number: 0 })
    }

    /// Opens the file, which must be ours and closed to others, and gives the newest whole value.
    pub fn open(path: &Path) -> Result<(Self, Vec<u8>), SlotsError> {
        let bytes = keyfile::read(path, 2 * SLOT)?;
        let slots = bytes.expose().chunks(SLOT).filter_map(decode);
        let newest = slots.max_by_key(|(number, _)| *number);
        let (number, value) = newest.ok_or_else(|| SlotsError::Damaged(path.to_owned()))?;
        let mut file = open(path)?;
        // Written in place: where the file has another name, too, that one would be written as well.
        if file.metadata().map_or(0, |about| about.nlink()) != 1 {
            keyfile::replace(path, bytes.expose())?;
            file = open(path)?;
        }
        Ok((Self { path: path.to_owned(), file, number }, value.to_vec()))
    }

    /// Keeps a new value; durable when this returns. After an error the value before it is still there.
    pub fn write(&mut self, value: &[u8]) -> Result<(), SlotsError> {
        let number = self.number.saturating_add(1);
        let slot = encode(number, value)?;
        let at = number % 2 * SLOT as u64;
        let failed = |source| SlotsError::Write { path: self.path.clone(), source };
        self.file.write_all_at(&slot, at).and_then(|()| self.file.sync_data()).map_err(failed)?;
        // Only a value that is durable lets the other slot be overwritten.
        self.number = number;
        Ok(())
    }
}

fn open(path: &Path) -> Result<File, SlotsError> {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    file.map_err(|source| SlotsError::Write { path: path.to_owned(), source })
}

fn encode(number: u64, value: &[u8]) -> Result<Vec<u8>, SlotsError> {
    let length = u16::try_from(value.len()).ok().filter(|_| value.len() <= VALUE_MAX);
    let length = length.ok_or(SlotsError::TooLong(value.len()))?;
    let mut slot = number.to_be_bytes().to_vec();
    slot.extend(length.to_be_bytes());
    slot.extend(value);
    slot.extend(checksum(&slot).to_be_bytes());
    Ok(slot)
}

/// The number and the value of one slot, if it is whole.
pub fn decode(slot: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = slot.split_first_chunk::<8>()?;
    let (length, _) = rest.split_first_chunk::<2>()?;
    let end = 10 + usize::from(u16::from_be_bytes(*length));
    let (covered, rest) = slot.split_at_checked(end)?;
    let sum = rest.first_chunk::<8>()?;
    (u64::from_be_bytes(*sum) == checksum(covered)).then_some((u64::from_be_bytes(*number), covered.get(10..)?))
}

/// FNV-1a over 64 bits: against torn writes, not against people, who are kept out by the file's mode.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Folder;

    fn stored(path: &Path) -> Vec<u8> {
        std::fs::read(path).unwrap()
    }

    #[test]
    fn the_newest_value_is_there_after_each_write() {
        let folder = Folder::new();
        let path = folder.path().join("slots");
        let mut slots = Slots::create(&path, b"first").unwrap();
        assert_eq!(Slots::open(&path).unwrap().1, b"first");
        for n in 0..5_u8 {
            slots.write(&[n; 3]).unwrap();
            assert_eq!(Slots::open(&path).unwrap().1, [n; 3]);
        }
        let (mut again, _) = Slots::open(&path).unwrap();
        again.write(b"").unwrap();
        assert_eq!(Slots::open(&path).unwrap().1, b"");
        assert!(matches!(Slots::create(&path, b"x"), Err(SlotsError::File(KeyFileError::Exists(_)))));
        assert!(matches!(again.write(&[0; VALUE_MAX + 1]), Err(SlotsError::TooLong(_))));
        again.write(&[7; VALUE_MAX]).unwrap();
        assert_eq!(Slots::open(&path).unwrap().1, [7; VALUE_MAX]);
        assert_eq!(stored(&path).len(), 2 * SLOT);
    }

    #[test]
    fn another_name_of_the_file_is_not_written() {
        let folder = Folder::new();
        let (path, other) = (folder.path().join("slots"), folder.path().join("other"));
        drop(Slots::create(&path, b"first").unwrap());
        let before = stored(&path);
        std::fs::hard_link(&path, &other).unwrap();
        let (mut slots, value) = Slots::open(&path).unwrap();
        assert_eq!(value, b"first");
        slots.write(b"second").unwrap();
        slots.write(b"third").unwrap();
        assert_eq!(Slots::open(&path).unwrap().1, b"third");
        assert_eq!(stored(&other), before);
    }

    #[test]
    fn a_torn_write_leaves_the_value_before_it() {
        let folder = Folder::new();
        let path = folder.path().join("slots");
        let mut slots = Slots::create(&path, b"old value").unwrap();
        slots.write(b"before").unwrap();
        let before = stored(&path);
        slots.write(b"after it").unwrap();
        let after = stored(&path);
        // However many bytes of the write got to the disk, one of the two values is there, and whole.
        let mut seen = std::collections::BTreeSet::new();
        for cut in 0..=64 {
            let torn: Vec<u8> = after.iter().take(cut).chain(before.iter().skip(cut)).copied().collect();
            std::fs::write(&path, torn).unwrap();
            seen.insert(Slots::open(&path).unwrap().1);
        }
        assert_eq!(seen, [b"before".to_vec(), b"after it".to_vec()].into());
    }

    #[test]
    fn a_file_without_a_whole_slot_is_refused() {
        let folder = Folder::new();
        let path = folder.path().join("slots");
        drop(Slots::create(&path, b"value").unwrap());
        for bytes in [vec![], vec![0; 2 * SLOT], vec![0xff; 2 * SLOT], stored(&path)[..12].to_vec()] {
            std::fs::write(&path, bytes).unwrap();
            assert!(matches!(Slots::open(&path), Err(SlotsError::Damaged(_))));
        }
        std::fs::write(&path, vec![0; 2 * SLOT + 1]).unwrap();
        assert!(matches!(Slots::open(&path), Err(SlotsError::File(KeyFileError::TooLarge { .. }))));
    }
}
