//! What may a subject see? The catalogue: the resources for which some permit's scope names the user, conditions aside.
//!
//! A condition that does not hold now hides nothing: who must log in again has to see what for. Forbids hide nothing
//! either; they are told as the reason of a deny. Unknown memberships name nobody.

use std::collections::BTreeSet;

use crate::compile::{Effect, PolicySet};
use crate::facts::Facts;
use crate::schema::Kind;
use crate::scope::Side;

/// Whether the subject of these facts may see their resource.
pub fn sees(set: &PolicySet, facts: &Facts) -> bool {
    let (Some(groups), Some(tags)) = (&facts.groups, &facts.tags) else { return false };
    let permits = set.rules().filter(|rule| rule.effect == Effect::Permit).filter_map(|rule| rule.scope.as_ref());
    permits
        .filter(|scope| scope.takes(facts.subject()))
        .any(|scope| is_named(&scope.who, &facts.user, groups) && is_named(&scope.what, &facts.resource, tags))
}

/// Of the given resources (name and tags), those that the user in these groups may see.
pub fn visible<'a>(
    set: &PolicySet,
    user: &str,
    groups: &BTreeSet<String>,
    resources: impl IntoIterator<Item = (&'a str, &'a BTreeSet<String>)>,
) -> BTreeSet<&'a str> {
    // First whom: what the permits that name this user name.
    let named: BTreeSet<&Side> = set
        .rules()
        .filter(|rule| rule.effect == Effect::Permit)
        .filter_map(|rule| rule.scope.as_ref())
        .filter(|scope| scope.takes(Kind::User) && is_named(&scope.who, user, groups))
        .map(|scope| &scope.what)
        .collect();
    if named.is_empty() {
        return BTreeSet::new();
    }
    let any = named.contains(&Side::Any);
    let seen = |name: &str, tags: &BTreeSet<String>| {
        any || named.contains(&Side::One(name.to_owned()))
            || tags.iter().any(|tag| named.contains(&Side::Members(tag.clone())))
    };
    resources.into_iter().filter(|(name, tags)| seen(name, tags)).map(|(name, _)| name).collect()
}

/// Whether one side of a head names this.
pub(crate) fn is_named(side: &Side, name: &str, memberships: &BTreeSet<String>) -> bool {
    match side {
        Side::Any => true,
        Side::One(one) => one == name,
        Side::Members(group) => memberships.contains(group),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile;

    fn names(items: &[&str]) -> BTreeSet<String> {
        items.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn conditions_and_forbids_hide_nothing_but_scopes_do() {
        let text = r#"
            permit(principal in Group::"eng", action, resource in Tag::"db") when { context.login_age_s < 5 };
            permit(principal == User::"engineer", action, resource == Resource::"wiki");
            permit(principal == Group::"engineer", action, resource == Resource::"never");
            permit(principal is Group, action, resource);
            permit(principal, action, resource is Tag);
            forbid(principal, action, resource == Resource::"wiki");
            permit(principal is User in Group::"ops", action == Action::"connect", resource is Resource);
        "#;
        let set = compile(&[("a".to_owned(), text.to_owned())]).unwrap();
        let (db, none) = (names(&["db"]), names(&[]));
        let all = [("pg", &db), ("wiki", &none), ("never", &none), ("other", &none)];
        let see = |user: &str, groups: &[&str]| -> Vec<&str> {
            visible(&set, user, &names(groups), all).into_iter().collect()
        };
        assert_eq!(see("engineer", &[]), ["wiki"]);
        assert_eq!(see("engineer", &["eng"]), ["pg", "wiki"]);
        assert_eq!(see("auditor", &["eng", "x"]), ["pg"]);
        assert_eq!(see("auditor", &["ops"]), ["never", "other", "pg", "wiki"]);
        assert!(see("auditor", &["engineer", "db"]).is_empty());
    }
}
