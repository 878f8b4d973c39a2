//! Where systemd-resolved runs, does it hear which names are ours? A stand-in speaks for it on the laptop's bus.

use crate::support::{SOON, world};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;
use umbra_tests::lab::{Name, World};
use umbra_tests::perimeter::{self, Plan};

/// Listens where the system's bus is on the laptop; what each call holds comes out, as text.
fn stand_in(world: &World) -> Receiver<String> {
    let made = world.host(Name::Laptop).run(&["mkdir", "/run/dbus"], SOON).unwrap();
    assert!(made.success(), "{made:?}");
    // The laptop's own files, seen through a process of it.
    let sleeper = Ending(world.host(Name::Laptop).command("sleep").arg("60").spawn().unwrap());
    let seen = |pid: u32| format!("/proc/{pid}/root/run/dbus");
    crate::talk::until("a process of the laptop", SOON, || fs::exists(seen(sleeper.0.id())).unwrap_or(false));
    let listener = UnixListener::bind(format!("{}/system_bus_socket", seen(sleeper.0.id()))).unwrap();
    drop(sleeper);
    let (calls, heard) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A client that was killed in the middle is no reason to stop.
            let _ = serve(stream, &calls);
        }
    });
    heard
}

/// A process that ends with its holder.
struct Ending(std::process::Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// One connection: greeting, then each call is answered with nothing but success.
fn serve(stream: UnixStream, calls: &Sender<String>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line)?;
    stream.get_mut().write_all(b"OK 0123456789abcdef\r\n")?;
    stream.read_until(b'\n', &mut line)?;
    loop {
        let mut head = [0; 16];
        stream.read_exact(&mut head)?;
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let (body, serial, fields) = (word(4) as usize, word(8), word(12) as usize);
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        stream.read_exact(&mut rest)?;
        // METHOD_RETURN with one field, REPLY_SERIAL.
        let mut answer = vec![b'l', 2, 0, 1, 0, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0, 5, 1, b'u', 0];
        answer.extend(serial.to_le_bytes());
        stream.get_mut().write_all(&answer)?;
        if calls.send(String::from_utf8_lossy(&rest).into_owned()).is_err() {
            return Ok(());
        }
    }
}

/// Waits for a call of this method that holds all of these.
fn hear(heard: &Receiver<String>, method: &str, parts: &[&str]) {
    let until = Instant::now() + 2 * SOON;
    loop {
        let call = heard.recv_timeout(until.saturating_duration_since(Instant::now()));
        let call = call.unwrap_or_else(|_| panic!("no {method} with {parts:?}"));
        if call.contains(method) && parts.iter().all(|part| call.contains(part)) {
            return;
        }
    }
}

#[test]
fn resolved_hears_which_names_are_ours_from_the_client_and_from_its_guardian() {
    let world = world();
    let heard = stand_in(&world);
    let plan = Plan { laptops: vec![Name::Laptop], gateways: Vec::new(), dark: false, ..Plan::default() };
    let perimeter = perimeter::Perimeter::start(&world, &plan).unwrap_or_else(|error| panic!("{error}"));
    hear(&heard, "SetLinkDomains", &["web.corp.example", "wiki.corp.example"]);
    hear(&heard, "SetLinkDNS\0", &["\u{a}\u{4d}\0\u{35}"]);
    // Whoever stands in for a dead client tells it for its own device.
    while heard.try_recv().is_ok() {}
    perimeter.clients[&Name::Laptop].kill9().unwrap();
    hear(&heard, "SetLinkDomains", &["web.corp.example", "wiki.corp.example"]);
}
