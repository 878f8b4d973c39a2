//! Does the decision core hold what it promises? Against a slow model of its own, and against hostile policies.

use std::collections::BTreeSet;
use std::time::Duration;

use model::limits::{
    NAME_MAX, POLICIES_MAX, POLICY_BYTES_MAX, POLICY_DEPTH_MAX, POLICY_FILE_NAME_MAX, POLICY_FILES_MAX,
    POLICY_OPERATORS_MAX, POLICY_PROBLEM_CHARS_MAX, POLICY_PROBLEMS_MAX, POLICY_REASON_MAX, POLICY_TOTAL_BYTES_MAX,
    REASONS_MAX,
};

use crate::{Decision, Fact, Facts, PolicySet, Problem, Reason, access, compile, decide, sees};

mod oracle;

fn set(text: &str) -> PolicySet {
    compile(&[("p", text)]).unwrap()
}

fn problems(text: &str) -> Vec<Problem> {
    compile(&[("p", text)]).unwrap_err()
}

fn names(items: &[&str]) -> Option<BTreeSet<String>> {
    Some(items.iter().map(|s| (*s).to_owned()).collect())
}

fn engineer() -> Facts {
    Facts {
        user: "engineer".into(),
        workload: false,
        groups: names(&["engineers"]),
        device: Some("laptop".into()),
        resource: "postgres".into(),
        tags: names(&["databases"]),
        login_age: Some(Duration::from_secs(60)),
        mfa_age: Some(Duration::from_secs(30)),
        mfa_method: Some("totp".into()),
    }
}

fn reasons(decision: Decision) -> Vec<Reason> {
    match decision {
        Decision::Deny { reasons } => reasons,
        Decision::Permit { policies } => panic!("permitted by {policies:?}"),
    }
}

const EXAMPLE: &str = r#"
    @id("db") @reason("log in again")
    permit(principal in Group::"engineers", action == Action::"connect", resource in Tag::"databases")
    when { context.login_age_s < 28800 };
"#;

#[test]
fn the_example_of_the_manual_permits_and_denies_with_its_reason() {
    let set = set(EXAMPLE);
    assert!(set.warnings().is_empty(), "{:?}", set.warnings());
    assert_eq!(decide(&set, &engineer()), Decision::Permit { policies: vec!["db".into()] });
    let old = Facts { login_age: Some(Duration::from_secs(28_800)), ..engineer() };
    let remedy = || "log in again".to_owned();
    let condition = Reason::ConditionFailed { policy: "db".into(), condition: String::new(), remedy: remedy() };
    assert_eq!(reasons(decide(&set, &old)), [condition]);
    let what = "the age of the log-in is not known".into();
    let unknown = Reason::Unknown { policy: "db".into(), condition: String::new(), what, remedy: remedy() };
    assert_eq!(reasons(decide(&set, &Facts { login_age: None, ..engineer() })), [unknown]);
    assert_eq!(reasons(decide(&set, &Facts { groups: names(&[]), ..engineer() })), [Reason::NoPermit]);
    assert_eq!(reasons(decide(&set, &Facts { tags: names(&["web"]), ..engineer() })), [Reason::NoPermit]);
}

#[test]
fn no_policy_at_all_denies() {
    let none: [(&str, &str); 0] = [];
    assert_eq!(reasons(decide(&compile(&none).unwrap(), &engineer())), [Reason::NoPermit]);
    assert_eq!(reasons(decide(&set("// nothing"), &engineer())), [Reason::NoPermit]);
}

