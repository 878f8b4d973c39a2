//! Service accounts by command.

use super::*;
use serde_json::Value;

#[tokio::test]
async fn service_accounts_are_made_shown_and_removed_by_commands() {
    let site = start().await;
    let password = site.file("password", "correct horse").display().to_string();
    site.run("group add robots").await;
    site.run(&format!("user add clerk --password-file {password}")).await;
    let made = site.run("account add build --description nightly-builds --group robots").await;
    assert!(made.starts_with("service account made `build` (ac-") && !made.contains("everyone"), "{made}");
    // One name space: in a policy and in the trail it is clear who is meant.
    let taken = site.fail("account add clerk").await;
    assert!(taken.text.contains("users and service accounts share names"), "{taken:?}");
    assert!(site.fail(&format!("user add build --password-file {password}")).await.text.contains("taken already"));
    assert!(site.fail("account add x --group none").await.text.contains("there is no group `none`"));
    assert!(site.fail("account add Build").await.text.contains("is not a name"));

    let list = site.run("account list").await;
    assert!(list.contains("build  enabled  robots  0         nightly-builds"), "{list}");
    assert!(site.run("group list").await.contains("robots  -        build"));
    site.run("account group remove build robots").await;
    assert!(site.fail("account group remove build robots").await.text.contains("is not in group"));
    site.run("account group add build robots").await;
    assert!(site.run("status").await.contains("accounts       1"));

    let join = site.folder.path().join("build.join").display().to_string();
    let said = site.run(&format!("join-key create --device --account build --out {join}")).await;
    assert!(said.contains("for a workload of `build`"), "{said}");
    let keys = site.run("join-key list").await;
    assert!(keys.contains("device  build            usable"), "{keys}");
    let show = site.run("account show build").await;
    assert!(show.contains("machines    none") && show.contains("join keys   jk-"), "{show}");
    for (text, part) in [
        ("join-key create --device --account nobody", "there is no account `nobody`"),
        ("account show nobody", "there is no account `nobody`"),
        ("account disable clerk", "there is no account `clerk`"),
        ("session revoke se-7777777777777777", "there is no session"),
    ] {
        assert!(site.fail(text).await.text.contains(part), "{text}");
    }
    assert_eq!(site.fail("join-key create --gateway --site hq --account build").await.exit, Exit::Usage);
    assert_eq!(site.fail("policy access --user clerk --account build").await.exit, Exit::Usage);

    site.run("account disable build").await;
    assert!(site.run("account list").await.contains("build  disabled"));
    let refused = site.fail("join-key create --device --account build").await;
    assert!(refused.text.contains("is disabled"), "{refused:?}");
    site.run("account enable build").await;
    let removed = site.run("account remove build").await;
    assert!(removed.contains("join keys revoked: jk-") && removed.contains("groups left: robots"), "{removed}");
    assert!(site.run("join-key list").await.contains("revoked"));
    assert!(site.run("account list").await.contains("no service accounts yet"));
    site.run(&format!("user add build --password-file {password}")).await;
    let trail = site.run("audit list --limit 100").await;
    for action in ["account.add", "account.disable", "account.enable", "account.remove"] {
        assert!(trail.contains(action), "{action}: {trail}");
    }
}

