//! Does [`decide`] answer as a plain reading of the rules would? Random policies from a small grammar are printed as
//! Cedar, decided, and compared with a model that knows no Cedar, no index and no error values.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use proptest::prelude::*;

use super::without;
use crate::{
    Access, Decision, Fact, Facts, MFA_METHODS, PolicySet, Population, Reason, Survey, access, compile, decide, sees,
    visible,
};

const USERS: [&str; 3] = ["u0", "u1", "x"];
const GROUPS: [&str; 3] = ["g0", "g1", "x"];
const RESOURCES: [&str; 3] = ["r0", "r1", "x"];
const TAGS: [&str; 3] = ["t0", "t1", "x"];
const DEVICES: [&str; 2] = ["d0", "d1"];

/// Which kind of subjects a head means.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Only {
    Both,
    People,
    Workloads,
}

#[derive(Debug, Clone, Copy)]
enum Head {
    Any,
    One(usize),
    Members(usize),
}

#[derive(Debug, Clone)]
enum Cond {
    Younger(i64),
    /// Computes with the largest number, and so errs for every age but zero.
    Overflow,
    OnDevice(usize),
    FactorYounger(i64),
    FactorIs(usize),
    InGroup(usize),
    IsWorkload,
    IsUser(usize),
    Tagged(usize),
    Not(Box<Cond>),
    And(Box<Cond>, Box<Cond>),
    Or(Box<Cond>, Box<Cond>),
}

#[derive(Debug, Clone)]
struct Rule {
    forbid: bool,
    who: Head,
    only: Only,
    what: Head,
    when: Vec<(bool, Cond)>,
}

fn head() -> impl Strategy<Value = Head> {
    prop_oneof![Just(Head::Any), (0..3usize).prop_map(Head::One), (0..3usize).prop_map(Head::Members)]
}

fn cond() -> impl Strategy<Value = Cond> {
    let leaf = prop_oneof![
        4 => (0..4i64).prop_map(Cond::Younger),
        1 => Just(Cond::Overflow),
        2 => (0..2usize).prop_map(Cond::OnDevice),
        2 => (0..3i64).prop_map(Cond::FactorYounger),
        1 => (0..MFA_METHODS.len()).prop_map(Cond::FactorIs),
        2 => (0..3usize).prop_map(Cond::InGroup),
        1 => Just(Cond::IsWorkload),
        1 => (0..3usize).prop_map(Cond::IsUser),
        2 => (0..3usize).prop_map(Cond::Tagged),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|a| Cond::Not(Box::new(a))),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Cond::And(Box::new(a), Box::new(b))),
            (inner.clone(), inner).prop_map(|(a, b)| Cond::Or(Box::new(a), Box::new(b))),
        ]
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let only = prop_oneof![2 => Just(Only::Both), 1 => Just(Only::People), 1 => Just(Only::Workloads)];
    (prop::bool::weighted(0.25), head(), only, head(), prop::collection::vec((any::<bool>(), cond()), 0..3))
        .prop_map(|(forbid, who, only, what, when)| Rule { forbid, who, only, what, when })
}

