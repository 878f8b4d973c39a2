//! TLS 1.3 on both sides of the control tunnel: who is accepted, and with which key exchange?
//!
//! X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem) is the only group offered, so that pre-shared keys that travel here stay
//! safe from a recording that is broken later. Certificates are replaced while the program runs.

use crate::successor::Authority;
use crate::svid::{SvidError, SvidFacts, SvidKey, read_leaf};
use model::ids::NodeId;
use model::limits::SVID_LATE_MAX;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};
use std::sync::{Arc, RwLock};
use std::time::Duration;

/// The DNS name in the controller's certificate; nodes ask for it, and check the SPIFFE id besides.
pub const CONTROLLER_NAME: &str = "controller.umbra.internal";
/// RFC 8446 section 7.5: what an enrolling node signs.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-umbra-enrol-v1";
const ALPN_H2: &[u8] = b"h2";

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate or key is not usable.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// rustls refuses the set-up.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

fn setup(error: impl std::fmt::Display) -> TlsError {
    TlsError::Setup(error.to_string())
}

/// aws-lc-rs with the hybrid group alone.
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768];
    Arc::new(provider)
}

fn roots(trusted: &[Authority]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in trusted {
        roots.add(authority.ca_der()).map_err(setup)?;
    }
    Ok(Arc::new(roots))
}

/// A node's certificate and key, replaceable while connections are made.
#[derive(Debug)]
pub struct SvidSlot {
    current: RwLock<Arc<CertifiedKey>>,
}

impl SvidSlot {
    /// With a first certificate chain (leaf first).
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &SvidKey) -> Result<Self, TlsError> {
        Ok(Self { current: RwLock::new(Self::certified(chain, key)?) })
    }

    /// Uses this one from the next handshake on.
    pub fn replace(&self, chain: Vec<CertificateDer<'static>>, key: &SvidKey) -> Result<(), TlsError> {
        let fresh = Self::certified(chain, key)?;
        *self.current.write().unwrap_or_else(std::sync::PoisonError::into_inner) = fresh;
        Ok(())
    }

    fn certified(chain: Vec<CertificateDer<'static>>, key: &SvidKey) -> Result<Arc<CertifiedKey>, TlsError> {
        let signer = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key.private_key()).map_err(setup)?;
        let certified = CertifiedKey::new(chain, signer);
        certified.keys_match().map_err(setup)?;
        Ok(Arc::new(certified))
    }

    fn read(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl ResolvesClientCert for SvidSlot {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.read())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for SvidSlot {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.read())
    }
}

/// For a node's control link: shows its SVID, accepts only a certificate of one of these authorities for the controller.
pub fn node_config(trusted: &[Authority], svid: Arc<SvidSlot>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = client_builder(trusted)?.with_client_cert_resolver(svid);
    finish_client(&mut config);
    Ok(Arc::new(config))
}

/// For enrolment: no certificate of our own yet.
pub fn enrolling_config(trusted: &[Authority]) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = client_builder(trusted)?.with_no_client_auth();
    finish_client(&mut config);
    Ok(Arc::new(config))
}

fn client_builder(
    trusted: &[Authority],
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, TlsError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(trusted)?, provider()).build().map_err(setup)?;
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup)?
        .with_webpki_verifier(verifier))
}

fn finish_client(config: &mut ClientConfig) {
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    // Every connection proves itself anew: a resumed one would outlive the certificate it stands on.
    config.resumption = rustls::client::Resumption::disabled();
}

/// Takes a certificate that ended not long ago, too: a laptop sleeps longer than its certificate lives. Whoever serves the
/// connection looks at the end ([`proven_leaf`]) and lets such a node do nothing but renew, from its living tunnel.
#[derive(Debug)]
struct LateToo(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for LateToo {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let judged = self.0.verify_client_cert(leaf, intermediates, now);
        match &judged {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => {}
            _ => return judged,
        }
        // Everything else about it is judged as it was in its last second.
        let end = crate::svid::end_of(leaf).map(Duration::from_secs);
        match end {
            Some(end) if now.as_secs().saturating_sub(end.as_secs()) <= SVID_LATE_MAX.as_secs() => {
                self.0.verify_client_cert(leaf, intermediates, UnixTime::since_unix_epoch(end))
            }
            _ => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// For the controller's control port: a client certificate of one of these authorities is required. It may have ended at most
/// [`SVID_LATE_MAX`] ago.
pub fn control_server_config(trusted: &[Authority], svid: Arc<SvidSlot>) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(trusted)?, provider()).build().map_err(setup)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup)?
        .with_client_cert_verifier(Arc::new(LateToo(verifier)))
        .with_cert_resolver(svid);
    finish_server(&mut config);
    Ok(Arc::new(config))
}

/// For the controller's enrolment port: server-authenticated only.
pub fn enrolment_server_config(svid: Arc<SvidSlot>) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup)?
        .with_no_client_auth()
        .with_cert_resolver(svid);
    finish_server(&mut config);
    Ok(Arc::new(config))
}

fn finish_server(config: &mut ServerConfig) {
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
}

/// The node that a finished handshake proved, read from the leaf alone.
pub fn proven_peer(domain: &str, chain: Option<&[CertificateDer<'_>]>) -> Result<NodeId, SvidError> {
    proven_leaf(domain, chain).map(|facts| facts.node)
}

/// The same, with when its certificate ends.
pub fn proven_leaf(domain: &str, chain: Option<&[CertificateDer<'_>]>) -> Result<SvidFacts, SvidError> {
    let leaf = chain.and_then(<[_]>::first).ok_or_else(|| SvidError::NotAnSvid {
        domain: domain.to_owned(),
        why: "no certificate was shown".to_owned(),
    })?;
    read_leaf(domain, leaf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::successor::tests::authority;

    #[test]
    fn a_certificate_that_has_ended_is_taken_for_so_long_and_no_longer() {
        let (pair, authority) = authority(1, "corp.example");
        let issuer = rcgen::Issuer::from_ca_cert_der(&authority.ca_der(), pair).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2024, 1, 1);
        params.not_after = rcgen::date_time_ymd(2024, 1, 2);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(&rcgen::KeyPair::generate().unwrap(), &issuer).unwrap();
        let roots = roots(&[authority]).unwrap();
        let late = LateToo(WebPkiClientVerifier::builder_with_provider(roots, provider()).build().unwrap());
        let end = crate::svid::end_of(leaf.der()).unwrap();
        let taken = |at: u64| {
            let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
            late.verify_client_cert(leaf.der(), &[], at).is_ok()
        };
        assert!(taken(end) && taken(end + 1) && taken(end + SVID_LATE_MAX.as_secs()));
        assert!(!taken(end + SVID_LATE_MAX.as_secs() + 1));
        assert!(!taken(end - 2 * 86_400), "before its beginning");
    }
}
