//! What follows the controller's key and its certificate authority, and who says so? They are one pair and change together: the
//! authority in use signs an announcement of the next pair; whoever trusts the one trusts the other from then on.

use crate::witness;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use model::audit::SignedHead;
use model::key::PublicKey;
use model::limits::{AUDIT_SIGNATURE_MAX, AUTHORITY_BYTES_MAX};
use model::time::WallMs;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use std::sync::{PoisonError, RwLock};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// With what a controller proves who it is: one WireGuard key and one certificate authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// The controller's WireGuard key.
    #[serde(with = "base64_key")]
    pub key: PublicKey,
    /// The certificate of the authority, DER.
    #[serde(with = "base64_bytes")]
    pub ca: Vec<u8>,
}

impl Authority {
    /// The fingerprint of the organisation under this authority, which people compare before they join.
    pub fn fingerprint(&self, trust_domain: &str) -> String {
        proto::join::organisation_fingerprint(trust_domain, &self.key, &self.ca)
    }

    /// The certificate as TLS takes it.
    pub fn ca_der(&self) -> CertificateDer<'static> {
        CertificateDer::from(self.ca.clone())
    }

    fn line(&self) -> String {
        format!("{} {}", hex(&self.key.0), hex(digest(&SHA256, &self.ca).as_ref()))
    }
}

/// The next authority, as the one before it announces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// What follows.
    pub next: Authority,
    /// When this was said.
    pub announced: WallMs,
    /// From when on the next one is used.
    pub switches: WallMs,
    /// From when on the one before is good for nothing.
    pub ends: WallMs,
    /// Of the authority before over [`Announcement::text`]: ECDSA P-256 SHA-256, ASN.1 form.
    #[serde(with = "base64_bytes")]
    pub signature: Vec<u8>,
}

/// Why an announcement is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnouncementError {
    /// What is announced cannot be used.
    #[error("what is announced is no authority of this organisation: {0}")]
    Next(&'static str),
    /// The moments make no sense.
    #[error("its moments are not in order")]
    Moments,
    /// Somebody else signed it, or it was altered.
    #[error("it is not signed by the authority that is trusted here")]
    Signature,
}

impl Announcement {
    /// What is signed. No certificate begins like that, nor does any other text that the authority signs.
    pub fn text(&self, trust_domain: &str, before: &Authority) -> String {
        let (announced, switches, ends) = (self.announced.0, self.switches.0, self.ends.0);
        format!(
            "umbra successor v1\n{trust_domain}\n{}\n{}\n{announced} {switches} {ends}\n",
            before.line(),
            self.next.line()
        )
    }

    /// Is it a word of `before`, of this organisation, about an authority that can be used?
    pub fn check(&self, trust_domain: &str, before: &Authority) -> Result<(), AnnouncementError> {
        if !(self.announced <= self.switches && self.switches <= self.ends) {
            return Err(AnnouncementError::Moments);
        }
        usable(trust_domain, before, &self.next).map_err(AnnouncementError::Next)?;
        let (_, certificate) = X509Certificate::from_der(&before.ca).map_err(|_| AnnouncementError::Signature)?;
        let key = certificate.public_key().subject_public_key.data.as_ref();
        let verified = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key);
        let text = self.text(trust_domain, before);
        if self.signature.len() > AUDIT_SIGNATURE_MAX {
            return Err(AnnouncementError::Signature);
        }
        verified.verify(text.as_bytes(), &self.signature).map_err(|_| AnnouncementError::Signature)
    }

    /// SHA-256 by which a node says which announcement it keeps.
    pub fn digest(&self) -> [u8; 32] {
        let text = format!("{}\n{} {} {}", self.next.line(), self.announced.0, self.switches.0, self.ends.0);
        let mut out = [0; 32];
        out.iter_mut().zip(digest(&SHA256, text.as_bytes()).as_ref()).for_each(|(to, from)| *to = *from);
        out
    }
}

fn usable(trust_domain: &str, before: &Authority, next: &Authority) -> Result<(), &'static str> {
    if tunnel::wire::is_low_order(&next.key) || next.key == before.key {
        return Err("its key is not usable, or is the one in use");
    }
    if next.ca.len() > AUTHORITY_BYTES_MAX {
        return Err("its certificate is too large");
    }
    let (rest, certificate) = X509Certificate::from_der(&next.ca).map_err(|_| "its certificate cannot be read")?;
    if !rest.is_empty() || !certificate.is_ca() {
        return Err("its certificate is none of an authority");
    }
    // It holds its own private key.
    certificate.verify_signature(None).map_err(|_| "its certificate is not signed by its own key")?;
    let names = certificate.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
    let wanted = format!("spiffe://{trust_domain}");
    match names.map(Vec::as_slice) {
        Some([GeneralName::URI(uri)]) if *uri == wanted => {}
        _ => return Err("its certificate is of another organisation"),
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add(next.ca_der()).map_err(|_| "its certificate cannot be used for TLS")
}

/// Which authorities are trusted now: shared by everything in a program that checks what the controller says.
#[derive(Debug, Default)]
pub struct Trust {
    trusted: RwLock<Vec<Authority>>,
}

impl Trust {
    /// These, the one in use first.
    pub fn new(trusted: Vec<Authority>) -> Self {
        Self { trusted: RwLock::new(trusted) }
    }

    /// From now on these; whether they are others than before.
    pub fn set(&self, trusted: Vec<Authority>) -> bool {
        let mut held = self.trusted.write().unwrap_or_else(PoisonError::into_inner);
        let differs = *held != trusted;
        *held = trusted;
        differs
    }

