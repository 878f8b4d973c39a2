//! What does the embedded database hold, and is that whole?

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use model::revision::Revision;

use super::super::layout::{self, AUDIT, Assembler, DATA, LOG, META, number_name};
use super::super::plan::decode_names;
use super::super::state::{Meta, State, fingerprint};
use super::super::{Item, Key};
use crate::audit;

/// Reads everything but the audit trail, and checks it against the store's record about itself.
///
/// `noted` is what the note beside it says was durable.
pub(super) fn load(db: &sled::Db, noted: Option<Revision>) -> Result<State, String> {
    guarded(|| {
        let meta = read_space(db, META)?.into_iter().next().ok_or("the record about the store itself is missing")?;
        let meta: Meta = serde_json::from_slice(&meta.1).map_err(|e| e.to_string())?;
        if let Some(noted) = noted.filter(|noted| *noted > meta.revision()) {
            return Err(format!("it ends at revision {}, but {noted} was made durable", meta.revision()));
        }
        let mut state = State::new(meta);
        load_items(db, &mut state)?;
        load_log(db, &mut state)?;
        let last = read_audit(db, state.meta.audit.seq)?;
        let mut tail = audit::Verifier::new(state.meta.audit.seq);
        if let Some(last) = last {
            tail.push(state.meta.audit.seq, &last).map_err(|e| e.to_string())?;
        }
        tail.finish_tail(state.meta.audit).map_err(|e| e.to_string())?;
        Ok(state)
    })
}

fn load_items(db: &sled::Db, state: &mut State) -> Result<(), String> {
    let (mut bytes, mut digest) = (0, 0_u64);
    for (name, payload) in read_space(db, DATA)? {
        let key = Key::new(&name).map_err(|e| e.to_string())?;
        let (revision, value) = payload.split_first_chunk::<8>().ok_or_else(|| format!("`{key}` is cut"))?;
        let revision = u64::from_be_bytes(*revision);
        bytes += value.len() as u64;
        digest = digest.wrapping_add(fingerprint(&key, revision));
        state.items.insert(key, Item { revision, value: value.to_vec().into() });
    }
    let found = (state.items.len() as u64, bytes, digest);
    let want = (state.meta.items, state.meta.bytes, state.meta.digest);
    if (found.0, found.1) != (want.0, want.1) {
        return Err(format!(
            "it holds {} keys of {} bytes where {} of {} were written",
            found.0, found.1, want.0, want.1
        ));
    }
    if found != want {
        return Err("some of its records are older or newer than the rest".to_owned());
    }
    Ok(())
}

fn load_log(db: &sled::Db, state: &mut State) -> Result<(), String> {
    for (name, payload) in read_space(db, LOG)? {
        let number = u64::from_str_radix(&name, 16).map_err(|e| e.to_string())?;
        let text = std::str::from_utf8(&payload).map_err(|e| e.to_string())?;
        if number != state.meta.log_first.saturating_add(state.log.len() as u64) {
            return Err(format!("change {number} is not where it should be in the list of changes"));
        }
        let revision = Revision { number, ..state.meta.revision() };
        let logged = decode_names(revision, text, &state.items).map_err(|e| e.to_string())?;
        state.log_bytes += logged.bytes();
        state.log.push_back(logged);
    }
    if state.meta.log_first.saturating_add(state.log.len() as u64) != state.meta.number.saturating_add(1) {
        return Err("the list of changes is cut".to_owned());
    }
    Ok(())
}

/// All records of a space, ordered by name.
fn read_space(db: &sled::Db, space: u8) -> Result<Vec<(String, Vec<u8>)>, String> {
    let (mut assembler, mut all) = (Assembler::default(), Vec::new());
    for entry in db.scan_prefix([space]) {
        let (key, value) = entry.map_err(|e| e.to_string())?;
        all.extend(assembler.push(&key, &value)?);
    }
    assembler.finish().map(|()| all)
}

/// One stored audit record; each is a single piece.
pub(super) fn read_audit(db: &sled::Db, seq: u64) -> Result<Option<Vec<u8>>, String> {
    let key = layout::disk_key(AUDIT, &number_name(seq), 0);
    let Some(piece) = db.get(&key).map_err(|e| e.to_string())? else { return Ok(None) };
    Ok(Assembler::default().push(&key, &piece)?.map(|(_, stored)| stored))
}

/// Runs something that reads the database, whose code panics on what it does not expect.
pub(super) fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| Err(panic_text(&*panic)))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    let text = text.unwrap_or("the database failed inside").lines().next().unwrap_or_default();
    text.chars().take(200).filter(|c| !c.is_control()).collect()
}
