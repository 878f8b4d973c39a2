//! How does a link come to be slow, lossy and out of order?
//!
//! One thread stands between two links of the fabric and carries each frame from the one to the other, late, twice as
//! late, or not at all. (The kernel's own `netem` is not on every machine.)

use super::impairment::Impairment;
use host::namespace::{PacketSocket, wait_readable};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::time::{Duration, Instant};

/// Frames under way, both directions together; more are lost, as on a real link with a full queue.
const FRAMES_MAX: usize = 16_384;
/// The largest frame: 64 KiB of segments, an Ethernet header and the kernel's note in front.
const FRAME_BYTES_MAX: usize = 65_536 + 64;
/// How many frames are read from one side before the other has its turn.
const BURST: usize = 64;

/// A frame on its way, ordered by its time of arrival, then by its number.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    due: Instant,
    number: u64,
    towards: usize,
    frame: Vec<u8>,
}

/// Carries frames between links `a` and `b` of the calling thread's network namespace for as long as both exist.
pub fn forward(a: &str, b: &str, impairment: Impairment, seed: u64) -> io::Result<()> {
    let sides = [PacketSocket::open(a)?, PacketSocket::open(b)?];
    let mut dice = Dice(seed);
    let mut air: BinaryHeap<Reverse<Flight>> = BinaryHeap::new();
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    let mut number = 0;
    loop {
        let now = Instant::now();
        land(&mut air, &sides, now);
        let wait = air.peek().map(|Reverse(next)| next.due.saturating_duration_since(now));
        wait_readable([&sides[0], &sides[1]], wait)?;
        for (side, socket) in sides.iter().enumerate() {
            for _ in 0..BURST {
                let length = match socket.receive(&mut buffer) {
                    Ok(length) => length,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                };
                let Some(delay) = fate(&impairment, &mut dice) else { continue };
                let Some(frame) = buffer.get(..length).filter(|_| air.len() < FRAMES_MAX) else { continue };
                number += 1;
                let due = Instant::now() + delay;
                air.push(Reverse(Flight { due, number, towards: 1 - side, frame: frame.to_vec() }));
            }
        }
    }
}

fn land(air: &mut BinaryHeap<Reverse<Flight>>, sides: &[PacketSocket; 2], now: Instant) {
    while air.peek().is_some_and(|Reverse(next)| next.due <= now) {
        let Some(Reverse(flight)) = air.pop() else { return };
        if let Some(socket) = sides.get(flight.towards) {
            // A frame that the link does not take is a lost frame.
            let _lost = socket.send(&flight.frame);
        }
    }
}

/// How long a frame is under way; None: it is lost.
fn fate(impairment: &Impairment, dice: &mut Dice) -> Option<Duration> {
    if dice.hits(impairment.loss) {
        return None;
    }
    let again = impairment.delay.max(Duration::from_millis(1));
    Some(if dice.hits(impairment.reorder) { impairment.delay + again } else { impairment.delay })
}

/// SplitMix64: small, and the same for the same seed.
struct Dice(u64);

impl Dice {
    fn hits(&mut self, share: f64) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        ((mixed >> 11) as f64) < share * (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loses_and_reorders_the_share_that_was_asked_for() {
        let bad = Impairment { delay: Duration::from_millis(5), loss: 0.1, reorder: 0.2 };
        let mut dice = Dice(7);
        let fates: Vec<_> = (0..10_000).map(|_| fate(&bad, &mut dice)).collect();
        let lost = fates.iter().filter(|fate| fate.is_none()).count();
        let late = fates.iter().filter(|fate| **fate == Some(Duration::from_millis(10))).count();
        assert!((900..1100).contains(&lost), "{lost}");
        assert!((1650..1950).contains(&late), "{late}");
    }

    #[test]
    fn leaves_a_good_link_alone() {
        let mut dice = Dice(1);
        assert!((0..1000).all(|_| fate(&Impairment::default(), &mut dice) == Some(Duration::ZERO)));
    }
}
