//! Is it really this user? Local passwords as argon2id (RFC 9106), with equal time for users that do not exist, and a
//! bound on failures.

use crate::directory::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Argon2, password_hash};
use host::entropy;
use model::ids::DeviceId;
use model::limits::{
    HASHES_AT_ONCE_MAX, LOGIN_COUNTS_MAX, LOGIN_FAILURES_MAX, LOGIN_WINDOW, PASSWORD_MAX, PASSWORD_MIN,
};
use model::secret::Secret;
use model::time::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Why a password cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too short.
    #[error("the password is too short: use at least {PASSWORD_MIN} characters")]
    Short,
    /// Too long.
    #[error("the password is too long: use at most {PASSWORD_MAX} bytes")]
    Long,
    /// The machine failed.
    #[error("the password could not be hashed: {0}")]
    Failed(String),
}

/// Hashing takes memory and a core: only so many at once, the rest waits.
static PLACES: Semaphore = Semaphore::const_new(HASHES_AT_ONCE_MAX);

/// The hash of a password that nobody has, with the parameters of all others: what an unknown user is checked against.
static NOBODY: LazyLock<String> = LazyLock::new(|| {
    let password: [u8; 32] = entropy::random().unwrap_or([0; 32]);
    hash_here(&password).unwrap_or_default()
});

fn hash_here(password: &[u8]) -> Result<String, PasswordError> {
    let failed = |e: password_hash::Error| PasswordError::Failed(e.to_string());
    let salt: [u8; 16] = entropy::random().map_err(|e| PasswordError::Failed(e.to_string()))?;
    let salt = SaltString::encode_b64(&salt).map_err(failed)?;
    Ok(Argon2::default().hash_password(password, &salt).map_err(failed)?.to_string())
}

/// Hashes a new password.
pub async fn hash(password: Secret<String>) -> Result<PasswordHash, PasswordError> {
    if password.expose().chars().count() < PASSWORD_MIN {
        return Err(PasswordError::Short);
    }
    if password.expose().len() > PASSWORD_MAX {
        return Err(PasswordError::Long);
    }
    in_place(move || hash_here(password.expose().as_bytes()).map(PasswordHash))
        .await
        .unwrap_or_else(|| Err(PasswordError::Failed("the task ended early".to_owned())))
}

/// Is this the password? `None` is a user that does not exist: it takes as long, and the answer is no.
pub async fn verify(password: Secret<String>, stored: Option<&PasswordHash>) -> bool {
    if password.expose().len() > PASSWORD_MAX {
        return false;
    }
    let stored = stored.map(|hash| hash.0.clone());
    in_place(move || {
        let exists = stored.is_some();
        let hash = stored.unwrap_or_else(|| NOBODY.clone());
        let fits = password_hash::PasswordHash::new(&hash)
            .and_then(|hash| Argon2::default().verify_password(password.expose().as_bytes(), &hash))
            .is_ok();
        fits && exists
    })
    .await
    .unwrap_or(false)
}

async fn in_place<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let _place = PLACES.acquire().await.ok()?;
    tokio::task::spawn_blocking(work).await.ok()
}

/// What failures are counted by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    /// A user, existing or not.
    User(String),
    /// A device.
    Device(DeviceId),
}

/// Failed log-ins (and, later, wrong codes) of the last [`LOGIN_WINDOW`]. Pure: time is passed in.
#[derive(Debug)]
pub struct Failures {
    counts: BTreeMap<Counted, VecDeque<Instant>>,
    order: VecDeque<(Instant, Counted)>,
    counts_max: usize,
}

impl Default for Failures {
    fn default() -> Self {
        Self { counts: BTreeMap::new(), order: VecDeque::new(), counts_max: LOGIN_COUNTS_MAX }
    }
}

/// Shared by all who ask for passwords.
pub type SharedFailures = Arc<std::sync::Mutex<Failures>>;

impl Failures {
    /// Begins a try: counts it as failed until [`Self::passed`] says otherwise, so that tries in parallel cannot be more
    /// than tries in sequence. The error says how long to wait; then no password may be looked at, so that a right one
    /// is not told apart.
    pub fn attempt(&mut self, now: Instant, user: &str, device: DeviceId) -> Result<(), Duration> {
        match self.wait(now, user, device) {
            Some(wait) => Err(wait),
            None => {
                self.failed(now, user, device);
                Ok(())
            }
        }
    }

    /// Begins a try on a device that is somebody else's than the user's: it counts for the device alone, or whoever has any
    /// device could lock any account.
    pub fn attempt_elsewhere(&mut self, now: Instant, device: DeviceId) -> Result<(), Duration> {
        let device = [Counted::Device(device)];
        match self.wait_for(now, &device) {
            Some(wait) => Err(wait),
            None => {
                self.count(now, device);
                Ok(())
            }
        }
    }

