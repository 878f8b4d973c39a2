//! Identity providers: add, list, remove, ask now.

use super::{AdminRpc, changed, name, parse, parse_all, random};
use crate::administrator::{may_touch_group, may_touch_issuer};
use crate::authz::Caller;
use crate::directory::idp::Redirect;
use crate::directory::{Directory, Draft, Idp, IdpSecret, IdpSession, Name, Refusal};
use crate::signin;
use crate::store::Record as _;
use model::ids::IdpId;
use model::limits::{
    FETCH_ALLOW_MAX, IDP_CHECK_EVERY, IDP_CHECK_EVERY_MIN, IDP_GRACE, IDP_GRACE_MAX, IDP_GROUPS_MAX, IDPS_MAX, NAME_MAX,
};
use model::net::Prefix;
use model::secret::Secret;
use model::text::excerpt;
use model::time::WallMs;
use proto::admin as wire;
use proto::convert::millis;
use std::time::Duration;

/// Characters of a provider's name: the people's names there have it behind theirs.
const IDP_NAME_MAX: usize = 24;
/// Where the browser may come back to.
const REDIRECT_HOSTS: [&str; 2] = ["127.0.0.1", "localhost"];
/// Parameters of the question in the browser that are not an administrator's to choose.
const OURS: [&str; 11] = [
    "response_type",
    "client_id",
    "redirect_uri",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
    "request",
    "request_uri",
    "response_mode",
];

fn invalid<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Invalid(why.into()))
}

/// `A=B`, both something.
fn pair(text: &str) -> Result<(String, String), Refusal> {
    match text.rsplit_once('=') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => Ok((left.to_owned(), right.to_owned())),
        _ => invalid(format!("`{}` is not of the form NAME=VALUE", excerpt(text, NAME_MAX))),
    }
}

fn or(text: String, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text }
}

/// The provider that is described, or what is wrong with it.
pub fn check(message: &wire::AddIdpRequest, id: IdpId, created: WallMs) -> Result<Idp, Refusal> {
    let name: Name = name(&message.name)?;
    if name.as_str().len() > IDP_NAME_MAX || name.as_str().contains('.') {
        return invalid(format!("the name of a provider has at most {IDP_NAME_MAX} characters and no `.`"));
    }
    if message.client_id.is_empty() {
        return invalid("the client id is missing: the provider shows it where this client was registered");
    }
    let groups = message.groups.iter().map(|text| pair(text).and_then(|(there, here)| Ok((there, parse(&here)?))));
    let groups: Vec<(String, Name)> = groups.collect::<Result<_, _>>()?;
    if groups.len().max(message.sign_in_groups.len()) > IDP_GROUPS_MAX {
        return invalid(format!("more than {IDP_GROUPS_MAX} groups are named"));
    }
    // Of both, the narrower.
    let sign_in = match (message.anyone, message.sign_in_groups.is_empty()) {
        (_, false) => Some(message.sign_in_groups.iter().cloned().collect()),
        (true, true) => None,
        (false, true) => {
            return invalid("say who may sign in: some groups (--sign-in-group), or --anyone whom the provider knows");
        }
    };
    let parameters = message.parameters.iter().map(|text| pair(text)).collect::<Result<Vec<_>, _>>()?;
    if let Some((ours, _)) = parameters.iter().find(|(name, _)| OURS.contains(&name.as_str())) {
        return invalid(format!("the parameter `{ours}` is set by the controller"));
    }
    if parameters.len() > OURS.len() {
        return invalid(format!("more than {} parameters are named", OURS.len()));
    }
    let allow: Vec<Prefix> = parse_all(&message.allow)?;
    if allow.len() > FETCH_ALLOW_MAX {
        return invalid(format!("more than {FETCH_ALLOW_MAX} prefixes are opened"));
    }
    let host = or(message.redirect_host.clone(), "127.0.0.1");
    if !REDIRECT_HOSTS.contains(&host.as_str()) {
        return invalid("the browser comes back to 127.0.0.1 or localhost, and nowhere else");
    }
    let port = u16::try_from(message.redirect_port).or_else(|_| invalid("a port is at most 65535"))?;
    let given = |ms: u64, default: Duration| if ms == 0 { default } else { Duration::from_millis(ms) };
    let check_every = given(message.check_every_ms, IDP_CHECK_EVERY);
    let grace = given(message.grace_ms, IDP_GRACE);
    if check_every < IDP_CHECK_EVERY_MIN || grace > IDP_GRACE_MAX || grace < check_every {
        return invalid(format!(
            "a provider is asked every {} s at most, and a sign-in outlives it by at least one such time and at most {} d",
            IDP_CHECK_EVERY_MIN.as_secs(),
            IDP_GRACE_MAX.as_secs() / 86_400
        ));
    }
    let words = match message.factor_words.is_empty() {
        true => ["mfa".to_owned()].into(),
        false => message.factor_words.iter().cloned().collect(),
    };
    Ok(Idp {
        id,
        name,
        issuer: message.issuer.clone(),
        client_id: message.client_id.clone(),
        has_secret: !message.client_secret.is_empty(),
        scopes: message.scopes.clone(),
        parameters,
        groups_claim: or(message.groups_claim.clone(), "groups"),
        email_claim: or(message.email_claim.clone(), "email"),
        name_claim: or(message.name_claim.clone(), "preferred_username"),
        sign_in,
        groups,
        groups_as_named: message.groups_as_named,
        factor_words: words,
        ca_pem: (!message.ca_pem.is_empty()).then(|| message.ca_pem.clone()),
        allow,
        redirect: Redirect { host, port: (port != 0).then_some(port) },
        device_code: message.device_code,
        without_recheck: message.without_recheck,
        check_every_ms: millis(check_every),
        grace_ms: millis(grace),
        created,
    })
}

