//! One parser under libFuzzer: the one that UMBRA_PARSER names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;
use umbra_tests::parsers::{Parser, all};

/// The parser; a name that is none ends the process with all names.
fn parser() -> &'static Parser {
    static PARSER: OnceLock<Parser> = OnceLock::new();
    PARSER.get_or_init(|| {
        let name = std::env::var("UMBRA_PARSER").unwrap_or_default();
        let names: Vec<_> = all().iter().map(|parser| parser.name).collect();
        let found = all().into_iter().find(|parser| parser.name == name);
        found.unwrap_or_else(|| panic!("set UMBRA_PARSER to one of: {}", names.join(", ")))
    })
}

fuzz_target!(|input: &[u8]| {
    (parser().run)(input);
});
