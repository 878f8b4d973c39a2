//! What becomes of each text that the wire carries? Every field of every message stands here, once.

/// What becomes of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is a word of a grammar of ours (name, id, host name, prefix, ports, kind) or refused, and an error quotes it escaped.
    Word,
    /// It names what is there or is refused, and an error quotes it escaped.
    Known,
    /// A name is made of it that fits, or what is not plain is left out.
    Fitted,
    /// Looked for in what is there; neither kept nor shown.
    Sought,
    /// Policies and their files' names: compiled or refused, whatever cannot be seen is refused.
    Policy,
    /// Never shown, and kept as a hash at most.
    Secret,
    /// Nobody reads it.
    Unread,
    /// Prose of the controller for a person at a node: cut to a bound, and shown escaped.
    Prose,
    /// The controller's to a node, which refuses what is no word of the grammar.
    Checked,
    /// What a program tells over its own local socket: shown escaped.
    Told,
}

use Fate::{Checked, Fitted, Known, Policy, Prose, Secret, Sought, Told, Unread, Word};

/// Message, fate, fields.
pub const TEXTS: &[(&str, Fate, &str)] = &[
    ("umbra.v1.EnrollRequest", Fitted, "name"),
    ("umbra.v1.EnrollRequest", Unread, "version"),
    ("umbra.v1.EnrollRequest", Secret, "identity_token"),
    ("umbra.v1.EnrollReply", Checked, "node_id fingerprint account"),
    ("umbra.v1.Rule", Checked, "name"),
    ("umbra.v1.LoginRequest", Word, "user"),
    ("umbra.v1.LoginRequest", Secret, "password"),
    ("umbra.v1.LoginReply", Sought, "session"),
    ("umbra.v1.Provider", Checked, "name redirect_host"),
    ("umbra.v1.BeginSignInRequest", Known, "provider"),
    ("umbra.v1.BeginSignInReply", Checked, "id url state"),
    ("umbra.v1.FinishSignInRequest", Word, "id"),
    ("umbra.v1.FinishSignInRequest", Secret, "code state"),
    ("umbra.v1.FinishSignInRequest", Sought, "iss"),
    ("umbra.v1.BeginCodeSignInRequest", Known, "provider"),
    ("umbra.v1.BeginCodeSignInReply", Checked, "id user_code uri complete_uri"),
    ("umbra.v1.PollSignInRequest", Word, "id"),
    ("umbra.v1.SignInReply", Sought, "session"),
    ("umbra.v1.SignInReply", Checked, "user"),
    ("umbra.v1.DeviceSnapshot", Checked, "grants private_zones"),
    ("umbra.v1.DeviceDelta", Checked, "removals"),
    ("umbra.v1.SessionState", Checked, "id user"),
    ("umbra.v1.FactorProof", Checked, "method"),
    ("umbra.v1.GrantEnded", Checked, "grant resource"),
    ("umbra.v1.GrantRenewed", Checked, "grant"),
    ("umbra.v1.Resource", Checked, "id name suffixes"),
    ("umbra.v1.ResourceAddress", Checked, "name"),
    ("umbra.v1.ConnectRequest", Word, "resource pairings avoid_gateways moves"),
    ("umbra.v1.Permit", Checked, "grant pairing"),
    ("umbra.v1.Offer", Checked, "gateway"),
    ("umbra.v1.Deny", Prose, "reasons"),
    ("umbra.v1.Deny", Checked, "step_up"),
    ("umbra.v1.Factor", Checked, "id name method"),
    ("umbra.v1.BeginTotpRequest", Word, "name"),
    ("umbra.v1.BeginTotpReply", Checked, "id secret uri"),
    ("umbra.v1.ConfirmTotpRequest", Word, "id"),
    ("umbra.v1.ConfirmTotpRequest", Secret, "code"),
    ("umbra.v1.RecoveryCodes", Checked, "codes"),
    ("umbra.v1.VerifyFactorRequest", Secret, "code"),
    ("umbra.v1.VerifyFactorReply", Checked, "method"),
    ("umbra.v1.RemoveFactorRequest", Sought, "factor"),
    ("umbra.v1.BeginPasskeyRequest", Word, "name"),
    ("umbra.v1.AskPasskeyRequest", Word, "resource"),
    ("umbra.v1.DisconnectRequest", Word, "grant"),
    ("umbra.v1.NameAddressRequest", Word, "name"),
    ("umbra.v1.NameAddressReply", Checked, "resource"),
    ("umbra.v1.ListIdentitiesReply", Checked, "trust_domain token_bundle"),
    ("umbra.v1.Identity", Checked, "registration spiffe_id"),
    ("umbra.v1.SignIdentityRequest", Word, "registration"),
    ("umbra.v1.SignTokenRequest", Word, "registration audiences"),
    ("umbra.v1.SignTokenReply", Secret, "token"),
    ("umbra.v1.GatewayHello", Fitted, "version"),
    ("umbra.v1.Ack", Word, "refused"),
    ("umbra.v1.NameReport", Word, "name"),
    ("umbra.v1.NameReport", Unread, "error"),
    ("umbra.v1.Count", Word, "reason"),
    ("umbra.v1.FlowRecord", Word, "grant"),
    ("umbra.v1.GatewaySnapshot", Checked, "names"),
    ("umbra.v1.GatewayDelta", Checked, "ended"),
    ("umbra.v1.GrantLife", Checked, "grant"),
    ("umbra.v1.Pairing", Checked, "id device"),
    ("umbra.v1.Grant", Checked, "id pairing device resource"),
    ("umbra.admin.v1.Changed", Told, "id name"),
    ("umbra.admin.v1.Confirmation", Told, "gateway"),
    (
        "umbra.admin.v1.StatusReply",
        Told,
        "trust_domain pool_v4 pool_v6 controller_key endpoints zones private_zones version fingerprint refuses \
         keys_warning alarms",
    ),
    ("umbra.admin.v1.ShowKeysReply", Told, "state unaware"),
    ("umbra.admin.v1.ControllerKeys", Told, "key fingerprint"),
    ("umbra.admin.v1.Count", Told, "reason"),
    ("umbra.admin.v1.ClaimOwnerRequest", Secret, "token password"),
    ("umbra.admin.v1.ClaimOwnerRequest", Word, "name"),
    ("umbra.admin.v1.GrantRoleRequest", Known, "user"),
    ("umbra.admin.v1.GrantRoleRequest", Word, "role"),
    ("umbra.admin.v1.RevokeRoleRequest", Known, "user"),
    ("umbra.admin.v1.RevokeRoleRequest", Word, "role"),
    ("umbra.admin.v1.RoleHolder", Told, "id user roles"),
    ("umbra.admin.v1.BreakGlassRequest", Secret, "key"),
    ("umbra.admin.v1.BreakGlassRequest", Known, "user"),
    ("umbra.admin.v1.BreakGlassReply", Told, "key"),
    ("umbra.admin.v1.AddUserRequest", Word, "name groups"),
    ("umbra.admin.v1.AddUserRequest", Secret, "password"),
    ("umbra.admin.v1.User", Told, "id name groups"),
    ("umbra.admin.v1.SetPasswordRequest", Known, "user"),
    ("umbra.admin.v1.SetPasswordRequest", Secret, "password"),
    ("umbra.admin.v1.SetUserEnabledRequest", Known, "user"),
    ("umbra.admin.v1.DeleteUserRequest", Known, "user"),
    ("umbra.admin.v1.OffboardUserRequest", Known, "user"),
    ("umbra.admin.v1.OffboardUserReply", Told, "devices groups"),
    ("umbra.admin.v1.ListFactorsRequest", Known, "user"),
    ("umbra.admin.v1.Factor", Told, "id name method"),
    ("umbra.admin.v1.ResetFactorsRequest", Known, "user"),
    (
        "umbra.admin.v1.AddIdpRequest",
        Word,
        "name issuer client_id scopes parameters groups_claim email_claim name_claim sign_in_groups groups factor_words \
         ca_pem allow redirect_host",
    ),
    ("umbra.admin.v1.AddIdpRequest", Secret, "client_secret"),
    ("umbra.admin.v1.Idp", Told, "id name issuer client_id groups sign_in_groups"),
    ("umbra.admin.v1.RemoveIdpRequest", Known, "idp"),
    ("umbra.admin.v1.SyncIdpsRequest", Known, "idp"),
    ("umbra.admin.v1.AddAccountRequest", Word, "name description groups"),
    ("umbra.admin.v1.AddAccountReply", Told, "open_to"),
    ("umbra.admin.v1.Account", Told, "id name description groups devices join_keys federation"),
    ("umbra.admin.v1.SetAccountEnabledRequest", Known, "account"),
    ("umbra.admin.v1.SetAccountGroupRequest", Known, "account group"),
    ("umbra.admin.v1.RemoveAccountRequest", Known, "account"),
    ("umbra.admin.v1.RemoveAccountReply", Told, "devices join_keys groups federation"),
    ("umbra.admin.v1.AddRegistrationRequest", Known, "account"),
    ("umbra.admin.v1.AddRegistrationRequest", Word, "path"),
    ("umbra.admin.v1.Registration", Told, "id spiffe_id account"),
    ("umbra.admin.v1.RemoveRegistrationRequest", Known, "registration"),
    // Keys and certificates are compiled or refused, and are not shown.
    ("umbra.admin.v1.AddFederationRequest", Word, "name issuer audience subject claims jwks ca_pem allow"),
    ("umbra.admin.v1.AddFederationRequest", Known, "account"),
    ("umbra.admin.v1.Federation", Told, "id name issuer audience subject claims account keys"),
    ("umbra.admin.v1.RemoveFederationRequest", Known, "federation"),
    ("umbra.admin.v1.MakeFederationFileRequest", Known, "federation"),
    ("umbra.admin.v1.MakeFederationFileReply", Told, "fingerprint"),
    ("umbra.admin.v1.AddGroupRequest", Word, "name"),
    ("umbra.admin.v1.Group", Told, "name members workloads"),
    ("umbra.admin.v1.DeleteGroupRequest", Known, "group"),
    ("umbra.admin.v1.SetMemberRequest", Known, "group user"),
    ("umbra.admin.v1.AddSiteRequest", Word, "name prefixes"),
    ("umbra.admin.v1.Site", Told, "id name prefixes gateways"),
    ("umbra.admin.v1.DeleteSiteRequest", Known, "site"),
    ("umbra.admin.v1.Gateway", Told, "id name site state fingerprint address key"),
    ("umbra.admin.v1.ConfirmGatewayRequest", Known, "gateway fingerprint"),
    ("umbra.admin.v1.RevokeGatewayRequest", Known, "gateway"),
    ("umbra.admin.v1.AddResourceRequest", Word, "name hosts addresses tcp udp tags"),
    ("umbra.admin.v1.AddResourceRequest", Known, "site"),
    ("umbra.admin.v1.Resource", Told, "id name site hosts addresses tcp udp tags"),
    ("umbra.admin.v1.VirtualAddress", Told, "name v4 v6"),
    ("umbra.admin.v1.DeleteResourceRequest", Known, "resource"),
    // Of the same type in `ShowPolicyReply`: what was taken is told again.
    ("umbra.admin.v1.PolicyFile", Policy, "name text"),
    ("umbra.admin.v1.PolicyChanges", Told, "added_ids removed_ids changed_ids not_compared"),
    ("umbra.admin.v1.AccessShift", Told, "user resource before before_because after after_because"),
    ("umbra.admin.v1.PolicyFinding", Told, "file reason"),
    ("umbra.admin.v1.ShowPolicyReply", Told, "applied_by digest"),
    ("umbra.admin.v1.PolicyRevision", Told, "applied_by digest"),
    ("umbra.admin.v1.ListAccessRequest", Known, "user resource account"),
    ("umbra.admin.v1.AccessRow", Told, "user resource access because"),
    ("umbra.admin.v1.AccessNeed", Told, "policy conditions"),
    ("umbra.admin.v1.CreateJoinKeyRequest", Word, "kind"),
    ("umbra.admin.v1.CreateJoinKeyRequest", Known, "site account"),
    ("umbra.admin.v1.CreateJoinKeyReply", Told, "fingerprint"),
    ("umbra.admin.v1.JoinKey", Told, "id kind site state account"),
    ("umbra.admin.v1.RevokeJoinKeyRequest", Word, "join_key"),
    ("umbra.admin.v1.Device", Told, "id name user state address_v4 address_v6 fingerprint join_key account"),
    ("umbra.admin.v1.ConfirmDeviceRequest", Known, "device fingerprint"),
    ("umbra.admin.v1.RevokeDeviceRequest", Known, "device"),
    ("umbra.admin.v1.Session", Told, "id user device"),
    ("umbra.admin.v1.ShowSessionRequest", Word, "session"),
    ("umbra.admin.v1.SessionGrant", Told, "resource gateway"),
    ("umbra.admin.v1.SessionFlow", Told, "resource gateway protocol target end"),
    ("umbra.admin.v1.RevokeSessionRequest", Word, "session"),
    ("umbra.admin.v1.ListAuditRequest", Sought, "actor action object"),
    ("umbra.admin.v1.ListAuditReply", Told, "lines records"),
    ("umbra.admin.v1.VerifyAuditReply", Told, "head problem"),
    ("umbra.admin.v1.ExportAuditReply", Told, "records witness"),
    ("umbra.admin.v1.BackupRequest", Secret, "passphrase"),
    ("umbra.admin.v1.BackupRequest", Word, "recipients"),
    ("umbra.admin.v1.LostRecords", Told, "gateway"),
    ("umbra.admin.v1.Waiting", Told, "kind id name about fingerprint"),
    ("umbra.admin.v1.ConfirmRestoredRequest", Known, "items"),
    ("umbra.local.v1.UpRequest", Word, "join_file"),
    ("umbra.local.v1.UpRequest", Fitted, "name"),
    ("umbra.local.v1.UpRequest", Secret, "identity_token"),
    ("umbra.local.v1.UpReply", Told, "organisation device fingerprint account"),
    ("umbra.local.v1.LoginRequest", Word, "user"),
    ("umbra.local.v1.LoginRequest", Secret, "password"),
    ("umbra.local.v1.LoginReply", Told, "user"),
    ("umbra.local.v1.Provider", Told, "name redirect_host"),
    ("umbra.local.v1.BeginSignInRequest", Known, "provider"),
    ("umbra.local.v1.BeginSignInReply", Told, "id url state"),
    ("umbra.local.v1.FinishSignInRequest", Word, "id"),
    ("umbra.local.v1.FinishSignInRequest", Secret, "code state"),
    ("umbra.local.v1.FinishSignInRequest", Sought, "iss"),
    ("umbra.local.v1.BeginCodeSignInRequest", Known, "provider"),
    ("umbra.local.v1.BeginCodeSignInReply", Told, "id user_code uri complete_uri"),
    ("umbra.local.v1.PollSignInRequest", Word, "id"),
    ("umbra.local.v1.ListReply", Told, "user"),
    ("umbra.local.v1.Resource", Told, "name id state reason gateway hosts addresses services"),
    ("umbra.local.v1.ConnectRequest", Known, "resource"),
    ("umbra.local.v1.ConnectReply", Told, "resource outcome reasons gateway step_up"),
    ("umbra.local.v1.Factor", Told, "id name method"),
    ("umbra.local.v1.BeginTotpRequest", Word, "name"),
    ("umbra.local.v1.BeginTotpReply", Told, "id secret uri"),
    ("umbra.local.v1.ConfirmTotpRequest", Word, "id"),
    ("umbra.local.v1.ConfirmTotpRequest", Secret, "code"),
    ("umbra.local.v1.RecoveryCodes", Told, "codes"),
    ("umbra.local.v1.VerifyFactorRequest", Secret, "code"),
    ("umbra.local.v1.VerifyFactorReply", Told, "method"),
    ("umbra.local.v1.RemoveFactorRequest", Sought, "factor"),
    ("umbra.local.v1.BeginPasskeyRequest", Word, "name"),
    ("umbra.local.v1.AskPasskeyRequest", Known, "resource"),
    ("umbra.local.v1.WhyRequest", Known, "resource"),
    ("umbra.local.v1.WhyReply", Told, "resource outcome reasons"),
    (
        "umbra.local.v1.StatusReply",
        Told,
        "state trouble version organisation device addresses findings revision fingerprint organisation_fingerprint \
         without",
    ),
    ("umbra.local.v1.Controller", Told, "trouble endpoint"),
    ("umbra.local.v1.Session", Told, "user factor"),
    ("umbra.local.v1.Pairing", Told, "id gateway endpoint"),
    ("umbra.local.v1.Grant", Told, "id resource pairing"),
    ("umbra.local.v1.Dns", Told, "file resolvers forwarded_to trouble"),
    ("umbra.local.v1.Count", Told, "reason"),
];