#[tokio::test]
async fn whom_a_policy_means_is_told_where_there_are_workloads() {
    let site = start().await;
    let password = site.file("password", "correct horse").display().to_string();
    site.run("group add robots").await;
    site.run(&format!("user add clerk --password-file {password}")).await;
    site.run("site add hq --prefix 10.20.0.0/24").await;
    site.run("resource add wiki --site hq --host wiki.corp.example --tcp 443").await;
    site.run("resource add pg --site hq --host pg.corp.example --tcp 5432").await;
    let text = "@id(\"open\") permit(principal, action, resource == Resource::\"wiki\");
                @id(\"people\") permit(principal is User, action, resource);
                @id(\"builds\") permit(principal == Workload::\"build\", action, resource == Resource::\"pg\");\n";
    let policy = site.file("p.cedar", text).display().to_string();
    let before = site.json(&format!("policy check {policy}")).await.to_string();
    assert!(before.contains("there is no Workload::") && !before.contains("names workloads"), "{before}");
    site.run(&format!("policy apply {policy}")).await;
    let made = site.run("account add build").await;
    assert!(made.contains("name everyone, and so this workload, too: open"), "{made}");
    let after = site.json(&format!("policy check {policy}")).await.to_string();
    assert!(after.contains("names workloads, too") && !after.contains("there is no Workload::"), "{after}");

    let access = site.run("policy access --account build").await;
    assert!(access.contains("build  pg        always") && access.contains("build  wiki      always"), "{access}");
    let access = site.run("policy access --user clerk").await;
    assert!(access.contains("clerk  pg") && !access.contains("build"), "{access}");
    assert!(site.run("policy access").await.contains("build"));
    site.run("account disable build").await;
    let nothing = site.run("policy access --account build").await;
    assert!(nothing.contains("never") && nothing.contains("account enable"), "{nothing}");
    assert!(!site.run("policy access").await.contains("build"), "who takes no part is in no survey");
}

#[tokio::test]
async fn identities_of_programs_are_made_shown_and_removed_by_commands() {
    let site = start().await;
    let none = site.run("account identity list").await;
    assert!(none.contains("no identities of programs yet: `umbra-controller account identity add"), "{none}");
    site.run("account add deploy").await;
    site.run("account add build").await;
    let made = site.run("account identity add deploy shop/web --uid 1000").await;
    let id = made.split_whitespace().find(|word| word.contains("spiffe://")).unwrap().trim_matches('`').to_owned();
    assert!(made.starts_with("identity made:") && id.ends_with("/workload/deploy/shop/web"), "{made}");
    site.run("account identity add deploy ops --gid 5").await;
    site.run("account identity add build web --uid 0 --gid 7").await;
    for (text, part) in [
        ("account identity add deploy shop/web --uid 1001", "is taken already"),
        ("account identity add nobody web --uid 1", "there is no account `nobody`"),
        ("account identity add deploy /web --uid 1", "no `/` stands at either end"),
        ("account identity add deploy ../gateway --uid 1", "segments"),
        ("account identity remove spiffe://else.example/workload/deploy/ops", "there is no account identity"),
    ] {
        let refused = site.fail(text).await;
        assert!(refused.text.contains(part), "{text}: {refused:?}");
    }
    for text in [
        "account identity add deploy any",
        "account identity add deploy any --uid -1",
        "account identity add deploy any --uid root",
    ] {
        assert_eq!(site.fail(text).await.exit, Exit::Usage, "{text}");
    }
    let list = site.run("account identity list").await;
    for row in ["/workload/build/web", "/workload/deploy/ops", "/workload/deploy/shop/web"] {
        assert!(list.contains(row), "{row}: {list}");
    }
    let rows = site.json("account identity list").await;
    let rows = rows["registrations"].as_array().unwrap();
    let shown: Vec<_> = rows.iter().map(|row| (&row["account"], row["uid"].as_u64(), row["gid"].as_u64())).collect();
    let (build, deploy) = (&Value::from("build"), &Value::from("deploy"));
    assert_eq!(shown, [(build, Some(0), Some(7)), (deploy, None, Some(5)), (deploy, Some(1000), None)]);

    let removed = site.run(&format!("account identity remove {id}")).await;
    assert!(removed.contains("identity removed:") && removed.contains(&id), "{removed}");
    let own = rows.iter().find(|row| row["account"] == *build).unwrap()["id"].as_str().unwrap();
    site.run(&format!("account identity remove {own}")).await;
    assert!(site.fail(&format!("account identity remove {own}")).await.text.contains("there is no account identity"));
    // With the account its identities go, and nobody inherits them.
    site.run("account remove deploy").await;
    assert!(site.run("account identity list").await.contains("no identities of programs yet"));
    site.run("account add deploy").await;
    assert!(site.run("account identity list").await.contains("no identities of programs yet"));
    let trail = site.run("audit list --limit 100").await;
    for action in ["registration.add", "registration.remove"] {
        assert!(trail.contains(action), "{action}: {trail}");
    }
}
