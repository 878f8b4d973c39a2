//! How does a machine that nobody knows yet ask to be let in? With one datagram that is never answered.
//!
//! A join file holds a secret of 256 random bits. Keys come from it by BLAKE2s-256 in keyed mode over a label (RFC 7693;
//! the secret is uniform, so HKDF's extraction has nothing to do). A knock has [`KNOCK_LEN`] bytes:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | the type, 5, little endian: none of WireGuard's |
//! | 8 | tag: HMAC of the hour under a key of the secret, in place of an id |
//! | 24 | nonce, random |
//! | 8 + 32 + 16 | XChaCha20-Poly1305 over wall clock (ms since the epoch, little endian) and new public key; all before is authenticated |
//! | 16 | MAC1 over all before, as WireGuard makes it (paper, section 5.4.4), under the controller's public key |
//!
//! All of it is pure: [`build`] at the knocking machine, [`mac1_holds`] in the engine, [`Knocks`] in the controller.

use blake2::digest::consts::{U8, U16, U32};
use blake2::digest::{FixedOutput, KeyInit, Mac, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use model::ids::{JoinKeyId, NodeId};
use model::key::PublicKey;
use model::limits::{
    JOIN_KEYS_MAX, KNOCK_MEMORY_MAX, KNOCK_WINDOW, PROVISIONAL_LIFE, PROVISIONAL_PER_KEY_MAX, PROVISIONAL_PER_NODE_MAX,
    RECOVERY_KEYS_MAX,
};
use model::secret::Secret;
use model::time::{Instant, WallMs};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Bytes of a knock.
pub const KNOCK_LEN: usize = TYPE_LEN + TAG_LEN + NONCE_LEN + BODY_LEN + AEAD_LEN + MAC1_LEN;
const TYPE_LEN: usize = 4;
const TAG_LEN: usize = 8;
const NONCE_LEN: usize = 24;
const BODY_LEN: usize = 8 + 32;
const AEAD_LEN: usize = 16;
const MAC1_LEN: usize = 16;
const HEAD_LEN: usize = TYPE_LEN + TAG_LEN + NONCE_LEN;
const TYPE: [u8; TYPE_LEN] = 5u32.to_le_bytes();
const HOUR_MS: i64 = 3_600_000;

/// The secret of a join file.
pub type JoinSecret = Secret<[u8; 32]>;
/// What the controller keeps, sealed, to recognise knocks.
pub type KnockKey = Secret<[u8; 32]>;
/// What only `Enroll` carries; the controller keeps its hash.
pub type EnrolToken = Secret<[u8; 32]>;

type Tagged = [u8; TAG_LEN];

fn derive(key: &[u8; 32], label: &str) -> Secret<[u8; 32]> {
    let mac = <Blake2sMac<U32> as KeyInit>::new(key.into()).chain(label);
    Secret::new(mac.finalize_fixed().into())
}

/// The key that knocks are made with.
pub fn knock_key(secret: &JoinSecret) -> KnockKey {
    derive(secret.expose(), "umbra knock key 1")
}

/// The token that `Enroll` carries; knowing [`knock_key`] does not give it.
pub fn enrol_token(secret: &JoinSecret) -> EnrolToken {
    derive(secret.expose(), "umbra enrol token 1")
}

fn tag(key: &KnockKey, hour: i64) -> Tagged {
    let tag_key = derive(key.expose(), "tag");
    <Blake2sMac<U8> as KeyInit>::new(tag_key.expose().into()).chain(hour.to_le_bytes()).finalize_fixed().into()
}

fn cipher(key: &KnockKey) -> XChaCha20Poly1305 {
    let seal_key = derive(key.expose(), "seal");
    <XChaCha20Poly1305 as chacha20poly1305::KeyInit>::new(seal_key.expose().into())
}

fn mac1(controller: &PublicKey, before: &[u8]) -> Blake2sMac<U16> {
    let key = Blake2s256::new().chain_update("mac1----").chain_update(controller.0).finalize();
    <Blake2sMac<U16> as KeyInit>::new(&key).chain(before)
}

/// Is it of a knock's size and type?
pub fn is_knock(datagram: &[u8]) -> bool {
    datagram.len() == KNOCK_LEN && datagram.starts_with(&TYPE)
}

/// Was it made by somebody who knows the controller's public key? Cheap, and in constant time.
pub fn mac1_holds(controller: &PublicKey, datagram: &[u8]) -> bool {
    is_knock(datagram)
        && datagram
            .split_last_chunk::<MAC1_LEN>()
            .is_some_and(|(before, mac)| mac1(controller, before).verify(mac.into()).is_ok())
}

/// One knock. `now` is the machine's wall clock, `new` the key that is to be admitted, `nonce` random.
pub fn build(
    secret: &JoinSecret,
    controller: &PublicKey,
    now: WallMs,
    new: &PublicKey,
    nonce: [u8; NONCE_LEN],
) -> [u8; KNOCK_LEN] {
    let key = knock_key(secret);
    let mut head = Vec::with_capacity(KNOCK_LEN);
    head.extend(TYPE);
    head.extend(tag(&key, hour_of(now)));
    head.extend(nonce);
    let mut body = Vec::with_capacity(BODY_LEN);
    body.extend(now.0.to_le_bytes());
    body.extend(new.0);
    // Sealing fails only for bodies of many gigabytes; a tag of zeros would be refused.
    let seal = cipher(&key).encrypt_in_place_detached(XNonce::from_slice(&nonce), &head, &mut body).unwrap_or_default();
    head.extend(body);
    head.extend(seal);
    let mac = mac1(controller, &head).finalize_fixed();
    head.extend(mac);
    let mut knock = [0; KNOCK_LEN];
    knock.iter_mut().zip(head).for_each(|(to, from)| *to = from);
    knock
}

const fn hour_of(wall: WallMs) -> i64 {
    wall.0.div_euclid(HOUR_MS)
}

/// Why a knock is not followed. The stranger learns nothing of it; the counters and the log do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KnockError {
    /// Wrong size or type.
    #[error("the datagram is no knock")]
    Shape,
    /// No live secret has this tag: its key is unknown, ended or revoked, or the machine's clock is days off.
    #[error("no join key knows this knock: the key has ended, or the machine's clock is more than a day off")]
    UnknownKey,
    /// It does not open.
    #[error("the knock does not open under its join key")]
    Forged,
    /// The time inside is too far from ours.
    #[error("the machine's clock is more than a day off")]
    Time,
    /// This very datagram was accepted before.
    #[error("the knock was seen before")]
    Seen,
    /// The join key has as many provisional peers as it may.
    #[error("the join key has too many machines enrolling at once; wait a minute")]
    Crowded,
}

