//! Other firewalls of the same host, as Docker, ufw and others write them, loaded before our tables and after them: nobody gets
//! further than without them, and what they drop of ours is known.

use super::*;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Docker's default: what is forwarded and is not a container's is dropped.
const DOCKER: &str = r#"
table ip nat {
    chain DOCKER { iifname "docker0" return; udp dport 8080 dnat to 10.2.0.2:7000; }
    chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; fib daddr type local jump DOCKER; }
    chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept;
        ip saddr 172.17.0.0/16 oifname != "docker0" masquerade; }
}
table ip filter {
    chain DOCKER-USER { return; }
    chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER;
        oifname "docker0" ct state established,related accept; iifname "docker0" accept; }
}
table ip6 filter {
    chain DOCKER-USER { return; }
    chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; }
}
"#;

/// ufw's default for a host with forwarding.
const UFW: &str = r#"
table ip filter {
    chain ufw-before-forward { ct state related,established accept; icmp type echo-request accept; }
    chain ufw-user-forward { }
    chain FORWARD { type filter hook forward priority filter; policy drop; jump ufw-before-forward; jump ufw-user-forward; }
}
table ip6 filter {
    chain ufw6-user-forward { }
    chain FORWARD { type filter hook forward priority filter; policy drop; ct state related,established accept;
        jump ufw6-user-forward; }
}
"#;

/// Somebody who lets everything through, early and late, and publishes the service.
const OPEN: &str = r#"
table inet open {
    chain early { type filter hook prerouting priority PRIORITY; policy accept; accept; }
    chain forward { type filter hook forward priority PRIORITY; policy accept; accept; }
    chain published { type nat hook prerouting priority dstnat; policy accept;
        iifname "eth0" fib daddr type local meta nfproto ipv4 udp dport 8080 dnat ip to 10.2.0.2:7000; }
}
"#;

/// Somebody whose rules send what is for one service to another, or to this host.
const STEER: [&str; 2] = ["dnat to 10.2.0.1:7100", "dnat to 10.2.0.2:7300"];

fn steering(how: &str) -> String {
    format!(
        "table ip steer {{\n chain pre {{\n type nat hook prerouting priority dstnat - 5; policy accept;\n \
         udp dport 7000 {how}\n }}\n}}\n"
    )
}

impl Site {
    fn load(&self, rules: &str) {
        let rules = rules.to_owned();
        self.gateway.run(move || {
            let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft runs");
            nft.stdin.take().expect("input").write_all(rules.as_bytes()).expect("write");
            assert!(nft.wait().expect("nft").success(), "{rules}");
        });
    }

    fn rules(&self) -> String {
        self.gateway.run(|| {
            let listed = Command::new("nft").args(["-s", "list", "ruleset"]).output().expect("nft runs");
            String::from_utf8(listed.stdout).expect("text")
        })
    }

    /// One datagram of a grant.
    fn granted(&self) {
        self.tun.write(&udp_packet(to("198.18.0.5", 5000), to("10.2.0.2", 7000), b"granted")).expect("write");
    }

    fn passage(&self) -> Passage {
        self.gateway.block_on(|| async { passage("test").await.expect("counters") })
    }

    #[track_caller]
    fn until(&self, so: impl Fn(Passage) -> bool) {
        let started = Instant::now();
        while !so(self.passage()) {
            assert!(started.elapsed() < Duration::from_secs(20), "{:?}", self.passage());
        }
    }

    /// All that the service got until now.
    fn got(&self) -> Vec<String> {
        send(&self.gateway, "10.2.0.1", to("10.2.0.2", 7000), "marker");
        let next = || Some(receive(&self.inbox)).filter(|text| text != "marker");
        std::iter::from_fn(next).collect()
    }

    fn published(&self) {
        send(&self.stranger, "10.1.0.2", to("10.1.0.1", 8080), "to a published port");
    }
}

/// A site whose other firewall was there first, or came after us.
fn site(rules: &str, first: bool) -> Site {
    let site = Site::new();
    site.gateway.run(|| ip("route add 10.2.3.0/24 via 10.2.0.2"));
    if first {
        site.load(rules);
        site.protect();
    } else {
        site.protect();
        site.load(rules);
    }
    site
}

