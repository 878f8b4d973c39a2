//! Does the demonstration show what it promises?

use std::process::{Command, Stdio};
use std::time::Duration;
use umbra_tests::lab::run_to_its_end;

fn lab(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_umbra-lab"));
    command.args(words).stdin(Stdio::null());
    command
}

#[test]
fn the_demonstration_passes() {
    let shown = run_to_its_end(&mut lab(&["demo"]), "the demonstration", Duration::from_secs(10 * 60)).unwrap();
    let text = shown.stdout;
    let last = text.lines().last().unwrap_or_default();
    let count = last.strip_prefix("demo: ").and_then(|rest| rest.strip_suffix(" checks passed"));
    let told = text.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(shown.status.success(), "{text}{}", shown.stderr);
    assert_eq!(count, Some(told.to_string().as_str()), "{text}");
    assert!(told > 45, "{text}");
    assert!(!text.contains('\x1b'), "colour is for terminals");
}