/// With whose secret was a knock made?
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Knocker {
    /// A join key's: somebody who is not enrolled yet.
    JoinKey(JoinKeyId),
    /// A node's recovery secret: its own keys are not answered any more.
    Node(NodeId),
}

impl Knocker {
    /// The first one in the order of all.
    const FIRST: Self = Self::JoinKey(JoinKeyId::from_bytes([0; model::ids::ID_LEN]));

    /// How many provisional peers may come of it at once.
    const fn peers_max(&self) -> usize {
        match self {
            Self::JoinKey(_) => PROVISIONAL_PER_KEY_MAX,
            Self::Node(_) => PROVISIONAL_PER_NODE_MAX,
        }
    }

    /// How many of its kind may be alive.
    const fn keys_max(&self) -> usize {
        match self {
            Self::JoinKey(_) => JOIN_KEYS_MAX,
            Self::Node(_) => RECOVERY_KEYS_MAX,
        }
    }
}

impl std::fmt::Display for Knocker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::JoinKey(id) => id.fmt(f),
            Self::Node(id) => id.fmt(f),
        }
    }
}

/// The controller's side: which knocks are followed.
pub struct Knocks {
    keys: BTreeMap<Knocker, KnockKey>,
    /// How many of them are nodes'.
    nodes: usize,
    /// For each hour of the window around `hour`, each key's tag.
    tags: BTreeMap<i64, BTreeSet<(Tagged, Knocker)>>,
    hour: i64,
    seen: BTreeSet<[u8; 32]>,
    seen_order: VecDeque<(Instant, [u8; 32])>,
    seen_max: usize,
    live: BTreeMap<PublicKey, (Knocker, Instant)>,
}

impl Knocks {
    /// Without join keys; every knock is refused.
    pub fn new(wall: WallMs) -> Self {
        Self::with_memory(wall, KNOCK_MEMORY_MAX)
    }

