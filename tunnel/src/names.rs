//! Where does a name lead now, and which packets wait to know? The gateway's memory of resolved targets.

use crate::counters::Drop;
use model::ids::{DeviceId, PairingId};
use model::limits::{
    RESOLVED_ADDRESSES_MAX, RESOLVED_NAMES_MAX, WAITING_BYTES_MAX, WAITING_MAX, WAITING_PACKETS_MAX,
    WAITING_QUEUES_MAX, WAITING_QUEUES_PER_DEVICE_MAX,
};
use model::net::HostName;
use model::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// A name and whether its IPv4 addresses are meant.
pub type Question = (HostName, bool);

/// A packet that waits, and the pairing it came through.
pub type Waiter = (PairingId, Vec<u8>);

#[derive(Debug)]
struct Answer {
    addresses: Vec<IpAddr>,
    until: Instant,
}

#[derive(Debug)]
struct Pending {
    since: Instant,
    waiters: BTreeMap<DeviceId, Vec<Waiter>>,
}

/// Answers within their time to live, and questions that packets wait for.
#[derive(Debug, Default)]
pub struct Names {
    answers: BTreeMap<Question, Answer>,
    ends: BTreeSet<(Instant, Question)>,
    pending: BTreeMap<Question, Pending>,
    asked: BTreeSet<(Instant, Question)>,
    queues: usize,
    queues_of: BTreeMap<DeviceId, usize>,
}

impl Names {
    /// The addresses as long as they may be used; empty: the name leads nowhere. `None`: ask.
    pub fn look(&self, now: Instant, question: &Question) -> Option<&[IpAddr]> {
        self.answers.get(question).filter(|a| now <= a.until).map(|a| a.addresses.as_slice())
    }

    /// Lets a packet wait; true when the question is to be asked now.
    pub fn wait(&mut self, now: Instant, question: Question, device: DeviceId, waiter: Waiter) -> Result<bool, Drop> {
        let queue = self.pending.get_mut(&question).and_then(|p| p.waiters.get_mut(&device));
        if let Some(queue) = queue {
            let bytes = queue.iter().map(|(_, packet)| packet.len()).sum::<usize>() + waiter.1.len();
            if queue.len() >= WAITING_PACKETS_MAX || bytes > WAITING_BYTES_MAX {
                return Err(Drop::WaitingFull);
            }
            queue.push(waiter);
            return Ok(false);
        }
        if waiter.1.len() > WAITING_BYTES_MAX {
            return Err(Drop::WaitingFull);
        }
        let of_device = self.queues_of.get(&device).copied().unwrap_or(0);
        if self.queues >= WAITING_QUEUES_MAX || of_device >= WAITING_QUEUES_PER_DEVICE_MAX {
            return Err(Drop::WaitingQueues);
        }
        self.queues += 1;
        self.queues_of.insert(device, of_device + 1);
        let ask = !self.pending.contains_key(&question);
        let pending =
            self.pending.entry(question.clone()).or_insert_with(|| Pending { since: now, waiters: BTreeMap::new() });
        pending.waiters.insert(device, vec![waiter]);
        if ask {
            self.asked.insert((now, question));
        }
        Ok(ask)
    }

    /// Remembers an answer and hands back who waited for it. A time to live of zero serves these alone (RFC 1035 3.2.1).
    pub fn resolved(&mut self, now: Instant, question: Question, addresses: Vec<IpAddr>, ttl: Duration) -> Vec<Waiter> {
        self.forget(&question);
        if self.answers.len() >= RESOLVED_NAMES_MAX
            && let Some((_, oldest)) = self.ends.first().cloned()
        {
            self.forget(&oldest);
        }
        let (_, v4) = question;
        let addresses = addresses.into_iter().filter(|a| a.is_ipv4() == v4).take(RESOLVED_ADDRESSES_MAX).collect();
        let until = now.plus(ttl);
        self.ends.insert((until, question.clone()));
        let waiters = self.take(&question);
        self.answers.insert(question, Answer { addresses, until });
        waiters
    }

