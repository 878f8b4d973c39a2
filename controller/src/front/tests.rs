//! Whose knocks are heard?

use super::*;
use crate::directory::{Account, Draft, TrustSecret};
use crate::init::tests::made;
use crate::test_support::Folder;

/// Puts a rule with its secret, and its account.
async fn put(organisation: &Organisation, disabled: bool, restored: bool) -> (Knocker, Secret<[u8; 32]>) {
    let secret = Secret::new([5; 32]);
    let trust = Trust { restored, ..crate::federation::tests::rule(&[]) };
    let sealed = organisation.sealer.seal(&TrustSecret::place(trust.id), secret.expose()).unwrap();
    let account = Account {
        id: trust.account,
        name: "build".parse().unwrap(),
        description: String::new(),
        groups: [].into(),
        disabled,
        restored: false,
        created: WallMs(1),
    };
    let write = |_: &Directory, draft: &mut Draft| {
        draft.put(&trust.id, &trust)?;
        draft.put(&trust.id, &TrustSecret { sealed: sealed.clone() })?;
        draft.put(&account.id, &account)?;
        Ok(((), crate::audit::Entry::new(WallMs(1), "test", "put", "rule", crate::audit::Outcome::Done)))
    };
    organisation.change(write).await.unwrap();
    (Knocker::JoinKey(trust.id), secret)
}

#[tokio::test]
async fn knocks_with_a_rule_s_file_are_heard_while_it_lets_anybody_in_and_no_longer() {
    let folder = Folder::new();
    let (organisation, _) = made(&folder).await;
    for (disabled, restored, heard) in
        [(false, false, true), (true, false, false), (false, true, false), (true, true, false)]
    {
        let (knocker, secret) = put(&organisation, disabled, restored).await;
        let now = organisation.now();
        assert_eq!(usable_keys(&organisation, &now).contains(&knocker), heard, "{disabled} {restored}");
        let mut knocks = Knocks::new(organisation.wall());
        for one in usable_keys(&organisation, &now) {
            assert!(knocks.add(one, knock_key(&organisation, &now, one).unwrap()));
        }
        let (controller, new) = (organisation.org().unwrap().key, PublicKey([9; 32]));
        let knock = tunnel::knock::build(&secret, &controller, organisation.wall(), &new, [3; 24]);
        let opened = knocks.open(Instant(0), organisation.wall(), &knock).ok();
        assert_eq!(opened, heard.then_some((knocker, new)), "{disabled} {restored}");
        // Another's secret knocks in vain.
        let knock = tunnel::knock::build(&Secret::new([6; 32]), &controller, organisation.wall(), &new, [4; 24]);
        assert!(knocks.open(Instant(0), organisation.wall(), &knock).is_err());
    }
}
