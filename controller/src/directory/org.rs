//! What is true of the organisation as a whole? Written by `init`; what changes later is who speaks for it (`crate::authority`).

use super::encode;
use crate::store::Record;
use model::key::PublicKey;
use model::net::HostName;
use model::pool::Pool;
use model::time::WallMs;
use node::successor::{Announcement, Authority};
use serde::{Deserialize, Serialize};

/// The organisation. There is one: its id is [`Org::ID`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Org {
    /// The SPIFFE trust domain.
    pub trust_domain: HostName,
    /// Overlay addresses.
    pub pool: Pool,
    /// When `init` made it.
    pub created: WallMs,
    /// Where nodes reach the controller: `HOST:PORT`, best first.
    pub endpoints: Vec<String>,
    /// Zones in which resources may have names, the trust domain's first.
    pub zones: Vec<HostName>,
    /// Those among the zones that are the organisation's alone: what is not declared there does not exist.
    pub private_zones: Vec<HostName>,
    /// The controller's WireGuard key.
    #[serde(with = "encode::key")]
    pub key: PublicKey,
    /// The CA's certificate, DER.
    #[serde(with = "encode::bytes")]
    pub ca: Vec<u8>,
    /// Since when key and CA are in use; none: since `init`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<WallMs>,
    /// Where they are being followed by others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub succession: Option<Succession>,
}

/// One authority (the controller's key and CA) follows another: both are good until the end of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Succession {
    /// The one before.
    pub before: Authority,
    /// What nodes are told, signed by the one before.
    pub announcement: Announcement,
    /// The next one is the one in use by now.
    pub switched: bool,
}

impl Succession {
    /// When the one before is to be destroyed: as announced, and never before nodes had their time since the switch.
    pub fn retires(&self, since: WallMs) -> WallMs {
        let Announcement { switches, ends, .. } = self.announcement;
        WallMs(ends.0.max(since.0.saturating_add(ends.0.saturating_sub(switches.0))))
    }
}

impl Org {
    /// The one id.
    pub const ID: &'static str = "self";

    /// What people compare before they join it.
    pub fn fingerprint(&self) -> String {
        proto::join::organisation_fingerprint(self.trust_domain.as_str(), &self.key, &self.ca)
    }

    /// The key and CA in use.
    pub fn authority(&self) -> Authority {
        Authority { key: self.key, ca: self.ca.clone() }
    }

    /// Since when they are.
    pub fn since(&self) -> WallMs {
        self.since.unwrap_or(self.created)
    }

    /// The other one, while one follows another: the next or the former.
    pub fn other(&self) -> Option<Authority> {
        let succession = self.succession.as_ref()?;
        Some(if succession.switched { succession.before.clone() } else { succession.announcement.next.clone() })
    }

    /// Whatever is signed by one of these is good, the one in use first.
    pub fn trusted(&self) -> Vec<Authority> {
        std::iter::once(self.authority()).chain(self.other()).collect()
    }
}

impl Record for Org {
    const KIND: &'static str = "org";
    type Id = str;
}

/// A secret of the controller itself, sealed (`crate::seal`) for the place where it lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SealedSecret {
    /// What the sealer made.
    #[serde(with = "encode::bytes")]
    pub sealed: Vec<u8>,
}

impl SealedSecret {
    /// The CA's private key (PKCS #8, DER).
    pub const CA_KEY: &'static str = "ca-key";
    /// The controller's WireGuard key (32 bytes).
    pub const CONTROL_KEY: &'static str = "control-key";
    /// The private key of the CA that follows, or of the one before.
    pub const OTHER_CA_KEY: &'static str = "other-ca-key";
    /// The controller's WireGuard key that follows, or the one before.
    pub const OTHER_CONTROL_KEY: &'static str = "other-control-key";
    /// The certificate (DER) of the CA of programs, see `crate::workload`.
    pub const WORKLOAD_CA: &'static str = "workload-ca";
    /// Its private key (PKCS #8, DER).
    pub const WORKLOAD_CA_KEY: &'static str = "workload-ca-key";
    /// The key that signs programs' tokens (PKCS #8, DER).
    pub const WORKLOAD_TOKEN_KEY: &'static str = "workload-token-key";
    /// The place to which a secret is bound: its key in the store.
    pub fn place(id: &str) -> String {
        format!("{}/{id}", Self::KIND)
    }
}

impl Record for SealedSecret {
    const KIND: &'static str = "secret";
    type Id = str;
}

/// The one-time token of `init`, see `crate::owner`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OwnerToken {
    /// SHA-256 of the token.
    #[serde(with = "encode::array")]
    pub hash: [u8; 32],
    /// Its end by the wall clock.
    pub expires: WallMs,
    /// Its end by the clock of this boot of the machine, milliseconds.
    pub expires_boot_ms: u64,
    /// Which boot that is.
    pub boot_id: String,
}

impl OwnerToken {
    /// The one id.
    pub const ID: &'static str = "token";
}

impl Record for OwnerToken {
    const KIND: &'static str = "owner";
    type Id = str;
}
