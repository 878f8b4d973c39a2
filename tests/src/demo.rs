//! What can Umbra do? `umbra-lab demo` brings an organisation up on a network of its own, step by step, and checks each
//! step as a user, a stranger and an administrator would see it.

pub(crate) mod download;
mod identity;
mod report;

use crate::lab::standing::overlay_addresses;
use crate::lab::topology::OUTSIDE_NAME_SERVER;
use crate::lab::{Daemon, Finished, Name, Options, World};
use crate::perimeter::{self, DOMAIN, Plan, StepError};
use crate::service::{PUBLIC_NAME, Services};
use download::Download;
use report::Report;
use std::fmt::Display;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long anything may take that is to happen at once.
const SOON: Duration = Duration::from_secs(10);
/// How long a stranger listens for an answer.
const SILENCE: &str = "--patience=1000";
/// A refusal is to come at once, and not as a time-out.
const REFUSAL_MAX: Duration = Duration::from_secs(1);
/// From the revoke command to the last byte of a download, on a machine that is busy; usually it is some milliseconds.
const REVOKE_MAX: Duration = Duration::from_secs(5);
/// What a check gives: what was seen, or what is wrong.
type Outcome = Result<String, String>;

/// Runs the demonstration.
pub fn run() -> anyhow::Result<ExitCode> {
    // First, and before a word: where the machine forbids networks, the first line says so.
    let world = World::start(&Options { further: identity::LAPTOPS, ..Options::default() })?;
    let mut demo = Demo { world: &world, report: Report::new(), running: Vec::new() };
    if let Err(error) = demo.play() {
        demo.check("this step is possible", Err(error.to_string()));
    }
    Ok(demo.report.end())
}

struct Demo<'w> {
    world: &'w World,
    report: Report,
    running: Vec<(Name, Daemon)>,
}

fn ensure(holds: bool, seen: impl Display) -> Outcome {
    if holds { Ok(seen.to_string()) } else { Err(seen.to_string()) }
}

/// Both outputs of a command, as one text.
fn said(finished: &Finished) -> String {
    format!("{}{}", finished.stdout, finished.stderr).trim().to_owned()
}

fn host_name(service: &str) -> String {
    format!("{service}.{DOMAIN}")
}

