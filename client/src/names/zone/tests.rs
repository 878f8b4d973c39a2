use super::*;
use proptest::prelude::*;

const POOL_V4: &str = "10.77.0.0/16";
const POOL_V6: &str = "fd12:3456:789a::/48";

fn pool() -> Pool {
    Pool::new(POOL_V4.parse().unwrap(), POOL_V6.parse().unwrap()).unwrap()
}

fn entry(id: u8, addresses: &[(&str, Option<&str>, Option<&str>)], suffixes: &[&str]) -> CatalogueEntry {
    let address = |(name, v4, v6): &(&str, Option<&str>, Option<&str>)| CatalogueAddress {
        name: (!name.is_empty()).then(|| name.parse().unwrap()),
        v4: v4.map(|text| text.parse().unwrap()),
        v6: v6.map(|text| text.parse().unwrap()),
    };
    CatalogueEntry {
        id: ResourceId::from_bytes([id; 10]),
        name: format!("resource {id}"),
        addresses: addresses.iter().map(address).collect(),
        suffixes: suffixes.iter().map(|suffix| suffix.parse().unwrap()).collect(),
        ports: Vec::new(),
    }
}

fn zone() -> Zone {
    let catalogue = [
        entry(1, &[("db.corp.example", Some("10.77.64.1"), Some("fd12:3456:789a:4::2"))], &[]),
        entry(2, &[("wiki.corp.example", Some("10.77.64.2"), None), ("", Some("192.0.2.0/24"), None)], &[]),
        entry(3, &[("a.b.umbra.internal", Some("10.77.64.3"), None)], &["svc.example", "deep.private.example"]),
        // What no honest controller says: addresses that are no virtual ones, and a new home for the controller.
        entry(4, &[("bank.example", Some("192.0.2.7"), Some("2001:db8::7"))], &[]),
        entry(5, &[("net.example", Some("10.77.64.0/24"), None), ("self.example", Some("10.77.0.53"), None)], &[]),
        entry(6, &[(CONTROLLER, Some("10.77.64.6"), None)], &[]),
    ];
    Zone::new(pool(), &["private.example".parse().unwrap()], &catalogue)
}

fn name(text: &str) -> Name {
    Name::from_labels(text.split('.').map(str::as_bytes)).unwrap()
}

fn nobody(_: IpAddr) -> Option<HostName> {
    None
}

/// What a person would say that the answer is.
fn said(text: &str, kind: RecordType) -> String {
    match zone().look_up(&name(text), kind, nobody) {
        Verdict::Exists { apex, data } if data.is_empty() => format!("none in {apex}"),
        Verdict::Exists { data, .. } => data.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        Verdict::Missing { apex } => format!("missing in {apex}"),
        Verdict::Assign { name, resource, apex } => {
            format!("assign {name} of {} in {apex}", resource.as_bytes()[0])
        }
        Verdict::Impossible => "impossible".to_owned(),
        Verdict::Forward => "forward".to_owned(),
    }
}

