//! What does a gateway undo on its host, whether it stops, does not start, or is dead (`umbra-gateway down --force`)?

use crate::cli::ask;
use crate::service::PROGRAM;
use host::forwarding::Forwarding;
use host::keyfile;
use host::netlink::{Holder, NetlinkError};
use host::nft;
use node::cli::Failure;
use node::leftovers::{self, Report};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// The longest line that [`Forwarding::to_line`] makes, and more.
const LINE_MAX: usize = 256;
/// How long the device of a program that was killed may stay, and how often it is looked for.
const DEVICE_GONE_MAX: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where it stands what the forwarding switches were before a gateway set them.
pub fn forwarding_file(state: &Path) -> PathBuf {
    state.join("forwarding")
}

/// What they were; none: no gateway has set them.
pub fn forwarding_before(file: &Path) -> Option<Forwarding> {
    let bytes = keyfile::read(file, LINE_MAX).ok()?;
    Forwarding::from_line(std::str::from_utf8(bytes.expose()).ok()?)
}

/// Undoes all of it, with `dark` also the table that keeps the host dark. Nothing that is not a gateway's is touched.
///
/// Forwarding first: without the tables the host would be an open router. So where it cannot be put back, all stays.
pub async fn clear(state: &Path, dark: bool) -> Report {
    let mut report = Report::default();
    let file = forwarding_file(state);
    if let Some(before) = forwarding_before(&file) {
        if let Err(error) = before.restore() {
            report.failed.push(format!("forwarding, so the firewall tables stay: {error}"));
            return report;
        }
        let told = |()| vec!["ip_forward and IPv6 forwarding, as they were before".to_owned()];
        report.add("the note on forwarding", std::fs::remove_file(&file).map(told));
    }
    let exceptions = nft::forget_exceptions().await;
    let told = |chains: Vec<String>| {
        chains.iter().map(|chain| format!("the exceptions in another firewall's chain {chain}")).collect()
    };
    report.add("exceptions in other firewalls", exceptions.map(told));
    report.add("nftables", leftovers::tables(PROGRAM, dark).await);
    report.add("blackhole routes", leftovers::blackholes(Holder::Gateway).await);
    report
}

/// Refuses where a gateway runs: it undoes all of it itself, and better.
pub async fn refuse_if_alive(socket: &Path) -> Result<(), Failure> {
    let instead = "it undoes what it did when it is stopped (SIGTERM, `systemctl stop umbra-gateway`)";
    leftovers::refuse_if_alive(socket, "gateway", async { ask(socket).await.map(drop) }, instead).await
}

/// Refuses where one is starting: it has a device before it has a socket.
pub async fn refuse_if_begun(device: &str) -> Result<(), Failure> {
    // That of one that was killed goes with its last thread.
    let gone = async {
        while host::netlink::Netlink::open()?.index(device).await.is_ok() {
            sleep(LOOK_EVERY).await;
        }
        Ok::<_, NetlinkError>(())
    };
    match timeout(DEVICE_GONE_MAX, gone).await {
        Ok(gone) => gone.map_err(Failure::failed),
        Err(_) => Err(Failure::failed(format!(
            "a program holds the device {device}: a gateway that is starting or joining, perhaps; end it, then run this again"
        ))),
    }
}
