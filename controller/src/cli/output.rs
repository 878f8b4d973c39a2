//! How are tables, JSON and errors written? Results to standard output; progress, warnings and errors to standard error.

use super::{Exit, Failure};
use serde::Serialize;
use serde_json::{Map, Value};
use std::io::{self, Write as _};
use std::process::ExitCode;

/// Version of the JSON that commands write. It grows when a field is renamed or removed, which is not to happen.
const SCHEMA: u32 = 1;

/// Where a command writes.
pub(super) struct Output {
    pub json: bool,
    #[cfg(test)]
    pub written: Vec<u8>,
}

/// Text from outside as a terminal may show it.
pub(super) fn shown(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control() || matches!(u32::from(c), 0x061c | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff)
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
            written: Vec::new(),
        }
    }

    #[cfg(not(test))]
    fn write(&mut self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        written.map_err(|e| Failure::failed(format!("standard output cannot be written: {e}")))
    }
    #[cfg(test)]
    fn write(&mut self, text: &str) -> Result<(), Failure> {
        self.written.extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// One line for people; nothing with `--json`.
    pub(super) fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        if self.json { Ok(()) } else { self.write(&format!("{}\n", shown(text.as_ref()))) }
    }

    /// Text as it is, in both forms: files.
    pub(super) fn raw(&mut self, text: &str) -> Result<(), Failure> {
        self.write(text)
    }

    /// A warning or a word on progress.
    pub(super) fn note(&mut self, text: impl AsRef<str>) {
        let _ = writeln!(io::stderr(), "{}", shown(text.as_ref()));
    }

    /// The answer as JSON, if that is wanted; tells whether it was.
    pub(super) fn json(&mut self, reply: &impl Serialize) -> Result<bool, Failure> {
        if !self.json {
            return Ok(false);
        }
        let value = serde_json::to_value(reply).map_err(Failure::failed)?;
        let mut all = Map::from_iter([("schema".to_owned(), Value::from(SCHEMA))]);
        match value {
            Value::Object(fields) => all.extend(fields),
            other => {
                all.insert("value".to_owned(), other);
            }
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
        let mut text = String::new();
        for row in std::iter::once(heads.map(str::to_owned)).chain(rows) {
            let cells: Vec<String> = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| if cell.is_empty() { format!("{:width$}", "-") } else { format!("{cell:width$}") })
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        self.write(&text)
    }

    /// Tells a failure and answers its exit code.
    pub(super) fn fail(&mut self, failure: &Failure) -> ExitCode {
        let _ = writeln!(io::stderr(), "umbra-controller: {}", shown(&failure.text));
        ExitCode::from(failure.exit as u8)
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        let exit = match status.code() {
            tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => Exit::Denied,
            tonic::Code::Unavailable => Exit::NotConnected,
            _ => Exit::Failed,
        };
        let text = match status.code() {
            tonic::Code::Unavailable => {
                format!("the controller stopped answering ({}): look at its log", status.message())
            }
            tonic::Code::Cancelled | tonic::Code::DeadlineExceeded => {
                "the controller did not answer in time".to_owned()
            }
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

/// A moment for people, as seen from `now`.
pub(super) fn moment(now: i64, at: i64) -> String {
    match u64::try_from(at.saturating_sub(now)) {
        Ok(ahead) => format!("in {}", span(ahead)),
        Err(_) => format!("{} ago", span(now.abs_diff(at))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_and_show_nothing_hidden() {
        let mut output = Output::new(false);
        let rows = vec![["ann".to_owned(), "\u{1b}[2J\u{202e}".to_owned()], ["b".to_owned(), String::new()]];
        output.table(["NAME", "X"], rows, "none").unwrap();
        let text = String::from_utf8(output.written).unwrap();
        assert_eq!(text, "NAME  X\nann   \\u{1b}[2J\\u{202e}\nb     -\n");
    }

    #[test]
    fn moments_are_told_as_people_do() {
        assert_eq!(moment(0, 3_600_000), "in 60 min");
        assert_eq!(moment(3_600_000 * 50, 0), "2 days ago");
        assert_eq!(moment(1_500, 0), "2 s ago");
        assert_eq!(moment(i64::MIN, i64::MAX).split(' ').next(), Some("in"));
    }
}
