//! How long do packets of live flows still reach a service after an administrator ended the access?
//!
//! All clients work; in each round another one's access ends, and the others must notice nothing.

use super::crowd::{Crowd, flows_of};
use super::witness::Window;
use super::{Spread, build, now_micros, talk, write_spread};
use crate::lab::{Daemon, Name, Options, World};
use crate::perimeter::{Perimeter, Plan, admin, admin_json, log_in, policy_of, umbra, user_of, write_file};
use crate::service::Services;
use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use std::io::{self, Write};
use std::time::Duration;

/// How long any one step may take.
const STEP: Duration = Duration::from_secs(20);
/// How long after the confirmation everybody is still watched, in microseconds.
const AFTER: i64 = 300_000;
/// A flow that stands still for longer was disturbed, in microseconds; a machine may be busy for some time.
const GAP_MAX: i64 = 1_000_000;
/// How often a laptop is asked whether its catalogue is there again.
const LOOKS_MAX: usize = 200;

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

/// One revoke. Times are microseconds since the administrator's command was started; 0 where nothing came since then.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// How long a command that changes nothing took, just before: the share of starting and connecting.
    pub bare: i64,
    /// When the command had ended, with its confirmation.
    pub returned: i64,
    /// When the last packet of the downloads came to the service.
    pub last_tcp: i64,
    /// When the last datagram came to the service.
    pub last_udp: i64,
    /// When the last echo came to the laptop.
    pub last_down: i64,
    /// Whether a datagram came to the service that was sent after the command had ended.
    pub late: bool,
    /// The longest standstill of another client's flow, in microseconds.
    pub others_gap: i64,
    /// Datagrams of the other clients that did not come.
    pub others_lost: u64,
}

impl Round {
    /// When the last packet of all came to the service.
    pub fn last_up(&self) -> i64 {
        self.last_tcp.max(self.last_udp)
    }
}

/// All revokes of a measurement.
#[derive(Debug)]
pub struct Revoke {
    /// By what.
    pub cause: Cause,
    /// How many clients worked.
    pub clients: usize,
    /// Each.
    pub rounds: Vec<Round>,
}

pub(super) fn measure(options: &Options, cause: Cause, clients: usize, count: usize) -> anyhow::Result<Revoke> {
    let further = Name::further(clients.saturating_sub(1));
    ensure!(further.len() + 1 == clients, "from 1 to {} clients are possible", Name::further(usize::MAX).len() + 1);
    let world = World::start(&Options { further: further.len(), ..options.clone() })?;
    let laptops: Vec<Name> = std::iter::once(Name::Laptop).chain(further).collect();
    let _services = Services::start(&world)?;
    let plan = Plan { laptops: laptops.clone(), ..Plan::default() };
    let _perimeter = Perimeter::start(&world, &plan)?;
    let before = policy_of(&laptops);
    write_file(&world, Name::Controller, "policy-before.cedar", before.as_bytes())?;
    for laptop in &laptops {
        let (_, group) = user_of(*laptop);
        let after = before.replace(&format!("Group::\"{group}\""), "Group::\"nobody\"");
        write_file(&world, Name::Controller, &format!("policy-without-{laptop}.cedar"), after.as_bytes())?;
    }
    let crowd = Crowd::start(&world, &laptops)?;
    let mut rounds = Vec::new();
    for (number, laptop) in laptops.iter().cycle().take(count).enumerate() {
        let round = revoke_once(&world, &crowd, cause, *laptop);
        rounds.push(round.with_context(|| format!("revoke {number}, of {laptop}"))?);
        allow_again(&world, cause, *laptop)?;
    }
    Ok(Revoke { cause, clients, rounds })
}

fn allow_again(world: &World, cause: Cause, laptop: Name) -> anyhow::Result<()> {
    match cause {
        Cause::Session => log_in(world, laptop)?,
        Cause::User => {
            admin(world, &["user", "enable", user_of(laptop).0])?;
            log_in(world, laptop)?;
        }
        Cause::Policy => {
            admin(world, &["policy", "apply", "/etc/umbra/policy-before.cedar"])?;
        }
    }
    // The catalogue comes to the laptop after the answer to the administrator.
    for _ in 0..LOOKS_MAX {
        if umbra(world, laptop, &["ls"])?.stdout.contains("web") {
            return Ok(());
        }
    }
    bail!("{laptop} still does not see web")
}

