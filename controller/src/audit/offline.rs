//! Is a trail whole that lies in files, without the controller that wrote it? And does it go as far as witnesses say?

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use node::successor::{Announcement, Authority};
use node::witness::{Witness, WitnessError};
use serde_json::Value;

use super::segment::Lines;
use super::verify::new_life;
use super::{Hash, Record, Verified, Verifier, VerifyError};

/// The action of a record that tells what follows the organisation's key and CA.
pub const ANNOUNCED: &str = "authority.announce";

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The trail.
    pub verified: Verified,
    /// In how many files.
    pub files: usize,
    /// Heads that were signed and are in it.
    pub witnessed: usize,
    /// Fingerprints of the organisations whose CA signed them: one, or the files are not what they seem.
    pub fingerprints: BTreeSet<String>,
    /// Which of them named which other one as its successor, proven by its signature.
    pub successions: Vec<Succeeded>,
    /// How far the newest head of each of them goes that is in the trail.
    heads: BTreeMap<String, u64>,
    /// What is no fault and has to be known.
    pub notes: Vec<String>,
}

/// One authority of the organisation named the next one, in a record of the trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Succeeded {
    /// The fingerprint before.
    pub before: String,
    /// The fingerprint of the next one.
    pub next: String,
    /// The record.
    pub record: u64,
}

impl Found {
    /// Is `other` the fingerprint of the organisation that has the fingerprint `known`, at another time? Forwards the signature of
    /// the one before proves it; backwards the trail does, where a head of the later one covers the record.
    pub fn is_same(&self, known: &str, other: &str) -> bool {
        let mut same = BTreeSet::from([known]);
        // At most one more with each step.
        for _ in 0..=self.successions.len() {
            for Succeeded { before, next, record } in &self.successions {
                if same.contains(before.as_str()) {
                    same.insert(next);
                } else if same.contains(next.as_str()) && self.heads.get(next).is_some_and(|head| head >= record) {
                    same.insert(before);
                }
            }
        }
        same.contains(other)
    }
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
    /// Not a witness.
    #[error("{path} holds no witness ({cause}): is it what `umbra-gateway witness` printed?")]
    NoWitness {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// A head that nobody of the organisation signed.
    #[error("the head of `{witness}` in {path} is not believed: {error}")]
    Unsigned {
        /// The file.
        path: PathBuf,
        /// Whose it claims to be.
        witness: String,
        /// Why.
        error: WitnessError,
    },
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
    /// The end was cut off.
    #[error(
        "the end of the audit trail is missing: it ends at record {last}, and `{witness}` witnessed record {seq} at {at}: \
         records {next} to {seq} were cut off", next = last + 1
    )]
    Cut {
        /// The newest record in the files.
        last: u64,
        /// The newest that was witnessed.
        seq: u64,
        /// By whom.
        witness: String,
        /// When it was signed.
        at: String,
    },
    /// It is another trail.
    #[error(
        "the audit trail was rewritten: record {seq} is not the one that `{witness}` witnessed at {at}; records up to it are \
         not to be trusted"
    )]
    Rewritten {
        /// The record.
        seq: u64,
        /// By whom.
        witness: String,
        /// When it was signed.
        at: String,
    },
}

/// A head to be looked for.
struct Wanted {
    witness: Witness,
    /// Of the organisation, under the CA that signed it.
    fingerprint: String,
    /// The hash of the record at its place, once that was seen.
    found: Option<Hash>,
}

/// Verifies the trail in these files, given in any order; together they must hold it from its beginning on. `witnesses` are
/// files with what gateways witnessed.
pub fn verify(files: &[PathBuf], witnesses: &[PathBuf]) -> Result<Found, OfflineError> {
    let mut sorted = files.iter().map(|path| Ok((begins(path)?, path))).collect::<Result<Vec<_>, OfflineError>>()?;
    sorted.sort();
    let mut found = Found {
        verified: Verified { first: 0, last: 0, head: Hash::default() },
        files: sorted.len(),
        witnessed: 0,
        fingerprints: BTreeSet::new(),
        successions: Vec::new(),
        heads: BTreeMap::new(),
        notes: Vec::new(),
    };
    let mut wanted = Vec::new();
    for path in witnesses {
        for line in lines(path)? {
            wanted.push(witness(path, &line.map_err(read_failed(path))?, &mut found)?);
        }
    }
    // At the end of an export, and so after the records.
    for (_, path) in &sorted {
        for line in lines(path)? {
            let line = line.map_err(read_failed(path))?;
            if is_witness(&line) {
                wanted.push(witness(path, &line, &mut found)?);
            }
        }
    }
    let mut verifier = Verifier::new(sorted.first().map_or(1, |(first, _)| *first));
    let mut lives = Vec::new();
    for (_, path) in &sorted {
        for line in lines(path)? {
            let line = line.map_err(read_failed(path))?;
            if is_witness(&line) {
                continue;
            }
            let pushed = verifier.push_line(&line);
            let record = pushed.map_err(|error| OfflineError::Chain { path: (*path).clone(), error })?;
            for one in wanted.iter_mut().filter(|one| one.witness.head.head.seq == record.seq) {
                one.found = Some(super::hash(&line));
            }
            lives.extend(new_life(&record));
            if let Some(domain) = wanted.first().map(|one| one.witness.trust_domain.clone()) {
                succeeded(&record, &domain, &mut found);
            }
        }
    }
    found.verified = verifier.end()?;
    // The one that saw most tells most.
    wanted.sort_by_key(|one| std::cmp::Reverse(one.witness.head.head.seq));
    wanted.iter().try_for_each(|one| compare(one, &lives, &mut found))?;
    Ok(found)
}

