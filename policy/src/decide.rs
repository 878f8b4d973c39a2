//! Where is a policy decided? [`decide`]: from the compiled policies and the facts of the moment, permit or deny, with
//! every reason that counted.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashSet};
use std::fmt;

use cedar_policy::{
    Context, Entities, Entity, EntityUid, EvalResult, Expression, Request, RestrictedExpression, eval_expression,
};
use model::limits::{DECIDE_STACK_BYTES, REASONS_MAX};

use crate::compile::{Effect, PolicySet, Rule};
use crate::facts::{Fact, Facts};
use crate::schema::Kind;

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// At least one permit holds, and no forbid does.
    Permit {
        /// Ids of the permits that hold, sorted.
        policies: Vec<String>,
    },
    /// Everything else.
    Deny {
        /// Why, sorted, never empty, at most [`REASONS_MAX`].
        reasons: Vec<Reason>,
    },
}

impl Decision {
    /// Whether access is permitted.
    pub fn is_permit(&self) -> bool {
        matches!(self, Self::Permit { .. })
    }
}

/// Why a request was denied. What outranks everything else comes first in the order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A forbid holds.
    ForbiddenBy {
        /// Its id.
        policy: String,
        /// Its `@reason`, or what it looks at; may be empty.
        description: String,
    },
    /// A policy that could have mattered could not be evaluated. A forbid then forbids, a permit permits nothing.
    Unknown {
        /// Its id.
        policy: String,
        /// What was missing or went wrong.
        what: String,
    },
    /// A permit names the user and the resource, but its condition does not hold.
    ConditionFailed {
        /// Its id.
        policy: String,
        /// Its `@reason`, or what it looks at; may be empty.
        description: String,
    },
    /// No permit names this user for this resource.
    NoPermit,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colon = |description: &str| if description.is_empty() { String::new() } else { format!(": {description}") };
        match self {
            Self::ForbiddenBy { policy, description } => {
                write!(f, "policy `{policy}` forbids it{}", colon(description))
            }
            Self::Unknown { policy, what } => write!(f, "policy `{policy}` cannot be decided: {what}"),
            Self::ConditionFailed { policy, description } => {
                write!(f, "policy `{policy}` would permit it, but its condition does not hold{}", colon(description))
            }
            Self::NoPermit => f.write_str("no policy permits it: ask an administrator for access"),
        }
    }
}

/// May this subject reach this resource now, and why?
///
/// Never panics and never fails: what cannot be evaluated denies.
pub fn decide(set: &PolicySet, facts: &Facts) -> Decision {
    // Cedar makes an error of too little stack: the same facts would then be denied on one thread and not on another.
    stacker::maybe_grow(DECIDE_STACK_BYTES, 2 * DECIDE_STACK_BYTES, || decide_here(set, facts))
}

fn decide_here(set: &PolicySet, facts: &Facts) -> Decision {
    let mut tally = Tally { facts, permits: Vec::new(), against: Vec::new(), lacking: Vec::new() };
    // Made for the first condition; most heads that match need no evaluation at all.
    let question = OnceCell::new();
    for candidate in set.index.candidates(facts) {
        let verdict = match &candidate.condition {
            _ if candidate.is_in_the_dark(facts) => Verdict::Erred,
            None => Verdict::Holds,
            Some(condition) => match question.get_or_init(|| Question::new(set, facts)) {
                Some(question) => question.verdict(condition, candidate.needs_memberships),
                None => Verdict::Erred,
            },
        };
        tally.count(&candidate.rule, verdict);
    }
    tally.decision()
}

/// What one policy says about a request that its head names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Holds,
    Fails,
    /// Its condition could not be evaluated. Never the same as [`Verdict::Fails`].
    Erred,
}

/// The request in Cedar's words, with only what is known in it.
struct Question<'a> {
    set: &'a PolicySet,
    facts: &'a Facts,
    request: Request,
    /// Memberships: made when the first condition asks for them, because they are the dearest part of a request.
    entities: OnceCell<Option<Entities>>,
    nothing: Entities,
}

impl<'a> Question<'a> {
    /// None when Cedar refuses the facts themselves; then every condition errs.
    fn new(set: &'a PolicySet, facts: &'a Facts) -> Option<Self> {
        let words = set.words;
        let age = facts.login_age.map(|age| {
            let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
            ("login_age_s".to_owned(), RestrictedExpression::new_long(seconds))
        });
        let device = facts
            .device
            .as_ref()
            .map(|name| ("device".to_owned(), RestrictedExpression::new_entity_uid(words.uid(Kind::Device, name))));
        let context = Context::from_pairs(age.into_iter().chain(device)).ok()?;
        // Not checked against the schema: that would refuse the whole request for one unknown fact.
        let user = words.uid(Kind::User, &facts.user);
        let resource = words.uid(Kind::Resource, &facts.resource);
        let request = Request::new(user, words.connect.clone(), resource, context, None).ok()?;
        Some(Self { set, facts, request, entities: OnceCell::new(), nothing: Entities::empty() })
    }

