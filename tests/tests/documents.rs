//! Do the documents tell the truth about the code? What they name by path or as a test must exist.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// What stands between backticks, fenced blocks left out.
fn quoted(text: &str) -> Vec<String> {
    let prose: String = text.split("```").step_by(2).collect();
    prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Is it a path from the root of the repository, and of which kind? A folder without ending, or a file.
fn is_path(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_-.".contains(c);
    let folders =
        ["model/", "policy/", "grant/", "tunnel/", "host/", "proto/", "node/", "controller/", "gateway/", "client/"];
    word.chars().all(plain)
        && (folders.iter().chain(&["tests/", "docs/", ".ci/"]).any(|folder| word.starts_with(folder)))
        && (word.contains("/src") || word.contains("/tests") || word.starts_with("docs/") || word.starts_with(".ci/"))
}

/// Every module below a folder, as `name` or `outer/name`.
fn modules(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            found.extend(modules(&path).iter().map(|inner| format!("{name}/{inner}")));
        }
        found.push(name);
    }
    found
}

/// The part of the immunity table whose tests exist already.
fn immunity() -> String {
    read("docs/immunity.md").split("## To come").next().unwrap().to_owned()
}

/// How many tests the last column of a document's tables names: each must exist, and each row must have one.
fn named_tests<'t>(rows: impl Iterator<Item = &'t str>) -> usize {
    let (mut file, mut count) = (String::new(), 0);
    for row in rows.filter(|line| line.starts_with("| ") && !line.starts_with("| |")) {
        let tests = row.trim_end_matches('|').rsplit('|').next().unwrap();
        for word in quoted(tests) {
            if Path::new(&word).extension().is_some_and(|extension| extension == "rs") {
                file = word;
                continue;
            }
            assert!(read(&file).contains(&format!("fn {word}(")), "{file} has no test `{word}`");
            count += 1;
        }
        assert!(tests.contains('`'), "a row without a test: {row}");
    }
    count
}

#[test]
fn every_test_that_the_immunity_table_names_exists() {
    let count = named_tests(immunity().lines());
    assert!(count > 50, "only {count} tests were found: look again");
}

#[test]
fn every_bound_of_the_threat_model_names_a_test_that_exists() {
    let text = read("SECURITY.md");
    let (_, table) = text.split_once("| who | cannot | shown by |\n").unwrap();
    let count = named_tests(table.lines().take_while(|line| line.starts_with('|')).skip(1));
    assert!(count > 30, "only {count} tests were found: look again");
}

#[test]
fn every_path_that_a_document_names_exists() {
    let mut count = 0;
    let adr = fs::read_dir(root().join("docs/adr")).unwrap().map(|entry| entry.unwrap().path());
    let adr = adr.map(|path| format!("docs/adr/{}", path.file_name().unwrap().to_str().unwrap()));
    let fixed =
        ["README.md", "ARCHITECTURE.md", "SECURITY.md", "docs/promises.md", "docs/limits.md", "docs/operations.md"];
    let documents: Vec<_> = fixed.iter().map(|name| (*name).to_owned()).chain(adr).collect();
    let texts = documents.iter().map(|name| (name.clone(), read(name)));
    for (document, text) in texts.chain([("docs/immunity.md".to_owned(), immunity())]) {
        for path in quoted(&text).iter().filter(|word| is_path(word)) {
            assert!(root().join(path).exists(), "{document} names {path}, which is not there");
            count += 1;
        }
    }
    assert!(count > 50, "only {count} paths were found: look again");
}

#[test]
fn the_code_map_names_every_crate_and_only_modules_that_exist() {
    let text = read("ARCHITECTURE.md");
    let manifest = read("Cargo.toml");
    let members = manifest.lines().find(|line| line.starts_with("members")).unwrap();
    let mut count = 0;
    for member in members.split('"').skip(1).step_by(2) {
        let heading = format!("### `{member}/`");
        let part = text.split(&heading).nth(1).unwrap_or_else(|| panic!("ARCHITECTURE.md has no `{heading}`"));
        let modules = modules(&root().join(member).join("src"));
        let plain = |c: char| c.is_ascii_lowercase() || c == '_' || c == '/';
        let is_module = |word: &&String| word.chars().all(plain) && !root().join(word).exists();
        let (_, part) = part.split("\n#").next().unwrap().split_once('\n').unwrap();
        for module in quoted(part).iter().filter(is_module) {
            let exists = modules.iter().any(|path| path == module || path.ends_with(&format!("/{module}")));
            assert!(exists, "ARCHITECTURE.md names `{module}` of {member}, which is not there");
            count += 1;
        }
    }
    assert!(count > 50, "only {count} modules were found: look again");
}
