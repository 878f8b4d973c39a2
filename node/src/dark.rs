//! How does a machine turn dark without shutting out who administers it? SSH sessions in use stay open; where nobody could come
//! in by SSH again, dark is on trial, and taken back.

use host::nft::{self, AllowIn, Dark, NftError, Standing};
use host::ssh;
use model::limits::DARK_TRIAL;
use model::net::Protocol;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How a machine is to be dark.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Whose table.
    pub program: &'static str,
    /// The TUN's name.
    pub tun: String,
    /// Our own port.
    pub udp_port: u16,
    /// What stays open.
    pub allow_in: Vec<AllowIn>,
    /// Also where that shuts SSH out while somebody uses it.
    pub cut_ssh: bool,
}

/// One task is enough that sees to the end of a trial.
static AWAITED: AtomicBool = AtomicBool::new(false);
/// The pause between two looks at a trial whose time is over.
const LOOK: Duration = Duration::from_secs(1);

/// Turns dark. The kernel itself ends a trial, whatever becomes of this process.
pub async fn enter(wish: Wish) -> Result<(), NftError> {
    let Wish { program, tun, udp_port, allow_in, cut_ssh } = wish;
    let sessions = ssh::sessions();
    let shut = shut_out(&sessions, &allow_in);
    // Whose session broke while this program started again still has the trial's end to come back by.
    let unfinished = sessions.is_empty() && nft::standing(program).await? == Standing::Trial;
    let trial = (!cut_ssh && (unfinished || !shut.is_empty())).then_some(DARK_TRIAL);
    Dark { program: program.to_owned(), tun, udp_port, allow_in, sessions, trial }.apply().await?;
    if trial.is_some() {
        let ports = shut.iter().map(|port| format!(" (port {port})")).collect::<String>();
        tracing::warn!(
            "SSH is in use{ports}, and --dark would let nobody in by it again: in {} s --dark is taken back. Start with \
             --allow-in tcp:PORT to keep SSH open, or with --cut-ssh if it is to be shut",
            DARK_TRIAL.as_secs()
        );
        if !AWAITED.swap(true, Ordering::Relaxed) {
            tokio::spawn(take_back(program));
        }
    }
    Ok(())
}

/// Ports of sessions by which nobody could come again.
fn shut_out(sessions: &[ssh::Session], allow_in: &[AllowIn]) -> BTreeSet<u16> {
    let open = |port: u16| {
        allow_in.iter().any(|a| a.protocol == Protocol::Tcp && (a.ports.first..=a.ports.last).contains(&port))
    };
    sessions.iter().map(|session| session.local.port()).filter(|port| !open(*port)).collect()
}

/// Says that the trial is over, and takes away what is left of it.
async fn take_back(program: &'static str) {
    tokio::time::sleep(DARK_TRIAL).await;
    while let Ok(Standing::Trial) = nft::standing(program).await {
        tokio::time::sleep(LOOK).await;
    }
    AWAITED.store(false, Ordering::Relaxed);
    if let Ok(Standing::Over) = nft::standing(program).await {
        tracing::error!(
            "--dark was taken back: SSH was in use and would have been shut; closed ports of this machine answer"
        );
        if let Err(error) = nft::remove_dark(program).await {
            tracing::warn!(%error, "the table of the trial stays; it drops nothing");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_stays_open_shuts_nobody_out() {
        let session = |port: u16| ssh::Session {
            peer: "192.0.2.1:50000".parse().unwrap(),
            local: std::net::SocketAddr::new("192.0.2.2".parse().unwrap(), port),
        };
        let allow = |text: &str| vec![text.parse::<AllowIn>().unwrap()];
        let both = [session(22), session(2222)];
        assert_eq!(shut_out(&both, &[]), BTreeSet::from([22, 2222]));
        assert_eq!(shut_out(&both, &allow("tcp:22")), BTreeSet::from([2222]));
        assert_eq!(shut_out(&both, &allow("tcp:1-3000")), BTreeSet::new());
        assert_eq!(shut_out(&both, &allow("udp:1-3000")), BTreeSet::from([22, 2222]), "SSH is TCP");
        assert!(shut_out(&[], &[]).is_empty());
    }
}
