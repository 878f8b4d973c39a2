//! The commands as an administrator types them, against a controller that runs on a real socket.

mod accounts;
mod federation;
mod roles;
mod tools;

use super::*;
use crate::config::StatePaths;
use crate::store::Options;
use crate::test_support::Folder;
use crate::{local, organisation::Organisation, rpc::admin::AdminRpc};
use host::clock::SystemClock;
use node::cli::Exit;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::oneshot;

struct Site {
    folder: Folder,
    organisation: Organisation,
    stop: Option<oneshot::Sender<()>>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.take().map(|stop| stop.send(()));
    }
}

/// Makes an organisation by command and serves its administrators.
async fn start() -> Site {
    let folder = Folder::new();
    let state = folder.path().join("state");
    command(folder.path(), "init --trust-domain corp.example --pool 10.77.0.0/16 --endpoint 192.0.2.1:443")
        .await
        .unwrap();
    let clock = Arc::new(SystemClock::new());
    let organisation = Organisation::open(&StatePaths::new(&state), Options::default(), clock).await.unwrap();
    let listener = node::local::bind(&folder.path().join("admin.sock")).unwrap();
    let admin = AdminRpc::new(organisation.clone(), Arc::new(OneGateway));
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(local::serve(listener, admin, Arc::new(|| Box::pin(async { true })), Arc::default(), async {
        let _ = stopped.await;
    }));
    Site { folder, organisation, stop: Some(stop) }
}

/// A gateway that has not answered yet.
struct OneGateway;

impl crate::arrange::Arranger for OneGateway {
    fn settled(&self, _: model::revision::Revision) -> crate::arrange::Fut<'_, Vec<crate::arrange::Confirmation>> {
        Box::pin(async {
            let gateway = model::ids::GatewayId::from_bytes([1; 10]);
            let ends_in = std::time::Duration::from_secs(1_200);
            vec![crate::arrange::Confirmation { gateway, confirmed: false, ends_in }]
        })
    }
    fn grants_of(&self, session: model::ids::SessionId) -> crate::arrange::Fut<'_, Vec<crate::arrange::Held>> {
        crate::arrange::NoGateways.grants_of(session)
    }
}

/// Runs one command; blanks part its words.
async fn command(folder: &std::path::Path, text: &str) -> Result<String, Failure> {
    let state = folder.join("state").display().to_string();
    let socket = folder.join("admin.sock").display().to_string();
    let mut words = vec!["umbra-controller", "--state", &state, "--socket", &socket];
    words.extend(text.split_whitespace());
    let args = Args::try_parse_from(words).map_err(Failure::usage)?;
    let mut output = Output::keeping(args.json);
    run(args, &mut output).await?;
    Ok(output.kept().to_owned())
}

impl Site {
    async fn run(&self, text: &str) -> String {
        command(self.folder.path(), text).await.unwrap_or_else(|e| panic!("{text}: {e:?}"))
    }
    async fn fail(&self, text: &str) -> Failure {
        command(self.folder.path(), text).await.expect_err(text)
    }
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
    async fn json(&self, text: &str) -> serde_json::Value {
        serde_json::from_str(&self.run(&format!("{text} --json")).await).unwrap()
    }
}

#[tokio::test]
async fn an_organisation_is_built_by_commands() {
    let site = start().await;
    let password = site.file("password", "correct horse\n").display().to_string();
    site.run("group add engineers").await;
    let made = site.run(&format!("user add clerk --group engineers --password-file {password}")).await;
    assert!(made.starts_with("user made `clerk` (us-"), "{made}");
    site.run(&format!("user add auditor --password-file {password}")).await;
    site.run("site add hq --prefix 10.20.0.0/24 --prefix fd20::/64").await;
    site.run("resource add wiki --site hq --host wiki.corp.example --tcp 443,8000-8099 --icmp --tag docs").await;
    site.run("resource add dev --site hq --host *.dev.corp.example --udp 53 --lease 90s").await;
    site.run("resource add lan --site hq --cidr 10.20.0.0/28 --tcp 22").await;

    let users = site.run("user list").await;
    assert!(users.contains("clerk    enabled  engineers") && users.contains("auditor  enabled  -"), "{users}");
    assert!(site.run("group list").await.contains("engineers  clerk"));
    let resources = site.run("resource list").await;
    assert!(resources.contains("wiki") && resources.contains("tcp 443, tcp 8000-8099, icmp"), "{resources}");
    let show = site.run("resource show wiki").await;
    assert!(show.contains("wiki.corp.example is 10.77.64.0 and fd"), "{show}");
    let json = site.json("resource list").await;
    assert_eq!(json["schema"], 1);
    let dev = json["resources"].as_array().unwrap().iter().find(|r| r["name"] == "dev").unwrap();
    assert_eq!((dev["lease_ms"].as_u64(), dev["hosts"][0].as_str()), (Some(90_000), Some("*.dev.corp.example")));

    site.run("group add-member engineers auditor").await;
    site.run("group remove-member engineers clerk").await;
    assert!(site.run("group list").await.contains("engineers  auditor"));
    let status = site.run("status").await;
    assert!(status.contains("users          2") && status.contains("nobody may reach anything"), "{status}");

    let now = site.organisation.now();
    let stored = &now.user("clerk").unwrap().record.password;
    assert!(crate::authn::verify(model::secret::Secret::new("correct horse".into()), stored.as_ref()).await);
}

