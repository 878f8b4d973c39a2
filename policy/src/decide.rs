//! Where is a policy decided? [`decide`]: from the compiled policies and the facts of the moment, permit or deny, with
//! every reason that counted.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::time::Duration;

use cedar_policy::{
    Context, Entities, Entity, EntityUid, EvalResult, Expression, Request, RestrictedExpression, eval_expression,
};
use model::limits::{DECIDE_STACK_BYTES, REASONS_MAX};

use crate::compile::{Effect, PolicySet, Rule};
use crate::facts::{Fact, Facts, MFA_METHODS};
use crate::index::Candidate;
use crate::read::{Clause, is_in_the_dark};
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
        /// The names of its conditions; may be empty.
        condition: String,
        /// What its author, or else the decision itself, tells to do; may be empty.
        remedy: String,
    },
    /// A policy that could have mattered could not be evaluated. A forbid then forbids, a permit permits nothing.
    Unknown {
        /// Its id.
        policy: String,
        /// The name of the condition; may be empty.
        condition: String,
        /// What was missing or went wrong.
        what: String,
        /// What to do; may be empty.
        remedy: String,
    },
    /// A permit names the user and the resource, but this condition of it does not hold.
    ConditionFailed {
        /// Its id.
        policy: String,
        /// The name of the condition; may be empty.
        condition: String,
        /// What to do, or at least what the condition looks at; may be empty.
        remedy: String,
    },
    /// No permit names this user or workload for this resource.
    NoPermit,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named =
            |before: &str, name: &str| if name.is_empty() { String::new() } else { format!("{before}`{name}`") };
        let colon = |remedy: &str| if remedy.is_empty() { String::new() } else { format!(": {remedy}") };
        match self {
            Self::ForbiddenBy { policy, condition, remedy } => {
                write!(f, "policy `{policy}` forbids it{}{}", named(" because of ", condition), colon(remedy))
            }
            Self::Unknown { policy, condition, what, remedy } => {
                let (named, colon) = (named(", condition ", condition), colon(remedy));
                write!(f, "policy `{policy}`{named} cannot be decided, for {what}{colon}")
            }
            Self::ConditionFailed { policy, condition, remedy } if condition.is_empty() => {
                write!(f, "policy `{policy}` would permit it, but its condition does not hold{}", colon(remedy))
            }
            Self::ConditionFailed { policy, condition, remedy } => {
                write!(f, "policy `{policy}` would permit it, but `{condition}` does not hold{}", colon(remedy))
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
    Tally::of(set, facts).decision()
}

/// What one policy says about a request that its head names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Holds,
    Fails,
    /// Its condition could not be evaluated. Never the same as [`Verdict::Fails`].
    Erred,
}

