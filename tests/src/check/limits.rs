//! Who fills a bound, and does everybody else notice? Strangers, a machine that has joined and an administrator ask for one more
//! of everything than there may be, while somebody else works on.
//!
//! Each bound has its own test beside the code, at the limit and one beyond (`tests/tests/structure.rs` sees to that). Here the real
//! programs are filled from outside, and what counts is: one beyond is refused, the refusal is counted, it works again
//! afterwards, and meanwhile nobody else loses anything or gets anything.

mod records;
mod stage;

use super::Tally;
use crate::lab::Name;
use crate::perimeter::{POLICY, carry_join_file, join_laptop, log_in, start_client, write_file};
use anyhow::{Context as _, ensure};
use model::limits::{
    ADMIN_CONNECTIONS_MAX, FLOWS_PER_GRANT_MAX, HANDSHAKES_PER_SECOND, JOIN_KEY_USES_MAX, KNOCKS_PER_SECOND,
    LOGIN_FAILURES_MAX, NAME_MAX, NAMES_PER_RESOURCE_MAX, POLICY_BYTES_MAX, PROVISIONAL_LIFE, PROVISIONAL_PER_KEY_MAX,
};
use stage::{SOON, Stage};
use std::io::{self, Write as _};
use std::net::SocketAddr;

/// How `check limits` is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Also wait until what is given up by time alone is over
    #[arg(long)]
    long: bool,
    /// Seconds of each storm of a machine that has joined
    #[arg(long, default_value_t = 4)]
    storm: u64,
}

/// One bound, filled.
type Fill = fn(&mut Stage, &Arguments) -> anyhow::Result<()>;

const FILLS: [(&str, Fill); 14] = [
    ("strangers' knocks and handshakes in a second", strangers),
    ("machines that enrol with one join key", newcomers),
    ("a machine joins and connects", join),
    ("TLS handshakes of one node", handshakes),
    ("connections of one node", connections),
    ("streams of one connection", streams),
    ("flows of one grant", flows),
    ("grants of a device", records::grants),
    ("new names of a device in a minute", records::suffix_names),
    ("connections to the local socket", local_connections),
    ("names of a resource, and bytes of a name", names),
    ("uses of a join key", uses),
    ("bytes of a policy", policy_bytes),
    ("failed log-ins", log_ins),
];

/// Fills them one after the other.
pub fn check(arguments: &Arguments) -> anyhow::Result<Tally> {
    let mut tally = Tally::new("limits", &["lost", "alive", "leaked", "panics"]);
    let mut stage = Stage::set()?;
    for (what, fill) in FILLS {
        writeln!(io::stdout(), "{what}")?;
        fill(&mut stage, arguments).context(what)?;
        stage.examine(what, &mut tally)?;
        tally.tried("bounds", 1);
    }
    stage.revoke(&mut tally)?;
    stage.count_panics(&mut tally)?;
    Ok(tally)
}

/// Says what was found, one line of the report.
fn said(words: &str) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout(), "  {words}")?)
}

fn controller_at() -> anyhow::Result<String> {
    let address = Name::Controller.outside().first().copied().context("no address")?;
    Ok(SocketAddr::new(address, 443).to_string())
}

fn strangers(stage: &mut Stage, _: &Arguments) -> anyhow::Result<()> {
    let to = controller_at()?;
    let key = stage.status()?.get("controller_key").and_then(|key| key.as_str()).context("no key")?.to_owned();
    let knocks = (2 * KNOCKS_PER_SECOND).to_string();
    let initiations = (2 * HANDSHAKES_PER_SECOND).to_string();
    let reasons = ["knock_refused", "udp_knock_rate", "udp_unknown_sender", "udp_cookie_asked", "udp_source_rate"];
    let before = stage.counted(&reasons)?;
    let words = ["umbra-lab", "__attack", "noise", &to, &key, "--knocks", &knocks, "--initiations", &initiations];
    let noise = stage.world.host(Name::Stranger).run(&words, SOON)?;
    ensure!(noise.success(), "{noise:?}");
    let counted = stage.counted(&reasons)? - before;
    ensure!(counted > 0, "nothing of it is counted");
    said(&format!("{knocks} knocks and {initiations} initiations, {counted} refused and counted"))
}

