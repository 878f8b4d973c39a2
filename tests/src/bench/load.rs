//! How are the figures of one program taken? Traffic from laptop to service and back, and what it costs the daemons.

use super::answers::{Udp, read_ping, read_rss, read_tcp, read_ticks, read_udp};
use super::figures::{Figures, Metric, median};
use super::stage::{PORT, Stage};
use crate::lab::Name;
use anyhow::{Context as _, ensure};
use std::fs;
use std::thread;
use std::time::Duration;

/// The kernel counts a process's time in hundredths of a second for everybody who reads /proc (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;
/// What a run may take longer than it was told to.
const EXTRA: Duration = Duration::from_secs(20);
/// How long any one step may take.
const STEP: Duration = Duration::from_secs(20);
/// First bytes that are taken when the tunnel is there.
const FIRST_BYTES: usize = 9;
/// Seconds of ping without load.
const IDLE_SECONDS: u64 = 1;
/// Bytes of IPv4 and UDP header.
const HEADERS: u16 = 28;
/// A rate is raised so far beyond what arrived; where that brings nothing, by less once more.
const RAISE: f64 = 1.5;
const RAISE_LESS: f64 = 1.2;
/// Rates that are tried at most, besides the highest that can be sent.
const RATES_MAX: usize = 5;
/// Less more than this is noise.
const BETTER: f64 = 1.03;

/// One kind of figure, or several that are taken together.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// What is measured.
    pub what: &'static str,
    /// Is it TCP's?
    pub is_tcp: bool,
    run: fn(&mut Load<'_>) -> anyhow::Result<()>,
}

const fn step(what: &'static str, is_tcp: bool, run: fn(&mut Load<'_>) -> anyhow::Result<()>) -> Step {
    Step { what, is_tcp, run }
}

/// All, in the order in which they are taken.
pub const STEPS: [Step; 10] = [
    step("first byte", false, |load| load.first_bytes()),
    step("ping idle", false, |load| load.ping_idle()),
    step("TCP 1 stream up", true, |load| load.tcp(Metric::TcpUp1, Metric::Retransmits1, &[])),
    step("TCP 1 stream down", true, |load| load.tcp(Metric::TcpDown1, Metric::Retransmits1, &["-R"])),
    step("TCP 4 streams up", true, |load| load.four_streams(Metric::TcpUp4, &["-P", "4"])),
    step("TCP 4 streams down", true, |load| load.four_streams(Metric::TcpDown4, &["-P", "4", "-R"])),
    step("CPU", true, |load| load.sums()),
    step("UDP 64 bytes", false, |load| load.udp(Metric::Udp64, 64)),
    step("UDP 1,400 bytes", false, |load| load.udp(Metric::Udp1400, 1400)),
    step("memory", false, |load| load.memory()),
];

/// One program's figures while they are taken. What could not be taken is absent, and is told in `faults`.
pub struct Load<'a> {
    stage: &'a Stage,
    seconds: u64,
    /// So far.
    pub figures: Figures,
    /// Why others are absent.
    pub faults: Vec<String>,
    carried: Carried,
    beside: Vec<f64>,
}

/// What the runs over TCP carried, and what they cost.
#[derive(Default)]
struct Carried {
    bytes: f64,
    ticks: u64,
}

impl<'a> Load<'a> {
    /// Nothing taken yet; each run lasts so long.
    pub fn new(stage: &'a Stage, seconds: u64) -> Self {
        let (figures, carried) = (Figures::default(), Carried::default());
        Self { stage, seconds, figures, faults: Vec::new(), carried, beside: Vec::new() }
    }

    /// Takes one kind.
    pub fn take(&mut self, step: &Step) {
        if let Err(error) = (step.run)(self) {
            self.faults.push(format!("{}: {error:#}", step.what));
        }
    }

    fn first_bytes(&mut self) -> anyhow::Result<()> {
        self.figures.note(Metric::FirstByteNew, first_byte(self.stage)?);
        let later = (0..FIRST_BYTES).map(|_| first_byte(self.stage)).collect::<anyhow::Result<Vec<_>>>()?;
        self.figures.note(Metric::FirstByte, median(later).context("none was taken")?);
        Ok(())
    }