    /// The password of the try that began last was right: the user's count is cleared, and that try no longer counts
    /// for the device. Its earlier failures do: it may be trying other users.
    pub fn passed(&mut self, user: &str, device: DeviceId) {
        self.succeeded(user);
        let counted = Counted::Device(device);
        let Some(failures) = self.counts.get_mut(&counted) else { return };
        failures.pop_back();
        if failures.is_empty() {
            self.counts.remove(&counted);
        }
        if let Some(at) = self.order.iter().rposition(|(_, held)| *held == counted) {
            self.order.remove(at);
        }
    }

    /// How long this user on this device has to wait before the next try: `None` means not at all.
    pub fn wait(&mut self, now: Instant, user: &str, device: DeviceId) -> Option<Duration> {
        self.wait_for(now, &[Counted::User(clipped(user)), Counted::Device(device)])
    }

    fn wait_for(&mut self, now: Instant, whose: &[Counted]) -> Option<Duration> {
        self.forget(now);
        let of = |counted: &Counted| {
            let failures = self.counts.get(counted)?;
            let max = usize::try_from(LOGIN_FAILURES_MAX).unwrap_or(usize::MAX);
            let first = failures.len().checked_sub(max).and_then(|at| failures.get(at))?;
            Some(LOGIN_WINDOW.saturating_sub(now.since(*first)))
        };
        whose.iter().filter_map(of).max()
    }

    /// Counts a failure, for both.
    pub fn failed(&mut self, now: Instant, user: &str, device: DeviceId) {
        self.count(now, [Counted::User(clipped(user)), Counted::Device(device)]);
    }

    fn count(&mut self, now: Instant, whose: impl IntoIterator<Item = Counted>) {
        self.forget(now);
        for counted in whose {
            while self.order.len() >= self.counts_max {
                self.forget_first();
            }
            self.counts.entry(counted.clone()).or_default().push_back(now);
            self.order.push_back((now, counted));
        }
    }

    /// A right password clears the user's count. The device's stays: it may be trying other users.
    pub fn succeeded(&mut self, user: &str) {
        let counted = Counted::User(clipped(user));
        if self.counts.remove(&counted).is_some() {
            self.order.retain(|(_, held)| *held != counted);
        }
    }

    fn forget(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(at, _)| now.since(*at) >= LOGIN_WINDOW) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some((_, counted)) = self.order.pop_front() else { return };
        if let Some(failures) = self.counts.get_mut(&counted) {
            failures.pop_front();
            if failures.is_empty() {
                self.counts.remove(&counted);
            }
        }
    }
}

