//! How badly does a link behave?

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What the forwarder does to the frames of one link, in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Impairment {
    /// Added to each frame's way.
    pub delay: Duration,
    /// The part of the frames that is lost, 0 to 1.
    pub loss: f64,
    /// The part of the frames that waits once more (by `delay`, at least a millisecond) and is overtaken, 0 to 1.
    pub reorder: f64,
}

impl Impairment {
    /// Whether frames pass unharmed.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Impairment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us,{}%,{}%", self.delay.as_micros(), self.loss * 100.0, self.reorder * 100.0)
    }
}

impl FromStr for Impairment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let mut next = || parts.next().ok_or_else(|| format!("{text:?} is not DELAY,LOSS,REORDER"));
        Ok(Self { delay: parse_delay(next()?)?, loss: parse_share(next()?)?, reorder: parse_share(next()?)? })
    }
}

/// Reads `20ms`, `150us` or `1s`; at most ten seconds.
pub fn parse_delay(text: &str) -> Result<Duration, String> {
    let units = [("us", 1), ("ms", 1000), ("s", 1_000_000)];
    let read = |(unit, micros): (&str, u64)| {
        text.strip_suffix(unit).and_then(|number| number.parse::<u64>().ok()).and_then(|n| n.checked_mul(micros))
    };
    let micros = units.into_iter().find_map(read).filter(|micros| *micros <= 10_000_000);
    micros
        .map(Duration::from_micros)
        .ok_or_else(|| format!("{text:?} is no delay: write for example 20ms, at most 10s"))
}

/// Reads `1%` as 0.01.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
    let valid = percent.filter(|percent| (0.0..=100.0).contains(percent));
    valid.map(|percent| percent / 100.0).ok_or_else(|| format!("{text:?} is no share: write for example 1%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let bad = Impairment { delay: Duration::from_millis(20), loss: 0.01, reorder: 0.5 };
        assert_eq!(bad.to_string().parse(), Ok(bad));
        assert_eq!(parse_delay("1s"), Ok(Duration::from_secs(1)));
    }

    #[test]
    fn refuses_nonsense() {
        for text in ["20", "ms", "-1ms", "11s", "99999999999999999999s", "18446744073709551615s"] {
            assert!(parse_delay(text).is_err(), "{text}");
        }
        for text in ["1", "101%", "-1%", "NaN%", "%"] {
            assert!(parse_share(text).is_err(), "{text}");
        }
    }
}
