//! What do client and controller say to each other? The only place of this program that knows the wire's types.

mod identities;

pub use identities::{
    Identities, Named, list_identities, read_chain, read_identities, read_token, sign_identity, sign_token,
};

use crate::catalogue::{Delta, Session};
use model::grant::{CatalogueAddress, CatalogueEntry, Ending, PairingOffer};
use model::ids::{FactorId, GrantId, PairingId, ResourceId, SignInId};
use model::key::{Psk, PublicKey};
use model::limits::{
    CATALOGUE_MAX, ENDPOINTS_MAX, FACTORS_PER_USER_MAX, GRANTS_PER_DEVICE_MAX, IDPS_MAX, LIST_MAX, PASSKEY_OPTIONS_MAX,
    REASON_CHARS_MAX, REASONS_MAX, RECOVERY_CODES, RULES_PER_GRANT_MAX,
};
use model::net::{HostName, Prefix};
use model::revision::Revision;
use model::secret::Secret;
use model::time::Instant;
use node::channel::MESSAGE_MAX;
use proto::convert::{WireError, array, bounded, display_name, ending, id, public_key, required, wrong};
use proto::local;
use proto::v1;
use proto::v1::connect_reply::Result as Outcome;
use proto::v1::device_update::What;
use proto::v1::devices_client::DevicesClient;
use std::collections::BTreeSet;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Methods of a second factor that one answer names.
const METHODS_MAX: usize = 8;

/// How long the controller may take to answer anything but a connect, which includes a gateway's way.
const CALL_MAX: Duration = Duration::from_secs(10);

/// One message of the controller, checked.
#[derive(Debug)]
pub enum Update {
    /// The whole state.
    Snapshot {
        /// Which.
        revision: Revision,
        /// The log-in; none: nobody is logged in.
        session: Option<Session>,
        /// The catalogue.
        entries: Vec<CatalogueEntry>,
        /// The grants of this device that live.
        grants: BTreeSet<GrantId>,
        /// The device waits for confirmation.
        pending: bool,
        /// Zones that are the organisation's alone.
        private_zones: Vec<HostName>,
    },
    /// A change of it.
    Delta(Delta),
    /// A grant ended.
    Ended {
        /// Which.
        grant: GrantId,
        /// To what.
        resource: ResourceId,
        /// Why.
        ending: Ending,
    },
    /// A grant lives on.
    Renewed {
        /// Which.
        grant: GrantId,
        /// Until then.
        until: Instant,
    },
}

/// The answer to a request for access.
pub enum Answer {
    /// Permitted.
    Permit {
        /// The grant.
        grant: GrantId,
        /// Its tunnel.
        pairing: PairingId,
        /// The far end, if the tunnel is new.
        offer: Option<PairingOffer>,
        /// To what it leads.
        prefixes: Vec<Prefix>,
        /// How long, from the sending of the request.
        ends_in: Duration,
    },
    /// Denied.
    Deny {
        /// For a person to act on.
        reasons: Vec<String>,
        /// When to ask again.
        retry_after: Duration,
        /// Nobody's will: the same question may be answered otherwise in a moment.
        passing: bool,
        /// Methods by which a second factor, given now, would make it a permit.
        step_up: Vec<String>,
    },
}

/// How long a call may take in which the controller asks an identity provider: some requests, each with its own limit.
const SIGN_IN_CALL_MAX: Duration = Duration::from_secs(60);
/// Bytes of a web address that a person's browser is sent to.
const WEB_ADDRESS_MAX: usize = 8_192;

/// The controller's stream: the catalogue and the state of this device's grants.
pub struct Stream(Streaming<v1::DeviceUpdate>);

fn client(channel: Channel) -> DevicesClient<Channel> {
    DevicesClient::new(channel).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX)
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded("the controller did not answer in time")),
    }
}

/// A text of the controller, for a terminal: no longer than a person reads.
fn readable(text: &str) -> String {
    text.chars().take(REASON_CHARS_MAX).collect()
}