fn newcomers(stage: &mut Stage, arguments: &Arguments) -> anyhow::Result<()> {
    let to = controller_at()?;
    let join = carry_join_file(&stage.world, Name::Stranger, &["--device", "--uses", "1000"])?;
    let knock = |count: usize| -> anyhow::Result<()> {
        let count = count.to_string();
        let words = ["umbra-lab", "__attack", "knock", &to, &join, "--count", &count];
        let knocked = stage.world.host(Name::Stranger).run(&words, SOON)?;
        ensure!(knocked.success(), "{knocked:?}");
        Ok(())
    };
    let crowded = || stage.counted(&["knock_crowded"]);
    let before = crowded()?;
    knock(PROVISIONAL_PER_KEY_MAX)?;
    stage.until("all who may knock are there", || Ok(stage.peers_knocked()? >= PROVISIONAL_PER_KEY_MAX))?;
    ensure!(crowded()? == before, "at the limit one was refused");
    knock(3)?;
    stage.until("one beyond is counted", || Ok(crowded()? == before + 3))?;
    said(&format!("{PROVISIONAL_PER_KEY_MAX} are let in, 3 more are counted"))?;
    if arguments.long {
        std::thread::sleep(PROVISIONAL_LIFE);
        knock(1)?;
        stage.until("there is room again", || Ok(stage.peers_knocked()? > PROVISIONAL_PER_KEY_MAX))?;
        ensure!(crowded()? == before + 3, "refused after {PROVISIONAL_LIFE:?}");
        said("after a minute there is room again")?;
    }
    Ok(())
}

/// The attacker's own machine, with a join key of its own: those who knock with another one are not in its way.
fn join(stage: &mut Stage, _: &Arguments) -> anyhow::Result<()> {
    let client = start_client(&stage.world, Name::Laptop)?;
    join_laptop(&stage.world, Name::Laptop)?;
    client.wait_for_line("connected to the controller", SOON)?;
    log_in(&stage.world, Name::Laptop)?;
    stage.attacker = Some(client);
    stage.attacker_reaches()
}

fn storm(stage: &Stage, arguments: &Arguments, how: &str, reason: &str) -> anyhow::Result<()> {
    let before = stage.counted(&[reason])?;
    let lasts = arguments.storm.to_string();
    let words = ["umbra-lab", "__attack", "storm", how, "--lasts", &lasts];
    let raged = stage.world.host(Name::Laptop).run(&words, SOON)?;
    ensure!(raged.success(), "{raged:?}");
    stage.until("one beyond is counted", || Ok(stage.counted(&[reason])? > before))?;
    let counted = stage.counted(&[reason])? - before;
    said(&format!("{} were made, {counted} counted as {reason}", raged.stdout.trim()))?;
    // Others are answered as before, and when it has calmed down the machine itself is.
    stage.others_are_answered()?;
    stage.until("its own log-in", || Ok(log_in(&stage.world, Name::Laptop).is_ok()))
}

fn handshakes(stage: &mut Stage, arguments: &Arguments) -> anyhow::Result<()> {
    storm(stage, arguments, "silence", "rpc_handshakes_full")
}

fn connections(stage: &mut Stage, arguments: &Arguments) -> anyhow::Result<()> {
    storm(stage, arguments, "whole", "rpc_connections_full")
}

/// Those beyond are refused; a connection that goes on asking ends, and the next one is served.
fn streams(stage: &mut Stage, arguments: &Arguments) -> anyhow::Result<()> {
    storm(stage, arguments, "streams", "rpc_http2_broken")
}

fn flows(stage: &mut Stage, _: &Arguments) -> anyhow::Result<()> {
    stage.attacker_reaches()?;
    let count = (FLOWS_PER_GRANT_MAX + 64).to_string();
    let words = ["umbra-lab", "__attack", "flows", "web.corp.example:9000", &count];
    let opened = stage.world.host(Name::Laptop).run(&words, SOON)?;
    ensure!(opened.success(), "{opened:?}");
    stage.until("the record of a flow that made room", || stage.has_evicted())?;
    said(&format!(
        "{} flows were answered, the last ones, too; the longest idle ones made room",
        opened.stdout.trim()
    ))?;
    stage.attacker_reaches()
}

