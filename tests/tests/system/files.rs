//! Is what the programs keep and listen on theirs alone: under a careless umask, with links planted where they write, and for
//! every user of the machine?

use crate::support::{SOON, probe, world};
use crate::talk::until;
use std::collections::BTreeMap;
use std::fs;
use umbra_tests::lab::{Daemon, Finished, Name, World};
use umbra_tests::perimeter::{self, PASSWORD, admin, admin_json, umbra};
use umbra_tests::service::Services;

const CONTROLLER: &str = "/var/lib/umbra/controller";
const GATEWAY: &str = "/var/lib/umbra/gateway";
const CLIENT: &str = "/var/lib/umbra/client";
const HOSTS: [Name; 3] = [Name::Controller, Name::Gateway, Name::Laptop];

/// `words` under a umask that takes nothing away.
fn careless<'a>(words: &[&'a str]) -> Vec<&'a str> {
    [&["sh", "-c", "umask 000; exec \"$@\"", "sh"], words].concat()
}

fn run(world: &World, host: Name, words: &[&str]) -> Finished {
    world.host(host).run(words, SOON).unwrap()
}

/// As `run`, and it has to succeed.
fn done(world: &World, host: Name, words: &[&str]) -> String {
    let finished = run(world, host, words);
    assert!(finished.success(), "{words:?}: {finished:?}");
    finished.stdout
}

fn start(world: &World, host: Name, words: &[&str]) -> Daemon {
    let mut command = world.host(host).command(words[0]);
    command.args(&words[1..]);
    world.host(host).start(host.as_str(), command).unwrap()
}

fn page(world: &World) -> bool {
    probe(world, Name::Laptop, &["--patience=2000", "http", "http://web.corp.example/"]).success()
}

/// The three programs, with everything made and started under that umask; the laptop is logged in.
fn organisation(world: &World) -> BTreeMap<Name, Daemon> {
    let init = ["umbra-controller", "init", "--trust-domain", perimeter::DOMAIN, "--endpoint", "controller:443"];
    done(world, Name::Controller, &careless(&[&init[..], &["--pool", perimeter::POOL]].concat()));
    let controller = start(world, Name::Controller, &careless(&["umbra-controller", "serve"]));
    controller.wait_for_line("the controller runs", SOON).unwrap();
    perimeter::declare(world, &perimeter::Plan::default()).unwrap();
    let join = perimeter::carry_join_file(world, Name::Gateway, &["--gateway", "--site", "hq"]).unwrap();
    let words = ["umbra-gateway", "up", "--join", &join, "--yes", "--name", "gateway", "--probe-every", "1s"];
    let gateway = start(world, Name::Gateway, &careless(&words));
    gateway.wait_for_line("joined as", SOON).unwrap();
    perimeter::confirm_gateway(world, Name::Gateway).unwrap();
    gateway.wait_for_line("confirmed=true", SOON).unwrap();
    let client = start(world, Name::Laptop, &careless(&["umbra", "daemon", "--probe-every", "1s"]));
    client.wait_for_line("the daemon runs", SOON).unwrap();
    perimeter::join_laptop(world, Name::Laptop).unwrap();
    client.wait_for_line("connected to the controller", SOON).unwrap();
    perimeter::log_in(world, Name::Laptop).unwrap();
    until("the page", SOON, || page(world));
    BTreeMap::from([(Name::Controller, controller), (Name::Gateway, gateway), (Name::Laptop, client)])
}

/// What is there: kind (as find(1) letters it), mode, path. Folders that the lab or the documents leave open are left out.
fn found(world: &World, host: Name) -> Vec<(char, u32, String)> {
    let words = ["find", "/var/lib/umbra", "/run/umbra", "/etc/umbra", "-printf", "%y %m %p\\n"];
    let listed = done(world, host, &words);
    let lines = listed.lines().map(|line| {
        let mut words = line.splitn(3, ' ');
        let (kind, mode, path) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        (kind.chars().next().unwrap(), u32::from_str_radix(mode, 8).unwrap(), path.to_owned())
    });
    let open = ["/var/lib/umbra", "/run/umbra", "/etc/umbra"];
    lines.filter(|(_, _, path)| !open.contains(&path.as_str())).collect()
}

/// No file, socket or folder is open to anybody else.
fn all_closed(world: &World, host: Name, expected: &[&str]) {
    let found = found(world, host);
    for (kind, mode, path) in &found {
        // A socket is the group's, too, where there is one.
        let closed = if *kind == 's' { 0o007 } else { 0o077 };
        assert_eq!(mode & closed, 0, "{host}: {path} ({kind}) has mode {mode:o}");
        assert!("fds".contains(*kind), "{host}: {path} is a {kind}");
    }
    for path in expected {
        assert!(found.iter().any(|(_, _, there)| there == path), "{host}: no {path} in {found:?}");
    }
    let sockets = done(world, host, &["stat", "-c", "%a %U", "/run/umbra"]);
    assert_eq!(sockets, "755 root\n", "{host}: /run/umbra");
}

