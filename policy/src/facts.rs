//! What does a decision stand on? Everything that is known about the subject, the resource and the moment.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::schema::Kind;

/// By which methods a second factor can be given, as policies call them.
pub const MFA_METHODS: [&str; 4] = ["totp", "recovery-code", "provider", "passkey-local"];

/// What is known when somebody asks to reach a resource.
///
/// `None` means *not known*, never *empty*: a policy that reads an unknown fact errs, and an error never permits.
/// Users, workloads, groups, devices, resources and tags are given by the names that policies use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The user who asks, or the workload.
    pub user: String,
    /// Whether that is a workload: then it has neither log-in nor second factor, and no policy that names a person means it.
    pub workload: bool,
    /// All groups that the user is in, those of groups in groups included.
    pub groups: Option<BTreeSet<String>>,
    /// The device that the user sits at.
    pub device: Option<String>,
    /// The resource that is asked for.
    pub resource: String,
    /// The tags of that resource.
    pub tags: Option<BTreeSet<String>>,
    /// How long ago the user logged in.
    pub login_age: Option<Duration>,
    /// How long ago the user last gave a second factor in this session; `None` also where none was given.
    pub mfa_age: Option<Duration>,
    /// By which method: `totp`, `recovery-code`, `passkey-local`; `None` where `mfa_age` is.
    pub mfa_method: Option<String>,
}

impl Facts {
    /// Facts of which only the two names are known.
    pub fn of(user: impl Into<String>, resource: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            workload: false,
            groups: None,
            device: None,
            resource: resource.into(),
            tags: None,
            login_age: None,
            mfa_age: None,
            mfa_method: None,
        }
    }

    /// The same of a workload of this name.
    #[must_use]
    pub fn of_workload(self) -> Self {
        Self { workload: true, login_age: None, mfa_age: None, mfa_method: None, ..self }
    }

    /// The kind of who asks.
    pub(crate) fn subject(&self) -> Kind {
        if self.workload { Kind::Workload } else { Kind::User }
    }

    /// Whether some moment could tell this fact, if it is not known: a log-in, a factor, the device that is asked from.
    pub(crate) fn may_come(&self, fact: Fact) -> bool {
        match fact {
            Fact::Groups | Fact::Tags | Fact::Device => true,
            Fact::LoginAge | Fact::MfaAge | Fact::MfaMethod => !self.workload,
        }
    }

    /// The same, right after a second factor by this method.
    #[must_use]
    pub fn with_factor(self, method: &str) -> Self {
        Self { mfa_age: Some(Duration::ZERO), mfa_method: Some(method.to_owned()), ..self }
    }

    /// Whether this fact is known.
    pub fn knows(&self, fact: Fact) -> bool {
        match fact {
            Fact::Groups => self.groups.is_some(),
            Fact::Tags => self.tags.is_some(),
            Fact::Device => self.device.is_some(),
            Fact::LoginAge => self.login_age.is_some(),
            Fact::MfaAge => self.mfa_age.is_some(),
            Fact::MfaMethod => self.mfa_method.is_some(),
        }
    }
}

/// A fact that may be unknown, and that policies may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fact {
    /// See [`Facts::groups`].
    Groups,
    /// See [`Facts::tags`].
    Tags,
    /// See [`Facts::device`].
    Device,
    /// See [`Facts::login_age`].
    LoginAge,
    /// See [`Facts::mfa_age`].
    MfaAge,
    /// See [`Facts::mfa_method`].
    MfaMethod,
}

impl Fact {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Groups, Self::Tags, Self::Device, Self::LoginAge, Self::MfaAge, Self::MfaMethod];

    /// The attribute of `context` that carries it; groups and tags are no attributes.
    pub(crate) fn of_attribute(name: &str) -> Option<Self> {
        match name {
            "login_age_s" => Some(Self::LoginAge),
            "device" => Some(Self::Device),
            "mfa_age_s" => Some(Self::MfaAge),
            "mfa_method" => Some(Self::MfaMethod),
            _ => None,
        }
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Groups => "the groups of the user",
            Self::Tags => "the tags of the resource",
            Self::Device => "the device",
            Self::LoginAge => "the age of the log-in",
            Self::MfaAge => "the age of the second factor",
            Self::MfaMethod => "the method of the second factor",
        })
    }
}
