//! How far did the audit trail go, as far as this gateway was ever told? It keeps the newest head that the controller signed,
//! and shows it to every controller: one whose trail ends earlier has lost its end.
//!
//! It is written beside everything else: no grant waits for it.

use host::keyfile;
use host::slots::{Slots, SlotsError};
use model::audit::{SignedHead, Then};
use node::Identity;
use node::successor::Trust;
use node::witness::{Witness, WitnessError, check};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const FILE: &str = "witness";
/// The first head that was refused, beside the one that was kept then.
const EVIDENCE: &str = "witness-refused";

/// How often, and how many times, a head is looked at again that nobody signed who is trusted: one of the controller's next CA
/// may come a moment before that is announced here.
const LOOK_AGAIN: (Duration, usize) = (Duration::from_millis(500), 30);

/// Why the witness cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The file.
    #[error(transparent)]
    File(#[from] SlotsError),
    /// It holds something else.
    #[error("{0} is damaged; move it away, and restart: the controller's next head is kept then")]
    Damaged(PathBuf),
}

/// The newest head, on the disk.
#[derive(Debug)]
pub struct Keeper {
    folder: PathBuf,
    trust: Arc<Trust>,
    slots: Option<Slots>,
    kept: Option<SignedHead>,
}

/// What is kept of a head that was refused.
#[derive(Serialize)]
struct Evidence<'a> {
    why: &'a str,
    kept: &'a SignedHead,
    refused: &'a SignedHead,
}

impl Keeper {
    /// Reads what was kept before.
    pub fn load(folder: &Path, trust: Arc<Trust>) -> Result<Self, KeepError> {
        let path = folder.join(FILE);
        let (slots, kept) = match Slots::open(&path) {
            Ok((slots, value)) => {
                let kept = serde_json::from_slice(&value).map_err(|_| KeepError::Damaged(path))?;
                (Some(slots), Some(kept))
            }
            Err(SlotsError::File(error)) if error.is_missing() => (None, None),
            Err(SlotsError::Damaged(path)) => return Err(KeepError::Damaged(path)),
            Err(error) => return Err(error.into()),
        };
        Ok(Self { folder: folder.to_owned(), trust, slots, kept })
    }

    /// What is kept.
    pub const fn kept(&self) -> Option<&SignedHead> {
        self.kept.as_ref()
    }

    /// Takes what the controller says now. What does not follow on what is kept is refused, and kept as evidence. It waits
    /// for the disk.
    pub fn take(&mut self, told: SignedHead) -> Result<Then, KeepError> {
        if self.trust.signer(&told).is_none() {
            let error = WitnessError::Signature;
            tracing::error!(%error, "the controller showed a head of its audit trail that is not believed");
            return Ok(Then::Same);
        }
        let then = self.kept.as_ref().map_or(Then::Newer, |kept| kept.head.then(&told.head));
        match then {
            Then::Newer => self.keep(told)?,
            Then::Same => {}
            Then::Back => self.accuse("the audit trail of the controller ends earlier than it did", &told),
            Then::Fork => self.accuse("the audit trail of the controller has another record at the same place", &told),
        }
        Ok(then)
    }

    fn keep(&mut self, told: SignedHead) -> Result<(), KeepError> {
        let path = self.folder.join(FILE);
        let text = serde_json::to_vec(&told).map_err(|_| KeepError::Damaged(path.clone()))?;
        match &mut self.slots {
            Some(slots) => slots.write(&text)?,
            None => self.slots = Some(Slots::create(&path, &text)?),
        }
        self.kept = Some(told);
        Ok(())
    }

    fn accuse(&self, why: &str, refused: &SignedHead) {
        let Some(kept) = &self.kept else { return };
        tracing::error!(
            witnessed = kept.head.seq,
            witnessed_hash = %kept.head.text().trim_end().rsplit(' ').next().unwrap_or_default(),
            shown = refused.head.seq,
            "{why}: somebody cut or rewrote it, or an older copy of the controller runs"
        );
        let path = self.folder.join(EVIDENCE);
        let text = serde_json::to_vec_pretty(&Evidence { why, kept, refused }).unwrap_or_default();
        match keyfile::create(&path, &text) {
            // The first one is the one that tells most.
            Ok(()) | Err(keyfile::KeyFileError::Exists(_)) => {}
            Err(error) => tracing::error!(%error, "the evidence could not be kept"),
        }
    }
}

/// The task's ends: where heads go in, and what is kept.
pub struct Watch {
    told: watch::Sender<Option<SignedHead>>,
    kept: watch::Receiver<Option<SignedHead>>,
}

impl Watch {
    /// Begins to keep. Of heads that come while the disk is busy only the newest counts.
    pub fn start(mut keeper: Keeper) -> Self {
        let (told, mut news) = watch::channel::<Option<SignedHead>>(None);
        let (keep, kept) = watch::channel(keeper.kept().cloned());
        tokio::spawn(async move {
            while news.changed().await.is_ok() {
                let Some(head) = news.borrow_and_update().clone() else { continue };
                for _ in 0..LOOK_AGAIN.1 {
                    if keeper.trust.signer(&head).is_some() {
                        break;
                    }
                    tokio::time::sleep(LOOK_AGAIN.0).await;
                }
                let taking = tokio::task::spawn_blocking(move || {
                    let taken = keeper.take(head);
                    (keeper, taken)
                });
                let Ok((back, taken)) = taking.await else { return };
                keeper = back;
                if let Err(error) = taken {
                    tracing::error!(%error, "the head of the audit trail could not be kept; the one before it is");
                }
                keep.send_replace(keeper.kept().cloned());
            }
        });
        Self { told, kept }
    }

