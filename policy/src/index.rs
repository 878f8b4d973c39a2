//! Which policies can matter for this request? An index by resource and then by principal, made once at compile time.
//!
//! Cedar alone looks at every policy for every request: 1,000 decisions a second with 1,000 policies. A request only
//! ever concerns policies whose scope names its resource, one of its tags or everything, and its user, one of the
//! user's groups or everyone; all others need not be looked at, because a scope that does not match cannot err.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cedar_policy::{Expression, Policy};

use crate::compile::Rule;
use crate::facts::Facts;
use crate::read::{Clause, is_in_the_dark};
use crate::scope::{Scope, Side};

/// Values filed under one side of a scope.
#[derive(Debug, Clone)]
pub(crate) struct Slots<T> {
    any: Option<T>,
    one: BTreeMap<String, T>,
    members: BTreeMap<String, T>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { any: None, one: BTreeMap::new(), members: BTreeMap::new() }
    }
}

impl<T: Default> Slots<T> {
    /// The slot for a side, made when it is new.
    fn slot(&mut self, side: &Side) -> &mut T {
        match side {
            Side::Any => self.any.get_or_insert_default(),
            Side::One(name) => self.one.entry(name.clone()).or_default(),
            Side::Members(name) => self.members.entry(name.clone()).or_default(),
        }
    }
}

impl<T> Slots<T> {
    /// Every slot that can concern `name` with these memberships. When the memberships are not known, that is all of them.
    pub(crate) fn matching<'a>(
        &'a self,
        name: &str,
        memberships: Option<&'a BTreeSet<String>>,
    ) -> impl Iterator<Item = &'a T> + use<'a, T> {
        let known = memberships.into_iter().flatten().filter_map(|membership| self.members.get(membership));
        let all = memberships.is_none().then(|| self.members.values()).into_iter().flatten();
        self.any.iter().chain(self.one.get(name)).chain(known).chain(all)
    }
}

/// A policy as a decision uses it.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) rule: Arc<Rule>,
    /// Its `when` and `unless` as one expression. The head is not in it: the index has compared that already.
    pub(crate) condition: Option<Expression>,
    /// The same one by one, to say which of them fail.
    pub(crate) clauses: Vec<Clause>,
    /// Whether the condition needs to be told groups and tags.
    pub(crate) needs_memberships: bool,
}

impl Candidate {
    fn new(rule: Arc<Rule>, policy: &Policy, clauses: Vec<Clause>) -> Self {
        let needs_memberships = clauses.iter().any(Clause::needs_memberships);
        let condition = policy.as_ref().non_scope_constraints().cloned().map(Expression::from);
        Self { rule, condition, clauses, needs_memberships }
    }

    /// Whether a membership is unknown that this policy asks for, in its head or its condition.
    pub(crate) fn is_in_the_dark(&self, facts: &Facts) -> bool {
        is_in_the_dark(&self.rule.reads, facts)
    }
}

/// All policies of a set that can match any request at all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    slots: Slots<Slots<Vec<Candidate>>>,
}

impl Index {
    /// Files one policy.
    pub(crate) fn insert(&mut self, scope: &Scope, rule: Arc<Rule>, policy: &Policy, clauses: Vec<Clause>) {
        self.slots.slot(&scope.what).slot(&scope.who).push(Candidate::new(rule, policy, clauses));
    }

    /// The policies whose head names this request, or may do so as far as is known.
    pub(crate) fn candidates<'a>(&'a self, facts: &'a Facts) -> impl Iterator<Item = &'a Candidate> {
        self.slots
            .matching(&facts.resource, facts.tags.as_ref())
            .flat_map(|who| who.matching(&facts.user, facts.groups.as_ref()))
            .flatten()
            .filter(|candidate| candidate.rule.scope.as_ref().is_some_and(|scope| scope.takes(facts.subject())))
    }
}
