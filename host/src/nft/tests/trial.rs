//! Does a machine that turned dark under an administrator's feet come back by itself?

use super::*;
use crate::ssh::Session;
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

/// Longer than it takes to look, on a machine that is busy.
const LIFE: Duration = Duration::from_secs(4);

fn dark(sessions: &[Session], trial: Option<Duration>) -> Dark {
    let (program, tun) = ("test".to_owned(), TUN.to_owned());
    Dark { program, tun, udp_port: PORT, allow_in: Vec::new(), sessions: sessions.to_vec(), trial }
}

/// A connection from outside that is there within this time.
fn comes_in(from: &Host, to: SocketAddr, limit: Duration) -> bool {
    from.run(move || TcpStream::connect_timeout(&to, limit).is_ok())
}

#[test]
fn a_trial_keeps_the_session_in_use_and_ends_without_us() {
    if !privileged() {
        return;
    }
    let (node, admin) = neighbours();
    let server = node.run(|| TcpListener::bind("[::]:2200").expect("listen"));
    let ends = ["10.1.0.1", "fd01::1"].map(|address| to(address, 2200));
    // The kernel tracks no connections yet: it will not know these as established.
    let mut talks: Vec<_> = ends
        .iter()
        .map(|end| {
            let end = *end;
            let outside = admin.run(move || TcpStream::connect(end).expect("connect"));
            let (inside, peer) = server.accept().expect("accept");
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            (outside, inside, Session { peer, local: end })
        })
        .collect();
    let sessions: Vec<Session> = talks.iter().map(|(.., session)| *session).collect();
    let stands = || node.block_on(|| async { standing("test").await.expect("standing") });
    assert_eq!(stands(), Standing::Off);

    let on_trial = dark(&sessions, Some(LIFE));
    node.block_on(move || async move { on_trial.apply().await.expect("apply") });
    assert_eq!(stands(), Standing::Trial);
    for (outside, inside, session) in &mut talks {
        outside.write_all(b"still there?").expect("write");
        inside.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        let mut bytes = [0; 12];
        inside.read_exact(&mut bytes).unwrap_or_else(|error| panic!("{session:?}: {error}"));
    }
    for end in ends {
        assert!(!comes_in(&admin, end, Duration::from_millis(300)), "{end}: dark");
    }
    let started = Instant::now();
    for end in ends {
        while !comes_in(&admin, end, Duration::from_secs(1)) {
            assert!(started.elapsed() < Duration::from_secs(30), "{end}: the administrator is locked out");
        }
    }
    assert_eq!(stands(), Standing::Over);

    let for_good = dark(&sessions, None);
    node.block_on(move || async move { for_good.apply().await.expect("apply") });
    assert_eq!(stands(), Standing::Dark);
    assert!(!comes_in(&admin, ends[0], Duration::from_millis(300)));
    node.block_on(|| async { remove_dark("test").await.expect("remove") });
    assert_eq!(stands(), Standing::Off);
}