    fn ping_idle(&mut self) -> anyhow::Result<()> {
        let times = ping(self.stage, IDLE_SECONDS)?;
        self.figures.note(Metric::PingIdle, median(times).context("no answer")?);
        Ok(())
    }

    /// One run; `retransmits` sums up over the runs of a kind.
    fn tcp(&mut self, speed: Metric, retransmits: Metric, options: &[&str]) -> anyhow::Result<()> {
        let before = self.ticks()?;
        let run = read_tcp(&iperf(self.stage, self.seconds, options)?)?;
        self.carried.ticks += self.ticks()?.saturating_sub(before);
        self.carried.bytes += run.bytes;
        self.figures.note(speed, run.bits_per_second / 1e9);
        let so_far = self.figures.value(retransmits).unwrap_or_default();
        self.figures.note(retransmits, so_far + run.retransmits);
        Ok(())
    }

    /// A run of four streams with a ping beside it.
    fn four_streams(&mut self, speed: Metric, options: &[&str]) -> anyhow::Result<()> {
        let (stage, seconds) = (self.stage, self.seconds);
        let (beside, run) = thread::scope(|scope| {
            let beside = scope.spawn(|| ping(stage, seconds));
            let run = self.tcp(speed, Metric::Retransmits4, options);
            (beside.join(), run)
        });
        run?;
        self.beside.extend(beside.map_err(|_| anyhow::anyhow!("ping's thread broke"))??);
        Ok(())
    }

    /// What all runs over TCP say together.
    fn sums(&mut self) -> anyhow::Result<()> {
        let both_ways = |figures: &Figures, up, down| figures.value(up).is_some() && figures.value(down).is_some();
        let (one, four) = ((Metric::TcpUp1, Metric::TcpDown1), (Metric::TcpUp4, Metric::TcpDown4));
        for (sum, (up, down)) in [(Metric::Retransmits1, one), (Metric::Retransmits4, four)] {
            if !both_ways(&self.figures, up, down) {
                // What one direction repeated says nothing of both.
                self.figures.0.remove(&sum);
            }
        }
        self.figures.note_mean();
        if both_ways(&self.figures, four.0, four.1) {
            let times = std::mem::take(&mut self.beside);
            self.figures.note(Metric::PingLoad, median(times).context("no answer to any ping")?);
        }
        ensure!(self.carried.bytes > 0.0, "nothing was carried");
        let seconds = self.carried.ticks as f64 / TICKS_PER_SECOND;
        self.figures.note(Metric::CpuPerGb, seconds / (self.carried.bytes / 1e9));
        Ok(())
    }

    fn udp(&mut self, metric: Metric, packet: u16) -> anyhow::Result<()> {
        let payload = packet.saturating_sub(HEADERS);
        let (length, seconds) = (payload.to_string(), (self.seconds / 2).max(1));
        let best = climb(|rate| {
            let bits = rate.map_or(0.0, |rate| rate * f64::from(payload) * 8.0);
            let output = iperf(self.stage, seconds, &["-u", "-l", &length, "-b", &format!("{bits:.0}")])?;
            read_udp(&output)
        })?;
        self.figures.note(metric, best);
        Ok(())
    }

    fn memory(&mut self) -> anyhow::Result<()> {
        let mut largest = None;
        for pid in &self.stage.daemons {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).context("a daemon has ended")?;
            largest = largest.max(Some(read_rss(&status).context("a daemon has ended")?));
        }
        if let Some(kib) = largest {
            self.figures.note(Metric::Rss, kib as f64 / 1024.0);
        }
        Ok(())
    }

    /// CPU time of both daemons until now.
    fn ticks(&self) -> anyhow::Result<u64> {
        let one = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("a daemon has ended")?;
            read_ticks(&stat).context("/proc/PID/stat is not as it should be")
        };
        self.stage.daemons.iter().map(one).sum()
    }
}