#[test]
fn answers_are_those_of_the_table() {
    use RecordType::{A, AAAA, ANY, HTTPS, MX, NS, PTR, SOA, TXT};
    let reversed_db = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.4.0.0.0.a.9.8.7.6.5.4.3.2.1.d.f.ip6.arpa";
    for (text, kind, expected) in [
        // Declared names: exactly, in both families, and nothing else.
        ("db.corp.example", A, "10.77.64.1"),
        ("DB.Corp.EXAMPLE", A, "10.77.64.1"),
        ("db.corp.example", AAAA, "fd12:3456:789a:4::2"),
        ("wiki.corp.example", AAAA, "none in wiki.corp.example."),
        ("db.corp.example", MX, "none in db.corp.example."),
        ("db.corp.example", HTTPS, "none in db.corp.example."),
        ("db.corp.example", SOA, "none in db.corp.example."),
        ("db.corp.example", ANY, "RFC8482 "),
        ("corp.example", A, "forward"),
        ("www.db.corp.example", A, "forward"),
        ("xdb.corp.example", A, "forward"),
        ("example", NS, "forward"),
        // Our own zone.
        ("umbra.internal", A, "none in umbra.internal."),
        ("controller.umbra.internal", AAAA, "fd12:3456:789a::1"),
        ("controller.umbra.internal", A, "none in umbra.internal."),
        ("a.b.umbra.internal", A, "10.77.64.3"),
        ("a.b.umbra.internal", TXT, "none in umbra.internal."),
        ("b.umbra.internal", A, "none in umbra.internal."),
        ("c.umbra.internal", A, "missing in umbra.internal."),
        ("c.umbra.internal", ANY, "missing in umbra.internal."),
        ("x.controller.umbra.internal", A, "missing in umbra.internal."),
        ("internal", A, "forward"),
        ("xumbra.internal", A, "forward"),
        // A private zone.
        ("private.example", A, "none in private.example."),
        ("nothing.private.example", A, "missing in private.example."),
        ("deep.private.example", A, "none in private.example."),
        ("one.deep.private.example", A, "assign one.deep.private.example of 3 in deep.private.example."),
        ("notprivate.example", A, "forward"),
        // Names below a suffix.
        ("svc.example", A, "forward"),
        ("One.svc.example", A, "assign one.svc.example of 3 in svc.example."),
        ("two.one.svc.example", AAAA, "assign two.one.svc.example of 3 in svc.example."),
        ("one.svc.example", MX, "none in svc.example."),
        ("-bad.svc.example", A, "impossible"),
        // Reverse names of the pool.
        ("1.64.77.10.in-addr.arpa", PTR, "db.corp.example."),
        ("1.64.77.10.in-addr.arpa", A, "none in 77.10.in-addr.arpa."),
        ("9.64.77.10.in-addr.arpa", PTR, "none in 77.10.in-addr.arpa."),
        ("77.10.in-addr.arpa", PTR, "none in 77.10.in-addr.arpa."),
        ("x.1.64.77.10.in-addr.arpa", PTR, "none in 77.10.in-addr.arpa."),
        ("300.64.77.10.in-addr.arpa", PTR, "none in 77.10.in-addr.arpa."),
        (reversed_db, PTR, "db.corp.example."),
        ("1.78.10.in-addr.arpa", PTR, "forward"),
        ("10.in-addr.arpa", PTR, "forward"),
        ("1.2.0.192.in-addr.arpa", PTR, "forward"),
        // Browsers.
        ("use-application-dns.net", A, "missing in use-application-dns.net."),
        ("x.Use-Application-DNS.net", AAAA, "missing in Use-Application-DNS.net."),
        // What no honest controller says.
        ("bank.example", A, "none in bank.example."),
        ("bank.example", AAAA, "none in bank.example."),
        ("net.example", A, "none in net.example."),
        ("self.example", A, "none in self.example."),
    ] {
        assert_eq!(said(text, kind), expected, "{text} {kind}");
    }
}

#[test]
fn the_controllers_reverse_name_is_its_name() {
    let v6 = pool().controller();
    let nibbles: Vec<String> = v6.octets().iter().flat_map(|o| [o >> 4, o & 15]).map(|n| format!("{n:X}")).collect();
    let text = nibbles.into_iter().rev().collect::<Vec<_>>().join(".") + ".ip6.arpa";
    assert_eq!(said(&text, RecordType::PTR), "controller.umbra.internal.");
}

#[test]
fn an_address_given_on_query_has_its_name_too() {
    let given = |ip: IpAddr| (ip.to_string() == "10.77.65.9").then(|| "one.svc.example".parse().unwrap());
    let verdict = zone().look_up(&name("9.65.77.10.in-addr.arpa"), RecordType::PTR, given);
    let Verdict::Exists { data, .. } = verdict else { panic!("{verdict:?}") };
    assert_eq!(data, [RData::PTR(PTR(name("one.svc.example")))]);
}

#[test]
fn labels_are_not_texts() {
    // One label that holds a dot is not two labels.
    let odd = Name::from_labels([b"a.umbra".as_slice(), b"internal".as_slice()]).unwrap();
    assert_eq!(zone().look_up(&odd, RecordType::A, nobody), Verdict::Forward);
    let odd = Name::from_labels([b"\x00\xff. ".as_slice(), b"umbra".as_slice(), b"internal".as_slice()]).unwrap();
    assert!(matches!(zone().look_up(&odd, RecordType::A, nobody), Verdict::Missing { .. }));
    let odd = Name::from_labels([b"x.y".as_slice(), b"svc".as_slice(), b"example".as_slice()]).unwrap();
    assert_eq!(zone().look_up(&odd, RecordType::A, nobody), Verdict::Impossible);
}

