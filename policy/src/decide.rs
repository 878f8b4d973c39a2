//! Where is a policy decided? [`decide`]: from the compiled policies and the facts of the moment, permit or deny, with
//! every reason that counted.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use cedar_policy::{
    AuthorizationError, Authorizer, Context, Entities, Entity, EntityUid, Request, RestrictedExpression,
};
use model::limits::{DECIDE_STACK_BYTES, REASONS_MAX};

use crate::compile::{Effect, PolicySet, Rule};
use crate::facts::{Fact, Facts};
use crate::index::Part;
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
    let mut tally = Tally { set, facts, permits: BTreeSet::new(), against: BTreeSet::new(), lacking: BTreeSet::new() };
    match request(set, facts) {
        Ok((request, entities)) => {
            let authorizer = Authorizer::new();
            for part in set.index.candidates(facts) {
                tally.count(&authorizer, &request, &entities, part);
            }
        }
        Err(what) => {
            tally.against.insert(Reason::Unknown { policy: "(all)".to_owned(), what });
        }
    }
    tally.decision()
}

/// The request with only what is known in it.
fn request(set: &PolicySet, facts: &Facts) -> Result<(Request, Entities), String> {
    let words = set.words;
    let user = words.uid(Kind::User, &facts.user);
    let resource = words.uid(Kind::Resource, &facts.resource);
    let uids = |kind, names: &Option<BTreeSet<String>>| -> HashSet<EntityUid> {
        names.iter().flatten().map(|name| words.uid(kind, name)).collect()
    };
    let entities = Entities::from_entities(
        [
            Entity::new_no_attrs(user.clone(), uids(Kind::Group, &facts.groups)),
            Entity::new_no_attrs(resource.clone(), uids(Kind::Tag, &facts.tags)),
        ],
        None,
    )
    .map_err(|e| e.to_string())?;
    let age = facts.login_age.map(|age| {
        let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
        ("login_age_s".to_owned(), RestrictedExpression::new_long(seconds))
    });
    let device = facts
        .device
        .as_ref()
        .map(|name| ("device".to_owned(), RestrictedExpression::new_entity_uid(words.uid(Kind::Device, name))));
    let context = Context::from_pairs(age.into_iter().chain(device)).map_err(|e| e.to_string())?;
    // Not checked against the schema: that would refuse the whole request for one unknown fact.
    let request = Request::new(user, words.connect.clone(), resource, context, None).map_err(|e| e.to_string())?;
    Ok((request, entities))
}

/// What the policies said.
struct Tally<'a> {
    set: &'a PolicySet,
    facts: &'a Facts,
    /// Permits that hold.
    permits: BTreeSet<String>,
    /// Forbids that hold or could not be evaluated: one is enough to deny.
    against: BTreeSet<Reason>,
    /// Permits that do not hold.
    lacking: BTreeSet<Reason>,
}

impl Tally<'_> {
    /// Counts what the policies of one part say.
    fn count(&mut self, authorizer: &Authorizer, request: &Request, entities: &Entities, part: &Part) {
        let dark = part.is_in_the_dark(self.facts);
        let response = (!dark).then(|| authorizer.is_authorized(request, &part.set, entities));
        let diagnostics = response.as_ref().map(cedar_policy::Response::diagnostics);
        let erred: BTreeSet<&str> = diagnostics.into_iter().flat_map(|d| d.errors()).map(erring_policy).collect();
        let held: BTreeSet<&str> = diagnostics.into_iter().flat_map(|d| d.reason()).map(AsRef::as_ref).collect();
        for id in &part.ids {
            let Some(rule) = self.set.rules.get(id) else { continue };
            let erred = dark || erred.contains(id.as_str());
            let held = held.contains(id.as_str());
            match (rule.effect, erred, held) {
                (Effect::Forbid, true, _) => self.against.insert(self.unknown(rule)),
                (Effect::Forbid, false, true) => {
                    self.against.insert(Reason::ForbiddenBy { policy: id.clone(), description: description(rule) })
                }
                (Effect::Forbid, false, false) => false,
                (Effect::Permit, true, _) => self.lacking.insert(self.unknown(rule)),
                (Effect::Permit, false, true) => self.permits.insert(id.clone()),
                (Effect::Permit, false, false) => {
                    self.lacking.insert(Reason::ConditionFailed { policy: id.clone(), description: description(rule) })
                }
            };
        }
    }

    fn unknown(&self, rule: &Rule) -> Reason {
        let missing: Vec<Fact> = rule.reads.iter().copied().filter(|fact| !self.facts.knows(*fact)).collect();
        let what = match missing.as_slice() {
            [] => "its condition cannot be computed (a number too large, for instance)".to_owned(),
            [one] => format!("{one} is not known"),
            many => format!("these are not known: {}", list(many)),
        };
        Reason::Unknown { policy: rule.id.clone(), what }
    }

    fn decision(self) -> Decision {
        if self.against.is_empty() && !self.permits.is_empty() {
            return Decision::Permit { policies: self.permits.into_iter().collect() };
        }
        // A forbid makes the permits' conditions beside the point.
        let mut reasons = if self.against.is_empty() { self.lacking } else { self.against };
        if reasons.is_empty() {
            reasons.insert(Reason::NoPermit);
        }
        Decision::Deny { reasons: reasons.into_iter().take(REASONS_MAX).collect() }
    }
}

fn erring_policy(error: &AuthorizationError) -> &str {
    match error {
        AuthorizationError::PolicyEvaluationError(error) => error.policy_id().as_ref(),
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