/// Opens the stream.
pub async fn watch(channel: Channel, seen: Revision) -> Result<Stream, Status> {
    let request = v1::DeviceWatchRequest { seen: Some(seen.into()) };
    within(CALL_MAX, async { Ok(Stream(client(channel).watch(request).await?.into_inner())) }).await
}

/// The next message. An error ends the stream; so does a message that makes no sense. `now` is read on its arrival.
pub async fn next(stream: &mut Stream, now: impl Fn() -> Instant) -> Result<Update, String> {
    let message = stream.0.message().await.map_err(|s| s.message().to_owned())?;
    let message = message.ok_or_else(|| "the controller closed the stream".to_owned())?;
    read_update(message, now()).map_err(|e| e.to_string())
}

/// Logs a person in; answers how long the session lives.
pub async fn login(channel: Channel, user: String, password: Secret<String>) -> Result<(String, Duration), Status> {
    let request = v1::LoginRequest { user, password: password.expose().clone() };
    // A password's hash is slow on purpose, and others may be waiting.
    let reply = within(CALL_MAX * 2, client(channel).login(request)).await?.into_inner();
    Ok((reply.session, Duration::from_millis(reply.ends_in_ms)))
}

/// Where people sign in.
pub async fn list_providers(channel: Channel) -> Result<local::ListProvidersReply, Status> {
    let reply = within(CALL_MAX, client(channel).list_providers(v1::ListProvidersRequest {})).await?.into_inner();
    read_providers(reply).map_err(malformed)
}

/// Checks a list of providers.
pub fn read_providers(reply: v1::ListProvidersReply) -> Result<local::ListProvidersReply, WireError> {
    let provider = |p: v1::Provider| {
        if !matches!(p.redirect_host.as_str(), "127.0.0.1" | "localhost") {
            return Err(wrong("redirect_host", "is not this machine"));
        }
        Ok(local::Provider {
            name: display_name("provider.name", &p.name)?,
            redirect_host: p.redirect_host,
            redirect_port: u16::try_from(p.redirect_port).map_err(|_| wrong("redirect_port", "is no port"))?.into(),
            device_code: p.device_code,
        })
    };
    let providers = bounded("providers", reply.providers, IDPS_MAX)?;
    Ok(local::ListProvidersReply { providers: providers.into_iter().map(provider).collect::<Result<_, _>>()? })
}

/// Begins a sign-in with a browser. The provider is asked in between.
pub async fn begin_sign_in(channel: Channel, provider: String, port: u32) -> Result<local::BeginSignInReply, Status> {
    let request = v1::BeginSignInRequest { provider, port };
    let reply = within(SIGN_IN_CALL_MAX, client(channel).begin_sign_in(request)).await?.into_inner();
    read_sign_in(reply).map_err(malformed)
}

/// Checks where a browser is sent: a program opens it.
pub fn read_sign_in(reply: v1::BeginSignInReply) -> Result<local::BeginSignInReply, WireError> {
    Ok(local::BeginSignInReply {
        id: id::<SignInId>("id", &reply.id)?.to_string(),
        url: web_address("url", reply.url)?,
        state: printable("state", reply.state)?,
    })
}

/// What the browser brought; answers session, user, and how long the session lives.
pub async fn finish_sign_in(
    channel: Channel,
    request: local::FinishSignInRequest,
) -> Result<(String, String, Duration), Status> {
    let local::FinishSignInRequest { id, code, state, iss } = request;
    let request = v1::FinishSignInRequest { id, code, state, iss };
    let reply = within(SIGN_IN_CALL_MAX, client(channel).finish_sign_in(request)).await?.into_inner();
    match read_signed_in(reply).map_err(malformed)? {
        Ok(done) => Ok(done),
        Err(_) => Err(Status::internal("the controller's answer is not valid: the sign-in is not finished")),
    }
}

/// Who is in, or how long to wait before the next question.
pub fn read_signed_in(reply: v1::SignInReply) -> Result<Result<(String, String, Duration), Duration>, WireError> {
    if reply.session.is_empty() {
        return Ok(Err(Duration::from_millis(reply.wait_ms)));
    }
    let user = display_name("user", &reply.user)?;
    Ok(Ok((reply.session, user, Duration::from_millis(reply.ends_in_ms))))
}

