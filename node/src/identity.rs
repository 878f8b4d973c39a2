//! Who is this machine? What a node keeps on its disk after it has enrolled: keys, certificate, addresses, pins.

use crate::successor::{Announcement, AnnouncementError, Authority};
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
    /// What follows the controller's key and CA, once they have announced it.
    pub next: Option<Next>,
    /// What was before them.
    pub former: Option<Former>,
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

/// The controller's next key and CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// As the ones in use announced it; it was checked before it was kept.
    pub announcement: Announcement,
    /// The controller said that it uses them by now.
    pub switched: bool,
}

/// The controller's key and CA before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// What they were.
    pub authority: Authority,
    /// How they announced those in use.
    pub announcement: Announcement,
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    version: u32,
    trust_domain: String,
    node: String,
    controller_key: String,
    endpoints: Vec<String>,
    ca: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<Next>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former: Option<Former>,
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
            next: disk.next,
            former: disk.former,
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
            next: self.next.clone(),
            former: self.former.clone(),
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

    /// The controller's key and CA in use.
    pub fn authority(&self) -> Authority {
        Authority { key: self.controller_key, ca: self.ca.clone() }
    }

    /// Which of the controller's are to be trusted at this moment, those in use first.
    pub fn trusted(&self, now: WallMs) -> Vec<Authority> {
        let next = self.next.as_ref().map(|next| &next.announcement);
        // Where nobody told us of the end: its successor is the one that is good now.
        let own = Some(self.authority()).filter(|_| next.is_none_or(|next| now < next.ends));
        let former =
            self.former.as_ref().filter(|former| now < former.announcement.ends).map(|former| former.authority.clone());
        own.into_iter().chain(next.map(|next| next.next.clone())).chain(former).collect()
    }

    /// The same with what was trusted before: whose word of then it was can still be told.
    pub fn known_authorities(&self) -> Vec<Authority> {
        let next = self.next.as_ref().map(|next| next.announcement.next.clone());
        let former = self.former.as_ref().map(|former| former.authority.clone());
        std::iter::once(self.authority()).chain(next).chain(former).collect()
    }

    /// This identity with what follows the controller's key and CA; none where it is known already. A later word of the same
    /// authority replaces an earlier one, never the other way round.
    pub fn told(&self, announcement: &Announcement) -> Result<Option<Self>, AnnouncementError> {
        announcement.check(&self.trust_domain, &self.authority())?;
        let known = self.next.as_ref().map(|next| next.announcement.announced);
        if known.is_some_and(|known| announcement.announced <= known) {
            return Ok(None);
        }
        let next = Some(Next { announcement: announcement.clone(), switched: false });
        Ok(Some(Self { next, ..self.clone() }))
    }

    /// This identity with the next key and CA as those in use; none where there are none.
    pub fn moved_on(&self) -> Option<Self> {
        let announcement = self.next.as_ref()?.announcement.clone();
        let Authority { key: controller_key, ca } = announcement.next.clone();
        let former = Some(Former { authority: self.authority(), announcement });
        Some(Self { controller_key, ca, next: None, former, ..self.clone() })
    }

    /// The newest announcement that is kept, by its digest.
    pub fn keeps(&self) -> Option<[u8; 32]> {
        let next = self.next.as_ref().map(|next| &next.announcement);
        next.or(self.former.as_ref().map(|former| &former.announcement)).map(Announcement::digest)
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
    use crate::successor::tests::{announce, authority};
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

    const DOMAIN: &str = "corp.example";

    fn identity(authority: &Authority) -> Identity {
        let svid = SvidKey::generate().unwrap();
        Identity {
            trust_domain: DOMAIN.to_owned(),
            node: NodeId::Device(model::ids::DeviceId::from_bytes([3; 10])),
            controller_key: authority.key,
            endpoints: vec!["192.0.2.1:443".to_owned()],
            ca: authority.ca.clone(),
            next: None,
            former: None,
            pool: Pool::new("10.77.0.0/16".parse().unwrap(), "fd00::/48".parse().unwrap()).unwrap(),
            control_key: Arc::new(Secret::new([5; 32])),
            control_key_since: WallMs(1),
            next_control_key: None,
            recovery: Arc::new(Secret::new([6; 32])),
            svid_key: Secret::new(svid.pkcs8()),
            svid_chain: vec![vec![1]],
            v6: "fd00::7".parse().unwrap(),
            v4: None,
            zones: Vec::new(),
            prefixes: Vec::new(),
            fingerprint: "0000".to_owned(),
        }
    }

    /// What comes back from the disk.
    fn kept(identity: &Identity) -> Identity {
        let folder = std::env::temp_dir().join(format!("umbra-identity-{}", std::process::id()));
        keyfile::create_folder(&folder).unwrap();
        identity.save(&folder).unwrap();
        let back = Identity::load(&folder).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        back
    }

    #[test]
    fn a_pool_that_no_organisation_may_have_is_damage() {
        let folder = std::env::temp_dir().join(format!("umbra-pool-{}", std::process::id()));
        keyfile::create_folder(&folder).unwrap();
        identity(&authority(1, DOMAIN).1).save(&folder).unwrap();
        let text = std::fs::read_to_string(folder.join(FILE)).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let parse = |text: &str| Identity::parse(text.as_bytes(), Path::new(FILE)).map(|_| ());
        parse(&text).unwrap();
        for (good, bad) in
            [("10.77.0.0/16", "203.0.0.0/16"), ("10.77.0.0/16", "0.0.0.0/0"), ("fd00::/48", "2001:db8::/48")]
        {
            let error = parse(&text.replace(good, bad)).unwrap_err().to_string();
            assert!(error.contains("pool") && error.contains("join again"), "{error}");
        }
    }

    #[test]
    fn what_follows_is_trusted_beside_what_is_in_use_until_the_one_or_the_other_ends() {
        let ((old, before), (_, next)) = (authority(1, DOMAIN), authority(2, DOMAIN));
        let alone = identity(&before);
        assert_eq!((alone.trusted(WallMs(i64::MAX)), alone.keeps()), (vec![before.clone()], None), "it has no end yet");
        assert!(alone.moved_on().is_none());
        let said = announce(&old, &before, &next);
        let told = kept(&alone.told(&said).unwrap().unwrap());
        assert_eq!(told.trusted(WallMs(2_999)), [before.clone(), next.clone()]);
        assert_eq!(told.trusted(WallMs(3_000)), vec![next.clone()], "from its end on the old one is good for nothing");
        assert_eq!((told.authority(), told.keeps()), (before.clone(), Some(said.digest())));
        let moved = kept(&told.moved_on().unwrap());
        assert_eq!((moved.authority(), moved.keeps()), (next.clone(), Some(said.digest())));
        assert_eq!(moved.trusted(WallMs(2_999)), [next.clone(), before.clone()]);
        assert_eq!(moved.trusted(WallMs(3_000)), vec![next.clone()]);
        assert_eq!(moved.known_authorities(), [next, before], "whose word of then it was can still be told");
        assert_eq!((moved.next, moved.recovery.expose(), moved.control_key.expose()), (None, &[6; 32], &[5; 32]));
    }

    #[test]
    fn only_the_authority_in_use_names_the_next_one_and_never_goes_back() {
        let ((old, before), (new, next), (other, stranger)) =
            (authority(1, DOMAIN), authority(2, DOMAIN), authority(3, DOMAIN));
        let alone = identity(&before);
        for forged in
            [announce(&new, &before, &next), announce(&other, &before, &next), announce(&other, &stranger, &next)]
        {
            assert_eq!(alone.told(&forged).unwrap_err(), AnnouncementError::Signature);
        }
        let said = announce(&old, &before, &next);
        let told = alone.told(&said).unwrap().unwrap();
        assert!(told.told(&said).unwrap().is_none(), "the same again");
        // A later word of the same authority: its controller came back from a backup that was made before the first one.
        let mut later = announce(&old, &before, &stranger);
        later.announced = WallMs(1_001);
        later.signature = rcgen::SigningKey::sign(&old, later.text(DOMAIN, &before).as_bytes()).unwrap();
        let again = told.told(&later).unwrap().unwrap();
        assert_eq!(again.next.clone().unwrap().announcement.next, stranger);
        assert!(again.told(&said).unwrap().is_none(), "an earlier one changes nothing");
        // Once it has moved on, the former one has no say.
        assert_eq!(told.moved_on().unwrap().told(&later).unwrap_err(), AnnouncementError::Signature);
    }
}
