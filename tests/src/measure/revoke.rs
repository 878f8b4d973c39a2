//! How long do packets of live flows still reach a service after an administrator ended the access?

use super::{Spread, build, now_micros, write_spread};
use crate::lab::topology::INSIDE_LINK;
use crate::lab::{Daemon, Name, Options, World};
use crate::perimeter::{POLICY, Perimeter, Plan, admin, admin_json, log_in, umbra, write_file};
use crate::service::Services;
use anyhow::{Context as _, bail};
use clap::ValueEnum;
use std::io::{self, Write};
use std::time::Duration;

/// How long any one step may take.
const STEP: Duration = Duration::from_secs(20);

/// What ends the access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// `session revoke`
    Session,
    /// `user disable`
    User,
    /// `policy apply`, without the permit
    Policy,
}

/// How often a laptop is asked whether its catalogue is there again.
const LOOKS_MAX: usize = 200;

/// One revoke. Times are microseconds since the administrator's command was started.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// How long a command that changes nothing took, just before: the share of starting and connecting.
    pub bare: i64,
    /// When the command had ended, with its confirmation.
    pub returned: i64,
    /// When the last packet of the flows came to the service; 0 where none came since the command was started.
    pub last_up: i64,
    /// When the last echo came to the laptop; likewise.
    pub last_down: i64,
    /// How many datagrams came to the service that the laptop sent after the command had ended.
    pub late: usize,
}

/// All revokes of a measurement.
#[derive(Debug)]
pub struct Revoke {
    /// By what.
    pub cause: Cause,
    /// Each.
    pub rounds: Vec<Round>,
}

pub(super) fn measure(options: &Options, cause: Cause, count: usize) -> anyhow::Result<Revoke> {
    let world = World::start(options)?;
    let _services = Services::start(&world)?;
    let _perimeter = Perimeter::start(&world, &Plan { laptops: vec![Name::Laptop], ..Plan::default() })?;
    write_file(&world, Name::Controller, "policy-before.cedar", POLICY.as_bytes())?;
    let without = POLICY.replace("Group::\"engineers\"", "Group::\"guests\"");
    write_file(&world, Name::Controller, "policy-after.cedar", without.as_bytes())?;
    let mut rounds = Vec::new();
    for number in 0..count {
        if number > 0 {
            allow_again(&world, cause)?;
        }
        rounds.push(revoke_once(&world, cause).with_context(|| format!("revoke {number}"))?);
    }
    Ok(Revoke { cause, rounds })
}

fn allow_again(world: &World, cause: Cause) -> anyhow::Result<()> {
    match cause {
        Cause::Session => log_in(world, Name::Laptop)?,
        Cause::User => {
            admin(world, &["user", "enable", "engineer"])?;
            log_in(world, Name::Laptop)?;
        }
        Cause::Policy => {
            admin(world, &["policy", "apply", "/etc/umbra/policy-before.cedar"])?;
        }
    }
    // The catalogue comes to the laptop after the answer to the administrator.
    for _ in 0..LOOKS_MAX {
        if umbra(world, Name::Laptop, &["ls"])?.stdout.contains("web") {
            return Ok(());
        }
    }
    bail!("the laptop still does not see web")
}

fn witness(world: &World, host: Name, words: &[&str]) -> anyhow::Result<Daemon> {
    let mut command = world.host(host).command("umbra-lab");
    command.arg("__witness").args(words);
    Ok(world.host(host).start(words.first().copied().unwrap_or_default(), command)?)
}

fn revoke_once(world: &World, cause: Cause) -> anyhow::Result<Round> {
    let watch = witness(world, Name::Service, &["watch", INSIDE_LINK])?;
    watch.wait_for_line("watching", STEP)?;
    let talk = witness(world, Name::Laptop, &["talk", "web.corp.example"])?;
    talk.wait_for_line("heard", STEP)?;
    talk.wait_for_line("tried", STEP)?;
    for flow in ["tcp", "udp"] {
        watch.wait_for_line_after(watch.mark(), flow, STEP)?;
    }
    let asked = now_micros()?;
    let session = current_session(world)?;
    let bare = now_micros()? - asked;
    let words = match cause {
        Cause::Session => vec!["session", "revoke", &session],
        Cause::User => vec!["user", "disable", "engineer"],
        Cause::Policy => vec!["policy", "apply", "/etc/umbra/policy-after.cedar"],
    };
    let sent = now_micros()?;
    admin(world, &words)?;
    let returned = now_micros()?;
    // The laptop goes on trying: two more reports are a hundred datagrams or so.
    talk.wait_for_line_after(talk.mark(), "tried", STEP)?;
    talk.wait_for_line_after(talk.mark(), "tried", STEP)?;
    let up = times(&watch, &["tcp ", "udp "]);
    let down = times(&talk, &["heard "]);
    let since = |all: &[i64]| all.iter().max().map_or(0, |last| (last - sent).max(0));
    Ok(Round {
        bare,
        returned: returned - sent,
        last_up: since(&up),
        last_down: since(&down),
        late: sent_at(&watch).iter().filter(|time| **time > returned).count(),
    })
}

fn current_session(world: &World) -> anyhow::Result<String> {
    let sessions = admin_json(world, &["session", "list"])?;
    let id = sessions.pointer("/sessions/0/id").and_then(serde_json::Value::as_str);
    Ok(id.with_context(|| format!("no session: {sessions}"))?.to_owned())
}

fn times(witness: &Daemon, kinds: &[&str]) -> Vec<i64> {
    let lines = witness.lines();
    lines
        .iter()
        .filter_map(|line| kinds.iter().find_map(|kind| line.strip_prefix(kind))?.split(' ').next()?.parse().ok())
        .collect()
}

/// When the datagrams that came were sent.
fn sent_at(watch: &Daemon) -> Vec<i64> {
    let lines = watch.lines();
    lines.iter().filter_map(|line| line.strip_prefix("udp ")?.split(' ').nth(1)?.parse().ok()).collect()
}

impl Revoke {
    /// Tells the figures.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let spread = |part: fn(&Round) -> i64| Spread::of(self.rounds.iter().map(part).collect());
        let (up, down) = (spread(|round| round.last_up), spread(|round| round.last_down));
        let (returned, after) = (spread(|round| round.returned), spread(|round| round.last_up - round.returned));
        let bare = spread(|round| round.bare);
        let late: usize = self.rounds.iter().map(|round| round.late).sum();
        write_spread("command started to last packet at the service", up, out)?;
        write_spread("command started to last packet at the laptop", down, out)?;
        write_spread("command started to confirmation", returned, out)?;
        write_spread("confirmation to last packet at the service", after, out)?;
        write_spread("the same, for a command that changes nothing", bare, out)?;
        writeln!(out, "datagrams sent after the confirmation that passed: {late}")?;
        let line = serde_json::json!({
            "measure": "revoke", "cause": self.cause, "count": self.rounds.len(), "clients": 1, "build": build(),
            "last_packet_ms": up, "last_echo_ms": down, "confirmed_ms": returned, "bare_command_ms": bare, "late_packets": late,
            "confirmation_to_last_packet_ms": after,
        });
        writeln!(out, "{line}")
    }
}
