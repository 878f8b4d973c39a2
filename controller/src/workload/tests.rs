use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use model::time::WallMs;
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

const NOW: WallMs = WallMs(1_700_000_000_000);

fn keys() -> WorkloadKeys {
    WorkloadKeys::create(&"corp.example".parse().unwrap(), NOW).unwrap().0
}

fn id() -> SpiffeId {
    "spiffe://corp.example/workload/deploy/web".parse().unwrap()
}

fn request() -> ca::RequestKey {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["controller.umbra.internal".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    ca::request_key(params.serialize_request(&key).unwrap().der()).unwrap()
}

#[test]
fn a_programs_certificate_is_what_spiffe_asks_for_whatever_the_request_says() {
    let keys = keys();
    let svid = keys.issue(&id(), &request(), NOW, WORKLOAD_SVID_LIFE).unwrap();
    assert_eq!(svid.chain.len(), 1);
    let (_, leaf) = X509Certificate::from_der(&svid.chain[0]).unwrap();
    let (_, root) = X509Certificate::from_der(keys.bundle()).unwrap();
    leaf.verify_signature(Some(root.public_key())).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    assert_eq!(names, [GeneralName::URI(id().as_str())], "one URI, and nothing else");
    assert_eq!(leaf.basic_constraints().unwrap().map(|found| found.value.ca), Some(false));
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    let (begins, ends) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    assert!(begins <= NOW.0 / 1_000);
    assert_eq!(ends, NOW.0 / 1_000 + i64::try_from(WORKLOAD_SVID_LIFE.as_secs()).unwrap());
    assert!(root.is_ca() && root.key_usage().unwrap().unwrap().value.key_cert_sign());
}

#[test]
fn no_node_believes_what_signs_programs() {
    let (nodes, _) = crate::ca::Ca::create(&"corp.example".parse().unwrap(), NOW).unwrap();
    let svid = keys().issue(&id(), &request(), NOW, WORKLOAD_SVID_LIFE).unwrap();
    let (_, leaf) = X509Certificate::from_der(&svid.chain[0]).unwrap();
    let (_, root) = X509Certificate::from_der(nodes.certificate()).unwrap();
    assert!(leaf.verify_signature(Some(root.public_key())).is_err());
    assert_ne!(leaf.issuer(), root.subject());
    let der = rustls::pki_types::CertificateDer::from(svid.chain[0].clone());
    assert!(node::svid::read_leaf("corp.example", &der).is_err(), "nor does it name a node");
}

#[test]
fn a_token_says_who_for_whom_and_for_how_long_and_the_bundle_checks_it() {
    let keys = keys();
    let audiences = ["billing".to_owned(), "mail".to_owned()];
    let token = keys.token(&id(), &audiences, NOW, WORKLOAD_TOKEN_LIFE).unwrap();
    let parts: Vec<&str> = token.expose().split('.').collect();
    let [header, claims, signature] = parts.as_slice() else { panic!("{} parts", parts.len()) };
    let read = |text: &str| serde_json::from_slice::<Value>(&BASE64.decode(text).unwrap()).unwrap();
    let (header, claims) = (read(header), read(claims));
    let bundle: Value = serde_json::from_str(&keys.token_bundle().unwrap()).unwrap();
    let key = &bundle["keys"][0];
    assert_eq!(header["alg"], "ES256");
    assert_eq!(header["kid"], key["kid"]);
    assert_eq!((&key["use"], &key["kty"]), (&Value::from("jwt-svid"), &Value::from("EC")));
    assert!(key.get("d").is_none());
    assert_eq!(claims["sub"], id().as_str());
    assert_eq!(claims["aud"], serde_json::json!(audiences));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 300);
    let coordinate = |name: &str| BASE64.decode(key[name].as_str().unwrap()).unwrap();
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let public = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED, point);
    let text = token.expose().rsplit_once('.').unwrap().0;
    let signature = BASE64.decode(signature).unwrap();
    public.verify(text.as_bytes(), &signature).unwrap();
    assert!(public.verify(b"another", &signature).is_err());
}

#[test]
fn stored_keys_go_on_and_damaged_ones_are_said_to_be() {
    let domain = "corp.example".parse().unwrap();
    let (first, parts) = WorkloadKeys::create(&domain, NOW).unwrap();
    let again = WorkloadKeys::load(&domain, parts.ca.expose(), &parts.ca_key, &parts.token_key).unwrap();
    assert_eq!((first.bundle(), first.token_bundle().unwrap()), (again.bundle(), again.token_bundle().unwrap()));
    let other = Secret::new(vec![1, 2, 3]);
    assert!(WorkloadKeys::load(&domain, parts.ca.expose(), &parts.ca_key, &other).is_err());
    assert!(WorkloadKeys::load(&domain, parts.ca.expose(), &other, &parts.token_key).is_err());
    assert!(!format!("{first:?}").contains("["), "no key is shown");
}

#[test]
fn a_token_is_for_so_many_audiences_that_can_be_seen() {
    let many = |n: usize| vec!["a".repeat(WORKLOAD_AUDIENCE_MAX); n];
    assert!(check_audiences(&many(1)).is_ok() && check_audiences(&many(WORKLOAD_AUDIENCES_MAX)).is_ok());
    for bad in [
        Vec::new(),
        many(WORKLOAD_AUDIENCES_MAX + 1),
        vec![String::new()],
        vec!["a".repeat(WORKLOAD_AUDIENCE_MAX + 1)],
        vec!["a\u{202e}".to_owned()],
    ] {
        assert!(matches!(check_audiences(&bad), Err(Refusal::Invalid(_))), "{bad:?}");
    }
}

