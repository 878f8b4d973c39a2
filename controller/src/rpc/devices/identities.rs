//! What does a workload's device ask for its programs? Registrations and bundles, certificates, tokens.

use super::{DevicesRpc, malformed, refused};
use crate::audit::Denied;
use crate::directory::Refusal;
use model::ids::{DeviceId, RegistrationId};
use model::limits::WORKLOAD_AUDIENCES_MAX;
use proto::convert::{WireError, bounded, id, millis};
use proto::v1;
use tonic::Status;

/// Checks a wish for a certificate.
pub fn identity_wish(request: v1::SignIdentityRequest) -> Result<(RegistrationId, Vec<u8>), WireError> {
    Ok((id("registration", &request.registration)?, request.csr))
}

/// Checks a wish for a token.
pub fn token_wish(request: v1::SignTokenRequest) -> Result<(RegistrationId, Vec<String>), WireError> {
    let audiences = bounded("audiences", request.audiences, WORKLOAD_AUDIENCES_MAX)?;
    Ok((id("registration", &request.registration)?, audiences))
}

impl DevicesRpc {
    /// Refusals are counted in the trail; equal ones become one record.
    async fn signed<T>(&self, device: DeviceId, object: String, done: Result<T, Refusal>) -> Result<T, Status> {
        if let Err(Refusal::Denied(reason)) = &done {
            let (actor, action, reason) = (device.to_string(), "identity".to_owned(), reason.clone());
            self.arrangements.record_deny(Denied { actor, action, object, reason }).await;
        }
        done.map_err(refused)
    }

    pub(super) async fn tell_identities(&self, device: DeviceId) -> Result<v1::ListIdentitiesReply, Status> {
        let told = self.organisation.registrations(device);
        let told = self.signed(device, "registration".to_owned(), told).await?;
        let trust_domain = self.organisation.org().map_err(refused)?.trust_domain.to_string();
        let mut reply = v1::ListIdentitiesReply { trust_domain, ..v1::ListIdentitiesReply::default() };
        if told.is_empty() {
            return Ok(reply);
        }
        let keys = self.organisation.workload_keys().await.map_err(refused)?;
        reply.bundle = vec![keys.bundle().to_vec()];
        reply.token_bundle = keys.token_bundle().map_err(|error| Status::internal(error.to_string()))?;
        let identity = |one: crate::workload::Told| v1::Identity {
            registration: one.id.to_string(),
            spiffe_id: one.spiffe.to_string(),
            uid: one.uid,
            gid: one.gid,
        };
        reply.identities = told.into_iter().map(identity).collect();
        Ok(reply)
    }

    pub(super) async fn make_identity(
        &self,
        device: DeviceId,
        request: v1::SignIdentityRequest,
    ) -> Result<v1::SignIdentityReply, Status> {
        let (registration, csr) = identity_wish(request).map_err(malformed)?;
        let done = self.organisation.sign_identity(device, registration, &csr).await;
        let (_, svid) = self.signed(device, registration.to_string(), done).await?;
        let ends_in_ms = millis(svid.expires.since(self.organisation.wall()));
        Ok(v1::SignIdentityReply { chain: svid.chain, ends_in_ms })
    }

    pub(super) async fn make_token(
        &self,
        device: DeviceId,
        request: v1::SignTokenRequest,
    ) -> Result<v1::SignTokenReply, Status> {
        let (registration, audiences) = token_wish(request).map_err(malformed)?;
        let done = self.organisation.sign_token(device, registration, &audiences).await;
        let (token, life) = self.signed(device, registration.to_string(), done).await?;
        Ok(v1::SignTokenReply { token: token.expose().clone(), ends_in_ms: millis(life) })
    }
}
