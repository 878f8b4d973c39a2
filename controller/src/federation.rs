//! May a workload join that shows a token of its build system, orchestrator or cloud? Where a rule of an administrator
//! ([`Trust`]) names issuer, audience and subject, and [`crate::token`] believes the token.
//!
//! The token travels inside the enrolment tunnel, on a connection that is bound to the machine's WireGuard key and to the key of its
//! certificate request, and lets that one machine in: its number is remembered until it ends by itself.

mod source;
mod subject;

pub use source::{Source, SourceError};
pub use subject::{Pattern, PatternError};

use crate::directory::{Trust, sha256};
use crate::fetch::Resolve;
use crate::token::{self, Claims, Expect, TokenError};
use model::ids::JoinKeyId;
use model::key::PublicKey;
use model::limits::{
    IDENTITY_TOKEN_LIFE_MAX, IDENTITY_TOKEN_MAX, IDENTITY_TRIES_MAX, PROVISIONAL_LIFE, PROVISIONAL_MAX,
    REASON_CHARS_MAX, TRUSTS_MAX,
};
use model::pool::Pool;
use model::secret::Secret;
use model::text::excerpt;
use model::time::{Clock, Instant, WallMs};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Why a token lets nobody in, in full: for the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTrusted {
    /// None came.
    #[error("no token came with the join file of a federation rule")]
    None,
    /// Longer than [`IDENTITY_TOKEN_MAX`].
    #[error("the token is longer than {IDENTITY_TOKEN_MAX} bytes")]
    Large,
    /// This machine tried too often.
    #[error("this machine showed {IDENTITY_TRIES_MAX} tokens within a minute")]
    Tries,
    /// The rule waits since a restore.
    #[error("the rule comes out of a backup and was not confirmed since: `umbra-controller restored list`")]
    Restored,
    /// Its account.
    #[error("the rule's service account is disabled or was removed")]
    Account,
    /// Its keys are not known.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It is not believed.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// It may be stolen for too long.
    #[error("the token lives longer than {} h: have the issuer make shorter ones", IDENTITY_TOKEN_LIFE_MAX.as_secs() / 3_600)]
    Life,
    /// About somebody else.
    #[error("the token is about `{0}`, whom the rule does not mean")]
    Subject(String),
    /// A claim is not there, or is another.
    #[error("the token's claim `{0}` is not what the rule asks for")]
    Claim(String),
    /// It let a machine in before.
    #[error("the token has let a machine in already")]
    Used,
    /// Too many of the rule are remembered.
    #[error("the rule has let in as many machines within a day as are remembered")]
    Full,
}

impl NotTrusted {
    /// For whoever joins: one clear word, which tells nothing that only an administrator may know.
    pub const fn for_person(&self) -> &'static str {
        match self {
            Self::None => "this join file needs a token of the machine's own platform: --token-file FILE",
            Self::Large => "the token is too long to be one",
            Self::Tries => "this machine showed too many tokens; try again in a minute",
            Self::Token(TokenError::Expired | TokenError::Early) => {
                "the token is not of now: get a fresh one, and look at this machine's clock"
            }
            Self::Used => "the token was used already: get a fresh one",
            Self::Source(error) if error.is_passing() => {
                "the issuer of the token cannot be asked for its keys right now; try again later"
            }
            _ => "the token does not let this machine in; an administrator finds the reason in the audit trail",
        }
    }
}

/// What a token that is believed says of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Believed {
    /// Whom it is about.
    pub subject: String,
    /// Its number, see [`number`].
    pub number: String,
    /// When it ends.
    pub expires: WallMs,
}

/// Under which number is a token remembered? That of its issuer (`jti`); without one, a hash of what was signed. Never of the
/// signature: of one message there may be many.
pub fn number(claims: &Claims, token: &str) -> String {
    let signed = token.rsplit_once('.').map_or(token, |(signed, _)| signed);
    let text = match claims.all.string("jti").filter(|jti| !jti.is_empty()) {
        Some(jti) => format!("jti\0{}\0{jti}", claims.issuer),
        None => format!("token\0{signed}"),
    };
    sha256(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The claim at a path: a name, names with dots between them, or a JSON pointer (RFC 6901) for names that have dots themselves.
fn claim<'c>(claims: &'c Claims, path: &str) -> Option<&'c Value> {
    let Some(pointer) = path.strip_prefix('/') else { return claims.all.at(path) };
    let mut steps = pointer.split('/').map(|step| step.replace("~1", "/").replace("~0", "~"));
    let first = claims.all.0.get(&steps.next()?)?;
    steps.try_fold(first, |value, step| value.get(&step))
}

