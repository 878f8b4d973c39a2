//! What did a program that is dead leave on this machine? For `down --force`: who still lives undoes that itself, and what was
//! undone is told.

use crate::cli::{Failure, Output};
use host::netlink::{Holder, NetlinkError, remove_blackholes};
use host::nft::{self, NftError};
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long a program may take to say that it lives.
const LIVES_MAX: Duration = Duration::from_secs(5);

/// What was done; either may be empty.
#[derive(Debug, Default, serde::Serialize)]
pub struct Report {
    /// One line for each thing that was there and is not any more.
    pub undone: Vec<String>,
    /// What could not be undone, and why.
    pub failed: Vec<String>,
}

impl Report {
    /// What came of one part of it.
    pub fn add<E: std::fmt::Display>(&mut self, what: &str, result: Result<Vec<String>, E>) {
        match result {
            Ok(undone) => self.undone.extend(undone),
            Err(error) => self.failed.push(format!("{what}: {error}")),
        }
    }

    /// For a person or a program; `again` says how this machine comes back.
    pub fn tell(&self, again: &str, output: &mut Output) -> Result<(), Failure> {
        if !output.json(self)? {
            for undone in &self.undone {
                output.line(format!("undone: {undone}"))?;
            }
            if self.undone.is_empty() && self.failed.is_empty() {
                output.line("nothing was left behind")?;
            }
        }
        if self.failed.is_empty() {
            return output.line(format!("down; {again}"));
        }
        Err(Failure::failed(format!("not everything could be undone: {}", self.failed.join("; "))))
    }
}

/// Removes the blackhole routes of a kind of program.
pub async fn blackholes(holder: Holder) -> Result<Vec<String>, NetlinkError> {
    let held = remove_blackholes(holder).await?;
    Ok(held.iter().map(|prefix| format!("the blackhole route to {prefix}")).collect())
}

/// Removes a program's firewall tables, with `dark` also the one that keeps the machine dark.
pub async fn tables(program: &str, dark: bool) -> Result<Vec<String>, NftError> {
    let before = nft::tables(program).await?;
    nft::remove(program).await?;
    nft::remove_held(program).await?;
    if dark {
        nft::remove_dark(program).await?;
    }
    let after = nft::tables(program).await?;
    Ok(before.iter().filter(|one| !after.contains(one)).map(|table| format!("the nftables table {table}")).collect())
}

/// Refuses where somebody holds the program's socket. `answers` asks it; `instead` says what to do where it answers.
pub async fn refuse_if_alive(
    socket: &Path,
    who: &str,
    answers: impl Future<Output = Result<(), Failure>>,
    instead: &str,
) -> Result<(), Failure> {
    let Ok(stream) = UnixStream::connect(socket).await else { return Ok(()) };
    let pid = stream.peer_cred().ok().and_then(|cred| cred.pid());
    drop(stream);
    let process = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
    Err(Failure::failed(match timeout(LIVES_MAX, answers).await {
        Ok(_) => format!("the {who}{process} runs and answers: {instead}"),
        Err(_) => format!(
            "a {who}{process} holds {} and does not answer: end it with `kill -9`, then run this again",
            socket.display()
        ),
    }))
}