/// The request in Cedar's words, with only what is known in it.
pub(crate) struct Question<'a> {
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
        let seconds = |age: Duration| RestrictedExpression::new_long(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        let device = |name: &String| RestrictedExpression::new_entity_uid(words.uid(Kind::Device, name));
        let known = [
            ("login_age_s", facts.login_age.map(seconds)),
            ("device", facts.device.as_ref().map(device)),
            ("mfa_age_s", facts.mfa_age.map(seconds)),
            ("mfa_method", facts.mfa_method.clone().map(RestrictedExpression::new_string)),
        ];
        let known = known.into_iter().filter_map(|(name, value)| value.map(|value| (name.to_owned(), value)));
        let context = Context::from_pairs(known).ok()?;
        // Not checked against the schema: that would refuse the whole request for one unknown fact.
        let user = words.uid(facts.subject(), &facts.user);
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
            Entity::new_no_attrs(words.uid(facts.subject(), &facts.user), uids(Kind::Group, &facts.groups)),
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
pub(crate) struct Tally<'a> {
    set: &'a PolicySet,
    pub(crate) facts: &'a Facts,
    /// Made for the first condition; most heads that match need no evaluation at all.
    question: OnceCell<Option<Question<'a>>>,
    /// Permits that hold.
    pub(crate) permits: Vec<&'a Candidate>,
    /// Forbids that hold or could not be evaluated: one is enough to deny.
    pub(crate) against: Vec<(&'a Candidate, Verdict)>,
    /// Permits that do not hold.
    pub(crate) lacking: Vec<(&'a Candidate, Verdict)>,
}

impl<'a> Tally<'a> {
    /// Asks every policy that can matter.
    pub(crate) fn of(set: &'a PolicySet, facts: &'a Facts) -> Self {
        let question = OnceCell::new();
        let mut tally = Self { set, facts, question, permits: Vec::new(), against: Vec::new(), lacking: Vec::new() };
        for candidate in set.index.candidates(facts) {
            let verdict = match &candidate.condition {
                _ if candidate.is_in_the_dark(facts) => Verdict::Erred,
                None => Verdict::Holds,
                Some(condition) => tally.evaluate(condition, candidate.needs_memberships),
            };
            tally.count(candidate, verdict);
        }
        tally
    }

    fn evaluate(&self, condition: &Expression, needs_memberships: bool) -> Verdict {
        match self.question.get_or_init(|| Question::new(self.set, self.facts)) {
            Some(question) => question.verdict(condition, needs_memberships),
            None => Verdict::Erred,
        }
    }

    fn count(&mut self, candidate: &'a Candidate, verdict: Verdict) {
        match (candidate.rule.effect, verdict) {
            (Effect::Forbid, Verdict::Holds | Verdict::Erred) => self.against.push((candidate, verdict)),
            (Effect::Forbid, Verdict::Fails) => {}
            (Effect::Permit, Verdict::Holds) => self.permits.push(candidate),
            (Effect::Permit, Verdict::Fails | Verdict::Erred) => self.lacking.push((candidate, verdict)),
        }
    }

    fn decision(self) -> Decision {
        if self.against.is_empty() && !self.permits.is_empty() {
            return Decision::Permit { policies: self.permitting() };
        }
        // A forbid makes the permits' conditions beside the point.
        let objections = if self.against.is_empty() { &self.lacking } else { &self.against };
        Decision::Deny { reasons: self.reasons(objections) }
    }

    /// Ids of the permits that hold, sorted.
    pub(crate) fn permitting(&self) -> Vec<String> {
        let mut policies: Vec<String> = self.permits.iter().map(|candidate| candidate.rule.id.clone()).collect();
        policies.sort();
        policies
    }

    /// Why not, sorted, never empty, at most [`REASONS_MAX`].
    pub(crate) fn reasons(&self, objections: &[(&'a Candidate, Verdict)]) -> Vec<Reason> {
        let mut first: Vec<&(&Candidate, Verdict)> = objections.iter().collect();
        // In the order of the reasons themselves, so that only those are made which are told.
        let rank = |(candidate, verdict): &(&Candidate, Verdict)| match (verdict, candidate.rule.effect) {
            (Verdict::Erred, _) => 1,
            (_, Effect::Forbid) => 0,
            (_, Effect::Permit) => 2,
        };
        first.sort_by(|a, b| (rank(a), &a.0.rule.id).cmp(&(rank(b), &b.0.rule.id)));
        let told = first.into_iter().take(REASONS_MAX);
        let mut reasons: Vec<Reason> = told.flat_map(|(candidate, verdict)| self.told(candidate, *verdict)).collect();
        if reasons.is_empty() {
            reasons.push(Reason::NoPermit);
        }
        reasons.sort();
        reasons.dedup();
        reasons.truncate(REASONS_MAX);
        reasons
    }

    /// The conditions of a policy that say this, one by one. Of a forbid that holds, all do.
    pub(crate) fn clauses(&self, candidate: &'a Candidate, verdict: Verdict) -> Vec<&'a Clause> {
        let says = |clause: &&Clause| match candidate.clauses.len() {
            1 => true,
            _ if is_in_the_dark(&clause.reads, self.facts) => verdict == Verdict::Erred,
            _ => self.evaluate(&clause.expression, clause.needs_memberships()) == verdict,
        };
        candidate.clauses.iter().filter(says).collect()
    }

    fn told(&self, candidate: &'a Candidate, verdict: Verdict) -> Vec<Reason> {
        let rule = &candidate.rule;
        let policy = || rule.id.clone();
        let clauses = self.clauses(candidate, verdict);
        if rule.effect == Effect::Forbid && verdict == Verdict::Holds {
            let names: Vec<&str> = clauses.iter().filter_map(|clause| clause.name.as_deref()).collect();
            let remedy = clauses.iter().find_map(|clause| clause.remedy.as_ref()).or(rule.reason.as_ref());
            let remedy = match remedy {
                Some(remedy) => remedy.clone(),
                None => self.fresh(candidate, Verdict::Fails).unwrap_or_else(|| looks_at(&rule.reads, rule)),
            };
            return vec![Reason::ForbiddenBy { policy: policy(), condition: names.join("`, `"), remedy }];
        }
        let told = |clause: Option<&Clause>| {
            let condition = clause.and_then(|clause| clause.name.clone()).unwrap_or_default();
            let remedy = clause.and_then(|clause| clause.remedy.as_ref()).or(rule.reason.as_ref()).cloned();
            let wanted = if rule.effect == Effect::Permit { Verdict::Holds } else { Verdict::Fails };
            let reads = clause.map_or(&rule.reads, |clause| &clause.reads);
            if verdict == Verdict::Erred {
                let remedy = remedy.or_else(|| self.fresh(candidate, wanted)).unwrap_or_default();
                return Reason::Unknown { policy: policy(), condition, what: self.missing(reads), remedy };
            }
            let remedy = remedy.or_else(|| self.fresh(candidate, wanted));
            let remedy = remedy.unwrap_or_else(|| looks_at(reads, rule));
            Reason::ConditionFailed { policy: policy(), condition, remedy }
        };
        // None of them alone where a membership that the head asks for is not known.
        if clauses.is_empty() {
            vec![told(None)]
        } else {
            clauses.into_iter().map(|clause| told(Some(clause))).collect()
        }
    }

    /// What a person can do at once, tried and not guessed: would it be otherwise right after a log-in, or a second factor?
    fn fresh(&self, candidate: &Candidate, wanted: Verdict) -> Option<String> {
        if self.facts.workload {
            return None;
        }
        let login = || {
            let fresh = Facts { login_age: Some(Duration::ZERO), ..self.facts.clone() };
            (self.would(candidate, &fresh, Fact::LoginAge)? == wanted)
                .then(|| "log in again with `umbra login`".to_owned())
        };
        let factor = || {
            let helps = |method: &&&str| {
                let fresh = self.facts.clone().with_factor(method);
                self.would(candidate, &fresh, Fact::MfaAge).or_else(|| self.would(candidate, &fresh, Fact::MfaMethod))
                    == Some(wanted)
            };
            let first = MFA_METHODS.iter().find(helps)?;
            Some(match *first {
                "provider" => "sign in again with a second factor at your identity provider: `umbra login`".to_owned(),
                _ => "give a second factor with `umbra mfa verify`".to_owned(),
            })
        };
        login().or_else(factor)
    }

    /// What the policy would say of other facts, if it reads the one that differs.
    fn would(&self, candidate: &Candidate, facts: &Facts, differs: Fact) -> Option<Verdict> {
        let reads = |clause: &Clause| clause.reads.contains(&differs);
        if !candidate.clauses.iter().any(reads) || candidate.is_in_the_dark(self.facts) {
            return None;
        }
        Some(Question::new(self.set, facts)?.verdict(candidate.condition.as_ref()?, candidate.needs_memberships))
    }

    /// The facts among these that are not known.
    pub(crate) fn unknown(&self, reads: &BTreeSet<Fact>) -> Vec<Fact> {
        reads.iter().copied().filter(|fact| !self.facts.knows(*fact)).collect()
    }

    fn missing(&self, reads: &BTreeSet<Fact>) -> String {
        match self.unknown(reads).as_slice() {
            unknown if unknown.iter().any(|fact| !self.facts.may_come(*fact)) => {
                "a workload has no log-in and no second factor".to_owned()
            }
            [] => "it cannot be computed (a number too large, for instance)".to_owned(),
            none if none.iter().all(|fact| matches!(fact, Fact::MfaAge | Fact::MfaMethod)) => {
                "no second factor was given in this session".to_owned()
            }
            [one] => format!("{one} is not known"),
            many => format!("these are not known: {}", list(many)),
        }
    }
}

/// What a condition looks at, where its author has given it neither name nor remedy.
pub(crate) fn looks_at(reads: &BTreeSet<Fact>, rule: &Rule) -> String {
    if !rule.conditional || reads.is_empty() {
        return String::new();
    }
    format!("it looks at {}", list(&reads.iter().copied().collect::<Vec<_>>()))
}

fn list(facts: &[Fact]) -> String {
    facts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