/// The highest rate that arrives: what arrives of as much as can be sent, and then of less, as long as that is more.
/// `run` sends so many datagrams a second; None: as many as it can.
fn climb(mut run: impl FnMut(Option<f64>) -> anyhow::Result<Udp>) -> anyhow::Result<f64> {
    let flood = run(None)?;
    let (mut best, mut raise) = (flood.received, RAISE);
    ensure!(best > 0.0, "nothing arrived");
    for _ in 0..RATES_MAX {
        let rate = best * raise;
        if rate < flood.sent {
            let found = run(Some(rate))?.received;
            let better = found > best * BETTER;
            best = best.max(found);
            if better {
                continue;
            }
        }
        if raise <= RAISE_LESS {
            break;
        }
        raise = RAISE_LESS;
    }
    Ok(best)
}

/// One run of iperf3, with a server of its own; what the client said.
fn iperf(stage: &Stage, seconds: u64, options: &[&str]) -> anyhow::Result<String> {
    let (port, seconds_text) = (PORT.to_string(), seconds.to_string());
    let service = stage.host(Name::Service);
    let mut command = service.command("iperf3");
    command.args(["-s", "-1", "--forceflush", "-p", &port]);
    let server = service.start("iperf3", command)?;
    server.wait_for_line("Server listening", STEP)?;
    let words = ["iperf3", "-4", "-J", "-c", &stage.target, "-p", &port, "-t", &seconds_text];
    let words = [&words[..], &["--connect-timeout", "5000"], options].concat();
    let finished = stage.host(Name::Laptop).run(&words, Duration::from_secs(seconds) + EXTRA);
    // The next one needs the port.
    server.kill9()?;
    Ok(finished?.stdout)
}

/// Times of the answers that come within so many seconds, in milliseconds.
fn ping(stage: &Stage, seconds: u64) -> anyhow::Result<Vec<f64>> {
    let words = ["ping", "-4", "-n", "-i", "0.05", "-w", &seconds.to_string(), &stage.target];
    let finished = stage.host(Name::Laptop).run(&words, Duration::from_secs(seconds) + EXTRA)?;
    let times = read_ping(&finished.stdout);
    ensure!(!times.is_empty(), "no answer to any ping: {}{}", finished.stdout, finished.stderr);
    Ok(times)
}

/// Milliseconds from connect() to the first byte of an answer.
fn first_byte(stage: &Stage) -> anyhow::Result<f64> {
    let words = ["umbra-lab", "__witness", "first-byte", &stage.target];
    let finished = stage.host(Name::Laptop).run(&words, STEP)?;
    let micros: f64 = finished.stdout.trim().parse().with_context(|| finished.stderr.clone())?;
    Ok(micros / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What arrives of a rate through something that has a capacity, and loses more the more comes beyond it.
    fn through(capacity: f64, sender: f64, tried: &mut Vec<f64>, rate: Option<f64>) -> anyhow::Result<Udp> {
        let sent = rate.unwrap_or(sender).min(sender);
        tried.push(sent);
        let received = if sent <= capacity { sent } else { (capacity - (sent - capacity) / 2.0).max(capacity / 3.0) };
        Ok(Udp { received, sent })
    }

    #[test]
    fn the_best_rate_is_found_beneath_a_flood_that_drowns() {
        let mut tried = Vec::new();
        let best = climb(|rate| through(100.0, 1000.0, &mut tried, rate)).unwrap();
        assert!((85.0..=100.0).contains(&best), "{best} of {tried:?}");
        assert!(tried.len() <= RATES_MAX + 1, "{tried:?}");
    }

    #[test]
    fn a_sender_that_is_too_slow_is_asked_only_once() {
        let mut tried = Vec::new();
        assert_eq!(climb(|rate| through(100.0, 50.0, &mut tried, rate)).unwrap(), 50.0);
        assert_eq!(tried, [50.0]);
    }

    #[test]
    fn a_rate_that_always_grows_ends_all_the_same() {
        let mut calls = 0;
        let grows = |rate: Option<f64>| {
            calls += 1;
            Ok(Udp { received: rate.unwrap_or(1.0), sent: 1e9 })
        };
        assert!(climb(grows).unwrap() > 1.0);
        assert_eq!(calls, RATES_MAX + 1);
        assert!(climb(|_| Ok(Udp { received: 0.0, sent: 9.0 })).is_err());
    }
}
