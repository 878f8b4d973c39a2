//! Which policies can matter for this request? An index by resource and then by principal, made once at compile time.
//!
//! Cedar alone looks at every policy for every request: 1,000 decisions a second with 1,000 policies. A request only
//! ever concerns policies whose scope names its resource, one of its tags or everything, and its user, one of the
//! user's groups or everyone; all others need not be looked at, because a scope that does not match cannot err.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::Policy;

use crate::compile::Rule;
use crate::facts::{Fact, Facts};
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

/// Policies of one scope that read the same memberships, evaluated together.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Which of groups and tags they name; when one of these is unknown, none of them is evaluated.
    memberships: Vec<Fact>,
    pub(crate) set: cedar_policy::PolicySet,
    /// Ids of the policies in `set`, sorted.
    pub(crate) ids: Vec<String>,
}

impl Part {
    /// Whether a membership is unknown that these policies ask for.
    ///
    /// Cedar answers `in` with false, not with an error, for an entity that it knows nothing about.
    pub(crate) fn is_in_the_dark(&self, facts: &Facts) -> bool {
        self.memberships.iter().any(|fact| !facts.knows(*fact))
    }
}

/// All policies of a set that can match any request at all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    slots: Slots<Slots<Vec<Part>>>,
}

impl Index {
    /// Files one policy.
    pub(crate) fn insert(&mut self, scope: &Scope, rule: &Rule, policy: Policy) -> Result<(), String> {
        let memberships: Vec<Fact> =
            rule.reads.iter().copied().filter(|fact| matches!(fact, Fact::Groups | Fact::Tags)).collect();
        let parts = self.slots.slot(&scope.what).slot(&scope.who);
        let at = match parts.iter().position(|part| part.memberships == memberships) {
            Some(at) => at,
            None => {
                parts.push(Part { memberships, set: cedar_policy::PolicySet::new(), ids: Vec::new() });
                parts.len() - 1
            }
        };
        if let Some(part) = parts.get_mut(at) {
            part.set.add(policy).map_err(|e| e.to_string())?;
            let place = part.ids.partition_point(|id| *id < rule.id);
            part.ids.insert(place, rule.id.clone());
        }
        Ok(())
    }

    /// The parts that can concern this request.
    pub(crate) fn candidates<'a>(&'a self, facts: &'a Facts) -> impl Iterator<Item = &'a Part> {
        self.slots
            .matching(&facts.resource, facts.tags.as_ref())
            .flat_map(|who| who.matching(&facts.user, facts.groups.as_ref()))
            .flatten()
    }
}
