//! How are tables, JSON and errors written? Results to standard output; progress, questions and errors to standard error.

use super::{Exit, Failure};
use serde::Serialize;
use serde_json::{Map, Value};
use std::io::{self, Write as _};
use std::process::ExitCode;

/// Version of the JSON that commands write. It grows when a field is renamed or removed, which is not to happen.
const SCHEMA: u32 = 1;

/// Where a command writes.
pub(super) struct Output {
    json: bool,
    #[cfg(test)]
    pub written: String,
}

/// Text from outside as a terminal may show it.
pub(super) fn shown(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(u32::from(c), 0x061c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff)
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if hidden(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

impl Output {
    pub(super) const fn new(json: bool) -> Self {
        Self {
            json,
            #[cfg(test)]
            written: String::new(),
        }
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, clippy::needless_pass_by_ref_mut)] // tests keep what is written
    fn write(&mut self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        written.map_err(|e| Failure::failed(format!("standard output cannot be written: {e}")))
    }
    #[cfg(test)]
    #[allow(clippy::unnecessary_wraps)] // as above
    fn write(&mut self, text: &str) -> Result<(), Failure> {
        self.written.push_str(text);
        Ok(())
    }

    /// One line for people; nothing with `--json`.
    pub(super) fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        if self.json { Ok(()) } else { self.write(&format!("{}\n", shown(text.as_ref()))) }
    }

    /// A labelled value.
    pub(super) fn field(&mut self, label: &str, value: impl AsRef<str>) -> Result<(), Failure> {
        self.line(format!("{label:12}  {}", value.as_ref()).trim_end())
    }

    /// A word on progress.
    #[allow(clippy::unused_self)] // belongs to the output like the rest
    pub(super) fn note(&self, text: impl AsRef<str>) {
        let _ = writeln!(io::stderr().lock(), "{}", shown(text.as_ref()));
    }

    /// The answer as JSON, if that is wanted; tells whether it was.
    pub(super) fn json(&mut self, reply: &impl Serialize) -> Result<bool, Failure> {
        if !self.json {
            return Ok(false);
        }
        let mut all = Map::from_iter([("schema".to_owned(), Value::from(SCHEMA))]);
        if let Value::Object(fields) = serde_json::to_value(reply).map_err(Failure::failed)? {
            all.extend(fields);
        }
        let text = serde_json::to_string_pretty(&Value::Object(all)).map_err(Failure::failed)?;
        self.write(&(text + "\n"))?;
        Ok(true)
    }

    /// A table, or one sentence when there is nothing in it.
    pub(super) fn table<const N: usize>(
        &mut self,
        heads: [&str; N],
        rows: Vec<[String; N]>,
        empty: &str,
    ) -> Result<(), Failure> {
        if rows.is_empty() {
            return self.line(empty);
        }
        let rows: Vec<[String; N]> = rows.into_iter().map(|row| row.map(|cell| shown(&cell))).collect();
        let mut widths = heads.map(|head| head.chars().count());
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in std::iter::once(heads.map(str::to_owned)).chain(rows) {
            let cell = |(cell, width): (&String, usize)| {
                let cell = if cell.is_empty() { "-" } else { cell };
                format!("{cell:width$}")
            };
            let cells: Vec<String> = row.iter().zip(widths).map(cell).collect();
            self.line(cells.join("  ").trim_end())?;
        }
        Ok(())
    }

    /// Tells a failure and answers its exit code.
    #[allow(clippy::unused_self)] // belongs to the output like the rest
    pub(super) fn fail(&self, failure: &Failure) -> ExitCode {
        let _ = writeln!(io::stderr().lock(), "umbra: {}", shown(&failure.text));
        ExitCode::from(match failure.exit {
            Exit::Failed => 1,
            Exit::Denied => 3,
            Exit::NotConnected => 4,
        })
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        let exit = match status.code() {
            tonic::Code::PermissionDenied => Exit::Denied,
            tonic::Code::Unavailable | tonic::Code::DeadlineExceeded => Exit::NotConnected,
            _ => Exit::Failed,
        };
        let text = match status.code() {
            tonic::Code::Cancelled => "it was not answered in time: `umbra status` says more".to_owned(),
            _ => status.message().to_owned(),
        };
        Self::new(exit, text)
    }
}

/// A length of time for people.
pub(super) fn span(ms: u64) -> String {
    match ms / 1_000 {
        0..120 => format!("{} s", ms.div_ceil(1_000)),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} days", s / 86_400),
    }
}

/// How long ago something was.
pub(super) fn ago(ms: Option<u64>) -> String {
    ms.map_or_else(|| "never".to_owned(), |ms| format!("{} ago", span(ms)))
}
