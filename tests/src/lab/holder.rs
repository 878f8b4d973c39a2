//! How is one host furnished?
//!
//! `umbra-lab __host NAME FOLDER` makes the host's namespaces, gives it an `/etc`, `/run` and `/var/lib` of its own, says
//! `ready`, and then only holds the namespaces open until its standard input ends.

use super::topology::Name;
use host::namespace;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;

/// Furnishes host `name` and holds it; `folder` is the host's own part of the lab's state.
pub fn hold(name: Name, folder: &Path) -> io::Result<()> {
    namespace::unshare_host()?;
    namespace::name_host(name.as_str())?;
    set_up_kernel();
    furnish(name, folder)?;
    writeln!(io::stdout(), "ready")?;
    // Nothing is ever written to it: this waits for its end.
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Settings that a network namespace would otherwise inherit from the machine. What the machine forbids stays.
fn set_up_kernel() {
    let settings = [
        ("ipv4/ip_forward", "0"),
        // The weakest choice: what the lab proves must not rest on the kernel's reverse path filter.
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/ping_group_range", "0 0"),
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/all/accept_ra", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
    ];
    for (name, value) in settings {
        let _left_as_it_is = fs::write(format!("/proc/sys/net/{name}"), value);
    }
}

fn furnish(name: Name, folder: &Path) -> io::Result<()> {
    mirror(Path::new("/etc"), &folder.join("machine-etc"), &["resolv.conf", "hosts", "hostname", "umbra"])?;
    fs::write("/etc/resolv.conf", format!("nameserver {}\n", name.name_server()))?;
    fs::write("/etc/hosts", hosts_file())?;
    fs::write("/etc/hostname", format!("{name}\n"))?;
    own_folder(Path::new("/etc/umbra"), &folder.join("etc"))?;
    mirror(Path::new("/var/lib"), &folder.join("machine-lib"), &["umbra"])?;
    own_folder(Path::new("/var/lib/umbra"), &folder.join("lib"))?;
    namespace::mount_tmpfs(Path::new("/run"))?;
    // Only /sys/class/net would differ, and a container may forbid it.
    let _as_before = namespace::mount_sysfs();
    Ok(())
}

/// Replaces `target` by a folder that looks the same but is this host's own, without the entries `own`.
fn mirror(target: &Path, original: &Path, own: &[&str]) -> io::Result<()> {
    fs::create_dir_all(original)?;
    namespace::mount_bind(target, original)?;
    namespace::mount_tmpfs(target)?;
    for entry in fs::read_dir(original)? {
        let entry = entry?;
        let name = entry.file_name();
        if own.iter().any(|own| name == *own) {
            continue;
        }
        // A link is repeated as it is: a relative one would lead elsewhere from the original's new place.
        let leads_to = if entry.file_type()?.is_symlink() { fs::read_link(entry.path())? } else { entry.path() };
        symlink(leads_to, target.join(name))?;
    }
    Ok(())
}

/// Shows `folder` of the lab's state, made if need be, at `target`.
fn own_folder(target: &Path, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(target)?;
    fs::create_dir_all(folder)?;
    namespace::mount_bind(folder, target)
}

/// The outside names that everybody knows, as if from public DNS.
fn hosts_file() -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
    for name in [Name::Controller, Name::Gateway, Name::Gateway2] {
        for address in name.outside() {
            text.push_str(&format!("{address} {name}\n"));
        }
    }
    text
}
