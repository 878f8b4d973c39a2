//! Does anything that is protected leave a host in the clear? Every frame that arrives at a link is looked at, that of the host's
//! router for example: addresses of the overlay, real addresses of resources, and names of the organisation's zone have no
//! business there.

use crate::attacker::hex_bytes;
use crate::lab::{LabError, Name, World};
use crate::perimeter::{DOMAIN, POOL};
use model::net::Prefix;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Leaks that are described; more are counted.
const DESCRIBED_MAX: usize = 20;

/// What must not be seen.
#[derive(Debug, Clone)]
pub struct Protected {
    /// Nothing is sent there, or asked for by ARP or neighbour discovery.
    pub prefixes: Vec<Prefix>,
    /// No name in these zones is asked for.
    pub zones: Vec<String>,
    /// This text is in nothing.
    pub text: Option<String>,
    /// A name that may be asked for, and shows that the watch sees.
    pub marker: String,
}

impl Protected {
    /// The lab's: its pools, its services' real addresses, its zone; `marker` is any other name.
    pub fn of_lab(pool_v6: Prefix, marker: &str) -> Self {
        let real = ["10.20.0.0/24", "fd20::/64", POOL].into_iter().filter_map(|text| text.parse().ok());
        let zones = vec![DOMAIN.to_owned(), "umbra.internal".to_owned()];
        Self { prefixes: real.chain([pool_v6]).collect(), zones, text: None, marker: marker.to_owned() }
    }

    /// Why this frame should not be here.
    fn complaint(&self, frame: &[u8]) -> Option<String> {
        if let Some(to) = target(frame)
            && self.prefixes.iter().any(|prefix| prefix.contains(to))
        {
            return Some(format!("a packet for {to}"));
        }
        if let Some(text) = self.text.as_ref().filter(|text| holds(frame, text.as_bytes())) {
            return Some(format!("{text:?}, for {:?}", target(frame)));
        }
        let zone = self.zones.iter().find(|zone| holds(frame, &labels(zone)))?;
        Some(format!("the name of something in {zone}"))
    }
}

/// Where a frame goes, or whose hardware address it asks for.
fn target(frame: &[u8]) -> Option<IpAddr> {
    let v4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
    let v6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?));
    match frame.get(12..14)? {
        [8, 0] => v4(14 + 16),
        [8, 6] => v4(14 + 24),
        // A neighbour solicitation names its target behind its own head.
        [0x86, 0xdd] if frame.get(14 + 6) == Some(&58) && frame.get(14 + 40) == Some(&135) => v6(14 + 48),
        [0x86, 0xdd] => v6(14 + 24),
        _ => None,
    }
}

/// A name as it is on the wire, without its end.
fn labels(name: &str) -> Vec<u8> {
    let labels = name.split('.').map(str::as_bytes);
    labels.flat_map(|label| [&[u8::try_from(label.len()).unwrap_or(0)], label].concat()).collect()
}

fn holds(frame: &[u8], wanted: &[u8]) -> bool {
    let same = |part: &[u8]| part.eq_ignore_ascii_case(wanted);
    frame.windows(wanted.len()).any(same)
}

#[derive(Debug, Default)]
struct Seen {
    frames: u64,
    markers: u64,
    leaks: Vec<String>,
    ended: bool,
}

/// Looks at what arrives at a link of a host until it is dropped.
#[derive(Debug)]
pub struct Watch {
    child: Child,
    shared: Arc<(Mutex<Seen>, Condvar)>,
}

impl Watch {
    /// Looks from now on.
    pub fn start(world: &World, host: Name, link: &str, protected: Protected) -> Result<Self, LabError> {
        let mut command = world.host(host).command("umbra-lab");
        command.args(["__attack", "capture", link]);
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(LabError::while_doing("start a capture"))?;
        let output = child.stdout.take().ok_or_else(|| LabError::Fabric("the capture has no output".to_owned()))?;
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let ready = lines.next();
        if ready.as_deref() != Some("capturing") {
            return Err(LabError::Fabric(format!("the capture said {ready:?}")));
        }
        let shared = Arc::new((Mutex::default(), Condvar::new()));
        let seen = Arc::clone(&shared);
        thread::spawn(move || {
            for frame in lines.filter_map(|line| hex_bytes(&line)) {
                note(&seen, &protected, &frame);
            }
            lock(&seen).ended = true;
            seen.1.notify_all();
        });
        Ok(Self { child, shared })
    }

    /// Waits until a question for the marker was seen after `since` of them: all that was sent before it is seen, too.
    pub fn wait_for_marker(&self, since: u64, limit: Duration) -> Result<(), LabError> {
        let deadline = Instant::now() + limit;
        let mut seen = lock(&self.shared);
        while seen.markers <= since {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || seen.ended {
                return Err(LabError::TooLate {
                    what: "the marker on the wire".to_owned(),
                    limit,
                    tail: String::new(),
                });
            }
            seen = self.shared.1.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// How many questions for the marker were seen.
    pub fn markers(&self) -> u64 {
        lock(&self.shared).markers
    }

    /// What should not have been there, and was.
    pub fn leaks(&self) -> Vec<String> {
        lock(&self.shared).leaks.clone()
    }

    /// All frames that were looked at.
    pub fn frames(&self) -> u64 {
        lock(&self.shared).frames
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn lock(shared: &(Mutex<Seen>, Condvar)) -> MutexGuard<'_, Seen> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(shared: &(Mutex<Seen>, Condvar), protected: &Protected, frame: &[u8]) {
    let complaint = protected.complaint(frame);
    let marker = holds(frame, &labels(&protected.marker));
    let mut seen = lock(shared);
    seen.frames += 1;
    seen.markers += u64::from(marker);
    if let Some(complaint) = complaint
        && seen.leaks.len() < DESCRIBED_MAX
    {
        seen.leaks.push(complaint);
    }
    drop(seen);
    shared.1.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attacker::packet;

    #[test]
    fn what_is_protected_is_known_in_every_form() {
        let protected = Protected::of_lab("fd12:3456:789a::/48".parse().unwrap(), "www.example.org");
        let ethernet = |kind: [u8; 2], packet: Vec<u8>| [vec![0; 12], kind.to_vec(), packet].concat();
        let udp = |to: &str, payload: &[u8]| {
            let to: std::net::SocketAddr = to.parse().unwrap();
            let (from, kind) =
                if to.is_ipv4() { ("203.0.113.101:9", [8, 0]) } else { ("[2001:db8::1]:9", [0x86, 0xdd]) };
            ethernet(kind, packet::udp(from.parse().unwrap(), to, payload))
        };
        for to in ["10.77.64.1:80", "10.20.0.10:80", "[fd20::10]:80", "[fd12:3456:789a:4::1]:80"] {
            assert!(protected.complaint(&udp(to, b"x")).is_some(), "{to}");
        }
        let question = |name: &str| udp("203.0.113.53:53", &labels(name));
        for name in ["secret.corp.example", "CORP.Example", "x.umbra.internal"] {
            assert!(protected.complaint(&question(name)).is_some(), "{name}");
        }
        let mut arp = vec![0; 28];
        arp[24..].copy_from_slice(&[10, 77, 64, 1]);
        assert!(protected.complaint(&ethernet([8, 6], arp)).is_some());
        for harmless in [question("www.example.org"), udp("203.0.113.10:443", b"x"), Vec::new()] {
            assert_eq!(protected.complaint(&harmless), None);
        }
    }
}
