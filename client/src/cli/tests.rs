use super::args::{Args, Command};
use super::show;
use clap::{CommandFactory as _, Parser as _};
use node::cli::{Exit, Failure, Output};
use proto::local as wire;

fn parse(line: &str) -> Result<Args, clap::Error> {
    Args::try_parse_from(line.split(' '))
}

#[test]
fn the_commands_are_sound_and_understood() {
    Args::command().debug_assert();
    for line in [
        "umbra up",
        "umbra up --join file --yes",
        "umbra login --user clerk --password-file -",
        "umbra ls --json",
        "umbra --json ls",
        "umbra connect wiki --socket /tmp/s",
        "umbra why wiki",
        "umbra status",
        "umbra logout",
        "umbra down",
        "umbra version",
        "umbra daemon --state /tmp/x --device umbra7 --port 0 --no-dns --dark --allow-in tcp:22",
    ] {
        assert!(parse(line).is_ok(), "{line}");
    }
    for line in
        ["umbra", "umbra connect", "umbra up --yes", "umbra login --password x", "umbra daemon --allow-in icmp:1"]
    {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
    let daemon = parse("umbra daemon --socket /tmp/s").unwrap();
    assert!(matches!(daemon.command, Command::Daemon(d) if d.socket.ends_with("s") && !d.no_dns));
}

fn written(json: bool, show: impl FnOnce(&mut Output) -> Result<(), Failure>) -> (String, Option<Exit>) {
    let mut output = Output::keeping(json);
    let exit = show(&mut output).err().map(|f| f.exit);
    (output.kept().to_owned(), exit)
}

#[test]
fn a_list_is_a_table_and_hides_nothing() {
    let resource = |name: &str, state: &str, reason: &str, ends_in_ms| wire::Resource {
        name: name.to_owned(),
        state: state.to_owned(),
        reason: reason.to_owned(),
        ends_in_ms,
        hosts: vec!["wiki.corp.example".to_owned()],
        services: vec!["tcp:443".to_owned()],
        ..wire::Resource::default()
    };
    let reply = wire::ListReply {
        user: "clerk".to_owned(),
        connected: true,
        resources: vec![
            resource("wiki", "connected", "", Some(3_600_000)),
            resource("\u{1b}[2Jgit\u{202e}", "denied", "log in again", Some(20_000)),
        ],
        ..wire::ListReply::default()
    };
    let (text, exit) = written(false, |o| show::list(&reply, o));
    assert_eq!(exit, None);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("NAME"));
    assert!(lines[1].contains("connected") && lines[1].contains("60 min left") && lines[1].contains("tcp:443"));
    assert!(lines[2].contains("log in again") && lines[2].contains("\\u{1b}") && !text.contains('\u{202e}'), "{text}");
    let (text, _) = written(true, |o| show::list(&reply, o));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&value["schema"], &value["resources"][0]["state"]), (&1.into(), &"connected".into()));
    let (text, _) = written(false, |o| show::list(&wire::ListReply::default(), o));
    assert!(text.contains("umbra login"));
}

#[test]
fn exit_codes_say_what_happened() {
    let reply = |outcome: &str| wire::ConnectReply {
        resource: "wiki".to_owned(),
        outcome: outcome.to_owned(),
        reasons: vec!["log in again".to_owned()],
        ..wire::ConnectReply::default()
    };
    for (outcome, exit) in [
        ("connected", None),
        ("denied", Some(Exit::Denied)),
        ("unreachable", Some(Exit::NotConnected)),
        ("", Some(Exit::NotConnected)),
    ] {
        assert_eq!(written(false, |o| show::connect(&reply(outcome), o)).1, exit, "{outcome}");
        assert_eq!(written(true, |o| show::connect(&reply(outcome), o)).1, exit, "{outcome}");
    }
    let denied = show::connect(&reply("denied"), &mut Output::keeping(false)).unwrap_err();
    assert_eq!(denied.text, "wiki: denied: log in again");
    let why = |outcome: &str| wire::WhyReply {
        resource: "wiki".to_owned(),
        outcome: outcome.to_owned(),
        reasons: vec!["no longer permitted".to_owned()],
        age_ms: 5_000,
        asked: false,
    };
    let (text, exit) = written(false, |o| show::why(&why("ended"), o));
    assert_eq!(
        (text.as_str(), exit),
        ("wiki: access ended: no longer permitted\n  (said 5 s ago)\n", Some(Exit::Denied))
    );
    assert_eq!(written(false, |o| show::why(&why("permitted"), o)).1, None);
}

#[test]
fn status_never_says_connected_when_it_is_not() {
    let mut reply = wire::StatusReply {
        state: "up".to_owned(),
        organisation: "corp.example".to_owned(),
        controller: Some(wire::Controller {
            connected: false,
            trouble: "silent for 3000 ms".to_owned(),
            endpoint: "192.0.2.1:443".to_owned(),
            last_word_ms_ago: Some(34_000),
            last_handshake_ms_ago: None,
        }),
        ..wire::StatusReply::default()
    };
    let (text, exit) = written(false, |o| show::status(&reply, o));
    assert_eq!(exit, Some(Exit::NotConnected));
    assert!(
        text.contains("NOT CONNECTED") && text.contains("last word 34 s ago") && text.contains("handshake never"),
        "{text}"
    );
    reply.controller.as_mut().unwrap().connected = true;
    assert_eq!(written(false, |o| show::status(&reply, o)).1, None);
    let idle = wire::StatusReply { state: "idle".to_owned(), ..wire::StatusReply::default() };
    let failure = show::status(&idle, &mut Output::keeping(false)).unwrap_err();
    assert!(failure.text.contains("umbra up --join"), "{failure:?}");
}
