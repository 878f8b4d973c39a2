//! How are the results told: a table for people, JSON for programs?

use super::figures::{Figures, Metric, Rounds, median};
use super::gate::{BARE, BORINGTUN, UMBRA, UMBRA_ALONE, Verdict, WIREGUARD_GO};
use super::load::Step;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Whom the ratios are taken against.
const REFERENCES: [&str; 4] = [BORINGTUN, WIREGUARD_GO, UMBRA_ALONE, BARE];
/// Characters of a column.
const COLUMN: usize = 14;
const TITLES: usize = 34;

/// Everything that was measured, and how.
#[derive(Debug, Default)]
pub struct Results {
    /// Cargo's profile of Umbra's programs.
    pub build: String,
    /// Seconds of each run.
    pub seconds: u64,
    /// What is taken of each program.
    pub steps: Vec<Step>,
    /// Program and version, in the order in which they are shown.
    pub programs: Vec<(String, String)>,
    /// The figures.
    pub rounds: Rounds,
    /// What could not be measured, and why.
    pub faults: Vec<String>,
    /// The gate.
    pub verdicts: Vec<Verdict>,
}

impl Results {
    /// The programs' names, in their order.
    pub fn names(&self) -> Vec<&str> {
        self.programs.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Notes what could not be measured, and tells it.
    pub fn fault(&mut self, round: usize, name: &str, fault: &str) -> io::Result<()> {
        self.faults.push(format!("round {}, {name}: {fault}", round + 1));
        writeln!(io::stderr(), "  {name}: {fault}")
    }

    /// One line about the setting.
    pub fn setting(&self) -> String {
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        format!(
            "umbra as built with profile `{}`, {} rounds, {} s a run, {cpus} processors, tunnel MTU {}",
            self.build,
            self.rounds.0.len(),
            self.seconds,
            super::stage::MTU
        )
    }

    /// The tables.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "bench dataplane: {}", self.setting())?;
        for (name, version) in self.programs.iter().filter(|(_, version)| !version.is_empty()) {
            writeln!(out, "  {name}: {version}")?;
        }
        writeln!(out, "\nmedians of the rounds")?;
        let names = self.names();
        let cell = |metric: Metric, name: &str| {
            let value = self.rounds.median(name, metric);
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.*}", metric.digits()))
        };
        write_rows(out, &names, &Metric::ALL, cell)?;
        writeln!(out, "\numbra divided by the other, median of the rounds (lowest to highest)")?;
        let measured: Vec<_> = REFERENCES.into_iter().filter(|name| names.contains(name)).collect();
        let compared: Vec<_> = Metric::ALL.into_iter().filter(|metric| metric.has_ratio()).collect();
        write_rows(out, &measured, &compared, |metric, name| spread(&self.rounds.ratios(UMBRA, name, metric)))?;
        for fault in &self.faults {
            writeln!(out, "not measured: {fault}")?;
        }
        writeln!(out)?;
        for verdict in &self.verdicts {
            writeln!(out, "{verdict}")?;
        }
        Ok(())
    }

    /// The same, and each round, for programs.
    pub fn json(&self) -> Value {
        let medians: BTreeMap<_, _> = self.names().into_iter().map(|name| (name, self.medians(name))).collect();
        let ratios: BTreeMap<_, _> = REFERENCES.into_iter().map(|name| (name, self.median_ratios(name))).collect();
        let programs: Vec<_> =
            self.programs.iter().map(|(name, version)| json!({ "name": name, "version": version })).collect();
        json!({
            "bench": "dataplane", "build": self.build, "seconds": self.seconds, "setting": self.setting(),
            "programs": programs, "rounds": self.rounds, "medians": medians, "ratios": ratios,
            "gate": self.verdicts, "faults": self.faults,
        })
    }

    fn medians(&self, name: &str) -> Figures {
        let one = |metric: Metric| Some((metric, self.rounds.median(name, metric)?));
        Figures(Metric::ALL.into_iter().filter_map(one).collect())
    }

    fn median_ratios(&self, other: &str) -> Figures {
        let compared = Metric::ALL.into_iter().filter(|metric| metric.has_ratio());
        let one = |metric: Metric| Some((metric, median(self.rounds.ratios(UMBRA, other, metric))?));
        Figures(compared.filter_map(one).collect())
    }
}

