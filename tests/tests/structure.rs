//! Does the code keep to its own architecture?
//!
//! Who may depend on whom, where unsafe code and wire types may occur, what the pure crates may not touch, and whether
//! the places that ARCHITECTURE.md names exist.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who may depend on whom. Tests may depend on anything.
const MAY_DEPEND: [(&str, &[&str]); 10] = [
    ("model", &[]),
    ("policy", &["model"]),
    ("grant", &["model"]),
    ("proto", &["model"]),
    ("host", &["model"]),
    ("tunnel", &["model", "grant"]),
    ("node", &["model", "grant", "tunnel", "proto", "host"]),
    ("controller", &["node", "policy", "model", "grant", "tunnel", "proto", "host"]),
    ("gateway", &["node", "model", "grant", "tunnel", "proto", "host"]),
    ("client", &["node", "model", "grant", "tunnel", "proto", "host"]),
];

/// Where is ...? A file, and what stands in it.
const WHERE_IS: [(&str, &str); 8] = [
    ("policy/src/decide.rs", "pub fn decide("),
    ("tunnel/src/filter.rs", "pub fn check"),
    ("grant/src/revoke.rs", "pub fn revoke("),
    ("grant/src/table.rs", "pub fn handle_timeout("),
    ("controller/src/rpc/enroll.rs", "async fn enroll("),
    ("controller/src/authz.rs", "pub fn authorize("),
    ("model/src/limits.rs", "pub const "),
    ("docs/immunity.md", "## Data plane"),
];

/// Crates of which two versions at once would mean two types of one name, or two copies of one engine.
const ONE_VERSION: [&str; 15] = [
    "boringtun",
    "x25519-dalek",
    "tokio",
    "tonic",
    "prost",
    "rustls",
    "rcgen",
    "x509-parser",
    "sled",
    "tun-tap",
    "cedar-policy",
    "hickory-proto",
    "smoltcp",
    "nlink",
    "clap",
];

/// Crates without clock, entropy, disk, sockets and accidental order.
const PURE: [&str; 4] = ["model", "policy", "grant", "tunnel"];

/// What would break their purity.
const IMPURE: [&str; 11] = [
    "std::time::Instant",
    "SystemTime",
    "Instant::now(",
    "HashMap",
    "HashSet",
    "std::fs",
    "std::env",
    "std::net::Udp",
    "std::net::Tcp",
    "tokio::",
    "getrandom::",
];

/// File and word that may meet all the same.
const EXCUSED: [(&str, &str); 2] = [
    // Its type lets nobody walk through it.
    ("tunnel/src/lookup.rs", "HashMap"),
    // Cedar's `Entity::new` takes its parents in this type; nobody walks it.
    ("policy/src/decide.rs", "HashSet"),
];

