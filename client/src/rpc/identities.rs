//! What does the controller say of the identities of this machine's programs?

use super::{CALL_MAX, client, malformed, within};
use model::ids::RegistrationId;
use model::limits::{
    AUTHORITY_BYTES_MAX, REGISTRATIONS_PER_ACCOUNT_MAX, WORKLOAD_BUNDLE_MAX, WORKLOAD_SVID_LIFE,
    WORKLOAD_TOKEN_BUNDLE_MAX, WORKLOAD_TOKEN_MAX,
};
use model::net::HostName;
use model::secret::Secret;
use model::spiffe::SpiffeId;
use proto::convert::{WireError, bounded, id, wrong};
use proto::v1;
use std::time::Duration;
use tonic::Status;
use tonic::transport::Channel;

/// Who is called how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The registration.
    pub registration: RegistrationId,
    /// What its programs are called.
    pub spiffe: SpiffeId,
    /// Programs of this user; none: of any.
    pub uid: Option<u32>,
    /// Programs of this group; none: of any.
    pub gid: Option<u32>,
}

impl Named {
    /// Does it mean a program that runs as these? One that names neither means nobody.
    pub fn means(&self, uid: u32, gid: u32) -> bool {
        let selects = self.uid.is_some() || self.gid.is_some();
        selects && self.uid.is_none_or(|own| own == uid) && self.gid.is_none_or(|own| own == gid)
    }
}

/// All that the controller says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identities {
    /// The organisation's.
    pub trust_domain: String,
    /// Whose programs are called how.
    pub named: Vec<Named>,
    /// CAs of programs' certificates, DER, one behind the other.
    pub bundle: Vec<u8>,
    /// Keys of programs' tokens, JSON.
    pub token_bundle: String,
}

/// Asks for registrations and bundles.
pub async fn list_identities(channel: Channel) -> Result<Identities, Status> {
    let reply = within(CALL_MAX, client(channel).list_identities(v1::ListIdentitiesRequest {})).await?.into_inner();
    read_identities(reply).map_err(malformed)
}

/// Checks them: a program is never told a name of another trust domain, or of a node.
pub fn read_identities(reply: v1::ListIdentitiesReply) -> Result<Identities, WireError> {
    let domain: HostName = id("trust_domain", &reply.trust_domain)?;
    let named = |one: v1::Identity| {
        let spiffe: SpiffeId = id("identity.spiffe_id", &one.spiffe_id)?;
        if !spiffe.is_workload_of(domain.as_str()) {
            return Err(wrong("identity.spiffe_id", "is no program's of this organisation"));
        }
        Ok(Named { registration: id("identity.registration", &one.registration)?, spiffe, uid: one.uid, gid: one.gid })
    };
    let identities = bounded("identities", reply.identities, REGISTRATIONS_PER_ACCOUNT_MAX)?;
    let bundle = bounded("bundle", reply.bundle, WORKLOAD_BUNDLE_MAX)?;
    if bundle.iter().any(|one| one.len() > AUTHORITY_BYTES_MAX) || reply.token_bundle.len() > WORKLOAD_TOKEN_BUNDLE_MAX
    {
        return Err(wrong("bundle", "is too large"));
    }
    Ok(Identities {
        trust_domain: domain.to_string(),
        named: identities.into_iter().map(named).collect::<Result<_, _>>()?,
        bundle: bundle.concat(),
        token_bundle: reply.token_bundle,
    })
}

/// Has a certificate signed; answers it (DER) and how long it lives.
pub async fn sign_identity(
    channel: Channel,
    registration: RegistrationId,
    csr: Vec<u8>,
) -> Result<(Vec<u8>, Duration), Status> {
    let request = v1::SignIdentityRequest { registration: registration.to_string(), csr };
    let reply = within(CALL_MAX, client(channel).sign_identity(request)).await?.into_inner();
    read_chain(reply).map_err(malformed)
}

