//! What was over by time stays over: log-ins and join keys whose end has come are ended in the store, so that a clock that is set
//! back later brings none of them back.

use super::state::Arrangements;
use crate::audit::{Entry, Outcome};
use crate::directory::change::change;
use crate::directory::{Directory, Draft, JoinKey, JoinKeyState, Refusal, Session};
use model::limits::SWEEP_MAX;
use model::time::WallMs;

fn session_is_over(session: &Session, wall: WallMs) -> bool {
    !session.ended && session.ends <= wall
}

/// Expired, and nothing else made it useless before.
fn key_is_over(key: &JoinKey, wall: WallMs) -> bool {
    key.uses_left > 0 && key.expires <= wall && key.state(wall) == JoinKeyState::Expired
}

fn is_any_over(directory: &Directory, wall: WallMs) -> bool {
    directory.sessions.values().any(|s| session_is_over(&s.record, wall))
        || directory.join_keys.values().any(|k| key_is_over(&k.record, wall))
}

/// Ends some of what is over; the rest comes with the next look.
fn end(directory: &Directory, draft: &mut Draft, wall: WallMs) -> Result<[usize; 2], Refusal> {
    let mut ended = [0, 0];
    let [sessions, keys] = &mut ended;
    for fact in directory.sessions.values().filter(|s| session_is_over(&s.record, wall)).take(SWEEP_MAX) {
        draft.update(fact, &Session { ended: true, ..fact.record.clone() })?;
        *sessions += 1;
    }
    for fact in directory.join_keys.values().filter(|k| key_is_over(&k.record, wall)).take(SWEEP_MAX) {
        draft.update(fact, &JoinKey { uses_left: 0, ..fact.record.clone() })?;
        *keys += 1;
    }
    Ok(ended)
}

impl Arrangements {
    /// Ends what is over by this clock.
    pub(super) async fn end_what_is_over(&self, wall: WallMs) {
        if !is_any_over(&self.directory(), wall) {
            return;
        }
        let ended = change(self.store.as_ref(), &self.reader, |directory, draft| {
            let [sessions, keys] = end(directory, draft, wall)?;
            let entry = Entry::new(wall, "controller", "time.over", "org/self", Outcome::Done);
            Ok(((), entry.with("sessions", sessions).with("join_keys", keys)))
        });
        if let Err(error) = ended.await {
            // They are over all the same, for as long as the clock says so; it is tried again.
            tracing::debug!(%error, "what is over by time could not be written down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrange::Arrangements;
    use crate::init::tests::made;
    use crate::judge;
    use crate::rpc::accept::Connections;
    use crate::test_support::Folder;
    use model::ids::{DeviceId, JoinKeyId, SessionId, UserId};
    use model::limits::CLOCK_BACK_MAX;
    use model::time::{Clock, Instant};
    use proto::join::JoinKind;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::time::Duration;

    const START: i64 = 1_700_000_000_000;
    const HOUR: i64 = 3_600_000;
    const YEAR: i64 = 365 * 24 * HOUR;

    /// A clock that is set by hand.
    struct Set(AtomicI64);
    impl Clock for Set {
        fn now(&self) -> Instant {
            Instant(0)
        }
        fn wall(&self) -> WallMs {
            WallMs(self.0.load(Ordering::Relaxed))
        }
    }

    #[tokio::test]
    async fn no_clock_that_is_set_back_revives_a_log_in_or_a_join_key() {
        let folder = Folder::new();
        let (organisation, _) = made(&folder).await;
        let clock = Arc::new(Set(AtomicI64::new(START)));
        let (store, directory) = (Arc::clone(&organisation.store), organisation.directory.clone());
        let sealer = Arc::clone(&organisation.sealer);
        let time = Arc::clone(&clock) as Arc<dyn Clock>;
        let arrangements = Arrangements::restore(store, directory, sealer, time, Arc::new(Connections::default()));
        let arrangements = arrangements.await.unwrap();
        let (device, created) = (DeviceId::from_bytes([6; 10]), WallMs(START));
        let ends = created.plus(Duration::from_secs(3_600));
        let session = Session {
            id: SessionId::from_bytes([5; 10]),
            user: UserId::from_bytes([4; 10]),
            device,
            created,
            ends,
            ended: false,
            factor: None,
            proved: crate::directory::Proved::AtLogin,
        };
        let key = JoinKey {
            id: JoinKeyId::from_bytes([3; 10]),
            kind: JoinKind::Device,
            site: None,
            account: None,
            ephemeral: false,
            uses: 1,
            uses_left: 1,
            created,
            expires: ends,
            revoked: false,
            knock: organisation.sealer.seal("place", b"plain").unwrap(),
            enrol_hash: [0; 32],
            redeemed: Vec::new(),
        };
        let make = |_: &Directory, draft: &mut Draft| {
            draft.create(&session.id, &session)?;
            draft.create(&key.id, &key)?;
            Ok(((), Entry::new(created, "test", "make", "both", Outcome::Done)))
        };
        organisation.change(make).await.unwrap();
        // What holds by the clock at this moment, after the controller has looked.
        let look = async |wall: i64| {
            clock.0.store(wall, Ordering::Relaxed);
            arrangements.end_what_is_over(WallMs(wall)).await;
            let now = organisation.now();
            let live = judge::session_of(&now, device, WallMs(wall)).is_some();
            let key = now.join_keys.find(&JoinKeyId::from_bytes([3; 10])).unwrap().record.state(WallMs(wall));
            (live, key == JoinKeyState::Usable)
        };
        let back = i64::try_from(CLOCK_BACK_MAX.as_millis()).unwrap();
        assert_eq!(look(START).await, (true, true));
        // A little before they were made: a clock is corrected by that much.
        assert_eq!(look(START - back).await, (true, true));
        // They do not live for ten years because the clock says that they are still to be made.
        for wall in [START - back - 1, START - 10 * YEAR, i64::MIN] {
            assert_eq!(look(wall).await, (false, false), "{wall}");
        }
        assert_eq!(look(START + HOUR - 1).await, (true, true), "it was only the clock");
        let before = organisation.store.revision();
        for wall in [START + HOUR, START + 10 * YEAR, i64::MAX, START + 1, START - 1, START - 10 * YEAR] {
            assert_eq!(look(wall).await, (false, false), "{wall}");
        }
        assert_eq!(organisation.store.revision().number, before.number + 1, "it was written once");
    }
}
