//! How is a decision told to a person? A first line with the answer, then one line for each reason.

use std::fmt::Write;

use crate::decide::Decision;
use crate::facts::{Fact, Facts};
use crate::text::printable;

/// The decision about these facts as text of several lines, without a newline at the end.
pub fn explain(decision: &Decision, facts: &Facts) -> String {
    let (user, resource) = (printable(&facts.user), printable(&facts.resource));
    let mut out = String::new();
    // Writing into a String cannot fail.
    match decision {
        Decision::Permit { policies } => {
            let _ = write!(out, "permitted: `{user}` may reach `{resource}`");
            for policy in policies {
                let _ = write!(out, "\n  policy `{}` permits it", printable(policy));
            }
        }
        Decision::Deny { reasons } => {
            let _ = write!(out, "denied: `{user}` may not reach `{resource}` now");
            for reason in reasons {
                let _ = write!(out, "\n  {}", printable(&reason.to_string()));
            }
        }
    }
    let unknown: Vec<String> = Fact::ALL.iter().filter(|fact| !facts.knows(**fact)).map(ToString::to_string).collect();
    if !unknown.is_empty() {
        let _ = write!(out, "\n  not known: {}", unknown.join(", "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Reason;

    #[test]
    fn a_deny_names_the_policy_and_what_to_do() {
        let facts = Facts {
            groups: Some([].into()),
            tags: Some([].into()),
            device: Some("laptop".into()),
            ..Facts::of("engineer\u{1b}[2J", "pg")
        };
        let (condition, remedy) = ("fresh log-in".into(), "log in again".into());
        let reason = Reason::ConditionFailed { policy: "db".into(), condition, remedy };
        let text = explain(&Decision::Deny { reasons: vec![reason] }, &facts);
        assert_eq!(
            text,
            "denied: `engineer\\u{1b}[2J` may not reach `pg` now\n  \
             policy `db` would permit it, but `fresh log-in` does not hold: log in again\n  \
             not known: the age of the log-in, the age of the second factor, the method of the second factor"
        );
    }
}
