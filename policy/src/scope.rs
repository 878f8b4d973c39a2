//! Whom and what does a policy's head name? `permit(WHO, action, WHAT)`, before any condition is looked at.

use cedar_policy::{ActionConstraint, EntityUid, Policy, PrincipalConstraint, ResourceConstraint};

use crate::schema::Kind;

/// One side of a scope: users, workloads and groups on the left, resources and tags on the right.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// Everyone, or everything.
    Any,
    /// This user or workload, or this resource.
    One(String),
    /// The members of this group, or all that carry this tag.
    Members(String),
}

/// Whom a policy names, and what for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Scope {
    pub(crate) who: Side,
    /// People or workloads alone, where the head says which: `== User::"x"`, `is Workload`. A name means one of them, never both.
    pub(crate) only: Option<Kind>,
    pub(crate) what: Side,
}

impl Scope {
    /// The scope of a policy; none when it can match no request (`principal == Group::"x"`, `action in []`).
    pub(crate) fn of(policy: &Policy, connect: &EntityUid) -> Option<Self> {
        let acts = match policy.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(uid) => uid == *connect,
            ActionConstraint::In(uids) => uids.contains(connect),
        };
        if !acts {
            return None;
        }
        let who = Kinds { one: &[Kind::User, Kind::Workload], members: Kind::Group };
        let (who, only) = match policy.principal_constraint() {
            PrincipalConstraint::Any => (Side::Any, None),
            PrincipalConstraint::Is(kind) => (Side::Any, Some(who.is(Kind::of_type(&kind))?)),
            PrincipalConstraint::Eq(uid) => who.equals(&uid)?,
            PrincipalConstraint::In(uid) => who.within(&uid)?,
            PrincipalConstraint::IsIn(kind, uid) => who.is_within(Kind::of_type(&kind), &uid)?,
        };
        let what = Kinds { one: &[Kind::Resource], members: Kind::Tag };
        let (what, _) = match policy.resource_constraint() {
            ResourceConstraint::Any => (Side::Any, None),
            ResourceConstraint::Is(kind) => (Side::Any, Some(what.is(Kind::of_type(&kind))?)),
            ResourceConstraint::Eq(uid) => what.equals(&uid)?,
            ResourceConstraint::In(uid) => what.within(&uid)?,
            ResourceConstraint::IsIn(kind, uid) => what.is_within(Kind::of_type(&kind), &uid)?,
        };
        Some(Self { who, only, what })
    }

    /// Whether subjects of this kind are among those that it names.
    pub(crate) fn takes(&self, subject: Kind) -> bool {
        self.only.is_none_or(|only| only == subject)
    }
}

/// The kinds of one side.
struct Kinds {
    one: &'static [Kind],
    members: Kind,
}

/// Whom a head names, and of which kind alone they are.
type Named = (Side, Option<Kind>);

impl Kinds {
    fn is(&self, kind: Option<Kind>) -> Option<Kind> {
        kind.filter(|kind| self.one.contains(kind))
    }

    fn equals(&self, uid: &EntityUid) -> Option<Named> {
        let (kind, name) = Kind::of(uid)?;
        Some((Side::One(name.to_owned()), Some(self.is(Some(kind))?)))
    }

    /// `in` is reflexive: a user is "in" itself.
    fn within(&self, uid: &EntityUid) -> Option<Named> {
        match Kind::of(uid) {
            Some((kind, name)) if kind == self.members => Some((Side::Members(name.to_owned()), None)),
            _ => self.equals(uid),
        }
    }

    fn is_within(&self, kind: Option<Kind>, uid: &EntityUid) -> Option<Named> {
        let kind = self.is(kind)?;
        let (side, only) = self.within(uid)?;
        // `is User in Workload::"x"` means nobody.
        only.is_none_or(|only| only == kind).then_some((side, Some(kind)))
    }
}
