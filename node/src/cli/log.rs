//! What does a running program say on standard error? One event is one line, whatever the values hold: reasons and names of
//! others may be in them.

use model::text::shown;
use std::fmt;
use std::io::IsTerminal as _;
use std::sync::OnceLock;
use tracing::field::{Field, Visit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// What is logged when nothing is said.
const LOG_DEFAULT: &str = "info,sled=warn,h2=warn,hyper=warn";

type SetLog = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;
/// How the running log is changed.
static LOG: OnceLock<SetLog> = OnceLock::new();

/// Sends the log to standard error; `UMBRA_LOG` chooses what is told, `NO_COLOR` is honoured.
pub fn start_log() {
    let filter = EnvFilter::try_from_env(crate::settings::LOG).unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let log = tracing_subscriber::fmt().fmt_fields(OneLine).with_env_filter(filter);
    let log = log.with_writer(std::io::stderr).with_ansi(colour).with_filter_reloading();
    let handle = log.reload_handle();
    let _ = LOG.set(Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string())));
    // A second start in one process (tests) keeps the first log.
    let _ = log.try_init();
}

/// Changes what is logged, to what a start does when `filter` is `None`. A filter that is none changes nothing.
pub fn set_log(filter: Option<&str>) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter.unwrap_or(LOG_DEFAULT)).map_err(|error| error.to_string())?;
    LOG.get().map_or(Ok(()), |set| set(filter))
}

/// Values as [`shown`]: the message first, then `name=value`.
struct OneLine;

impl<'writer> FormatFields<'writer> for OneLine {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Line { writer, written: Ok(()), first: true };
        fields.record(&mut line);
        line.written
    }
}

struct Line<'writer> {
    writer: Writer<'writer>,
    written: fmt::Result,
    first: bool,
}

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // What the crate `log` hands over says twice where it comes from.
        if self.written.is_err() || field.name().starts_with("log.") {
            return;
        }
        let blank = if std::mem::take(&mut self.first) { "" } else { " " };
        let value = shown(&format!("{value:?}"));
        self.written = match field.name() {
            "message" => write!(self.writer, "{blank}{value}"),
            name if self.writer.has_ansi_escapes() => {
                write!(self.writer, "{blank}\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m{value}")
            }
            name => write!(self.writer, "{blank}{name}={value}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn said(colour: bool, say: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let log = tracing_subscriber::fmt().fmt_fields(OneLine).with_ansi(colour).with_writer(move || writer.clone());
        tracing::subscriber::with_default(log.finish(), say);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn one_event_is_one_line_whatever_its_values_hold() {
        let evil = "a\r\n2030-01-01T00:00:00Z  INFO all is well\u{1b}[2J\u{9b}\0\u{202e}\u{200b}";
        let error = std::io::Error::other(evil);
        let text = said(false, || {
            tracing::warn!(who = evil, %error, ?evil, shown = %evil, source = &error as &dyn std::error::Error, "{evil}");
        });
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        assert!(!text.trim_end().chars().any(model::text::is_hidden), "{text:?}");
        assert_eq!(text.matches("all is well").count(), 6, "{text}");
    }

    #[test]
    fn a_plain_event_is_told_plainly() {
        let text = said(false, || tracing::info!(port = 443, name = %"hq", "the gateway runs"));
        assert!(text.ends_with("the gateway runs port=443 name=hq\n"), "{text}");
        let coloured = said(true, || tracing::info!(port = 443, "it runs"));
        assert!(coloured.contains("it runs \u{1b}[3mport\u{1b}[0m\u{1b}[2m=\u{1b}[0m443"), "{coloured:?}");
    }
}
