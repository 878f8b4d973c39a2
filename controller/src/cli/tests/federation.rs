//! Federation rules by command.

use super::*;
use crate::token::test_keys::{Signer, jwks};
use model::limits::{FEDERATION_FILE_LIFE, KEY_SET_MAX, TRUSTS_MAX};

const ADD: &str = "--issuer https://ci.example --audience umbra --subject repo:org/app:* --account build";

#[tokio::test]
async fn rules_are_made_listed_and_removed_and_their_files_admit_nobody_by_themselves() {
    let site = start().await;
    let keys = site.file("keys.json", &jwks(&[&Signer::new("one", "ES256")]).to_string()).display().to_string();
    site.run("account add build").await;
    let said =
        site.run(&format!("federation add ci {ADD} --claim repository=org/app --jwks-file {keys} --ephemeral")).await;
    assert!(said.starts_with("federation rule made: `ci` (jk-"), "{said}");
    let list = site.run("federation list").await;
    for part in ["ci    build", "https://ci.example", "umbra", "repo:org/app:*, repository=org/app", "given, ephemeral"]
    {
        assert!(list.contains(part), "{part}: {list}");
    }
    assert!(site.run("account show build").await.contains("federation  ci"));
    assert!(site.fail(&format!("federation add ci {ADD} --jwks-file {keys}")).await.text.contains("taken already"));
    let text = site.run("federation join-file ci").await;
    let file = proto::join::JoinFile::parse(&text, proto::join::JoinKind::Device, site.organisation.wall()).unwrap();
    assert!(file.needs_token);
    let left = file.expires.since(site.organisation.wall());
    assert!(left <= FEDERATION_FILE_LIFE && left > FEDERATION_FILE_LIFE / 2, "{left:?}");
    let trust = site.organisation.now().trusts.named("ci").unwrap().record.clone();
    let hash = crate::directory::sha256(tunnel::knock::enrol_token(&file.secret).expose());
    assert_eq!(hash, trust.enrol_hash);
    let again = site.run("federation join-file ci").await;
    let again = proto::join::JoinFile::parse(&again, proto::join::JoinKind::Device, site.organisation.wall()).unwrap();
    assert_eq!(again.secret.expose(), file.secret.expose(), "it is the rule's, not a machine's");
    let out = site.folder.path().join("ci.join");
    let said = site.run(&format!("federation join-file ci --out {}", out.display())).await;
    assert!(said.contains("good in") && said.contains("fingerprint"), "{said}");
    assert!(site.fail(&format!("federation join-file ci --out {}", out.display())).await.text.contains("exist"));
    // It is no join key: none can be made of it, or revoked as one.
    assert!(site.run("join-key list").await.contains("no join keys yet"));
    // Neither the secret nor what makes knocks lies open in the store, in a listing or in the trail.
    let shown = format!("{}{}", site.run("federation list --json").await, site.run("audit list --limit 50").await);
    let secret: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(!shown.contains(secret["secret"].as_str().unwrap().trim_end_matches('=')));
    let removed = site.run("federation remove ci").await;
    assert!(removed.starts_with("federation rule removed: `ci`"), "{removed}");
    let now = site.organisation.now();
    assert!(now.trusts.is_empty() && now.trust_secrets.is_empty());
    assert!(site.fail("federation join-file ci").await.text.contains("there is no federation `ci`"));
}

#[tokio::test]
async fn a_rule_that_would_mean_more_than_it_says_or_cannot_work_is_refused() {
    let site = start().await;
    let signer = Signer::new("one", "ES256");
    let keys = site.file("keys.json", &jwks(&[&signer]).to_string()).display().to_string();
    let mut private = jwks(&[&signer]);
    private["keys"][0]["d"] = "AAAA".into();
    let private = site.file("private.json", &private.to_string()).display().to_string();
    let none = site.file("none.json", "{\"keys\":[]}").display().to_string();
    let large = site.file("large.json", &" ".repeat(KEY_SET_MAX + 1)).display().to_string();
    site.run("account add build").await;
    let before = site.organisation.store.revision();
    let rule = |subject: &str, rest: &str| {
        format!(
            "federation add ci --issuer https://ci.example --audience umbra --subject {subject} --account build {rest}"
        )
    };
    let given = format!("--jwks-file {keys}");
    for (text, part) in [
        (rule("repo:org/app*", &given), "app-evil"),
        (rule("repo:*", &given), "whoever has a token"),
        (rule("*", &given), "whoever has a token"),
        (rule("repo:*/app", &given), "at the end of a subject only"),
        (rule("repo:org/app", &format!("--jwks-file {private}")), "private one"),
        (rule("repo:org/app", &format!("--jwks-file {none}")), "cannot be used"),
        (rule("repo:org/app", &format!("--jwks-file {large}")), "more than"),
        (rule("repo:org/app", &format!("{given} --claim repository")), "KEY=VALUE"),
        (rule("repo:org/app", &format!("{given} --claim a=1 --claim a=2")), "name each once"),
        (rule("repo:org/app", &given).replace("--account build", "--account nobody"), "there is no account `nobody`"),
        (rule("repo:org/app", "").replace("https://ci.example", "http://ci.example"), "cannot be asked for its keys"),
        (rule("repo:org/app", "").replace("https://ci.example", "https://ci.example/?a=b"), "query"),
        (rule("repo:org/app", &format!("--ca-file {keys}")), "CA certificates"),
    ] {
        let failure = site.fail(&text).await;
        assert!(failure.text.contains(part), "{text}: {failure:?}");
    }
    assert_eq!(site.fail(&rule("repo:org/app", &format!("{given} --ca-file {keys}"))).await.exit, Exit::Usage);
    assert_eq!(site.organisation.store.revision(), before);
    // With keys at hand an issuer need not be one that can be asked.
    site.run(&rule("repo:org/app", &given).replace("https://ci.example", "kubernetes/serviceaccount")).await;
}

#[tokio::test]
async fn there_are_as_many_rules_as_the_limit_says() {
    let site = start().await;
    let keys = site.file("keys.json", &jwks(&[&Signer::new("one", "ES256")]).to_string()).display().to_string();
    site.run("account add build").await;
    for n in 0..TRUSTS_MAX {
        site.run(&format!("federation add ci{n} {ADD} --jwks-file {keys}")).await;
    }
    let refused = site.fail(&format!("federation add one-more {ADD} --jwks-file {keys}")).await;
    assert!(refused.text.contains("as many as may be"), "{refused:?}");
    site.run("federation remove ci7").await;
    site.run(&format!("federation add one-more {ADD} --jwks-file {keys}")).await;
}
