//! What somebody shows as a certificate, a request for one, or a key.

use super::{Parser, Seeds, parser, seed};
use controller::ca::{Ca, request_key};
use model::ids::{GatewayId, NodeId};
use model::net::HostName;
use model::time::WallMs;
use node::svid::{SvidKey, end_of, read_leaf};
use rustls::pki_types::CertificateDer;
use std::time::Duration;

pub const PARSERS: &[Parser] = &[
    parser("certificate", "the leaf that a peer shows", certificate, certificate_seeds, 3),
    parser(
        "request",
        "a certificate request of whoever enrols",
        |bytes| request_key(bytes).is_ok(),
        || Ok(vec![seed("p256", SvidKey::generate()?.csr()?), seed("empty", [0x30, 0])]),
        10,
    ),
    parser(
        "key",
        "the private key of an identity file",
        |bytes| SvidKey::from_pkcs8(bytes).is_ok(),
        || Ok(vec![seed("p256", SvidKey::generate()?.pkcs8()), seed("empty", [0x30, 0])]),
        10,
    ),
];

const DOMAIN: &str = "corp.example";
const NOW: WallMs = WallMs(1_700_000_000_000);

fn certificate(bytes: &[u8]) -> bool {
    let leaf = CertificateDer::from(bytes);
    let facts = read_leaf(DOMAIN, &leaf);
    if let Ok(facts) = &facts {
        assert_eq!(end_of(&leaf), u64::try_from(facts.not_after).ok(), "both readers agree on the end");
        assert!(facts.node.spiffe(DOMAIN).starts_with("spiffe://corp.example/"));
    }
    facts.is_ok()
}

fn ca() -> anyhow::Result<Ca> {
    let domain: HostName = DOMAIN.parse()?;
    Ok(Ca::create(&domain, NOW)?.0)
}

/// A certificate for this request.
pub fn issued(csr: &[u8]) -> anyhow::Result<Vec<u8>> {
    let node = NodeId::Gateway(GatewayId::from_bytes([6; 10]));
    let svid = ca()?.issue(node, &request_key(csr)?, NOW, Duration::from_secs(3_600))?;
    Ok(svid.chain.into_iter().next().unwrap_or_default())
}

fn certificate_seeds() -> Seeds {
    let ca = ca()?;
    Ok(vec![
        seed("ca", ca.certificate()),
        seed("gateway", issued(&SvidKey::generate()?.csr()?)?),
        seed("controller", ca.issue_own(NOW, Duration::from_secs(60))?.svid.chain.first().cloned().unwrap_or_default()),
        seed("empty", [0x30, 0]),
    ])
}
