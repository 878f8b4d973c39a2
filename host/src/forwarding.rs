//! How does a machine become a gateway's host, and itself again? The two forwarding switches, remembered and put back.

use crate::sysctl::{self, SysctlError};

/// The switches, below /proc/sys.
const SWITCHES: [&[&str]; 2] = [&["net", "ipv4", "ip_forward"], &["net", "ipv6", "conf", "all", "forwarding"]];

/// Forwarding that was enabled, with what was there before.
///
/// On exit: first [`Forwarding::restore`], then the tables go ([`crate::nft::remove`]). The other way round the machine
/// would be an open router for a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    before: Vec<(usize, String)>,
}

impl Forwarding {
    /// What is there now: to be noted before it is changed.
    pub fn now() -> Result<Self, SysctlError> {
        let there = SWITCHES.iter().enumerate().filter(|(number, switch)| *number == 0 || sysctl::exists(switch));
        let before = there.map(|(number, switch)| Ok((number, sysctl::read(switch)?)));
        Ok(Self { before: before.collect::<Result<_, _>>()? })
    }

    /// Enables forwarding for IPv4, and for IPv6 where there is IPv6. All or nothing. Set the gateway's table first.
    pub fn enable() -> Result<Self, SysctlError> {
        let mut forwarding = Self { before: Vec::new() };
        for (number, switch) in SWITCHES.iter().enumerate() {
            if number > 0 && !sysctl::exists(switch) {
                continue;
            }
            match sysctl::set(switch, "1") {
                Ok(before) => forwarding.before.push((number, before)),
                Err(error) => {
                    // What was set already goes back; the first error is the one to tell.
                    let _ = forwarding.restore();
                    return Err(error);
                }
            }
        }
        Ok(forwarding)
    }

    /// Puts back what was there before. Every switch is tried; the first error is told.
    pub fn restore(&self) -> Result<(), SysctlError> {
        let mut result = Ok(());
        for (number, before) in self.before.iter().rev() {
            let Some(switch) = SWITCHES.get(*number) else { continue };
            if let Err(error) = sysctl::set(switch, before) {
                result = result.and(Err(error));
            }
        }
        result
    }

    /// What was there before, as one line for a file: a program that was killed leaves forwarding on, and its successor
    /// has to know that.
    pub fn to_line(&self) -> String {
        self.before.iter().map(|(number, before)| format!("{number}={before}")).collect::<Vec<_>>().join(" ")
    }

    /// Reads such a line; `None` when it is not one.
    pub fn from_line(line: &str) -> Option<Self> {
        let mut before = Vec::new();
        for part in line.split_whitespace().take(SWITCHES.len()) {
            let (number, value) = part.split_once('=')?;
            let number = number.parse().ok().filter(|number| *number < SWITCHES.len())?;
            if !matches!(value, "0" | "1" | "2") {
                return None;
            }
            before.push((number, value.to_owned()));
        }
        Some(Self { before })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Host, privileged};

    fn both() -> [String; 2] {
        SWITCHES.map(|switch| sysctl::read(switch).expect("read"))
    }

    #[test]
    fn it_is_put_back_as_it_was() {
        if !privileged() {
            return;
        }
        Host::new().run(|| {
            sysctl::set(SWITCHES[0], "0").expect("off");
            sysctl::set(SWITCHES[1], "1").expect("on already");
            let noted = Forwarding::now().expect("now");
            let forwarding = Forwarding::enable().expect("enable");
            assert_eq!(noted, forwarding);
            assert_eq!(both(), ["1", "1"]);
            // A successor of a killed program has only the line.
            let line = forwarding.to_line();
            Forwarding::from_line(&line).expect("line").restore().expect("restore");
            assert_eq!(both(), ["0", "1"]);
            forwarding.restore().expect("again");
            assert_eq!(both(), ["0", "1"]);
        });
    }

    #[test]
    fn other_lines_are_refused() {
        for line in ["x", "0=7", "5=1", "0"] {
            assert_eq!(Forwarding::from_line(line), None, "{line}");
        }
    }
}