/// Begins a sign-in whose code is typed in elsewhere.
pub async fn begin_code_sign_in(channel: Channel, provider: String) -> Result<local::BeginCodeSignInReply, Status> {
    let request = v1::BeginCodeSignInRequest { provider };
    let reply = within(SIGN_IN_CALL_MAX, client(channel).begin_code_sign_in(request)).await?.into_inner();
    read_code_sign_in(reply).map_err(malformed)
}

/// Checks a code and where it is typed in.
pub fn read_code_sign_in(reply: v1::BeginCodeSignInReply) -> Result<local::BeginCodeSignInReply, WireError> {
    let complete_uri = match reply.complete_uri.is_empty() {
        true => String::new(),
        false => web_address("complete_uri", reply.complete_uri)?,
    };
    Ok(local::BeginCodeSignInReply {
        id: id::<SignInId>("id", &reply.id)?.to_string(),
        user_code: printable("user_code", reply.user_code)?,
        uri: web_address("uri", reply.uri)?,
        complete_uri,
        interval_ms: reply.interval_ms,
        ends_in_ms: reply.ends_in_ms,
    })
}

/// Has its person finished it?
pub async fn poll_sign_in(
    channel: Channel,
    id: String,
) -> Result<Result<(String, String, Duration), Duration>, Status> {
    let reply =
        within(SIGN_IN_CALL_MAX, client(channel).poll_sign_in(v1::PollSignInRequest { id })).await?.into_inner();
    read_signed_in(reply).map_err(malformed)
}

/// An `https` address that a browser may be given: visible ASCII, no longer than browsers take.
fn web_address(field: &'static str, text: String) -> Result<String, WireError> {
    let fits = text.len() <= WEB_ADDRESS_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits && text.starts_with("https://") { Ok(text) } else { Err(wrong(field, "is no web address")) }
}

/// Ends the session.
pub async fn logout(channel: Channel) -> Result<(), Status> {
    within(CALL_MAX, client(channel).logout(v1::LogoutRequest {})).await.map(|_| ())
}

/// The second factors of whoever is logged in.
pub async fn list_factors(channel: Channel) -> Result<local::ListFactorsReply, Status> {
    let reply = within(CALL_MAX, client(channel).list_factors(v1::ListFactorsRequest {})).await?.into_inner();
    read_factors(reply).map_err(malformed)
}

/// Checks a list of second factors.
pub fn read_factors(reply: v1::ListFactorsReply) -> Result<local::ListFactorsReply, WireError> {
    let factor = |f: v1::Factor| {
        Ok(local::Factor {
            id: id::<FactorId>("factor.id", &f.id)?.to_string(),
            name: display_name("factor.name", &f.name)?,
            method: display_name("factor.method", &f.method)?,
            age_ms: f.age_ms,
            used_ms_ago: f.used_ms_ago,
        })
    };
    Ok(local::ListFactorsReply {
        factors: bounded("factors", reply.factors, FACTORS_PER_USER_MAX)?
            .into_iter()
            .map(factor)
            .collect::<Result<_, _>>()?,
        recovery_codes: reply.recovery_codes,
        locked_ms: reply.locked_ms,
    })
}

/// Begins an authenticator app.
pub async fn begin_totp(channel: Channel, name: String) -> Result<local::BeginTotpReply, Status> {
    let reply = within(CALL_MAX, client(channel).begin_totp(v1::BeginTotpRequest { name })).await?.into_inner();
    read_begun(reply).map_err(malformed)
}

/// Checks what an app is to share.
pub fn read_begun(reply: v1::BeginTotpReply) -> Result<local::BeginTotpReply, WireError> {
    Ok(local::BeginTotpReply {
        id: id::<FactorId>("id", &reply.id)?.to_string(),
        secret: display_name("secret", &reply.secret)?,
        uri: printable("uri", reply.uri)?,
    })
}