#[test]
fn under_a_careless_umask_nothing_is_open_to_others() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let _programs = organisation(&world);
    let secret = perimeter::write_file(&world, Name::Controller, "passphrase", PASSWORD.as_bytes()).unwrap();
    for words in [
        &["join-key", "create", "--device", "--out", "/etc/umbra/device.join"][..],
        &["backup", "create", "--out", "/etc/umbra/backup", "--passphrase-file", &secret],
    ] {
        done(&world, Name::Controller, &careless(&[&["umbra-controller"], words].concat()));
    }
    // Records of flows are told when flows have ended.
    let sessions = admin_json(&world, &["session", "list"]).unwrap();
    admin(&world, &["session", "revoke", sessions["sessions"][0]["id"].as_str().unwrap()]).unwrap();
    let flows = format!("{CONTROLLER}/org/flows");
    let told =
        || found(&world, Name::Controller).iter().any(|(kind, _, path)| *kind == 'f' && path.starts_with(&flows));
    until("records of flows", SOON, told);

    let controller = ["org/seal.key", "org/store/sled/db", "org/store/head", "owner-token"];
    let controller = controller.map(|name| format!("{CONTROLLER}/{name}"));
    let mut expected: Vec<&str> = controller.iter().map(String::as_str).collect();
    expected.extend(["/run/umbra/controller.sock", "/etc/umbra/device.join", "/etc/umbra/backup"]);
    all_closed(&world, Name::Controller, &expected);
    let gateway = ["identity.json", "seen", "forwarding"].map(|name| format!("{GATEWAY}/{name}"));
    let mut expected: Vec<&str> = gateway.iter().map(String::as_str).collect();
    expected.push("/run/umbra/gateway.sock");
    all_closed(&world, Name::Gateway, &expected);
    let client = ["identity.json", "seen", "held.json", "resolv.conf.original", "guardian.sock"];
    let client = client.map(|name| format!("{CLIENT}/{name}"));
    let mut expected: Vec<&str> = client.iter().map(String::as_str).collect();
    expected.push("/run/umbra/client.sock");
    all_closed(&world, Name::Laptop, &expected);
    assert_eq!(done(&world, Name::Laptop, &["stat", "-c", "%a", "/etc/resolv.conf"]), "644\n", "everybody asks it");
    umbra(&world, Name::Laptop, &["down"]).unwrap();
    all_closed(&world, Name::Laptop, &[&format!("{CLIENT}/down")]);

    // A folder into which others may put files is none to keep state in.
    for (host, folder, words) in [
        (Name::Controller, "/var/lib/umbra/controller/org", &["umbra-controller", "serve", "--local-only"][..]),
        (Name::Gateway, GATEWAY, &["umbra-gateway", "up", "--socket", "/run/umbra/other.sock", "--device", "other0"]),
        (Name::Laptop, CLIENT, &["umbra", "--socket", "/run/umbra/other.sock", "daemon"]),
    ] {
        done(&world, host, &["chmod", "0770", folder]);
        let refused = run(&world, host, words);
        assert!(!refused.success() && refused.stderr.contains("chmod 0700"), "{words:?}: {refused:?}");
    }
}

/// A file that is somebody's, and a link to it.
struct Planted<'a> {
    world: &'a World,
    host: Name,
    path: String,
    victim: String,
    before: String,
}

impl<'a> Planted<'a> {
    /// At `path`, symbolic or hard. The victim has the content of what was there: who follows the link finds what it expects.
    fn at(world: &'a World, host: Name, path: &str, symbolic: bool) -> Self {
        let victim = format!("/var/lib/umbra/victims/{}", path.replace('/', "-"));
        let link = if symbolic { "ln -s" } else { "ln" };
        let script = format!(
            "mkdir -p /var/lib/umbra/victims && rm -f {victim} && (mv {path} {path}.was && cp -p {path}.was {victim} || \
             echo precious > {victim}) 2>/dev/null && {link} {victim} {path}"
        );
        done(world, host, &["sh", "-c", &script]);
        let mut planted = Self { world, host, path: path.to_owned(), victim, before: String::new() };
        planted.before = planted.state();
        planted
    }

    fn state(&self) -> String {
        let script = format!("stat -c '%a %u %g' {0}; cksum < {0}", self.victim);
        done(self.world, self.host, &["sh", "-c", &script])
    }

