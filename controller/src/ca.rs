//! Who vouches for a node? The organisation's own certificate authority: short-lived X.509 SVIDs (SPIFFE X509-SVID).
//!
//! Of a certificate request only the public key is taken, after its signature was checked; what the certificate says
//! comes from the controller alone.

use host::entropy;
use model::ids::NodeId;
use model::limits::{CA_LIFE, ENROL_BYTES_MAX};
use model::net::HostName;
use model::secret::Secret;
use model::spiffe::SpiffeId;
use model::time::WallMs;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SigningKey as _, SubjectPublicKeyInfo,
};
use std::time::Duration;
use x509_parser::prelude::FromDer;

/// The name of the controller inside the overlay, for TLS clients that want one.
pub const CONTROLLER_NAME: &str = "controller.umbra.internal";
/// How far a node's clock may lag behind ours: certificates begin that much earlier.
const SKEW: Duration = Duration::from_secs(300);

/// The certificate authority.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
    trust_domain: String,
}

/// A certificate for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Svid {
    /// DER, leaf first. The CA itself is not in it: nodes have pinned it.
    pub chain: Vec<Vec<u8>>,
    /// SHA-256 of the leaf's SubjectPublicKeyInfo.
    pub key_hash: [u8; 32],
    /// Its end.
    pub expires: WallMs,
}

/// A certificate of the controller with its private key (PKCS #8, DER).
#[derive(Debug)]
pub struct OwnSvid {
    /// The certificate.
    pub svid: Svid,
    /// Its key.
    pub key: Secret<Vec<u8>>,
}

/// The public key of a certificate request whose signature holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
    /// SHA-256 of it.
    pub hash: [u8; 32],
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The request is not one, or its signature does not hold, or its key is of a kind that is not accepted.
    #[error("the certificate request is refused: {0}")]
    Request(&'static str),
    /// The library failed.
    #[error("a certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
    /// What is stored is no CA key.
    #[error("the stored CA key cannot be used ({0}): restore the last backup")]
    Stored(rcgen::Error),
    /// No random bytes.
    #[error(transparent)]
    Entropy(#[from] entropy::EntropyError),
}

/// Checks a certificate request (PKCS #10, DER): an ECDSA P-256 or Ed25519 key that signed it.
pub fn request_key(csr: &[u8]) -> Result<RequestKey, CaError> {
    if csr.len() > ENROL_BYTES_MAX {
        return Err(CaError::Request("it is too large"));
    }
    let (rest, request) = x509_parser::certification_request::X509CertificationRequest::from_der(csr)
        .map_err(|_| CaError::Request("it is not PKCS #10 in DER"))?;
    if !rest.is_empty() {
        return Err(CaError::Request("something follows it"));
    }
    request.verify_signature().map_err(|_| CaError::Request("it is not signed by its own key"))?;
    let spki = request.certification_request_info.subject_pki.raw.to_vec();
    usable_key(&spki)?;
    Ok(RequestKey { hash: crate::directory::sha256(&spki), spki })
}

fn usable_key(spki: &[u8]) -> Result<SubjectPublicKeyInfo, CaError> {
    let key = SubjectPublicKeyInfo::from_der(spki).map_err(|_| CaError::Request("its key is of an unknown kind"))?;
    if key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 && key.algorithm() != &rcgen::PKCS_ED25519 {
        return Err(CaError::Request("its key is neither ECDSA P-256 nor Ed25519"));
    }
    Ok(key)
}

fn params(now: WallMs, life: Duration) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.not_before = date(WallMs(now.0.saturating_sub(i64::try_from(SKEW.as_millis()).unwrap_or(0))));
    params.not_after = date(now.plus(life));
    let mut serial: [u8; 16] = entropy::random()?;
    serial[0] = (serial[0] & 0x7f) | 0x40; // positive, and of full length (RFC 5280 section 4.1.2.2)
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    Ok(params)
}

fn date(at: WallMs) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(at.0.div_euclid(1_000)).unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
}

