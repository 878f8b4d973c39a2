//! Who is this machine? What a node keeps on its disk after it has enrolled: keys, certificate, addresses, pins.

use crate::svid::{SvidError, SvidKey};
use crate::tls::{SvidSlot, TlsError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use host::keyfile;
use model::ids::NodeId;
use model::key::{PrivateKey, PublicKey};
use model::limits::IDENTITY_BYTES_MAX;
use model::net::{HostName, Prefix};
use model::pool::Pool;
use model::secret::Secret;
use model::time::WallMs;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FILE: &str = "identity.json";
const VERSION: u32 = 1;

/// Why the identity cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file is not there: not joined.
    #[error(
        "this machine has not joined an organisation yet; run `up --join FILE` with a join file from your administrator"
    )]
    NotJoined,
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] keyfile::KeyFileError),
    /// It is damaged.
    #[error("{path} is damaged ({why}); move it away and join again with a new join file")]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Its keys or certificate are not usable.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// TLS does not take them.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The identity of an enrolled node.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The organisation.
    pub trust_domain: String,
    /// This node.
    pub node: NodeId,
    /// The controller's WireGuard key: pinned.
    pub controller_key: PublicKey,
    /// Where the controller may be reached, `HOST:PORT`.
    pub endpoints: Vec<String>,
    /// The CA, DER: pinned.
    pub ca: Vec<u8>,
    /// The organisation's addresses.
    pub pool: Pool,
    /// Our control key.
    pub control_key: Arc<PrivateKey>,
    /// Since when.
    pub control_key_since: WallMs,
    /// The one that follows it, once it has been made: whichever of the two the controller knows is used.
    pub next_control_key: Option<Arc<PrivateKey>>,
    /// What proves who we are where neither is known.
    pub recovery: Arc<Secret<[u8; 32]>>,
    /// The SVID's key, PKCS #8.
    pub svid_key: Secret<Vec<u8>>,
    /// The SVID's chain, DER, leaf first.
    pub svid_chain: Vec<Vec<u8>>,
    /// Our overlay IPv6 address.
    pub v6: Ipv6Addr,
    /// Our overlay IPv4 address; gateways have none.
    pub v4: Option<Ipv4Addr>,
    /// The zones that the organisation may claim here.
    pub zones: Vec<HostName>,
    /// The real prefixes for which it may set routes here.
    pub prefixes: Vec<Prefix>,
    /// What administrators saw when they confirmed this node: over the keys with which it enrolled.
    pub fingerprint: String,
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    version: u32,
    trust_domain: String,
    node: String,
    controller_key: String,
    endpoints: Vec<String>,
    ca: String,
    pool: Pool,
    control_key: String,
    control_key_since: WallMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_control_key: Option<String>,
    recovery: String,
    svid_key: String,
    svid_chain: Vec<String>,
    v6: Ipv6Addr,
    v4: Option<Ipv4Addr>,
    zones: Vec<HostName>,
    prefixes: Vec<Prefix>,
    #[serde(default)]
    fingerprint: String,
}

impl Identity {
    /// Reads it from the state folder.
    pub fn load(folder: &Path) -> Result<Self, IdentityError> {
        let path = folder.join(FILE);
        let bytes = match keyfile::read(&path, IDENTITY_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.is_missing() => return Err(IdentityError::NotJoined),
            Err(error) => return Err(error.into()),
        };
        Self::parse(bytes.expose(), &path)
    }