#[tokio::test]
async fn mistakes_are_told_with_what_to_do_and_change_nothing() {
    let site = start().await;
    let password = site.file("password", "correct horse").display().to_string();
    let short = site.file("short", "short").display().to_string();
    site.run(&format!("user add clerk --password-file {password}")).await;
    site.run("site add hq --prefix 10.20.0.0/24").await;
    let before = site.organisation.store.revision();
    for (text, exit, part) in [
        (format!("user add clerk --password-file {password}"), Exit::Failed, "taken already"),
        (format!("user add Auditor --password-file {password}"), Exit::Failed, "is not a name"),
        (format!("user add auditor --password-file {short}"), Exit::Failed, "at least 8 characters"),
        (
            format!("user add auditor --group none --password-file {password}"),
            Exit::Failed,
            "`umbra-controller group list`",
        ),
        ("user disable nobody".into(), Exit::Failed, "there is no user `nobody`"),
        ("user add auditor --password secret".into(), Exit::Usage, "unexpected argument"),
        ("site add dc --prefix 10.77.1.0/24".into(), Exit::Failed, "the organisation's own pool"),
        ("site add dc --prefix 169.254.0.0/16".into(), Exit::Failed, "link-local"),
        ("site add dc --prefix 0.0.0.0/0".into(), Exit::Failed, "everything"),
        ("site add dc --prefix 10.20.0.1/24".into(), Exit::Usage, "did you mean `10.20.0.0/24`"),
        ("resource add x --site none --host x.corp.example --tcp 1".into(), Exit::Failed, "there is no site `none`"),
        ("resource add x --site hq --host x.corp.example".into(), Exit::Failed, "--tcp PORTS"),
        ("resource add x --site hq --host x.other.example --tcp 1".into(), Exit::Failed, "(corp.example)"),
        (
            "resource add x --site hq --cidr 10.21.0.0/24 --tcp 1".into(),
            Exit::Failed,
            "outside the prefixes of site `hq`",
        ),
        ("resource add x --site hq --host x.corp.example --tcp 1 --lease 25h".into(), Exit::Failed, "24 hours"),
        ("join-key create --gateway".into(), Exit::Usage, "--site"),
        ("join-key create --gateway --site hq --uses 2".into(), Exit::Failed, "one use"),
        ("join-key create".into(), Exit::Usage, "--device"),
        ("join-key revoke x".into(), Exit::Failed, "not an id"),
        ("policy check /nowhere.cedar".into(), Exit::Failed, "/nowhere.cedar"),
        ("gateway confirm gw1".into(), Exit::Failed, "there is no gateway `gw1`"),
    ] {
        let failure = site.fail(&text).await;
        assert_eq!(failure.exit, exit, "{text}: {failure:?}");
        assert!(failure.text.contains(part), "{text}: {failure:?}");
        assert!(!failure.text.contains("correct horse"));
    }
    assert_eq!(site.organisation.store.revision(), before);
    let again =
        command(site.folder.path(), "init --trust-domain corp.example --endpoint 192.0.2.1:443").await.unwrap_err();
    assert!(again.text.contains("nothing was changed"), "{again:?}");
}

#[tokio::test]
async fn policy_is_applied_whole_or_not_at_all() {
    let site = start().await;
    let password = site.file("password", "correct horse").display().to_string();
    site.run(&format!("user add clerk --password-file {password}")).await;
    let good = site.file("a.cedar", "@id(\"all\")\npermit(principal == User::\"clerk\", action, resource);\n");
    let bad = site
        .file("b.cedar", "permit(principal, action, resource);\n\npermit(principal, action, resource) when { true;\n");
    let (good, bad) = (good.display().to_string(), bad.display().to_string());
    assert!(site.run(&format!("policy check {good}")).await.contains("valid: 1 policies"));
    assert_eq!(site.organisation.now().policy, None);
    assert!(site.run(&format!("policy apply {good}")).await.contains("policy revision 1 is in force"));
    let failure = site.fail(&format!("policy apply {good} {bad}")).await;
    assert!(failure.text.contains("stays as it was"), "{failure:?}");
    let verdict = command(site.folder.path(), &format!("policy check {bad} --json")).await;
    assert_eq!(verdict.unwrap_err().exit, Exit::Failed);
    let now = site.organisation.now();
    assert_eq!(now.policy.as_ref().unwrap().record.number, 1);
    assert_eq!(now.compiled.as_ref().unwrap().rules().len(), 1);
    assert!(site.run("policy show").await.contains("permit(principal == User::\"clerk\""));
}

