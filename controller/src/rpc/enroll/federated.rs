//! How does a machine join with a token instead of a secret of its own? As with a join key, but that the token is what admits it, and
//! is what is spent.

use super::{Enrolled, Terms, Wish, admitted, again, create};
use crate::audit::{Denied, Entry, Outcome};
use crate::directory::{Directory, Draft, Fact, Refusal, SpentToken, Trust};
use crate::federation::{Believed, Federation, NotTrusted};
use crate::organisation::Organisation;
use model::ids::JoinKeyId;
use model::limits::{CLOCK_BACK_MAX, REASON_CHARS_MAX, SPENT_TOKENS_MAX, SPENT_TOKENS_PER_TRUST_MAX, SWEEP_MAX};
use model::text::excerpt;
use model::time::WallMs;
use proto::join::JoinKind;

/// Why a machine is not let in.
#[derive(Debug)]
pub(super) enum NotAdmitted {
    /// Its token does not do.
    Token(NotTrusted),
    /// Another reason.
    Refused(Refusal),
}

impl From<NotTrusted> for NotAdmitted {
    fn from(why: NotTrusted) -> Self {
        Self::Token(why)
    }
}
impl From<Refusal> for NotAdmitted {
    fn from(why: Refusal) -> Self {
        Self::Refused(why)
    }
}

fn denied() -> Refusal {
    Refusal::Denied("this join file is not valid any more; ask an administrator for a new one".to_owned())
}

/// What the trail says of a machine that was turned away; equal ones become one record.
pub(super) fn record(trust: &Trust, why: &NotTrusted) -> Denied {
    Denied {
        actor: trust.id.to_string(),
        action: "enrol".to_owned(),
        object: format!("federation/{}", trust.name),
        reason: excerpt(&why.to_string(), REASON_CHARS_MAX),
    }
}

/// Makes the node and spends the token, or does neither.
pub(super) async fn redeem(
    organisation: &Organisation,
    federation: &Federation,
    trust: &Fact<Trust>,
    wish: &Wish,
) -> Result<Enrolled, NotAdmitted> {
    if trust.record.enrol_hash != wish.token_hash || wish.kind != JoinKind::Device {
        return Err(denied().into());
    }
    // Whoever asks again with its WireGuard key gets the same answer, also when the token has ended meanwhile.
    if let Some(enrolled) = before(&organisation.now(), trust, wish) {
        return Ok(enrolled.ok_or_else(denied)?);
    }
    let pool = organisation.org()?.pool;
    let shown = &wish.identity;
    let believed = federation.believe(organisation.clock.as_ref(), pool, &trust.record, wish.key, shown).await?;
    let fresh: [u8; model::ids::ID_LEN] = host::entropy::random().map_err(|e| Refusal::Failed(e.to_string()))?;
    // What the token is refused for within the change.
    let mut refused = None;
    let changed = organisation.change(|directory, draft| {
        refused = None;
        match decide(organisation, directory, draft, (trust, wish, &believed), fresh) {
            Ok(made) => Ok(made),
            Err(NotAdmitted::Refused(why)) => Err(why),
            Err(NotAdmitted::Token(why)) => {
                let told = Refusal::Denied(why.for_person().to_owned());
                refused = Some(why);
                Err(told)
            }
        }
    });
    let changed = changed.await;
    match (refused, changed) {
        (Some(why), _) => Err(why.into()),
        (None, changed) => Ok(changed?.1),
    }
}

/// The machine that this very key became by this rule before: none if it did not, and none within if it was revoked since.
fn before(directory: &Directory, trust: &Fact<Trust>, wish: &Wish) -> Option<Option<Enrolled>> {
    let of = |fact: &&Fact<SpentToken>| fact.record.key == wish.key && fact.record.trust == trust.record.id;
    directory.spent_tokens.values().find(of).map(|_| again(directory, &wish.key))
}

fn decide(
    organisation: &Organisation,
    directory: &Directory,
    draft: &mut Draft,
    (trust, wish, believed): (&Fact<Trust>, &Wish, &Believed),
    fresh: [u8; model::ids::ID_LEN],
) -> Result<(Enrolled, Entry), NotAdmitted> {
    let wall = organisation.wall();
    // The very rule by which the token was believed.
    let held = directory.trusts.find(&trust.record.id).filter(|held| held.record == trust.record).ok_or_else(denied)?;
    draft.stands_on(held);
    if let Some(enrolled) = before(directory, trust, wish) {
        let enrolled = enrolled.ok_or_else(denied)?;
        let id = trust.record.id.to_string();
        let entry = Entry::new(wall, enrolled.node.to_string(), "enrol.repeat", id, Outcome::Done);
        return Ok((enrolled, entry));
    }
    if directory.spent_tokens.find(&believed.number).is_some() {
        return Err(NotTrusted::Used.into());
    }
    if directory.node_of_key(&wish.key).is_some() {
        return Err(denied().into());
    }
    forget(directory, draft, wall);
    has_room(directory, trust.record.id, wall)?;
    let account = directory.accounts.find(&trust.record.account).filter(|account| !account.record.disabled);
    let account = account.ok_or(NotTrusted::Account)?;
    draft.stands_on(account);
    let terms = Terms {
        join_key: trust.record.id,
        site: None,
        account: Some((account.record.id, account.record.name.clone())),
        ephemeral: trust.record.ephemeral,
        pending: false,
    };
    let enrolled = create(organisation, directory, draft, wish, &terms, fresh)?;
    let spent = SpentToken { trust: trust.record.id, key: wish.key, expires: believed.expires };
    draft.create(believed.number.as_str(), &spent)?;
    let entry = admitted(wall, &enrolled, wish, trust.record.id, &terms)
        .with("federation", trust.record.name.as_str())
        .with("subject", excerpt(&believed.subject, REASON_CHARS_MAX));
    Ok((enrolled, entry))
}

/// It has ended, however the clock is corrected: it need not be remembered.
fn is_over(fact: &Fact<SpentToken>, wall: WallMs) -> bool {
    wall.since(fact.record.expires) > CLOCK_BACK_MAX
}

/// Some that are over go with each that comes.
pub(super) fn forget(directory: &Directory, draft: &mut Draft, wall: WallMs) -> usize {
    let over = directory.spent_tokens.values().filter(|fact| is_over(fact, wall)).take(SWEEP_MAX);
    over.map(|fact| draft.remove(fact)).count()
}

/// One rule must not take the places of the others.
pub(super) fn has_room(directory: &Directory, trust: JoinKeyId, wall: WallMs) -> Result<(), NotTrusted> {
    let (mut all, mut its) = (0, 0);
    for fact in directory.spent_tokens.values().filter(|fact| !is_over(fact, wall)) {
        all += 1;
        its += usize::from(fact.record.trust == trust);
    }
    if all >= SPENT_TOKENS_MAX || its >= SPENT_TOKENS_PER_TRUST_MAX { Err(NotTrusted::Full) } else { Ok(()) }
}
