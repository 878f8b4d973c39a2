//! The built program as an administrator runs it: init, serve, commands, exit codes, a stop and a kill.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_umbra-controller");

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
        let path = std::env::temp_dir().join(format!("umbra-commands-{}", random.trim()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}
impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running controller; killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env_clear().env("UMBRA_LOG", "trace").arg("--state").arg(folder.join("state"));
    command.arg("--socket").arg(folder.join("admin.sock")).args(words);
    command
}

fn run(folder: &Path, words: &[&str], stdin: &str) -> Output {
    let mut child =
        command(folder, words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn done(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn refused(output: &Output, code: i32) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(output.stdout.is_empty(), "an error has nothing on standard output");
    text
}

/// Starts the controller and waits until it says that it runs; everything it logs is gathered.
fn serve(folder: &Path) -> (Running, std::thread::JoinHandle<String>) {
    let mut child = command(folder, &["serve", "--local-only"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut seen = String::new();
    while !seen.contains("the controller runs") {
        assert_ne!(log.read_line(&mut seen).unwrap(), 0, "it ended: {seen}");
    }
    let rest = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = std::io::Read::read_to_end(&mut log, &mut bytes);
        seen + &String::from_utf8_lossy(&bytes)
    });
    (Running(child), rest)
}

fn terminate(running: &mut Running) {
    let pid = running.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
}

const INIT: [&str; 7] =
    ["init", "--trust-domain", "corp.example", "--pool", "10.213.0.0/16", "--endpoint", "192.0.2.1:443"];

#[test]
fn an_organisation_lives_through_a_stop_and_a_kill_and_its_log_holds_no_secret() {
    let folder = Folder::new();
    let folder = folder.0.as_path();
    let made = done(&run(folder, &INIT, ""));
    assert!(made.contains("organisation `corp.example` made") && made.contains("umbra-controller serve"), "{made}");
    let token_file = folder.join("state/owner-token");
    let token = std::fs::read_to_string(&token_file).unwrap();
    assert_eq!(std::fs::metadata(&token_file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!made.contains(token.trim()) && made.contains(token_file.to_str().unwrap()), "not in a pipe: {made}");
    assert!(refused(&run(folder, &INIT, ""), 1).contains("nothing was changed"));
    assert!(refused(&run(folder, &["user", "list"], ""), 4).contains("umbra-controller serve"));

    let (mut running, log) = serve(folder);
    done(&run(folder, &["user", "add", "clerk"], "canary-password\n"));
    std::fs::write(folder.join("password"), "canary-owner-password").unwrap();
    let password = folder.join("password").display().to_string();
    let token_file = token_file.display().to_string();
    let claim = ["claim-owner", "root-to-be", "--token-file", &token_file, "--password-file", &password];
    done(&run(folder, &claim, ""));
    let again = ["claim-owner", "second", "--token-file", &token_file, "--password-file", &password];
    assert!(refused(&run(folder, &again, ""), 3).contains("spent"));
    done(&run(folder, &["site", "add", "hq", "--prefix", "10.20.0.0/24"], ""));
    let join = folder.join("device.join").display().to_string();
    done(&run(folder, &["join-key", "create", "--device", "--out", &join], ""));
    assert!(refused(&run(folder, &["user", "add", "auditor", "--password", "x"], ""), 2).contains("Usage"));
    let second = refused(&run(folder, &["serve", "--local-only"], ""), 1);
    assert!(second.contains("umbra-controller:") && !second.contains("panicked"), "{second}");
    terminate(&mut running);
    assert!(!folder.join("admin.sock").exists());
    let log = log.join().unwrap();
    let secret = std::fs::read_to_string(&join).unwrap();
    let secret = secret.lines().find_map(|line| line.trim().strip_prefix("\"secret\": \"")).unwrap();
    for canary in ["canary", token.trim(), secret.trim_end_matches(['"', ',']), "argon2id"] {
        assert!(!log.contains(canary), "{canary} is in the log");
    }

    let (running, _) = serve(folder);
    assert!(done(&run(folder, &["user", "list"], "")).contains("root-to-be"));
    done(&run(folder, &["group", "add", "late"], ""));
    drop(running); // SIGKILL
    let (mut running, _) = serve(folder);
    assert!(done(&run(folder, &["group", "list"], "")).contains("late"));
    assert!(done(&run(folder, &["audit", "verify"], "")).contains("whole"));
    assert!(done(&run(folder, &["audit", "list", "--json"], "")).contains("\"schema\": 1"));
    terminate(&mut running);
}

#[test]
fn another_user_of_the_machine_is_denied() {
    let folder = Folder::new();
    let folder = folder.0.as_path();
    let user = |command: &mut Command| {
        let mut words = vec![command.get_program().to_owned()];
        words.extend(command.get_args().map(ToOwned::to_owned));
        Command::new("setpriv").args(["--reuid=65534", "--regid=65534", "--clear-groups"]).args(words).output()
    };
    match user(&mut Command::new("id")) {
        Ok(output) if output.status.success() => {}
        _ => {
            println!("skipped: needs real root and several user ids");
            return;
        }
    }
    done(&run(folder, &INIT, ""));
    let (mut running, _) = serve(folder);
    let program = folder.join("umbra-controller");
    // By another process: what this one writes is busy as long as a program that another test starts has inherited it.
    assert!(Command::new("cp").arg(PROGRAM).arg(&program).status().unwrap().success());
    let socket = folder.join("admin.sock");
    let list = |verb: &str| {
        let mut command = Command::new(&program);
        command.arg("--socket").arg(&socket).args([verb, "list"]);
        let output = user(&mut command).unwrap();
        refused(&output, 3)
    };
    for path in [folder, program.as_path()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert!(list("user").contains("be root or in group `umbra`"), "the socket does not open");
    // Even with the socket open to all, the kernel's word on who connects decides; and all calls are denied alike.
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    let first = list("user");
    assert!(first.contains("not permitted"), "{first}");
    assert_eq!(first, list("audit"));
    terminate(&mut running);
}

#[test]
fn roles_are_given_and_taken_and_the_key_in_the_envelope_is_good_once() {
    let folder = Folder::new();
    let folder = folder.0.as_path();
    let made = done(&run(folder, &INIT, ""));
    let key_file = folder.join("state/break-glass");
    let key = std::fs::read_to_string(&key_file).unwrap();
    assert_eq!(std::fs::metadata(&key_file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!made.contains(key.trim()) && made.contains(key_file.to_str().unwrap()), "not in a pipe: {made}");
    let key_file = key_file.display().to_string();

    let (mut running, log) = serve(folder);
    assert!(done(&run(folder, &["admin", "list"], "")).contains("nobody has a role"));
    done(&run(folder, &["user", "add", "clerk"], "canary-password\n"));
    done(&run(folder, &["admin", "grant", "clerk", "auditor"], ""));
    assert!(refused(&run(folder, &["admin", "grant", "clerk", "auditor"], ""), 1).contains("already"));
    assert!(refused(&run(folder, &["admin", "grant", "clerk", "root"], ""), 2).contains("security-admin"));
    let listed = done(&run(folder, &["admin", "list"], ""));
    assert!(listed.contains("auditor") && listed.contains("without a second factor"), "{listed}");
    done(&run(folder, &["admin", "revoke", "clerk", "auditor"], ""));

    let spend = ["break-glass", "--key-file", &key_file, "--user", "clerk"];
    let told = done(&run(folder, &spend, ""));
    let next = told.lines().find_map(|line| line.strip_prefix("next key")).unwrap().trim().to_owned();
    assert!(refused(&run(folder, &spend, ""), 3).contains("not the break-glass key"));
    assert!(done(&run(folder, &["status"], "")).contains("break-glass key was used"));
    done(&run(folder, &["admin", "acknowledge"], ""));
    assert!(!done(&run(folder, &["status"], "")).contains("break-glass key was used"));
    for (words, why) in [(&spend[..], "own machine"), (&["serve"], "own machine"), (&["admin", "list"], "umbra daemon")]
    {
        let words = [&["--remote", "--client-socket", "/nowhere/client.sock"], words].concat();
        assert!(text(&run(folder, &words, "")).contains(why), "{words:?}");
    }
    terminate(&mut running);
    let log = log.join().unwrap();
    assert!(log.contains("the break-glass key was used") && log.contains("a wrong break-glass key"), "{log}");
    let word = next.split_whitespace().next().unwrap();
    assert!(word.len() == 64 && !log.contains(word) && !log.contains(key.trim()));
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