    fn with_memory(wall: WallMs, seen_max: usize) -> Self {
        Self {
            keys: BTreeMap::new(),
            nodes: 0,
            tags: BTreeMap::new(),
            hour: hour_of(wall),
            seen: BTreeSet::new(),
            seen_order: VecDeque::new(),
            seen_max,
            live: BTreeMap::new(),
        }
    }

    /// Follows knocks of this secret from now on; false when there are [`JOIN_KEYS_MAX`] or [`RECOVERY_KEYS_MAX`] already.
    pub fn add(&mut self, id: Knocker, key: KnockKey) -> bool {
        let alike = if matches!(id, Knocker::Node(_)) { self.nodes } else { self.keys.len() - self.nodes };
        if !self.keys.contains_key(&id) && alike >= id.keys_max() {
            return false;
        }
        self.remove(&id);
        self.nodes += usize::from(matches!(id, Knocker::Node(_)));
        for hour in hours(self.hour) {
            self.tags.entry(hour).or_default().insert((tag(&key, hour), id));
        }
        self.keys.insert(id, key);
        true
    }

    /// Follows them no more: the key has ended, is used up or revoked.
    pub fn remove(&mut self, id: &Knocker) {
        if let Some(key) = self.keys.remove(id) {
            self.nodes -= usize::from(matches!(id, Knocker::Node(_)));
            for (hour, tags) in &mut self.tags {
                tags.remove(&(tag(&key, *hour), *id));
            }
        }
    }

    /// A provisional peer is gone, or enrolled: its place is free. Places also become free by time.
    pub fn gone(&mut self, key: &PublicKey) {
        self.live.remove(key);
    }

    /// How many provisional peers were let in and are not gone.
    pub fn live(&self) -> usize {
        self.live.len()
    }

    /// Opens a datagram whose MAC1 held: which join key was it made with, and which public key shall be admitted?
    pub fn open(&mut self, now: Instant, wall: WallMs, knock: &[u8]) -> Result<(Knocker, PublicKey), KnockError> {
        self.advance(now, wall);
        if !is_knock(knock) {
            return Err(KnockError::Shape);
        }
        let (id, time, key) = self.decrypt(knock)?;
        let window = i64::try_from(KNOCK_WINDOW.as_millis()).unwrap_or(i64::MAX);
        if wall.0.saturating_sub(time).saturating_abs() > window {
            return Err(KnockError::Time);
        }
        let digest: [u8; 32] = Blake2s256::digest(knock).into();
        if self.seen.contains(&digest) {
            return Err(KnockError::Seen);
        }
        let owned = self.live.values().filter(|(of, _)| *of == id).count();
        if owned >= id.peers_max() && !self.live.contains_key(&key) {
            return Err(KnockError::Crowded);
        }
        self.remember(now, digest);
        self.live.insert(key, (id, now.plus(PROVISIONAL_LIFE)));
        Ok((id, key))
    }

    fn decrypt(&self, knock: &[u8]) -> Result<(Knocker, i64, PublicKey), KnockError> {
        let (head, rest) = knock.split_at_checked(HEAD_LEN).ok_or(KnockError::Shape)?;
        let (body, rest) = rest.split_first_chunk::<BODY_LEN>().ok_or(KnockError::Shape)?;
        let (seal, _) = rest.split_first_chunk::<AEAD_LEN>().ok_or(KnockError::Shape)?;
        let (_, head_rest) = head.split_first_chunk::<TYPE_LEN>().ok_or(KnockError::Shape)?;
        let (tag, nonce) = head_rest.split_first_chunk::<TAG_LEN>().ok_or(KnockError::Shape)?;
        let first = (*tag, Knocker::FIRST);
        let mut error = KnockError::UnknownKey;
        let tagged = |tags| BTreeSet::range(tags, first..).take_while(|(of, _)| of == tag);
        for (_, id) in self.tags.values().flat_map(tagged) {
            let Some(key) = self.keys.get(id) else { continue };
            let mut body = *body;
            let opened = cipher(key).decrypt_in_place_detached(
                XNonce::from_slice(nonce),
                head,
                &mut body,
                Tag::from_slice(seal),
            );
            if opened.is_ok()
                && let Some((time, public)) = body.split_first_chunk::<8>()
                && let Ok(public) = <[u8; 32]>::try_from(public)
            {
                let public = PublicKey(public);
                // A second form of a key that is revoked is no other key.
                return if public.is_canonical() {
                    Ok((*id, i64::from_le_bytes(*time), public))
                } else {
                    Err(KnockError::Shape)
                };
            }
            error = KnockError::Forged;
        }
        Err(error)
    }

