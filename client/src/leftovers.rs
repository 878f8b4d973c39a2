//! What did a client that is dead leave on this machine, and how is it undone without one? For `umbra down --force`.

use crate::daemon::PROGRAM;
use crate::guardian;
use host::netlink::{Holder, Netlink};
use host::nft;
use host::resolv::Resolv;
use std::path::Path;

/// What was done; either may be empty.
#[derive(Debug, Default, serde::Serialize)]
pub struct Report {
    /// One line for each thing that was there and is not any more.
    pub undone: Vec<String>,
    /// What could not be undone, and why.
    pub failed: Vec<String>,
}

impl Report {
    fn add<E: std::fmt::Display>(&mut self, what: &str, result: Result<Vec<String>, E>) {
        match result {
            Ok(undone) => self.undone.extend(undone),
            Err(error) => self.failed.push(format!("{what}: {error}")),
        }
    }
}

/// Undoes all of it. Each part is tried, whatever became of the others. Nothing that is not a client's is touched.
pub async fn clear(state: &Path, resolv_conf: &Path, device: &str) -> Report {
    let mut report = Report::default();
    // First: it would take resolv.conf over again.
    if guardian::dismiss(state, device).await {
        report.undone.push("the guardian, which stood in for the dead client's resolver".to_owned());
    }
    report.add("resolv.conf", restore(state, resolv_conf));
    report.add("blackhole routes", routes().await);
    report.add("nftables", tables().await);
    report
}

fn restore(state: &Path, file: &Path) -> Result<Vec<String>, host::resolv::ResolvError> {
    let restored = Resolv::new(file, state).restore()?;
    Ok(restored.then(|| format!("{}, as it was before", file.display())).into_iter().collect())
}

async fn routes() -> Result<Vec<String>, host::netlink::NetlinkError> {
    let netlink = Netlink::open()?;
    let held = netlink.blackholes(Holder::Client).await?;
    netlink.hold_blackholes(Holder::Client, &[]).await?;
    Ok(held.iter().map(|prefix| format!("the blackhole route to {prefix}")).collect())
}

async fn tables() -> Result<Vec<String>, nft::NftError> {
    let tables = nft::tables(PROGRAM).await?;
    nft::remove(PROGRAM).await?;
    nft::remove_held(PROGRAM).await?;
    nft::remove_dark(PROGRAM).await?;
    Ok(tables.iter().map(|table| format!("the nftables table {table}")).collect())
}
