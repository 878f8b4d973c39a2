//! What was tried before is tried first: `fuzz/corpus/PARSER/*`, made by the real encoders, and whatever found something since.

use super::{Parser, all};
use anyhow::Context as _;
use std::fs;
use std::path::PathBuf;

/// Where all of it lies.
pub fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus"))
}

/// What is kept for one parser, in the order of the files' names.
pub fn kept(parser: &Parser) -> anyhow::Result<Vec<Vec<u8>>> {
    let folder = folder().join(parser.name);
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    paths.iter().map(|path| fs::read(path).with_context(|| format!("cannot read {}", path.display()))).collect()
}

/// Writes what the encoders make now; what else lies there stays. Answers how many files.
pub fn write() -> anyhow::Result<usize> {
    let mut count = 0;
    for parser in all() {
        let folder = folder().join(parser.name);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in (parser.seeds)()? {
            fs::write(folder.join(name), bytes)?;
            count += 1;
        }
    }
    Ok(count)
}