/// Is this the value, as an administrator writes it? Lists and objects are none.
fn is(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text == wanted,
        Value::Bool(flag) => flag.to_string() == wanted,
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string() == wanted,
        Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

/// Verifies tokens by rules. One for a controller: what it learnt of issuers it keeps.
pub struct Federation {
    resolver: Arc<dyn Resolve>,
    sources: Mutex<BTreeMap<JoinKeyId, (Trust, Arc<Source>)>>,
    tries: Mutex<BTreeMap<PublicKey, (usize, Instant)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Federation {
    /// That finds issuers so.
    pub fn new(resolver: Arc<dyn Resolve>) -> Self {
        Self { resolver, sources: Mutex::default(), tries: Mutex::default() }
    }

    /// Counts a token of this machine; whoever may knock may not guess without end.
    fn count(&self, now: Instant, machine: PublicKey) -> Result<(), NotTrusted> {
        let mut tries = lock(&self.tries);
        tries.retain(|_, (_, until)| *until > now);
        // There are no more machines that enrol at once.
        if tries.len() >= PROVISIONAL_MAX && !tries.contains_key(&machine) {
            return Err(NotTrusted::Tries);
        }
        let (count, _) = tries.entry(machine).or_insert((0, now.plus(PROVISIONAL_LIFE)));
        if *count >= IDENTITY_TRIES_MAX {
            return Err(NotTrusted::Tries);
        }
        *count += 1;
        Ok(())
    }

    /// The source of a rule's keys, as the rule is now.
    fn source(&self, trust: &Trust, pool: Pool) -> Result<Arc<Source>, SourceError> {
        let mut sources = lock(&self.sources);
        if let Some((_, source)) = sources.get(&trust.id).filter(|(of, _)| of == trust) {
            return Ok(Arc::clone(source));
        }
        let source = Arc::new(Source::of(trust, pool, Arc::clone(&self.resolver))?);
        // More than there may be rules: some are gone.
        while sources.len() >= TRUSTS_MAX && sources.pop_first().is_some() {}
        sources.insert(trust.id, (trust.clone(), Arc::clone(&source)));
        Ok(source)
    }

    /// Believes a token that this machine shows, by this rule, or says why not.
    pub async fn believe(
        &self,
        clock: &dyn Clock,
        pool: Pool,
        trust: &Trust,
        machine: PublicKey,
        shown: &Secret<String>,
    ) -> Result<Believed, NotTrusted> {
        let text = shown.expose().as_str();
        if text.is_empty() {
            return Err(NotTrusted::None);
        }
        self.count(clock.now(), machine)?;
        if text.len() > IDENTITY_TOKEN_MAX {
            return Err(NotTrusted::Large);
        }
        if trust.restored {
            return Err(NotTrusted::Restored);
        }
        let source = self.source(trust, pool)?;
        let expected = || Expect { issuer: &trust.issuer, audience: &trust.audience, now: clock.wall() };
        let keys = source.keys(clock.now(), None).await?;
        let claims = match token::verify(text, &keys, &expected()) {
            // The issuer has new keys, or somebody invents one: asked again, but not by everybody.
            Err(TokenError::Key) => {
                let keys = source.keys(clock.now(), Some(&keys)).await?;
                token::verify(text, &keys, &expected())?
            }
            verified => verified?,
        };
        let life = claims.expires.since(claims.issued.unwrap_or(clock.wall()));
        if life > IDENTITY_TOKEN_LIFE_MAX || claims.expires.since(clock.wall()) > IDENTITY_TOKEN_LIFE_MAX {
            return Err(NotTrusted::Life);
        }
        if !trust.subject.matches(&claims.subject) {
            return Err(NotTrusted::Subject(excerpt(&claims.subject, REASON_CHARS_MAX)));
        }
        for (path, wanted) in &trust.claims {
            if !claim(&claims, path).is_some_and(|value| is(value, wanted)) {
                return Err(NotTrusted::Claim(path.clone()));
            }
        }
        let number = number(&claims, text);
        Ok(Believed { subject: claims.subject, number, expires: claims.expires })
    }
}

#[cfg(test)]
pub(crate) mod tests;
