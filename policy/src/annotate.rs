//! What may an author write beside a policy, and which condition does it name?
//!
//! `@id` and `@reason` are for the whole policy. `@condition("...")` names its condition and `@remedy("...")` says what a
//! person can do when that fails; where a policy has several `when` and `unless`, `@condition_1`, `@remedy_2` and so on mean
//! them in the order of the text. All are shown on terminals and kept in records.

use cedar_policy::Policy;
use model::limits::{NAME_MAX, POLICY_CONDITION_MAX, POLICY_REASON_MAX};

use crate::read::Clause;
use crate::text::is_hidden;

/// Checks `@id` and `@reason`.
pub(crate) fn check(policy: &Policy) -> Result<(), String> {
    if let Some(id) = policy.annotation("id")
        && (id.is_empty() || id.len() > NAME_MAX || id.chars().any(|c| c.is_whitespace() || is_hidden(c)))
    {
        return Err(format!("@id must be 1 to {NAME_MAX} bytes of visible characters without spaces"));
    }
    if let Some(reason) = policy.annotation("reason")
        && (reason.len() > POLICY_REASON_MAX || reason.chars().any(is_hidden))
    {
        return Err(format!("@reason must be one line of at most {POLICY_REASON_MAX} bytes of visible characters"));
    }
    Ok(())
}

/// Gives the clauses their names and remedies; refuses every annotation that is none of ours.
pub(crate) fn name(policy: &Policy, clauses: &mut [Clause]) -> Result<(), String> {
    let mut annotations: Vec<(&str, &str)> = policy.annotations().collect();
    annotations.sort_unstable();
    for (key, text) in annotations {
        if matches!(key, "id" | "reason") {
            continue;
        }
        let (word, number) = split(key).ok_or_else(|| {
            format!("unknown annotation `@{key}`: there are `@id`, `@reason`, `@condition` and `@remedy`, as in `@id(\"...\")`")
        })?;
        let clause = find(clauses, key, number)?;
        let (place, most) = match word {
            Word::Condition => (&mut clause.name, POLICY_CONDITION_MAX),
            Word::Remedy => (&mut clause.remedy, POLICY_REASON_MAX),
        };
        if text.is_empty() || text.len() > most || text.chars().any(is_hidden) {
            return Err(format!("@{key} must be one line of 1 to {most} bytes of visible characters"));
        }
        if place.replace(text.to_owned()).is_some() {
            return Err(format!("`@{key}` says again what another annotation says: take one of them out"));
        }
    }
    Ok(())
}

enum Word {
    Condition,
    Remedy,
}

/// `condition_2` is a condition and 2.
fn split(key: &str) -> Option<(Word, Option<usize>)> {
    let (word, number) = match key.split_once('_') {
        None => (key, None),
        Some((word, digits)) => {
            let number: usize = digits.parse().ok()?;
            // One way to write it: no sign, no zeros in front.
            (number.to_string() == digits).then_some((word, Some(number)))?
        }
    };
    match word {
        "condition" => Some((Word::Condition, number)),
        "remedy" => Some((Word::Remedy, number)),
        _ => None,
    }
}

fn find<'a>(clauses: &'a mut [Clause], key: &str, number: Option<usize>) -> Result<&'a mut Clause, String> {
    let count = clauses.len();
    let at = match number {
        Some(number) => number.checked_sub(1),
        None if count > 1 => {
            return Err(format!("`@{key}` could mean any of {count} conditions: write `@{key}_1` to `@{key}_{count}`"));
        }
        None => Some(0),
    };
    at.and_then(|at| clauses.get_mut(at)).ok_or_else(|| {
        format!("`@{key}` names a condition that is not there: the policy has {count} `when` and `unless`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::read;

    type Named = (Option<String>, Option<String>);

    fn named(annotations: &str, conditions: &str) -> Result<Vec<Named>, String> {
        let policy =
            Policy::parse(None, format!("{annotations} permit(principal, action, resource) {conditions};")).unwrap();
        let mut clauses = read(&policy).unwrap().clauses;
        name(&policy, &mut clauses)?;
        Ok(clauses.into_iter().map(|clause| (clause.name, clause.remedy)).collect())
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn names_reach_their_condition() {
        let one = named("@remedy(\"b\") @condition(\"a\") @id(\"x\")", "when { true }");
        assert_eq!(one, Ok(vec![(some("a"), some("b"))]));
        assert_eq!(named("@condition_1(\"a\")", "unless { true }"), Ok(vec![(some("a"), None)]));
        let two = named("@condition_2(\"a\") @remedy_1(\"b\")", "when { true } unless { false }");
        assert_eq!(two, Ok(vec![(None, some("b")), (some("a"), None)]));
    }

    #[test]
    fn names_of_nothing_twice_or_unfit_are_refused() {
        let most = "x".repeat(POLICY_CONDITION_MAX);
        assert!(named(&format!("@condition(\"{most}\")"), "when { true }").is_ok());
        for (annotations, conditions, part) in [
            ("@condition(\"a\")".to_owned(), "", "has 0 `when`"),
            ("@condition(\"a\")".to_owned(), "when { true } when { true }", "`@condition_1` to `@condition_2`"),
            ("@condition_2(\"a\")".to_owned(), "when { true }", "has 1 `when`"),
            ("@condition_0(\"a\")".to_owned(), "when { true }", "not there"),
            ("@condition_01(\"a\")".to_owned(), "when { true }", "unknown annotation"),
            ("@condition_99999999999999999999(\"a\")".to_owned(), "when { true }", "unknown annotation"),
            ("@remedy_x(\"a\")".to_owned(), "when { true }", "unknown annotation"),
            ("@owner(\"me\")".to_owned(), "when { true }", "unknown annotation `@owner`"),
            ("@condition(\"a\") @condition_1(\"a\")".to_owned(), "when { true }", "says again"),
            ("@condition(\"\")".to_owned(), "when { true }", "1 to 64 bytes"),
            (format!("@condition(\"{most}x\")"), "when { true }", "1 to 64 bytes"),
            (format!("@remedy(\"{}\")", "x".repeat(POLICY_REASON_MAX + 1)), "when { true }", "1 to 256 bytes"),
            ("@remedy(\"\\u{1b}[2J\")".to_owned(), "when { true }", "visible"),
        ] {
            let refusal = named(&annotations, conditions).unwrap_err();
            assert!(refusal.contains(part), "{annotations}: {refusal}");
        }
    }
}
