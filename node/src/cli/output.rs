//! How are tables, JSON and errors written? Results to standard output; progress, questions and errors to standard error.

use super::Failure;
use model::text::{excerpt, is_hidden, shown, shown_json};
use serde::Serialize;
use serde_json::{Map, Value};
use std::io::{self, Write as _};
use std::process::ExitCode;

/// Version of the JSON that commands write. It grows when a field is renamed or removed, which is not to happen.
const SCHEMA: u32 = 1;

/// Where a command writes.
pub struct Output {
    program: &'static str,
    json: bool,
    /// What would have gone to standard output, where that is kept instead.
    kept: Option<String>,
}

impl Output {
    /// The output of `program`, as JSON or for people.
    pub const fn new(program: &'static str, json: bool) -> Self {
        Self { program, json, kept: None }
    }

    /// Keeps what would go to standard output, for [`Self::kept`].
    pub const fn keeping(json: bool) -> Self {
        Self { program: "umbra", json, kept: Some(String::new()) }
    }

    /// What was written so far, if it is kept.
    pub fn kept(&self) -> &str {
        self.kept.as_deref().unwrap_or_default()
    }

    /// Is it JSON?
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// Text as it is, in both forms: files.
    pub fn raw(&mut self, text: &str) -> Result<(), Failure> {
        if let Some(kept) = &mut self.kept {
            kept.push_str(text);
            return Ok(());
        }
        let mut out = io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        written.map_err(|e| Failure::failed(format!("standard output cannot be written: {e}")))
    }

    /// One line for people; nothing with `--json`.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        if self.json { Ok(()) } else { self.raw(&format!("{}\n", shown(text.as_ref()))) }
    }

    /// A labelled value.
    pub fn field(&mut self, label: &str, value: impl AsRef<str>) -> Result<(), Failure> {
        self.line(format!("{label:12}  {}", value.as_ref()).trim_end())
    }

    /// A warning or a word on progress.
    #[allow(clippy::unused_self)] // belongs to the output like the rest
    pub fn note(&self, text: impl AsRef<str>) {
        let _ = writeln!(io::stderr().lock(), "{}", shown(text.as_ref()));
    }

    /// The answer as JSON, if that is wanted; tells whether it was.
    pub fn json(&mut self, reply: &impl Serialize) -> Result<bool, Failure> {
        if !self.json {
            return Ok(false);
        }
        let mut all = Map::from_iter([("schema".to_owned(), Value::from(SCHEMA))]);
        match serde_json::to_value(reply).map_err(Failure::failed)? {
            Value::Object(fields) => all.extend(fields),
            other => {
                all.insert("value".to_owned(), other);
            }
        }
        let text = serde_json::to_string_pretty(&Value::Object(all)).map_err(Failure::failed)?;
        self.raw(&(shown_json(&text) + "\n"))?;
        Ok(true)
    }

    /// A table, or one sentence when there is nothing in it.
    pub fn table<const N: usize>(
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

    /// What clap says of arguments that it does not take, or of `--help`; answers its exit code. What was typed may be in it.
    pub fn usage(text: &str, exit: i32) -> ExitCode {
        let typed = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
        // Help is ours alone.
        let text = if exit == 0 { text.to_owned() } else { usage_shown(text, typed) };
        let _ = match exit {
            0 => io::stdout().lock().write_all(text.as_bytes()),
            _ => io::stderr().lock().write_all(text.as_bytes()),
        };
        ExitCode::from(u8::try_from(exit).unwrap_or(2))
    }

    /// Tells a failure and answers its exit code.
    pub fn fail(&self, failure: &Failure) -> ExitCode {
        let _ = writeln!(io::stderr().lock(), "{}: {}", self.program, shown(&failure.text));
        ExitCode::from(failure.exit as u8)
    }
}

/// What is said about words that were typed. Where one of them holds what is not shown, clap's own text is not told: it repeats
/// the word, and a line end in it would start a line of its own.
fn usage_shown(text: &str, mut typed: impl Iterator<Item = String>) -> String {
    match typed.find(|word| word.contains(is_hidden)) {
        Some(word) => {
            format!("error: a word holds characters that are not shown: `{}`; see --help\n", excerpt(&word, 200))
        }
        None => text.lines().map(|line| shown(line) + "\n").collect(),
    }
}

/// A length of time for people.
pub fn span(ms: u64) -> String {
    match ms / 1_000 {
        0..120 => format!("{} s", ms.div_ceil(1_000)),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} days", s / 86_400),
    }
}

/// How long ago something was.
pub fn ago(ms: Option<u64>) -> String {
    ms.map_or_else(|| "never".to_owned(), |ms| format!("{} ago", span(ms)))
}

/// A moment for people, as seen from `now`; both in milliseconds since 1970.
pub fn moment(now: i64, at: i64) -> String {
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
        let mut output = Output::keeping(false);
        let rows = vec![["wiki".to_owned(), "\u{1b}[2J\u{202e}".to_owned()], ["b".to_owned(), String::new()]];
        output.table(["NAME", "X"], rows, "none").unwrap();
        assert_eq!(output.kept(), "NAME  X\nwiki  \\u{1b}[2J\\u{202e}\nb     -\n");
    }

    #[test]
    fn json_has_a_schema_and_people_see_none_of_it() {
        let mut output = Output::keeping(true);
        output.line("for people").unwrap();
        assert!(output.json(&serde_json::json!({ "a": 1 })).unwrap());
        let value: Value = serde_json::from_str(output.kept()).unwrap();
        assert_eq!(value, serde_json::json!({ "schema": 1, "a": 1 }));
        assert!(!Output::keeping(false).json(&1).unwrap());
    }

    #[test]
    fn json_shows_nothing_hidden_and_means_the_same() {
        let mut output = Output::keeping(true);
        let evil = "\u{1b}[2J\n\u{7f}\u{9b}2J\u{202e}\u{200b}\u{e0041}";
        assert!(output.json(&serde_json::json!({ evil: evil })).unwrap());
        assert!(output.kept().is_ascii() && !output.kept().contains(['\u{1b}', '\u{7f}']), "{}", output.kept());
        assert_eq!(serde_json::from_str::<Value>(output.kept()).unwrap()[evil], evil);
    }

    #[test]
    fn what_was_typed_starts_no_line() {
        let typed = |word: &str| [String::new(), word.to_owned()].into_iter();
        let told = usage_shown("error: invalid 'a\nerror: forged'\n", typed("a\nerror: forged"));
        assert_eq!(told, "error: a word holds characters that are not shown: `a\\u{a}error: forged`; see --help\n");
        assert_eq!(usage_shown("error: invalid 'x'\n\nUsage: y", typed("x")), "error: invalid 'x'\n\nUsage: y\n");
    }

    #[test]
    fn times_are_told_as_people_do() {
        assert_eq!(
            (span(1_500).as_str(), span(3_600_000).as_str(), span(90_000_000).as_str()),
            ("2 s", "60 min", "25 h")
        );
        assert_eq!((ago(None).as_str(), ago(Some(0)).as_str()), ("never", "0 s ago"));
        assert_eq!(moment(0, 3_600_000), "in 60 min");
        assert_eq!(moment(3_600_000 * 50, 0), "2 days ago");
        assert_eq!(moment(1_500, 0), "2 s ago");
        assert_eq!(moment(i64::MIN, i64::MAX).split(' ').next(), Some("in"));
    }
}