/// Bounds of `model::limits` that no test can fill, and why. Everything else there is named by a test, which fills it.
const NOT_FILLED: [(&str, &[&str]); 4] = [
    (
        "stacks for the deepest and the longest policy, which tests compile and decide on them",
        &["POLICY_STACK_BYTES", "DECIDE_STACK_BYTES"],
    ),
    ("what a setting says where nobody says anything", &["AUTHORITY_OVERLAP", "SESSION_LIFE"]),
    (
        "times after which something that is late is given up, or done again",
        &[
            "ADMIN_CALL_MAX",
            "AUDIT_HEAD_EVERY",
            "AUTHORITY_EVERY",
            "CONNTRACK_ANSWER_MAX",
            "DNS_ASSIGN_WAIT",
            "KEY_PROOF_MAX",
            "LAST_WORDS",
            "POLICY_COMPILE_MAX",
            "RECOVER_AFTER",
            "RECOVER_EVERY",
            "RECOVER_MAX",
        ],
    ),
    ("spans of time within which something counts", &["DARK_TRIAL"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Rust file below `folder`, by its path from the root, with its text.
fn sources(folder: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    assert!(!found.is_empty(), "{folder} holds no code: look again");
    found
}

/// The lines of code of a file: no comments, and nothing after the start of its tests.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let heads = ["#[cfg(test)]\nmod ", "#[cfg(test)]\npub(crate) mod "];
    let code = heads.iter().fold(text, |code, head| code.split(head).next().unwrap_or_default());
    code.lines().filter(|line| !line.trim_start().starts_with("//"))
}

fn is_test_code(file: &str) -> bool {
    file.contains("/tests/") || file.contains("/benches/") || file.ends_with("/tests.rs") || file.contains("test_")
}

fn has_word(line: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(part_of_name) && !line[at + word.len()..].starts_with(part_of_name))
}

#[test]
fn crates_depend_on_each_other_as_drawn() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version=1", "--no-deps", "--offline"]).current_dir(root());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ours = |value: &serde_json::Value| value["name"].as_str()?.strip_prefix("umbra-").map(str::to_owned);
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = ours(package).unwrap();
        seen.insert(name.clone());
        let Some((_, allowed)) = MAY_DEPEND.iter().find(|(who, _)| *who == name) else {
            assert_eq!(name, "tests", "the table says nothing about {name}");
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap().iter().filter_map(ours) {
            assert!(allowed.contains(&dependency.as_str()), "{name} may not depend on {dependency}");
        }
    }
    assert_eq!(seen.len(), MAY_DEPEND.len() + 1, "the table names crates that are not there");
}

#[test]
fn the_places_that_the_map_names_exist() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for (file, symbol) in WHERE_IS {
        assert!(map.contains(&format!("`{file}`")), "ARCHITECTURE.md does not name {file}");
        let text = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(symbol), "{file} has no `{symbol}`");
    }
}

#[test]
fn only_host_holds_unchecked_code() {
    // In two parts, so that this file does not find itself.
    let word = concat!("un", "safe");
    for (folder, _) in MAY_DEPEND.iter().filter(|(name, _)| *name != "host").chain([&("tests", &[][..])]) {
        for (file, text) in sources(folder) {
            let found = text.lines().filter(|line| !line.trim_start().starts_with("//")).find(|line| {
                has_word(line, word) && !line.contains('"') || line.contains(concat!("allow(un", "safe_code"))
            });
            assert_eq!(found, None, "{file}");
        }
    }
    let host = sources("host");
    assert!(host.values().any(|text| has_word(text, word)), "the search finds nothing anywhere: look again");
}

#[test]
fn wire_types_stay_in_the_rpc_modules() {
    // A command line is the other end of its program's local RPC.
    let is_rpc = |file: &str| file.contains("/rpc/") || file.ends_with("/rpc.rs") || file.contains("/src/cli/");
    let folders = ["model", "policy", "grant", "tunnel", "host", "node", "controller", "gateway", "client"];
    for (file, text) in folders.iter().flat_map(|folder| sources(folder)).filter(|(file, _)| !is_rpc(file)) {
        if is_test_code(&file) {
            continue;
        }
        let grouped =
            |line: &str| line.contains("proto::{") && ["v1", "admin", "local"].iter().any(|wire| has_word(line, wire));
        // The daemon answers its own local socket with that socket's messages.
        let own_socket = file.starts_with("client/src/");
        // The generated ends of a service are no messages.
        let found =
            code(&text).filter(|line| !line.contains("_server::") && !line.contains("_client::")).find(|line| {
                line.contains("proto::v1")
                    || line.contains("proto::admin")
                    || (line.contains("proto::local") && !own_socket)
                    || has_word(line, "prost")
                    || (grouped(line) && !(own_socket && has_word(line, "local")))
            });
        assert_eq!(found, None, "{file} holds wire types; only proto and the rpc modules may");
    }
}

/// Where text reaches a terminal or a log: each of them escapes it.
const SPEAKERS: [&str; 3] = ["node/src/cli/input.rs", "node/src/cli/log.rs", "node/src/cli/output.rs"];