#[test]
fn a_forbid_wins_over_every_permit() {
    let set = set("permit(principal, action, resource);
         @id(\"no\") @reason(\"closed\") forbid(principal == User::\"engineer\", action, resource);");
    let remedy = "closed".into();
    let forbidden = Reason::ForbiddenBy { policy: "no".into(), condition: String::new(), remedy };
    assert_eq!(reasons(decide(&set, &engineer())), [forbidden]);
    assert!(decide(&set, &Facts { user: "auditor".into(), ..engineer() }).is_permit());
}

#[test]
fn a_forbid_that_errs_denies_for_every_fact_that_it_may_read() {
    let cases = [
        ("forbid(principal, action, resource) when { context.login_age_s > 100 };", Fact::LoginAge),
        ("forbid(principal, action, resource) unless { context.device == Device::\"laptop\" };", Fact::Device),
        ("forbid(principal in Group::\"guests\", action, resource);", Fact::Groups),
        ("forbid(principal, action, resource) when { principal in [Group::\"guests\"] };", Fact::Groups),
        ("forbid(principal, action, resource in Tag::\"secret\");", Fact::Tags),
        ("forbid(principal, action, resource) unless { resource in Tag::\"databases\" };", Fact::Tags),
    ];
    for (forbid, fact) in cases {
        let set = set(&format!("permit(principal, action, resource); @id(\"no\") {forbid}"));
        assert!(decide(&set, &engineer()).is_permit(), "{forbid}");
        let found = reasons(decide(&set, &without(&engineer(), fact)));
        assert!(matches!(found.as_slice(), [Reason::Unknown { policy, .. }] if policy == "no"), "{forbid}: {found:?}");
    }
}

#[test]
fn a_forbid_that_errs_by_overflow_denies() {
    let set = set("permit(principal, action, resource);
         forbid(principal, action, resource) when { context.login_age_s + 9223372036854775807 < 0 };");
    assert!(!decide(&set, &engineer()).is_permit());
    assert!(decide(&set, &Facts { login_age: Some(Duration::ZERO), ..engineer() }).is_permit());
    assert!(!decide(&set, &Facts { login_age: Some(Duration::MAX), ..engineer() }).is_permit());
}

#[test]
fn a_permit_that_errs_permits_nothing_and_spoils_no_other() {
    let bad =
        "@id(\"bad\") permit(principal, action, resource) when { context.login_age_s * 9223372036854775807 > 1 };";
    assert!(matches!(&reasons(decide(&set(bad), &engineer()))[0], Reason::Unknown { policy, .. } if policy == "bad"));
    let both = set(&format!("{bad} @id(\"good\") permit(principal, action, resource);"));
    assert_eq!(decide(&both, &engineer()), Decision::Permit { policies: vec!["good".into()] });
}

fn without(facts: &Facts, fact: Fact) -> Facts {
    let mut facts = facts.clone();
    match fact {
        Fact::Groups => facts.groups = None,
        Fact::Tags => facts.tags = None,
        Fact::Device => facts.device = None,
        Fact::LoginAge => facts.login_age = None,
        Fact::MfaAge => facts.mfa_age = None,
        Fact::MfaMethod => facts.mfa_method = None,
    }
    facts
}

#[test]
fn a_second_factor_is_asked_for_where_it_would_help() {
    let recent = "@id(\"recent\") permit(principal, action, resource) when { context.mfa_age_s < 900 };";
    let strong = "@id(\"strong\") permit(principal, action, resource) when { context.mfa_method == \"totp\" };";
    let never = "@id(\"never\") permit(principal, action, resource) when { context.mfa_method == \"sms\" };";
    let told = |text: &str, facts: &Facts| {
        reasons(decide(&set(text), facts)).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let none = Facts { mfa_age: None, mfa_method: None, ..engineer() };
    let stale = Facts { mfa_age: Some(Duration::from_secs(900)), ..engineer() };
    let verify = "give a second factor with `umbra mfa verify`";
    for text in [recent, strong] {
        assert!(decide(&set(text), &engineer()).is_permit());
        let said = told(text, &none).remove(0);
        assert!(said.contains("for no second factor was given in this session") && said.ends_with(verify), "{said}");
    }
    assert!(told(recent, &stale).remove(0).ends_with(verify));
    let weak = Facts { mfa_method: Some("recovery-code".into()), ..engineer() };
    assert!(!decide(&set(strong), &weak).is_permit());
    assert!(!told(never, &none).remove(0).contains(verify), "nothing that would not help is recommended");
    // A forbid that reads what is not there forbids.
    let forbid = format!("{strong} @id(\"no\") forbid(principal, action, resource) when {{ context.mfa_age_s > 60 }};");
    assert!(decide(&set(&forbid), &engineer()).is_permit());
    assert!(!decide(&set(&forbid), &Facts { mfa_age: None, ..engineer() }).is_permit());
}

#[test]
fn a_deny_names_the_condition_that_failed_and_what_to_do() {
    let told = |policies: &str, facts: &Facts| -> Vec<String> {
        reasons(decide(&set(policies), facts)).iter().map(ToString::to_string).collect()
    };
    let head = "@id(\"db\") @condition_1(\"an engineer\") @condition_2(\"log-in of today\") @condition_3(\"no kiosk\")
                @remedy_3(\"Use your own laptop.\") permit(principal, action, resource)
                when { principal in Group::\"engineers\" } when { context.login_age_s < 50 }
                unless { context.device == Device::\"laptop\" };";
    let both = [
        "policy `db` would permit it, but `log-in of today` does not hold: it looks at the age of the log-in",
        "policy `db` would permit it, but `no kiosk` does not hold: Use your own laptop.",
    ];
    assert_eq!(told(head, &engineer()), both);
    // Where a log-in alone would do, it is said: that was tried.
    let own = Facts { device: Some("desk".into()), ..engineer() };
    let again = "policy `db` would permit it, but `log-in of today` does not hold: log in again with `umbra login`";
    assert_eq!(told(head, &own), [again]);
    let unknown = "policy `db`, condition `log-in of today` cannot be decided, for the age of the log-in is not known: \
                   log in again with `umbra login`";
    assert_eq!(told(head, &without(&own, Fact::LoginAge)), [unknown]);
    let permit = "permit(principal, action, resource);";
    let stale = format!(
        "{permit} @id(\"no\") @condition(\"a stale log-in\") forbid(principal, action, resource) when {{ context.login_age_s > 9 }};"
    );
    let forbidden = "policy `no` forbids it because of `a stale log-in`: log in again with `umbra login`";
    assert_eq!(told(&stale, &engineer()), [forbidden]);
    let young = "@id(\"aged\") permit(principal, action, resource) when { context.login_age_s > 99 };";
    let looks = "policy `aged` would permit it, but its condition does not hold: it looks at the age of the log-in";
    assert_eq!(told(young, &engineer()), [looks]);
    let author = stale.replace("@condition", "@reason(\"Ask the duty officer.\") @condition");
    let own_words = "policy `no` forbids it because of `a stale log-in`: Ask the duty officer.";
    assert_eq!(told(&author, &engineer()), [own_words]);
}

#[test]
fn reasons_are_sorted_stable_and_bounded() {
    let mut text = String::new();
    for n in 0..REASONS_MAX * 3 {
        text.push_str(&format!("@id(\"n{n:03}\") forbid(principal, action, resource);"));
        text.push_str(&format!("@id(\"p{n:03}\") permit(principal, action, resource);"));
    }
    let one = reasons(decide(&set(&text), &engineer()));
    assert_eq!(one.len(), REASONS_MAX);
    assert!(one.is_sorted());
    for _ in 0..20 {
        assert_eq!(reasons(decide(&set(&text), &engineer())), one);
    }
    let permits = set(&text.replace("forbid", "permit"));
    match decide(&permits, &engineer()) {
        Decision::Permit { policies } => assert!(policies.len() == REASONS_MAX * 6 && policies.is_sorted()),
        Decision::Deny { reasons } => panic!("{reasons:?}"),
    }
}

#[test]
fn names_are_data_and_never_syntax() {
    for name in ["a\"b", "new\nline", "../x", "User::\"root\"", "\u{202e}é", "", "*", "\0", "a\\"] {
        let literal: String = name.chars().flat_map(char::escape_default).collect();
        let set = set(&format!("permit(principal == User::\"{literal}\", action, resource);"));
        assert!(decide(&set, &Facts { user: name.into(), ..engineer() }).is_permit(), "{name:?}");
        assert!(!decide(&set, &engineer()).is_permit(), "{name:?}");
        let odd = Facts {
            user: name.into(),
            resource: name.into(),
            groups: names(&[name]),
            tags: names(&[name]),
            device: Some(name.into()),
            ..engineer()
        };
        assert!(!decide(&self::set(EXAMPLE), &odd).is_permit(), "{name:?}");
    }
}

#[test]
fn a_problem_says_file_line_column_and_reason() {
    let cases = [
        ("permit(principal, action, resource)", "p:1:36: "),
        ("permit(principal, action, resource);\n  permit(principal, action resource);", "p:2:28: "),
        (
            "\npermit(principal, action, resource) when { context.login_age < 5 };",
            "p:2:1: `context.login_age` does not",
        ),
        ("\n permit(principal in Groop::\"x\", action, resource);", "p:2:22: "),
        ("permit(principal, action == Action::\"delete\", resource);", "p:1:"),
        ("permit(principal, action, resource)\nwhen { context.login_age_s < \"x\" };", "p:2:30: "),
        ("permit(principal == ?principal, action, resource);", "p:1:1: templates"),
        ("// x\npermit(principal, action, resource) when { context has device };", "p:2:1: `has`"),
        (
            "@id(\"a\") permit(principal, action, resource);\n@id(\"a\") forbid(principal, action, resource);",
            "p:2:1: the id `a` is taken by the policy at p:1",
        ),
        ("@id(\"a b\") permit(principal, action, resource);", "p:1:1: @id must"),
        ("@reason(\"\\u{1b}[2J\") permit(principal, action, resource);", "p:1:1: @reason must"),
        ("@owner(\"me\") permit(principal, action, resource);", "p:1:1: unknown annotation `@owner`"),
        ("hello", "p:1:"),
        ("permit(principal, action, resource) when { \"open };", "p:1:44: "),
    ];
    for (text, start) in cases {
        let found = problems(text);
        assert!(found[0].to_string().starts_with(start), "{text}\n{found:?}");
        assert!(!found[0].reason.is_empty());
    }
}

#[test]
fn problems_of_all_files_are_listed_with_their_file() {
    let found = compile(&[("b", "nonsense"), ("a", "permit(principal, action, resource) when { principal has x };")]);
    let found: Vec<String> = found.unwrap_err().into_iter().map(|p| p.file).collect();
    assert_eq!(found, ["a", "b"]);
    let same = compile(&[("a", "permit(principal, action, resource);"), ("a", "forbid(principal, action, resource);")]);
    assert!(same.unwrap_err()[0].reason.contains("a#1"));
}

#[test]
fn deep_wide_and_huge_input_is_refused_or_compiled_but_never_aborts() {
    let when = |condition: &str| format!("permit(principal, action, resource) when {{ {condition} }};");
    let deep = |n: usize| when(&format!("{}true{}", "(".repeat(n), ")".repeat(n)));
    assert!(compile(&[("p", deep(POLICY_DEPTH_MAX - 2))]).is_ok());
    for text in [
        deep(POLICY_DEPTH_MAX),
        deep(100_000),
        "[".repeat(1 << 19),
        when(&format!("{}true", "true && ".repeat(50_000))),
        when(&format!("{}true", "if true then true else ".repeat(50_000))),
        when(&format!("context{}", ".a".repeat(50_000))),
        when(&format!("{}1 > 0", "1 + ".repeat(50_000))),
        when(&format!("{}true", "!".repeat(50_000))),
        format!("permit(principal, action, resource){};", " when { true }".repeat(50_000)),
        "x".repeat(POLICY_BYTES_MAX + 1),
    ] {
        assert!(!problems(&text)[0].reason.is_empty());
    }
    // What the limits allow at most, on the small stack of a test thread.
    let chain = POLICY_OPERATORS_MAX - 2;
    for text in [
        when(&format!("{}true", "true && ".repeat(chain))),
        when(&format!("{}true", "false || ".repeat(chain))),
        when(&format!("{}1 > 0", "1 + ".repeat(chain - 1))),
        when(&format!("{}true", "if true then true else ".repeat(chain))),
        format!("permit(principal, action, resource){};", " when { true }".repeat(chain)),
    ] {
        assert!(decide(&set(&text), &engineer()).is_permit(), "{text}");
    }
}

#[test]
fn a_revision_that_takes_too_long_is_refused_whole() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let text = "permit(principal, action, resource);".repeat(10);
    // Each policy is read and then checked, and the file is opened: 21 times it is asked.
    for allowed in 0..22 {
        let asked = AtomicUsize::new(0);
        let result = crate::compile_while(&[("p", &text)], &|| asked.fetch_add(1, Ordering::Relaxed) < allowed);
        match result {
            Ok(set) => assert_eq!((set.rules().len(), allowed), (10, 21)),
            Err(problems) => {
                assert!(allowed < 21 && problems.len() == 1, "{allowed} {problems:?}");
                assert!(problems[0].to_string().starts_with("(all files):1:1: to compile all policies takes longer"));
            }
        }
    }
}

#[test]
fn a_problem_is_no_longer_than_a_person_reads() {
    let long = format!("permit(principal, action, resource) when {{ {}{} }};", "x".repeat(50_000), "::y".repeat(10));
    let found = problems(&long);
    let most = POLICY_PROBLEM_CHARS_MAX + 4;
    assert!(found.iter().all(|p| p.reason.chars().count() <= most), "{found:?}");
    let warned =
        set(&format!("permit(principal == User::\"{}\", action, resource) when {{ false }};", "é".repeat(500)));
    assert!(warned.warnings().iter().all(|w| w.text.chars().count() <= most), "{:?}", warned.warnings());
}

#[test]
fn a_decision_does_not_depend_on_the_stack_of_its_caller() {
    let chain = "1 + ".repeat(POLICY_OPERATORS_MAX - 3);
    let set = set(&format!("permit(principal, action, resource) when {{ {chain} 1 > 0 }};"));
    let small = std::thread::Builder::new().stack_size(256 << 10);
    let decision =
        std::thread::scope(|scope| small.spawn_scoped(scope, || decide(&set, &engineer())).unwrap().join().unwrap());
    assert!(decision.is_permit(), "{decision:?}");
}

#[test]
fn too_much_is_refused_exactly_past_its_limit() {
    let many = "permit(principal,action,resource);".repeat(POLICIES_MAX + 1);
    assert!(problems(&many)[0].reason.contains("policies"));
    let blank = " ".repeat(POLICY_BYTES_MAX);
    let blank = blank.as_str();
    let rest = POLICY_TOTAL_BYTES_MAX - POLICY_BYTES_MAX;
    assert!(compile(&[("a", blank)]).is_ok());
    assert!(compile(&[("a", blank), ("b", &blank[..rest])]).is_ok());
    let over = compile(&[("a", blank), ("b", &blank[..rest + 1])]).unwrap_err();
    assert_eq!((over[0].file.as_str(), over[0].line), ("b", 1));
    let files: Vec<(String, &str)> = (0..=POLICY_FILES_MAX).map(|n| (n.to_string(), "")).collect();
    assert!(compile(&files[1..]).is_ok());
    assert!(compile(&files).unwrap_err()[0].reason.contains("256"));
    for (name, fits) in [
        ("x".repeat(POLICY_FILE_NAME_MAX), true),
        ("x".repeat(POLICY_FILE_NAME_MAX + 1), false),
        (String::new(), false),
    ] {
        assert_eq!(compile(&[(&name, "")]).is_ok(), fits);
    }
    assert_eq!(compile(&[("a\n\u{202e}", "")]).unwrap_err()[0].file, "a\\u{a}\\u{202e}");
    let bad = "permit(principal, action, resource) when { principal has x };\n".repeat(POLICY_PROBLEMS_MAX + 1);
    assert_eq!(problems(&bad).len(), POLICY_PROBLEMS_MAX);
    let invalid = "permit(principal, action, resource) when { principal.x };\n".repeat(POLICY_PROBLEMS_MAX + 1);
    assert_eq!(problems(&invalid).len(), POLICY_PROBLEMS_MAX);
    for (key, max) in [("id", NAME_MAX), ("reason", POLICY_REASON_MAX)] {
        let annotated = |n: usize| format!("@{key}(\"{}\") permit(principal, action, resource);", "x".repeat(n));
        assert!(compile(&[("p", annotated(max))]).is_ok());
        assert!(compile(&[("p", annotated(max + 1))]).is_err());
    }
}

#[test]
fn people_and_workloads_share_groups_and_nothing_else() {
    let text = r#"
        @id("group") permit(principal in Group::"engineers", action, resource == Resource::"shared");
        @id("person") permit(principal == User::"build", action, resource == Resource::"persons");
        @id("workload") permit(principal == Workload::"build", action, resource == Resource::"workloads");
        @id("people") permit(principal is User, action, resource == Resource::"people");
        @id("programs") permit(principal is Workload in Group::"engineers", action, resource == Resource::"programs");
        @id("all") permit(principal, action, resource == Resource::"open");
        @id("nobody") permit(principal is User in Workload::"build", action, resource == Resource::"nothing");
    "#;
    let set = compile(&[("p", text)]).unwrap();
    let reach = |workload: bool| -> Vec<&str> {
        let of = |resource: &str| {
            let facts = Facts { user: "build".into(), resource: resource.into(), ..engineer() };
            if workload { facts.of_workload() } else { facts }
        };
        let all = ["shared", "persons", "workloads", "people", "programs", "open", "nothing"];
        for resource in all {
            assert_eq!(decide(&set, &of(resource)).is_permit(), sees(&set, &of(resource)), "{resource}");
        }
        all.into_iter().filter(|resource| decide(&set, &of(resource)).is_permit()).collect()
    };
    assert_eq!(reach(false), ["shared", "persons", "people", "open"]);
    assert_eq!(reach(true), ["shared", "workloads", "programs", "open"]);
    let warned: Vec<String> = crate::open_to_all(&set).into_iter().map(|w| w.policy).collect();
    assert_eq!(warned, ["all"], "what names everyone says so");
    assert!(set.warnings().iter().any(|w| w.policy == "nobody" && w.text.contains("no effect")));
}

#[test]
fn a_condition_on_a_log_in_permits_no_workload_and_forbids_it() {
    let text = r#"
        @id("fresh") permit(principal in Group::"engineers", action, resource == Resource::"fresh") when { context.login_age_s < 900 };
        @id("open") permit(principal in Group::"engineers", action, resource == Resource::"stale");
        @id("stale") forbid(principal, action, resource == Resource::"stale") when { context.login_age_s > 86400 };
        @id("mine") permit(principal in Group::"engineers", action, resource == Resource::"mine");
        @id("people") forbid(principal is User, action, resource == Resource::"mine") when { context.login_age_s > 86400 };
        @id("desk") permit(principal in Group::"engineers", action, resource == Resource::"desk") when { context.device == Device::"laptop" };
    "#;
    let set = compile(&[("p", text)]).unwrap();
    let of = |resource: &str| Facts { resource: resource.into(), ..engineer() }.of_workload();
    for (resource, policy) in [("fresh", "fresh"), ("stale", "stale")] {
        let reasons = reasons(decide(&set, &of(resource)));
        let Reason::Unknown { policy: by, what, remedy, .. } = &reasons[0] else { panic!("{reasons:?}") };
        assert_eq!((by.as_str(), what.as_str()), (policy, "a workload has no log-in and no second factor"));
        assert_eq!(remedy, "", "no log-in helps a program");
        assert_eq!(access(&set, &of(resource)).word(), "never");
    }
    assert!(decide(&set, &of("mine")).is_permit() && decide(&set, &of("desk")).is_permit());
    assert_eq!(access(&set, &of("desk")).word(), "if", "from this device alone");
}
