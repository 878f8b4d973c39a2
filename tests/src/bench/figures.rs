//! Which figures are taken of a program in a round, and what do the rounds say together?
//!
//! A figure that could not be taken is absent, never 0. Programs are compared within a round, where the machine was as busy
//! for the one as for the other; the medians of these ratios are what counts.

use std::collections::BTreeMap;

/// One kind of figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// TCP, one stream, from the laptop to the service: Gbit/s that arrive.
    TcpUp1,
    /// The same from the service to the laptop.
    TcpDown1,
    /// Four streams from the laptop to the service.
    TcpUp4,
    /// Four streams from the service to the laptop.
    TcpDown4,
    /// The mean of the four.
    TcpMean,
    /// CPU seconds of both daemons for each 10^9 bytes that these four carried.
    CpuPerGb,
    /// Segments sent again in the two runs of one stream.
    Retransmits1,
    /// Segments sent again in the two runs of four streams.
    Retransmits4,
    /// UDP, packets of 64 bytes a second that arrive, at the best rate that was tried.
    Udp64,
    /// The same with packets of 1,400 bytes.
    Udp1400,
    /// Ping without load, median, milliseconds.
    PingIdle,
    /// Ping during the runs of four streams, median, milliseconds.
    PingLoad,
    /// Resident memory after all of it, of the daemon that has more: MiB.
    Rss,
    /// TCP connect, a request and the first byte of its answer, right after the start: milliseconds.
    FirstByteNew,
    /// The same when the tunnel is there, median, milliseconds.
    FirstByte,
}

impl Metric {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 15] = [
        Self::TcpUp1,
        Self::TcpDown1,
        Self::TcpUp4,
        Self::TcpDown4,
        Self::TcpMean,
        Self::CpuPerGb,
        Self::Retransmits1,
        Self::Retransmits4,
        Self::Udp64,
        Self::Udp1400,
        Self::PingIdle,
        Self::PingLoad,
        Self::Rss,
        Self::FirstByteNew,
        Self::FirstByte,
    ];
    /// The four runs over TCP.
    pub const TCP: [Self; 4] = [Self::TcpUp1, Self::TcpDown1, Self::TcpUp4, Self::TcpDown4];

    /// What people read, unit last.
    pub const fn title(self) -> &'static str {
        match self {
            Self::TcpUp1 => "TCP 1 stream up, Gbit/s",
            Self::TcpDown1 => "TCP 1 stream down, Gbit/s",
            Self::TcpUp4 => "TCP 4 streams up, Gbit/s",
            Self::TcpDown4 => "TCP 4 streams down, Gbit/s",
            Self::TcpMean => "TCP mean of the four, Gbit/s",
            Self::CpuPerGb => "daemons' CPU, s/GB",
            Self::Retransmits1 => "retransmits, 1 stream",
            Self::Retransmits4 => "retransmits, 4 streams",
            Self::Udp64 => "UDP 64 bytes, packets/s",
            Self::Udp1400 => "UDP 1,400 bytes, packets/s",
            Self::PingIdle => "ping idle, ms",
            Self::PingLoad => "ping under 4 streams, ms",
            Self::Rss => "memory after load, MiB",
            Self::FirstByteNew => "first byte, no tunnel yet, ms",
            Self::FirstByte => "first byte, tunnel there, ms",
        }
    }

    /// Digits after the point.
    pub const fn digits(self) -> usize {
        match self {
            Self::Retransmits1 | Self::Retransmits4 | Self::Udp64 | Self::Udp1400 => 0,
            Self::Rss => 1,
            _ => 2,
        }
    }

    /// Whether a ratio of it says anything: of counts that should be 0 it does not.
    pub const fn has_ratio(self) -> bool {
        !matches!(self, Self::Retransmits1 | Self::Retransmits4)
    }
}

/// The figures of one program in one round.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Figures(pub BTreeMap<Metric, f64>);

