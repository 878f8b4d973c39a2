//! What is valid in a policy set and yet probably a mistake?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::compile::{Effect, PolicySet, Rule};
use crate::schema::Kind;
use crate::scope::{Scope, Side};
use crate::text::printable;

/// Something to look at again; it does not stop an apply. Printed as `file:line:col: warning: text`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{file}:{line}:{column}: warning: {text}")]
pub struct Warning {
    /// The file's name.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The policy's id.
    pub policy: String,
    /// What is odd, and what to do.
    pub text: String,
}

impl Warning {
    pub(crate) fn of(rule: &Rule, text: &str) -> Self {
        Self {
            file: rule.file.clone(),
            line: rule.line,
            column: rule.column,
            policy: rule.id.clone(),
            text: text.into(),
        }
    }
}

/// The names that exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Of users.
    pub users: BTreeSet<String>,
    /// Of groups.
    pub groups: BTreeSet<String>,
    /// Of resources.
    pub resources: BTreeSet<String>,
    /// Of tags on resources.
    pub tags: BTreeSet<String>,
    /// Of devices.
    pub devices: BTreeSet<String>,
    /// Of workloads.
    pub workloads: BTreeSet<String>,
}

impl Names {
    fn has(&self, kind: Kind, name: &str) -> bool {
        let names = match kind {
            Kind::User => &self.users,
            Kind::Group => &self.groups,
            Kind::Resource => &self.resources,
            Kind::Tag => &self.tags,
            Kind::Device => &self.devices,
            Kind::Workload => &self.workloads,
        };
        names.contains(name)
    }
}

/// A warning for each name in a policy that does not exist: it matches nothing, and would start to if somebody made it.
pub fn unknown_names(set: &PolicySet, known: &Names) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for rule in set.rules() {
        for (kind, name) in rule.names.iter().filter(|(kind, name)| !known.has(*kind, name)) {
            let text = format!("there is no {}::\"{}\"", kind.name(), printable(name));
            warnings.push(Warning::of(rule, &text));
        }
    }
    warnings.sort();
    warnings
}

/// The permits that name whoever it is, people and workloads alike: `permit(principal, ...)`.
pub fn open_to_all(set: &PolicySet) -> Vec<Warning> {
    let names_all = |rule: &&Rule| {
        rule.effect == Effect::Permit && rule.scope.as_ref().is_some_and(|s| s.who == Side::Any && s.only.is_none())
    };
    let text = "names workloads, too: `principal is User` means people alone";
    set.rules().filter(names_all).map(|rule| Warning::of(rule, text)).collect()
}

/// Warnings about the set itself.
pub(crate) fn warnings(rules: &BTreeMap<String, Arc<Rule>>) -> Vec<Warning> {
    let mut open: BTreeMap<&Scope, &str> = BTreeMap::new();
    for rule in rules.values().filter(|rule| rule.effect == Effect::Permit && !rule.conditional) {
        if let Some(scope) = &rule.scope {
            open.entry(scope).or_insert(&rule.id);
        }
    }
    let mut warnings = Vec::new();
    for rule in rules.values() {
        let Some(scope) = &rule.scope else {
            warnings.push(Warning::of(rule, "its head matches no request: it has no effect"));
            continue;
        };
        if rule.effect == Effect::Forbid {
            continue;
        }
        match (&scope.who, &scope.what, rule.conditional) {
            (Side::Any, Side::Any, false) => {
                warnings.push(Warning::of(rule, "permits everyone to reach everything: name a group or a tag"));
            }
            (Side::Any, Side::Any, true) => {
                let text = "names everyone for everything: all users see the names of all resources, \
                            whatever its condition says; name a group or a tag";
                warnings.push(Warning::of(rule, text));
            }
            _ => {}
        }
        if rule.conditional
            && let Some(by) = wider(scope).iter().find_map(|scope| open.get(scope))
        {
            let text = format!("its condition protects nothing: policy `{by}` permits the same without one");
            warnings.push(Warning::of(rule, &text));
        }
    }
    warnings
}

/// The scopes that certainly contain this one, itself first.
fn wider(scope: &Scope) -> Vec<Scope> {
    let sides = |side: &Side| if *side == Side::Any { vec![Side::Any] } else { vec![side.clone(), Side::Any] };
    let mut all = Vec::new();
    for who in sides(&scope.who) {
        for only in [scope.only, None] {
            all.extend(sides(&scope.what).into_iter().map(|what| Scope { who: who.clone(), only, what }));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile;

    fn texts(text: &str) -> Vec<String> {
        let set = compile(&[("p".to_owned(), text.to_owned())]).unwrap();
        set.warnings().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn any_to_any_is_warned_about_with_its_place() {
        let found = texts("\n permit(principal, action, resource);");
        assert_eq!(found, ["p:2:2: warning: permits everyone to reach everything: name a group or a tag"]);
        assert!(texts("permit(principal is User, action, resource) when { true };")[0].contains("everyone"));
        assert!(texts("forbid(principal, action, resource);").is_empty());
        assert!(texts("permit(principal in Group::\"a\", action, resource);").is_empty());
    }

    #[test]
    fn a_permit_without_condition_beside_one_with_is_warned_about() {
        let found = texts(
            "@id(\"strict\") permit(principal in Group::\"g\", action, resource in Tag::\"t\") when { context.login_age_s < 9 };
             @id(\"loose\") permit(principal, action, resource in Tag::\"t\");",
        );
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("policy `loose` permits the same"), "{found:?}");
    }

    #[test]
    fn what_matches_nothing_is_warned_about() {
        let found = texts("permit(principal == Group::\"g\", action, resource);");
        assert!(found.iter().any(|text| text.contains("no effect")), "{found:?}");
    }

    #[test]
    fn names_that_do_not_exist_are_listed() {
        let text = "permit(principal in Group::\"g\", action, resource == Resource::\"r\") unless { principal == User::\"u\" };";
        let set = compile(&[("p".to_owned(), text.to_owned())]).unwrap();
        let known = Names { groups: ["g".to_owned()].into(), ..Names::default() };
        let found: Vec<String> = unknown_names(&set, &known).into_iter().map(|w| w.text).collect();
        assert_eq!(found, ["there is no Resource::\"r\"", "there is no User::\"u\""]);
    }
}