    /// The victim is as it was; takes the link away.
    fn taken_away_untouched(self, what: &str) {
        assert_eq!(self.state(), self.before, "{what}: what {} led to was touched", self.path);
        let script = format!("rm -rf {0}; ! test -e {0}.was || mv {0}.was {0}", self.path);
        done(self.world, self.host, &["sh", "-c", &script]);
    }
}

/// Starts it again; where it serves, has everything written anew; stops it.
fn live_once(world: &World, daemon: &mut Daemon, serves: &str) -> &'static str {
    daemon.restart().unwrap();
    let said = |part: &str| daemon.lines().iter().any(|line| line.contains(part));
    until("its start", SOON, || said(serves) || said("did not come up") || !daemon.is_running());
    let served = said(serves);
    if served {
        let password = perimeter::write_file(world, Name::Laptop, "password", PASSWORD.as_bytes()).unwrap();
        umbra(world, Name::Laptop, &["login", "--user", "engineer", "--password-file", &password]).unwrap();
        umbra(world, Name::Laptop, &["connect", "web"]).unwrap();
    }
    daemon.stop(SOON).unwrap();
    if served { "served" } else { "refused" }
}

#[test]
fn planted_links_lead_nowhere() {
    let world = world();
    let _services = Services::start(&world).unwrap();
    let mut programs = organisation(&world);
    let states = [
        (Name::Gateway, GATEWAY, &["identity.json", "seen", "forwarding"][..], "confirmed=true"),
        (
            Name::Laptop,
            CLIENT,
            &["identity.json", "seen", "held.json", "resolv.conf.original"],
            "connected to the controller",
        ),
    ];
    for (host, folder, names, serves) in states {
        let daemon = programs.get_mut(&host).unwrap();
        daemon.stop(SOON).unwrap();
        // Hard links all at once, for they do not look like links; symbolic ones one by one, for most are refused.
        let all: Vec<Planted> =
            names.iter().map(|n| Planted::at(&world, host, &format!("{folder}/{n}"), false)).collect();
        println!("{host}, hard links: {}", live_once(&world, daemon, serves));
        for planted in all {
            planted.taken_away_untouched("a hard link");
        }
        for name in names {
            let planted = Planted::at(&world, host, &format!("{folder}/{name}"), true);
            println!("{host}, {name} a symbolic link: {}", live_once(&world, daemon, serves));
            planted.taken_away_untouched("a symbolic link");
        }
        daemon.restart().unwrap();
        daemon.wait_for_line(serves, SOON).unwrap_or_else(|error| panic!("{host} does not come back: {error}"));
    }
    // Where somebody else's file stands in a socket's place, it stays, and nobody listens.
    for (host, path) in [(Name::Laptop, "/run/umbra/other.sock"), (Name::Controller, "/run/umbra/other.sock")] {
        for symbolic in [true, false] {
            done(
                &world,
                host,
                &[
                    "sh",
                    "-c",
                    &format!(
                        "echo precious > {path}.victim; ln -f {} {path}.victim {path}",
                        if symbolic { "-s" } else { "" }
                    ),
                ],
            );
            let words: &[&str] = match host {
                Name::Laptop => &["umbra", "--socket", path, "daemon", "--state", "/var/lib/umbra/other"],
                _ => {
                    &["umbra-controller", "--socket", path, "--state", "/var/lib/umbra/other", "serve", "--local-only"]
                }
            };
            if host == Name::Controller && symbolic {
                let init = ["init", "--trust-domain", "other.example", "--endpoint", "controller:444"];
                done(&world, host, &[&["umbra-controller", "--state", "/var/lib/umbra/other"], &init[..]].concat());
            }
            let refused = run(&world, host, words);
            assert!(!refused.success() && refused.stderr.contains("is no socket of"), "{refused:?}");
            assert_eq!(done(&world, host, &["cat", &format!("{path}.victim")]), "precious\n");
        }
    }
    // What a command writes for a person, it writes anew.
    let script = "mkdir -p /etc/umbra/out; echo precious > /etc/umbra/out/victim; ln -s victim /etc/umbra/out/link";
    done(&world, Name::Controller, &["sh", "-c", script]);
    let secret = perimeter::write_file(&world, Name::Controller, "passphrase", PASSWORD.as_bytes()).unwrap();
    for words in [
        &["join-key", "create", "--device", "--out", "/etc/umbra/out/link"][..],
        &["backup", "create", "--out", "/etc/umbra/out/link", "--passphrase-file", &secret],
    ] {
        let refused = run(&world, Name::Controller, &[&["umbra-controller"], words].concat());
        assert!(!refused.success() && refused.stderr.contains("/etc/umbra/out/link"), "{refused:?}");
        assert_eq!(done(&world, Name::Controller, &["cat", "/etc/umbra/out/victim"]), "precious\n");
    }
    // Nor is a link the folder of a program's state.
    done(&world, Name::Laptop, &["ln", "-s", CLIENT, "/var/lib/umbra/elsewhere"]);
    let words = ["umbra", "--socket", "/run/umbra/fresh.sock", "daemon", "--state", "/var/lib/umbra/elsewhere"];
    let refused = run(&world, Name::Laptop, &words);
    assert!(!refused.success() && refused.stderr.contains("symbolic links are refused"), "{refused:?}");
}