#[tokio::test]
async fn the_largest_policy_fits_through_the_call_and_into_one_commit() {
    use model::limits::{POLICY_BYTES_MAX, POLICY_TOTAL_BYTES_MAX};
    let site = start().await;
    // A comment of characters that JSON doubles, around one policy.
    let text = |bytes: usize| {
        let policy = "permit(principal == User::\"clerk\", action, resource);";
        format!("{policy}\n// {}", "\"".repeat(bytes - policy.len() - 4))
    };
    let a = site.file("a.cedar", &text(POLICY_BYTES_MAX)).display().to_string();
    let b = site.file("b.cedar", &text(POLICY_TOTAL_BYTES_MAX - POLICY_BYTES_MAX)).display().to_string();
    for revision in 1..3 {
        let said = site.run(&format!("policy apply {a} {b}")).await;
        assert!(said.contains(&format!("policy revision {revision} is in force: 2 policies")), "{said}");
    }
    assert_eq!(site.organisation.now().compiled.as_ref().unwrap().rules().len(), 2);
    assert!(site.run("policy show").await.len() >= POLICY_TOTAL_BYTES_MAX);
    let c = site.file("c.cedar", "x").display().to_string();
    assert!(site.fail(&format!("policy apply {a} {b} {c}")).await.text.contains("1 problem(s)"));
    site.file("a.cedar", &text(POLICY_BYTES_MAX + 1));
    assert!(site.fail(&format!("policy apply {a}")).await.text.contains("more than 1048576 bytes"));
    assert_eq!(site.organisation.now().policy.as_ref().unwrap().record.number, 2);
}

const EVERYTHING: &str = "@id(\"all\") permit(principal in Group::\"staff\", action, resource);\n";
const FRESH: &str =
    "@id(\"all\") @condition(\"a log-in of this hour\") permit(principal in Group::\"staff\", action, resource)
                     when { context.login_age_s < 3600 };\n";

/// Two users in `staff`, one outside, one disabled, two resources.
async fn staffed() -> Site {
    let site = start().await;
    let password = site.file("password", "correct horse").display().to_string();
    site.run("group add staff").await;
    for name in ["ann --group staff", "ben --group staff", "cat", "dan --group staff"] {
        site.run(&format!("user add {name} --password-file {password}")).await;
    }
    site.run("user disable dan").await;
    site.run("site add hq --prefix 10.20.0.0/24").await;
    site.run("resource add wiki --site hq --host wiki.corp.example --tcp 443").await;
    site.run("resource add pg --site hq --host pg.corp.example --tcp 5432").await;
    site
}

#[tokio::test]
async fn each_revision_is_kept_with_what_it_changed_and_an_older_one_comes_back_as_a_new_one() {
    let site = staffed().await;
    assert!(site.run("policy history").await.contains("no policy was applied yet"));
    let first = site.file("first.cedar", EVERYTHING).display().to_string();
    let second = site.file("second.cedar", FRESH).display().to_string();
    let said = site.run(&format!("policy check {first}")).await;
    assert!(said.contains("4 wider, 0 narrower") && said.contains("ann -> pg: was never, now always"), "{said}");
    site.run(&format!("policy apply {first}")).await;
    let said = site.run(&format!("policy apply {second}")).await;
    assert!(said.contains("against revision 1: 0 added, 0 removed, 1 changed (all)"), "{said}");
    assert!(
        said.contains("0 wider, 4 narrower, 0 with") && said.contains("now if: `all`: `a log-in of this hour`"),
        "{said}"
    );
    assert!(site.run("policy show --revision 1").await.contains(EVERYTHING.trim()));
    assert!(!site.run("policy show").await.contains(EVERYTHING.trim()));

    let before = site.organisation.store.revision().number;
    let said = site.run("policy rollback 1").await;
    assert!(said.contains("revision 3 is in force") && said.contains("4 wider, 0 narrower"), "{said}");
    assert_eq!(site.organisation.store.revision().number, before + 1, "one transaction with its audit record");
    let audit = site.json("audit list --action policy.rollback").await["records"][0].clone();
    assert_eq!((audit["detail"]["restores"].as_u64(), audit["detail"]["widened"].as_u64()), (Some(1), Some(4)));
    assert!(audit["actor"].as_str().unwrap().starts_with("local:"));
    assert!(site.run("policy show").await.contains(EVERYTHING.trim()));
    assert_eq!(site.organisation.now().compiled.as_ref().unwrap().rules().next().unwrap().reads.len(), 1);

    let history = site.json("policy history").await["revisions"].as_array().unwrap().clone();
    let column = |name: &str| -> Vec<u64> { history.iter().map(|row| row[name].as_u64().unwrap()).collect() };
    assert_eq!((column("policy_revision"), column("restores")), (vec![3, 2, 1], vec![1, 0, 0]));
    assert!(history[0]["digest"] == history[2]["digest"] && history[0]["digest"] != history[1]["digest"]);
    assert_eq!(audit["detail"]["digest"], history[0]["digest"]);
    let table = site.run("policy history").await;
    assert!(table.contains("3 in force") && table.contains("back to 1: +0 -0 ~1, access 4 wider"), "{table}");
}

