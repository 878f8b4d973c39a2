//! What people type, and what other programs and the kernel keep as text.

use super::{Parser, Seeds, head_of, parser, seed};
use controller::backup::container::Recipient;
use controller::directory::Name;
use controller::store::Key;
use host::nft::AllowIn;
use host::privilege::ThreadStatus;
use host::resolv::Conf;
use host::ssh::Socket;
use model::ids::{
    DeviceId, GatewayId, GrantId, JoinKeyId, NodeId, PairingId, ResourceId, SessionId, SiteId, SubjectId, UserId,
};
use model::limits::RESOLV_CONF_ENTRIES_MAX;
use model::net::{HostName, PortRange, Prefix, Protocol};
use node::{cli, settings};
use proto::join::endpoint_is_sound;
use std::fmt::{Debug, Display};
use std::str::FromStr;

pub const PARSERS: &[Parser] = &[
    parser("policy", "policy text, of an administrator", policy, policy_seeds, 400),
    parser("resolv-conf", "resolv.conf, of whoever keeps it", resolv_conf, resolv_conf_seeds, 2),
    parser("hosts", "a hosts file, and resolv.conf as a gateway reads it", hosts, hosts_seeds, 1),
    parser("settings", "a file of settings", settings_file, settings_seeds, 1),
    parser("proc-status", "/proc/PID/task/TID/status", status, status_seeds, 1),
    parser("proc-tcp", "a line of /proc/net/tcp or tcp6", tcp, tcp_seeds, 1),
    Parser {
        name: "word",
        reads: "a value of a command line or a field: names, ids, prefixes, ports, durations; what it is in the first line",
        run: word,
        seeds: word_seeds,
        headed: true,
        cost: 1,
    },
];

/// Compiling catches its own panics and calls them a problem: here that is one.
fn policy(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    match policy::compile(&[("p", &text)]) {
        Ok(set) => {
            let facts = policy::Facts::of("ada", "wiki");
            let _ = policy::explain(&policy::decide(&set, &facts), &facts);
            true
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "a policy that is refused without a reason");
            let panicked = problems.iter().find(|problem| problem.reason.contains("please report it"));
            assert!(panicked.is_none(), "{panicked:?}");
            false
        }
    }
}

fn policy_seeds() -> Seeds {
    let wide = "@id(\"web\") @reason(\"ask in the office\")\npermit(principal in Group::\"staff\", action == Action::\"connect\", \
                resource in Tag::\"web\")\nwhen { context.login_age_s < 3600 } unless { principal == User::\"eve\" };\n";
    Ok(vec![
        seed("wide", wide),
        seed("plain", "permit(principal, action, resource);"),
        seed("forbid", "forbid(principal, action, resource) when { context.login_age_s + 9223372036854775807 > 1 };"),
        seed(
            "two",
            "permit(principal == User::\"ada\", action, resource == Resource::\"wiki\");\nforbid(principal, action, resource);",
        ),
        seed(
            "like",
            "permit(principal, action, resource) when { \"a\\u{202e}\" like \"*\" || !(if true then false else true) };",
        ),
        seed(
            "deep",
            format!("permit(principal, action, resource) when {{ {}true{} }};", "(".repeat(300), ")".repeat(300)),
        ),
        seed("broken", "permit(principal, action, resource"),
    ])
}

fn resolv_conf(bytes: &[u8]) -> bool {
    let conf = Conf::parse(&String::from_utf8_lossy(bytes));
    let lists = [conf.servers.len(), conf.search.len(), conf.options.len()];
    assert!(lists.iter().all(|len| *len <= RESOLV_CONF_ENTRIES_MAX), "{lists:?}");
    assert_eq!(Conf::parse(&conf.to_text()), conf, "it is read as it was written");
    !conf.servers.is_empty()
}

fn resolv_conf_seeds() -> Seeds {
    Ok(vec![
        seed(
            "full",
            "# comment\nnameserver 192.0.2.1\nnameserver fe80::1%1\nsearch a.example b.example\noptions ndots:2 edns0\n",
        ),
        seed("many", "nameserver 192.0.2.1\n".repeat(40)),
        seed("odd", "domain\nnameserver\nnameserver fe80::1%nothing\noptions\n"),
    ])
}

fn hosts(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let found = "wiki.corp.example".parse().map(|name| gateway::resolve::in_hosts(&text, &name)).unwrap_or_default();
    !found.is_empty() | !gateway::resolve::servers(&text).is_empty()
}

fn hosts_seeds() -> Seeds {
    Ok(vec![
        seed("hosts", "127.0.0.1 localhost\n10.20.0.7 wiki.corp.example wiki # here\nfe80::1%lo x\n"),
        seed("servers", "nameserver 192.0.2.1\nnameserver ::1 ; there\nnameserver\n"),
    ])
}

fn settings_file(bytes: &[u8]) -> bool {
    match settings::parse(&String::from_utf8_lossy(bytes)) {
        Ok(found) => !found.is_empty(),
        Err(line) => {
            assert!(line > 0);
            false
        }
    }
}

fn settings_seeds() -> Seeds {
    Ok(vec![
        seed(
            "full",
            "# what is logged\nUMBRA_LOG=\"debug,h2=warn\"\n\n; a port\nUMBRA_PORT= 4443 \nOTHER='a b'\nEMPTY=\n",
        ),
        seed("quotes", "A=\"\nB='\nC=\"'\n"),
        seed("broken", "A=1\nno line\n"),
    ])
}

fn status(bytes: &[u8]) -> bool {
    ThreadStatus::parse(&String::from_utf8_lossy(bytes)).is_some_and(|status| status.is_within(0) | true)
}

