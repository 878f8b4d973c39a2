//! Steps of a succession, each of them before and after a restart.

use super::*;
use crate::config::StatePaths;
use crate::init::tests::made;
use crate::store::{Options, Reading};
use crate::test_support::Folder;
use host::clock::SystemClock;
use node::successor::AnnouncementError;

const OVERLAP: Duration = Duration::from_secs(7_200);

async fn open(folder: &Folder) -> Organisation {
    let paths = StatePaths::new(folder.path().join("state"));
    Organisation::open(&paths, Options::default(), Arc::new(SystemClock::new())).await.unwrap()
}

async fn secret_is_there(organisation: &Organisation, id: &str) -> bool {
    Reading::new(organisation.store.as_ref()).get::<SealedSecret>(id).await.unwrap().is_some()
}

/// What everybody sees of the authorities, and that the private keys belong to them.
fn shown(organisation: &Organisation) -> (Authority, Option<Authority>, bool) {
    let held = organisation.keyring.held();
    for pair in held.by_age() {
        assert_eq!(crate::init::public_key(&pair.key), pair.public.key);
        assert_eq!(pair.ca.certificate(), pair.public.ca);
        let own = pair.ca.issue_own(organisation.wall(), Duration::from_secs(60)).unwrap();
        let leaf = own.svid.chain.into_iter().map(rustls::pki_types::CertificateDer::from).collect::<Vec<_>>();
        assert!(node::svid::read_leaf("corp.example", &leaf[0]).is_ok());
    }
    let org = organisation.org().unwrap();
    assert_eq!(
        (org.authority(), org.other()),
        (held.used.public.clone(), held.other.as_ref().map(|o| o.public.clone()))
    );
    assert_eq!(org.trusted(), held.trusted());
    (held.used.public.clone(), held.other.as_ref().map(|other| other.public.clone()), held.switched)
}

/// In a runtime of its own: when it ends, so does everything that holds the store.
fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn each_step_is_whole_after_a_restart_and_nothing_of_the_old_authority_is_left_at_the_end() {
    let folder = Folder::new();
    let (first, said) = run(async {
        let (organisation, _) = made(&folder).await;
        let (first, none, _) = shown(&organisation);
        assert_eq!(none, None);
        let said = announce(&organisation, &tester(), OVERLAP).await.unwrap();
        assert_eq!(said.check("corp.example", &first), Ok(()));
        assert_eq!((said.switches.0 - said.announced.0, said.ends.0 - said.announced.0), (3_600_000, 7_200_000));
        let again = announce(&organisation, &tester(), OVERLAP).await.unwrap_err().to_string();
        assert!(again.contains("already: wait"), "{again}");
        assert_eq!(shown(&organisation), (first.clone(), Some(said.next.clone()), false));
        (first, said)
    });
    run(async {
        let organisation = open(&folder).await;
        assert_eq!(shown(&organisation), (first.clone(), Some(said.next.clone()), false), "announced");
        retire(&organisation).await.unwrap();
        assert_eq!(shown(&organisation), (first.clone(), Some(said.next.clone()), false), "not before the switch");
        switch(&organisation).await.unwrap();
        switch(&organisation).await.unwrap();
        assert_eq!(shown(&organisation), (said.next.clone(), Some(first.clone()), true));
    });
    run(async {
        let organisation = open(&folder).await;
        assert_eq!(shown(&organisation), (said.next.clone(), Some(first.clone()), true), "switched");
        assert!(secret_is_there(&organisation, SealedSecret::OTHER_CA_KEY).await);
        retire(&organisation).await.unwrap();
        assert_eq!(shown(&organisation), (said.next.clone(), None, false));
    });
    run(async {
        let organisation = open(&folder).await;
        assert_eq!(shown(&organisation), (said.next.clone(), None, false), "retired");
        for id in OTHER {
            assert!(!secret_is_there(&organisation, id).await, "{id}");
        }
        organisation.store.verify_audit().await.unwrap();
        // And the next one can be announced, by this one alone.
        let later = announce(&organisation, &tester(), OVERLAP).await.unwrap();
        assert_eq!(later.check("corp.example", &said.next), Ok(()));
        assert_eq!(later.check("corp.example", &first), Err(AnnouncementError::Signature));
    });
}