fn held() -> Held {
    let named = |name: &str| vec![name.parse().unwrap()];
    let mut held = Held::default();
    (held.names, held.suffixes, held.zones) =
        (named("db.corp.example"), named("svc.example"), named("private.example"));
    held
}

#[test]
fn what_is_held_is_neither_answered_nor_asked_for() {
    let zone = Zone::held(pool(), &held());
    for ours in ["db.corp.example", "DB.Corp.Example", "one.svc.example", "private.example", "x.private.example"] {
        assert_eq!(zone.look_up(&name(ours), RecordType::A, nobody), Verdict::Impossible, "{ours}");
    }
    let unknown = zone.look_up(&name("wiki.umbra.internal"), RecordType::A, nobody);
    assert_eq!(unknown, Verdict::Impossible, "nobody can say that it does not exist");
    for others in ["corp.example", "x.db.corp.example", "svc.example", "www.example.org"] {
        assert_eq!(zone.look_up(&name(others), RecordType::A, nobody), Verdict::Forward, "{others}");
    }
    let pointer = zone.look_up(&name("1.64.77.10.in-addr.arpa"), RecordType::PTR, nobody);
    assert!(matches!(pointer, Verdict::Exists { .. }), "{pointer:?}");
}

#[test]
fn the_controllers_outside_name_is_never_ours() {
    let endpoints = ["vpn.Private.example:443".to_owned(), "[2001:db8::1]:443".to_owned()];
    for zone in [zone(), Zone::held(pool(), &held())] {
        let zone = zone.without(&endpoints);
        assert_eq!(zone.look_up(&name("VPN.private.example"), RecordType::A, nobody), Verdict::Forward);
        assert_ne!(zone.look_up(&name("x.vpn.private.example"), RecordType::A, nobody), Verdict::Forward);
    }
}

#[test]
fn the_root_is_somebody_else_s() {
    assert_eq!(zone().look_up(&Name::root(), RecordType::NS, nobody), Verdict::Forward);
}

proptest! {
    #[test]
    fn what_is_ours_is_never_forwarded(
        labels in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..4),
        end in prop::sample::select(vec![
            "umbra.internal", "Private.Example", "77.10.in-addr.arpa", "a.9.8.7.6.5.4.3.2.1.d.f.ip6.arpa", CANARY,
            "x.svc.example",
        ]),
        kind: u16,
    ) {
        let all = labels.iter().map(Vec::as_slice).chain(end.split('.').map(str::as_bytes));
        let name = Name::from_labels(all).unwrap();
        prop_assert_ne!(zone().look_up(&name, RecordType::from(kind), nobody), Verdict::Forward);
    }
    #[test]
    fn what_is_not_ours_is_always_forwarded(
        labels in proptest::collection::vec("[a-zA-Z0-9]{1,12}", 0..5),
        end in prop::sample::select(vec!["org", "umbra.internal.org", "umbra-internal", "78.10.in-addr.arpa", "ip6.arpa"]),
        kind: u16,
    ) {
        let all = labels.iter().map(String::as_str).chain(end.split('.'));
        let name = Name::from_labels(all.map(str::as_bytes)).unwrap();
        let ours = end == "ip6.arpa" && labels.len() >= 12;
        prop_assume!(!ours);
        prop_assert_eq!(zone().look_up(&name, RecordType::from(kind), nobody), Verdict::Forward);
    }
    #[test]
    fn reverse_names_are_read_back(v4: u32, v6: u128) {
        let octets = std::net::Ipv4Addr::from(v4).octets();
        let text = octets.iter().rev().map(|o| format!("{o}.")).collect::<String>() + "in-addr.arpa";
        prop_assert_eq!(reversed(&key_of_text(&text)), Some(IpAddr::from(std::net::Ipv4Addr::from(v4))));
        let text = (0..32).map(|n| format!("{:x}.", (v6 >> (4 * n)) & 15)).collect::<String>() + "ip6.arpa";
        prop_assert_eq!(reversed(&key_of_text(&text)), Some(IpAddr::from(std::net::Ipv6Addr::from(v6))));
    }
}
