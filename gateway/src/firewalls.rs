//! Does another firewall of this host drop what grants may send? Looked at all the time, for rules change: Docker and ufw write
//! theirs when they start.

use host::nft::{self, NftError, Passage};
use std::time::Duration;
use tokio::sync::watch;

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Longer than a packet is between two hooks.
const UNDER_WAY: Duration = Duration::from_millis(100);
/// For so many looks after the last drop it is still said.
const SAID: u32 = 15;

/// What is asked of the watch.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose tables.
    pub program: &'static str,
    /// The TUN's name.
    pub tun: String,
    /// Add the exceptions that Docker and ufw document.
    pub except: bool,
}

/// Starts looking; what is found is for people.
pub fn watch(options: Options) -> watch::Receiver<Vec<String>> {
    let (findings, found) = watch::channel(Vec::new());
    tokio::spawn(async move {
        let mut known = Known::default();
        while !findings.is_closed() {
            if options.except {
                except(&options.tun).await;
            }
            match look(options.program).await {
                Ok((passage, lost)) => {
                    let now = known.update(passage, lost).await;
                    findings.send_if_modified(|before| {
                        let changed = *before != now;
                        now.iter().filter(|line| changed && before.is_empty() && !line.is_empty()).for_each(|line| {
                            tracing::warn!("{line}");
                        });
                        *before = now;
                        changed
                    });
                }
                Err(error) => tracing::debug!(%error, "other firewalls are not looked at"),
            }
            tokio::time::sleep(LOOK).await;
        }
    });
    found
}

async fn except(tun: &str) {
    match nft::except(tun).await {
        Ok(chains) if chains.is_empty() => {}
        Ok(chains) => tracing::info!(chains = %chains.join(", "), "an exception was added for forwarded packets"),
        Err(error) => tracing::warn!(%error, "no exception could be added for forwarded packets"),
    }
}

async fn look(program: &str) -> Result<(Passage, u64), NftError> {
    let first = nft::passage(program).await?;
    tokio::time::sleep(UNDER_WAY).await;
    let second = nft::passage(program).await?;
    Ok((second, first.lost_until(&second)))
}

/// What was counted so far.
#[derive(Debug, Default)]
struct Known {
    lost: u64,
    redirected: u64,
    /// Looks for which each finding is still said.
    losing: u32,
    redirecting: u32,
}

impl Known {
    /// What there is to say.
    async fn update(&mut self, passage: Passage, lost: u64) -> Vec<String> {
        let count = |known: &mut u64, said: &mut u32, now: u64| {
            *said = if now > *known { SAID } else { said.saturating_sub(1) };
            *known = now;
            *said > 0
        };
        let losing = count(&mut self.lost, &mut self.losing, lost);
        let redirecting = count(&mut self.redirected, &mut self.redirecting, passage.redirected);
        let mut findings = Vec::new();
        if losing {
            let chains = nft::forward_chains().await.unwrap_or_default();
            findings.push(dropped(lost, &chains.iter().map(ToString::to_string).collect::<Vec<_>>()));
        }
        if redirecting {
            findings.push(format!(
                "other rules of this host (dnat, redirect) sent {} packets of grants elsewhere than granted; they were dropped: look \
                 for them in `nft list ruleset`",
                passage.redirected
            ));
        }
        findings
    }
}

fn dropped(lost: u64, chains: &[String]) -> String {
    let who = if chains.is_empty() { "nft does not show it".to_owned() } else { chains.join("; ") };
    format!(
        "another firewall of this host dropped {lost} packets of grants ({who}): let the gateway's device through there; for Docker \
         and ufw, start with --pass-firewalls"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drop_is_said_for_a_while_and_no_longer() {
        let mut known = Known::default();
        let passage = |redirected| Passage { redirected, ..Passage::default() };
        assert!(known.update(passage(0), 0).await.is_empty());
        let said = known.update(passage(3), 0).await;
        assert!(said.len() == 1 && said.iter().all(|line| line.contains("3 packets")), "{said:?}");
        for _ in 1..SAID {
            assert_eq!(known.update(passage(3), 0).await.len(), 1);
        }
        assert!(known.update(passage(3), 0).await.is_empty());
        // Tables that were set anew count from nothing.
        assert!(known.update(passage(0), 0).await.is_empty());
        assert_eq!(known.update(passage(1), 0).await.len(), 1);
    }

    #[test]
    fn who_it_may_be_is_named() {
        let line = dropped(7, &["chain FORWARD of table ip filter, which drops by default".to_owned()]);
        assert!(line.contains("7 packets") && line.contains("FORWARD") && line.contains("--pass-firewalls"), "{line}");
        assert!(dropped(7, &[]).contains("does not show"));
    }
}
