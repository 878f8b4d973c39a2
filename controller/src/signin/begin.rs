//! What does a device ask for so that its person can sign in, and which answers finish that?

use super::{NotIn, locked, named};
use crate::directory::{Directory, Fact, Idp, Refusal, Session};
use crate::judge;
use crate::login;
use crate::oidc::{AuthorizeRequest, DevicePoll, pkce};
use crate::organisation::Organisation;
use crate::rate::Act;
use host::entropy;
use model::ids::{DeviceId, IdpId, NodeId, SignInId};
use model::limits::{SIGN_IN_CODE_LIFE, SIGN_IN_LIFE, SIGN_IN_TEXT_MAX, SIGN_INS_MAX};
use model::secret::Secret;
use model::time::{Instant, WallMs};
use std::time::Duration;
use subtle::ConstantTimeEq as _;

/// A sign-in that was begun.
pub struct Begun {
    /// For [`Organisation::finish_sign_in`].
    pub id: SignInId,
    /// Where the browser goes.
    pub url: String,
    /// What the browser brings back with the code.
    pub state: Secret<String>,
}

/// One that a person finishes elsewhere.
pub struct BegunCode {
    /// For [`Organisation::poll_sign_in`].
    pub id: SignInId,
    /// What the person types in.
    pub user_code: String,
    /// Where.
    pub uri: String,
    /// The same with the code in it.
    pub complete_uri: Option<String>,
    /// Pause between two polls.
    pub interval: Duration,
    /// How long it waits.
    pub ends_in: Duration,
}

/// How far such a sign-in is.
pub enum Polled {
    /// Ask again after so long.
    Pending(Duration),
    /// In.
    Done(Session, String),
}

/// A sign-in that is under way.
pub(super) struct Pending {
    id: SignInId,
    idp: IdpId,
    begun: Instant,
    begun_wall: WallMs,
    /// The person has to prove anew who they are.
    fresh: bool,
    how: How,
}

enum How {
    Browser { state: Secret<String>, nonce: Secret<String>, verifier: Secret<String>, redirect: String },
    Code { device_code: Secret<String>, interval: Duration, next: Instant, ends: Instant },
}

impl Pending {
    fn is_over(&self, now: Instant) -> bool {
        now.since(self.begun) >= SIGN_IN_LIFE
    }
    /// Were they asked to prove who they are just now? Then an older proof does not do. A provider that does not tell is taken as it is.
    pub(super) fn check_age(&self, auth_time: Option<WallMs>) -> Result<(), NotIn> {
        let skew = Duration::from_secs(60);
        match auth_time {
            Some(at) if self.fresh && at.plus(skew) < self.begun_wall => Err(NotIn::denied(
                "the identity provider did not ask you anew; sign out there, and start again",
                "the provider was asked for a fresh proof and told of an old one (auth_time)",
            )),
            _ => Ok(()),
        }
    }
}

fn random() -> Result<Secret<String>, Refusal> {
    pkce::random_text().map_err(|e| Refusal::Failed(e.to_string()))
}

/// Said where a sign-in is not, or not any more, under way.
fn unknown() -> NotIn {
    NotIn::denied(
        "this sign-in is not under way any more; start it again",
        "no such sign-in is under way on this device",
    )
}

