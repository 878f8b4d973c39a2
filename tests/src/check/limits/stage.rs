//! The world whose bounds are filled: an organisation with one gateway, somebody who works on all the time, and the machine that will
//! ask for too much.

use super::super::{Helper, Tally};
use crate::lab::{Daemon, Name, World};
use crate::perimeter::{Perimeter, Plan, admin_json, log_in, umbra};
use crate::service::{ECHO_PORT, Services};
use crate::wire::calls::{Answer, call};
use anyhow::{Context as _, bail, ensure};
use controller::config::SOCKET;
use prost::Message;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that happens at once, on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(60);
/// The pause between two lines of whoever works on.
const PAUSE: Duration = Duration::from_millis(50);

/// All of it.
pub struct Stage {
    /// The client of the machine that asks for too much, once it has joined.
    pub attacker: Option<Daemon>,
    perimeter: Perimeter,
    pids: Vec<(&'static str, u32)>,
    bystander: Bystander,
    seen: u64,
    _services: Services,
    /// Last: the programs end before their world.
    pub world: World,
}

fn taken(answers: &[Answer]) -> anyhow::Result<()> {
    match answers.iter().find(|answer| answer.code != 0) {
        Some(refused) => bail!("a call was refused: {refused:?}"),
        None => Ok(()),
    }
}

/// Somebody who works on: one TCP connection, line after line, each of which has to come back.
struct Bystander {
    _program: Helper,
    heard: Arc<AtomicU64>,
}

impl Bystander {
    fn start(world: &World) -> anyhow::Result<Self> {
        let to = format!("web.corp.example:{ECHO_PORT}");
        let mut command = world.host(Name::Laptop2).command("umbra-lab");
        command.args(["probe", "--patience=20000", "echo", &to]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let (mut input, output) = (child.stdin.take().context("no input")?, child.stdout.take().context("no output")?);
        let heard = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&heard);
        thread::spawn(move || {
            let mut lines = BufReader::new(output).lines();
            // Ends with the connection, and is then heard of no more.
            while writeln!(input, "a line").is_ok() && lines.next().is_some_and(|line| line.is_ok()) {
                counted.fetch_add(1, Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
        });
        Ok(Self { _program: Helper(child), heard })
    }
}

impl Stage {
    /// Makes it, with everybody connected but the attacker, who has not joined.
    pub fn set() -> anyhow::Result<Self> {
        let world = World::start(&crate::lab::Options::default())?;
        let services = Services::start(&world)?;
        let perimeter = Perimeter::start(&world, &Plan { laptops: vec![Name::Laptop2], ..Plan::default() })?;
        let gateway = perimeter.gateways.get(&Name::Gateway).context("there is no gateway")?;
        let client = perimeter.clients.get(&Name::Laptop2).context("there is no client")?;
        let pids =
            vec![("controller", perimeter.controller.pid()), ("gateway", gateway.pid()), ("client", client.pid())];
        let bystander = Bystander::start(&world)?;
        let stage = Self { attacker: None, perimeter, pids, bystander, seen: 0, _services: services, world };
        stage.until("somebody works", || Ok(stage.bystander.heard.load(Ordering::Relaxed) > 0))?;
        Ok(stage)
    }

    /// Waits for it, and no longer than anything may take.
    pub fn until(&self, what: &str, mut so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let started = Instant::now();
        while !so()? {
            ensure!(started.elapsed() < SOON, "{what}: not within {SOON:?}");
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// `umbra-controller status`.
    pub fn status(&self) -> anyhow::Result<serde_json::Value> {
        Ok(admin_json(&self.world, &["status"])?)
    }

    /// How often the controller counted these reasons, together.
    pub fn counted(&self, reasons: &[&str]) -> anyhow::Result<u64> {
        let status = self.status()?;
        let drops = status.get("drops").and_then(|drops| drops.as_array()).context("no counters")?;
        let one = |drop: &serde_json::Value| {
            let reason = drop.get("reason")?.as_str()?;
            reasons.contains(&reason).then(|| drop.get("count")?.as_u64()).flatten()
        };
        Ok(drops.iter().filter_map(one).sum())
    }

    /// How many machines knocked and were let in, since the start.
    pub fn peers_knocked(&self) -> anyhow::Result<usize> {
        Ok(self.perimeter.controller.lines().iter().filter(|line| line.contains("a machine knocked")).count())
    }

    /// What an administrator's command does when it is refused, and what it says.
    pub fn refused(&self, words: &[String], part: &str) -> anyhow::Result<()> {
        let finished = self.run_admin(words)?;
        ensure!(!finished.success(), "one beyond was taken: {words:?}");
        ensure!(finished.stderr.contains(part), "{:?}", finished.stderr);
        super::said(finished.stderr.lines().next().unwrap_or_default())
    }

    /// What it does when it is not.
    pub fn done(&self, words: &[String]) -> anyhow::Result<()> {
        let finished = self.run_admin(words)?;
        ensure!(finished.success(), "at the limit it was refused: {:?}", finished.stderr);
        Ok(())
    }

    fn run_admin(&self, words: &[String]) -> anyhow::Result<crate::lab::Finished> {
        let all: Vec<&str> = std::iter::once("umbra-controller").chain(words.iter().map(String::as_str)).collect();
        Ok(self.world.host(Name::Controller).run(&all, SOON)?)
    }

    /// Connections to the controller's socket that say nothing, until this ends.
    pub fn hold_local(&self, count: usize) -> anyhow::Result<Helper> {
        let mut command = self.world.host(Name::Controller).command("umbra-lab");
        command.args(["__attack", "hold", SOCKET, &count.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().context("no output")?;
        let helper = Helper(child);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line.trim() == "held", "the connections were not made: {line:?}");
        Ok(helper)
    }

    /// A command that somebody waits for.
    pub fn status_in_background(&self) -> anyhow::Result<Child> {
        let mut command = self.world.host(Name::Controller).command("umbra-controller");
        command.arg("status").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command.spawn()?)
    }

    /// The attacker's machine reaches what its user was granted.
    pub fn attacker_reaches(&self) -> anyhow::Result<()> {
        self.until("the attacker's own page", || self.reads(Name::Laptop, "web"))
    }

    fn reads(&self, from: Name, service: &str) -> anyhow::Result<bool> {
        let url = format!("http://{service}.corp.example/");
        let words = ["umbra-lab", "probe", "--patience=4000", "http", &url];
        Ok(self.world.host(from).run(&words, SOON)?.success())
    }

    /// Makes calls as an administrator; each is taken.
    pub fn administer<M: Message>(&self, call: &str, requests: impl IntoIterator<Item = M>) -> anyhow::Result<()> {
        let socket = format!("--socket={SOCKET}");
        taken(&self.call(Name::Controller, &[&socket], &format!("/umbra.admin.v1.Admin/{call}"), requests)?)
    }

    /// Makes calls as the attacker's machine; each is taken, and answered with these bytes.
    pub fn attack<M: Message>(
        &self,
        path: &str,
        requests: impl IntoIterator<Item = M>,
    ) -> anyhow::Result<Vec<Vec<u8>>> {
        let answers = self.call(Name::Laptop, &[], path, requests)?;
        taken(&answers)?;
        Ok(answers.into_iter().map(|answer| answer.bytes).collect())
    }

    /// The same where some may be refused: the codes of gRPC.
    pub fn codes<M: Message>(&self, path: &str, requests: impl IntoIterator<Item = M>) -> anyhow::Result<Vec<i32>> {
        Ok(self.call(Name::Laptop, &[], path, requests)?.into_iter().map(|answer| answer.code).collect())
    }

    fn call<M: Message>(
        &self,
        host: Name,
        door: &[&str],
        path: &str,
        requests: impl IntoIterator<Item = M>,
    ) -> anyhow::Result<Vec<Answer>> {
        let calls = requests.into_iter().map(|request| (path.to_owned(), vec![request.encode_to_vec()]));
        call(&self.world, host, door, &calls.collect::<Vec<_>>())
    }

    /// The ids of resources whose names begin so.
    pub fn resources(&self, begin: &str) -> anyhow::Result<Vec<String>> {
        let named = |row: &Value| row.get("name").and_then(Value::as_str).is_some_and(|name| name.starts_with(begin));
        self.ids(&["resource", "list"], "resources", named)
    }

    /// The ids of the join keys with which somebody may still knock.
    pub fn join_keys(&self) -> anyhow::Result<Vec<String>> {
        let alive = |row: &Value| row.get("state").is_some_and(|state| state == "usable" || state == "used");
        self.ids(&["join-key", "list"], "join_keys", alive)
    }

    fn ids(&self, words: &[&str], rows: &str, which: impl Fn(&Value) -> bool) -> anyhow::Result<Vec<String>> {
        let listed = admin_json(&self.world, words)?;
        let all = listed.get(rows).and_then(Value::as_array).with_context(|| format!("no {rows}"))?;
        let id = |row: &Value| row.get("id").and_then(Value::as_str).map(str::to_owned).context("no id");
        all.iter().filter(|row| which(row)).map(id).collect()
    }

    /// How many grants the attacker's log-in has.
    pub fn attackers_grants(&self) -> anyhow::Result<usize> {
        let shown = admin_json(&self.world, &["session", "show", &self.session_of("engineer")?])?;
        Ok(shown.get("grants").and_then(Value::as_array).context("no grants")?.len())
    }

    /// Does the newest part of the audit trail hold these words?
    pub fn trail_says(&self, words: &str) -> anyhow::Result<bool> {
        Ok(admin_json(&self.world, &["audit", "list"])?.to_string().contains(words))
    }

    fn session_of(&self, user: &str) -> anyhow::Result<String> {
        let listed = admin_json(&self.world, &["session", "list"])?;
        let rows = listed.get("sessions").and_then(|rows| rows.as_array()).context("no list of sessions")?;
        let live = rows.iter().filter(|row| row.get("ended").is_none_or(|ended| ended != true));
        let mut of_user = live.filter(|row| row.get("user").is_some_and(|of| of == user));
        let id = of_user.find_map(|row| row.get("id")?.as_str());
        Ok(id.context("nobody is logged in")?.to_owned())
    }

    /// Does the controller know of a flow that made room?
    pub fn has_evicted(&self) -> anyhow::Result<bool> {
        let shown = admin_json(&self.world, &["session", "show", &self.session_of("engineer")?])?;
        let flows = shown.get("flows").and_then(|flows| flows.as_array()).context("no flows")?;
        Ok(flows.iter().any(|flow| flow.get("end").is_some_and(|end| end == "evicted")))
    }

    /// Somebody else's question to the controller: why is that closed?
    pub fn others_are_answered(&self) -> anyhow::Result<()> {
        let said = umbra(&self.world, Name::Laptop2, &["why", "web"])?;
        super::said(said.stdout.lines().next().unwrap_or_default())
    }

    /// After each filling: who works on has lost nothing, what nobody granted is closed, and the programs are the same.
    pub fn examine(&mut self, what: &str, tally: &mut Tally) -> anyhow::Result<()> {
        let seen = self.seen;
        let goes_on = self.until("somebody works on", || Ok(self.bystander.heard.load(Ordering::Relaxed) > seen));
        self.seen = self.bystander.heard.load(Ordering::Relaxed);
        if goes_on.is_err() {
            writeln!(io::stdout(), "{what}: somebody else's connection is lost")?;
            tally.wrong("lost", 1);
        }
        if self.reads(Name::Laptop2, "wiki")? {
            writeln!(io::stdout(), "{what}: what nobody granted is open")?;
            tally.wrong("leaked", 1);
        }
        let running: BTreeMap<&str, bool> =
            self.programs().map(|(name, program)| (name, program.is_running())).collect();
        for (name, pid) in &self.pids {
            if !running.get(name).copied().unwrap_or(false) {
                writeln!(io::stdout(), "{what}: the {name} (process {pid}) ended")?;
                tally.wrong("lost", 1);
            }
        }
        Ok(())
    }

    /// Takes the attacker's log-in: what it had is closed, and stays so while it asks for too much once more.
    pub fn revoke(&self, tally: &mut Tally) -> anyhow::Result<()> {
        let session = self.session_of("engineer")?;
        self.done(&["session", "revoke", &session].map(str::to_owned))?;
        let storm = ["umbra-lab", "__attack", "storm", "silence", "--lasts=2"];
        self.world.host(Name::Laptop).run(&storm, SOON)?;
        let alive = (0..3).map(|_| self.reads(Name::Laptop, "web")).collect::<anyhow::Result<Vec<_>>>()?;
        tally.wrong("alive", u64::try_from(alive.into_iter().filter(|open| *open).count())?);
        // One user and one device are locked out for a while; others come in.
        Ok(log_in(&self.world, Name::Laptop2)?)
    }

    /// Every line of a program that fell over inside.
    pub fn count_panics(&self, tally: &mut Tally) -> anyhow::Result<()> {
        for (name, program) in self.programs() {
            let lines = program.lines();
            let panics = lines.iter().filter(|line| line.contains("panicked") || line.contains("was contained"));
            let panics = u64::try_from(panics.count())?;
            writeln!(io::stdout(), "{name}: {panics} panics")?;
            tally.wrong("panics", panics);
        }
        Ok(())
    }

    fn programs(&self) -> impl Iterator<Item = (&'static str, &Daemon)> {
        let gateway = self.perimeter.gateways.values().map(|gateway| ("gateway", gateway));
        let client = self.perimeter.clients.values().map(|client| ("client", client));
        let attacker = self.attacker.iter().map(|client| ("attacker's client", client));
        std::iter::once(("controller", &self.perimeter.controller)).chain(gateway).chain(client).chain(attacker)
    }
}