#[test]
fn nothing_reaches_a_terminal_or_a_log_but_through_what_escapes_it() {
    let words = ["print!(", "println!(", "dbg!(", "stdout().lock", "stderr().lock", "(std::io::stderr", "error.exit()"];
    let folders = MAY_DEPEND.iter().map(|(folder, _)| format!("{folder}/src"));
    let mut speakers = BTreeSet::new();
    for (file, text) in folders.flat_map(|folder| sources(&folder)).filter(|(file, _)| !is_test_code(file)) {
        let found = code(&text).find(|line| words.iter().any(|word| line.contains(word)));
        if SPEAKERS.contains(&file.as_str()) {
            assert!(found.is_some() && text.contains("shown("), "{file} says nothing any more, or does not escape it");
            speakers.insert(file);
        } else {
            assert_eq!(found, None, "{file} writes past `node::cli`");
        }
    }
    assert_eq!(speakers.len(), SPEAKERS.len());
}

#[test]
fn pure_crates_touch_nothing_outside() {
    for (file, text) in PURE.iter().flat_map(|folder| sources(&format!("{folder}/src"))) {
        if is_test_code(&file) {
            continue;
        }
        for word in IMPURE.into_iter().filter(|word| !EXCUSED.contains(&(file.as_str(), word))) {
            assert_eq!(code(&text).find(|line| line.contains(word)), None, "{file} uses {word}");
        }
    }
}

#[test]
fn the_simulations_model_knows_nothing_of_what_it_judges() {
    let file = "tests/src/check/sim/reference.rs";
    let text = fs::read_to_string(root().join(file)).unwrap();
    let ours = MAY_DEPEND.iter().map(|(name, _)| *name).filter(|name| *name != "model");
    for word in ours.chain(["super", "crate"]) {
        let path = format!("{word}::");
        let found = code(&text).find(|line| {
            line.match_indices(&path).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        });
        assert_eq!(found, None, "{file} reaches into {word}");
    }
    assert!(code(&text).any(|line| line.starts_with("use model::")), "{file} is not what this test thinks it is");
}

/// What is compiled for tests alone, or belongs to the tests' own crate.
fn test_code<'a>(file: &str, text: &'a str) -> &'a str {
    let whole = file.starts_with("tests/") || is_test_code(file) || file.ends_with("_tests.rs");
    let inside = ["#[cfg(test)]\nmod ", "#[cfg(test)]\npub(crate) mod "].iter().find_map(|head| text.split_once(head));
    if whole { text } else { inside.map_or("", |(_, tests)| tests) }
}

/// Constants of `model::limits` that no test names.
fn unfilled(limits: &str) -> BTreeSet<String> {
    let folders = MAY_DEPEND.iter().map(|(folder, _)| *folder).chain(["tests"]);
    let files: Vec<_> = folders.flat_map(sources).filter(|(file, _)| file != "tests/tests/structure.rs").collect();
    let lines = files.iter().flat_map(|(file, text)| test_code(file, text).lines());
    let lines: Vec<_> = lines.filter(|line| !line.trim_start().starts_with("//")).collect();
    let names = limits.lines().filter_map(|line| Some(line.strip_prefix("pub const ")?.split_once(':')?.0));
    names.filter(|name| !lines.iter().any(|line| has_word(line, name))).map(str::to_owned).collect()
}

#[test]
fn every_bound_is_filled_by_a_test() {
    let limits = fs::read_to_string(root().join("model/src/limits.rs")).unwrap();
    let excused: BTreeSet<String> =
        NOT_FILLED.iter().flat_map(|(_, names)| names.iter()).map(|name| (*name).to_owned()).collect();
    assert_eq!(unfilled(&limits), excused, "left: no test names these; right: only these may be so");
    // A bound that is added is found.
    let name = concat!("BRAND_NEW", "_MAX");
    let more = format!("{limits}\n/// New.\npub const {name}: usize = 7;\n");
    let found: Vec<_> = unfilled(&more).difference(&excused).cloned().collect();
    assert_eq!(found, [name]);
}

#[test]
fn no_crate_that_matters_is_there_twice() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    for name in ONE_VERSION {
        let count = lock.lines().filter(|line| *line == format!("name = \"{name}\"")).count();
        assert_eq!(count, 1, "{name}");
    }
}