    fn remember(&mut self, now: Instant, digest: [u8; 32]) {
        while self.seen_order.len() >= self.seen_max {
            if let Some((_, oldest)) = self.seen_order.pop_front() {
                self.seen.remove(&oldest);
            }
        }
        self.seen.insert(digest);
        self.seen_order.push_back((now, digest));
    }

    fn advance(&mut self, now: Instant, wall: WallMs) {
        // A knock from a day ahead stays valid for two.
        while let Some((at, digest)) = self.seen_order.front().copied()
            && now.since(at) > KNOCK_WINDOW * 2
        {
            self.seen_order.pop_front();
            self.seen.remove(&digest);
        }
        self.live.retain(|_, (_, until)| *until > now);
        let hour = hour_of(wall);
        if hour != self.hour {
            self.hour = hour;
            let mut before = std::mem::take(&mut self.tags);
            for hour in hours(hour) {
                let made = || self.keys.iter().map(|(id, key)| (tag(key, hour), *id)).collect();
                self.tags.insert(hour, before.remove(&hour).unwrap_or_else(made));
            }
        }
    }
}

fn hours(around: i64) -> impl Iterator<Item = i64> {
    let reach = i64::try_from(KNOCK_WINDOW.as_secs() / 3600).unwrap_or(0);
    (-reach..=reach).map(move |step| around.saturating_add(step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const CONTROLLER: PublicKey = PublicKey([1; 32]);
    const NEW: PublicKey = PublicKey([2; 32]);
    const WALL: WallMs = WallMs(1_800_000_000_000 + HOUR_MS / 2);

    fn secret(n: u8) -> JoinSecret {
        JoinSecret::new([n; 32])
    }
    fn id(n: u8) -> Knocker {
        Knocker::JoinKey(JoinKeyId::from_bytes([n; 10]))
    }
    fn knocks() -> Knocks {
        let mut knocks = Knocks::new(WALL);
        assert!(knocks.add(id(1), knock_key(&secret(1))) && knocks.add(id(2), knock_key(&secret(2))));
        knocks
    }
    fn knock(n: u8, at: WallMs, nonce: u8) -> [u8; KNOCK_LEN] {
        build(&secret(n), &CONTROLLER, at, &NEW, [nonce; NONCE_LEN])
    }

    #[test]
    fn a_knock_names_its_join_key_and_its_public_key() {
        let mut knocks = knocks();
        let bytes = knock(2, WALL, 0);
        assert!(mac1_holds(&CONTROLLER, &bytes) && !mac1_holds(&PublicKey([3; 32]), &bytes));
        assert_eq!(knocks.open(Instant(0), WALL, &bytes), Ok((id(2), NEW)));
        // The repeat is ignored, a second try is not.
        assert_eq!(knocks.open(Instant(0), WALL, &bytes), Err(KnockError::Seen));
        assert_eq!(knocks.open(Instant(0), WALL, &knock(2, WALL, 1)), Ok((id(2), NEW)));
    }

    #[test]
    fn a_key_in_another_form_is_not_admitted() {
        let mut knocks = knocks();
        let mut other = NEW;
        other.0[31] |= 0x80;
        let bytes = build(&secret(2), &CONTROLLER, WALL, &other, [0; NONCE_LEN]);
        assert_eq!(knocks.open(Instant(0), WALL, &bytes), Err(KnockError::Shape));
        assert_eq!(knocks.open(Instant(0), WALL, &knock(2, WALL, 0)), Ok((id(2), NEW)));
    }

    #[test]
    fn nodes_that_recover_are_told_apart_from_join_keys_and_have_a_share_of_their_own() {
        use model::ids::DeviceId;
        let node = Knocker::Node(NodeId::Device(DeviceId::from_bytes([1; 10])));
        let mut knocks = knocks();
        assert!(knocks.add(node, knock_key(&secret(9))));
        let made = |key: u8| build(&secret(9), &CONTROLLER, WALL, &PublicKey([key; 32]), [key; NONCE_LEN]);
        for key in 0..PROVISIONAL_PER_NODE_MAX as u8 {
            assert_eq!(knocks.open(Instant(0), WALL, &made(key)), Ok((node, PublicKey([key; 32]))));
        }
        assert_eq!(knocks.open(Instant(0), WALL, &made(100)), Err(KnockError::Crowded));
        assert!(knocks.open(Instant(0), WALL, &knock(1, WALL, 1)).is_ok(), "a newcomer is not in its way");
        // An hour later it is still known; when it is gone, it is not.
        let later = WallMs(WALL.0 + HOUR_MS);
        let again = build(&secret(9), &CONTROLLER, later, &PublicKey([0; 32]), [200; NONCE_LEN]);
        assert!(knocks.open(Instant(0), later, &again).is_ok());
        knocks.remove(&node);
        let last = build(&secret(9), &CONTROLLER, later, &PublicKey([0; 32]), [201; NONCE_LEN]);
        assert_eq!(knocks.open(Instant(0), later, &last), Err(KnockError::UnknownKey));
        assert_eq!(knocks.nodes, 0);
    }

    #[test]
    fn a_clock_may_be_a_day_off_and_no_more() {
        let mut knocks = knocks();
        let day = KNOCK_WINDOW.as_millis() as i64;
        for off in [-day, day, -day + 1, 0] {
            let at = WallMs(WALL.0 + off);
            assert_eq!(knocks.open(Instant(0), WALL, &knock(1, at, 0)), Ok((id(1), NEW)), "{off}");
        }
        for off in [-day - 1, day + 1] {
            assert_eq!(knocks.open(Instant(0), WALL, &knock(1, WallMs(WALL.0 + off), 0)), Err(KnockError::Time));
        }
        for off in [-3 * day, 3 * day, 3650 * day] {
            assert_eq!(knocks.open(Instant(0), WALL, &knock(1, WallMs(WALL.0 + off), 0)), Err(KnockError::UnknownKey));
        }
        assert!(knocks.open(Instant(0), WallMs(i64::MAX), &knock(1, WallMs(i64::MIN), 0)).is_err());
    }

    #[test]
    fn the_hours_tags_move_with_the_clock() {
        let mut knocks = knocks();
        let later = WallMs(WALL.0 + 40 * HOUR_MS);
        assert_eq!(knocks.open(Instant(0), later, &knock(1, later, 0)), Ok((id(1), NEW)));
        assert_eq!(knocks.open(Instant(0), later, &knock(1, WALL, 0)), Err(KnockError::UnknownKey));
    }

    #[test]
    fn an_ended_join_key_opens_nothing() {
        let mut knocks = knocks();
        knocks.remove(&id(1));
        assert_eq!(knocks.open(Instant(0), WALL, &knock(1, WALL, 0)), Err(KnockError::UnknownKey));
        assert_eq!(knocks.open(Instant(0), WALL, &knock(2, WALL, 0)), Ok((id(2), NEW)));
    }

    #[test]
    fn one_join_key_owns_at_most_its_share() {
        let mut knocks = knocks();
        let key = |n: usize| PublicKey([(n >> 8) as u8, n as u8].repeat(16).try_into().unwrap());
        let try_one = |knocks: &mut Knocks, now: u64, n: usize, of: u8| {
            let mut nonce = [of; NONCE_LEN];
            nonce[..8].copy_from_slice(&(n as u64 ^ now).to_le_bytes());
            knocks.open(Instant(now), WALL, &build(&secret(of), &CONTROLLER, WALL, &key(n), nonce))
        };
        for n in 0..PROVISIONAL_PER_KEY_MAX {
            assert!(try_one(&mut knocks, 0, n, 1).is_ok());
        }
        assert_eq!(try_one(&mut knocks, 0, 9_999, 1), Err(KnockError::Crowded));
        assert!(try_one(&mut knocks, 0, 9_998, 2).is_ok());
        knocks.gone(&key(0));
        assert!(try_one(&mut knocks, 0, 9_999, 1).is_ok());
        let later = PROVISIONAL_LIFE.as_nanos() as u64;
        assert!(try_one(&mut knocks, later, 9_997, 1).is_ok());
        assert_eq!(knocks.live(), 1);
    }

    #[test]
    fn memory_is_bounded_and_lasts_two_windows() {
        let mut knocks = Knocks::with_memory(WALL, 3);
        knocks.add(id(1), knock_key(&secret(1)));
        for nonce in 0..5 {
            assert!(knocks.open(Instant(0), WALL, &knock(1, WALL, nonce)).is_ok());
        }
        assert_eq!((knocks.seen.len(), knocks.seen_order.len()), (3, 3));
        assert_eq!(knocks.open(Instant(0), WALL, &knock(1, WALL, 4)), Err(KnockError::Seen));
        let ahead = WallMs(WALL.0 + 24 * HOUR_MS);
        assert!(knocks.open(Instant(0), WALL, &knock(1, ahead, 9)).is_ok());
        let two_days = Instant(0).plus(KNOCK_WINDOW * 2);
        let wall = WallMs(WALL.0 + 48 * HOUR_MS);
        assert_eq!(knocks.open(two_days, wall, &knock(1, ahead, 9)), Err(KnockError::Seen));
        knocks.advance(two_days.plus(Duration::from_secs(1)), wall);
        assert!(knocks.seen.is_empty());
    }

    #[test]
    fn the_table_of_join_keys_is_bounded() {
        let mut knocks = Knocks::new(WALL);
        for n in 0..JOIN_KEYS_MAX {
            // Without tags, to fill it fast.
            let mut bytes = [0; 10];
            bytes[..8].copy_from_slice(&(n as u64).to_be_bytes());
            knocks.keys.insert(Knocker::JoinKey(JoinKeyId::from_bytes(bytes)), knock_key(&secret(1)));
        }
        assert!(!knocks.add(id(9), knock_key(&secret(9))));
        assert!(knocks.add(id(0), knock_key(&secret(9))), "one that is there may be replaced");
    }

    #[test]
    fn the_table_of_recovery_secrets_is_bounded_and_takes_again_when_a_node_goes() {
        use model::ids::DeviceId;
        let mut knocks = knocks();
        let node = |n: usize| {
            let mut bytes = [0; 10];
            bytes[..8].copy_from_slice(&(n as u64).to_be_bytes());
            Knocker::Node(NodeId::Device(DeviceId::from_bytes(bytes)))
        };
        for n in 1..RECOVERY_KEYS_MAX {
            // Without tags, to fill it fast.
            knocks.keys.insert(node(n), knock_key(&secret(1)));
            knocks.nodes += 1;
        }
        let key = || knock_key(&secret(9));
        assert!(knocks.add(node(RECOVERY_KEYS_MAX), key()), "the last one has a place");
        assert!(!knocks.add(node(0), key()));
        assert!(knocks.add(id(9), key()), "join keys have places of their own");
        knocks.remove(&node(7));
        assert!(knocks.add(node(0), key()));
        let made = build(&secret(9), &CONTROLLER, WALL, &NEW, [1; NONCE_LEN]);
        assert!(knocks.open(Instant(0), WALL, &made).is_ok());
    }

    #[test]
    fn as_many_knocks_are_remembered_as_the_limit_says() {
        let mut knocks = knocks();
        let digest = |n: usize| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&(n as u64).to_le_bytes());
            digest
        };
        for n in 0..KNOCK_MEMORY_MAX {
            knocks.remember(Instant(0), digest(n));
        }
        assert!(knocks.seen.contains(&digest(0)), "at the limit all are known");
        knocks.remember(Instant(0), digest(KNOCK_MEMORY_MAX));
        assert!(!knocks.seen.contains(&digest(0)) && knocks.seen.contains(&digest(1)), "one beyond, the oldest goes");
        assert_eq!((knocks.seen.len(), knocks.seen_order.len()), (KNOCK_MEMORY_MAX, KNOCK_MEMORY_MAX));
    }

    #[test]
    fn the_parts_of_a_secret_differ() {
        let s = secret(5);
        assert_ne!(knock_key(&s).expose(), enrol_token(&s).expose());
        assert_ne!(knock_key(&s).expose(), s.expose());
        assert_ne!(knock_key(&s).expose(), knock_key(&secret(6)).expose());
    }

    proptest! {
        #[test]
        fn a_changed_bit_is_refused(at in 0..KNOCK_LEN * 8) {
            let mut bytes = knock(1, WALL, 0);
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert!(!mac1_holds(&CONTROLLER, &bytes));
            if at / 8 < KNOCK_LEN - MAC1_LEN {
                prop_assert!(knocks().open(Instant(0), WALL, &bytes).is_err());
            }
        }

        #[test]
        fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(!mac1_holds(&CONTROLLER, &bytes));
            prop_assert!(knocks().open(Instant(0), WALL, &bytes).is_err());
        }
    }
}
