//! What does every node say to the controller? The only place of this crate that knows the wire's messages.

use crate::channel::MESSAGE_MAX;
use crate::link::Succession;
use crate::successor::{Announcement, Authority};
use model::key::PublicKey;
use model::limits::RUN_ID_LEN;
use model::time::WallMs;
use proto::convert;
use proto::join::JoinKind;
use proto::v1;
use proto::v1::enrolment_client::EnrolmentClient;
use proto::v1::nodes_client::NodesClient;
use std::net::{Ipv4Addr, Ipv6Addr};
use tonic::transport::Channel;

/// A sign of life of this run, which also says which announcement the node keeps; an error says why there is none. The answer says what
/// follows the controller's key and CA, where something does.
pub(crate) async fn probe(
    channel: Channel,
    keeps: Option<[u8; 32]>,
    run: [u8; RUN_ID_LEN],
) -> Result<Option<Succession>, String> {
    let mut client = NodesClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
    let keeps = keeps.map(|digest| digest.to_vec()).unwrap_or_default();
    let reply = client
        .probe(v1::ProbeRequest { keeps, run: run.to_vec() })
        .await
        .map_err(|status| status.message().to_owned())?;
    match reply.into_inner().succession {
        None => Ok(None),
        Some(said) => {
            let announcement = said.announcement.map(announcement).transpose().map_err(|e| e.to_string())?;
            Ok(Some(Succession { announcement, switched: said.switched }))
        }
    }
}

fn announcement(said: v1::Announcement) -> Result<Announcement, convert::WireError> {
    let next = Authority { key: convert::public_key("key", &said.key)?, ca: said.ca };
    let (announced, switches, ends) = (WallMs(said.announced_ms), WallMs(said.switches_ms), WallMs(said.ends_ms));
    Ok(Announcement { next, announced, switches, ends, signature: said.signature })
}

/// A fresh certificate chain for this certificate request (DER, leaf first).
pub(crate) async fn renew_svid(channel: Channel, csr: Vec<u8>) -> Result<Vec<Vec<u8>>, String> {
    let mut client = NodesClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
    let reply = client.renew_svid(v1::RenewSvidRequest { csr }).await;
    reply.map(|reply| reply.into_inner().chain).map_err(|status| status.message().to_owned())
}

/// What a machine that enrols says of itself.
pub(crate) struct Application {
    /// From the join file's secret.
    pub token: Vec<u8>,
    /// What the join file admits.
    pub kind: JoinKind,
    /// Its name, for administrators.
    pub name: String,
    /// PKCS #10, DER.
    pub csr: Vec<u8>,
    /// Signature over the TLS exporter of this connection.
    pub proof: Vec<u8>,
    /// The node's recovery secret.
    pub recovery: Vec<u8>,
    /// A token of its own platform; or nothing.
    pub identity_token: String,
}

/// What a node says that comes back under another key.
pub(crate) struct Reapplication {
    /// From the recovery secret.
    pub token: Vec<u8>,
    /// PKCS #10, DER.
    pub csr: Vec<u8>,
    /// Signature over the TLS exporter of this connection.
    pub proof: Vec<u8>,
}

/// "From some moment on this is my key."
pub(crate) async fn rotate_key(channel: Channel, key: &PublicKey) -> Result<(), String> {
    let mut client = NodesClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
    let told = client.rotate_key(v1::RotateKeyRequest { key: key.0.to_vec() }).await;
    told.map(|_| ()).map_err(|status| status.message().to_owned())
}

/// One Recover call.
pub(crate) async fn recover(channel: Channel, again: Reapplication) -> Result<Admission, NotAdmitted> {
    let request = v1::RecoverRequest { token: again.token, csr: again.csr, proof: again.proof };
    let mut client = EnrolmentClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
    let reply = client.recover(request).await.map_err(|status| NotAdmitted::Refused(status.message().to_owned()))?;
    read(reply.into_inner()).map_err(|error| NotAdmitted::Answer(error.to_string()))
}

/// What the controller made of it; nothing here is believed yet but its shape.
pub struct Admission {
    /// The SPIFFE id.
    pub node: String,
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Overlay address.
    pub v6: Ipv6Addr,
    /// A device's overlay address.
    pub v4: Option<Ipv4Addr>,
    /// An administrator must confirm first.
    pub pending: bool,
    /// What the administrator will be shown.
    pub fingerprint: String,
    /// The service account as which a device joined: nobody logs in on it.
    pub account: Option<String>,
}

/// Why there is no admission.
pub(crate) enum NotAdmitted {
    /// The controller says no.
    Refused(String),
    /// Its answer makes no sense.
    Answer(String),
}

/// One Enroll call.
pub(crate) async fn enroll(channel: Channel, application: Application) -> Result<Admission, NotAdmitted> {
    let kind = match application.kind {
        JoinKind::Device => v1::NodeKind::Device,
        JoinKind::Gateway => v1::NodeKind::Gateway,
    };
    let request = v1::EnrollRequest {
        token: application.token,
        kind: kind.into(),
        name: application.name,
        csr: application.csr,
        proof: application.proof,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        recovery: application.recovery,
        identity_token: application.identity_token,
    };
    let mut client = EnrolmentClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
    let reply = client.enroll(request).await.map_err(|status| NotAdmitted::Refused(status.message().to_owned()))?;
    read(reply.into_inner()).map_err(|error| NotAdmitted::Answer(error.to_string()))
}

/// Checks the answer to a machine that enrols or comes back.
pub fn read(reply: v1::EnrollReply) -> Result<Admission, convert::WireError> {
    let v4 = if reply.address_v4.is_empty() {
        None
    } else {
        Some(Ipv4Addr::from(convert::array::<4>("address_v4", &reply.address_v4)?))
    };
    let account = match reply.account.as_str() {
        "" => None,
        account => Some(convert::display_name("account", account)?),
    };
    Ok(Admission {
        account,
        node: reply.node_id,
        chain: reply.chain,
        v6: Ipv6Addr::from(convert::array::<16>("address", &reply.address)?),
        v4,
        pending: reply.pending,
        fingerprint: reply.fingerprint,
    })
}