fn tester() -> Caller {
    Caller::Admin { actor: "local:test".to_owned() }
}

#[tokio::test]
async fn what_is_due_follows_from_what_is_stored_and_the_clock() {
    let folder = Folder::new();
    let (mut organisation, _) = made(&folder).await;
    let hours = |n: u64| Duration::from_secs(n * 3_600);
    let org = organisation.org().unwrap();
    assert_eq!(next_step(&org, hours(100), hours(10)), (org.created.plus(hours(90)), Due::Announce));
    assert!(!step(&organisation).await.unwrap(), "a young one goes on");
    organisation.timing.overlap = hours(2);
    organisation.timing.authority = hours(2);
    assert!(check_timing(&organisation).is_err(), "it would never be alone");
    assert!(step(&organisation).await.unwrap(), "one that is old is followed without being asked");
    let org = organisation.org().unwrap();
    let said = org.succession.clone().unwrap().announcement;
    assert_eq!(next_step(&org, hours(100), hours(2)), (said.switches, Due::Switch));
    assert!(!step(&organisation).await.unwrap());
    switch(&organisation).await.unwrap();
    let org = organisation.org().unwrap();
    assert_eq!(next_step(&org, hours(100), hours(2)), (said.ends.max(org.since().plus(hours(1))), Due::Retire));
    // Whoever was off at the time of the switch gives nodes their time all the same.
    let late = Org { since: Some(said.ends.plus(hours(5))), ..org };
    assert_eq!(next_step(&late, hours(100), hours(2)), (said.ends.plus(hours(6)), Due::Retire));
}

#[tokio::test]
async fn an_overlap_has_room_for_the_certificates_that_were_made_before_the_switch() {
    let folder = Folder::new();
    let (organisation, _) = made(&folder).await;
    let short = announce(&organisation, &tester(), organisation.timing.svid).await.unwrap_err().to_string();
    assert!(short.contains("twice the life of certificates"), "{short}");
    assert!(announce(&organisation, &tester(), AUTHORITY_LIFE * 2).await.is_err());
    assert_eq!(organisation.org().unwrap().succession, None);
}

#[tokio::test]
async fn the_trail_alone_proves_that_the_one_authority_named_the_other() {
    let folder = Folder::new();
    let (organisation, _) = made(&folder).await;
    let (before, _, _) = shown(&organisation);
    let head = |organisation: &Organisation| {
        let signed =
            crate::arrange::heads::sign(&organisation.ca(), organisation.store.audit_head(), WallMs(1)).unwrap();
        let Authority { key, ca } = organisation.keyring.held().used.public.clone();
        node::witness::Witness::new("controller".into(), "corp.example".into(), &key, &ca, signed)
    };
    let early = head(&organisation);
    announce(&organisation, &tester(), OVERLAP).await.unwrap();
    switch(&organisation).await.unwrap();
    let (after, _, _) = shown(&organisation);
    let late = head(&organisation);
    let stored = organisation.store.audit_stored(1, 100).await.unwrap();
    let lines: Vec<String> =
        stored.iter().map(|(_, stored)| String::from_utf8(stored[32..].to_vec()).unwrap()).collect();
    let trail = folder.path().join("trail");
    std::fs::write(&trail, lines.join("\n") + "\n").unwrap();
    let verify = |name: &str, witnesses: &[&node::witness::Witness]| {
        let file = folder.path().join(name);
        let text: Vec<String> = witnesses.iter().map(|one| serde_json::to_string(one).unwrap()).collect();
        std::fs::write(&file, text.join("\n") + "\n").unwrap();
        crate::audit::offline::verify(std::slice::from_ref(&trail), &[file]).unwrap()
    };
    let (old, new) = (before.fingerprint("corp.example"), after.fingerprint("corp.example"));
    let found = verify("both", &[&early, &late]);
    assert_eq!((found.witnessed, found.successions.len(), found.notes.len()), (2, 1, 0), "{found:?}");
    assert!(found.is_same(&old, &new) && found.is_same(&new, &old) && !found.is_same(&old, "another"));
    // Whoever knows the new one alone believes in the old one only what a head of the new one covers.
    let found = verify("early", &[&early]);
    assert!(found.is_same(&old, &new) && !found.is_same(&new, &old));
}