    /// Reads what [`Identity::save`] wrote; `path` is told in errors.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, IdentityError> {
        let damaged = |why: String| IdentityError::Damaged { path: path.to_owned(), why };
        let disk: OnDisk = serde_json::from_slice(text).map_err(|e| damaged(e.to_string()))?;
        if disk.version != VERSION {
            return Err(damaged(format!("format {} is not known", disk.version)));
        }
        let node = NodeId::from_spiffe(&disk.trust_domain, &disk.node).map_err(|e| damaged(e.to_string()))?;
        let bytes = |field: &str, text: &str| STANDARD.decode(text).map_err(|_| damaged(format!("field {field}")));
        let key = |field: &str, text: &str| -> Result<[u8; 32], IdentityError> {
            bytes(field, text)?.try_into().map_err(|_| damaged(format!("field {field}")))
        };
        Ok(Self {
            node,
            controller_key: PublicKey(key("controller_key", &disk.controller_key)?),
            ca: bytes("ca", &disk.ca)?,
            control_key: Arc::new(Secret::new(key("control_key", &disk.control_key)?)),
            control_key_since: disk.control_key_since,
            next_control_key: disk
                .next_control_key
                .as_deref()
                .map(|next| key("next_control_key", next).map(|next| Arc::new(Secret::new(next))))
                .transpose()?,
            recovery: Arc::new(Secret::new(key("recovery", &disk.recovery)?)),
            svid_key: Secret::new(bytes("svid_key", &disk.svid_key)?),
            svid_chain: disk.svid_chain.iter().map(|c| bytes("svid_chain", c)).collect::<Result<_, _>>()?,
            pool: disk.pool,
            trust_domain: disk.trust_domain,
            endpoints: disk.endpoints,
            v6: disk.v6,
            v4: disk.v4,
            zones: disk.zones,
            prefixes: disk.prefixes,
            fingerprint: disk.fingerprint,
        })
    }

    /// The organisation's fingerprint, as its administrators see it.
    pub fn organisation_fingerprint(&self) -> String {
        proto::join::organisation_fingerprint(&self.trust_domain, &self.controller_key, &self.ca)
    }

    /// Writes it, atomically and readable by its owner alone.
    pub fn save(&self, folder: &Path) -> Result<(), IdentityError> {
        let disk = OnDisk {
            version: VERSION,
            trust_domain: self.trust_domain.clone(),
            node: self.node.spiffe(&self.trust_domain),
            controller_key: STANDARD.encode(self.controller_key.0),
            endpoints: self.endpoints.clone(),
            ca: STANDARD.encode(&self.ca),
            pool: self.pool,
            control_key: STANDARD.encode(self.control_key.expose()),
            control_key_since: self.control_key_since,
            next_control_key: self.next_control_key.as_ref().map(|next| STANDARD.encode(next.expose())),
            recovery: STANDARD.encode(self.recovery.expose()),
            svid_key: STANDARD.encode(self.svid_key.expose()),
            svid_chain: self.svid_chain.iter().map(|c| STANDARD.encode(c)).collect(),
            v6: self.v6,
            v4: self.v4,
            zones: self.zones.clone(),
            prefixes: self.prefixes.clone(),
            fingerprint: self.fingerprint.clone(),
        };
        let path = folder.join(FILE);
        let text = serde_json::to_vec_pretty(&disk)
            .map_err(|e| IdentityError::Damaged { path: path.clone(), why: e.to_string() })?;
        Ok(keyfile::replace(&path, &text)?)
    }

    /// The CA as TLS takes it.
    pub fn ca_der(&self) -> CertificateDer<'static> {
        CertificateDer::from(self.ca.clone())
    }

    /// The certificate and key as TLS takes them.
    pub fn svid_slot(&self) -> Result<SvidSlot, IdentityError> {
        let key = SvidKey::from_pkcs8(self.svid_key.expose())?;
        Ok(SvidSlot::new(self.svid_chain.iter().map(|c| CertificateDer::from(c.clone())).collect(), &key)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_file_that_is_too_large_is_no_identity() {
        let random: [u8; 8] = host::entropy::random().expect("random");
        let folder = std::env::temp_dir().join(format!("umbra-identity-{:016x}", u64::from_le_bytes(random)));
        keyfile::create_folder(&folder).expect("folder");
        let load = |bytes: usize| {
            std::fs::write(folder.join(FILE), vec![b' '; bytes]).expect("write");
            std::fs::set_permissions(folder.join(FILE), std::fs::Permissions::from_mode(0o600)).expect("chmod");
            Identity::load(&folder).map(|_| ()).unwrap_err().to_string()
        };
        assert!(load(IDENTITY_BYTES_MAX).contains("EOF"), "read, and found empty: {}", load(IDENTITY_BYTES_MAX));
        assert!(load(IDENTITY_BYTES_MAX + 1).contains("more than 262144 bytes"), "{}", load(IDENTITY_BYTES_MAX + 1));
        std::fs::remove_dir_all(&folder).expect("remove");
    }
}