#[tokio::test]
async fn a_roll_back_is_checked_like_an_apply_and_only_to_what_is_kept() {
    use crate::directory::{Draft, PastPolicy, PolicyFile};
    use model::limits::POLICY_HISTORY_MAX;
    let site = staffed().await;
    let path = site.file("a.cedar", EVERYTHING).display().to_string();
    for _ in 0..POLICY_HISTORY_MAX + 2 {
        site.run(&format!("policy apply {path}")).await;
    }
    let history = site.json("policy history").await["revisions"].as_array().unwrap().clone();
    let numbers: Vec<u64> = history.iter().map(|row| row["policy_revision"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (3..=POLICY_HISTORY_MAX + 2).rev().collect::<Vec<_>>());
    // What an earlier release took and this one does not.
    let kept = site.organisation.now().policy.as_ref().unwrap().record.clone();
    let spoil = |_: &crate::directory::Directory, draft: &mut Draft| {
        let text = "permit(principal, action, resource) when { context has device };".to_owned();
        let files = vec![PolicyFile { name: "old.cedar".to_owned(), text }];
        draft.put(&5, &PastPolicy(crate::directory::PolicyRevision { number: 5, files, ..kept.clone() }))?;
        let at = model::time::WallMs(0);
        Ok(((), crate::audit::Entry::new(at, "test", "spoil", "policy", crate::audit::Outcome::Done)))
    };
    site.organisation.change(spoil).await.unwrap();
    let before = site.organisation.store.revision();
    for (text, part) in [
        ("policy rollback 22", "in force already"),
        ("policy rollback 2", "the last 20 are kept"),
        ("policy rollback 99", "there is no policy revision 99"),
        ("policy rollback 5", "1 problem(s); the policy in force stays as it was"),
        ("policy show --revision 2", "there is no policy revision 2"),
        ("policy rollback 0", "not in 1.."),
    ] {
        let failure = site.fail(text).await;
        assert!(failure.text.contains(part), "{text}: {failure:?}");
    }
    assert_eq!(site.organisation.store.revision(), before);
}

#[tokio::test]
async fn of_two_who_apply_at_once_each_change_is_told_against_the_one_before() {
    let site = staffed().await;
    let one = site.file("one.cedar", EVERYTHING).display().to_string();
    let two = site.file("two.cedar", "").display().to_string();
    let apply = |path: &str| {
        let (folder, text) = (site.folder.path().to_owned(), format!("policy apply {path}"));
        tokio::spawn(async move { command(&folder, &text).await.unwrap() })
    };
    let all: Vec<_> = (0..6).map(|n| apply(if n % 2 == 0 { &one } else { &two })).collect();
    for done in all {
        done.await.unwrap();
    }
    let rows = site.json("policy history").await["revisions"].as_array().unwrap().clone();
    assert_eq!(rows.len(), 6);
    for (newer, older) in rows.iter().zip(&rows[1..]) {
        assert_eq!(newer["changes"]["against"], older["policy_revision"]);
        let changed = u64::from(newer["digest"] != older["digest"]);
        let (added, removed) = (&newer["changes"]["added"], &newer["changes"]["removed"]);
        assert_eq!(added.as_u64().unwrap() + removed.as_u64().unwrap(), changed, "{newer} {older}");
    }
}

#[tokio::test]
async fn who_can_reach_what_is_told_always_if_or_never() {
    let site = staffed().await;
    assert!(site.run("policy access").await.contains("no policy was applied yet"));
    let text =
        format!("{FRESH} @id(\"own\") permit(principal == User::\"cat\", action, resource == Resource::\"wiki\");");
    let path = site.file("a.cedar", &text).display().to_string();
    site.run(&format!("policy apply {path}")).await;
    let told = site.run("policy access").await;
    let lines: Vec<Vec<&str>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 6, "{told}");
    assert_eq!(lines[1][..3], ["ann", "pg", "if"]);
    assert_eq!(lines[5][..4], ["cat", "wiki", "always", "`own`"]);
    assert!(told.contains("`all`: `a log-in of this hour`") && !told.contains("dan"), "{told}");
    assert_eq!(site.run("policy access").await, told);
    let cat = site.run("policy access --user cat").await;
    assert!(cat.contains("cat   pg        never   no policy permits it"), "{cat}");
    let wiki = site.json("policy access --resource wiki").await;
    let users: Vec<&str> = wiki["rows"].as_array().unwrap().iter().map(|row| row["user"].as_str().unwrap()).collect();
    assert_eq!(users, ["ann", "ben", "cat"]);
    assert_eq!(wiki["rows"][0]["permits"][0]["conditions"][0], "`a log-in of this hour`");
    let counts = ["always", "sometimes", "never"].map(|name| site_count(&wiki, name));
    assert_eq!(counts, [1, 2, 0]);
    assert_eq!(site.json("policy access --all").await["rows"].as_array().unwrap().len(), 6);
    assert!(site.run("policy access --user dan").await.contains("the account is disabled"));
    for (text, part) in [
        ("policy access --user nobody", "there is no user `nobody`"),
        ("policy access --resource x", "no resource `x`"),
    ] {
        assert!(site.fail(text).await.text.contains(part));
    }
}

