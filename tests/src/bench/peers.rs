//! Which programs is Umbra measured against, and where are they?
//!
//! All of them take an interface's name, stay in the foreground with `--foreground`, and are configured over WireGuard's UAPI.

use super::gate::{BARE, BORINGTUN, UMBRA, UMBRA_ALONE, WIREGUARD_GO};
use crate::lab::run_to_its_end;
use anyhow::{Context as _, bail, ensure};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

/// The row of the machine itself.
pub const NO_TUNNEL: &str = "no tunnel";
/// The release of boringtun-cli that is built where there is none.
pub const BORINGTUN_VERSION: &str = "0.7.1";
/// How long its build may take.
const BUILD_MAX: Duration = Duration::from_secs(1800);
/// How long a program may take to say its version.
const VERSION_MAX: Duration = Duration::from_secs(10);

/// One program with WireGuard's UAPI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// What it is called in tables.
    pub name: String,
    /// The program.
    pub path: PathBuf,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or("a further program is given as NAME=PATH")?;
        if name.is_empty() || path.is_empty() {
            return Err("a further program is given as NAME=PATH".to_owned());
        }
        if [UMBRA, UMBRA_ALONE, BARE, BORINGTUN, WIREGUARD_GO, NO_TUNNEL].contains(&name) {
            return Err(format!("{name:?} is measured anyway: give the further program another name"));
        }
        let path = std::path::absolute(path).map_err(|error| format!("{path}: {error}"))?;
        Ok(Self { name: name.to_owned(), path })
    }
}

impl Peer {
    /// What it is called with besides the interface's name.
    pub fn options(&self) -> &'static [&'static str] {
        // It would become the user that logged in, who may not make devices.
        if self.name == BORINGTUN { &["--foreground", "--disable-drop-privileges"] } else { &["--foreground"] }
    }

    /// The first line of what it says of its version; empty where it says nothing.
    pub fn version(&self) -> String {
        let said = run_to_its_end(Command::new(&self.path).arg("--version"), &self.name, VERSION_MAX);
        let first = |text: &str| text.lines().next().unwrap_or_default().trim().to_owned();
        said.map(|said| first(&said.stdout)).unwrap_or_default()
    }
}

/// boringtun-cli and wireguard-go, found or built, and `further`. `program` is our own: beside it lies what was built.
pub fn find(further: &[Peer], program: &Path, may_build: bool) -> anyhow::Result<Vec<Peer>> {
    for (number, peer) in further.iter().enumerate() {
        ensure!(peer.path.is_file(), "there is no program {} for --peer {}", peer.path.display(), peer.name);
        let twice = further.iter().take(number).any(|other| other.name == peer.name);
        ensure!(!twice, "--peer {} is given twice: each program needs a name of its own", peer.name);
    }
    let boringtun = Peer { name: BORINGTUN.to_owned(), path: find_boringtun(program, may_build)? };
    let path = on_path(WIREGUARD_GO)
        .context("wireguard-go is not on PATH: install it, on Debian with `apt-get install wireguard-go`")?;
    let wireguard_go = Peer { name: WIREGUARD_GO.to_owned(), path };
    Ok([boringtun, wireguard_go].into_iter().chain(further.iter().cloned()).collect())
}

fn find_boringtun(program: &Path, may_build: bool) -> anyhow::Result<PathBuf> {
    let root = target_of(program).join("peers");
    let built = root.join("bin").join(BORINGTUN);
    if let Some(found) = on_path(BORINGTUN).or_else(|| built.is_file().then(|| built.clone())) {
        return Ok(found);
    }
    let words = ["install", BORINGTUN, "--version", BORINGTUN_VERSION, "--root"];
    let shown = format!("cargo {} {}", words.join(" "), root.display());
    if !may_build {
        bail!("{BORINGTUN} is neither on PATH nor {}: build it with `{shown}`", built.display());
    }
    writeln!(io::stderr(), "{BORINGTUN} is not there; building it, which takes some minutes: {shown}")?;
    let finished = run_to_its_end(Command::new("cargo").args(words).arg(&root), &shown, BUILD_MAX)?;
    ensure!(finished.success(), "`{shown}` failed:\n{}", finished.stderr);
    ensure!(built.is_file(), "`{shown}` left no {}", built.display());
    Ok(built)
}

/// The folder `target` that a program was built in, or the one of the current folder.
fn target_of(program: &Path) -> PathBuf {
    let named = |folder: &&Path| folder.file_name() == Some(OsStr::new("target"));
    program.ancestors().find(named).map_or_else(|| PathBuf::from("target"), Path::to_owned)
}

/// A program on PATH, where also the system's own folders count.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// How our own program was built: the name of cargo's profile as its path has it.
pub fn profile_of(program: &Path, debug: bool) -> String {
    let mut parts = program.ancestors().skip(1).filter_map(|folder| folder.file_name()?.to_str());
    let folder = parts.next().unwrap_or_default();
    let in_target = program.ancestors().skip(2).any(|folder| folder.file_name() == Some(OsStr::new("target")));
    match (debug, in_target) {
        (true, _) => "debug".to_owned(),
        (false, true) => folder.to_owned(),
        (false, false) => "optimised, of unknown profile".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_further_program_has_a_name_and_a_path_of_its_own() {
        let peer: Peer = "gotatun=/opt/gotatun".parse().unwrap();
        assert_eq!(peer, Peer { name: "gotatun".to_owned(), path: PathBuf::from("/opt/gotatun") });
        assert_eq!(peer.options(), ["--foreground"]);
        for text in ["", "gotatun", "=x", "x=", "umbra=/x", "boringtun-cli=/x", "wireguard-go=/x"] {
            assert!(text.parse::<Peer>().is_err(), "{text}");
        }
        let missing = find(&[peer], Path::new("/nowhere/umbra-lab"), false).unwrap_err().to_string();
        assert!(missing.contains("/opt/gotatun"), "{missing}");
        let shell = Peer { name: "a".to_owned(), path: PathBuf::from("/bin/sh") };
        let twice = find(&[shell.clone(), shell], Path::new("/nowhere/umbra-lab"), false).unwrap_err().to_string();
        assert!(twice.contains("twice"), "{twice}");
    }

    #[test]
    fn a_program_s_path_tells_its_profile() {
        let dist = Path::new("/src/target/dist/umbra-lab");
        assert_eq!(profile_of(dist, false), "dist");
        assert_eq!(profile_of(Path::new("/src/target/x86_64-unknown-linux-musl/release/umbra-lab"), false), "release");
        assert_eq!(profile_of(dist, true), "debug");
        assert_eq!(profile_of(Path::new("/usr/bin/umbra-lab"), false), "optimised, of unknown profile");
        assert_eq!(target_of(dist), Path::new("/src/target"));
        assert_eq!(target_of(Path::new("/usr/bin/umbra-lab")), Path::new("target"));
    }
}