impl Organisation {
    /// Begins a sign-in with a browser that comes back to this port of the device.
    pub async fn begin_sign_in(&self, device: DeviceId, idp: &str, port: u16) -> Result<Begun, NotIn> {
        let directory = self.now();
        let idp = self.begin_at(&directory, device, idp)?;
        let redirect = idp.record.redirect.uri(port);
        if port == 0 || idp.record.redirect.port.is_some_and(|wanted| wanted != port) {
            return Err(Refusal::Invalid(format!("the provider expects the browser at {redirect}")).into());
        }
        let (state, nonce, verifier) = (random()?, random()?, random()?);
        // Whoever is logged in and logs in again wants a fresh proof.
        let fresh = judge::session_of(&directory, device, self.wall()).is_some();
        let request = AuthorizeRequest {
            state: state.expose(),
            nonce: nonce.expose(),
            code_challenge: &pkce::challenge(&verifier),
            redirect_uri: &redirect,
            prompt: fresh.then_some("login"),
            max_age: Some(if fresh { 0 } else { self.timing.session.as_secs() }),
            acr_values: None,
        };
        let mut url = self.client_of(&directory, idp)?.authorize_url(request).await?;
        for (name, value) in &idp.record.parameters {
            url.push('&');
            url.push_str(&form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish());
        }
        let how = How::Browser { state: state.clone(), nonce, verifier, redirect };
        let id = self.hold(device, idp.record.id, fresh, how)?;
        Ok(Begun { id, url, state })
    }

    /// Finishes it with what the browser brought: once, whatever comes of it.
    pub async fn finish_sign_in(
        &self,
        device: DeviceId,
        id: SignInId,
        code: Secret<String>,
        state: &str,
        iss: Option<&str>,
    ) -> Result<(Session, String), NotIn> {
        if code.expose().is_empty() || code.expose().len().max(state.len()) > SIGN_IN_TEXT_MAX {
            return Err(Refusal::Invalid(format!("a code has 1 to {SIGN_IN_TEXT_MAX} bytes")).into());
        }
        self.take_turn(Act::SignIn, NodeId::Device(device))?;
        let pending = self.take(device, id, |how| matches!(how, How::Browser { .. }))?;
        let How::Browser { state: expected, nonce, verifier, redirect } = &pending.how else { return Err(unknown()) };
        if !bool::from(expected.expose().as_bytes().ct_eq(state.as_bytes())) {
            return Err(NotIn::denied(
                "what the browser brought is no answer to this sign-in; start it again",
                "the state that the browser brought is another one",
            ));
        }
        let directory = self.now();
        let idp = directory.idps.find(&pending.idp).ok_or_else(unknown)?;
        let client = self.client_of(&directory, idp)?;
        client.check_answer(iss).await?;
        let mut tokens = client.exchange(&code, verifier, redirect, nonce.expose()).await?;
        client.complete(&mut tokens, &[&idp.record.groups_claim]).await?;
        pending.check_age(tokens.claims.auth_time)?;
        self.admit(device, idp, &tokens).await
    }

    /// Begins a sign-in that the person finishes elsewhere (RFC 8628).
    pub async fn begin_code_sign_in(&self, device: DeviceId, idp: &str) -> Result<BegunCode, NotIn> {
        let directory = self.now();
        let idp = self.begin_at(&directory, device, idp)?;
        if !idp.record.device_code {
            return Err(NotIn::denied(
                "sign-in by device code is not switched on for this provider; sign in with a browser, or ask an administrator",
                "device code is not switched on for this provider",
            ));
        }
        let code = self.client_of(&directory, idp)?.device_authorization().await?;
        let (now, ends_in) = (self.clock.now(), code.expires_in.min(SIGN_IN_CODE_LIFE));
        let how = How::Code {
            device_code: code.device_code,
            interval: code.interval,
            next: now.plus(code.interval),
            ends: now.plus(ends_in),
        };
        let id = self.hold(device, idp.record.id, false, how)?;
        Ok(BegunCode {
            id,
            user_code: code.user_code,
            uri: code.verification_uri.to_string(),
            complete_uri: code.verification_uri_complete.map(|uri| uri.to_string()),
            interval: code.interval,
            ends_in,
        })
    }