fn site_count(reply: &serde_json::Value, name: &str) -> u64 {
    reply[name].as_u64().unwrap()
}

#[tokio::test]
async fn warnings_are_listed_up_to_a_bound() {
    use model::limits::POLICY_PROBLEMS_MAX;
    let site = start().await;
    let many = "permit(principal in Group::\"none\", action, resource);\n".repeat(POLICY_PROBLEMS_MAX + 7);
    let path = site.file("many.cedar", &many).display().to_string();
    let found = site.json(&format!("policy check {path}")).await["warnings"].as_array().unwrap().clone();
    assert_eq!(found.len(), POLICY_PROBLEMS_MAX + 1);
    assert_eq!(found.last().unwrap()["reason"], "7 more warnings are not listed");
}

#[tokio::test]
async fn a_join_file_is_written_once_for_its_owner_alone_and_its_key_can_be_revoked() {
    use std::os::unix::fs::PermissionsExt as _;
    let site = start().await;
    site.run("site add hq --prefix 10.20.0.0/24").await;
    let path = site.folder.path().join("gw.join");
    let made = site.run(&format!("join-key create --gateway --site hq --life 15m --out {}", path.display())).await;
    assert!(made.contains("usable once for 15 min"), "{made}");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    let wall = site.organisation.wall();
    let file = proto::join::JoinFile::parse(&text, proto::join::JoinKind::Gateway, wall).unwrap();
    assert_eq!(file.prefixes, ["10.20.0.0/24".parse().unwrap()]);
    assert_eq!(file.zones, ["corp.example".parse().unwrap()]);
    let now = site.organisation.now();
    let key = &now.join_keys.values().next().unwrap().record;
    assert_eq!(key.enrol_hash, crate::directory::sha256(tunnel::knock::enrol_token(&file.secret).expose()));
    let opened = site.organisation.sealer.open(&crate::directory::JoinKey::place(key.id), &key.knock).unwrap();
    assert_eq!(opened.expose().as_slice(), tunnel::knock::knock_key(&file.secret).expose());
    let again = site.fail(&format!("join-key create --device --out {}", path.display())).await;
    assert!(again.text.contains("exists already"), "{again:?}");
    assert_eq!(site.organisation.now().join_keys.len(), 1, "no key without its file");
    site.run(&format!("join-key revoke {}", key.id)).await;
    let list = site.run("join-key list").await;
    assert!(list.contains("gateway  hq               revoked"), "{list}");
    assert!(site.run("join-key create --device").await.contains("\"umbra_join\": 1"));
}