/// Gives a host accounts of its own: `member` (4301), who is in the group `umbra` (4200), and `other` (4302), who is not.
fn make_accounts(world: &World, host: Name) {
    let script = "for file in passwd group; do cat /etc/$file > /etc/$file.new; done; \
                  printf 'member:x:4301:4301::/:/bin/sh\\nother:x:4302:4302::/:/bin/sh\\n' >> /etc/passwd.new; \
                  printf 'umbra:x:4200:member\\n' >> /etc/group.new; \
                  for file in passwd group; do mv /etc/$file.new /etc/$file; done";
    done(world, host, &["sh", "-c", script]);
}

#[test]
fn only_root_and_the_group_give_orders() {
    let world = world();
    for host in HOSTS {
        make_accounts(&world, host);
    }
    let _services = Services::start(&world).unwrap();
    let programs = organisation(&world);
    let map = fs::read_to_string(format!("/proc/{}/uid_map", programs[&Name::Laptop].pid())).unwrap();
    if !map.split_whitespace().eq(["0", "0", "4294967295"]) {
        println!("skipped: needs several user ids");
        return;
    }
    let sockets = ["/run/umbra/controller.sock", "/run/umbra/gateway.sock", "/run/umbra/client.sock"];
    for (host, socket) in HOSTS.into_iter().zip(sockets) {
        assert_eq!(done(&world, host, &["stat", "-c", "%a %u %g", socket]), "660 0 4200\n", "{host}");
    }
    // Who: user, group, further groups; whether orders of theirs are followed.
    let people: [(&str, &[&str], bool); 5] = [
        ("a member", &["4301", "4301", "--group=4200"], true),
        ("somebody whose first group it is", &["4302", "4200"], true),
        ("another user", &["4302", "4302"], false),
        ("somebody without an account", &["4999", "4999"], false),
        // The socket's mode lets it in; the account database, which is what counts, does not know it as a member.
        ("somebody who was a member", &["4302", "4302", "--group=4200"], false),
    ];
    let orders: [(Name, &[&str]); 5] = [
        (Name::Controller, &["umbra-controller", "status"]),
        (Name::Controller, &["umbra-controller", "session", "list"]),
        (Name::Gateway, &["umbra-gateway", "status"]),
        (Name::Laptop, &["umbra", "status"]),
        (Name::Laptop, &["umbra", "ls"]),
    ];
    for (who, account, may) in people {
        for (host, words) in orders {
            let words = [&["umbra-lab", "__as"], account, &["--"], words].concat();
            let answer = run(&world, host, &words);
            let expected = if may { Some(0) } else { Some(3) };
            assert_eq!(answer.status.code(), expected, "{who}: {words:?}: {answer:?}");
            assert_eq!(answer.stdout.is_empty(), !may, "{who}: {words:?}: {answer:?}");
        }
        // What changes something, by those who may not: it stays as it is.
        if !may {
            for words in [&["umbra", "down"][..], &["umbra", "logout"]] {
                let words = [&["umbra-lab", "__as"], account, &["--"], words].concat();
                assert_eq!(run(&world, Name::Laptop, &words).status.code(), Some(3), "{who}: {words:?}");
            }
            assert!(page(&world), "after {who}");
        }
    }
    // The guardian takes its dismissal from root alone; nobody else even finds it.
    let script = format!("cd {CLIENT}");
    for id in ["4301", "4302"] {
        let refused = run(
            &world,
            Name::Laptop,
            &["setpriv", "--reuid", id, "--regid", id, "--clear-groups", "sh", "-c", &script],
        );
        assert!(!refused.success(), "{refused:?}");
    }
    // Every user of the laptop sends packets through its grants: SECURITY.md says so.
    let words = [
        "setpriv",
        "--reuid",
        "4302",
        "--regid",
        "4302",
        "--clear-groups",
        "ping",
        "-c",
        "1",
        "-W",
        "5",
        "web.corp.example",
    ];
    if run(&world, Name::Laptop, &["sh", "-c", "command -v ping"]).success() {
        done(&world, Name::Laptop, &words);
    }
}
