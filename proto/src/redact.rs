//! How do messages that carry a secret look in a log? Without it.

use crate::{admin, local, spiffe, v1};
use std::fmt;

macro_rules! redact {
    ($message:path, $name:literal, $($field:ident),*) => {
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct($name)$(.field(stringify!($field), &self.$field))*.finish_non_exhaustive()
            }
        }
    };
}

redact!(v1::LoginRequest, "LoginRequest", user);
redact!(v1::EnrollRequest, "EnrollRequest", kind, name, version);
redact!(v1::RecoverRequest, "RecoverRequest",);
redact!(v1::Pairing, "Pairing", id, device);
redact!(v1::Offer, "Offer", gateway, endpoints);
redact!(admin::ClaimOwnerRequest, "ClaimOwnerRequest", name);
redact!(admin::AddUserRequest, "AddUserRequest", name, groups);
redact!(admin::SetPasswordRequest, "SetPasswordRequest", user);
redact!(admin::CreateJoinKeyReply, "CreateJoinKeyReply", changed);
redact!(admin::BackupRequest, "BackupRequest", recipients);
redact!(admin::MakeFederationFileReply, "MakeFederationFileReply", fingerprint, expires_ms);
redact!(local::UpRequest, "UpRequest", name);
redact!(local::LoginRequest, "LoginRequest", user);
redact!(v1::BeginTotpReply, "BeginTotpReply", id);
redact!(v1::ConfirmTotpRequest, "ConfirmTotpRequest", id);
redact!(v1::RecoveryCodes, "RecoveryCodes",);
redact!(v1::VerifyFactorRequest, "VerifyFactorRequest",);
redact!(local::BeginTotpReply, "BeginTotpReply", id);
redact!(local::ConfirmTotpRequest, "ConfirmTotpRequest", id);
redact!(local::RecoveryCodes, "RecoveryCodes",);
redact!(local::VerifyFactorRequest, "VerifyFactorRequest",);
redact!(v1::BeginSignInReply, "BeginSignInReply", id);
redact!(v1::FinishSignInRequest, "FinishSignInRequest", id);
redact!(local::BeginSignInReply, "BeginSignInReply", id);
redact!(local::FinishSignInRequest, "FinishSignInRequest", id);
redact!(admin::AddIdpRequest, "AddIdpRequest", name, issuer, client_id);
redact!(v1::SignTokenReply, "SignTokenReply", ends_in_ms);
redact!(spiffe::X509svid, "X509SVID", spiffe_id, hint);
redact!(spiffe::X509svidResponse, "X509SVIDResponse", svids);
redact!(spiffe::Jwtsvid, "JWTSVID", spiffe_id, hint);
redact!(spiffe::JwtsvidResponse, "JWTSVIDResponse", svids);
redact!(spiffe::ValidateJwtsvidRequest, "ValidateJWTSVIDRequest", audience);
redact!(admin::BreakGlassRequest, "BreakGlassRequest", user);
redact!(admin::BreakGlassReply, "BreakGlassReply", changed);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        let canary = || "canary".to_owned();
        let bytes = || b"canary".to_vec();
        let shown = [
            format!("{:?}", v1::LoginRequest { user: "clerk".into(), password: canary() }),
            format!(
                "{:?}",
                v1::EnrollRequest { token: bytes(), recovery: bytes(), identity_token: canary(), ..Default::default() }
            ),
            format!("{:?}", v1::RecoverRequest { token: bytes(), ..Default::default() }),
            format!("{:?}", v1::Pairing { psk: bytes(), ..Default::default() }),
            format!(
                "{:?}",
                v1::Permit { offer: Some(v1::Offer { psk: bytes(), ..Default::default() }), ..Default::default() }
            ),
            format!("{:?}", admin::ClaimOwnerRequest { token: canary(), name: "clerk".into(), password: canary() }),
            format!("{:?}", admin::BreakGlassRequest { key: canary(), user: "clerk".into() }),
            format!("{:?}", admin::BreakGlassReply { key: canary(), ..Default::default() }),
            format!("{:?}", admin::AddUserRequest { password: canary(), ..Default::default() }),
            format!("{:?}", admin::SetPasswordRequest { user: "clerk".into(), password: canary() }),
            format!("{:?}", admin::CreateJoinKeyReply { join_file: bytes(), ..Default::default() }),
            format!("{:?}", admin::MakeFederationFileReply { join_file: bytes(), ..Default::default() }),
            format!("{:?}", admin::BackupRequest { passphrase: canary(), recipients: Vec::new() }),
            format!("{:?}", local::UpRequest { join_file: canary(), name: "laptop".into(), identity_token: canary() }),
            format!("{:?}", v1::BeginTotpReply { id: "fa".into(), secret: canary(), uri: canary() }),
            format!("{:?}", v1::ConfirmTotpRequest { id: "fa".into(), code: canary() }),
            format!("{:?}", v1::RecoveryCodes { codes: vec![canary()] }),
            format!("{:?}", v1::VerifyFactorRequest { code: canary() }),
            format!("{:?}", local::BeginTotpReply { id: "fa".into(), secret: canary(), uri: canary() }),
            format!("{:?}", local::ConfirmTotpRequest { id: "fa".into(), code: canary() }),
            format!("{:?}", local::RecoveryCodes { codes: vec![canary()] }),
            format!("{:?}", local::VerifyFactorRequest { code: canary() }),
            format!("{:?}", v1::BeginSignInReply { id: "sn".into(), url: canary(), state: canary() }),
            format!("{:?}", v1::FinishSignInRequest { code: canary(), state: canary(), ..Default::default() }),
            format!("{:?}", local::BeginSignInReply { id: "sn".into(), url: canary(), state: canary() }),
            format!("{:?}", local::FinishSignInRequest { code: canary(), state: canary(), ..Default::default() }),
            format!("{:?}", admin::AddIdpRequest { client_secret: canary(), ..Default::default() }),
            format!("{:?}", local::LoginRequest { user: "clerk".into(), password: canary() }),
        ];
        let as_numbers = format!("{:?}", b"canary");
        for text in shown {
            assert!(!text.contains("canary") && !text.contains(as_numbers.trim_matches(['[', ']'])), "{text}");
        }
    }
}
