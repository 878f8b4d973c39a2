//! A stand-in that speaks the interface on a socket; and a real bus, where there is one.

use super::*;
use crate::test_support::Folder;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

fn names() -> LinkNames {
    LinkNames {
        link: 7,
        servers: vec!["10.77.0.53".parse().expect("v4"), "fd00::53".parse().expect("v6")],
        zones: vec!["corp.example".parse().expect("name"), "other.example".parse().expect("name")],
    }
}

/// Answers one connection: each call with what `answer` says; gives the calls.
fn stand_in(path: &Path, answer: fn(&str) -> Option<&'static str>) -> JoinHandle<Vec<(String, Vec<u8>)>> {
    let listener = UnixListener::bind(path).expect("bind");
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("accept");
        let mut stream = BufReader::new(stream);
        let (mut hello, mut begin) = (Vec::new(), Vec::new());
        stream.read_until(b'\n', &mut hello).expect("a line");
        assert!(hello.starts_with(b"\0AUTH EXTERNAL 3"), "{hello:?}");
        stream.get_mut().write_all(b"OK 1234deadbeef\r\n").expect("write");
        stream.read_until(b'\n', &mut begin).expect("a line");
        assert_eq!(begin, b"BEGIN\r\n");
        let mut calls = Vec::new();
        while let Some((serial, member, body)) = wire::double::read_call(&mut stream) {
            stream.get_mut().write_all(&wire::double::signal()).expect("write");
            stream.get_mut().write_all(&wire::double::answer(serial, answer(&member))).expect("write");
            calls.push((member, body));
        }
        calls
    })
}

#[test]
fn our_zones_lead_to_our_resolver_and_nothing_else_does() {
    let folder = Folder::new();
    let bus = folder.path().join("bus");
    let heard = stand_in(&bus, |_| None);
    assert!(tell(&bus, &names()).expect("told"));
    let heard = heard.join().expect("stand-in");
    let members: Vec<&str> = heard.iter().map(|(member, _)| member.as_str()).collect();
    let expected =
        ["Hello", "SetLinkDomains", "SetLinkDefaultRoute", "SetLinkDNSSEC", "SetLinkDNSOverTLS", "SetLinkDNS"];
    assert_eq!(members, expected);
    let body = |member: &str| heard.iter().find(|(m, _)| m == member).map(|(_, body)| body.clone()).expect("called");
    // By hand, from the specification: link, length of the array, and each structure at a multiple of 8.
    let domains = [
        &[7, 0, 0, 0, 48, 0, 0, 0][..],
        &[&[12, 0, 0, 0], &b"corp.example\0"[..], &[0, 0, 0], &[1, 0, 0, 0]].concat(),
        &[&[13, 0, 0, 0], &b"other.example\0"[..], &[0, 0], &[1, 0, 0, 0]].concat(),
    ];
    assert_eq!(body("SetLinkDomains"), domains.concat());
    assert_eq!(body("SetLinkDefaultRoute"), [7, 0, 0, 0, 0, 0, 0, 0]);
    let servers = [
        &[7, 0, 0, 0, 40, 0, 0, 0][..],
        &[2, 0, 0, 0, 4, 0, 0, 0, 10, 77, 0, 53],
        &[0, 0, 0, 0],
        &[10, 0, 0, 0, 16, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53],
    ];
    assert_eq!(body("SetLinkDNS"), servers.concat());
}

#[test]
fn where_resolved_does_not_run_that_is_said_and_a_refusal_is_told() {
    let folder = Folder::new();
    let bus = folder.path().join("bus");
    assert!(!tell(&bus, &names()).expect("no bus is no resolved"));
    let heard = stand_in(&bus, |m| (m != "Hello").then_some("org.freedesktop.DBus.Error.ServiceUnknown"));
    assert!(!tell(&bus, &names()).expect("nobody has the name"));
    assert_eq!(heard.join().expect("stand-in").len(), 2, "nothing more is asked");
    std::fs::remove_file(&bus).expect("remove");
    let heard = stand_in(&bus, |m| (m == "SetLinkDNS").then_some("org.freedesktop.resolve1.LinkBusy"));
    let error = tell(&bus, &names()).expect_err("refused").to_string();
    assert!(error.contains("SetLinkDNS") && error.contains("LinkBusy"), "{error}");
    heard.join().expect("stand-in");
}

#[test]
fn no_more_zones_are_told_than_resolved_takes() {
    let zones = (0..=RESOLVED_DOMAINS_MAX).map(|n| format!("z{n:04}.example").parse().expect("name"));
    let many = LinkNames { zones: zones.collect(), ..names() };
    let [(_, _, domains), ..] = calls(&many);
    let text = String::from_utf8_lossy(&domains.0);
    assert!(text.contains("z0255.example") && !text.contains("z0256.example"));
}

#[test]
fn damaged_answers_are_refused_and_end_nothing() {
    let whole = wire::double::answer(1, Some("org.freedesktop.DBus.Error.Failed"));
    for at in 0..whole.len() {
        assert!(wire::read(&mut &whole[..at]).is_err(), "cut off at {at}");
        for value in [0, 1, 7, b'g', b's', b'u', 0x7f, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] = value;
            let answer = wire::read(&mut damaged.as_slice()).ok().and_then(|message| message.answer_to(1));
            assert!(!matches!(answer, Some(Answer::Return)) || at == 1, "at {at}: {answer:?}");
        }
    }
}

struct Bus(Child);
impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_real_bus_takes_our_messages() {
    let folder = Folder::new();
    let bus = folder.path().join("bus");
    let mut command = Command::new("dbus-daemon");
    command.args(["--session", "--nofork", "--nopidfile", "--print-address"]);
    command.arg(format!("--address=unix:path={}", bus.display()));
    let Ok(mut child) = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn() else {
        println!("skipped: needs dbus-daemon");
        return;
    };
    let mut said = BufReader::new(child.stdout.take().expect("output"));
    let _bus = Bus(child);
    said.read_line(&mut String::new()).expect("its address");
    // Nobody has the name there: a message that it did not understand would end the connection instead.
    assert!(!tell(&bus, &names()).expect("understood"));
    let mut connection = Connection::open(&bus).expect("a connection");
    for (member, signature, body) in calls(&names()) {
        let call = Call { to: RESOLVED, path: PATH, interface: MANAGER, member, signature };
        let answer = connection.call(&call, &body).expect("understood");
        assert!(matches!(answer, Answer::Error(ref name) if is_absent(name)), "{member}: {answer:?}");
    }
}
