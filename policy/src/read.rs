//! What does a policy read, and does it read it in a way that errs when it is unknown? And which conditions does it have?
//!
//! A decision leaves unknown facts out of the request and relies on an error. Two things in Cedar would give an answer
//! instead: `has` (false for what is absent) and the record `context` as a whole (equal or not to another record). A
//! policy that uses either is refused.

use std::collections::BTreeSet;

use cedar_policy::{Expression, Policy};
use serde_json::{Value, json};

use crate::facts::{Fact, Facts};
use crate::schema::Kind;

/// One `when` or `unless` of a policy.
#[derive(Debug, Clone)]
pub(crate) struct Clause {
    /// True when it is as the policy wants it.
    pub(crate) expression: Expression,
    /// The facts that it reads.
    pub(crate) reads: BTreeSet<Fact>,
    /// What its author calls it.
    pub(crate) name: Option<String>,
    /// What its author tells those whom it fails.
    pub(crate) remedy: Option<String>,
}

impl Clause {
    /// Whether it needs to be told groups and tags.
    pub(crate) fn needs_memberships(&self) -> bool {
        self.reads.contains(&Fact::Groups) || self.reads.contains(&Fact::Tags)
    }
}

/// Whether a membership among these facts is unknown. Cedar answers `in` with false, not with an error, for an entity that
/// it knows nothing about.
pub(crate) fn is_in_the_dark(reads: &BTreeSet<Fact>, facts: &Facts) -> bool {
    [Fact::Groups, Fact::Tags].iter().any(|fact| reads.contains(fact) && !facts.knows(*fact))
}

/// What is in a policy.
#[derive(Debug, Clone)]
pub(crate) struct Contents {
    /// The facts that it reads, in its head, too.
    pub(crate) reads: BTreeSet<Fact>,
    /// Its conditions, in the order of the text; without names.
    pub(crate) clauses: Vec<Clause>,
}

/// What is in a policy, or why it may not be applied.
pub(crate) fn read(policy: &Policy) -> Result<Contents, String> {
    let mut reads = memberships(policy);
    // Most policies have no condition, and Cedar's way into JSON and back is what takes the time of a revision.
    if !policy.has_non_scope_constraint() {
        return Ok(Contents { reads, clauses: Vec::new() });
    }
    let mut json = policy.to_json().map_err(|e| e.to_string())?;
    let Some(Value::Array(conditions)) = json.get_mut("conditions").map(Value::take) else {
        return Err("its conditions cannot be told apart; please report it".to_owned());
    };
    let headless = |condition: Value| {
        json!({"effect": "permit", "principal": {"op": "All"}, "action": {"op": "All"}, "resource": {"op": "All"},
               "conditions": [condition]})
    };
    let mut clauses = Vec::new();
    for condition in conditions {
        let mut facts = attributes(&condition)?;
        let alone = Policy::from_json(None, headless(condition)).map_err(|e| e.to_string())?;
        facts.extend(memberships(&alone));
        reads.extend(&facts);
        let expression = alone.as_ref().non_scope_constraints().cloned().map(Expression::from);
        let expression = expression.ok_or("one of its conditions is empty; please report it")?;
        clauses.push(Clause { expression, reads: facts, name: None, remedy: None });
    }
    Ok(Contents { reads, clauses })
}

/// Which memberships a policy asks for.
fn memberships(policy: &Policy) -> BTreeSet<Fact> {
    let fact = |kind| match kind {
        Kind::Group => Some(Fact::Groups),
        Kind::Tag => Some(Fact::Tags),
        _ => None,
    };
    policy.entity_literals().iter().filter_map(Kind::of).filter_map(|(kind, _)| fact(kind)).collect()
}