impl Demo<'_> {
    fn play(&mut self) -> Result<(), StepError> {
        let _services = Services::start(self.world)?;
        self.found()?;
        self.confirm_gateway()?;
        self.look_as_a_stranger()?;
        self.join()?;
        self.log_in()?;
        self.list()?;
        self.reach()?;
        self.be_denied()?;
        self.be_a_guest()?;
        self.revoke()?;
        self.sign_in()?;
        self.be_a_workload()?;
        self.verify()?;
        self.leave()
    }

    /// One check; a failed one shows what the programs said last.
    fn check(&mut self, what: &str, outcome: Outcome) {
        if !self.report.check(what, &outcome) {
            self.running.iter().for_each(|(host, daemon)| self.report.log(*host, daemon));
        }
    }

    /// Runs a command and tells it, with what it said.
    fn tell(&self, host: Name, words: &[&str]) -> Result<Finished, StepError> {
        let finished = self.world.host(host).run(words, SOON)?;
        self.report.command(host, words, &finished);
        Ok(finished)
    }

    fn probe(&self, host: Name, words: &[&str]) -> Result<Finished, StepError> {
        let all: Vec<&str> = ["umbra-lab", "probe"].iter().chain(words).copied().collect();
        Ok(self.world.host(host).run(&all, SOON)?)
    }

    fn found(&mut self) -> Result<(), StepError> {
        self.report.heading("An organisation: a controller, users, resources and a policy");
        let plan = Plan::default();
        let controller = perimeter::start_controller(self.world, &plan)?;
        self.running.push((Name::Controller, controller));
        perimeter::declare(self.world, &plan)?;
        for word in perimeter::POLICY.trim().lines() {
            self.report.note(word);
        }
        let policy = self.tell(Name::Controller, &["umbra-controller", "resource", "list"])?;
        self.check("the controller serves, and its policy is in force", ensure(policy.success(), ""));
        Ok(())
    }

    fn confirm_gateway(&mut self) -> Result<(), StepError> {
        self.report.heading("A gateway joins, and an administrator confirms it");
        let gateway = perimeter::start_gateway(self.world, Name::Gateway, &Plan::default())?;
        self.running.push((Name::Gateway, gateway));
        let list = ["umbra-controller", "gateway", "list"];
        let before = self.tell(Name::Controller, &list)?;
        let waits = before.stdout.contains("pending");
        self.check(
            "a gateway that nobody confirmed gets nothing to do",
            ensure(waits, if waits { "pending" } else { &before.stdout }),
        );
        self.tell(Name::Controller, &["umbra-controller", "gateway", "confirm", Name::Gateway.as_str()])?;
        let confirmed = match self.running.last() {
            Some((_, daemon)) => daemon.wait_for_line("confirmed=true", SOON).map_err(|error| error.to_string()),
            None => Err("it is gone".to_owned()),
        };
        self.check("the gateway hears that it is confirmed", confirmed.map(|_| String::new()));
        Ok(())
    }

    fn scan(&self, from: Name, targets: &[String]) -> Result<Finished, StepError> {
        let words = [SILENCE, "scan"].into_iter().chain(targets.iter().map(String::as_str)).collect::<Vec<_>>();
        self.probe(from, &words)
    }

    fn look_as_a_stranger(&mut self) -> Result<(), StepError> {
        self.report.heading("What a stranger sees");
        let silent =
            |seen: &Finished| ensure(seen.success() && seen.stdout.contains(" questions, 0 answers"), said(seen));
        let plain = |name: Name| name.outside().into_iter().map(|address| address.to_string());
        let ordinary = self.scan(Name::Stranger, &plain(Name::Laptop2).collect::<Vec<_>>())?;
        let answers = ordinary.stdout.lines().last().unwrap_or_default().to_owned();
        let answered = ordinary.success() && !answers.ends_with(" 0 answers");
        self.check("an ordinary machine answers (so the questions are good)", ensure(answered, answers));
        let outside: Vec<String> = plain(Name::Controller).chain(plain(Name::Gateway)).collect();
        let seen = self.scan(Name::Stranger, &outside)?;
        self.check("controller and gateway answer nothing, on no port", silent(&seen));
        let mut overlay = Vec::new();
        for router in [Name::Controller, Name::Gateway] {
            for address in overlay_addresses(self.world.host(router))? {
                let same_family = |via: &IpAddr| via.is_ipv4() == address.is_ipv4();
                let via = router.outside().into_iter().find(same_family);
                overlay.extend(via.map(|via| format!("{address}@{via}")));
            }
        }
        let seen = self.scan(Name::Stranger, &overlay)?;
        self.check("nor on their overlay addresses, with a route through them", silent(&seen));
        let inside: Vec<String> = Name::Gateway.inside().iter().map(ToString::to_string).collect();
        let seen = self.scan(Name::Neighbour, &inside)?;
        self.check("nor does the gateway answer a neighbour of the services", silent(&seen));
        let services: Vec<String> = ["10.20.0.10@203.0.113.20", "fd20::10@2001:db8:0:1::20"].map(str::to_owned).into();
        let seen = self.scan(Name::Stranger, &services)?;
        self.check("and it is no router to the services", silent(&seen));
        Ok(())
    }

    fn join(&mut self) -> Result<(), StepError> {
        self.report.heading("Two laptops join");
        for (laptop, options) in [(Name::Laptop, &["--device"][..]), (Name::Laptop2, &["--device", "--uses", "5"])] {
            let daemon = perimeter::start_client(self.world, laptop)?;
            self.running.push((laptop, daemon));
            let file = perimeter::carry_join_file(self.world, laptop, options)?;
            let joined = self.tell(laptop, &["umbra", "up", "--join", &file, "--yes"])?;
            self.check(&format!("{laptop} joins with its join file"), ensure(joined.success(), ""));
        }
        let refused = self.try_log_in(Name::Laptop2, "guest", perimeter::PASSWORD)?;
        let what = "a device from a key of many uses waits for an administrator";
        self.check(what, ensure(!refused.success(), said(&refused)));
        let confirmed =
            self.tell(Name::Controller, &["umbra-controller", "device", "confirm", Name::Laptop2.as_str()])?;
        self.check("the administrator confirms it", ensure(confirmed.success(), ""));
        let again = self.world.host(Name::Laptop2).run(&["umbra", "up", "--join", "/etc/umbra/join", "--yes"], SOON)?;
        self.check(
            "whoever has joined does not join again",
            ensure(!again.success(), said(&again).lines().last().unwrap_or_default()),
        );
        Ok(())
    }

    fn try_log_in(&self, laptop: Name, user: &str, password: &str) -> Result<Finished, StepError> {
        let file = perimeter::write_file(self.world, laptop, "password", password.as_bytes())?;
        Ok(self.world.host(laptop).run(&["umbra", "login", "--user", user, "--password-file", &file], SOON)?)
    }

    fn log_in(&mut self) -> Result<(), StepError> {
        self.report.heading("Their users log in");
        let wrong = self.try_log_in(Name::Laptop, "engineer", "a wrong password")?;
        self.check("a wrong password is refused", ensure(!wrong.success(), said(&wrong)));
        for (laptop, user, _) in perimeter::USERS {
            let done = self.try_log_in(laptop, user, perimeter::PASSWORD)?;
            self.check(&format!("{user} logs in on {laptop}"), ensure(done.success(), said(&done)));
        }
        Ok(())
    }

    fn list(&mut self) -> Result<(), StepError> {
        self.report.heading("What they may ask for");
        for (laptop, wanted) in [(Name::Laptop, &["vault", "web", "wiki"][..]), (Name::Laptop2, &["web"])] {
            let table = self.tell(laptop, &["umbra", "ls"])?;
            let mut names: Vec<&str> = table.stdout.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
            names.sort_unstable();
            self.check(&format!("the catalogue on {laptop}"), ensure(names == wanted, names.join(", ")));
        }
        Ok(())
    }

    fn reach(&mut self) -> Result<(), StepError> {
        self.report.heading("What is allowed works, by its name");
        let web = host_name("web");
        let url = format!("http://{web}/");
        let page = self.tell(Name::Laptop, &["umbra-lab", "probe", "http", &url])?;
        let what = format!("a page from {web}");
        self.check(&what, ensure(page.stdout == "This is web.\n", format!("after {} ms", page.took.as_millis())));
        let echo = self.probe(Name::Laptop, &["echo", &format!("{web}:7"), "one", "two"])?;
        self.check("a conversation over TCP", ensure(echo.stdout == "one\ntwo\n", said(&echo).replace('\n', ", ")));
        let udp = self.probe(Name::Laptop, &["udp", &format!("{web}:9000"), "hello"])?;
        self.check("a datagram and its echo", ensure(udp.stdout == "hello\n", said(&udp)));
        let ping = self.probe(Name::Laptop, &["ping", &web])?;
        self.check("a ping", ensure(ping.success(), said(&ping)));
        let (name, address) = PUBLIC_NAME;
        let other = self.probe(Name::Laptop, &["name", name])?;
        let same = other.stdout.trim() == address;
        self.check("names of the rest of the world resolve as before", ensure(same, said(&other)));
        Ok(())
    }

    fn be_denied(&mut self) -> Result<(), StepError> {
        self.report.heading("What is denied says why");
        let url = format!("http://{}/", host_name("vault"));
        let refused = self.tell(Name::Laptop, &["umbra-lab", "probe", "http", &url])?;
        let quick = !refused.success() && refused.took < REFUSAL_MAX;
        self.check("the vault refuses at once", ensure(quick, format!("after {} ms", refused.took.as_millis())));
        let why = self.tell(Name::Laptop, &["umbra", "why", "vault"])?;
        let told = why.status.code() == Some(3) && why.stdout.contains("the vault is closed for everybody");
        self.check("`umbra why` repeats the policy's reason", ensure(told, ""));
        Ok(())
    }

    fn be_a_guest(&mut self) -> Result<(), StepError> {
        self.report.heading("What a guest may not see has no name and no answer");
        let (web, wiki) = (host_name("web"), host_name("wiki"));
        let page = self.probe(Name::Laptop2, &["http", &format!("http://{web}/")])?;
        self.check("the guest reaches what guests may", ensure(page.stdout == "This is web.\n", said(&page)));
        let hidden = self.probe(Name::Laptop, &["name", &wiki])?.stdout;
        let name = self.probe(Name::Laptop2, &["name", &wiki])?;
        self.check(&format!("{wiki} has no name"), ensure(!name.success() && !hidden.is_empty(), said(&name)));
        let address = hidden.lines().next().unwrap_or_default();
        let target = if address.contains(':') { format!("[{address}]:80") } else { format!("{address}:80") };
        let there = self.probe(Name::Laptop, &["echo", &format!("{wiki}:7"), "hello"])?;
        let answer = self.probe(Name::Laptop2, &["--patience=1000", "http", &format!("http://{target}/")])?;
        let dark = there.success() && !answer.success();
        self.check(
            &format!("{target}, where the engineer finds it, gives the guest no answer"),
            ensure(dark, said(&answer)),
        );
        let wiki = self.tell(Name::Laptop2, &["umbra", "why", "wiki"])?;
        let nothing = self.tell(Name::Laptop2, &["umbra", "why", "nothing"])?;
        let same = !wiki.success() && said(&wiki).replace("wiki", "nothing") == said(&nothing);
        self.check("it is told the same as about what does not exist", ensure(same, ""));
        Ok(())
    }

    fn revoke(&mut self) -> Result<(), StepError> {
        self.report.heading("A revoke ends what is running");
        let url = format!("http://{}/download?rate=4000000", host_name("web"));
        let download = Download::start(self.world.host(Name::Laptop), &url)?;
        let running = download.wait_for_bytes(500_000, SOON);
        self.check("a download of the engineer runs", running.map(|bytes| format!("{bytes} bytes so far")));
        let sessions = perimeter::admin_json(self.world, &["session", "list"])?;
        let session = session_of(&sessions, "engineer")
            .ok_or_else(|| StepError::Answer(format!("the engineer has no session: {sessions}")))?;
        let started = Instant::now();
        let revoked =
            self.world.host(Name::Controller).run(&["umbra-controller", "session", "revoke", &session], SOON)?;
        self.report.command(Name::Controller, &["umbra-controller", "session", "revoke", &session], &revoked);
        let confirmed = revoked.success() && revoked.stdout.contains("nothing passes any more");
        let took = format!("the command took {} ms", revoked.took.as_millis());
        self.check("the gateway confirms that nothing passes any more", ensure(confirmed, took));
        let ended = download.wait_for_end(SOON).map_err(|error| error.to_string());
        let ended = ended.and_then(|(bytes, last)| {
            let ms = last.saturating_duration_since(started);
            ensure(ms < REVOKE_MAX, format!("{} ms after the revoke began, at {bytes} bytes", ms.as_millis()))
        });
        self.check("the download's last byte came", ended);
        let after = self.probe(Name::Laptop, &["--patience=1000", "http", &format!("http://{}/", host_name("web"))])?;
        self.check("the engineer reaches nothing any more", ensure(!after.success(), said(&after)));
        let guest = self.probe(Name::Laptop2, &["http", &format!("http://{}/", host_name("web"))])?;
        self.check("the guest is not disturbed", ensure(guest.stdout == "This is web.\n", said(&guest)));
        Ok(())
    }

    fn verify(&mut self) -> Result<(), StepError> {
        self.report.heading("All of it is in the audit trail");
        self.tell(Name::Controller, &["umbra-controller", "audit", "list", "--limit", "5"])?;
        let verified = self.tell(Name::Controller, &["umbra-controller", "audit", "verify"])?;
        let whole = verified.success() && verified.stdout.contains("the audit trail is whole");
        self.check("the audit trail is whole", ensure(whole, ""));
        Ok(())
    }

    fn leave(&mut self) -> Result<(), StepError> {
        self.report.heading("A laptop leaves no trace");
        let down = self.tell(Name::Laptop2, &["umbra", "down"])?;
        self.check("the guest goes", ensure(down.success(), ""));
        let file = self.world.host(Name::Laptop2).run(&["cat", "/etc/resolv.conf"], SOON)?;
        let as_before = file.stdout == format!("nameserver {OUTSIDE_NAME_SERVER}\n");
        self.check("its resolv.conf is what it was", ensure(as_before, said(&file)));
        let left = overlay_addresses(self.world.host(Name::Laptop2))?;
        let left: Vec<String> = left.iter().map(ToString::to_string).collect();
        self.check("its tunnel's addresses are gone", ensure(left.is_empty(), left.join(" ")));
        Ok(())
    }
}

/// The id of a user's live session.
fn session_of(list: &serde_json::Value, user: &str) -> Option<String> {
    let sessions = list.get("sessions")?.as_array()?;
    let session = sessions.iter().find(|one| one.get("user").and_then(|name| name.as_str()) == Some(user))?;
    Some(session.get("id")?.as_str()?.to_owned())
}
