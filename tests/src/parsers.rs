//! Every parser of bytes or text that somebody else wrote: is there an input with which it panics, or breaks its word?
//!
//! | file | whose input? |
//! |---|---|
//! | `packets` | strangers, tunnels, local programs: datagrams, IP packets, DNS, D-Bus |
//! | `offload`, `pieces`, `engine` | kernels, strangers and far ends of tunnels: virtio headers, trains, fragments, and the whole engine |
//! | `messages` | the far end of an RPC: every message of the descriptors, then the conversion that the program makes |
//! | `calls` | an administrator, through the whole service and its store |
//! | `tree` | (messages taken apart by their descriptors: each field left out, each number and enumeration unknown) |
//! | `files` | a disk: join files, identities, state, records of the store, audit trails, backups |
//! | `texts` | people and other programs: policies, names, numbers, resolv.conf, /proc |
//! | `certificates` | whoever shows one |
//! | `passkeys` | whoever sits at a device: answers of browsers and authenticators, and the CBOR in them |
//! | `tokens` | whoever shows one, and who made it: JSON Web Tokens and sets of keys |
//! | `mutate` | (one input becomes another) |
//! | `corpus` | (what is kept in `fuzz/corpus`, one folder a parser) |
//!
//! The same list serves `cargo test` (`tests/tests/parsers.rs`), `umbra-lab check parsers`, and `fuzz/`. What is not in it: netlink
//! and nftables dumps (the kernel's, read by the library `nlink`), TLS and HTTP/2 (`rustls`, `h2`), and the embedded database's own
//! files (`controller/tests/store_crash.rs` damages those).

pub mod calls;
mod certificates;
pub mod corpus;
mod engine;
mod files;
pub mod messages;
mod mutate;
mod offload;
mod packets;
mod passkeys;
mod pieces;
mod texts;
mod tokens;
pub mod tree;

pub use mutate::Mutator;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// One parser, and what must hold of it.
#[derive(Clone, Copy)]
pub struct Parser {
    /// Its name, and that of its folder in the corpus.
    pub name: &'static str,
    /// What it reads, and from whom.
    pub reads: &'static str,
    /// Calls the real parser and asserts what holds beside that it does not panic. Answers whether the input was taken.
    pub run: fn(&[u8]) -> bool,
    /// Inputs made by the real encoders.
    pub seeds: fn() -> Seeds,
    /// The input begins with a line that names what is read, which is never changed.
    pub headed: bool,
    /// How many inputs of the quickest take as long as one of this, about.
    pub cost: u32,
}

/// One whose inputs have no head.
const fn parser(
    name: &'static str,
    reads: &'static str,
    run: fn(&[u8]) -> bool,
    seeds: fn() -> Seeds,
    cost: u32,
) -> Parser {
    Parser { name, reads, run, seeds, headed: false, cost }
}

/// Inputs with the names of their files.
pub type Seeds = anyhow::Result<Vec<(String, Vec<u8>)>>;

/// All parsers.
pub fn all() -> Vec<Parser> {
    [
        packets::PARSERS,
        offload::PARSERS,
        pieces::PARSERS,
        engine::PARSERS,
        messages::PARSERS,
        files::PARSERS,
        texts::PARSERS,
        certificates::PARSERS,
        tokens::PARSERS,
        passkeys::PARSERS,
    ]
    .concat()
}

/// Runs a parser; the error is the panic's text.
pub fn attempt(parser: &Parser, input: &[u8]) -> Result<bool, String> {
    catch_unwind(AssertUnwindSafe(|| (parser.run)(input))).map_err(|panic| text_of(&*panic))
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

/// A seed with its name.
fn seed(name: &str, bytes: impl Into<Vec<u8>>) -> (String, Vec<u8>) {
    (name.to_owned(), bytes.into())
}

/// Splits an input of a parser that is headed.
fn head_of(input: &[u8]) -> Option<(&str, &[u8])> {
    let end = input.iter().position(|byte| *byte == b'\n')?;
    let (head, rest) = input.split_at_checked(end)?;
    Some((std::str::from_utf8(head).ok()?, rest.get(1..)?))
}
