//! Federation rules: add, list, remove, and their join files. A rule says whose tokens let workloads in, and as what.

use super::device::account_name;
use super::{AdminRpc, changed, name, parse, random};
use crate::authz::Caller;
use crate::directory::{Account, Directory, Draft, Fact, KeySource, Refusal, Trust, TrustSecret, sha256};
use crate::federation::{Pattern, Source, SourceError};
use crate::fetch::SystemResolver;
use crate::store::Record as _;
use crate::token::{KeySet, strict};
use model::ids::JoinKeyId;
use model::limits::{
    FEDERATION_FILE_LIFE, FETCH_ALLOW_MAX, FETCH_CA_PEM_MAX, FETCH_URL_MAX, KEY_SET_MAX, SUBJECT_MAX, TRUST_CLAIMS_MAX,
    TRUSTS_MAX,
};
use model::net::Prefix;
use model::secret::Secret;
use model::text::is_hidden;
use proto::admin as wire;
use proto::join::JoinKind;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

fn invalid(why: impl Into<String>) -> Refusal {
    Refusal::Invalid(why.into())
}

/// A text of a token, to be compared to the letter.
fn literal(what: &str, text: &str, max: usize) -> Result<String, Refusal> {
    if text.is_empty() || text.chars().count() > max || text.chars().any(is_hidden) || text.trim() != text {
        return Err(invalid(format!(
            "{what} has 1 to {max} characters, all of which can be seen, and no blanks around"
        )));
    }
    Ok(text.to_owned())
}

fn claims(given: &[String]) -> Result<BTreeMap<String, String>, Refusal> {
    if given.len() > TRUST_CLAIMS_MAX {
        return Err(invalid(format!("a rule asks for at most {TRUST_CLAIMS_MAX} claims")));
    }
    let mut claims = BTreeMap::new();
    for text in given {
        let (path, value) = text.split_once('=').ok_or_else(|| invalid("a claim is KEY=VALUE"))?;
        let path = literal("a claim's name", path, SUBJECT_MAX)?;
        if claims.insert(path, literal("a claim's value", value, SUBJECT_MAX)?).is_some() {
            return Err(invalid("a claim has one value: name each once"));
        }
    }
    Ok(claims)
}

/// Members of keys that only their owner may know (RFC 7518, section 6).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// An administrator's set of keys: public ones alone, for it is kept as it is.
fn given(jwks: &str) -> Result<KeySource, Refusal> {
    KeySet::parse(jwks.as_bytes()).map_err(|e| invalid(format!("the file of keys cannot be used: {e}")))?;
    let set = strict::object(jwks.as_bytes()).unwrap_or_default();
    let keys = set.get("keys").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object);
    for key in keys {
        if PRIVATE.iter().any(|member| key.contains_key(*member)) {
            return Err(invalid("the file of keys holds a private one: give the public ones alone"));
        }
    }
    Ok(KeySource::Given(jwks.to_owned()))
}

/// Where the issuer's keys are.
fn source(message: &wire::AddFederationRequest) -> Result<KeySource, Refusal> {
    let alone = message.ca_pem.is_empty() && message.allow.is_empty();
    if !message.jwks.is_empty() {
        if message.jwks.len() > KEY_SET_MAX {
            return Err(invalid(format!("a file of keys has at most {KEY_SET_MAX} bytes")));
        }
        if !alone {
            return Err(invalid("with a file of keys the issuer is not asked: leave CA and addresses out"));
        }
        return given(&message.jwks);
    }
    if message.ca_pem.len() > FETCH_CA_PEM_MAX || message.allow.len() > FETCH_ALLOW_MAX {
        return Err(invalid(format!(
            "at most {FETCH_CA_PEM_MAX} bytes of CAs and {FETCH_ALLOW_MAX} prefixes are possible"
        )));
    }
    let allow: Vec<Prefix> = message.allow.iter().map(|text| parse(text)).collect::<Result<_, _>>()?;
    Ok(KeySource::Discovery { ca_pem: Some(message.ca_pem.clone()).filter(|pem| !pem.is_empty()), allow })
}

fn find<'d>(directory: &'d Directory, typed: &str) -> Result<&'d Fact<Trust>, Refusal> {
    directory.trusts.typed(typed).ok_or_else(|| Refusal::missing("federation", typed))
}

/// Removes a rule, and the secret of its join file.
pub(super) fn remove(draft: &mut Draft, fact: &Fact<Trust>) -> Result<(), Refusal> {
    draft.remove(fact);
    draft.remove_key::<TrustSecret>(&fact.record.id)
}

