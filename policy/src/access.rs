//! May this user reach that resource at all: always, if something holds, or never?
//!
//! [`access`] is the decision itself, taken without the facts of the moment (device, age of log-in and second factor): what a policy answers
//! without them it answers whatever they are, and what errs for want of them depends on them. There is no second
//! reading of the policies.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use model::limits::{DECIDE_STACK_BYTES, REASONS_MAX};

use crate::compile::{PolicySet, Rule};
use crate::decide::{Reason, Tally, Verdict, looks_at};
use crate::facts::Facts;
use crate::index::Candidate;
use crate::read::Clause;

/// How far a user may reach a resource from a confirmed device, logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Whatever the moment.
    Always {
        /// Ids of the permits, sorted.
        policies: Vec<String>,
    },
    /// It depends on the moment: one of `permits` has to hold, or there is none in it, and none of `forbids` may.
    If {
        /// Sorted by policy, at most [`REASONS_MAX`].
        permits: Vec<Need>,
        /// Likewise.
        forbids: Vec<Need>,
    },
    /// Whatever the moment not.
    Never {
        /// Why, sorted, at most [`REASONS_MAX`].
        reasons: Vec<Reason>,
    },
}

/// What has to hold of one policy.
#[derive(Debug, Clone)]
pub struct Need {
    /// Its id.
    pub policy: String,
    /// The names of the conditions that the moment decides, or what they look at.
    pub conditions: Vec<String>,
    rule: Arc<Rule>,
}

/// Another condition of the same name is another need; the same in another place of the file is not.
impl PartialEq for Need {
    fn eq(&self, other: &Self) -> bool {
        self.rule.canonical == other.rule.canonical
            && self.conditions == other.conditions
            && self.policy == other.policy
    }
}
impl Eq for Need {}

impl Access {
    /// `never`, `if`, `always`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Always { .. } => "always",
            Self::If { .. } => "if",
            Self::Never { .. } => "never",
        }
    }

    /// More is wider.
    pub(crate) fn width(&self) -> u8 {
        match self {
            Self::Never { .. } => 0,
            Self::If { .. } => 1,
            Self::Always { .. } => 2,
        }
    }

    /// Whether both are the same to who has it: of what is always or never so, the reasons do not count.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::If { .. }, Self::If { .. }) => self == other,
            _ => self.width() == other.width(),
        }
    }
}

/// In one line: what has to hold, or why.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = |needs: &[Need]| {
            let one = |need: &Need| format!("`{}`: {}", need.policy, need.conditions.join(" and "));
            needs.iter().map(one).collect::<Vec<_>>().join("; or ")
        };
        match self {
            Self::Always { policies } => write!(f, "`{}`", policies.join("`, `")),
            Self::If { permits, forbids } if forbids.is_empty() => f.write_str(&each(permits)),
            Self::If { permits, forbids } if permits.is_empty() => write!(f, "unless {}", each(forbids)),
            Self::If { permits, forbids } => write!(f, "{}; unless {}", each(permits), each(forbids)),
            Self::Never { reasons } => {
                f.write_str(&reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
            }
        }
    }
}

/// How far the user of these facts may reach their resource, whatever the moment.
///
/// Exact but for conditions that no moment, or every moment, fulfils (`age < 5 || age >= 5`): those are told as "if".
pub fn access(set: &PolicySet, facts: &Facts) -> Access {
    let facts = Facts { device: None, login_age: None, mfa_age: None, mfa_method: None, ..facts.clone() };
    // See `decide`.
    stacker::maybe_grow(DECIDE_STACK_BYTES, 2 * DECIDE_STACK_BYTES, || access_here(&Tally::of(set, &facts)))
}

fn access_here(tally: &Tally<'_>) -> Access {
    // An error for which nothing is missing is there in every moment.
    let depends = |(candidate, verdict): &&(&Candidate, Verdict)| {
        let unknown = tally.unknown(&candidate.rule.reads);
        *verdict == Verdict::Erred && unknown.iter().any(|fact| tally.facts.may_come(*fact))
    };
    let settled: Vec<_> = tally.against.iter().filter(|objection| !depends(objection)).copied().collect();
    if !settled.is_empty() {
        return Access::Never { reasons: tally.reasons(&settled) };
    }
    let permits: Vec<_> = tally.lacking.iter().filter(depends).collect();
    if tally.permits.is_empty() && permits.is_empty() {
        return Access::Never { reasons: tally.reasons(&tally.lacking) };
    }
    if tally.against.is_empty() && !tally.permits.is_empty() {
        return Access::Always { policies: tally.permitting() };
    }
    let permits = if tally.permits.is_empty() { needs(tally, permits.into_iter()) } else { Vec::new() };
    Access::If { permits, forbids: needs(tally, tally.against.iter()) }
}

