//! What did a client that is dead leave on this machine, and how is it undone without one? For `umbra down --force`.

use crate::daemon::PROGRAM;
use crate::guardian;
use host::netlink::Holder;
use host::resolv::Resolv;
use node::leftovers::{self, Report};
use std::path::Path;

/// Undoes all of it. Each part is tried, whatever became of the others. Nothing that is not a client's is touched.
pub async fn clear(state: &Path, resolv_conf: &Path, device: &str) -> Report {
    let mut report = Report::default();
    // First: it would take resolv.conf over again.
    if guardian::dismiss(state, device).await {
        report.undone.push("the guardian, which stood in for the dead client's resolver".to_owned());
    }
    report.add("resolv.conf", restore(state, resolv_conf));
    report.add("blackhole routes", leftovers::blackholes(Holder::Client).await);
    report.add("nftables", leftovers::tables(PROGRAM, true).await);
    report
}

fn restore(state: &Path, file: &Path) -> Result<Vec<String>, host::resolv::ResolvError> {
    let restored = Resolv::new(file, state).restore()?;
    Ok(restored.then(|| format!("{}, as it was before", file.display())).into_iter().collect())
}
