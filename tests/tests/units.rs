//! Does systemd understand the units, and how much do they leave a program? Asked of systemd itself, where it is installed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Exposure that `systemd-analyze security` may find, in tenths: 0 is none, 100 everything. A daemon of a usual distribution has 96.
const EXPOSURE_MAX: u32 = 27;

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("packaging")
}

/// Every unit, by name.
fn units() -> BTreeMap<String, String> {
    let files = fs::read_dir(packaging().join("systemd")).unwrap().map(|entry| entry.unwrap().path());
    let units = files.filter(|path| path.extension().is_some_and(|e| e == "service"));
    units
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect()
}

/// The values of a setting.
fn values<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

#[test]
fn systemd_understands_the_units_and_finds_little_exposed() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("skipped: needs systemd-analyze");
        return;
    }
    // Where nothing is installed, a program that is there stands for ours.
    let folder = std::env::temp_dir().join(format!("umbra-units-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    for (name, unit) in units() {
        let program = values(&unit, "ExecStart")[0].split(' ').next().unwrap();
        let path = folder.join(&name);
        fs::write(&path, unit.replace(&format!("ExecStart={program}"), "ExecStart=/bin/true")).unwrap();
        let verified = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success() && !said.contains(&name), "{name}: {said}");
        let threshold = format!("--threshold={EXPOSURE_MAX}");
        let words = ["security", "--offline=true", "--no-pager", &threshold];
        let judged = Command::new("systemd-analyze").args(words).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&judged.stdout);
        println!("{}", said.lines().last().unwrap_or_default());
        assert!(judged.status.success(), "{name}: {said}{}", String::from_utf8_lossy(&judged.stderr));
    }
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_units_say_what_the_programs_count_on() {
    let units = units();
    assert_eq!(
        units.keys().collect::<Vec<_>>(),
        ["umbra-controller.service", "umbra-gateway.service", "umbra.service"]
    );
    for (name, unit) in &units {
        let is = |setting: &str, value: &str| assert_eq!(values(unit, setting), [value], "{name}: {setting}");
        is("Type", "notify");
        is("ExecReload", "/bin/kill -HUP $MAINPID");
        is("NoNewPrivileges", "yes");
        assert_eq!(values(unit, "WatchdogSec").len(), 1, "{name}");
        let client = name == "umbra.service";
        let program = if client { "client" } else { name.trim_start_matches("umbra-").trim_end_matches(".service") };
        is("StateDirectory", &format!("umbra/{program}"));
        is("EnvironmentFile", &format!("-{}", node::settings::file_of(program).display()));
        // At most what a start takes.
        let caps = if client { "CAP_NET_ADMIN" } else { "CAP_NET_ADMIN CAP_NET_BIND_SERVICE" };
        is("CapabilityBoundingSet", caps);
        if client {
            // A killed daemon's guardian lives on.
            is("KillMode", "process");
        } else {
            is("User", "umbra");
            is("AmbientCapabilities", caps);
        }
    }
    let tmpfiles = fs::read_to_string(packaging().join("tmpfiles.d/umbra.conf")).unwrap();
    assert!(tmpfiles.contains("d /run/umbra 1775 root umbra -"), "each user removes only its own sockets");
}