    /// Questions that were never answered: hands back who waited for them too long.
    pub fn expire(&mut self, now: Instant) -> Vec<Waiter> {
        let mut late = Vec::new();
        while let Some((since, question)) = self.asked.first().cloned() {
            if now.since(since) < WAITING_MAX {
                break;
            }
            late.append(&mut self.take(&question));
            self.asked.remove(&(since, question));
        }
        while let Some((until, question)) = self.ends.first().cloned() {
            if now <= until {
                break;
            }
            self.forget(&question);
        }
        late
    }

    /// When [`Self::expire`] has something to do next.
    pub fn next_deadline(&self) -> Instant {
        let late = self.asked.first().map_or(Instant::NEVER, |(since, _)| since.plus(WAITING_MAX));
        let stale = self.ends.first().map_or(Instant::NEVER, |(until, _)| until.plus(Duration::from_nanos(1)));
        late.min(stale)
    }

    fn forget(&mut self, question: &Question) {
        if let Some(answer) = self.answers.remove(question) {
            self.ends.remove(&(answer.until, question.clone()));
        }
    }

    fn take(&mut self, question: &Question) -> Vec<Waiter> {
        let Some(pending) = self.pending.remove(question) else { return Vec::new() };
        self.asked.remove(&(pending.since, question.clone()));
        self.queues = self.queues.saturating_sub(pending.waiters.len());
        for device in pending.waiters.keys() {
            if let Some(n) = self.queues_of.get_mut(device) {
                *n = n.saturating_sub(1);
                if *n == 0 {
                    self.queues_of.remove(device);
                }
            }
        }
        pending.waiters.into_values().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant(1_000);
    const TTL: Duration = Duration::from_secs(60);

    fn question(n: usize) -> Question {
        (format!("h{n}.corp.example").parse().unwrap(), true)
    }

    #[test]
    fn as_many_names_are_remembered_as_the_limit_says() {
        let mut names = Names::default();
        let address = IpAddr::from([10, 5, 0, 9]);
        for n in 0..RESOLVED_NAMES_MAX {
            names.resolved(NOW, question(n), vec![address], TTL.saturating_add(Duration::from_millis(n as u64)));
        }
        assert_eq!(names.answers.len(), RESOLVED_NAMES_MAX);
        assert!(names.look(NOW, &question(0)).is_some());
        names.resolved(NOW, question(RESOLVED_NAMES_MAX), vec![address], TTL * 2);
        assert_eq!((names.answers.len(), names.ends.len()), (RESOLVED_NAMES_MAX, RESOLVED_NAMES_MAX));
        assert!(names.look(NOW, &question(0)).is_none(), "the one that ends first makes room, and is asked again");
        assert_eq!(names.look(NOW, &question(RESOLVED_NAMES_MAX)), Some(&[address][..]));
        names.expire(NOW.plus(TTL * 3));
        assert!(names.answers.is_empty() && names.ends.is_empty());
    }

    #[test]
    fn as_many_bytes_wait_for_a_name_as_the_limit_says() {
        let waiter = |bytes: usize| (PairingId::from_bytes([1; 10]), vec![0; bytes]);
        let device = DeviceId::from_bytes([1; 10]);
        let mut names = Names::default();
        assert_eq!(names.wait(NOW, question(1), device, waiter(WAITING_BYTES_MAX + 1)), Err(Drop::WaitingFull));
        assert_eq!(names.wait(NOW, question(1), device, waiter(WAITING_BYTES_MAX - 100)), Ok(true));
        assert_eq!(names.wait(NOW, question(1), device, waiter(100)), Ok(false));
        assert_eq!(names.wait(NOW, question(1), device, waiter(1)), Err(Drop::WaitingFull));
    }

    #[test]
    fn of_one_name_only_so_many_addresses_are_looked_at() {
        let mut names = Names::default();
        let many = |count: usize| (0..count).map(|n| IpAddr::from([10, 5, 0, n as u8])).collect::<Vec<_>>();
        names.resolved(NOW, question(1), many(RESOLVED_ADDRESSES_MAX), TTL);
        assert_eq!(names.look(NOW, &question(1)).unwrap().len(), RESOLVED_ADDRESSES_MAX);
        names.resolved(NOW, question(1), many(RESOLVED_ADDRESSES_MAX + 1), TTL);
        assert_eq!(names.look(NOW, &question(1)).unwrap(), many(RESOLVED_ADDRESSES_MAX), "the first of them");
    }
}