    /// What the controller says now.
    pub fn tell(&self, head: SignedHead) {
        self.told.send_replace(Some(head));
    }

    /// What is kept.
    pub fn kept(&self) -> Option<SignedHead> {
        self.kept.borrow().clone()
    }
}

/// As it is given out: with the CA that signed it, whether that is still trusted or was once.
pub fn give_out(identity: &Identity, trust: &Trust, head: SignedHead) -> Witness {
    let once = || identity.known_authorities().into_iter().find(|one| check(&one.ca, &head).is_ok());
    let signer = trust.signer(&head).or_else(once).unwrap_or_else(|| identity.authority());
    Witness::new(identity.node.to_string(), identity.trust_domain.clone(), &signer.key, &signer.ca, head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::audit::AuditHead;
    use model::key::PublicKey;
    use model::revision::Revision;
    use model::time::WallMs;
    use node::successor::Authority;
    use rcgen::SigningKey as _;

    struct Folder(PathBuf);
    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("umbra-witness-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            keyfile::create_folder(&path).unwrap();
            Self(path)
        }
    }
    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn one() -> (rcgen::KeyPair, Authority) {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let ca = rcgen::CertificateParams::default().self_signed(&key).unwrap().der().to_vec();
        (key, Authority { key: PublicKey([1; 32]), ca })
    }

    fn authority() -> (rcgen::KeyPair, Arc<Trust>) {
        let (key, authority) = one();
        (key, Arc::new(Trust::new(vec![authority])))
    }

    fn signed(key: &rcgen::KeyPair, incarnation: u64, seq: u64, byte: u8) -> SignedHead {
        let revision = Revision { incarnation, number: seq };
        let head = AuditHead { revision, seq, hash: [byte; 32], at: WallMs(7) };
        SignedHead { signature: key.sign(head.text().as_bytes()).unwrap(), head }
    }

    #[test]
    fn the_newest_head_is_kept_and_never_one_that_goes_back_or_forks() {
        let folder = Folder::new("keep");
        let (key, ca) = authority();
        let mut keeper = Keeper::load(&folder.0, ca.clone()).unwrap();
        assert_eq!(keeper.kept(), None);
        for (told, then) in [
            (signed(&key, 1, 5, 1), Then::Newer),
            (signed(&key, 1, 5, 1), Then::Same),
            (signed(&key, 1, 9, 2), Then::Newer),
            (signed(&key, 2, 3, 3), Then::Newer),
        ] {
            assert_eq!(keeper.take(told).unwrap(), then);
        }
        let newest = signed(&key, 2, 3, 3).head;
        assert!(!folder.0.join(EVIDENCE).exists());
        let mut keeper = Keeper::load(&folder.0, ca).unwrap();
        for (told, then) in [
            (signed(&key, 2, 3, 4), Then::Fork),
            (signed(&key, 2, 2, 2), Then::Back),
            (signed(&key, 1, 99, 2), Then::Back),
        ] {
            assert_eq!(keeper.take(told).unwrap(), then);
            assert_eq!(keeper.kept().unwrap().head, newest);
        }
        // The first of them is kept, with what it contradicts.
        let evidence = std::fs::read_to_string(folder.0.join(EVIDENCE)).unwrap();
        assert!(evidence.contains(&"04".repeat(32)) && evidence.contains(&"03".repeat(32)), "{evidence}");
        assert!(!evidence.contains(&"02".repeat(32)), "{evidence}");
    }

    #[test]
    fn a_head_that_the_pinned_authority_did_not_sign_is_nothing() {
        let folder = Folder::new("sign");
        let ((key, ca), (stranger, _)) = (authority(), authority());
        let mut keeper = Keeper::load(&folder.0, ca).unwrap();
        let mut altered = signed(&key, 1, 5, 1);
        altered.head.seq = 6;
        for told in [signed(&stranger, 1, 5, 1), altered, SignedHead { signature: vec![], ..signed(&key, 1, 5, 1) }] {
            keeper.take(told).unwrap();
            assert_eq!(keeper.kept(), None);
        }
        keeper.take(signed(&key, 1, 5, 1)).unwrap();
        assert!(keeper.kept().is_some());
        std::fs::write(folder.0.join(FILE), "{}").unwrap();
        assert!(Keeper::load(&folder.0, Arc::default()).unwrap_err().to_string().contains("move it away"));
    }

    #[test]
    fn heads_of_the_next_authority_follow_on_those_of_the_one_before() {
        let folder = Folder::new("next");
        let ((old_key, old), (new_key, new)) = (one(), one());
        let trust = Arc::new(Trust::new(vec![old.clone()]));
        let mut keeper = Keeper::load(&folder.0, Arc::clone(&trust)).unwrap();
        keeper.take(signed(&old_key, 1, 5, 1)).unwrap();
        keeper.take(signed(&new_key, 1, 6, 1)).unwrap();
        assert_eq!(keeper.kept().unwrap().head.seq, 5, "nobody has announced it yet");
        trust.set(vec![old.clone(), new.clone()]);
        keeper.take(signed(&new_key, 1, 6, 1)).unwrap();
        assert_eq!(keeper.take(signed(&old_key, 1, 6, 2)).unwrap(), Then::Fork, "they are one trail");
        assert_eq!(keeper.take(signed(&old_key, 1, 7, 2)).unwrap(), Then::Newer);
        trust.set(vec![new]);
        keeper.take(signed(&old_key, 1, 8, 2)).unwrap();
        assert_eq!(keeper.kept().unwrap().head.seq, 7, "its time is over");
        assert!(!trust.set(trust.all()) && trust.set(vec![old]));
    }
}