fn needs<'a, 'b>(tally: &Tally<'a>, depending: impl Iterator<Item = &'b (&'a Candidate, Verdict)>) -> Vec<Need>
where
    'a: 'b,
{
    let mut depending: Vec<&Candidate> = depending.map(|(candidate, _)| *candidate).collect();
    depending.sort_by(|a, b| a.rule.id.cmp(&b.rule.id));
    depending.into_iter().take(REASONS_MAX).map(|candidate| need(tally, candidate)).collect()
}

fn need<'a>(tally: &Tally<'a>, candidate: &'a Candidate) -> Need {
    let rule = &candidate.rule;
    let text = |clause: &Clause| match (&clause.name, &rule.reason) {
        (Some(name), _) => format!("`{name}`"),
        (None, Some(reason)) => reason.clone(),
        (None, None) => looks_at(&clause.reads, rule),
    };
    let mut conditions: Vec<String> = Vec::new();
    for text in tally.clauses(candidate, Verdict::Erred).into_iter().map(text) {
        if !conditions.contains(&text) {
            conditions.push(text);
        }
    }
    if conditions.is_empty() {
        conditions.push(looks_at(&BTreeSet::from_iter(tally.unknown(&rule.reads)), rule));
    }
    Need { policy: rule.id.clone(), conditions, rule: Arc::clone(rule) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile;

    fn told(text: &str) -> (String, String) {
        let set = compile(&[("p", text)]).unwrap();
        let facts = Facts {
            groups: Some(["eng".to_owned()].into()),
            tags: Some(["db".to_owned()].into()),
            ..Facts::of("engineer", "pg")
        };
        let found = access(&set, &facts);
        (found.word().to_owned(), found.to_string())
    }

    #[test]
    fn what_no_moment_changes_is_always_or_never() {
        let (word, text) = told("@id(\"a\") permit(principal, action, resource);");
        assert_eq!((word.as_str(), text.as_str()), ("always", "`a`"));
        for (text, part) in [
            ("permit(principal in Group::\"ops\", action, resource);", "no policy permits it"),
            (
                "@id(\"a\") permit(principal, action, resource) unless { resource in Tag::\"db\" };",
                "`a` would permit it",
            ),
            (
                "permit(principal, action, resource);
                 @id(\"no\") @reason(\"closed\") forbid(principal, action, resource);
                 forbid(principal, action, resource) when { context.login_age_s > 5 };",
                "`no` forbids it: closed",
            ),
            // What errs whatever the moment.
            (
                "permit(principal, action, resource);
                 @id(\"big\") forbid(principal, action, resource) when { 9223372036854775807 + 1 > 0 };",
                "`big` cannot be decided",
            ),
            ("permit(principal, action, resource) when { 9223372036854775807 * 2 > 0 };", "too large"),
        ] {
            let (word, told) = told(text);
            assert!(word == "never" && told.contains(part), "{text}: {word} {told}");
        }
    }

    #[test]
    fn what_the_moment_decides_is_named_and_the_rest_is_not() {
        let (word, text) = told(
            "@id(\"db\") @condition_1(\"an engineer\") @condition_2(\"log-in of today\") @condition_3(\"a company laptop\")
             permit(principal, action, resource) when { principal in Group::\"eng\" }
             when { context.login_age_s < 86400 } unless { context.device == Device::\"kiosk\" };
             @id(\"ops\") permit(principal, action, resource) when { context.login_age_s < 5 };
             @id(\"other\") permit(principal in Group::\"ops\", action, resource);
             @id(\"old\") @condition(\"a stale log-in\") forbid(principal, action, resource) when { context.login_age_s > 99 };",
        );
        assert_eq!(word, "if");
        let expected = "`db`: `log-in of today` and `a company laptop`; or `ops`: it looks at the age of the log-in; \
                        unless `old`: `a stale log-in`";
        assert_eq!(text, expected);
        let (word, text) = told(
            "permit(principal, action, resource);
             @id(\"old\") @reason(\"log in daily\") forbid(principal, action, resource) when { context.login_age_s > 99 };",
        );
        assert_eq!((word.as_str(), text.as_str()), ("if", "unless `old`: log in daily"));
    }
}
