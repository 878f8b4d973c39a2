//! Which packets may the kernel pass around us? nftables tables of our own, set over netlink, without the `nft` program.
//!
//! A program owns up to five tables, named after it: `umbra-PROGRAM` (families inet and arp, [`Guard`]),
//! `umbra-PROGRAM-forward` ([`Gateway`] or [`Client`]), `umbra-PROGRAM-held` ([`Held`]) and `umbra-PROGRAM-dark` ([`Dark`]). Each is replaced whole, in one
//! batch: the kernel has the old rules or the new ones, never none.

mod batch;
mod client;
mod dark;
mod foreign;
mod gateway;
mod guard;
mod held;
mod timeouts;

pub use client::Client;
pub use dark::{AllowIn, Dark, Standing, standing};
pub use foreign::{ForeignChain, Passage, except, forget_exceptions, forward_chains, passage};
pub use gateway::{Gateway, MARK};
pub use guard::Guard;
pub use held::Held;

use crate::checks::CheckError;
use batch::Batch;
use model::limits::{ALLOW_IN_MAX, GUARDED_PREFIXES_MAX};
use model::net::Prefix;
use nlink::Nftables;
use nlink::netlink::Connection;
use nlink::netlink::nftables::Family;

/// How [`Held`]'s table is called behind the program's name.
const HELD: &str = "-held";
/// Bytes of a program's name within a table's.
const PROGRAM_BYTES_MAX: usize = 32;

/// Why the tables are not as asked.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// Not allowed.
    #[error(transparent)]
    Machine(#[from] CheckError),
    /// The program's name cannot be part of a table's.
    #[error("'{0}' cannot name a table: take 1 to {PROGRAM_BYTES_MAX} small letters, digits and '-'")]
    Program(String),
    /// The interface's name is empty or too long.
    #[error("'{0}' is no interface name: it would match other interfaces, or none")]
    Interface(String),
    /// Too many, or one that covers everything.
    #[error("cannot guard {0}: give at most {GUARDED_PREFIXES_MAX} prefixes, none of them of length 0")]
    Prefixes(String),
    /// Too many ports that stay open.
    #[error("a dark machine has at most {ALLOW_IN_MAX} exceptions: join ranges of ports, as in tcp:8000-8010")]
    Exceptions,
    /// No nftables, or not all of it.
    #[error(
        "this kernel lacks a part of nftables that the table '{table}' needs ({source}): load it with `modprobe -a \
         nf_tables nft_ct nft_fib_inet nft_masq nft_chain_nat`, or use a kernel that has it"
    )]
    Unsupported {
        /// The table.
        table: String,
        /// The answer.
        source: nlink::netlink::Error,
    },
    /// The kernel's refusal.
    #[error("cannot set the nftables table '{table}': {source}")]
    Kernel {
        /// The table.
        table: String,
        /// The answer.
        source: nlink::netlink::Error,
    },
}

/// Removes the program's tables, but [`Dark`]'s and [`Held`]'s: they stay while the service restarts. What is not there is no error.
pub async fn remove(program: &str) -> Result<(), NftError> {
    let (guard, forward) = (table(program, "")?, table(program, "-forward")?);
    Batch::open(&guard)?
        .remove(&guard, Family::Inet)
        .remove(&guard, Family::Arp)
        .remove(&forward, Family::Inet)
        .commit()
        .await
}

/// Removes [`Held`]'s table.
pub async fn remove_held(program: &str) -> Result<(), NftError> {
    let name = table(program, HELD)?;
    Batch::open(&name)?.remove(&name, Family::Inet).commit().await
}

/// Removes the table that keeps the machine dark.
pub async fn remove_dark(program: &str) -> Result<(), NftError> {
    let name = table(program, "-dark")?;
    Batch::open(&name)?.remove(&name, Family::Inet).commit().await
}

/// The program's tables that are there, as `inet umbra-PROGRAM`.
pub async fn tables(program: &str) -> Result<Vec<String>, NftError> {
    let name = table(program, "")?;
    let failed = |source| batch::failed(&name, source);
    let connection = Connection::<Nftables>::new().map_err(failed)?;
    let mut found = Vec::new();
    for (family, label, suffixes) in
        [(Family::Inet, "inet", &["", "-forward", HELD, "-dark"][..]), (Family::Arp, "arp", &[""])]
    {
        let there = connection.list_tables_in(family).await.map_err(failed)?;
        for suffix in suffixes {
            let name = table(program, suffix)?;
            if there.iter().any(|table| table.name == name) {
                found.push(format!("{label} {name}"));
            }
        }
    }
    Ok(found)
}

/// The name of a program's table.
fn table(program: &str, suffix: &str) -> Result<String, NftError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if program.is_empty() || program.len() > PROGRAM_BYTES_MAX || !program.bytes().all(plain) {
        return Err(NftError::Program(program.to_owned()));
    }
    Ok(format!("umbra-{program}{suffix}"))
}

/// A name that matches one interface: a trailing '*' would match many.
fn interface(name: &str) -> Result<&str, NftError> {
    let good = (1..=crate::tun::NAME_BYTES_MAX).contains(&name.len()) && !name.contains(['*', '\0', '/']);
    if good { Ok(name) } else { Err(NftError::Interface(name.to_owned())) }
}

/// Prefixes within the bound. One of length 0 would cut the machine off.
fn prefixes(prefixes: &[Prefix]) -> Result<(), NftError> {
    if prefixes.len() > GUARDED_PREFIXES_MAX {
        return Err(NftError::Prefixes(format!("{} prefixes", prefixes.len())));
    }
    match prefixes.iter().find(|prefix| prefix.bits() == 0) {
        Some(prefix) => Err(NftError::Prefixes(prefix.to_string())),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "nft/tests.rs"]
mod kernel_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_that_would_match_the_wrong_things_are_refused() {
        for program in ["", "Gateway", "a b", "a/b", &"x".repeat(33)] {
            assert!(matches!(table(program, ""), Err(NftError::Program(_))), "{program}");
        }
        assert_eq!(table("gateway", "-dark").expect("good"), "umbra-gateway-dark");
        for name in ["", "umbra*", "a-name-of-16-xxx"] {
            assert!(matches!(interface(name), Err(NftError::Interface(_))), "{name}");
        }
        let default = "0.0.0.0/0".parse().expect("prefix");
        assert!(matches!(prefixes(&[default]), Err(NftError::Prefixes(_))));
        let one: Prefix = "10.0.0.0/8".parse().expect("prefix");
        assert!(prefixes(&[one; GUARDED_PREFIXES_MAX]).is_ok());
        assert!(prefixes(&[one; GUARDED_PREFIXES_MAX + 1]).is_err());
    }
}
