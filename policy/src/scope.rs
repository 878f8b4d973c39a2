//! Whom and what does a policy's head name? `permit(WHO, action, WHAT)`, before any condition is looked at.

use cedar_policy::{ActionConstraint, EntityUid, Policy, PrincipalConstraint, ResourceConstraint};

use crate::schema::Kind;

/// One side of a scope: users and groups on the left, resources and tags on the right.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// Everyone, or everything.
    Any,
    /// This user, or this resource.
    One(String),
    /// The members of this group, or all that carry this tag.
    Members(String),
}

/// Whom a policy names, and what for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Scope {
    pub(crate) who: Side,
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
        let who = Kinds { one: Kind::User, members: Kind::Group };
        let who = match policy.principal_constraint() {
            PrincipalConstraint::Any => Side::Any,
            PrincipalConstraint::Is(kind) => who.is(Kind::of_type(&kind))?,
            PrincipalConstraint::Eq(uid) => who.equals(&uid)?,
            PrincipalConstraint::In(uid) => who.within(&uid)?,
            PrincipalConstraint::IsIn(kind, uid) => who.is(Kind::of_type(&kind)).and_then(|_| who.within(&uid))?,
        };
        let what = Kinds { one: Kind::Resource, members: Kind::Tag };
        let what = match policy.resource_constraint() {
            ResourceConstraint::Any => Side::Any,
            ResourceConstraint::Is(kind) => what.is(Kind::of_type(&kind))?,
            ResourceConstraint::Eq(uid) => what.equals(&uid)?,
            ResourceConstraint::In(uid) => what.within(&uid)?,
            ResourceConstraint::IsIn(kind, uid) => what.is(Kind::of_type(&kind)).and_then(|_| what.within(&uid))?,
        };
        Some(Self { who, what })
    }
}

/// The two kinds of one side.
struct Kinds {
    one: Kind,
    members: Kind,
}

impl Kinds {
    fn is(&self, kind: Option<Kind>) -> Option<Side> {
        (kind == Some(self.one)).then_some(Side::Any)
    }

    fn equals(&self, uid: &EntityUid) -> Option<Side> {
        match Kind::of(uid) {
            Some((kind, name)) if kind == self.one => Some(Side::One(name.to_owned())),
            _ => None,
        }
    }

    /// `in` is reflexive: a user is "in" itself.
    fn within(&self, uid: &EntityUid) -> Option<Side> {
        match Kind::of(uid) {
            Some((kind, name)) if kind == self.members => Some(Side::Members(name.to_owned())),
            _ => self.equals(uid),
        }
    }
}