fn spread(ratios: &[f64]) -> String {
    let (low, high) =
        ratios.iter().fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), ratio| (low.min(*ratio), high.max(*ratio)));
    median(ratios.to_vec()).map_or_else(|| "-".to_owned(), |median| format!("{median:.2} ({low:.2}-{high:.2})"))
}

fn write_rows(
    out: &mut impl Write,
    columns: &[&str],
    rows: &[Metric],
    cell: impl Fn(Metric, &str) -> String,
) -> io::Result<()> {
    let cells: Vec<Vec<_>> = rows.iter().map(|row| columns.iter().map(|column| cell(*row, column)).collect()).collect();
    let longest = cells.iter().flatten().map(String::len).chain(columns.iter().map(|column| column.len())).max();
    let width = longest.unwrap_or_default().max(COLUMN);
    let line =
        |cells: &mut dyn Iterator<Item = &str>| cells.map(|cell| format!("  {cell:>width$}")).collect::<String>();
    writeln!(out, "{:<TITLES$}{}", "", line(&mut columns.iter().copied()))?;
    for (row, cells) in rows.iter().zip(&cells) {
        writeln!(out, "{:<TITLES$}{}", row.title(), line(&mut cells.iter().map(String::as_str)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::gate::judge;
    use super::*;

    fn results() -> Results {
        let figures = |value| Figures([(Metric::TcpMean, value)].into());
        let round = |ours, theirs| [(UMBRA.to_owned(), figures(ours)), (BORINGTUN.to_owned(), figures(theirs))].into();
        let rounds = Rounds(vec![round(4.0, 1.0), round(6.0, 1.0), round(4.5, 0.9)]);
        let verdicts = judge(&rounds, &[]);
        let programs = [UMBRA, BORINGTUN].map(|name| (name.to_owned(), format!("{name} 1"))).to_vec();
        let (build, faults) = ("dist".to_owned(), vec!["a fault".to_owned()]);
        Results { build, seconds: 4, programs, rounds, faults, verdicts, ..Results::default() }
    }

    #[test]
    fn the_table_says_what_was_built_measured_compared_and_left_out() {
        let mut out = Vec::new();
        results().write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let row = |part: &str| text.lines().filter(|line| line.starts_with(part)).collect::<Vec<_>>();
        assert!(text.contains("profile `dist`, 3 rounds, 4 s a run"), "{text}");
        let means = row(Metric::TcpMean.title());
        assert!(means[0].contains("4.50") && means[0].contains("1.00"), "{text}");
        assert!(means[1].contains("5.00 (4.00-6.00)"), "{text}");
        assert!(row(Metric::Rss.title())[0].trim_end().ends_with('-'), "{text}");
        assert!(text.contains("not measured: a fault") && text.contains("MISSED   daemons' CPU"), "{text}");
        // Each column lies beneath its name.
        let heading = text.lines().find(|line| line.trim_start().starts_with(UMBRA) && !line.contains(':')).unwrap();
        assert_eq!(heading.len(), means[0].len());
    }

    #[test]
    fn the_json_has_each_round_and_the_medians() {
        let json = results().json();
        assert_eq!(json["build"], "dist");
        assert_eq!(json["rounds"][1][UMBRA]["tcp_mean"], 6.0);
        assert_eq!(json["medians"][UMBRA]["tcp_mean"], 4.5);
        assert_eq!(json["ratios"][BORINGTUN]["tcp_mean"], 5.0);
        assert_eq!(json["ratios"][WIREGUARD_GO], json!({}));
        assert_eq!(json["gate"][0]["holds"], true);
        assert_eq!(json["faults"][0], "a fault");
    }
}