/// The first code of an app.
pub async fn confirm_totp(channel: Channel, id: String, code: String) -> Result<local::RecoveryCodes, Status> {
    // Ten hashes are made.
    let request = v1::ConfirmTotpRequest { id, code };
    let reply = within(CALL_MAX * 2, client(channel).confirm_totp(request)).await?.into_inner();
    read_codes(reply).map_err(malformed)
}

/// Gives a second factor; answers its method.
pub async fn verify_factor(channel: Channel, code: String) -> Result<local::VerifyFactorReply, Status> {
    let request = v1::VerifyFactorRequest { code };
    let reply = within(CALL_MAX * 2, client(channel).verify_factor(request)).await?.into_inner();
    let method = display_name("method", &reply.method).map_err(malformed)?;
    Ok(local::VerifyFactorReply { method })
}

/// Gives a second factor up.
pub async fn remove_factor(channel: Channel, factor: String) -> Result<local::RemoveFactorReply, Status> {
    within(CALL_MAX, client(channel).remove_factor(v1::RemoveFactorRequest { factor })).await?;
    Ok(local::RemoveFactorReply {})
}

/// New recovery codes.
pub async fn renew_recovery_codes(channel: Channel) -> Result<local::RecoveryCodes, Status> {
    let request = v1::RenewRecoveryCodesRequest {};
    let reply = within(CALL_MAX * 2, client(channel).renew_recovery_codes(request)).await?.into_inner();
    read_codes(reply).map_err(malformed)
}

/// Has the controller ask for a new passkey of this name, on a page at this port; answers what the browser is asked.
pub async fn begin_passkey(channel: Channel, name: String, port: u16) -> Result<local::PasskeyQuestion, Status> {
    let request = v1::BeginPasskeyRequest { name, port: port.into() };
    let reply = within(CALL_MAX, client(channel).begin_passkey(request)).await?.into_inner();
    read_question(reply).map_err(malformed)
}

/// What the browser answered to [`begin_passkey`].
pub async fn confirm_passkey(channel: Channel, answer: Vec<u8>) -> Result<local::RecoveryCodes, Status> {
    // Ten hashes may be made.
    let reply = within(CALL_MAX * 2, client(channel).confirm_passkey(v1::PasskeyAnswer { answer })).await?.into_inner();
    read_codes(reply).map_err(malformed)
}

/// Has the controller ask for a passkey as a second factor, for a resource where one takes it.
pub async fn ask_passkey(
    channel: Channel,
    resource: Option<ResourceId>,
    port: u16,
) -> Result<local::PasskeyQuestion, Status> {
    let resource = resource.map(|id| id.to_string()).unwrap_or_default();
    let request = v1::AskPasskeyRequest { resource, port: port.into() };
    let reply = within(CALL_MAX, client(channel).ask_passkey(request)).await?.into_inner();
    read_question(reply).map_err(malformed)
}

/// What the browser answered to [`ask_passkey`]; answers the method.
pub async fn verify_passkey(channel: Channel, answer: Vec<u8>) -> Result<local::VerifyFactorReply, Status> {
    let reply = within(CALL_MAX, client(channel).verify_passkey(v1::PasskeyAnswer { answer })).await?.into_inner();
    let method = display_name("method", &reply.method).map_err(malformed)?;
    Ok(local::VerifyFactorReply { method })
}

/// Checks what a browser is to be asked: JSON, not longer than a page takes.
pub fn read_question(reply: v1::PasskeyQuestion) -> Result<local::PasskeyQuestion, WireError> {
    let fits = reply.options.len() <= PASSKEY_OPTIONS_MAX;
    let options = serde_json::from_slice::<serde_json::Value>(&reply.options).ok().filter(|_| fits);
    let options = options.ok_or_else(|| wrong("options", "is no JSON for a browser"))?;
    Ok(local::PasskeyQuestion { options: options.to_string().into_bytes() })
}

/// Checks recovery codes.
pub fn read_codes(reply: v1::RecoveryCodes) -> Result<local::RecoveryCodes, WireError> {
    let codes = bounded("codes", reply.codes, RECOVERY_CODES)?;
    let codes = codes.into_iter().map(|code| printable("codes", code)).collect::<Result<_, _>>()?;
    Ok(local::RecoveryCodes { codes })
}