fn local_connections(stage: &mut Stage, _: &Arguments) -> anyhow::Result<()> {
    let holder = stage.hold_local(ADMIN_CONNECTIONS_MAX)?;
    let mut waiting = stage.status_in_background()?;
    // It cannot be answered while they are held; who asks from elsewhere needs no place there.
    stage.others_are_answered()?;
    ensure!(waiting.try_wait()?.is_none(), "one connection too many was served");
    drop(holder);
    stage.until("the command that waited", || Ok(waiting.try_wait()?.is_some_and(|status| status.success())))?;
    said(&format!("{ADMIN_CONNECTIONS_MAX} idle connections, one command waits and is answered when they go"))
}

fn names(stage: &mut Stage, _: &Arguments) -> anyhow::Result<()> {
    let add = |name: &str, count: usize| {
        let hosts = (0..count).flat_map(|n| ["--host".to_owned(), format!("{name}{n}.corp.example")]);
        let words = ["resource", "add", name, "--site", "hq", "--tcp", "443"].map(str::to_owned);
        words.into_iter().chain(hosts).collect::<Vec<_>>()
    };
    let long = "g".repeat(NAME_MAX);
    let delete = |noun: &str, name: &str| [noun, "delete", name].map(str::to_owned);
    // Twice: what was at the limit is gone without a trace, and fits again.
    for _ in 0..2 {
        stage.refused(&add("many", NAMES_PER_RESOURCE_MAX + 1), "at most 32 places")?;
        stage.done(&add("many", NAMES_PER_RESOURCE_MAX))?;
        stage.done(&delete("resource", "many"))?;
        stage.refused(&["group", "add", &format!("{long}g")].map(str::to_owned), "")?;
        stage.done(&["group", "add", &long].map(str::to_owned))?;
        stage.done(&delete("group", &long))?;
    }
    Ok(())
}

fn uses(stage: &mut Stage, _: &Arguments) -> anyhow::Result<()> {
    let key = |uses: u32| ["join-key", "create", "--device", "--uses", &uses.to_string()].map(str::to_owned);
    let before = stage.join_keys()?;
    stage.refused(&key(JOIN_KEY_USES_MAX + 1), "at most 1000 uses")?;
    ensure!(stage.join_keys()? == before, "one that was refused is there");
    stage.done(&key(JOIN_KEY_USES_MAX))?;
    for fresh in stage.join_keys()?.into_iter().filter(|id| !before.contains(id)) {
        stage.done(&["join-key", "revoke", &fresh].map(str::to_owned))?;
    }
    ensure!(stage.join_keys()? == before, "one that was revoked is alive");
    stage.done(&key(1))
}

fn policy_bytes(stage: &mut Stage, _: &Arguments) -> anyhow::Result<()> {
    let apply = |bytes: usize| -> anyhow::Result<Vec<String>> {
        let text = format!("{POLICY}//{}", " ".repeat(bytes.saturating_sub(POLICY.len() + 2)));
        let path = write_file(&stage.world, Name::Controller, "large.cedar", text.as_bytes())?;
        Ok(vec!["policy".to_owned(), "apply".to_owned(), path])
    };
    stage.refused(&apply(POLICY_BYTES_MAX + 1)?, "more than 1048576 bytes")?;
    stage.done(&apply(POLICY_BYTES_MAX)?)?;
    stage.attacker_reaches()?;
    stage.done(&apply(0)?)?;
    stage.attacker_reaches()
}

/// Last: it lasts a quarter of an hour.
fn log_ins(stage: &mut Stage, _: &Arguments) -> anyhow::Result<()> {
    let wrong = write_file(&stage.world, Name::Laptop, "wrong", b"not the password")?;
    let right = write_file(&stage.world, Name::Laptop, "password", crate::perimeter::PASSWORD.as_bytes())?;
    let log_in_with = |file: &str| -> anyhow::Result<crate::lab::Finished> {
        let words = ["umbra", "login", "--user", "engineer", "--password-file", file];
        Ok(stage.world.host(Name::Laptop).run(&words, SOON)?)
    };
    for _ in 0..LOGIN_FAILURES_MAX {
        ensure!(!log_in_with(&wrong)?.success(), "a wrong password was taken");
    }
    let late = log_in_with(&right)?;
    ensure!(!late.success() && late.stderr.contains("wait"), "{late:?}");
    said(&format!("after {LOGIN_FAILURES_MAX} failures the right password has to wait"))
}
