//! Is there an input with which a parser panics, hangs, or breaks its word? Everything of the corpus, then what a mutator makes
//! of it, parser after parser, for as long as is asked.

use super::Tally;
use crate::parsers::{self, Mutator, Parser, attempt, corpus, messages};
use anyhow::Context as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One input may take this long on a slow machine in a debug build; the slowest takes some tens of milliseconds.
const INPUT_LIMIT: Duration = Duration::from_secs(60);
/// Inputs between two looks at the clock.
const AT_ONCE: u32 = 256;
/// Failing inputs of one parser that are kept.
const KEPT_MAX: usize = 10;

/// How `check parsers` is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// So many seconds, shared by all parsers
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The same seed tries the same inputs in the same order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only the parser of this name
    #[arg(long)]
    parser: Option<String>,
    /// Try this file alone, once (with --parser)
    #[arg(long)]
    input: Option<PathBuf>,
    /// Inputs that fail are kept here
    #[arg(long, default_value = "fuzz/found")]
    found: PathBuf,
    /// Write the corpus anew by the real encoders, and end
    #[arg(long)]
    write_corpus: bool,
}

/// What is being tried now: the watch looks at it.
type Current = Arc<Mutex<Vec<u8>>>;

/// What came of one parser.
#[derive(Default)]
struct Tried {
    inputs: u64,
    taken: u64,
    failed: Vec<(Vec<u8>, String)>,
    hung: bool,
}

/// Tries all of it.
pub fn check(arguments: &Arguments) -> anyhow::Result<Tally> {
    let mut tally = Tally::new("parsers", &["panics", "hangs"]);
    if arguments.write_corpus {
        tally.tried("files written", corpus::write()? as u64);
        return Ok(tally);
    }
    let wanted = |parser: &Parser| arguments.parser.as_ref().is_none_or(|name| *name == parser.name);
    let parsers: Vec<Parser> = parsers::all().into_iter().filter(wanted).collect();
    anyhow::ensure!(!parsers.is_empty(), "there is no such parser; all are: {}", names());
    let share = Duration::from_secs(arguments.seconds) / u32::try_from(parsers.len()).unwrap_or(1);
    for parser in parsers {
        let inputs = inputs(&parser, arguments)?;
        let once = arguments.input.is_some();
        let tried = watched(parser, inputs, arguments.seed, if once { Duration::ZERO } else { share });
        let Tried { inputs, taken, failed, hung } = tried?;
        let (panics, name) = (failed.len(), parser.name);
        writeln!(io::stdout(), "  {name}: {inputs} inputs, {taken} of them taken, {panics} panics ({})", parser.reads)?;
        tally.tried("parsers", 1);
        tally.tried("inputs", inputs);
        tally.wrong("panics", panics as u64);
        tally.wrong("hangs", u64::from(hung));
        for (number, (input, why)) in failed.iter().enumerate() {
            let path = keep(&arguments.found, name, number, input)?;
            writeln!(io::stdout(), "  {name}: {} in {}", why.lines().next().unwrap_or_default(), path.display())?;
        }
    }
    Ok(tally)
}

fn names() -> String {
    parsers::all().iter().map(|parser| parser.name).collect::<Vec<_>>().join(", ")
}

/// What is tried first, and mutated afterwards.
fn inputs(parser: &Parser, arguments: &Arguments) -> anyhow::Result<Vec<Vec<u8>>> {
    if let Some(path) = &arguments.input {
        return Ok(vec![std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?]);
    }
    let mut inputs = if corpus::folder().is_dir() { corpus::kept(parser)? } else { Vec::new() };
    inputs.extend((parser.seeds)()?.into_iter().map(|(_, bytes)| bytes));
    if parser.name == "message" {
        messages::vary(|input| inputs.push(input.to_vec()))?;
    }
    Ok(inputs)
}

/// Tries one parser in a thread of its own; an input that takes too long is written down, and the thread left to itself.
fn watched(parser: Parser, inputs: Vec<Vec<u8>>, seed: u64, share: Duration) -> anyhow::Result<Tried> {
    let (done, ended) = mpsc::channel();
    let current: Current = Arc::default();
    let shared = Arc::clone(&current);
    std::thread::Builder::new().name(parser.name.to_owned()).stack_size(8 << 20).spawn(move || {
        let _ = done.send(None);
        let tried = run(&parser, &inputs, seed, share, &shared, || drop(done.send(None)));
        let _ = done.send(Some(tried));
    })?;
    loop {
        match ended.recv_timeout(INPUT_LIMIT) {
            Ok(Some(tried)) => return Ok(tried),
            Ok(None) => {}
            Err(_) => {
                let input = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
                return Ok(Tried {
                    inputs: 1,
                    failed: vec![(input, "it hangs".to_owned())],
                    hung: true,
                    ..Tried::default()
                });
            }
        }
    }
}

fn run(parser: &Parser, inputs: &[Vec<u8>], seed: u64, share: Duration, current: &Current, alive: impl Fn()) -> Tried {
    let mut tried = Tried::default();
    let mut one = |input: &[u8]| {
        {
            let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
            current.clear();
            current.extend_from_slice(input);
        }
        tried.inputs += 1;
        match attempt(parser, input) {
            Ok(taken) => tried.taken += u64::from(taken),
            Err(why) if tried.failed.len() < KEPT_MAX => tried.failed.push((input.to_vec(), why)),
            Err(_) => {}
        }
    };
    let started = Instant::now();
    for (number, input) in inputs.iter().enumerate() {
        one(input);
        if number % 64 == 0 {
            alive();
        }
    }
    let mut mutator = Mutator::new(seed);
    let at_once = (AT_ONCE / parser.cost).max(1);
    while started.elapsed() < share {
        (0..at_once).for_each(|_| one(&mutator.next(inputs, parser.headed)));
        alive();
    }
    tried
}

fn keep(folder: &Path, name: &str, number: usize, input: &[u8]) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(format!("{name}-{}-{number}", std::process::id()));
    std::fs::write(&path, input).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
