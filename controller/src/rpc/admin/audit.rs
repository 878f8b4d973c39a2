//! The audit trail: list, verify.

use super::AdminRpc;
use crate::audit::Query;
use crate::authz::Caller;
use crate::directory::Refusal;
use model::time::WallMs;
use proto::admin as wire;

/// Records of a listing for which nobody said how many.
const DEFAULT: usize = 50;

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
}
