//! How does a person's browser come to an address? It is opened on this machine, or the person is told where to look.

use node::cli::Output;
use std::process::{Command, Stdio};

/// Is the browser opened, or only told where to look?
pub(super) struct Browser {
    open: bool,
}

impl Browser {
    /// Unless it is not wanted.
    pub(super) const fn new(unwanted: bool) -> Self {
        Self { open: !unwanted }
    }

    /// Opens the browser that this person prefers; what cannot be opened is no failure, for the address stands there.
    pub(super) fn show(&self, url: &str, output: &Output) {
        if !self.open {
            return;
        }
        let mut command = Command::new(program(std::env::var("BROWSER").ok().as_deref()));
        command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Err(error) = command.spawn() {
            output.note(format!("no browser could be opened ({error}): open the address yourself"));
        }
    }
}

/// The program of the environment's `BROWSER`, the first where there are several, or the desktop's own.
fn program(preferred: Option<&str>) -> &str {
    preferred.and_then(|list| list.split(':').next()).filter(|first| !first.is_empty()).unwrap_or("xdg-open")
}

/// Can a browser be shown here?
pub(super) fn has_desktop() -> bool {
    ["BROWSER", "WAYLAND_DISPLAY", "DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_browser_is_the_one_that_is_preferred() {
        assert_eq!(program(None), "xdg-open");
        assert_eq!(program(Some("")), "xdg-open");
        assert_eq!(program(Some("firefox:chromium")), "firefox");
        assert_eq!(program(Some("/usr/bin/chromium")), "/usr/bin/chromium");
    }
}