#[tokio::test]
async fn revokes_say_who_confirmed_and_when_the_rest_ends() {
    use crate::directory::{Draft, Session};
    use model::ids::{DeviceId, SessionId};
    let site = start().await;
    let password = site.file("password", "correct horse").display().to_string();
    site.run(&format!("user add clerk --password-file {password}")).await;
    let user = site.organisation.now().user("clerk").unwrap().record.id;
    let (created, id) = (site.organisation.wall(), SessionId::from_bytes([5; 10]));
    let ends = created.plus(std::time::Duration::from_secs(3_600));
    let session = Session {
        id,
        user,
        device: DeviceId::from_bytes([6; 10]),
        created,
        ends,
        ended: false,
        factor: None,
        proved: crate::directory::Proved::AtLogin,
    };
    let login = |_: &crate::directory::Directory, draft: &mut Draft| {
        draft.create(&id, &session)?;
        Ok(((), crate::audit::Entry::new(created, "test", "login", "session", crate::audit::Outcome::Done)))
    };
    site.organisation.change(login).await.unwrap();
    assert!(site.run("session list").await.contains("clerk"));
    let said = site.run(&format!("session revoke {id}")).await;
    assert!(said.contains("has not confirmed: ends there by itself in 20 min"), "{said}");
    assert!(site.run("session list").await.contains("nobody is logged in"));
    assert!(site.run("session list --all").await.contains("ended"));
    assert!(site.fail(&format!("session revoke {id}")).await.text.contains("has ended already"));
    assert!(site.organisation.now().sessions.find(&id).unwrap().record.ended);
}

#[tokio::test]
async fn disabling_a_user_ends_the_sessions_in_the_same_change() {
    use crate::directory::{Draft, Session};
    use model::ids::{DeviceId, SessionId};
    let site = start().await;
    let password = site.file("password", "correct horse").display().to_string();
    site.run(&format!("user add clerk --password-file {password}")).await;
    let user = site.organisation.now().user("clerk").unwrap().record.id;
    let created = site.organisation.wall();
    for n in 0..3 {
        let id = SessionId::from_bytes([n; 10]);
        let ends = created.plus(std::time::Duration::from_secs(3_600));
        let session = Session {
            id,
            user,
            device: DeviceId::from_bytes([6; 10]),
            created,
            ends,
            ended: false,
            factor: None,
            proved: crate::directory::Proved::AtLogin,
        };
        let login = |_: &crate::directory::Directory, draft: &mut Draft| {
            draft.create(&id, &session)?;
            Ok(((), crate::audit::Entry::new(created, "test", "login", "session", crate::audit::Outcome::Done)))
        };
        site.organisation.change(login).await.unwrap();
    }
    let before = site.organisation.store.revision().number;
    site.run("user disable clerk").await;
    assert_eq!(site.organisation.store.revision().number, before + 1);
    let now = site.organisation.now();
    assert!(now.user("clerk").unwrap().record.disabled);
    assert!(now.sessions.values().all(|session| session.record.ended));
    site.run("user enable clerk").await;
    assert!(site.organisation.now().sessions.values().all(|session| session.record.ended), "old sessions stay ended");
}

#[tokio::test]
async fn every_change_is_in_the_audit_trail_and_no_secret_is() {
    let site = start().await;
    let password = site.file("password", "canary-password").display().to_string();
    site.run(&format!("user add clerk --password-file {password}")).await;
    site.run("group add engineers").await;
    let listed = site.run("audit list").await;
    assert!(
        listed.contains("local:root user.add user/us-") && listed.contains("group.add group/engineers"),
        "{listed}"
    );
    assert!(!listed.contains("canary") && !listed.contains("argon2"));
    let json = site.json("audit list --action user.").await;
    assert_eq!(json["records"].as_array().unwrap().len(), 1);
    assert_eq!(json["records"][0]["detail"]["name"], "clerk");
    assert!(site.run("audit verify").await.contains("whole: records 1 to 3"));
    assert_eq!(site.json("audit verify").await["whole"], true);
}

#[tokio::test]
async fn a_controller_that_is_not_there_is_told_apart() {
    let folder = Folder::new();
    let failure = command(folder.path(), "user list").await.unwrap_err();
    assert_eq!(failure.exit, Exit::NotConnected);
    assert!(failure.text.contains("umbra-controller serve"), "{failure:?}");
    let failure = command(folder.path(), "serve").await.unwrap_err();
    assert!(failure.text.contains("umbra-controller init"), "{failure:?}");
}

