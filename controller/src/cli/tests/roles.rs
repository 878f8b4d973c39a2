//! Roles, and the key of the last resort, by command.

use super::*;

#[tokio::test]
async fn roles_are_given_shown_and_taken_by_commands() {
    let site = start().await;
    let password = site.file("password", "correct horse").display().to_string();
    assert!(site.run("admin list").await.contains("nobody has a role"));
    site.run(&format!("user add clerk --password-file {password}")).await;
    let given = site.run("admin grant clerk auditor").await;
    assert!(given.contains("role auditor given to user `clerk`"), "{given}");
    site.run("admin grant clerk operator").await;
    let list = site.run("admin list").await;
    assert!(list.contains("clerk  operator, auditor  enabled, without a second factor"), "{list}");
    assert!(site.fail("admin grant clerk auditor").await.text.contains("has the role auditor already"));
    site.run("admin revoke clerk auditor").await;
    assert!(site.fail("admin revoke clerk auditor").await.text.contains("has not the role"));
    assert!(site.fail("admin grant nobody owner").await.text.contains("no user `nobody`"));
    let why = site.fail("admin grant clerk root").await;
    assert!(why.exit == Exit::Usage && why.text.contains("owner, security-admin, operator"), "{why:?}");
    site.run("user disable clerk").await;
    assert!(site.fail("admin grant clerk owner").await.text.contains("is disabled"));
    let holders = site.json("admin list").await;
    assert_eq!(
        (&holders["holders"][0]["roles"][0], &holders["holders"][0]["disabled"]),
        (&"operator".into(), &true.into())
    );
    assert!(site.run("user offboard clerk").await.contains("clerk"));
    assert!(site.run("admin list").await.contains("nobody has a role"), "who leaves has none");
}

#[tokio::test]
async fn the_break_glass_key_of_init_makes_an_owner_and_its_use_is_an_alarm() {
    let site = start().await;
    let key = site.folder.path().join("state/break-glass");
    let first = std::fs::read_to_string(&key).unwrap();
    assert_eq!(first.trim().len(), 64);
    let password = site.file("password", "correct horse").display().to_string();
    site.run(&format!("user add clerk --password-file {password}")).await;
    let wrong = site.file("wrong", "0000").display().to_string();
    let why = site.fail(&format!("break-glass --key-file {wrong} --user clerk")).await;
    assert!(why.text.contains("not the break-glass key"), "{why:?}");
    let said = site.run(&format!("break-glass --key-file {} --user clerk", key.display())).await;
    assert!(said.contains("an owner now: user `clerk`") && said.contains("next key"), "{said}");
    assert!(site.run("admin list").await.contains("clerk  owner"));
    let status = site.run("status").await;
    assert!(status.contains("ALARM") && status.contains("break-glass key was used"), "{status}");
    site.run("admin acknowledge").await;
    assert!(!site.run("status").await.contains("ALARM"));
    assert!(site.fail("admin acknowledge").await.text.contains("no use of the break-glass key"));
    assert!(
        site.fail(&format!("break-glass --key-file {} --user clerk", key.display())).await.text.contains("not the")
    );
    let trail = site.run("audit list --action break-glass").await;
    assert!(trail.contains("break-glass") && !trail.contains(first.trim()), "{trail}");
}

#[tokio::test]
async fn what_belongs_to_the_controllers_machine_is_refused_from_afar_before_anything_is_asked() {
    let site = start().await;
    let key = site.file("key", "0").display().to_string();
    for text in [
        format!("--remote claim-owner clerk --token-file {key} --password-file {key}"),
        format!("--remote break-glass --key-file {key} --user clerk"),
        "--remote restored confirm user/clerk".to_owned(),
    ] {
        let why = site.fail(&text).await;
        assert!(why.exit == Exit::Usage && why.text.contains("without --remote"), "{text}: {why:?}");
    }
    assert!(site.fail("--remote serve").await.text.contains("leave --remote out"));
    let nowhere = site.folder.path().join("none.sock").display().to_string();
    let why = site.fail(&format!("--remote --client-socket {nowhere} user list")).await;
    assert!(why.exit == Exit::NotConnected && why.text.contains("umbra daemon"), "{why:?}");
}