/// Checks a certificate, and answers it with its life.
pub fn read_chain(reply: v1::SignIdentityReply) -> Result<(Vec<u8>, Duration), WireError> {
    let chain = bounded("chain", reply.chain, WORKLOAD_BUNDLE_MAX)?;
    if chain.is_empty() || chain.iter().any(|one| one.is_empty() || one.len() > AUTHORITY_BYTES_MAX) {
        return Err(wrong("chain", "holds no certificate"));
    }
    Ok((chain.concat(), Duration::from_millis(reply.ends_in_ms).min(WORKLOAD_SVID_LIFE)))
}

/// Has a token signed.
pub async fn sign_token(
    channel: Channel,
    registration: RegistrationId,
    audiences: Vec<String>,
) -> Result<Secret<String>, Status> {
    let request = v1::SignTokenRequest { registration: registration.to_string(), audiences };
    let reply = within(CALL_MAX, client(channel).sign_token(request)).await?.into_inner();
    read_token(reply).map_err(malformed)
}

/// Checks a token: three parts of base 64.
pub fn read_token(reply: v1::SignTokenReply) -> Result<Secret<String>, WireError> {
    let token = Secret::new(reply.token);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let text = token.expose();
    if text.is_empty() || text.len() > WORKLOAD_TOKEN_MAX || !text.bytes().all(fits) {
        return Err(wrong("token", "is none"));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(change: impl Fn(&mut v1::ListIdentitiesReply)) -> Result<Identities, WireError> {
        let identity = v1::Identity {
            registration: RegistrationId::from_bytes([1; 10]).to_string(),
            spiffe_id: "spiffe://corp.example/workload/deploy/web".into(),
            uid: Some(1000),
            gid: None,
        };
        let mut reply = v1::ListIdentitiesReply {
            trust_domain: "corp.example".into(),
            identities: vec![identity],
            bundle: vec![vec![1]],
            token_bundle: "{}".into(),
        };
        change(&mut reply);
        read_identities(reply)
    }

    #[test]
    fn names_of_others_and_of_nodes_are_refused_and_lists_are_bounded() {
        let good = reply(|_| {}).unwrap();
        assert_eq!((good.named.len(), good.bundle.as_slice()), (1, &[1][..]));
        for bad in ["spiffe://other.example/workload/deploy/web", "spiffe://corp.example/controller", "web", ""] {
            assert!(reply(|r| r.identities[0].spiffe_id = bad.into()).is_err(), "{bad}");
        }
        assert!(reply(|r| r.identities = vec![r.identities[0].clone(); REGISTRATIONS_PER_ACCOUNT_MAX]).is_ok());
        assert!(reply(|r| r.identities = vec![r.identities[0].clone(); REGISTRATIONS_PER_ACCOUNT_MAX + 1]).is_err());
        assert!(reply(|r| r.bundle = vec![vec![1]; WORKLOAD_BUNDLE_MAX + 1]).is_err());
        assert!(reply(|r| r.bundle = vec![vec![1; AUTHORITY_BYTES_MAX + 1]]).is_err());
        assert!(reply(|r| r.token_bundle = " ".repeat(WORKLOAD_TOKEN_BUNDLE_MAX + 1)).is_err());
        assert!(reply(|r| r.trust_domain = "a b".into()).is_err());
    }

    #[test]
    fn who_is_meant_fits_all_that_is_named_and_nobody_is_meant_by_nothing() {
        let mut named = reply(|_| {}).unwrap().named.remove(0);
        assert!(named.means(1000, 5) && !named.means(1001, 5));
        named.gid = Some(5);
        assert!(named.means(1000, 5) && !named.means(1000, 6) && !named.means(0, 5));
        (named.uid, named.gid) = (None, Some(5));
        assert!(named.means(7, 5) && !named.means(7, 7));
        named.gid = None;
        assert!(!named.means(0, 0) && !named.means(1000, 5));
    }
}