#[tokio::test]
async fn a_resource_and_a_user_have_so_many_names_tags_and_groups() {
    use model::limits::{GROUPS_MAX, NAMES_PER_RESOURCE_MAX};
    let site = start().await;
    site.run("site add hq --prefix 10.20.0.0/24").await;
    let hosts =
        |of: &str, count: usize| (0..count).map(|n| format!(" --host {of}{n}.corp.example")).collect::<String>();
    let more = format!("resource add many --site hq --tcp 443{}", hosts("m", NAMES_PER_RESOURCE_MAX + 1));
    assert!(site.fail(&more).await.text.contains("at most 32 places"));
    site.run(&format!("resource add full --site hq --tcp 443{}", hosts("f", NAMES_PER_RESOURCE_MAX))).await;
    let tags = |count: usize| (0..count).map(|n| format!(" --tag t{n}")).collect::<String>();
    let one = "--site hq --tcp 443 --host";
    let more = site.fail(&format!("resource add tagged {one} t.corp.example{}", tags(GROUPS_MAX + 1))).await;
    assert!(more.text.contains("256 tags"), "{more:?}");
    site.run(&format!("resource add tagged {one} t.corp.example{}", tags(GROUPS_MAX))).await;

    let fill = |_: &crate::directory::Directory, draft: &mut crate::directory::Draft| {
        for n in 0..=GROUPS_MAX {
            let name: crate::directory::Name = format!("g{n}").parse().unwrap();
            let group = crate::directory::Group { name: name.clone(), created: model::time::WallMs(1) };
            draft.create(&name, &group)?;
        }
        let at = model::time::WallMs(0);
        Ok(((), crate::audit::Entry::new(at, "test", "fill", "groups", crate::audit::Outcome::Done)))
    };
    site.organisation.change(fill).await.unwrap();
    let password = site.file("password", "correct horse").display().to_string();
    let groups = |count: usize| (0..count).map(|n| format!(" --group g{n}")).collect::<String>();
    let more = format!("user add clerk --password-file {password}{}", groups(GROUPS_MAX + 1));
    assert!(site.fail(&more).await.text.contains("at most 256 groups"));
    site.run(&format!("user add clerk --password-file {password}{}", groups(GROUPS_MAX))).await;
    let one_more = format!("group add-member g{GROUPS_MAX} clerk");
    assert!(site.fail(&one_more).await.text.contains("at most 256 groups"));
    site.run("group remove-member g7 clerk").await;
    site.run(&one_more).await;
}

#[tokio::test]
async fn so_many_join_keys_are_alive_and_one_more_when_one_is_revoked() {
    use crate::directory::JoinKey;
    use model::ids::JoinKeyId;
    use model::limits::JOIN_KEYS_MAX;
    let site = start().await;
    site.run("join-key create --device").await;
    let first = site.organisation.now().join_keys.values().next().unwrap().record.clone();
    let fill = |_: &crate::directory::Directory, draft: &mut crate::directory::Draft| {
        for n in 1..JOIN_KEYS_MAX as u64 {
            let mut id = [0; 10];
            id[..8].copy_from_slice(&n.to_be_bytes());
            let id = JoinKeyId::from_bytes(id);
            draft.create(&id, &JoinKey { id, ..first.clone() })?;
        }
        let at = model::time::WallMs(0);
        Ok(((), crate::audit::Entry::new(at, "test", "fill", "join-keys", crate::audit::Outcome::Done)))
    };
    site.organisation.change(fill).await.unwrap();
    assert_eq!(site.organisation.now().join_keys.len(), JOIN_KEYS_MAX);
    let refused = site.fail("join-key create --device").await;
    assert!(refused.text.contains("4096 join keys are alive") && refused.text.contains("revoke some"), "{refused:?}");
    site.run("account add build").await;
    let rule = "federation add ci --issuer https://ci.example --audience umbra --subject a:b --account build";
    assert!(site.fail(rule).await.text.contains("are alive"), "its knocks would not be heard either");
    site.run(&format!("join-key revoke {}", first.id)).await;
    site.run("join-key create --device").await;
    assert!(site.fail("join-key create --device").await.text.contains("are alive"));
}

#[tokio::test]
async fn a_join_file_that_no_machine_would_read_is_refused_and_no_key_is_made() {
    use crate::directory::{Draft, Site};
    use model::ids::SiteId;
    use model::limits::JOIN_BYTES_MAX;
    let site = start().await;
    let fill = |_: &crate::directory::Directory, draft: &mut Draft| {
        for n in 0..64_u8 {
            let prefixes = (0..64).map(|m| format!("fd00:{n}:{m}::/64").parse().unwrap()).collect();
            let (id, name) = (SiteId::from_bytes([n; 10]), format!("s{n}").parse().unwrap());
            draft.create(&id, &Site { id, name, prefixes, created: model::time::WallMs(1) })?;
        }
        let at = model::time::WallMs(0);
        Ok(((), crate::audit::Entry::new(at, "test", "fill", "sites", crate::audit::Outcome::Done)))
    };
    site.organisation.change(fill).await.unwrap();
    let before = site.organisation.store.revision();
    let refused = site.fail("join-key create --device").await;
    assert!(refused.text.contains(&format!("nodes read {JOIN_BYTES_MAX}")), "{refused:?}");
    assert!(refused.text.contains("fewer prefixes"), "{refused:?}");
    assert!(site.organisation.now().join_keys.is_empty());
    assert_eq!(site.organisation.store.revision(), before);
}