impl Figures {
    /// Notes a figure; what is not a number is no figure.
    pub fn note(&mut self, metric: Metric, value: f64) {
        if value.is_finite() {
            self.0.insert(metric, value);
        }
    }

    /// A figure, where it was taken.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        self.0.get(&metric).copied()
    }

    /// The mean of the four runs over TCP: only where all four are there.
    pub fn note_mean(&mut self) {
        let all: Option<Vec<f64>> = Metric::TCP.into_iter().map(|metric| self.value(metric)).collect();
        if let Some(all) = all {
            self.note(Metric::TcpMean, all.iter().sum::<f64>() / all.len() as f64);
        }
    }
}

/// What was measured in all rounds: each round holds the figures of each program by its name.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Rounds(pub Vec<BTreeMap<String, Figures>>);

impl Rounds {
    /// A program's figure in each round in which it was taken.
    pub fn values(&self, program: &str, metric: Metric) -> Vec<f64> {
        self.0.iter().filter_map(|round| round.get(program)?.value(metric)).collect()
    }

    /// The median of a program's figure over the rounds.
    pub fn median(&self, program: &str, metric: Metric) -> Option<f64> {
        median(self.values(program, metric))
    }

    /// A program's figure divided by another's, for each round that has both.
    pub fn ratios(&self, program: &str, other: &str, metric: Metric) -> Vec<f64> {
        let one = |round: &BTreeMap<String, Figures>| {
            let (ours, theirs) = (round.get(program)?.value(metric)?, round.get(other)?.value(metric)?);
            (theirs > 0.0).then_some(ours / theirs)
        };
        self.0.iter().filter_map(one).collect()
    }
}

/// The middle one, or the mean of the two in the middle; None of none.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get((values.len() - 1) / 2)?;
    Some((upper + lower) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(ours: &[(Metric, f64)], theirs: &[(Metric, f64)]) -> BTreeMap<String, Figures> {
        let figures = |of: &[(Metric, f64)]| Figures(of.iter().copied().collect());
        [("umbra".to_owned(), figures(ours)), ("other".to_owned(), figures(theirs))].into()
    }

    #[test]
    fn medians_of_odd_even_and_no_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_only_where_both_are_there() {
        let speed = Metric::TcpUp1;
        let rounds = Rounds(vec![
            round(&[(speed, 10.0)], &[(speed, 2.0)]),
            // The machine was busy: both were slow, and the ratio stays.
            round(&[(speed, 1.0)], &[(speed, 0.2)]),
            round(&[(speed, 9.0)], &[]),
            round(&[(speed, 9.0)], &[(speed, 0.0)]),
        ]);
        assert_eq!(rounds.ratios("umbra", "other", speed), [5.0, 5.0]);
        assert_eq!(rounds.median("umbra", speed), Some(9.0));
        assert_eq!(rounds.median("nobody", speed), None);
    }

    #[test]
    fn a_mean_of_three_is_none_and_what_is_no_number_is_no_figure() {
        let mut figures = Figures::default();
        for (metric, value) in Metric::TCP.into_iter().zip([1.0, 2.0, 3.0]) {
            figures.note(metric, value);
        }
        figures.note_mean();
        figures.note(Metric::CpuPerGb, 1.0 / 0.0);
        assert_eq!((figures.value(Metric::TcpMean), figures.value(Metric::CpuPerGb)), (None, None));
        figures.note(Metric::TcpDown4, 6.0);
        figures.note_mean();
        assert_eq!(figures.value(Metric::TcpMean), Some(3.0));
    }

    #[test]
    fn every_metric_is_shown_once_under_a_name_of_its_own() {
        let titles: std::collections::BTreeSet<_> = Metric::ALL.iter().map(|metric| metric.title()).collect();
        assert_eq!(titles.len(), Metric::ALL.len());
        let json = serde_json::to_value(Figures([(Metric::Udp64, 7.0)].into())).unwrap();
        assert_eq!(json, serde_json::json!({ "udp64": 7.0 }));
    }
}
