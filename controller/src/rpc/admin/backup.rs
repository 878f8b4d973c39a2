//! Backups, and what waits for an administrator after one was restored.

use super::AdminRpc;
use crate::arrange::heads::Lost;
use crate::authz::Caller;
use crate::backup::Restored;
use crate::backup::container::{Readers, Recipient};
use crate::backup::make;
use crate::directory::{Account, Device, Directory, Draft, Gateway, NodeState, Refusal, Trust, User};
use crate::store::{Reading, Record as _, Versioned};
use model::limits::{BACKUP_CHUNKS_WAITING_MAX, BACKUP_RECIPIENTS_MAX, COMMIT_KEYS_MAX, LIST_MAX};
use model::secret::Secret;
use proto::admin as wire;
use std::pin::Pin;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

/// A backup on its way.
pub(super) type Pieces = Pin<Box<dyn Stream<Item = Result<wire::BackupPiece, Status>> + Send>>;

/// What a restore left to be confirmed.
#[derive(Clone)]
enum Waiting {
    User(crate::directory::Fact<User>),
    Account(crate::directory::Fact<Account>),
    Trust(crate::directory::Fact<Trust>),
    Device(crate::directory::Fact<Device>),
    Gateway(crate::directory::Fact<Gateway>),
}

impl Waiting {
    fn all(directory: &Directory) -> impl Iterator<Item = Self> + '_ {
        let waits = |state: NodeState, restored: bool| restored && state == NodeState::Pending;
        let users = directory.users.by_name().filter(|u| u.record.restored && u.record.disabled);
        let accounts = directory.accounts.by_name().filter(|a| a.record.restored && a.record.disabled);
        let gateways = directory.gateways.by_name().filter(move |g| waits(g.record.state, g.record.restored));
        let devices = directory.devices.by_name().filter(move |d| waits(d.record.state, d.record.restored));
        let gateways = gateways.map(|g| Self::Gateway(g.clone()));
        let users = users.map(|u| Self::User(u.clone())).chain(accounts.map(|a| Self::Account(a.clone())));
        let trusts = directory.trusts.by_name().filter(|t| t.record.restored);
        let users = users.chain(trusts.map(|t| Self::Trust(t.clone())));
        gateways.chain(users).chain(devices.map(|d| Self::Device(d.clone())))
    }

    /// As an administrator types it: `device/laptop`.
    fn is(&self, typed: &str) -> bool {
        let Some((kind, name)) = typed.split_once('/') else { return false };
        let (own_kind, id, own_name) = match self {
            Self::User(u) => (User::KIND, u.record.id.to_string(), u.record.name.as_str()),
            Self::Account(a) => (Account::KIND, a.record.id.to_string(), a.record.name.as_str()),
            Self::Trust(t) => (Trust::KIND, t.record.id.to_string(), t.record.name.as_str()),
            Self::Device(d) => (Device::KIND, d.record.id.to_string(), d.record.name.as_str()),
            Self::Gateway(g) => (Gateway::KIND, g.record.id.to_string(), g.record.name.as_str()),
        };
        kind == own_kind && (name == own_name || name == id)
    }

    fn told(&self, directory: &Directory) -> wire::Waiting {
        match self {
            Self::User(u) => wire::Waiting {
                kind: User::KIND.to_owned(),
                id: u.record.id.to_string(),
                name: u.record.name.to_string(),
                about: u.record.groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                fingerprint: String::new(),
            },
            Self::Account(a) => wire::Waiting {
                kind: Account::KIND.to_owned(),
                id: a.record.id.to_string(),
                name: a.record.name.to_string(),
                about: a.record.groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                fingerprint: String::new(),
            },
            Self::Trust(t) => wire::Waiting {
                kind: Trust::KIND.to_owned(),
                id: t.record.id.to_string(),
                name: t.record.name.to_string(),
                about: super::device::account_name(directory, t.record.account),
                fingerprint: String::new(),
            },
            Self::Device(d) => {
                let account = d.record.account.and_then(|id| directory.accounts.find(&id));
                let user = d.record.user.and_then(|id| directory.users.find(&id));
                wire::Waiting {
                    kind: Device::KIND.to_owned(),
                    id: d.record.id.to_string(),
                    name: d.record.name.to_string(),
                    about: user
                        .map(|user| &user.record.name)
                        .or_else(|| account.map(|account| &account.record.name))
                        .map(ToString::to_string)
                        .unwrap_or_default(),
                    fingerprint: d.record.fingerprint.clone(),
                }
            }
            Self::Gateway(g) => {
                let site = directory.sites.find(&g.record.site);
                wire::Waiting {
                    kind: Gateway::KIND.to_owned(),
                    id: g.record.id.to_string(),
                    name: g.record.name.to_string(),
                    about: site.map(|site| site.record.name.to_string()).unwrap_or_default(),
                    fingerprint: g.record.fingerprint.clone(),
                }
            }
        }
    }

    fn confirm(&self, draft: &mut Draft) -> Result<(), Refusal> {
        match self {
            Self::User(u) => draft.update(u, &User { disabled: false, restored: false, ..u.record.clone() }),
            Self::Account(a) => draft.update(a, &Account { disabled: false, restored: false, ..a.record.clone() }),
            Self::Trust(t) => draft.update(t, &Trust { restored: false, ..t.record.clone() }),
            Self::Device(d) => {
                draft.update(d, &Device { state: NodeState::Confirmed, restored: false, ..d.record.clone() })
            }
            Self::Gateway(g) => {
                draft.update(g, &Gateway { state: NodeState::Confirmed, restored: false, ..g.record.clone() })
            }
        }
    }
}