fn status_seeds() -> Seeds {
    let text = "Name:\tumbra\nUid:\t998\t998\t998\t998\nGid:\t998\nGroups:\t998 4 \nCapInh:\t0000000000000000\n\
                CapPrm:\t0000000000003000\nCapEff:\t0000000000003000\nCapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\n\
                NoNewPrivs:\t1\nSeccomp:\t2\n";
    Ok(vec![seed("whole", text), seed("cut", text.get(..80).unwrap_or_default())])
}

fn tcp(bytes: &[u8]) -> bool {
    Socket::parse(&String::from_utf8_lossy(bytes)).is_some()
}

fn tcp_seeds() -> Seeds {
    let four = "   0: 0100007F:0016 0200007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 12345 1 0000000000000000 100 0 0 10 0";
    let six = "   1: 0000000000000000FFFF00000100007F:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 18446744073709551615 1";
    Ok(vec![seed("four", four), seed("six", six)])
}

/// A value that is shown as it can be typed.
fn shown<T: FromStr + Display + PartialEq + Debug>(text: &str) -> bool {
    let Ok(value) = text.parse::<T>() else { return false };
    let again = value.to_string();
    assert_eq!(again.parse::<T>().ok().as_ref(), Some(&value), "`{again}` is not what `{text}` was");
    true
}

type Word = (&'static str, fn(&str) -> bool, &'static [&'static str]);

const WORDS: &[Word] = &[
    ("user-id", shown::<UserId>, &["us-7777777777777777"]),
    ("subject-id", shown::<SubjectId>, &["us-7777777777777777", "ac-7777777777777777"]),
    ("device-id", shown::<DeviceId>, &["de-7777777777777777"]),
    ("gateway-id", shown::<GatewayId>, &["gw-7777777777777777"]),
    ("site-id", shown::<SiteId>, &["si-7777777777777777"]),
    ("resource-id", shown::<ResourceId>, &["re-7777777777777777"]),
    ("session-id", shown::<SessionId>, &["se-7777777777777777"]),
    ("grant-id", shown::<GrantId>, &["gr-7777777777777777"]),
    ("pairing-id", shown::<PairingId>, &["pa-7777777777777777"]),
    ("join-key-id", shown::<JoinKeyId>, &["jk-7777777777777777"]),
    ("spiffe", spiffe, &["spiffe://corp.example/device/de-7777777777777777", "spiffe://corp.example/controller"]),
    ("name", shown::<Name>, &["ada", "0.web_1-2"]),
    ("machine", machine, &["Ada's Laptop", "ä", "---"]),
    ("host", shown::<HostName>, &["wiki.corp.example", "a", "xn--bcher-kva.example", "WIKI.example."]),
    ("prefix", shown::<Prefix>, &["10.20.0.0/24", "10.20.0.7", "fd00::/64", "0.0.0.0/0", "::ffff:10.0.0.0/104"]),
    ("protocol", shown::<Protocol>, &["tcp", "udp", "icmp"]),
    ("ports", shown::<PortRange>, &["443", "1-65535", "6000-6010"]),
    ("allow-in", |text| text.parse::<AllowIn>().is_ok(), &["tcp:22", "udp:6000-6010", "icmp:1"]),
    (
        "recipient",
        |text| text.parse::<Recipient>().is_ok(),
        &["umbra-backup-recipient:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="],
    ),
    ("endpoint", endpoint_is_sound, &["vpn.corp.example:443", "192.0.2.1:443", "[2001:db8::1]:443"]),
    ("duration", |text| cli::duration(text).is_ok(), &["500ms", "90s", "15m", "1h", "7d", "18446744073709551615ms"]),
    ("interval", |text| cli::interval(text).is_ok(), &["5s", "1ms"]),
    ("key-life", |text| cli::key_life(text).is_ok(), &["24h"]),
    ("store-key", |text| Key::new(text).is_ok_and(|key| key.head().is_head()), &["user/us-1", "policy"]),
    ("shown", nothing_hidden, &["clerk \u{202e}\n", "ä", "\u{1b}[2J"]),
];

fn spiffe(text: &str) -> bool {
    let read = NodeId::from_spiffe("corp.example", text);
    if let Ok(node) = &read {
        assert_eq!(node.spiffe("corp.example"), text, "a node has one name");
    }
    read.is_ok()
}

fn machine(text: &str) -> bool {
    let name = Name::from_machine(text);
    assert!(name.as_str().parse::<Name>().is_ok(), "`{name}` is no name");
    let numbered = name.numbered(u32::MAX);
    assert!(numbered.as_str().parse::<Name>().is_ok(), "`{numbered}` is no name");
    true
}

fn nothing_hidden(text: &str) -> bool {
    for shown in [model::text::shown(text), model::text::excerpt(text, 20)] {
        assert!(!shown.chars().any(model::text::is_hidden), "{shown:?}");
    }
    true
}

fn word(input: &[u8]) -> bool {
    let Some((name, bytes)) = head_of(input) else { return false };
    let text = String::from_utf8_lossy(bytes);
    WORDS.iter().find(|(known, ..)| *known == name).is_some_and(|(_, read, _)| read(&text))
}

fn word_seeds() -> Seeds {
    let all =
        WORDS.iter().flat_map(|(name, _, texts)| (1..).zip(*texts).map(move |(number, text)| (name, number, text)));
    Ok(all.map(|(name, number, text)| seed(&format!("{name}-{number}"), format!("{name}\n{text}"))).collect())
}