#[test]
fn rules_of_others_let_nobody_through_in_any_order() {
    if !privileged() {
        return;
    }
    let open = [-400, -160, -1, 0, 1, 400].map(|priority| (OPEN.replace("PRIORITY", &priority.to_string()), true));
    let closed = [DOCKER, UFW].map(|rules| (rules.to_owned(), false));
    let alone = Site::new();
    alone.load(&open[0].0);
    alone.published();
    assert_eq!(alone.got(), ["to a published port"], "without us it is published");
    for (rules, passes) in open.iter().chain(&closed) {
        for first in [true, false] {
            let site = site(rules, first);
            site.harass();
            site.published();
            send(&site.stranger, "198.18.0.5", to("10.2.0.2", 7000), "forged");
            site.granted();
            site.until(|passage| passage.entered == 1);
            let expected: &[&str] = if *passes { &["granted"] } else { &[] };
            assert_eq!(site.got(), expected, "first: {first}, {rules}");
            let lost = site.passage().lost_until(&site.passage());
            assert_eq!(lost, u64::from(!passes), "first: {first}, {rules}");
        }
    }
}

#[test]
fn rules_of_others_send_no_grant_elsewhere() {
    if !privileged() {
        return;
    }
    for rules in STEER.map(steering) {
        for first in [true, false] {
            let site = site(&rules, first);
            let here = site.gateway.run(|| UdpSocket::bind("0.0.0.0:7100").expect("bind"));
            let there = site.service.run(|| UdpSocket::bind("0.0.0.0:7300").expect("bind"));
            site.granted();
            site.until(|passage| passage.redirected == 1);
            assert_eq!(site.got(), Vec::<String>::new(), "{rules}");
            for socket in [&here, &there] {
                socket.set_nonblocking(true).expect("nonblocking");
                let error = socket.recv_from(&mut [0; 16]).expect_err("redirected to what nobody granted");
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
            }
        }
    }
    // The rules do what they say, where we are not.
    let alone = Site::new();
    alone.load(&steering(STEER[0]));
    let here = alone.gateway.run(|| UdpSocket::bind("0.0.0.0:7100").expect("bind"));
    alone.granted();
    assert_eq!(receive(&here), "granted");
}

#[test]
fn their_own_exceptions_let_grants_through_and_go_again() {
    if !privileged() {
        return;
    }
    for (rules, chains) in [(DOCKER, ["DOCKER-USER"; 2]), (UFW, ["ufw-user-forward", "ufw6-user-forward"])] {
        let site = site(rules, true);
        let before = site.rules();
        site.granted();
        site.until(|passage| passage.entered == 1);
        assert_eq!(site.passage().left, 0, "dropped");
        let named = site.gateway.block_on(|| async { forward_chains().await.expect("chains") });
        assert!(named.len() == 2 && named.iter().all(|chain| chain.drops && chain.chain == "FORWARD"), "{named:?}");
        let except = || site.gateway.block_on(|| async { except(TUN).await.expect("exceptions") });
        assert_eq!(except(), chains);
        assert_eq!(except(), Vec::<String>::new(), "once");
        site.granted();
        let (mut bytes, inbox) = ([0; 16], &site.inbox);
        let (len, from) = inbox.recv_from(&mut bytes).expect("receive");
        assert_eq!(&bytes[..len], b"granted");
        inbox.send_to(b"answer", from).expect("send");
        assert_eq!(read_udp(&site.tun, 5000).1, "answer");
        site.harass();
        site.published();
        assert_eq!(site.got(), Vec::<String>::new(), "nobody else");
        site.gateway.block_on(|| async {
            forget_exceptions().await.expect("forget");
            forget_exceptions().await.expect("nothing there");
        });
        assert_eq!(site.rules(), before);
    }
}

#[test]
fn of_many_chains_of_others_some_are_named_and_those_that_drop_first() {
    use model::limits::FOREIGN_CHAINS_MAX;
    if !privileged() {
        return;
    }
    let chain = |n: usize, policy: &str| {
        format!("table ip t{n} {{ chain c{n} {{ type filter hook forward priority {n}; policy {policy}; }}; }}\n")
    };
    let site = site(&(0..FOREIGN_CHAINS_MAX).map(|n| chain(n, "accept")).collect::<String>(), true);
    let named = || site.gateway.block_on(|| async { forward_chains().await.expect("chains") });
    assert_eq!(named().len(), FOREIGN_CHAINS_MAX);
    site.load(&chain(99, "drop"));
    assert_eq!((named().len(), named()[0].chain.as_str(), named()[0].drops), (FOREIGN_CHAINS_MAX, "c99", true));
    site.load("delete table ip t1\ndelete table ip t2\n");
    assert_eq!(named().len(), FOREIGN_CHAINS_MAX - 1);
}