fn some_of(names: [&'static str; 3]) -> impl Strategy<Value = Option<BTreeSet<String>>> {
    let set = prop::collection::btree_set(prop::sample::select(names.to_vec()).prop_map(str::to_owned), 0..3);
    prop::option::weighted(0.85, set)
}

fn facts() -> impl Strategy<Value = Facts> {
    let device = prop::option::weighted(0.85, prop::sample::select(DEVICES.to_vec()).prop_map(str::to_owned));
    let age = prop::option::weighted(0.85, (0..4u64).prop_map(Duration::from_secs));
    let (users, resources) = (prop::sample::select(USERS.to_vec()), prop::sample::select(RESOURCES.to_vec()));
    let factor = prop::option::weighted(0.7, (0..3u64, prop::sample::select(MFA_METHODS.to_vec())));
    let workload = prop::bool::weighted(0.3);
    (users, workload, some_of(GROUPS), device, resources, some_of(TAGS), age, factor).prop_map(
        |(user, workload, groups, device, resource, tags, login_age, factor)| {
            let person = Facts {
                user: user.to_owned(),
                workload: false,
                groups,
                device,
                resource: resource.to_owned(),
                tags,
                login_age,
                mfa_age: factor.map(|(age, _)| Duration::from_secs(age)),
                mfa_method: factor.map(|(_, method)| method.to_owned()),
            };
            if workload { person.of_workload() } else { person }
        },
    )
}

// -- printed as Cedar ---------------------------------------------------------------------------------------------------

fn print_head(var: &str, head: Head, one: (&str, &str), members: (&str, &str)) -> String {
    match head {
        Head::Any => var.to_owned(),
        Head::One(_) => format!("{var} == {}::\"{}\"", one.0, one.1),
        Head::Members(_) => format!("{var} in {}::\"{}\"", members.0, members.1),
    }
}

fn print_cond(cond: &Cond) -> String {
    match cond {
        Cond::Younger(age) => format!("context.login_age_s < {age}"),
        Cond::Overflow => "context.login_age_s + 9223372036854775807 > 0".to_owned(),
        Cond::OnDevice(d) => format!("context.device == Device::\"{}\"", DEVICES[*d]),
        Cond::FactorYounger(age) => format!("context.mfa_age_s < {age}"),
        Cond::FactorIs(m) => format!("context.mfa_method == \"{}\"", MFA_METHODS[*m]),
        Cond::InGroup(g) => format!("principal in Group::\"{}\"", GROUPS[*g]),
        Cond::IsWorkload => "principal is Workload".to_owned(),
        Cond::IsUser(u) => format!("principal == User::\"{}\"", USERS[*u]),
        Cond::Tagged(t) => format!("resource in Tag::\"{}\"", TAGS[*t]),
        Cond::Not(a) => format!("!({})", print_cond(a)),
        Cond::And(a, b) => format!("({}) && ({})", print_cond(a), print_cond(b)),
        Cond::Or(a, b) => format!("({}) || ({})", print_cond(a), print_cond(b)),
    }
}

fn at(names: [&'static str; 3], head: Head) -> &'static str {
    match head {
        Head::Any => "",
        Head::One(i) | Head::Members(i) => names[i],
    }
}

fn print_rules(rules: &[Rule]) -> String {
    let mut out = String::new();
    for rule in rules {
        let (var, one) = match rule.only {
            Only::Both => ("principal", "User"),
            Only::People => ("principal is User", "User"),
            Only::Workloads => ("principal is Workload", "Workload"),
        };
        // `is` goes with `in`, and not with `==`.
        let var = if matches!(rule.who, Head::One(_)) { "principal" } else { var };
        let who = print_head(var, rule.who, (one, at(USERS, rule.who)), ("Group", at(GROUPS, rule.who)));
        let what =
            print_head("resource", rule.what, ("Resource", at(RESOURCES, rule.what)), ("Tag", at(TAGS, rule.what)));
        let effect = if rule.forbid { "forbid" } else { "permit" };
        write!(out, "{effect}({who}, action == Action::\"connect\", {what})").unwrap();
        for (when, cond) in &rule.when {
            write!(out, " {} {{ {} }}", if *when { "when" } else { "unless" }, print_cond(cond)).unwrap();
        }
        out.push_str(";\n");
    }
    out
}

// -- read plainly -------------------------------------------------------------------------------------------------------

/// `None`: not known.
fn names_it(head: Head, name: &str, one: &str, memberships: &Option<BTreeSet<String>>, group: &str) -> Option<bool> {
    match head {
        Head::Any => Some(true),
        Head::One(_) => Some(name == one),
        Head::Members(_) => memberships.as_ref().map(|all| all.contains(group)),
    }
}

fn holds(cond: &Cond, facts: &Facts) -> Option<bool> {
    let age = facts.login_age.map(|age| age.as_secs());
    match cond {
        Cond::Younger(limit) => age.map(|age| age < *limit as u64),
        Cond::Overflow => age.and_then(|age| (age == 0).then_some(true)),
        Cond::OnDevice(d) => facts.device.as_ref().map(|device| device == DEVICES[*d]),
        Cond::FactorYounger(limit) => facts.mfa_age.map(|age| age.as_secs() < *limit as u64),
        Cond::FactorIs(m) => facts.mfa_method.as_ref().map(|method| method == MFA_METHODS[*m]),
        Cond::InGroup(g) => facts.groups.as_ref().map(|all| all.contains(GROUPS[*g])),
        Cond::IsWorkload => Some(facts.workload),
        Cond::IsUser(u) => Some(!facts.workload && facts.user == USERS[*u]),
        Cond::Tagged(t) => facts.tags.as_ref().map(|all| all.contains(TAGS[*t])),
        Cond::Not(a) => holds(a, facts).map(|a| !a),
        Cond::And(a, b) => {
            if holds(a, facts)? {
                holds(b, facts)
            } else {
                Some(false)
            }
        }
        Cond::Or(a, b) => {
            if holds(a, facts)? {
                Some(true)
            } else {
                holds(b, facts)
            }
        }
    }
}

/// Which memberships a rule names anywhere; a rule that names an unknown one is not decided.
fn asks(cond: &Cond, facts: &Facts) -> bool {
    match cond {
        Cond::InGroup(_) => facts.groups.is_none(),
        Cond::Tagged(_) => facts.tags.is_none(),
        Cond::Not(a) => asks(a, facts),
        Cond::And(a, b) | Cond::Or(a, b) => asks(a, facts) || asks(b, facts),
        Cond::Younger(_) | Cond::Overflow | Cond::OnDevice(_) | Cond::FactorYounger(_) | Cond::FactorIs(_) => false,
        Cond::IsWorkload | Cond::IsUser(_) => false,
    }
}

/// Whether a rule's head names the request.
fn named(rule: &Rule, facts: &Facts) -> Option<bool> {
    let means = match rule.only {
        // A bare name is a user's.
        Only::Both => !matches!(rule.who, Head::One(_)) || !facts.workload,
        Only::People => !facts.workload,
        Only::Workloads => facts.workload,
    };
    if !means {
        return Some(false);
    }
    let who = names_it(rule.who, &facts.user, at(USERS, rule.who), &facts.groups, at(GROUPS, rule.who));
    let what = names_it(rule.what, &facts.resource, at(RESOURCES, rule.what), &facts.tags, at(TAGS, rule.what));
    if who == Some(false) || what == Some(false) {
        return Some(false);
    }
    who.and(what)
}

/// Whether the conditions of a rule hold.
fn fits(rule: &Rule, facts: &Facts) -> Option<bool> {
    if rule.when.iter().any(|(_, cond)| asks(cond, facts)) {
        return None;
    }
    for (when, cond) in &rule.when {
        if holds(cond, facts)? != *when {
            return Some(false);
        }
    }
    Some(true)
}

/// What a person is told: the permits that hold, or what kind of objection each policy has.
fn plainly(rules: &[Rule], facts: &Facts) -> Result<BTreeSet<String>, BTreeSet<(&'static str, String)>> {
    let (mut permits, mut against, mut lacking) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (rule, id) in rules.iter().zip(1..).map(|(rule, n)| (rule, format!("p#{n}"))) {
        let fits = match named(rule, facts) {
            Some(false) => continue,
            Some(true) => fits(rule, facts),
            None => None,
        };
        match (rule.forbid, fits) {
            (true, None) => against.insert(("unknown", id)),
            (true, Some(true)) => against.insert(("forbidden", id)),
            (true, Some(false)) => false,
            (false, None) => lacking.insert(("unknown", id)),
            (false, Some(true)) => permits.insert(id),
            (false, Some(false)) => lacking.insert(("condition", id)),
        };
    }
    if !against.is_empty() {
        return Err(against);
    }
    if !permits.is_empty() {
        return Ok(permits);
    }
    if lacking.is_empty() {
        lacking.insert(("none", String::new()));
    }
    Err(lacking)
}

/// The same words for what [`decide`] answered.
fn told(decision: &Decision) -> Result<BTreeSet<String>, BTreeSet<(&'static str, String)>> {
    match decision {
        Decision::Permit { policies } => Ok(policies.iter().cloned().collect()),
        Decision::Deny { reasons } => Err(reasons
            .iter()
            .map(|reason| match reason {
                Reason::ForbiddenBy { policy, .. } => ("forbidden", policy.clone()),
                Reason::Unknown { policy, .. } => ("unknown", policy.clone()),
                Reason::ConditionFailed { policy, .. } => ("condition", policy.clone()),
                Reason::NoPermit => ("none", String::new()),
            })
            .collect()),
    }
}

/// What is permitted is in the catalogue.
fn is_visible(set: &PolicySet, facts: &Facts) -> bool {
    let (groups, tags) = (facts.groups.clone().unwrap_or_default(), facts.tags.clone().unwrap_or_default());
    let one = sees(set, &Facts { groups: Some(groups.clone()), tags: Some(tags.clone()), ..facts.clone() });
    if !facts.workload {
        let listed = !visible(set, &facts.user, &groups, [(facts.resource.as_str(), &tags)]).is_empty();
        assert_eq!(one, listed, "{facts:?}");
    }
    one
}

/// Every moment that these policies can tell apart, unknown ones included.
fn moments(facts: &Facts) -> Vec<Facts> {
    let ages = (0..5).map(|age| Some(Duration::from_secs(age))).chain([Some(Duration::MAX), None]);
    let devices = || DEVICES.iter().copied().chain(["d9"]).map(|name| Some(name.to_owned())).chain([None]);
    let factors = || {
        let ages = (0..4).map(Duration::from_secs).chain([Duration::MAX]);
        let methods = || MFA_METHODS.iter().copied().chain(["passkey"]).map(|method| Some(method.to_owned()));
        let given = ages.flat_map(move |age| methods().map(move |method| (Some(age), method)));
        given.chain([(None, None)])
    };
    let of = |login_age| {
        let pairs = devices().flat_map(move |device| factors().map(move |factor| (device.clone(), factor)));
        pairs.map(move |(device, (mfa_age, mfa_method))| Facts {
            device,
            login_age,
            mfa_age,
            mfa_method,
            ..facts.clone()
        })
    };
    let all = ages.flat_map(of);
    all.map(|moment| if facts.workload { moment.of_workload() } else { moment }).collect()
}

/// How many sets of policies, with 17 requests each on average (60,000 make 10^6 cases): `UMBRA_POLICY_CASES`, or few enough for every run.
fn cases() -> u32 {
    std::env::var("UMBRA_POLICY_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decide_equals_the_plain_model(
        rules in prop::collection::vec(rule(), 0..8),
        requests in prop::collection::vec(facts(), 1..34),
    ) {
        let text = print_rules(&rules);
        let set = compile(&[("p", &text)]).map_err(|p| TestCaseError::fail(format!("{text}\n{p:?}")))?;
        for facts in &requests {
            let decision = decide(&set, facts);
            prop_assert_eq!(told(&decision), plainly(&rules, facts), "{}\n{:?}", text, facts);
            prop_assert!(!decision.is_permit() || is_visible(&set, facts), "{text}\n{facts:?}");
            // Making any fact unknown never widens access.
            for fact in Fact::ALL {
                let less = decide(&set, &without(facts, fact));
                prop_assert!(decision.is_permit() || !less.is_permit(), "{text}\n{facts:?} without {fact}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases() / 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn access_is_what_the_decisions_of_all_moments_come_to(
        rules in prop::collection::vec(rule(), 0..6),
        requests in prop::collection::vec(facts(), 1..6),
    ) {
        let text = print_rules(&rules);
        let set = compile(&[("p", &text)]).map_err(|p| TestCaseError::fail(format!("{text}\n{p:?}")))?;
        for facts in &requests {
            let found = access(&set, facts);
            let permits = moments(facts).iter().filter(|moment| decide(&set, moment).is_permit()).count();
            match &found {
                Access::Always { .. } => prop_assert_eq!(permits, moments(facts).len(), "{}\n{:?}", text, facts),
                Access::Never { .. } => prop_assert_eq!(permits, 0, "{}\n{:?}", text, facts),
                Access::If { permits, forbids } => prop_assert!(!(permits.is_empty() && forbids.is_empty())),
            }
            // Nobody's class decides otherwise than oneself.
            let (Some(groups), Some(tags)) = (&facts.groups, &facts.tags) else { continue };
            let everyone = |names: [&str; 3], of: &BTreeSet<String>| {
                names.iter().map(|name| ((*name).to_owned(), of.clone())).collect()
            };
            let (all, resources) = (everyone(USERS, groups), everyone(RESOURCES, tags));
            let (users, workloads) = if facts.workload { (BTreeMap::new(), all) } else { (all, BTreeMap::new()) };
            let population = Population { users, workloads, resources };
            let survey = Survey::new(&set, &population).map_err(|e| TestCaseError::fail(e.to_string()))?;
            for (user, resource, told) in survey.rows() {
                let own = Facts { user: user.to_owned(), resource: resource.to_owned(), ..facts.clone() };
                prop_assert!(told.equals(&access(&set, &own)), "{text}\n{own:?} {told:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_refused_or_compiled(text in "[\\PC\\n]{0,200}") {
        let _ = compile(&[("p", text)]);
    }

    #[test]
    fn any_words_of_the_language_are_refused_or_compiled(words in prop::collection::vec(prop::sample::select(vec![
        "permit", "forbid", "(", ")", "{", "}", "[", "]", "principal", "action", "resource", "context", ",", ";", "when",
        "unless", "==", "in", "is", "has", "like", "if", "then", "else", "User::\"a\"", "Group::\"g\"", "Tag::\"t\"",
        "Action::\"connect\"", ".login_age_s", "\"s\"", "1", "-", "!", "&&", "||", "<", "@id(\"a\")", "?principal", "\"", "//",
        "\n", "\\", "é", "permit(principal, action, resource)",
    ]), 0..60)) {
        let text = words.join(" ");
        if let Ok(set) = compile(&[("p", text)]) {
            let _ = decide(&set, &Facts::of("a", "r"));
        }
    }
}
