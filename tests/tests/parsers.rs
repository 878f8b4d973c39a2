//! Does every parser refuse or take whatever it is given? The corpus, thousands of changed inputs of each parser, and every
//! message with each of its fields absent or unknown. `umbra-lab check parsers` does the same for longer, `fuzz/` with coverage.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use umbra_tests::parsers::calls::Calls;
use umbra_tests::parsers::{Mutator, Parser, all, attempt, corpus, messages};

/// Changed inputs of a parser whose cost is 1.
const CHANGED: u32 = 6_000;

fn hold(parser: &Parser, input: &[u8]) -> bool {
    attempt(parser, input).unwrap_or_else(|why| panic!("{}: {why}: {}", parser.name, input.escape_ascii()))
}

#[test]
fn no_kept_or_changed_input_upsets_a_parser() {
    for parser in all() {
        let kept = corpus::kept(&parser).unwrap();
        kept.iter().for_each(|input| {
            hold(&parser, input);
        });
        let mut mutator = Mutator::new(1);
        for _ in 0..(CHANGED / parser.cost).max(20) {
            hold(&parser, &mutator.next(&kept, parser.headed));
        }
    }
}

#[test]
fn no_absent_field_unknown_enumeration_or_edge_of_a_number_upsets_a_message() {
    let parser = all().into_iter().find(|parser| parser.name == "message").unwrap();
    let varied = messages::vary(|input| {
        hold(&parser, input);
    })
    .unwrap();
    assert_eq!(varied.unknown, Vec::<String>::new(), "an RPC has a message that nothing here reads");
    assert_eq!(varied.refused, Vec::<&str>::new(), "whole messages are refused: their variants show nothing");
    assert!(varied.taken.len() > 15 && varied.tried > 3_000, "{varied:?}");
}

#[test]
fn no_field_of_an_administrator_s_call_upsets_the_controller() {
    let called = Calls::new().unwrap().make_all().unwrap();
    assert_eq!(called.unknown, Vec::<String>::new(), "the service has calls that are not made here");
    assert!(called.done.len() > 20 && called.tried > 300, "{called:?}");
}

#[test]
fn every_parser_has_a_corpus_that_it_takes_some_of_and_refuses_some_of() {
    let parsers = all();
    let names: BTreeSet<_> = parsers.iter().map(|parser| parser.name).collect();
    assert_eq!(names.len(), parsers.len(), "two parsers of one name");
    let folders =
        std::fs::read_dir(corpus::folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(folders.collect::<BTreeSet<_>>(), names.iter().map(|name| (*name).to_owned()).collect(), "fuzz/corpus");
    for parser in parsers {
        let kept = corpus::kept(&parser).unwrap();
        assert!(kept.iter().any(|input| hold(&parser, input)), "{} takes nothing that is kept", parser.name);
        assert!(
            (parser.seeds)().unwrap().iter().any(|(_, input)| hold(&parser, input)),
            "{} takes no seed",
            parser.name
        );
        // A zero, which is an item of CBOR, and what is none behind it.
        assert!(!hold(&parser, b"\0\xff"), "{} takes anything", parser.name);
    }
}