fn revoke_once(world: &World, crowd: &Crowd, cause: Cause, laptop: Name) -> anyhow::Result<Round> {
    let (probe, first) = crowd.start_probe(world, laptop)?;
    let user = user_of(laptop).0;
    let asked = now_micros()?;
    let session = session_of(world, user)?;
    let bare = now_micros()? - asked;
    let policy = format!("/etc/umbra/policy-without-{laptop}.cedar");
    let words = match cause {
        Cause::Session => ["session", "revoke", &session],
        Cause::User => ["user", "disable", user],
        Cause::Policy => ["policy", "apply", &policy],
    };
    let sent = now_micros()?;
    admin(world, &words)?;
    let returned = now_micros()?;
    // The laptop goes on trying: two more reports are a hundred datagrams or so.
    probe.wait_for_line_after(probe.mark(), "tried", STEP)?;
    probe.wait_for_line_after(probe.mark(), "tried", STEP)?;
    let windows = crowd.watch.until(first, returned + AFTER)?;
    let last = |kind: &str| {
        let seen = windows.iter().flat_map(|w| &w.flows);
        let own = seen.filter(|(flow, _)| flow.starts_with(kind) && is_of(flow, laptop));
        own.map(|(_, seen)| (seen.last - sent).max(0)).max().unwrap_or_default()
    };
    let newest_sent = windows.iter().flat_map(|w| &w.flows).filter(|(flow, _)| is_of(flow, laptop));
    let newest_sent = newest_sent.map(|(_, seen)| seen.sent).max().unwrap_or_default();
    let (others_gap, others_lost) = others(&windows, crowd, laptop, returned)?;
    Ok(Round {
        bare,
        returned: returned - sent,
        last_tcp: last("tcp"),
        last_udp: last("udp"),
        last_down: last_echo(&probe).map_or(0, |last| (last - sent).max(0)),
        late: newest_sent > returned,
        others_gap,
        others_lost,
    })
}

fn is_of(flow: &str, laptop: Name) -> bool {
    flows_of(laptop).iter().any(|own| own == flow)
}

/// The longest standstill of the other clients' flows, and how many of their datagrams are missing; an error when one did
/// not live on.
fn others(windows: &[Window], crowd: &Crowd, laptop: Name, returned: i64) -> anyhow::Result<(i64, u64)> {
    let (mut gap, mut lost) = (0, 0);
    for flow in crowd.flows_without(laptop) {
        let seen: Vec<_> = windows.iter().filter_map(|window| window.flows.get(&flow)).collect();
        let last = seen.iter().map(|seen| seen.last).max().unwrap_or_default();
        let longest = seen.iter().map(|seen| seen.gap).max().unwrap_or_default();
        ensure!(last > returned, "{flow} did not live on after the revoke of {laptop}");
        ensure!(longest <= GAP_MAX, "{flow} stood still for {longest} us at the revoke of {laptop}");
        gap = gap.max(longest);
        lost += seen.iter().map(|seen| seen.lost).sum::<u64>();
    }
    Ok((gap, lost))
}

fn session_of(world: &World, user: &str) -> anyhow::Result<String> {
    let reply = admin_json(world, &["session", "list"])?;
    let sessions = reply.pointer("/sessions").and_then(serde_json::Value::as_array).into_iter().flatten();
    let mut own = sessions.filter(|session| session.pointer("/user").and_then(serde_json::Value::as_str) == Some(user));
    let id = own.next_back().and_then(|session| session.pointer("/id")?.as_str());
    Ok(id.with_context(|| format!("no session of {user}: {reply}"))?.to_owned())
}

fn last_echo(probe: &Daemon) -> Option<i64> {
    let lines = probe.lines();
    lines.iter().filter_map(|line| line.strip_prefix("heard ")?.parse().ok()).max()
}

impl Revoke {
    /// Tells the figures.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let spread = |part: fn(&Round) -> i64| Spread::of(self.rounds.iter().map(part).collect());
        let (up, down) = (spread(Round::last_up), spread(|round| round.last_down));
        let (tcp, udp) = (spread(|round| round.last_tcp), spread(|round| round.last_udp));
        let (returned, after) = (spread(|round| round.returned), spread(|round| round.last_up() - round.returned));
        let (bare, gap) = (spread(|round| round.bare), spread(|round| round.others_gap));
        let late = self.rounds.iter().filter(|round| round.late).count();
        let lost: u64 = self.rounds.iter().map(|round| round.others_lost).sum();
        let (mbits, beats) = (talk::LOAD_RATE as f64 * 8e-6, 1000 / talk::LOAD_BEAT.as_millis());
        let clients = self.clients;
        writeln!(out, "{clients} clients, each with a download of {mbits} Mbit/s and {beats} datagrams/s")?;
        write_spread("command started to last packet at the service", up, out)?;
        write_spread("  of the downloads", tcp, out)?;
        write_spread("  of the datagrams", udp, out)?;
        write_spread("command started to last packet at the laptop", down, out)?;
        write_spread("command started to confirmation", returned, out)?;
        write_spread("confirmation to last packet at the service", after, out)?;
        write_spread("the same, for a command that changes nothing", bare, out)?;
        write_spread("longest standstill of another client's flow", gap, out)?;
        writeln!(out, "other clients' datagrams that did not come: {lost}")?;
        writeln!(out, "revokes after whose confirmation a new datagram passed: {late}")?;
        let line = serde_json::json!({
            "measure": "revoke", "cause": self.cause, "count": self.rounds.len(), "clients": clients, "build": build(),
            "load_mbit_s": mbits, "load_datagrams_s": beats as u64,
            "last_packet_ms": up, "last_tcp_ms": tcp, "last_udp_ms": udp, "last_echo_ms": down, "confirmed_ms": returned,
            "bare_command_ms": bare, "confirmation_to_last_packet_ms": after, "others_gap_ms": gap, "others_lost": lost,
            "late": late,
        });
        writeln!(out, "{line}")
    }
}