/// Does the trail hold what was witnessed? `lives` are the later lives that it tells of, with the last record of the life
/// before that they began with.
fn compare(wanted: &Wanted, lives: &[(u64, u64)], found: &mut Found) -> Result<(), OfflineError> {
    let (head, witness) = (wanted.witness.head.head, wanted.witness.witness.clone());
    let (seq, at) = (head.seq, super::utc(head.at));
    let kept = lives.iter().filter(|(life, _)| *life > head.revision.incarnation).map(|(_, kept)| *kept).min();
    if let Some(kept) = kept.filter(|kept| seq > *kept) {
        found.notes.push(format!(
            "`{witness}` witnessed record {seq} of a former life at {at}; the organisation was restored as of record {kept}: \
             {} records are lost",
            seq.saturating_sub(kept)
        ));
        return Ok(());
    }
    match wanted.found {
        Some(hash) if hash.0 == head.hash => {
            found.witnessed = found.witnessed.saturating_add(1);
            let newest = found.heads.entry(wanted.fingerprint.clone()).or_default();
            *newest = seq.max(*newest);
        }
        Some(_) => return Err(OfflineError::Rewritten { seq, witness, at }),
        None if seq > found.verified.last => {
            return Err(OfflineError::Cut { last: found.verified.last, seq, witness, at });
        }
        None => found.notes.push(format!(
            "`{witness}` witnessed record {seq}, which is older than these files: it says nothing about them"
        )),
    }
    Ok(())
}

fn is_witness(line: &[u8]) -> bool {
    line.starts_with(br#"{"witness":"#)
}

fn witness(path: &Path, line: &[u8], found: &mut Found) -> Result<Wanted, OfflineError> {
    let none = |cause: serde_json::Error| OfflineError::NoWitness { path: path.to_owned(), cause: cause.to_string() };
    let mut value: Value = serde_json::from_slice(line).map_err(none)?;
    // The whole status of a gateway will do.
    if let Some(inner) = value.get_mut("witness").filter(|inner| inner.is_object()) {
        value = inner.take();
    }
    let witness: Witness = serde_json::from_value(value).map_err(none)?;
    let fingerprint = witness.check().map_err(|error| OfflineError::Unsigned {
        path: path.to_owned(),
        witness: witness.witness.chars().flat_map(char::escape_default).take(64).collect(),
        error,
    })?;
    found.fingerprints.insert(fingerprint.clone());
    Ok(Wanted { witness, fingerprint, found: None })
}

/// A record that tells what follows the organisation's key and CA.
fn succeeded(record: &Record, domain: &str, found: &mut Found) {
    if record.action != ANNOUNCED {
        return;
    }
    let part = |name: &str| record.detail.get(name).cloned().unwrap_or_default();
    let read = serde_json::from_value::<Authority>(part("before"))
        .and_then(|before| Ok((before, serde_json::from_value::<Announcement>(part("announcement"))?)));
    match read {
        Ok((before, said)) if said.check(domain, &before).is_ok() => found.successions.push(Succeeded {
            before: before.fingerprint(domain),
            next: said.next.fingerprint(domain),
            record: record.seq,
        }),
        _ => found.notes.push(format!(
            "record {} says that another key and CA follow, and is not signed by the ones before: it proves nothing",
            record.seq
        )),
    }
}

fn read_failed(path: &Path) -> impl FnOnce(io::Error) -> OfflineError + '_ {
    |cause| OfflineError::Read { path: path.to_owned(), cause }
}

fn lines(path: &Path) -> Result<Lines<io::BufReader<std::fs::File>>, OfflineError> {
    Lines::open(path).map_err(read_failed(path))
}

/// With which record a file begins.
fn begins(path: &Path) -> Result<u64, OfflineError> {
    let first = lines(path)?.next().transpose().map_err(read_failed(path))?;
    let record = first.and_then(|line| serde_json::from_slice::<Record>(&line).ok());
    record.map(|record| record.seq).ok_or_else(|| OfflineError::Strange(path.to_owned()))
}