/// Of the test world: account 1 on device 3, account 2 on device 4, and a registration of each.
async fn world() -> crate::test_support::World {
    use crate::store::Commit;
    use model::ids::AccountId;
    use model::key::PublicKey;
    let world = crate::test_support::World::new().await;
    let of = world.organisation.now().devices.find(&device(1)).unwrap().record.clone();
    let mut commit = Commit::default();
    for (number, place) in [(1_u8, 3_u8), (2, 4)] {
        let id = AccountId::from_bytes([number; 10]);
        let (name, groups) = (format!("account{number}").parse().unwrap(), [].into());
        let (description, created) = (String::new(), WallMs(1));
        let account = Account { id, name, description, groups, disabled: false, restored: false, created };
        commit = commit.put_record(&id, &account).unwrap();
        let (name, key) = (format!("runner{number}").parse().unwrap(), PublicKey([place; 32]));
        let made =
            crate::directory::Device { id: device(place), name, user: None, account: Some(id), key, ..of.clone() };
        commit = commit.put_record(&device(place), &made).unwrap();
        let path = "web".parse().unwrap();
        let registration =
            Registration { id: registration(number), account: id, path, uid: Some(1000), gid: None, created };
        commit = commit.put_record(&registration.id.clone(), &registration).unwrap();
    }
    let revision = world.organisation.store.commit(commit).await.unwrap();
    world.organisation.directory.at_least(revision).await;
    world
}

fn device(number: u8) -> DeviceId {
    DeviceId::from_bytes([number; 10])
}

fn registration(number: u8) -> RegistrationId {
    RegistrationId::from_bytes([number; 10])
}

fn csr() -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
}

#[tokio::test]
async fn each_signature_is_decided_from_what_is_true_then() {
    let world = world().await;
    let organisation = &world.organisation;
    let told = organisation.registrations(device(3)).unwrap();
    let domain = organisation.org().unwrap().trust_domain;
    assert_eq!(told.len(), 1, "another account's are another's");
    assert_eq!(told[0].spiffe.as_str(), format!("spiffe://{domain}/workload/account1/web"));
    let (spiffe, svid) = organisation.sign_identity(device(3), registration(1), &csr()).await.unwrap();
    assert_eq!(spiffe, told[0].spiffe);
    assert!(svid.expires.since(organisation.wall()) <= WORKLOAD_SVID_LIFE);
    let audience = ["billing".to_owned()];
    assert!(organisation.sign_token(device(3), registration(1), &audience).await.is_ok());
    let refused = async |place: u8, number: u8| {
        let svid = organisation.sign_identity(device(place), registration(number), &csr()).await;
        let token = organisation.sign_token(device(place), registration(number), &audience).await;
        matches!(svid, Err(Refusal::Denied(_))) && matches!(token, Err(Refusal::Denied(_)))
    };
    assert!(refused(3, 2).await, "another account's registration");
    assert!(refused(3, 9).await, "none");
    assert!(refused(1, 1).await, "a person's machine");
    assert!(refused(9, 1).await, "no machine");
    let bad = organisation.sign_identity(device(3), registration(1), &[1, 2, 3]).await;
    assert!(matches!(bad, Err(Refusal::Invalid(_))));
    organisation
        .change(|directory, draft| {
            let fact = directory.accounts.named("account1").unwrap();
            draft.update(fact, &Account { disabled: true, ..fact.record.clone() })?;
            Ok(((), Entry::new(WallMs(1), "test", "test", "test", Outcome::Done)))
        })
        .await
        .unwrap();
    assert!(refused(3, 1).await, "its account is disabled");
    assert!(organisation.registrations(device(3)).is_err() && organisation.registrations(device(4)).is_ok());
}

#[tokio::test]
async fn one_machine_has_so_much_signed_within_a_minute_and_no_other_waits_for_it() {
    let world = world().await;
    let audience = ["billing".to_owned()];
    let sign = async |place: u8, number: u8| {
        world.organisation.sign_token(device(place), registration(number), &audience).await
    };
    let mut signed = 0;
    while sign(3, 1).await.is_ok() {
        signed += 1;
    }
    assert_eq!(signed, model::limits::WORKLOAD_SIGNINGS_PER_MINUTE);
    assert!(matches!(sign(3, 1).await, Err(Refusal::Often(_))));
    assert!(sign(4, 2).await.is_ok());
}

#[tokio::test]
async fn the_trail_names_who_got_what_once_and_not_each_signature() {
    use crate::audit::Query;
    let world = world().await;
    let audience = ["billing".to_owned()];
    for _ in 0..3 {
        world.organisation.sign_token(device(3), registration(1), &audience).await.unwrap();
        world.organisation.sign_identity(device(3), registration(1), &csr()).await.unwrap();
    }
    world.organisation.sign_token(device(4), registration(2), &audience).await.unwrap();
    assert!(world.organisation.sign_token(device(3), registration(2), &audience).await.is_err());
    let mut said = Vec::new();
    let records = world.organisation.store.audit(Query { limit: 1_000, ..Query::default() }).await.unwrap();
    for entry in records {
        if entry.action.starts_with("identity.") {
            said.push((
                entry.action.clone(),
                entry.actor.clone(),
                entry.detail["spiffe_id"].as_str().unwrap().to_owned(),
            ));
        }
    }
    said.sort();
    let got = said
        .iter()
        .map(|(action, actor, id)| (action.as_str(), actor.as_str(), id.rsplit_once("/workload/").unwrap().1));
    let nodes = [3, 4].map(|number| NodeId::Device(device(number)).to_string());
    assert_eq!(
        got.collect::<Vec<_>>(),
        [
            ("identity.certificate", nodes[0].as_str(), "account1/web"),
            ("identity.token", nodes[0].as_str(), "account1/web"),
            ("identity.token", nodes[1].as_str(), "account2/web"),
        ]
    );
}