/// A stranger's user name must not cost more memory than a real one.
fn clipped(user: &str) -> String {
    user.chars().take(model::limits::NAME_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: u8) -> DeviceId {
        DeviceId::from_bytes([number; 10])
    }
    fn second(s: u64) -> Instant {
        Instant(s * 1_000_000_000)
    }
    fn secret(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[tokio::test]
    async fn only_the_right_password_of_an_existing_user_fits() {
        let stored = hash(secret("correct horse")).await.unwrap();
        assert!(stored.0.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", stored.0);
        assert!(verify(secret("correct horse"), Some(&stored)).await);
        assert!(!verify(secret("correct hors"), Some(&stored)).await);
        assert!(!verify(secret(""), Some(&stored)).await);
        assert!(!verify(secret("correct horse"), None).await);
        assert!(!verify(secret("x"), Some(&PasswordHash("no hash".into()))).await);
        assert_ne!(hash(secret("correct horse")).await.unwrap(), stored, "each has its own salt");
        assert!(!format!("{stored:?}").contains("argon2id"));
    }

    #[tokio::test]
    async fn unusable_passwords_are_refused() {
        assert_eq!(hash(secret(&"ä".repeat(PASSWORD_MIN - 1))).await, Err(PasswordError::Short));
        assert!(hash(secret(&"ä".repeat(PASSWORD_MIN))).await.is_ok());
        assert_eq!(hash(secret(&"x".repeat(PASSWORD_MAX + 1))).await, Err(PasswordError::Long));
        assert!(hash(secret(&"x".repeat(PASSWORD_MAX))).await.is_ok());
        let stored = hash(secret("12345678")).await.unwrap();
        assert!(!verify(secret(&"x".repeat(1 << 20)), Some(&stored)).await);
    }

    #[tokio::test]
    async fn a_user_that_does_not_exist_takes_the_same_work() {
        let stored = hash(secret("12345678")).await.unwrap();
        let parameters =
            |hash: &str| hash.rsplit_once('$').and_then(|(h, _)| h.rsplit_once('$')).map(|(h, _)| h.to_owned());
        assert_eq!(parameters(&NOBODY), parameters(&stored.0));
        assert!(!NOBODY.is_empty());
    }

    #[test]
    fn ten_failures_make_the_user_wait_on_every_device_and_the_device_for_every_user() {
        let mut failures = Failures::default();
        for s in 0..10 {
            assert_eq!(failures.wait(second(s), "clerk", device(1)), None);
            failures.failed(second(s), "clerk", device(1));
        }
        assert_eq!(failures.wait(second(10), "clerk", device(2)), Some(Duration::from_secs(890)));
        assert_eq!(failures.wait(second(10), "auditor", device(1)), Some(Duration::from_secs(890)));
        assert_eq!(failures.wait(second(10), "auditor", device(2)), None);
        let over = LOGIN_WINDOW.as_secs();
        assert_eq!(failures.wait(second(over - 1), "clerk", device(2)), Some(Duration::from_secs(1)));
        assert_eq!(failures.wait(second(over), "clerk", device(2)), None);
        // The first has left the window, nine remain: one more failure closes it again.
        failures.failed(second(over), "clerk", device(3));
        assert!(failures.wait(second(over), "clerk", device(2)).is_some());
    }

    #[test]
    fn tries_in_parallel_are_no_more_than_tries_in_sequence() {
        let mut failures = Failures::default();
        let begun = (0..100).filter(|_| failures.attempt(second(0), "clerk", device(1)).is_ok()).count();
        assert_eq!(begun, 10);
        let mut failures = Failures::default();
        for s in 0..1_000 {
            assert_eq!(failures.attempt(second(s), "clerk", device(1)), Ok(()));
            failures.passed("clerk", device(1));
        }
        assert!(failures.counts.is_empty() && failures.order.is_empty(), "who knows the password never waits");
        for s in 0..9 {
            failures.failed(second(s), "auditor", device(1));
        }
        failures.attempt(second(10), "clerk", device(1)).unwrap();
        assert!(failures.wait(second(11), "carl", device(1)).is_some());
        failures.passed("clerk", device(1));
        assert_eq!(failures.wait(second(11), "carl", device(1)), None);
    }

    #[test]
    fn a_right_password_clears_the_user_and_not_the_device() {
        let mut failures = Failures::default();
        for s in 0..10 {
            failures.failed(second(s), &format!("user-{}", s % 2), device(1));
        }
        failures.succeeded("user-0");
        failures.succeeded("user-1");
        assert!(failures.wait(second(10), "user-0", device(1)).is_some());
        assert_eq!(failures.wait(second(10), "user-0", device(2)), None);
    }

    #[tokio::test]
    async fn one_hash_more_than_there_are_places_waits_for_one() {
        let places = PLACES.acquire_many(u32::try_from(HASHES_AT_ONCE_MAX).unwrap()).await.unwrap();
        assert_eq!(PLACES.available_permits(), 0);
        let mut hashing = std::pin::pin!(hash(secret("correct horse")));
        tokio::select! {
            biased;
            _ = &mut hashing => panic!("it did not wait"),
            () = std::future::ready(()) => {}
        }
        drop(places);
        assert!(hashing.await.is_ok());
    }

    #[test]
    fn so_many_failures_are_counted_and_the_oldest_go() {
        let mut failures = Failures::default();
        assert_eq!(failures.counts_max, LOGIN_COUNTS_MAX);
        for _ in 0..LOGIN_FAILURES_MAX {
            assert_eq!(failures.attempt(second(0), "clerk", device(1)), Ok(()));
        }
        assert!(failures.attempt(second(0), "clerk", device(1)).is_err(), "one beyond waits");
        let many =
            |n: usize| DeviceId::from_bytes([&[9, 9][..], &(n as u64).to_be_bytes()].concat().try_into().unwrap());
        for n in 0..LOGIN_COUNTS_MAX {
            failures.failed(second(1), &format!("user-{n}"), many(n));
        }
        assert!(failures.order.len() <= LOGIN_COUNTS_MAX && failures.counts.len() <= LOGIN_COUNTS_MAX);
        assert_eq!(failures.wait(second(2), "clerk", device(1)), None, "the oldest count made room");
        assert!(failures.attempt(second(2), "clerk", device(1)).is_ok());
    }

    #[test]
    fn what_is_counted_is_bounded() {
        let mut failures = Failures { counts_max: 100, ..Failures::default() };
        for n in 0..1_000u16 {
            failures.failed(second(1), &"x".repeat(100_000), device((n % 250) as u8));
            failures.failed(second(1), &format!("user-{n}"), device((n % 250) as u8));
        }
        assert!(failures.order.len() <= 100 && failures.counts.len() <= 100);
        assert!(failures.counts.keys().all(|c| !matches!(c, Counted::User(name) if name.len() > 64)));
        let counted: usize = failures.counts.values().map(VecDeque::len).sum();
        assert_eq!(counted, failures.order.len());
    }
}
