//! Which words may a policy use? The Cedar schema of Umbra, and the constants made from it.
//!
//! ```cedar
//! @id("databases-for-engineers") @condition("a log-in of the last eight hours") @remedy("Log in again.")
//! permit(principal in Group::"engineers", action == Action::"connect", resource in Tag::"databases")
//! when { context.login_age_s < 28800 };
//! ```

use std::sync::OnceLock;

use cedar_policy::{EntityId, EntityTypeName, EntityUid, Schema};

/// The schema in Cedar's own notation, for editors and for `policy check`.
///
/// Attributes of `context` are declared as required although a decision may lack them: a policy that reads an absent
/// one then errs, and need not (and may not) ask with `has`.
pub const SCHEMA: &str = r#"
entity Group;
entity User in [Group];
entity Workload in [Group];
entity Tag;
entity Resource in [Tag];
entity Device;
action connect appliesTo {
    principal: [User, Workload],
    resource: Resource,
    context: {
        // Whole seconds since the user logged in. Not known of a workload: it never does.
        login_age_s: Long,
        // The enrolled machine that asks.
        device: Device,
        // Whole seconds since the user gave a second factor in this session. Not known where none was given.
        mfa_age_s: Long,
        // By which method: "totp", "recovery-code". Not known where none was given.
        mfa_method: String,
    },
};
"#;

/// What kind of thing a name in a policy means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `User::"..."`
    User,
    /// `Group::"..."`
    Group,
    /// `Resource::"..."`
    Resource,
    /// `Tag::"..."`
    Tag,
    /// `Device::"..."`
    Device,
    /// `Workload::"..."`
    Workload,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::User, Self::Group, Self::Resource, Self::Tag, Self::Device, Self::Workload];

    /// The entity type's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::Group => "Group",
            Self::Resource => "Resource",
            Self::Tag => "Tag",
            Self::Device => "Device",
            Self::Workload => "Workload",
        }
    }

    /// What a uid of the policy language means: its kind and its name; none for an action.
    pub(crate) fn of(uid: &EntityUid) -> Option<(Self, &str)> {
        let kind = Self::of_type(uid.type_name())?;
        Some((kind, uid.id().unescaped()))
    }

    /// The kind of an entity type.
    pub(crate) fn of_type(name: &EntityTypeName) -> Option<Self> {
        if name.namespace_components().next().is_some() {
            return None;
        }
        Self::ALL.into_iter().find(|kind| kind.name() == name.basename())
    }
}

/// The schema and its names, parsed once.
#[derive(Debug, Clone)]
pub(crate) struct Vocabulary {
    pub(crate) schema: Schema,
    pub(crate) connect: EntityUid,
    types: [EntityTypeName; 6],
}

impl Vocabulary {
    /// The vocabulary, parsed at the first use.
    pub(crate) fn shared() -> Result<&'static Self, String> {
        static SHARED: OnceLock<Result<Vocabulary, String>> = OnceLock::new();
        SHARED.get_or_init(Self::new).as_ref().map_err(Clone::clone)
    }

    /// Parses [`SCHEMA`]. An error is a defect of this file, held by a test.
    fn new() -> Result<Self, String> {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).map_err(|e| e.to_string())?;
        let kind = |kind: Kind| kind.name().parse::<EntityTypeName>().map_err(|e| e.to_string());
        let action = "Action".parse::<EntityTypeName>().map_err(|e| e.to_string())?;
        Ok(Self {
            schema,
            connect: EntityUid::from_type_name_and_id(action, EntityId::new("connect")),
            types: [
                kind(Kind::User)?,
                kind(Kind::Group)?,
                kind(Kind::Resource)?,
                kind(Kind::Tag)?,
                kind(Kind::Device)?,
                kind(Kind::Workload)?,
            ],
        })
    }

    /// The uid of a thing by its name.
    pub(crate) fn uid(&self, kind: Kind, name: &str) -> EntityUid {
        let [user, group, resource, tag, device, workload] = &self.types;
        let of = match kind {
            Kind::User => user,
            Kind::Group => group,
            Kind::Resource => resource,
            Kind::Tag => tag,
            Kind::Device => device,
            Kind::Workload => workload,
        };
        EntityUid::from_type_name_and_id(of.clone(), EntityId::new(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_parses_and_every_uid_is_read_back() {
        let words = Vocabulary::new().unwrap();
        for kind in Kind::ALL {
            for name in ["engineer", "", "../x", "a\"b\n", "\u{202e}é"] {
                assert_eq!(Kind::of(&words.uid(kind, name)), Some((kind, name)));
            }
        }
        assert_eq!(Kind::of(&words.connect), None);
    }
}
