//! Which facts does a policy read, and does it read them in a way that errs when they are unknown?
//!
//! A decision leaves unknown facts out of the request and relies on an error. Two things in Cedar would give an answer
//! instead: `has` (false for what is absent) and the record `context` as a whole (equal or not to another record). A
//! policy that uses either is refused.

use std::collections::BTreeSet;

use cedar_policy::Policy;
use serde_json::Value;

use crate::facts::Fact;
use crate::schema::Kind;

/// The facts that a policy reads, or why it may not be applied.
pub(crate) fn facts_read(policy: &Policy) -> Result<BTreeSet<Fact>, String> {
    let mut facts: BTreeSet<Fact> = BTreeSet::new();
    for uid in policy.entity_literals() {
        match Kind::of(&uid) {
            Some((Kind::Group, _)) => facts.insert(Fact::Groups),
            Some((Kind::Tag, _)) => facts.insert(Fact::Tags),
            _ => false,
        };
    }
    // Most policies have no condition, and Cedar's way into JSON and back is what takes the time of a revision.
    if !policy.has_non_scope_constraint() {
        return Ok(facts);
    }
    let json = policy.to_json().map_err(|e| e.to_string())?;
    // Explicit stack: no recursion over what a stranger wrote.
    let mut todo: Vec<&Value> = json.get("conditions").into_iter().collect();
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

/// Whether the conditions of a policy, its head aside, name a group or a tag: only then do they need memberships.
pub(crate) fn condition_asks_memberships(policy: &Policy) -> Result<bool, String> {
    if !policy.has_non_scope_constraint() {
        return Ok(false);
    }
    let mut json = policy.to_json().map_err(|e| e.to_string())?;
    if let Some(map) = json.as_object_mut() {
        for side in ["principal", "resource"] {
            map.insert(side.to_owned(), serde_json::json!({"op": "All"}));
        }
    }
    let headless = Policy::from_json(None, json).map_err(|e| e.to_string())?;
    let literals = headless.entity_literals();
    Ok(literals.iter().filter_map(Kind::of).any(|(kind, _)| matches!(kind, Kind::Group | Kind::Tag)))
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

    fn read(condition: &str) -> Result<Vec<Fact>, String> {
        let text = format!("permit(principal, action, resource) when {{ {condition} }};");
        facts_read(&Policy::parse(None, text).unwrap()).map(|facts| facts.into_iter().collect())
    }

    #[test]
    fn facts_are_found_wherever_they_stand() {
        assert_eq!(read("context.login_age_s < 5"), Ok(vec![Fact::LoginAge]));
        assert_eq!(read("context[\"login_age_s\"] < 5"), Ok(vec![Fact::LoginAge]));
        assert_eq!(read("{\"has\": context.device}[\"has\"] == Device::\"x\""), Ok(vec![Fact::Device]));
        assert_eq!(read("if principal in Group::\"g\" then true else resource in [Tag::\"t\"]").unwrap().len(), 2);
        let scope = Policy::parse(None, "forbid(principal in Group::\"g\", action, resource in Tag::\"t\");").unwrap();
        assert_eq!(facts_read(&scope).unwrap().len(), 2);
    }

    #[test]
    fn heads_do_not_count_as_conditions() {
        let asks = |text: &str| condition_asks_memberships(&Policy::parse(None, text).unwrap()).unwrap();
        let head = "permit(principal in Group::\"g\", action, resource in Tag::\"t\")";
        assert!(!asks(&format!("{head};")));
        assert!(!asks(&format!("{head} when {{ principal in User::\"u\" && context.login_age_s < 5 }};")));
        assert!(asks(&format!("{head} unless {{ principal is User in Group::\"h\" }};")));
        assert!(asks(&format!("{head} when {{ resource in [Resource::\"r\", Tag::\"u\"] }};")));
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
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