impl AdminRpc {
    pub(super) async fn add_idp(
        &self,
        caller: &Caller,
        message: wire::AddIdpRequest,
    ) -> Result<wire::Changed, Refusal> {
        let idp = check(&message, IdpId::from_bytes(random()?), self.organisation.wall())?;
        let secret = Secret::new(message.client_secret);
        // Asked before it is kept: what is wrong shows here, and not at somebody's sign-in.
        let client = self.organisation.make_client(&idp, None).map_err(|not| Refusal::Invalid(not.detail))?;
        client.metadata().await.map_err(|error| Refusal::Invalid(error.to_string()))?;
        let sealed = match idp.has_secret {
            true => {
                let sealed = self.organisation.sealer.seal(&IdpSecret::place(idp.id), secret.expose().as_bytes());
                Some(IdpSecret { sealed: sealed.map_err(|e| Refusal::Failed(e.to_string()))? })
            }
            false => None,
        };
        let make = |directory: &Directory, draft: &mut Draft| {
            draft.stands_on_all(directory, Idp::KIND)?;
            if directory.idps.values().count() >= IDPS_MAX {
                return Err(Refusal::InUse(format!("there are {IDPS_MAX} providers, as many as there may be")));
            }
            if directory.idps.values().any(|held| held.record.name == idp.name) {
                return Err(Refusal::Taken { what: format!("the provider name `{}`", idp.name) });
            }
            if let Some(held) = directory.idps.values().find(|held| held.record.issuer == idp.issuer) {
                return Err(Refusal::Taken { what: format!("the issuer (by `{}`)", held.record.name) });
            }
            may_touch_issuer(caller, directory, &idp.issuer)?;
            if idp.groups_as_named && !caller.is_owner() {
                let why = "only an owner lets a provider name groups here: --group THERE=HERE names each";
                return Err(Refusal::Denied(why.to_owned()));
            }
            for (_, here) in &idp.groups {
                may_touch_group(caller, here)?;
                let group = directory.groups.find(here).ok_or_else(|| Refusal::missing("group", here.as_str()))?;
                draft.stands_on(group);
            }
            draft.create(&idp.id, &idp)?;
            if let Some(secret) = &sealed {
                draft.create(&idp.id, secret)?;
            }
            let entry = self.organisation.entry(caller, "idp.add", format!("idp/{}", idp.id));
            Ok(((), entry.with("name", idp.name.as_str()).with("issuer", idp.issuer.as_str())))
        };
        let (revision, ()) = self.change(caller, make).await?;
        Ok(changed(revision, idp.id, &idp.name))
    }

    pub(super) async fn list_idps(&self, _: &Caller, _: wire::ListIdpsRequest) -> Result<wire::ListIdpsReply, Refusal> {
        let (now, wall) = (self.organisation.now(), self.organisation.wall());
        let idps = now.idps.values().map(|fact| {
            let idp = &fact.record;
            let live = |word: &IdpSession| now.sessions.find(&word.session).is_some_and(|s| s.record.is_live(wall));
            let sessions = now.idp_sessions.values().filter(|w| w.record.idp == idp.id && live(&w.record)).count();
            wire::Idp {
                id: idp.id.to_string(),
                name: idp.name.to_string(),
                issuer: idp.issuer.clone(),
                client_id: idp.client_id.clone(),
                groups: idp.groups.iter().map(|(there, here)| format!("{there}={here}")).collect(),
                sign_in_groups: idp.sign_in.iter().flatten().cloned().collect(),
                anyone: idp.sign_in.is_none(),
                check_every_ms: idp.check_every_ms,
                grace_ms: idp.grace_ms,
                device_code: idp.device_code,
                sessions: u64::try_from(sessions).unwrap_or(u64::MAX),
                created_ms: idp.created.0,
            }
        });
        Ok(wire::ListIdpsReply { idps: idps.collect() })
    }

    /// Without it nobody stands by those who signed in there: all that they reach ends with this change.
    pub(super) async fn remove_idp(
        &self,
        caller: &Caller,
        message: wire::RemoveIdpRequest,
    ) -> Result<wire::Changed, Refusal> {
        let make = |directory: &Directory, draft: &mut Draft| {
            let fact = signin::named(directory, &message.idp)?;
            may_touch_issuer(caller, directory, &fact.record.issuer)?;
            if let Some(secret) = directory.idp_secrets.find(&fact.record.id) {
                draft.remove(secret);
            }
            draft.remove(fact);
            let entry = self.organisation.entry(caller, "idp.remove", &fact.key);
            Ok(((fact.record.id, fact.record.name.clone()), entry.with("name", fact.record.name.as_str())))
        };
        let (revision, (id, name)) = self.change(caller, make).await?;
        Ok(self.settled(revision, changed(revision, id, name)).await)
    }

    pub(super) async fn sync_idps(
        &self,
        _: &Caller,
        message: wire::SyncIdpsRequest,
    ) -> Result<wire::SyncIdpsReply, Refusal> {
        let idp = match message.idp.as_str() {
            "" => None,
            typed => Some(signin::named(&self.organisation.now(), typed)?.record.id),
        };
        let checked = self.organisation.check_sign_ins(idp, true).await;
        let revision = self.organisation.now().revision;
        let settled = self.settled(revision, changed(revision, "", "")).await;
        let signin::Checked { same, changed, ended, unknown } = checked;
        Ok(wire::SyncIdpsReply { same, changed, ended, unknown, settled: Some(settled) })
    }
}