    /// The user with its groups, the resource with its tags.
    fn memberships(&self) -> Option<Entities> {
        let (words, facts) = (self.set.words, self.facts);
        let uids = |kind, names: &Option<BTreeSet<String>>| -> HashSet<EntityUid> {
            names.iter().flatten().map(|name| words.uid(kind, name)).collect()
        };
        let known = [
            Entity::new_no_attrs(words.uid(Kind::User, &facts.user), uids(Kind::Group, &facts.groups)),
            Entity::new_no_attrs(words.uid(Kind::Resource, &facts.resource), uids(Kind::Tag, &facts.tags)),
        ];
        Entities::from_entities(known, None).ok()
    }

    fn verdict(&self, condition: &Expression, needs_memberships: bool) -> Verdict {
        let entities = match needs_memberships {
            true => self.entities.get_or_init(|| self.memberships()).as_ref(),
            false => Some(&self.nothing),
        };
        let Some(entities) = entities else { return Verdict::Erred };
        match eval_expression(&self.request, entities, condition) {
            Ok(EvalResult::Bool(true)) => Verdict::Holds,
            Ok(EvalResult::Bool(false)) => Verdict::Fails,
            // Anything but a truth value is an error, as in Cedar's own authorizer.
            Ok(_) | Err(_) => Verdict::Erred,
        }
    }
}

/// What the policies said.
struct Tally<'a> {
    facts: &'a Facts,
    /// Permits that hold.
    permits: Vec<&'a Rule>,
    /// Forbids that hold or could not be evaluated: one is enough to deny.
    against: Vec<(&'a Rule, Verdict)>,
    /// Permits that do not hold.
    lacking: Vec<(&'a Rule, Verdict)>,
}

impl<'a> Tally<'a> {
    fn count(&mut self, rule: &'a Rule, verdict: Verdict) {
        match (rule.effect, verdict) {
            (Effect::Forbid, Verdict::Holds | Verdict::Erred) => self.against.push((rule, verdict)),
            (Effect::Forbid, Verdict::Fails) => {}
            (Effect::Permit, Verdict::Holds) => self.permits.push(rule),
            (Effect::Permit, Verdict::Fails | Verdict::Erred) => self.lacking.push((rule, verdict)),
        }
    }

    fn decision(self) -> Decision {
        if self.against.is_empty() && !self.permits.is_empty() {
            let mut policies: Vec<String> = self.permits.into_iter().map(|rule| rule.id.clone()).collect();
            policies.sort();
            return Decision::Permit { policies };
        }
        // A forbid makes the permits' conditions beside the point.
        let objections = if self.against.is_empty() { &self.lacking } else { &self.against };
        let mut reasons: Vec<Reason> = objections.iter().map(|(rule, verdict)| self.reason(rule, *verdict)).collect();
        if reasons.is_empty() {
            reasons.push(Reason::NoPermit);
        }
        reasons.sort();
        reasons.truncate(REASONS_MAX);
        Decision::Deny { reasons }
    }

    fn reason(&self, rule: &Rule, verdict: Verdict) -> Reason {
        let policy = rule.id.clone();
        match (verdict, rule.effect) {
            (Verdict::Erred, _) => Reason::Unknown { policy, what: self.missing(rule) },
            (_, Effect::Forbid) => Reason::ForbiddenBy { policy, description: description(rule) },
            (_, Effect::Permit) => Reason::ConditionFailed { policy, description: description(rule) },
        }
    }

    fn missing(&self, rule: &Rule) -> String {
        let missing: Vec<Fact> = rule.reads.iter().copied().filter(|fact| !self.facts.knows(*fact)).collect();
        match missing.as_slice() {
            [] => "its condition cannot be computed (a number too large, for instance)".to_owned(),
            [one] => format!("{one} is not known"),
            many => format!("these are not known: {}", list(many)),
        }
    }
}

/// The author's reason; without one, what the condition looks at.
fn description(rule: &Rule) -> String {
    match &rule.reason {
        Some(reason) => reason.clone(),
        None if rule.conditional && !rule.reads.is_empty() => {
            format!("it looks at {}", list(&rule.reads.iter().copied().collect::<Vec<_>>()))
        }
        None => String::new(),
    }
}

fn list(facts: &[Fact]) -> String {
    facts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
