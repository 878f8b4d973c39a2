//! Is a trail whole that lies in files, without the controller that wrote it?

use std::io;
use std::path::{Path, PathBuf};

use super::segment::Lines;
use super::{Record, Verified, Verifier, VerifyError};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The trail.
    pub verified: Verified,
    /// In how many files.
    pub files: usize,
}

/// Why a trail in files does not hold.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The file system.
    #[error("cannot read {path}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What it said.
        cause: io::Error,
    },
    /// Not a file of ours.
    #[error("{0} does not begin with an audit record: is it an export, or a file of the folder `audit` of a store?")]
    Strange(PathBuf),
    /// The chain.
    #[error("{path}: {error}")]
    Chain {
        /// The file in which it shows.
        path: PathBuf,
        /// What is wrong.
        error: VerifyError,
    },
    /// The chain, as a whole.
    #[error(transparent)]
    Whole(#[from] VerifyError),
}

/// Verifies the trail in these files, given in any order; together they must hold it from its beginning on.
pub fn verify(files: &[PathBuf]) -> Result<Found, OfflineError> {
    let mut sorted = files.iter().map(|path| Ok((begins(path)?, path))).collect::<Result<Vec<_>, OfflineError>>()?;
    sorted.sort();
    let first = sorted.first().map_or(1, |(first, _)| *first);
    let mut verifier = Verifier::new(first);
    for (_, path) in &sorted {
        for line in lines(path)? {
            let line = line.map_err(|cause| OfflineError::Read { path: (*path).clone(), cause })?;
            verifier.push_line(&line).map_err(|error| OfflineError::Chain { path: (*path).clone(), error })?;
        }
    }
    Ok(Found { verified: verifier.end()?, files: sorted.len() })
}

fn lines(path: &Path) -> Result<Lines<io::BufReader<std::fs::File>>, OfflineError> {
    Lines::open(path).map_err(|cause| OfflineError::Read { path: path.to_owned(), cause })
}

/// With which record a file begins.
fn begins(path: &Path) -> Result<u64, OfflineError> {
    let first = lines(path)?.next().transpose();
    let first = first.map_err(|cause| OfflineError::Read { path: path.to_owned(), cause })?;
    let record = first.and_then(|line| serde_json::from_slice::<Record>(&line).ok());
    record.map(|record| record.seq).ok_or_else(|| OfflineError::Strange(path.to_owned()))
}