fn told(directory: &Directory, lost: &Versioned<Lost>) -> wire::LostRecords {
    let id = lost.key.as_str().split_once('/').map(|(_, id)| id).unwrap_or_default();
    let gateway = id.parse().ok().and_then(|id| directory.gateways.find(&id));
    wire::LostRecords {
        gateway: gateway.map_or_else(|| id.to_owned(), |gateway| gateway.record.name.to_string()),
        witnessed: lost.record.head.seq,
        records: lost.record.records,
    }
}

impl AdminRpc {
    /// Begins a backup; what goes wrong on the way comes in the stream.
    pub(super) fn make_backup(&self, caller: &Caller, message: wire::BackupRequest) -> Result<Pieces, Refusal> {
        if message.recipients.len() > BACKUP_RECIPIENTS_MAX {
            return Err(Refusal::Invalid(format!("a backup may have at most {BACKUP_RECIPIENTS_MAX} recipients")));
        }
        let recipients = message.recipients.iter().map(|text| text.parse::<Recipient>());
        let recipients = recipients.collect::<Result<Vec<_>, _>>().map_err(|e| Refusal::Invalid(e.to_string()))?;
        let passphrase = (!message.passphrase.is_empty()).then(|| Secret::new(message.passphrase));
        let entry = self
            .organisation
            .entry(caller, "org.backup", "org/self")
            .with("recipients", recipients.iter().map(ToString::to_string).collect::<Vec<_>>())
            .with("passphrase", passphrase.is_some());
        let readers = Readers { passphrase, recipients };
        let (pieces, taken) = mpsc::channel(BACKUP_CHUNKS_WAITING_MAX);
        let (answers, stream) = mpsc::channel(1);
        let organisation = self.organisation.clone();
        tokio::spawn(async move {
            let mut taken = ReceiverStream::new(taken);
            let making = async {
                let made = make::make(&organisation, entry, readers, &pieces).await;
                drop(pieces);
                made
            };
            let sending = async {
                while let Some(data) = taken.next().await {
                    if answers.send(Ok(wire::BackupPiece { data })).await.is_err() {
                        break;
                    }
                }
                // Nobody listens: whoever makes it is told by the closed channel.
                drop(taken);
            };
            let (made, ()) = tokio::join!(making, sending);
            if let Err(error) = made {
                // Whoever asked may be gone.
                let _ = answers.send(Err(Status::failed_precondition(error.to_string()))).await;
            }
        });
        Ok(Box::pin(ReceiverStream::new(stream)))
    }

    pub(super) async fn list_restored(
        &self,
        _: &Caller,
        _: wire::ListRestoredRequest,
    ) -> Result<wire::ListRestoredReply, Refusal> {
        let mut reading = Reading::new(self.organisation.store.as_ref());
        let restored = reading.get::<Restored>(Restored::ID).await.map_err(|e| Refusal::Failed(e.to_string()))?;
        let Some(restored) = restored.map(|held| held.record) else { return Ok(wire::ListRestoredReply::default()) };
        let lost = reading.list::<Lost>().await.map_err(|e| Refusal::Failed(e.to_string()))?;
        let now = self.organisation.now();
        let in_force = now.policy.as_ref().map_or(0, |fact| fact.record.number);
        let waits = restored.policy.filter(|number| number.saturating_add(1) == in_force);
        Ok(wire::ListRestoredReply {
            restored: true,
            restored_ms: restored.at.0,
            backup_ms: restored.created.0,
            backup_incarnation: restored.revision.incarnation,
            backup_revision: restored.revision.number,
            audit_seq: restored.audit_seq,
            policy_revision: waits.unwrap_or(0),
            waiting: Waiting::all(&now).map(|one| one.told(&now)).collect(),
            lost: lost.iter().map(|one| told(&now, one)).collect(),
        })
    }

    /// Lets what a restore disabled take part again; what was revoked or disabled since then stays so.
    pub(super) async fn confirm_restored(
        &self,
        caller: &Caller,
        message: wire::ConfirmRestoredRequest,
    ) -> Result<wire::ConfirmRestoredReply, Refusal> {
        if message.items.len() > LIST_MAX || message.items.is_empty() != message.all {
            return Err(Refusal::Invalid(format!(
                "name 1 to {LIST_MAX} of `user/NAME`, `account/NAME`, `federation/NAME`, `device/NAME`, `gateway/NAME`, or ask for all"
            )));
        }
        let make = |directory: &Directory, draft: &mut Draft| {
            let mut waiting: Vec<Waiting> = Waiting::all(directory).collect();
            let all = waiting.len();
            if !message.all {
                if let Some(stranger) = message.items.iter().find(|typed| !waiting.iter().any(|one| one.is(typed))) {
                    let shown: String = stranger.chars().take(80).flat_map(char::escape_default).collect();
                    return Err(Refusal::InUse(format!(
                        "`{shown}` does not wait since a restore: `umbra-controller restored list` shows what does"
                    )));
                }
                waiting.retain(|one| message.items.iter().any(|typed| one.is(typed)));
            }
            // What does not fit into one transaction waits for the next call.
            waiting.truncate(COMMIT_KEYS_MAX / 2);
            waiting.iter().try_for_each(|one| one.confirm(draft))?;
            let confirmed: Vec<_> = waiting.iter().map(|one| one.told(directory)).collect();
            let names: Vec<_> = confirmed.iter().take(32).map(|one| format!("{}/{}", one.kind, one.id)).collect();
            let entry = self
                .organisation
                .entry(caller, "restored.confirm", "org/self")
                .with("count", confirmed.len())
                .with("first", names);
            Ok(((confirmed, all.saturating_sub(waiting.len())), entry))
        };
        let (_, (confirmed, left)) = self.change(caller, make).await?;
        Ok(wire::ConfirmRestoredReply { confirmed, left: u64::try_from(left).unwrap_or(u64::MAX) })
    }
}
