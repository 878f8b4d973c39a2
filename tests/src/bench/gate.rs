//! Is Umbra as fast as it has to be?
//!
//! Each row is one "at least". A figure that is missing is missed: a comparison that did not take place proves nothing.

use super::figures::{Metric, Rounds, median};
use std::fmt;

/// Us, and whom we are compared with.
pub const UMBRA: &str = "umbra";
/// The same with one grant, and nobody else at the gateway.
pub const UMBRA_ALONE: &str = "umbra alone";
/// Our engine without filter, flows and rewriting.
pub const BARE: &str = "bare engine";
/// The reference of the same origin as our own engine.
pub const BORINGTUN: &str = "boringtun-cli";
/// The reference that everybody knows.
pub const WIREGUARD_GO: &str = "wireguard-go";

/// The last day on which wireguard-go made a system call for each packet (its first release with offloads is v0.0.20230223).
const WITHOUT_OFFLOADS_UNTIL: u32 = 20_221_231;

/// The most CPU, as a part of what boringtun-cli needs in the same round: 2.8 s/GB where that needs 10.2. In seconds it would say more
/// of the machine, and of who else is at work on it, than of us.
const CPU_OF_BORINGTUN: f64 = 0.275;

/// Which way is better?
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// One row, judged.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Verdict {
    /// What was looked at.
    pub what: String,
    /// What it has to be.
    pub wanted: String,
    /// The median over the rounds; None where it could not be taken.
    pub found: Option<f64>,
    /// Is it so?
    pub holds: bool,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.holds { "reached" } else { "MISSED " };
        let found = self.found.map_or_else(|| "not measured".to_owned(), |found| format!("{found:.2}"));
        write!(f, "{word}  {}: {found} (wanted: {})", self.what, self.wanted)
    }
}

fn judge_one(what: String, found: Option<f64>, bound: Bound, unit: &str) -> Verdict {
    let (wanted, holds) = match bound {
        Bound::AtLeast(bound) => (format!(">= {bound}{unit}"), found.is_some_and(|found| found >= bound)),
        Bound::AtMost(bound) => (format!("<= {bound}{unit}"), found.is_some_and(|found| found <= bound)),
    };
    Verdict { what, wanted, found, holds }
}

/// Judges all rows. `programs` are those that were measured, and what each says of its version.
///
/// Throughput is compared with every wireguard-go; packets and pings with the newest, for a program that carries a fifth has a fifth
/// in its queues as well.
pub fn judge(rounds: &Rounds, programs: &[(String, String)]) -> Vec<Verdict> {
    let mut all_go: Vec<(&str, &str)> = programs
        .iter()
        .map(|(name, version)| (name.as_str(), version.as_str()))
        .filter(|(name, version)| *name == WIREGUARD_GO || version.starts_with(WIREGUARD_GO))
        .collect();
    if all_go.is_empty() {
        all_go.push((WIREGUARD_GO, ""));
    }
    let newest = all_go.iter().max_by_key(|(_, version)| date(version)).map_or(WIREGUARD_GO, |(name, _)| *name);
    let against = |other: &str, metric: Metric, bound| {
        let ratio = median(rounds.ratios(UMBRA, other, metric));
        judge_one(format!("{}, against {other}", metric.title()), ratio, bound, "x")
    };
    // What the checks cost, and what 20 grants and 5,000 other tunnels cost.
    let within = |ours: &str, other: &str, metric: Metric, bound| {
        let ratio = median(rounds.ratios(ours, other, metric));
        judge_one(format!("{} of {ours}, against {other}", metric.title()), ratio, bound, "x")
    };
    let at_most = |ours: &str, metric: Metric, bound| {
        judge_one(format!("{} of {ours}", metric.title()), rounds.median(ours, metric), Bound::AtMost(bound), "")
    };
    let mut verdicts = vec![against(BORINGTUN, Metric::TcpMean, Bound::AtLeast(5.0))];
    for (name, version) in &all_go {
        // Whoever has no offloads is no match for one who has them: there more is asked.
        let bound = if has_no_offloads(version) { 5.0 } else { 1.5 };
        verdicts.push(against(name, Metric::TcpMean, Bound::AtLeast(bound)));
    }
    verdicts.extend([
        against(BORINGTUN, Metric::CpuPerGb, Bound::AtMost(CPU_OF_BORINGTUN)),
        at_most(UMBRA, Metric::Retransmits4, 0.0),
        // Of one tunnel, as the others have one: each further tunnel in use is a session of boringtun's, 11 KiB.
        at_most(UMBRA_ALONE, Metric::Rss, 20.0),
        against(newest, Metric::Udp64, Bound::AtLeast(1.5)),
        against(newest, Metric::PingLoad, Bound::AtMost(0.7)),
        within(UMBRA_ALONE, BARE, Metric::CpuPerGb, Bound::AtMost(1.1)),
        within(UMBRA, UMBRA_ALONE, Metric::TcpMean, Bound::AtLeast(0.95)),
    ]);
    verdicts
}

/// Whether a version like `wireguard-go v0.0.20220316` is of a time before the offloads. Of others it is not assumed.
fn has_no_offloads(version: &str) -> bool {
    date(version).is_some_and(|date| date <= WITHOUT_OFFLOADS_UNTIL)
}

