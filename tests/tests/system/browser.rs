//! A person at a browser on a host: headless Chromium, with an authenticator that is built in.

use crate::support::SOON;
use crate::talk::Talk;
use std::path::PathBuf;
use umbra_tests::bench::peers::on_path;
use umbra_tests::lab::{Name, World};

/// The folder of the provider's and the browser's programs.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("provider")
}

/// What a browser needs beyond what all tests do; `None` where it is not there, said once.
pub fn needs() -> Option<()> {
    if ["node", "chromium"].iter().all(|program| on_path(program).is_some()) {
        return Some(());
    }
    println!("skipped: it needs node and chromium: on Debian `apt-get install nodejs chromium`");
    None
}

/// Somebody who sits there.
pub struct Browser(Talk);

impl Browser {
    /// Whoever it is types in this name where a page asks for one.
    pub fn start(world: &World, host: Name, who: &str) -> Self {
        let profile = world.folder().join(format!("chromium-{host}"));
        let (program, profile) = (folder().join("chromium.mjs"), profile.display().to_string());
        let mut talk = Talk::with(world, host, "node", &[&program.display().to_string(), &profile, who]);
        let ready = talk.hear(3 * SOON);
        assert!(ready.as_ref().is_some_and(|line| line.contains("ready")), "{ready:?}: {}", talk.last_words());
        Self(talk)
    }

    /// Goes to an address, and through what comes; the text of the last page.
    pub fn visit(&mut self, url: &str) -> String {
        self.0.say(url);
        let said = self.0.hear(2 * SOON).unwrap_or_else(|| panic!("{url}: {}", self.0.last_words()));
        let page: serde_json::Value = serde_json::from_str(&said).unwrap();
        page["text"].as_str().unwrap_or_default().to_owned()
    }

    /// Has no finger for the authenticator from now on, or has one again.
    pub fn finger(&mut self, there: bool) {
        let word = if there { "finger" } else { "no finger" };
        assert_eq!(self.visit(word), word);
    }
}

/// A command that sends people to a browser.
pub struct Sends(Talk);

impl Sends {
    /// `umbra WORDS --no-browser`.
    pub fn start(world: &World, host: Name, words: &str) -> Self {
        Self(Talk::with(world, host, "sh", &["-c", &format!("exec umbra {words} --no-browser 2>&1")]))
    }

    /// The address that it tells.
    pub fn address(&mut self) -> String {
        loop {
            let line = self.0.hear(SOON).unwrap_or_else(|| panic!("no address: {}", self.0.last_words()));
            if let Some(at) = line.find("http") {
                return line[at..].trim().to_owned();
            }
        }
    }

    /// All that it says from then on, until it ends.
    pub fn rest(mut self) -> String {
        self.0.close();
        let mut lines = Vec::new();
        while let Some(line) = self.0.hear(SOON) {
            lines.push(line);
        }
        lines.join("\n")
    }
}