/// A text that is shown as it is: visible ASCII, no longer than a person would copy.
fn printable(field: &'static str, text: String) -> Result<String, WireError> {
    let fits = text.len() <= REASON_CHARS_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(text) } else { Err(wrong(field, "is not what can be typed")) }
}

fn malformed(error: WireError) -> Status {
    Status::internal(format!("the controller's answer is not valid: {error}"))
}

/// Asks for access.
pub async fn connect(channel: Channel, request: &crate::connect::Request, key: PublicKey) -> Result<Answer, String> {
    let message = v1::ConnectRequest {
        resource: request.resource.to_string(),
        data_key: key.0.to_vec(),
        pairings: request.held.iter().map(ToString::to_string).collect(),
        avoid_gateways: request.avoid.iter().map(ToString::to_string).collect(),
        moves: request.moves.map(|grant| grant.to_string()).unwrap_or_default(),
    };
    let reply = within(CALL_MAX, client(channel).connect(message)).await.map_err(|s| s.message().to_owned())?;
    read_answer(reply.into_inner()).map_err(|e| format!("the controller's answer is not valid: {e}"))
}

/// Gives a grant back.
pub async fn disconnect(channel: Channel, grant: GrantId) {
    let request = v1::DisconnectRequest { grant: grant.to_string() };
    if let Err(status) = within(CALL_MAX, client(channel).disconnect(request)).await {
        tracing::debug!(why = status.message(), %grant, "a grant could not be given back");
    }
}

/// The address of a name below a suffix.
pub async fn name_address(channel: Channel, name: &HostName) -> Result<(ResourceId, CatalogueAddress), String> {
    let request = v1::NameAddressRequest { name: name.as_str().to_owned() };
    let reply = within(CALL_MAX, client(channel).name_address(request)).await.map_err(|s| s.message().to_owned())?;
    read_name_address(reply.into_inner()).map_err(|e| e.to_string())
}

/// Checks the answer to a question for a name's address.
pub fn read_name_address(reply: v1::NameAddressReply) -> Result<(ResourceId, CatalogueAddress), WireError> {
    Ok((id("resource", &reply.resource)?, required("address", reply.address)?.try_into()?))
}

fn session(state: Option<v1::SessionState>, now: Instant) -> Result<Option<Session>, WireError> {
    let read = |s: v1::SessionState| {
        Ok(Session {
            id: id("session.id", &s.id)?,
            user: display_name("session.user", &s.user)?,
            ends: now.plus(Duration::from_millis(s.ends_in_ms)),
            factor: s.factor.map(|proof| read_factor(proof, now)).transpose()?,
            workload: s.workload,
        })
    };
    state.map(read).transpose()
}

fn read_factor(proof: v1::FactorProof, now: Instant) -> Result<(String, Instant), WireError> {
    let given = now.0.saturating_sub(proof.age_ms.saturating_mul(1_000_000));
    Ok((display_name("session.factor.method", &proof.method)?, Instant(given)))
}

fn entries(list: Vec<v1::Resource>) -> Result<Vec<CatalogueEntry>, WireError> {
    bounded("resources", list, CATALOGUE_MAX)?.into_iter().map(TryInto::try_into).collect()
}

/// Checks a message of the stream, which came at `now`.
pub fn read_update(message: v1::DeviceUpdate, now: Instant) -> Result<Update, WireError> {
    let revision = required("revision", message.revision)?.into();
    Ok(match required("what", message.what)? {
        What::Snapshot(s) => Update::Snapshot {
            revision,
            session: session(s.session, now)?,
            entries: entries(s.resources)?,
            grants: bounded("grants", s.grants, GRANTS_PER_DEVICE_MAX * 4)?
                .iter()
                .map(|g| id("grants", g))
                .collect::<Result<_, _>>()?,
            pending: s.pending,
            private_zones: bounded("private_zones", s.private_zones, LIST_MAX)?
                .iter()
                .map(|z| z.parse().map_err(|e| wrong("private_zones", e)))
                .collect::<Result<_, _>>()?,
        },
        What::Delta(d) => Update::Delta(Delta {
            from: required("from", d.from)?.into(),
            to: revision,
            session: session(d.session, now)?,
            upserts: entries(d.upserts)?,
            removals: bounded("removals", d.removals, CATALOGUE_MAX)?
                .iter()
                .map(|r| id("removals", r))
                .collect::<Result<_, _>>()?,
        }),
        What::GrantEnded(e) => Update::Ended {
            grant: id("grant", &e.grant)?,
            resource: id("resource", &e.resource)?,
            ending: ending(e.ending),
        },
        What::GrantRenewed(r) => {
            Update::Renewed { grant: id("grant", &r.grant)?, until: now.plus(Duration::from_millis(r.ends_in_ms)) }
        }
    })
}