/// What becomes of a field, `umbra.v1.LoginRequest.user`.
pub fn fate(field: &str) -> Option<Fate> {
    let (message, name) = field.rsplit_once('.')?;
    let row = |(of, _, names): &&(&str, Fate, &str)| *of == message && names.split(' ').any(|one| one == name);
    TEXTS.iter().find(row).map(|(_, fate, _)| *fate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Wire;

    #[test]
    fn every_text_of_the_wire_has_its_row() {
        let rows = TEXTS.iter().flat_map(|(of, _, names)| names.split(' ').map(move |name| format!("{of}.{name}")));
        let (mut rows, mut wire): (Vec<_>, Vec<_>) = (rows.collect(), Wire::read().unwrap().texts());
        rows.sort();
        wire.sort();
        assert!(wire.len() > 200);
        let (missing, stale): (Vec<_>, Vec<_>) =
            (wire.iter().filter(|f| !rows.contains(f)).collect(), rows.iter().filter(|f| !wire.contains(f)).collect());
        assert_eq!((missing, stale), (Vec::new(), Vec::new()), "say in TEXTS what becomes of a text");
        rows.dedup();
        assert_eq!(rows.len(), wire.len(), "a field stands there twice");
    }

    #[test]
    fn nothing_that_is_asked_is_believed_as_if_it_were_told() {
        let wire = Wire::read().unwrap();
        for call in &wire.calls {
            for place in wire.places(&call.request) {
                let fate = fate(&place.field).unwrap();
                assert!(!matches!(fate, Told | Checked | Prose), "{}: {} is {fate:?}", call.path, place.field);
            }
        }
    }
}