    /// Has the person finished it?
    pub async fn poll_sign_in(&self, device: DeviceId, id: SignInId) -> Result<Polled, NotIn> {
        let now = self.clock.now();
        let early =
            locked(&self.sign_ins.pending).get(&device).filter(|pending| pending.id == id).and_then(|pending| {
                let How::Code { next, ends, .. } = &pending.how else { return None };
                (now < *next && now < *ends).then(|| next.since(now))
            });
        if let Some(wait) = early {
            return Ok(Polled::Pending(wait));
        }
        // Taken while the provider is asked: two polls at once would be one too fast for it.
        let mut pending = self.take(device, id, |how| matches!(how, How::Code { .. }))?;
        let over = || NotIn::denied("the code has ended; start the sign-in again", "the device code has ended");
        let How::Code { device_code, interval, next, ends } = &mut pending.how else { return Err(unknown()) };
        if now >= *ends {
            return Err(over());
        }
        let directory = self.now();
        let idp = directory.idps.find(&pending.idp).ok_or_else(unknown)?;
        let client = self.client_of(&directory, idp)?;
        match client.device_token(device_code).await {
            Ok(DevicePoll::Done(mut tokens)) => {
                client.complete(&mut tokens, &[&idp.record.groups_claim]).await?;
                self.admit(device, idp, &tokens).await.map(|(session, user)| Polled::Done(session, user))
            }
            Ok(DevicePoll::Denied) => Err(NotIn::denied(
                "the sign-in was refused at the identity provider",
                "the provider says access_denied",
            )),
            Ok(DevicePoll::Expired) => Err(over()),
            polled => {
                match polled {
                    Ok(DevicePoll::SlowDown) => *interval = interval.saturating_add(Duration::from_secs(5)),
                    Err(error) if !error.is_unreachable() => return Err(error.into()),
                    _ => {}
                }
                let wait = *interval;
                *next = self.clock.now().plus(wait);
                locked(&self.sign_ins.pending).entry(device).or_insert(pending);
                Ok(Polled::Pending(wait))
            }
        }
    }

    /// May this device begin a sign-in there?
    fn begin_at<'a>(&self, directory: &'a Directory, device: DeviceId, idp: &str) -> Result<&'a Fact<Idp>, NotIn> {
        let found = named(directory, idp)?;
        let owner = directory.devices.find(&device).and_then(|fact| fact.record.user);
        login::may(directory, owner, device)?;
        self.take_turn(Act::SignIn, NodeId::Device(device))?;
        Ok(found)
    }

    fn hold(&self, device: DeviceId, idp: IdpId, fresh: bool, how: How) -> Result<SignInId, Refusal> {
        let id = SignInId::from_bytes(entropy::random().map_err(|e| Refusal::Failed(e.to_string()))?);
        let now = self.clock.now();
        let mut held = locked(&self.sign_ins.pending);
        held.retain(|_, pending| !pending.is_over(now));
        while held.len() >= SIGN_INS_MAX && !held.contains_key(&device) {
            let Some(oldest) = held.iter().min_by_key(|(_, pending)| pending.begun).map(|(device, _)| *device) else {
                break;
            };
            held.remove(&oldest);
        }
        held.insert(device, Pending { id, idp, begun: now, begun_wall: self.wall(), fresh, how });
        Ok(id)
    }

    /// One that is under way on a device that nobody has seen.
    #[cfg(test)]
    pub(super) fn hold_for_test(&self, device: DeviceId) {
        let (device_code, now) = (Secret::new("code".to_owned()), self.clock.now());
        let how = How::Code { device_code, interval: Duration::ZERO, next: now, ends: now };
        self.hold(device, IdpId::from_bytes([9; 10]), false, how).unwrap();
    }

    /// Takes out what is under way on the device: nobody answers it twice.
    fn take(&self, device: DeviceId, id: SignInId, is: impl Fn(&How) -> bool) -> Result<Pending, NotIn> {
        let mut held = locked(&self.sign_ins.pending);
        if !held.get(&device).is_some_and(|pending| pending.id == id && is(&pending.how)) {
            return Err(unknown());
        }
        held.remove(&device).filter(|pending| !pending.is_over(self.clock.now())).ok_or_else(unknown)
    }
}
