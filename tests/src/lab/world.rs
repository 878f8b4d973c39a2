//! How does a test or a demonstration get a network of its own?

use super::error::{LabError, check_tun};
use super::fabric::Answer;
use super::host::{Host, end_within};
use super::impairment::Impairment;
use super::topology::Name;
use host::namespace::Namespaces;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The names under which the lab's program is put on PATH; under each it is that program.
pub const PROGRAMS: [&str; 4] = ["umbra", "umbra-controller", "umbra-gateway", "umbra-lab"];

/// How long its fabric may take to clean up.
const FABRIC_GONE_MAX: Duration = Duration::from_secs(120);

/// What kind of world?
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The `umbra-lab` program. By default the running program, which must then be `umbra-lab` itself.
    pub program: Option<PathBuf>,
    /// A folder with Umbra's programs as they are packaged: the hosts run those. By default `umbra-lab` is all of them.
    pub packaged: Option<PathBuf>,
    /// Where its state goes: a folder that exists and is empty. By default a fresh one in the system's folder for such.
    pub folder: Option<PathBuf>,
    /// Whose outside link behaves badly, and how.
    pub impaired: BTreeMap<Name, Impairment>,
    /// How many further laptops there are, see [`Name::further`].
    pub further: usize,
}

/// A network with its hosts. All of it, and every process in it, ends when this is dropped or its process dies.
#[derive(Debug)]
pub struct World {
    folder: PathBuf,
    hosts: Vec<Host>,
    fabric: Child,
    orders: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

impl World {
    /// Builds a world; takes some tenths of a second. Errors: `Forbidden` where the system does not let this user.
    pub fn start(options: &Options) -> Result<Self, LabError> {
        check_tun()?;
        let program = options.program.clone().map_or_else(std::env::current_exe, Ok);
        let program = program.map_err(LabError::while_doing("/proc/self/exe"))?;
        let folder = options.folder.clone().map_or_else(fresh_folder, Ok)?;
        lay_out(&folder, &program, options.packaged.as_deref())
            .map_err(LabError::while_doing(folder.display().to_string()))?;
        let mut command = Command::new(&program);
        command.arg("__fabric").arg("--folder").arg(&folder).arg(format!("--further={}", options.further));
        for (name, impairment) in options.impaired.iter().filter(|(_, impairment)| !impairment.is_none()) {
            command.arg("--impair").arg(format!("{name}={impairment}"));
        }
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut fabric = spawned.map_err(LabError::while_doing(format!("start {}", program.display())))?;
        let orders = fabric.stdin.take();
        let output = fabric.stdout.take().ok_or_else(|| LabError::Fabric("it has no output".to_owned()))?;
        let mut world = Self { folder, hosts: Vec::new(), fabric, orders, replies: BufReader::new(output) };
        for (name, pid) in world.await_ready(options.further)? {
            let namespaces = Namespaces::of(pid).map_err(LabError::while_doing(format!("enter host {name}")))?;
            world.hosts.push(Host::new(name, pid, namespaces, world.folder.clone()));
        }
        Ok(world)
    }

    fn await_ready(&mut self, further: usize) -> Result<BTreeMap<Name, u32>, LabError> {
        let line = self.reply()?;
        let answer = serde_json::from_str(&line).map_err(|error| LabError::Fabric(format!("{error}: {line:?}")))?;
        match answer {
            Answer::Ready(holders) if holders.keys().copied().eq(all_hosts(further)) => Ok(holders),
            Answer::Ready(_) => Err(LabError::Fabric("a host is missing".to_owned())),
            Answer::Forbidden(line) => Err(LabError::Forbidden(line)),
            Answer::Failed(reason) => Err(LabError::Fabric(reason)),
        }
    }

    fn reply(&mut self) -> Result<String, LabError> {
        let mut line = String::new();
        self.replies.read_line(&mut line).map_err(LabError::while_doing("read from the fabric"))?;
        Ok(line.trim_end().to_owned())
    }

    /// The handle on a host. Only those further laptops are there that the options ask for.
    #[expect(clippy::indexing_slicing, reason = "`start` made one host per name, in the order of the names")]
    pub fn host(&self, name: Name) -> &Host {
        &self.hosts[name.place()]
    }

    /// All hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Where everything of this world lies: `logs/`, `bin/`, `hosts/NAME/{etc,lib}`. Goes with the world.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The fabric's process: the world is gone when this is.
    pub fn fabric_pid(&self) -> u32 {
        self.fabric.id()
    }

    /// Plugs (`true`) or pulls the outside cable of a host.
    pub fn plug(&mut self, name: Name, plugged: bool) -> Result<(), LabError> {
        let order = format!("link {name} {}\n", if plugged { "up" } else { "down" });
        let orders = self.orders.as_mut().ok_or_else(|| LabError::Fabric("it is ending".to_owned()))?;
        orders.write_all(order.as_bytes()).map_err(LabError::while_doing("write to the fabric"))?;
        match self.reply()?.as_str() {
            "ok" => Ok(()),
            other => Err(LabError::Fabric(other.to_owned())),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The end of its orders makes the fabric clean up and go.
        drop(self.orders.take());
        let _ended = end_within(&self.fabric, FABRIC_GONE_MAX);
        let _gone = self.fabric.wait();
    }
}

/// The hosts of a world, in their order.
pub(super) fn all_hosts(further: usize) -> impl Iterator<Item = Name> {
    Name::ALL.into_iter().chain(Name::further(further))
}

/// A fresh folder that only this user can enter.
fn fresh_folder() -> Result<PathBuf, LabError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let parent = std::env::temp_dir();
    static SWEPT: Once = Once::new();
    SWEPT.call_once(|| sweep(&parent));
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!("umbra-world-{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => return Ok(folder),
            // Left by a process that had our number before.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(LabError::StateFolder(folder, error.to_string())),
        }
    }
}

/// Removes folders of tests that were killed: `umbra-test-PROCESS-...` where there is no such process.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|name| name.strip_prefix("umbra-test-")?.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // Somebody else's stays.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn lay_out(folder: &Path, program: &Path, packaged: Option<&Path>) -> io::Result<()> {
    for part in ["bin", "logs", "hosts"] {
        fs::create_dir(folder.join(part))?;
    }
    for name in PROGRAMS {
        let packaged = packaged.map(|folder| folder.join(name)).filter(|file| file.is_file());
        symlink(packaged.as_deref().unwrap_or(program), folder.join("bin").join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_tests_that_are_gone_go_and_no_others() {
        let parent = fresh_folder().unwrap();
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let name = |pid: u32| format!("umbra-test-{pid}-0123");
        let stays = [name(std::process::id()), "umbra-test-old".to_owned(), format!("umbra-world-{}-0", gone.id())];
        for name in stays.iter().chain([&name(gone.id())]) {
            fs::create_dir_all(parent.join(name).join("state")).unwrap();
        }
        sweep(&parent);
        let mut left: Vec<String> =
            fs::read_dir(&parent).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        let mut expected = stays.to_vec();
        expected.sort();
        assert_eq!(left, expected);
        fs::remove_dir_all(&parent).unwrap();
    }
}