impl Ca {
    /// Makes a new one; answers it with its private key (PKCS #8, DER), to be sealed.
    pub fn create(trust_domain: &HostName, now: WallMs) -> Result<(Self, Secret<Vec<u8>>), CaError> {
        Self::create_named(format!("Umbra CA of {trust_domain}"), trust_domain, now)
    }

    /// Makes one for programs instead of nodes, see [`crate::workload`].
    pub fn create_for_programs(trust_domain: &HostName, now: WallMs) -> Result<(Self, Secret<Vec<u8>>), CaError> {
        Self::create_named(format!("Umbra workload CA of {trust_domain}"), trust_domain, now)
    }

    fn create_named(name: String, trust_domain: &HostName, now: WallMs) -> Result<(Self, Secret<Vec<u8>>), CaError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let secret = Secret::new(key.serialize_der());
        let mut params = params(now, CA_LIFE)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
        let certificate = params.self_signed(&key)?.der().to_vec();
        let ca = Self { issuer: Issuer::new(params, key), certificate, trust_domain: trust_domain.to_string() };
        Ok((ca, secret))
    }

    /// From what is stored.
    pub fn load(trust_domain: &HostName, certificate: &[u8], key: &Secret<Vec<u8>>) -> Result<Self, CaError> {
        let pair = KeyPair::try_from(key.expose().as_slice()).map_err(CaError::Stored)?;
        let issuer = Issuer::from_ca_cert_der(&certificate.into(), pair).map_err(CaError::Stored)?;
        Ok(Self { issuer, certificate: certificate.to_vec(), trust_domain: trust_domain.to_string() })
    }

    /// Its certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Its private key (PKCS #8, DER), to be sealed in another place.
    pub fn private_key(&self) -> Secret<Vec<u8>> {
        Secret::new(self.issuer.key().serialize_der())
    }

    /// Signs a text that is no certificate and does not begin like one: the head of the audit trail.
    pub fn sign_text(&self, text: &str) -> Result<Vec<u8>, CaError> {
        Ok(self.issuer.key().sign(text.as_bytes())?)
    }

    /// A certificate of this life for a node, over the request's key and nothing else of the request.
    pub fn issue(&self, node: NodeId, request: &RequestKey, now: WallMs, life: Duration) -> Result<Svid, CaError> {
        self.sign(node, &usable_key(&request.spki)?, request.hash, now, life)
    }

    /// A certificate for the controller itself, with a fresh key.
    pub fn issue_own(&self, now: WallMs, life: Duration) -> Result<OwnSvid, CaError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let hash = crate::directory::sha256(&key.subject_public_key_info());
        let svid = self.sign(NodeId::Controller, &key, hash, now, life)?;
        Ok(OwnSvid { svid, key: Secret::new(key.serialize_der()) })
    }

    fn sign(
        &self,
        node: NodeId,
        key: &impl PublicKeyData,
        key_hash: [u8; 32],
        now: WallMs,
        life: Duration,
    ) -> Result<Svid, CaError> {
        let mut names = vec![SanType::URI(node.spiffe(&self.trust_domain).try_into()?)];
        if node == NodeId::Controller {
            names.push(SanType::DnsName(CONTROLLER_NAME.try_into()?));
        }
        self.sign_leaf((node.to_string(), names), key, key_hash, now, life)
    }

    /// A certificate for a program, over the request's key and nothing else of the request (X509-SVID, sections 2 to 4).
    pub fn issue_to_program(
        &self,
        id: &SpiffeId,
        request: &RequestKey,
        now: WallMs,
        life: Duration,
    ) -> Result<Svid, CaError> {
        if !id.is_workload_of(&self.trust_domain) {
            return Err(CaError::Request("it is for no program of this trust domain"));
        }
        let names = vec![SanType::URI(id.as_str().try_into()?)];
        self.sign_leaf(("workload".to_owned(), names), &usable_key(&request.spki)?, request.hash, now, life)
    }

    fn sign_leaf(
        &self,
        (name, names): (String, Vec<SanType>),
        key: &impl PublicKeyData,
        key_hash: [u8; 32],
        now: WallMs,
        life: Duration,
    ) -> Result<Svid, CaError> {
        let mut params = params(now, life)?;
        params.subject_alt_names = names;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(key, &self.issuer)?;
        Ok(Svid { chain: vec![leaf.der().to_vec()], key_hash, expires: now.plus(life) })
    }
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ca({})", self.trust_domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::ids::DeviceId;
    use model::limits::SVID_LIFE;
    use x509_parser::prelude::{GeneralName, X509Certificate};

    const NOW: WallMs = WallMs(1_700_000_000_000);

    fn ca() -> (Ca, Secret<Vec<u8>>) {
        Ca::create(&"corp.example".parse().unwrap(), NOW).unwrap()
    }

    fn request(sans: &[&str]) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(sans.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "controller");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_says_what_the_controller_says_and_nothing_of_the_request() {
        let (ca, _) = ca();
        let node = NodeId::Device(DeviceId::from_bytes([3; 10]));
        let svid =
            ca.issue(node, &request_key(&request(&["controller.umbra.internal"])).unwrap(), NOW, SVID_LIFE).unwrap();
        let (_, leaf) = X509Certificate::from_der(&svid.chain[0]).unwrap();
        let (_, root) = X509Certificate::from_der(ca.certificate()).unwrap();
        leaf.verify_signature(Some(root.public_key())).unwrap();
        let sans: Vec<_> = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
        let uri = node.spiffe("corp.example");
        assert_eq!(sans, [GeneralName::URI(&uri)]);
        assert_eq!(leaf.basic_constraints().unwrap().map(|b| b.value.ca), Some(false));
        assert_eq!(leaf.validity().not_after.timestamp(), NOW.0 / 1_000 + 3_600);
        assert!(!leaf.subject().to_string().contains("controller"));
    }

    #[test]
    fn serial_numbers_differ_for_one_key() {
        let (ca, _) = ca();
        let key = request_key(&request(&[])).unwrap();
        let node = NodeId::Device(DeviceId::from_bytes([3; 10]));
        let serial = || {
            let svid = ca.issue(node, &key, NOW, SVID_LIFE).unwrap();
            X509Certificate::from_der(&svid.chain[0]).unwrap().1.raw_serial().to_vec()
        };
        assert_ne!(serial(), serial());
    }

    #[test]
    fn a_stored_authority_goes_on_and_the_controller_has_both_names() {
        let (first, key) = ca();
        let again = Ca::load(&"corp.example".parse().unwrap(), first.certificate(), &key).unwrap();
        let own = again.issue_own(NOW, SVID_LIFE).unwrap();
        let (_, leaf) = X509Certificate::from_der(&own.svid.chain[0]).unwrap();
        let (_, root) = X509Certificate::from_der(first.certificate()).unwrap();
        leaf.verify_signature(Some(root.public_key())).unwrap();
        let sans = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
        assert_eq!(sans, [GeneralName::URI("spiffe://corp.example/controller"), GeneralName::DNSName(CONTROLLER_NAME)]);
        assert!(Ca::load(&"corp.example".parse().unwrap(), first.certificate(), &Secret::new(vec![1, 2])).is_err());
    }

    #[test]
    fn requests_that_are_not_signed_by_their_own_key_are_refused() {
        let good = request(&[]);
        let key = request_key(&good).unwrap();
        let place = good.windows(key.spki.len()).position(|part| part == key.spki).unwrap();
        for at in place..place + key.spki.len() {
            let mut altered = good.clone();
            altered[at] ^= 1;
            assert!(request_key(&altered).is_err(), "key byte {at}");
        }
        for at in 0..good.len() {
            let mut altered = good.clone();
            altered[at] ^= 1;
            // Some bits of the algorithm's name are not looked at; none can bring another key in.
            assert!(request_key(&altered).map_or(true, |found| found == key), "byte {at}");
            assert!(request_key(&good[..at]).is_err(), "cut at {at}");
        }
        assert!(request_key(&[good, vec![0]].concat()).is_err());
        assert!(request_key(&vec![0x30; ENROL_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn keys_of_other_kinds_are_refused() {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        assert!(request_key(&csr).unwrap_err().to_string().contains("P-256"));
    }
}
