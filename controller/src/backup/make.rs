//! How is a backup made while the controller runs? From one state of the store, encrypted before it leaves the program.

use super::container::{ContainerError, Readers, Sealing};
use super::content::{ContentError, FORMAT, Header, Line, line_of};
use crate::audit;
use crate::organisation::Organisation;
use crate::store::{Commit, CommitError, ReadError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::limits::{AUDIT_LIST_MAX, BACKUP_AUDIT_MAX};
use model::secret::Secret;
use tokio::sync::mpsc;

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Encrypting.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// A record.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The audit trail.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Writing down that a backup was made.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Whoever asked for it went away.
    #[error("nobody takes the backup any more")]
    Gone,
    /// A line that cannot be written; a defect.
    #[error("a line of the backup cannot be written: {0}")]
    Line(serde_json::Error),
    /// The program ends.
    #[error("the controller stops")]
    Stopped,
}

/// Makes one and sends it piece by piece. That it was made is in the audit trail, and so in the backup itself.
pub async fn make(
    organisation: &Organisation,
    entry: audit::Entry,
    readers: Readers,
    out: &mpsc::Sender<Vec<u8>>,
) -> Result<(), BackupError> {
    // A passphrase takes work on purpose.
    let begin = tokio::task::spawn_blocking(move || Sealing::begin(&readers));
    let mut writer = Writer { sealing: begin.await.map_err(|_| BackupError::Stopped)??, lines: 0, out };
    organisation.store.commit(Commit::default().audit(entry)).await?;

    let export = organisation.store.export().await;
    let trust_domain = organisation.org().map(|org| org.trust_domain.to_string()).unwrap_or_default();
    let header = Header {
        umbra_backup: FORMAT,
        trust_domain,
        created: organisation.wall(),
        revision: export.revision,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        audit_seq: export.audit.seq,
        audit_hash: export.audit.hash,
    };
    writer.line(&header).await?;
    let mut next = beginning(export.audit.first, export.audit.seq);
    while next <= export.audit.seq {
        let max = (AUDIT_LIST_MAX as u64).min(export.audit.seq - next + 1);
        let records = organisation.store.audit_stored(next, max).await?;
        // Dropped for their age while we walked: the rest begins later.
        next = next.saturating_add(max);
        for (seq, stored) in records {
            writer.line(&Line::Audit(seq, STANDARD.encode(stored))).await?;
        }
    }
    for (key, item) in &export.items {
        if let Some(line) = line_of(&organisation.sealer, key, &item.value)? {
            writer.line(&line).await?;
        }
    }
    let end = Line::End(writer.lines);
    writer.line(&end).await?;
    let rest = writer.sealing.finish()?;
    out.send(rest).await.map_err(|_| BackupError::Gone)
}

/// With which record of the trail a backup begins.
fn beginning(first: u64, last: u64) -> u64 {
    last.saturating_sub(BACKUP_AUDIT_MAX - 1).max(first)
}

struct Writer<'a> {
    sealing: Sealing,
    lines: u64,
    out: &'a mpsc::Sender<Vec<u8>>,
}

impl Writer<'_> {
    async fn line(&mut self, line: &impl serde::Serialize) -> Result<(), BackupError> {
        let mut text = serde_json::to_vec(line).map_err(BackupError::Line)?;
        text.push(b'\n');
        let text = Secret::new(text);
        self.sealing.push(text.expose())?;
        self.lines = self.lines.saturating_add(1);
        let ready = self.sealing.take();
        if ready.is_empty() {
            return Ok(());
        }
        self.out.send(ready).await.map_err(|_| BackupError::Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_records_of_the_trail_are_taken_along_and_those_the_newest() {
        assert_eq!(beginning(1, 10), 1);
        assert_eq!(beginning(1, BACKUP_AUDIT_MAX), 1);
        assert_eq!(beginning(1, BACKUP_AUDIT_MAX + 1), 2);
        assert_eq!(beginning(900_000, 950_000), 900_000, "what is not in the store any more is not in the backup");
    }
}