/// The day that such a version names.
fn date(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).find(|part| part.len() == 8)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::figures::Figures;
    use super::*;

    const OLD: &str = "wireguard-go v0.0.20220316";

    fn all_with(version: &str) -> Vec<(String, String)> {
        [(UMBRA, ""), (BORINGTUN, ""), (WIREGUARD_GO, version)].map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec()
    }

    fn debian() -> Vec<(String, String)> {
        all_with(OLD)
    }

    fn rounds(of: &[(&str, &[(Metric, f64)])]) -> Rounds {
        let round = of.iter().map(|(name, of)| ((*name).to_owned(), Figures(of.iter().copied().collect())));
        Rounds(vec![round.collect()])
    }

    const GOOD: [(Metric, f64); 5] = [
        (Metric::TcpMean, 5.0),
        (Metric::CpuPerGb, 2.75),
        (Metric::Retransmits4, 0.0),
        (Metric::Udp64, 150.0),
        (Metric::PingLoad, 7.0),
    ];
    const SLOW: [(Metric, f64); 4] =
        [(Metric::TcpMean, 1.0), (Metric::CpuPerGb, 10.0), (Metric::Udp64, 100.0), (Metric::PingLoad, 10.0)];

    /// Alone it carries 1/0.95 of what it does among others; the bare engine needs 1/1.1 of its CPU.
    const ALONE: [(Metric, f64); 3] = [(Metric::TcpMean, 5.0 / 0.95), (Metric::CpuPerGb, 2.75), (Metric::Rss, 20.0)];
    const CHECKLESS: [(Metric, f64); 1] = [(Metric::CpuPerGb, 2.5)];

    fn with(ours: &'static [(Metric, f64)]) -> [(&'static str, &'static [(Metric, f64)]); 5] {
        [(UMBRA, ours), (UMBRA_ALONE, &ALONE), (BARE, &CHECKLESS), (BORINGTUN, &SLOW), (WIREGUARD_GO, &SLOW)]
    }

    #[test]
    fn what_reaches_each_bound_exactly_holds() {
        let all = judge(&rounds(&with(&GOOD)), &debian());
        assert_eq!(all.len(), 9);
        assert!(all.iter().all(|verdict| verdict.holds), "{all:?}");
    }

    #[test]
    fn each_figure_that_falls_short_is_missed_alone_and_named() {
        let worse = [
            (Metric::TcpMean, 4.99, 3),
            (Metric::CpuPerGb, 2.76, 1),
            (Metric::Retransmits4, 1.0, 1),
            (Metric::Udp64, 149.0, 1),
            (Metric::PingLoad, 7.1, 1),
        ];
        for (metric, value, rows) in worse {
            let ours: Vec<_> = GOOD.iter().map(|(m, v)| (*m, if *m == metric { value } else { *v })).collect();
            let mut programs: Vec<(&str, &[(Metric, f64)])> = with(&GOOD).to_vec();
            programs[0] = (UMBRA, &ours);
            let all = judge(&rounds(&programs), &debian());
            let missed: Vec<_> = all.iter().filter(|verdict| !verdict.holds).collect();
            assert_eq!(missed.len(), rows, "{metric:?}: {missed:?}");
            assert!(missed.iter().all(|verdict| verdict.to_string().contains(metric.title())), "{missed:?}");
            assert!(missed.iter().all(|verdict| verdict.to_string().starts_with("MISSED")), "{missed:?}");
        }
    }

    #[test]
    fn memory_is_that_of_one_tunnel() {
        let alone = [ALONE[0], ALONE[1], (Metric::Rss, 20.1)];
        let mut programs: Vec<(&str, &[(Metric, f64)])> = with(&GOOD).to_vec();
        programs[1] = (UMBRA_ALONE, &alone);
        let missed: Vec<_> =
            judge(&rounds(&programs), &debian()).into_iter().filter(|verdict| !verdict.holds).collect();
        assert_eq!(missed.len(), 1, "{missed:?}");
        assert!(missed[0].what.contains(Metric::Rss.title()) && missed[0].what.contains(UMBRA_ALONE));
    }

    #[test]
    fn what_was_not_measured_is_missed() {
        assert!(judge(&Rounds::default(), &debian()).iter().all(|verdict| !verdict.holds));
        let alone = judge(&rounds(&[(UMBRA, &GOOD)]), &debian());
        let missed: Vec<_> = alone.iter().filter(|verdict| !verdict.holds).map(ToString::to_string).collect();
        assert_eq!(missed.len(), 8, "{missed:?}");
        assert!(missed.iter().all(|line| line.contains("not measured")), "{missed:?}");
    }

    #[test]
    fn a_wireguard_go_with_offloads_is_a_harder_match() {
        let figures = rounds(&[(UMBRA, &[(Metric::TcpMean, 3.0)]), (WIREGUARD_GO, &[(Metric::TcpMean, 2.0)])]);
        let against_go = |version| judge(&figures, &all_with(version)).into_iter().nth(1).unwrap();
        assert!(!against_go(OLD).holds && against_go(OLD).wanted == ">= 5x");
        for version in ["wireguard-go v0.0.20250522", "wireguard-go", "", "v99999999999"] {
            assert!(against_go(version).holds && against_go(version).wanted == ">= 1.5x", "{version}");
        }
    }

    #[test]
    fn packets_and_pings_are_compared_with_the_newest_wireguard_go() {
        const NEWEST: [(Metric, f64); 3] = [(Metric::TcpMean, 3.4), (Metric::Udp64, 101.0), (Metric::PingLoad, 9.0)];
        let mut measured = with(&GOOD).to_vec();
        measured.push(("newer", &NEWEST));
        let mut programs = debian();
        programs.push(("newer".to_owned(), "wireguard-go v0.0.20250522".to_owned()));
        programs.push(("other".to_owned(), "something v0.0.20260101".to_owned()));
        let missed: Vec<_> =
            judge(&rounds(&measured), &programs).into_iter().filter(|verdict| !verdict.holds).collect();
        assert_eq!(missed.len(), 3, "{missed:?}");
        assert!(missed.iter().all(|verdict| verdict.what.ends_with("against newer")), "{missed:?}");
    }
}
