//! Which fast ways of the kernel may be used? All, unless somebody switches one off: for a test, or for a broken driver.

use std::fmt;
use std::str::FromStr;

/// The steps of the way down, each of which can be left out. Nothing here says that a kernel has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// TUN packets with a header that tells of checksums and segments. Without it neither `tso` nor `uso` exists.
    pub vnet: bool,
    /// TUN super-packets of TCP.
    pub tso: bool,
    /// TUN super-packets of UDP.
    pub uso: bool,
    /// Several TUN queues, so that flows take turns. Needs `vnet`.
    pub queues: bool,
    /// Many datagrams in one message that is sent (UDP_SEGMENT).
    pub gso: bool,
    /// Many datagrams in one message that is received (UDP_GRO).
    pub gro: bool,
    /// Socket buffers of [`crate::udp::BUFFER_BYTES`] instead of the system's.
    pub large_buffers: bool,
}

/// A word that switches nothing off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no step that can be left out: take any of {words}, with commas between them", words = Steps::words())]
pub struct StepsError(String);

type Field = fn(&mut Steps) -> &mut bool;

/// The words that switch a step off, and what they switch.
const WORDS: [(&str, Field); 7] = [
    ("no-vnet", |steps| &mut steps.vnet),
    ("no-tso", |steps| &mut steps.tso),
    ("no-uso", |steps| &mut steps.uso),
    ("one-queue", |steps| &mut steps.queues),
    ("no-gso", |steps| &mut steps.gso),
    ("no-gro", |steps| &mut steps.gro),
    ("small-buffers", |steps| &mut steps.large_buffers),
];

impl Steps {
    /// Everything that the kernel can do.
    pub const ALL: Self =
        Self { vnet: true, tso: true, uso: true, queues: true, gso: true, gro: true, large_buffers: true };
    /// One packet a call, with complete checksums, in large buffers.
    pub const ONE_BY_ONE: Self =
        Self { vnet: false, tso: false, uso: false, queues: false, gso: false, gro: false, large_buffers: true };

    fn words() -> String {
        WORDS.map(|(word, _)| word).join(", ")
    }
}

impl Default for Steps {
    fn default() -> Self {
        Self::ALL
    }
}

/// Reads words such as `no-uso,no-gro`; nothing at all leaves nothing out.
impl FromStr for Steps {
    type Err = StepsError;

    fn from_str(text: &str) -> Result<Self, StepsError> {
        let mut steps = Self::ALL;
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let Some((_, field)) = WORDS.iter().find(|(known, _)| *known == word) else {
                return Err(StepsError(word.to_owned()));
            };
            *field(&mut steps) = false;
        }
        Ok(steps)
    }
}

/// The words that were left out, as `from_str` reads them.
impl fmt::Display for Steps {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut steps = *self;
        let mut between = "";
        for (word, field) in WORDS {
            if !*field(&mut steps) {
                write!(to, "{between}{word}")?;
                between = ",";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_reads_as_it_is_written() {
        assert_eq!("".parse(), Ok(Steps::ALL));
        assert_eq!(" , ".parse(), Ok(Steps::ALL));
        assert_eq!("no-uso, no-gro".parse(), Ok(Steps { uso: false, gro: false, ..Steps::ALL }));
        assert_eq!(Steps::ONE_BY_ONE.to_string(), "no-vnet,no-tso,no-uso,one-queue,no-gso,no-gro");
        for (word, _) in WORDS {
            let steps: Steps = word.parse().expect("a word");
            assert_ne!(steps, Steps::ALL, "{word}");
            assert_eq!(steps.to_string(), word);
        }
        let all: Steps = Steps::words().parse().expect("all words");
        assert_eq!(all, Steps { large_buffers: false, ..Steps::ONE_BY_ONE });
    }

    #[test]
    fn an_unknown_word_is_told_with_those_that_are_known() {
        for text in ["no-ufo", "no-uso no-tso", "uso", "NO-USO", "no-uso,x"] {
            let error = text.parse::<Steps>().expect_err(text).to_string();
            assert!(error.contains("no-vnet, no-tso, no-uso, one-queue, no-gso, no-gro, small-buffers"), "{error}");
        }
    }
}
