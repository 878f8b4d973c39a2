//! What comes back to raw calls that are made on a host of the lab, at any of its doors?

use crate::attacker::{hex_bytes, hex_text};
use crate::lab::{Name, World};
use crate::perimeter::write_file;
use anyhow::{Context as _, ensure};
use std::fmt::Write as _;
use std::time::Duration;

/// All calls at one door may take this long.
const CALLS_MAX: Duration = Duration::from_secs(120);

/// What came back to one.
#[derive(Debug)]
pub struct Answer {
    /// The gRPC code; -1: a stream stayed open.
    pub code: i32,
    /// What the status says.
    pub message: String,
    /// The first message of the answer.
    pub bytes: Vec<u8>,
}

/// Makes calls on a host, one after the other: each its path, and the messages that it sends. The door is the options of
/// `umbra-lab __attack calls`.
pub fn call(world: &World, host: Name, door: &[&str], calls: &[(String, Vec<Vec<u8>>)]) -> anyhow::Result<Vec<Answer>> {
    let mut text = String::new();
    for (path, messages) in calls {
        let messages: Vec<String> = messages.iter().map(|bytes| hex_text(bytes)).collect();
        writeln!(text, "{path} {}", messages.join(","))?;
    }
    let file = write_file(world, host, "calls", text.as_bytes())?;
    let words = [&["umbra-lab", "__attack", "calls"], door, &[&file]].concat();
    let done = world.host(host).run(&words, CALLS_MAX)?;
    let answers: Vec<Answer> = done.stdout.lines().map(answer).collect::<anyhow::Result<_>>()?;
    let whole = done.success() && answers.len() == calls.len();
    ensure!(whole, "{host}: {} of {}: {}", answers.len(), calls.len(), done.stderr);
    Ok(answers)
}

fn answer(line: &str) -> anyhow::Result<Answer> {
    let mut parts = line.splitn(3, ' ');
    let mut part = || parts.next().with_context(|| line.to_owned());
    let (code, message, bytes) = (part()?.parse()?, part()?, part()?);
    let read = |hex: &str| hex_bytes(hex).context("no hexadecimal");
    Ok(Answer { code, message: String::from_utf8(read(message)?)?, bytes: read(bytes)? })
}