#[tokio::test]
async fn what_a_revision_changes_is_listed_and_compared_up_to_bounds() {
    use crate::directory::{Draft, Resource, User};
    use model::ids::{ResourceId, UserId};
    use model::limits::{APPLY_DECISIONS_MAX, POLICY_DIFF_IDS_MAX};
    let site = staffed().await;
    let policies = |names: &mut dyn Iterator<Item = String>| {
        names.map(|name| format!("@id(\"{name}\") permit(principal == User::\"ann\", action, resource);\n")).collect()
    };
    let text: String = policies(&mut (0..=POLICY_DIFF_IDS_MAX).map(|n| format!("p{n}")));
    let many = site.file("many.cedar", &text).display().to_string();
    let told = site.json(&format!("policy check {many}")).await;
    assert_eq!(told["changes"]["added"].as_u64(), Some(POLICY_DIFF_IDS_MAX as u64 + 1), "{told}");
    assert_eq!(told["changes"]["added_ids"].as_array().unwrap().len(), POLICY_DIFF_IDS_MAX);

    // Users and resources that the policy tells apart, a pair takes two decisions: more than before it acts.
    let side = (1..).find(|n| 2 * n * n > APPLY_DECISIONS_MAX).unwrap();
    let now = site.organisation.now();
    let (user, resource) =
        (now.user("ann").unwrap().record.clone(), now.resources.typed("wiki").unwrap().record.clone());
    let fill = |_: &crate::directory::Directory, draft: &mut Draft| {
        for n in 0..side as u8 {
            let (id, name) = (UserId::from_bytes([n, 1, 0, 0, 0, 0, 0, 0, 0, 0]), format!("u{n}").parse().unwrap());
            draft.create(&id, &User { id, name, ..user.clone() })?;
            let (id, name) = (ResourceId::from_bytes([n, 1, 0, 0, 0, 0, 0, 0, 0, 0]), format!("r{n}").parse().unwrap());
            draft.create(&id, &Resource { id, name, ..resource.clone() })?;
        }
        let at = model::time::WallMs(0);
        Ok(((), crate::audit::Entry::new(at, "test", "fill", "users", crate::audit::Outcome::Done)))
    };
    site.organisation.change(fill).await.unwrap();
    let own = |n: usize| {
        let user = format!("permit(principal == User::\"u{n}\", action, resource);\n");
        user + &format!(
            "forbid(principal, action, resource == Resource::\"r{n}\") when {{ context.login_age_s > {n} }};\n"
        )
    };
    let apart = site.file("apart.cedar", &(0..side).map(own).collect::<String>()).display().to_string();
    let said = site.run(&format!("policy apply {apart}")).await;
    assert!(said.contains("access was not compared"), "{said}");
    assert!(said.contains("is in force"), "{said}");
    let few = site.file("few.cedar", EVERYTHING).display().to_string();
    site.run(&format!("policy apply {few}")).await;
    let said = site.run(&format!("policy apply {few}")).await;
    assert!(!said.contains("access was not compared"), "{said}");
}

#[tokio::test]
async fn a_message_has_so_many_bytes_and_a_larger_one_harms_nothing() {
    use model::limits::RPC_MESSAGE_MAX;
    use proto::admin::admin_client::AdminClient;
    let site = start().await;
    let program = node::local::Program { name: "controller", start: "" };
    let channel = node::local::connect(&site.folder.path().join("admin.sock"), program).await.unwrap();
    let mut client = AdminClient::new(channel);
    // One file; some bytes go for the fields' numbers and lengths.
    let sized = |bytes: usize| {
        let file = proto::admin::PolicyFile { name: String::new(), text: "x".repeat(bytes) };
        proto::admin::PolicyFiles { files: vec![file] }
    };
    let frame = proto::encoded_len(&sized(RPC_MESSAGE_MAX - 20)) - (RPC_MESSAGE_MAX - 20);
    let fits = client.check_policy(sized(RPC_MESSAGE_MAX - frame)).await;
    assert!(fits.is_ok_and(|reply| !reply.into_inner().problems.is_empty()), "read, and found to be no policy");
    let refused = client.check_policy(sized(RPC_MESSAGE_MAX - frame + 1)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
    assert!(client.status(proto::admin::StatusRequest {}).await.is_ok(), "on the same connection");
}