/// Which attributes of the context a condition reads.
fn attributes(condition: &Value) -> Result<BTreeSet<Fact>, String> {
    let mut facts = BTreeSet::new();
    // Explicit stack: no recursion over what a stranger wrote.
    let mut todo: Vec<&Value> = vec![condition];
    while let Some(value) = todo.pop() {
        match value {
            Value::Array(items) => todo.extend(items),
            Value::Object(map) => {
                for (key, inner) in map {
                    match key.as_str() {
                        "has" => return Err(HAS.to_owned()),
                        "Var" if inner == "context" => return Err(WHOLE.to_owned()),
                        "." if is_context(inner.get("left")) => facts.extend(attribute(inner)?),
                        // The names in a record are the author's own words, not operators.
                        "Record" => todo.extend(inner.as_object().into_iter().flat_map(serde_json::Map::values)),
                        _ => todo.push(inner),
                    }
                }
            }
            _ => {}
        }
    }
    Ok(facts)
}

const HAS: &str = "`has` may not be used: a fact that is not known would count as absent. \
                   Read the attribute; when it is not known, the policy permits nothing";
const WHOLE: &str = "`context` may only be read by attribute, as in `context.login_age_s`";

fn is_context(value: Option<&Value>) -> bool {
    value.and_then(|left| left.get("Var")).is_some_and(|var| var == "context")
}

fn attribute(access: &Value) -> Result<Option<Fact>, String> {
    let name = access.get("attr").and_then(Value::as_str).unwrap_or("");
    match Fact::of_attribute(name) {
        Some(fact) => Ok(Some(fact)),
        None => Err(format!("`context.{name}` does not exist")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(condition: &str) -> Result<Vec<Fact>, String> {
        let text = format!("permit(principal, action, resource) when {{ {condition} }};");
        read(&Policy::parse(None, text).unwrap()).map(|found| found.reads.into_iter().collect())
    }

    #[test]
    fn facts_are_found_wherever_they_stand() {
        assert_eq!(facts("context.login_age_s < 5"), Ok(vec![Fact::LoginAge]));
        assert_eq!(facts("context[\"login_age_s\"] < 5"), Ok(vec![Fact::LoginAge]));
        assert_eq!(facts("{\"has\": context.device}[\"has\"] == Device::\"x\""), Ok(vec![Fact::Device]));
        assert_eq!(facts("if principal in Group::\"g\" then true else resource in [Tag::\"t\"]").unwrap().len(), 2);
        let scope = Policy::parse(None, "forbid(principal in Group::\"g\", action, resource in Tag::\"t\");").unwrap();
        assert_eq!(read(&scope).unwrap().reads.len(), 2);
    }

    #[test]
    fn each_condition_is_read_apart_and_without_the_head() {
        let head = "forbid(principal in Group::\"g\", action, resource in Tag::\"t\")";
        let clauses = |text: &str| -> Vec<Vec<Fact>> {
            let policy = Policy::parse(None, format!("{head} {text};")).unwrap();
            let found = read(&policy).unwrap();
            assert!(is_in_the_dark(&found.reads, &Facts::of("u", "r")));
            found.clauses.into_iter().map(|clause| clause.reads.into_iter().collect()).collect()
        };
        assert!(clauses("").is_empty());
        assert_eq!(clauses("when { principal in User::\"u\" && context.login_age_s < 5 }"), [[Fact::LoginAge]]);
        assert_eq!(
            clauses("unless { principal is User in Group::\"h\" } when { true } when { resource in [Tag::\"u\"] }"),
            [vec![Fact::Groups], vec![], vec![Fact::Tags]]
        );
    }

    #[test]
    fn what_would_not_err_is_refused() {
        for bad in [
            "context has login_age_s",
            "!(context has device)",
            "principal has x",
            "(if true then context else context) has device",
            "(if true then context else context).login_age_s > 3",
            "{a: context}.a has device",
            "context == {login_age_s: 1}",
            "[context].contains({login_age_s: 1})",
            "{x: context} != {x: 1}",
            "true } when { context has device",
            "true } unless { context == context",
        ] {
            assert!(facts(bad).is_err(), "{bad}");
        }
    }
}