impl AdminRpc {
    pub(super) async fn add_federation(
        &self,
        caller: &Caller,
        message: wire::AddFederationRequest,
    ) -> Result<wire::Changed, Refusal> {
        let name = name(&message.name)?;
        let issuer = literal("an issuer", &message.issuer, FETCH_URL_MAX)?;
        let audience = literal("an audience", &message.audience, SUBJECT_MAX)?;
        let subject: Pattern = parse(&message.subject)?;
        let (claims, keys) = (claims(&message.claims)?, source(&message)?);
        let id = JoinKeyId::from_bytes(random()?);
        let secret = Secret::new(random::<32>()?);
        let sealed = self.organisation.sealer.seal(&TrustSecret::place(id), secret.expose());
        let sealed = TrustSecret { sealed: sealed.map_err(|e| Refusal::Failed(e.to_string()))? };
        let enrol_hash = sha256(tunnel::knock::enrol_token(&secret).expose());
        let created = self.organisation.wall();
        let typed = message.account.as_str();
        let trust = |account: &Account| Trust {
            id,
            name: name.clone(),
            issuer: issuer.clone(),
            audience: audience.clone(),
            subject: subject.clone(),
            claims: claims.clone(),
            account: account.id,
            keys: keys.clone(),
            ephemeral: message.ephemeral,
            restored: false,
            enrol_hash,
            created,
        };
        let make = |directory: &Directory, draft: &mut Draft| {
            let account = directory.accounts.typed(typed).ok_or_else(|| Refusal::missing("account", typed))?;
            let trust = trust(&account.record);
            // What cannot be asked is refused now, not when the first machine comes.
            usable(&trust, self.organisation.org()?.pool)?;
            draft.stands_on(account);
            draft.stands_on_all(directory, Trust::KIND)?;
            if directory.trusts.named(name.as_str()).is_some() {
                return Err(Refusal::Taken { what: format!("the name `{name}`") });
            }
            if directory.trusts.len() >= TRUSTS_MAX {
                return Err(Refusal::InUse(format!(
                    "there are {TRUSTS_MAX} federation rules, as many as may be: remove some"
                )));
            }
            super::join_key::has_room(directory, created)?;
            draft.create(&id, &trust)?;
            draft.create(&id, &sealed)?;
            let entry = self.organisation.entry(caller, "federation.add", format!("federation/{id}"));
            let entry = entry.with("name", name.as_str()).with("account", account.record.name.as_str());
            let entry = entry.with("issuer", issuer.as_str()).with("audience", audience.as_str());
            Ok(((), entry.with("subject", subject.to_string())))
        };
        let (revision, ()) = self.change(caller, make).await?;
        Ok(changed(revision, id, name))
    }

    pub(super) async fn list_federation(
        &self,
        _: &Caller,
        _: wire::ListFederationRequest,
    ) -> Result<wire::ListFederationReply, Refusal> {
        let now = self.organisation.now();
        let rules = now.trusts.by_name().map(|fact| {
            let trust = &fact.record;
            let keys = match trust.keys {
                KeySource::Given(_) => "given",
                KeySource::Discovery { .. } => "asked for",
            };
            wire::Federation {
                id: trust.id.to_string(),
                name: trust.name.to_string(),
                issuer: trust.issuer.clone(),
                audience: trust.audience.clone(),
                subject: trust.subject.to_string(),
                claims: trust.claims.iter().map(|(path, value)| format!("{path}={value}")).collect(),
                account: account_name(&now, trust.account),
                keys: keys.to_owned(),
                ephemeral: trust.ephemeral,
                restored: trust.restored,
                created_ms: trust.created.0,
            }
        });
        Ok(wire::ListFederationReply { rules: rules.collect() })
    }

    /// Nobody joins by it any more. Who did stays until the account or the machine is taken away.
    pub(super) async fn remove_federation(
        &self,
        caller: &Caller,
        message: wire::RemoveFederationRequest,
    ) -> Result<wire::Changed, Refusal> {
        let make = |directory: &Directory, draft: &mut Draft| {
            let fact = find(directory, &message.federation)?;
            remove(draft, fact)?;
            let name = fact.record.name.clone();
            let entry = self.organisation.entry(caller, "federation.remove", &fact.key).with("name", name.as_str());
            Ok(((fact.record.id, name), entry))
        };
        let (revision, (id, name)) = self.change(caller, make).await?;
        Ok(changed(revision, id, name))
    }

    /// What a machine needs to knock, and nothing that would admit it. The same each time but for its end, and the controller's keys.
    pub(super) async fn make_federation_file(
        &self,
        _: &Caller,
        message: wire::MakeFederationFileRequest,
    ) -> Result<wire::MakeFederationFileReply, Refusal> {
        let now = self.organisation.now();
        let trust = &find(&now, &message.federation)?.record;
        let held = now.trust_secrets.find(&trust.id);
        let held =
            held.ok_or_else(|| Refusal::Failed("the rule's secret is missing: add the rule again".to_owned()))?;
        let opened = held.record.open(&self.organisation.sealer, trust.id);
        let secret = opened.map_err(|e| Refusal::Failed(e.to_string()))?;
        let mut expires = self.organisation.wall().plus(FEDERATION_FILE_LIFE);
        if let Some(succession) = self.organisation.org()?.succession.filter(|succession| !succession.switched) {
            // It names the controller's key and CA in use.
            expires = expires.min(succession.announcement.ends);
        }
        let (text, fingerprint) = super::join_key::file(&now, (JoinKind::Device, expires, true), &secret)?;
        Ok(wire::MakeFederationFileReply { join_file: text.into_bytes(), fingerprint, expires_ms: expires.0 })
    }
}

/// Can the issuer's keys be had this way at all?
fn usable(trust: &Trust, pool: model::pool::Pool) -> Result<(), Refusal> {
    match Source::of(trust, pool, Arc::new(SystemResolver)) {
        Ok(_) => Ok(()),
        // Read from this machine's disk, which may be mended.
        Err(SourceError::Fetch(crate::fetch::FetchError::NoRoots(_))) => Ok(()),
        Err(error) => Err(invalid(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_asks_for_so_many_claims_each_once() {
        let many = |n: usize| (0..n).map(|n| format!("claim{n}=x")).collect::<Vec<_>>();
        assert_eq!(claims(&many(TRUST_CLAIMS_MAX)).unwrap().len(), TRUST_CLAIMS_MAX);
        for bad in [many(TRUST_CLAIMS_MAX + 1), vec!["a".into()], vec!["=x".into()], vec!["a=".into()]] {
            assert!(claims(&bad).is_err(), "{bad:?}");
        }
        assert!(claims(&["a=1".to_owned(), "a=2".to_owned()]).is_err());
        assert_eq!(claims(&["a=b=c".to_owned()]).unwrap()["a"], "b=c");
    }
}