/// Checks the answer to a request for access.
pub fn read_answer(reply: v1::ConnectReply) -> Result<Answer, WireError> {
    match required("result", reply.result)? {
        Outcome::Permit(p) => {
            let pairing = id("pairing", &p.pairing)?;
            let prefixes = bounded("rules", p.rules, RULES_PER_GRANT_MAX)?
                .into_iter()
                .map(|r| required("rule.client", r.client)?.try_into())
                .collect::<Result<_, _>>()?;
            Ok(Answer::Permit {
                grant: id("grant", &p.grant)?,
                pairing,
                offer: p.offer.map(|o| read_offer(o, pairing)).transpose()?,
                prefixes,
                ends_in: Duration::from_millis(p.ends_in_ms),
            })
        }
        Outcome::Deny(d) => {
            let reasons = d.reasons.iter().take(REASONS_MAX).map(|r| readable(r)).collect();
            let step_up = d.step_up.iter().take(METHODS_MAX);
            let step_up = step_up.map(|method| display_name("deny.step_up", method)).collect::<Result<_, _>>()?;
            let retry_after = Duration::from_millis(d.retry_after_ms);
            Ok(Answer::Deny { reasons, retry_after, passing: d.passing, step_up })
        }
    }
}

fn read_offer(offer: v1::Offer, pairing: PairingId) -> Result<PairingOffer, WireError> {
    let psk = array::<32>("offer.psk", &offer.psk)?;
    if psk == [0; 32] {
        return Err(wrong("offer.psk", "is all zeros"));
    }
    let endpoints = bounded("offer.endpoints", offer.endpoints, ENDPOINTS_MAX)?
        .into_iter()
        .map(TryInto::try_into)
        .collect::<Result<_, _>>()?;
    Ok(PairingOffer {
        id: pairing,
        gateway: id("offer.gateway", &offer.gateway)?,
        gateway_key: public_key("offer.gateway_key", &offer.gateway_key)?,
        endpoints,
        psk: Psk::new(psk),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{gateway, grant, pairing};

    fn offer(psk: u8) -> v1::Offer {
        v1::Offer {
            gateway: gateway(1).to_string(),
            gateway_key: vec![7; 32],
            endpoints: vec![v1::Endpoint { address: vec![192, 0, 2, 1], port: 443 }],
            psk: vec![psk; 32],
        }
    }

    fn permit(offer: v1::Offer) -> v1::ConnectReply {
        let permit = v1::Permit {
            grant: grant(1).to_string(),
            pairing: pairing(1).to_string(),
            offer: Some(offer),
            ends_in_ms: 5_000,
            ..v1::Permit::default()
        };
        v1::ConnectReply { result: Some(Outcome::Permit(permit)) }
    }

    #[test]
    fn a_tunnel_without_its_pre_shared_key_is_refused() {
        assert!(matches!(read_answer(permit(offer(9))), Ok(Answer::Permit { offer: Some(_), .. })));
        assert_eq!(read_answer(permit(offer(0))).err().map(|e| e.field), Some("offer.psk"));
        let short = v1::Offer { psk: vec![9; 31], ..offer(9) };
        assert_eq!(read_answer(permit(short)).err().map(|e| e.field), Some("offer.psk"));
    }

    #[test]
    fn an_empty_answer_is_no_permit() {
        assert!(read_answer(v1::ConnectReply { result: None }).is_err());
        assert!(read_update(v1::DeviceUpdate::default(), Instant(0)).is_err());
    }

    /// A snapshot with everything in it, changed in one place.
    fn snapshot(change: &dyn Fn(&mut v1::DeviceSnapshot)) -> Result<Update, WireError> {
        let factor = Some(v1::FactorProof { method: "totp".into(), age_ms: 1 });
        let state = v1::SessionState {
            id: "se-0000000000000000".into(),
            user: "clerk".into(),
            ends_in_ms: 1,
            factor,
            workload: false,
        };
        let mut full = v1::DeviceSnapshot {
            session: Some(state),
            resources: vec![crate::testkit::entry(1, "wiki", "10.77.64.0").into()],
            grants: vec![grant(1).to_string()],
            pending: false,
            private_zones: vec!["corp.example".into()],
        };
        change(&mut full);
        let (what, revision) = (Some(What::Snapshot(full)), Some(v1::Revision::default()));
        read_update(v1::DeviceUpdate { revision, what }, Instant(0))
    }

    #[test]
    fn what_the_controller_calls_things_are_words_or_the_message_is_refused() {
        assert!(snapshot(&|_| {}).is_ok());
        let (long, hidden) = ("x".repeat(64 << 10), "\u{202e}".repeat(20_000));
        let evil = ["a\nb", "\u{1b}[2J", "a\0", "a\u{9b}", "a\u{202e}b", "\u{200b}a", "a\u{e0041}", &long, &hidden];
        for text in evil {
            let text = || text.to_owned();
            let session = |s: &mut v1::DeviceSnapshot, change: &dyn Fn(&mut v1::SessionState)| {
                s.session.as_mut().map(change).unwrap();
            };
            let changes: [&dyn Fn(&mut v1::DeviceSnapshot); 9] = [
                &|s| session(s, &|state| state.id = text()),
                &|s| session(s, &|state| state.user = text()),
                &|s| session(s, &|state| state.factor.as_mut().unwrap().method = text()),
                &|s| s.resources[0].id = text(),
                &|s| s.resources[0].name = text(),
                &|s| s.resources[0].suffixes = vec![text()],
                &|s| s.resources[0].addresses[0].name = text(),
                &|s| s.grants.push(text()),
                &|s| s.private_zones.push(text()),
            ];
            for (number, change) in changes.iter().enumerate() {
                let error = snapshot(change).err().unwrap_or_else(|| panic!("{number} with {:?}", text())).to_string();
                assert!(error.len() < 2_000 && !error.contains(model::text::is_hidden), "{number}: {error:?}");
            }
            let (ended, renewed) = (
                What::GrantEnded(v1::GrantEnded {
                    grant: text(),
                    resource: crate::testkit::resource(1).to_string(),
                    ending: 1,
                }),
                What::GrantRenewed(v1::GrantRenewed { grant: text(), ends_in_ms: 1 }),
            );
            let from = Some(v1::Revision::default());
            let removed = What::Delta(v1::DeviceDelta { from, removals: vec![text()], ..Default::default() });
            for what in [ended, renewed, removed] {
                assert!(read_update(v1::DeviceUpdate { revision: from, what: Some(what) }, Instant(0)).is_err());
            }
            assert!(read_answer(permit(v1::Offer { gateway: text(), ..offer(9) })).is_err());
        }
    }

    #[test]
    fn reasons_are_bounded() {
        let step_up = vec!["totp".to_owned(); 1_000];
        let deny = v1::Deny { reasons: vec!["x".repeat(10_000); 1_000], retry_after_ms: 1, passing: false, step_up };
        let answer = read_answer(v1::ConnectReply { result: Some(Outcome::Deny(deny)) }).unwrap();
        let Answer::Deny { reasons, step_up, .. } = answer else { panic!("permitted") };
        assert_eq!(step_up.len(), METHODS_MAX);
        assert_eq!((reasons.len(), reasons[0].len()), (REASONS_MAX, REASON_CHARS_MAX));
    }
}
