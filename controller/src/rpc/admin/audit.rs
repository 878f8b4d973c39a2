//! The audit trail: list, verify, export.

use super::AdminRpc;
use crate::arrange::heads::sign;
use crate::audit::{Query, line_of};
use crate::authz::Caller;
use crate::directory::Refusal;
use model::limits::{RPC_MESSAGE_MAX, STORE_VALUE_MAX};
use model::time::WallMs;
use node::witness::Witness;
use proto::admin as wire;

/// Records of a listing for which nobody said how many.
const DEFAULT: usize = 50;
/// Records of one call of an export: a quarter of what a message may hold, if all are as long as records can be.
const EXPORTED: usize = RPC_MESSAGE_MAX / STORE_VALUE_MAX / 4;

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

impl AdminRpc {
    pub(super) async fn list_audit(
        &self,
        _: &Caller,
        message: wire::ListAuditRequest,
    ) -> Result<wire::ListAuditReply, Refusal> {
        let query = Query {
            limit: if message.limit == 0 { DEFAULT } else { usize::try_from(message.limit).unwrap_or(usize::MAX) },
            since: (message.since_ms != 0).then_some(WallMs(message.since_ms)),
            actor: some(message.actor),
            action: some(message.action),
            object: some(message.object),
            ..Query::default()
        };
        let mut records = self.organisation.store.audit(query).await.map_err(|e| Refusal::Failed(e.to_string()))?;
        records.reverse();
        Ok(wire::ListAuditReply {
            lines: records.iter().map(ToString::to_string).collect(),
            records: records.iter().map(crate::audit::Record::line).collect(),
        })
    }

    pub(super) async fn verify_audit(
        &self,
        _: &Caller,
        _: wire::VerifyAuditRequest,
    ) -> Result<wire::VerifyAuditReply, Refusal> {
        Ok(match self.organisation.store.verify_audit().await {
            Ok(verified) => wire::VerifyAuditReply {
                whole: true,
                first: verified.first,
                last: verified.last,
                head: verified.head.to_string(),
                problem: String::new(),
            },
            Err(error) => wire::VerifyAuditReply { problem: error.to_string(), ..Default::default() },
        })
    }

    pub(super) async fn export_audit(
        &self,
        _: &Caller,
        message: wire::ExportAuditRequest,
    ) -> Result<wire::ExportAuditReply, Refusal> {
        // Before any record is read: the trail only grows, and so the export goes at least as far.
        let witness = if message.from == 0 { self.signed_head()? } else { String::new() };
        let read = self.organisation.store.audit_stored(message.from.max(1), EXPORTED as u64).await;
        let records = read.map_err(|e| Refusal::Failed(e.to_string()))?;
        let next = records.last().map_or(message.from, |(seq, _)| seq.saturating_add(1));
        // One that is damaged stays as it is as far as JSON can say it: who verifies the export finds it.
        let line = |stored: &[u8]| String::from_utf8_lossy(line_of(stored).unwrap_or_default()).into_owned();
        Ok(wire::ExportAuditReply { records: records.iter().map(|(_, stored)| line(stored)).collect(), next, witness })
    }

    /// Up to where the trail goes now.
    fn signed_head(&self) -> Result<String, Refusal> {
        let (organisation, failed) = (&self.organisation, |e: &dyn std::fmt::Display| Refusal::Failed(e.to_string()));
        let org = organisation.org()?;
        let signed = sign(&organisation.ca(), organisation.store.audit_head(), organisation.wall());
        let signed = signed.map_err(|e| failed(&e))?;
        let (domain, ca) = (org.trust_domain.to_string(), &org.ca);
        let witness = Witness::new("controller".to_owned(), domain, &org.key, ca, signed);
        serde_json::to_string(&witness).map_err(|e| failed(&e))
    }
}