    /// All, the one in use first.
    pub fn all(&self) -> Vec<Authority> {
        self.trusted.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The one that signed this head.
    pub fn signer(&self, signed: &SignedHead) -> Option<Authority> {
        let held = self.trusted.read().unwrap_or_else(PoisonError::into_inner);
        held.iter().find(|one| witness::check(&one.ca, signed).is_ok()).cloned()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(bytes))
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(d)?).map_err(|_| D::Error::custom("not base 64"))
    }
}

mod base64_key {
    use model::key::PublicKey;
    use serde::{Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(key: &PublicKey, s: S) -> Result<S::Ok, S::Error> {
        super::base64_bytes::serialize(&key.0, s)
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<PublicKey, D::Error> {
        let bytes: Result<[u8; 32], _> = super::base64_bytes::deserialize(d)?.try_into();
        bytes.map(PublicKey).map_err(|_| D::Error::custom("not 32 bytes"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rcgen::SigningKey as _;

    const DOMAIN: &str = "corp.example";

    /// An authority of this organisation, and the key of its certificates.
    pub(crate) fn authority(key: u8, domain: &str) -> (rcgen::KeyPair, Authority) {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.subject_alt_names = vec![rcgen::SanType::URI(format!("spiffe://{domain}").try_into().unwrap())];
        let ca = params.self_signed(&pair).unwrap().der().to_vec();
        (pair, Authority { key: PublicKey([key; 32]), ca })
    }

    /// As the holder of `pair` says it.
    pub(crate) fn announce(pair: &rcgen::KeyPair, before: &Authority, next: &Authority) -> Announcement {
        let (announced, switches, ends) = (WallMs(1_000), WallMs(2_000), WallMs(3_000));
        let mut said = Announcement { next: next.clone(), announced, switches, ends, signature: Vec::new() };
        said.signature = pair.sign(said.text(DOMAIN, before).as_bytes()).unwrap();
        said
    }

    #[test]
    fn only_the_authority_that_is_trusted_names_what_follows_it() {
        let ((old, before), (new, next), (other, stranger)) =
            (authority(1, DOMAIN), authority(2, DOMAIN), authority(3, DOMAIN));
        let good = announce(&old, &before, &next);
        assert_eq!(good.check(DOMAIN, &before), Ok(()));
        let back: Announcement = serde_json::from_str(&serde_json::to_string(&good).unwrap()).unwrap();
        assert_eq!((back.check(DOMAIN, &before), back == good), (Ok(()), true));
        // The successor alone, another authority, the right one about another organisation or to somebody else.
        for (forged, why) in [
            (announce(&new, &before, &next), "the successor alone"),
            (announce(&other, &before, &next), "another authority"),
            (announce(&old, &stranger, &next), "of somebody else"),
            (announce(&old, &Authority { key: PublicKey([9; 32]), ..before.clone() }, &next), "of another key"),
        ] {
            assert_eq!(forged.check(DOMAIN, &before), Err(AnnouncementError::Signature), "{why}");
        }
        assert!(good.check("evil.example", &before).is_err());
        // Nothing of it can be changed.
        let moved = Announcement { ends: WallMs(4_000), ..good.clone() };
        let earlier = Announcement { announced: WallMs(999), ..good.clone() };
        let key = Announcement { next: Authority { key: stranger.key, ..next.clone() }, ..good.clone() };
        let ca = Announcement { next: Authority { ca: stranger.ca.clone(), ..next.clone() }, ..good.clone() };
        for altered in [moved, earlier, key, ca, Announcement { signature: vec![0; 9_999], ..good.clone() }] {
            assert_eq!(altered.check(DOMAIN, &before), Err(AnnouncementError::Signature));
            assert_eq!(altered.digest() == good.digest(), altered.signature.len() == 9_999);
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_even_from_the_right_authority() {
        let ((old, before), (_, next)) = (authority(1, DOMAIN), authority(2, DOMAIN));
        let leaf = rcgen::CertificateParams::default().self_signed(&old).unwrap().der().to_vec();
        let with = |change: &dyn Fn(&mut Authority)| {
            let mut changed = next.clone();
            change(&mut changed);
            announce(&old, &before, &changed).check(DOMAIN, &before)
        };
        let bad: [&dyn Fn(&mut Authority); 7] = [
            &|one| one.key = PublicKey([0; 32]),
            &|one| one.key = PublicKey([1; 32]),
            &|one| one.ca = vec![0; AUTHORITY_BYTES_MAX + 1],
            &|one| one.ca = vec![1, 2, 3],
            &|one| one.ca.push(0),
            &|one| one.ca.clone_from(&leaf),
            &|one| one.ca = authority(4, "evil.example").1.ca,
        ];
        for change in bad {
            assert!(matches!(with(change), Err(AnnouncementError::Next(_))));
        }
        // Signed by its own key, which a flipped bit shows.
        assert!(matches!(
            with(&|one| if let Some(last) = one.ca.last_mut() {
                *last ^= 1
            }),
            Err(AnnouncementError::Next(_))
        ));
        let mut odd = announce(&old, &before, &next);
        odd.switches = WallMs(500);
        odd.signature = old.sign(odd.text(DOMAIN, &before).as_bytes()).unwrap();
        assert_eq!(odd.check(DOMAIN, &before), Err(AnnouncementError::Moments));
    }
}
