//! Does anything but this user's passkey, asked by our page, pass? Every faulty answer is refused for its own reason.

use super::test_authenticator::{Authenticator, bytes, client, map, number, object, text};
use super::*;
use model::ids::FactorId;
use model::limits::{CBOR_DEPTH_MAX, CREDENTIAL_ID_MAX, FACTORS_PER_USER_MAX, PASSKEY_ANSWER_MAX, PASSKEY_OPTIONS_MAX};
use model::time::WallMs;
use serde_json::{Value, json};

const PORT: u16 = 40_123;
const CHALLENGE: [u8; 32] = [7; 32];
const ASKED: Asked<'_> = Asked { challenge: &CHALLENGE, port: PORT };
const USER: UserId = UserId::from_bytes([5; 10]);

fn question() -> Value {
    options::create("corp.example", (USER, "clerk"), &[], &CHALLENGE)
}

fn created(answer: &[u8]) -> Result<Made, Fault> {
    ASKED.created(&Created::read(answer).unwrap())
}

fn passkey(made: Made) -> Passkey {
    Passkey {
        id: FactorId::from_bytes([1; 10]),
        name: "key".parse().unwrap(),
        created: WallMs(0),
        used: None,
        credential: made.credential,
        key: made.key,
        count: made.count,
        backup_eligible: made.backup_eligible,
    }
}

/// An authenticator whose passkey is registered.
fn registered(algorithm: &str) -> (Authenticator, Passkey) {
    let mut authenticator = Authenticator::new(algorithm);
    let made = created(&authenticator.create(&question(), PORT)).unwrap();
    (authenticator, passkey(made))
}

fn asserted(answer: &[u8], held: &[Passkey]) -> Result<(usize, u32), Fault> {
    ASKED.asserted(&Asserted::read(answer).unwrap(), USER, held)
}

#[test]
fn each_algorithm_makes_a_passkey_and_shows_it() {
    for algorithm in ["ES256", "EdDSA", "RS256"] {
        let (mut authenticator, passkey) = registered(algorithm);
        assert_eq!((passkey.credential.as_slice(), passkey.count), (authenticator.id.as_slice(), 1));
        // What is stored is read back as it was.
        let stored: Passkey = serde_json::from_value(serde_json::to_value(&passkey).unwrap()).unwrap();
        assert_eq!(stored, passkey);
        let (other, _) = registered("ES256");
        let held = [Passkey { credential: other.id, ..stored.clone() }, stored];
        assert_eq!(asserted(&authenticator.get(&question(), PORT), &held), Ok((1, 2)), "{algorithm}");
        let data = authenticator.data("localhost");
        let said = client("webauthn.get", &question(), PORT).to_string();
        let answer = authenticator.asserted(&said, &data, Some(USER.as_bytes()));
        assert_eq!(asserted(&answer, &held), Ok((1, 3)), "it knows whose it is");
        // Extensions that nobody asked for, after what is signed either way.
        let mut data = authenticator.data("localhost");
        data[32] |= flag::EXTENSIONS;
        data.extend(map(&[(text("credProtect"), number(3))]));
        assert_eq!(asserted(&authenticator.asserted(&said, &data, None), &held), Ok((1, 4)));
    }
}

#[test]
fn an_authenticator_may_attest_with_the_new_key_itself() {
    let mut authenticator = Authenticator::new("ES256");
    let said = client("webauthn.create", &question(), PORT).to_string();
    let data = authenticator.data_with("localhost", &map(&authenticator.cose()));
    let statement =
        |algorithm: i64, signature: &[u8]| map(&[(text("alg"), number(algorithm)), (text("sig"), bytes(signature))]);
    let signature = authenticator.sign(&[data.as_slice(), &sha256(said.as_bytes())].concat());
    let answer =
        |format: &str, statement: &[u8]| created(&authenticator.created(&said, &object(&data, format, statement)));
    assert!(answer("packed", &statement(-7, &signature)).is_ok());
    let with_chain = map(&[
        (text("alg"), number(-7)),
        (text("sig"), bytes(&signature)),
        (text("x5c"), [vec![0x81], bytes(&[1])].concat()),
    ]);
    let stranger = Authenticator::new("ES256").sign(&[data.as_slice(), &sha256(said.as_bytes())].concat());
    for (format, statement) in [
        ("packed", statement(-8, &signature)),
        ("packed", statement(-7, &stranger)),
        ("packed", statement(-7, &authenticator.sign(&data))),
        ("packed", map(&[])),
        ("packed", with_chain),
        ("none", statement(-7, &signature)),
        ("tpm", map(&[])),
        ("fido-u2f", statement(-7, &signature)),
        ("", map(&[])),
    ] {
        assert_eq!(answer(format, &statement).unwrap_err(), Fault::Attestation, "{format}");
    }
}

/// What is wrong with what a browser says, for both kinds of questions.
fn faulty_pages(kind: &str, other: &str) -> Vec<(Value, Fault, &'static str)> {
    let good = client(kind, &question(), PORT);
    let with = |name: &str, value: Value| {
        let mut said = good.clone();
        said[name] = value;
        said
    };
    let without = |name: &str| {
        let mut said = good.clone();
        said.as_object_mut().unwrap().remove(name);
        said
    };
    let mut faulty = vec![
        (with("type", json!(other)), Fault::Kind, "an answer to the other kind of question"),
        (with("type", json!("webauthn.")), Fault::Kind, "to none"),
        (without("type"), Fault::ClientData, "to none"),
        (with("challenge", json!("BwcHBw")), Fault::Challenge, "the beginning of the challenge"),
        (with("challenge", json!("")), Fault::Challenge, "no challenge"),
        (with("challenge", json!("A".repeat(43))), Fault::Challenge, "another challenge"),
        (with("challenge", json!("not base 64")), Fault::ClientData, "no base 64"),
        (with("challenge", json!(7)), Fault::ClientData, "a number"),
        (without("challenge"), Fault::ClientData, "no challenge"),
        (without("origin"), Fault::ClientData, "no origin"),
        (with("crossOrigin", json!(true)), Fault::Embedded, "within another page"),
        (with("crossOrigin", json!("true")), Fault::ClientData, "neither yes nor no"),
        (with("topOrigin", json!("https://evil.example")), Fault::Embedded, "within another page"),
    ];
    for origin in [
        "http://localhost:40124",
        "http://localhost",
        "http://localhost:40123/",
        "https://localhost:40123",
        "http://127.0.0.1:40123",
        "http://[::1]:40123",
        "http://LOCALHOST:40123",
        "http://localhost.:40123",
        "http://localhost.evil.example:40123",
        "http://evil.example:40123",
        "null",
        "",
    ] {
        faulty.push((with("origin", json!(origin)), Fault::Origin, "another page"));
    }
    faulty
}

#[test]
fn a_page_that_is_not_ours_makes_and_shows_nothing() {
    let (mut authenticator, passkey) = registered("ES256");
    let held = [passkey];
    let (create, get) = ("webauthn.create", "webauthn.get");
    for (said, fault, why) in faulty_pages(create, get) {
        let data = authenticator.data_with("localhost", &map(&authenticator.cose()));
        let answer = authenticator.created(&said.to_string(), &object(&data, "none", &map(&[])));
        assert_eq!(created(&answer).unwrap_err(), fault, "{why}: {said}");
    }
    for (said, fault, why) in faulty_pages(get, create) {
        let data = authenticator.data("localhost");
        assert_eq!(
            asserted(&authenticator.asserted(&said.to_string(), &data, None), &held),
            Err(fault),
            "{why}: {said}"
        );
    }
    // Two readers that take the first and the last of two equal names would not agree.
    let good = client(get, &question(), PORT).to_string();
    for said in [
        good.replacen('{', "{\"origin\":\"http://evil.example\",", 1),
        good.replacen('{', "{\"challenge\":\"AAAA\",", 1),
        format!("{good}x"),
        format!("\u{feff}{good}"),
        good[..good.len() - 1].to_owned(),
        "[]".to_owned(),
        String::new(),
    ] {
        let data = authenticator.data("localhost");
        assert_eq!(asserted(&authenticator.asserted(&said, &data, None), &held), Err(Fault::ClientData), "{said}");
    }
    // A page may say more than is asked of it.
    let mut more = client(get, &question(), PORT);
    more["other_keys_can_be_added_here"] = json!("do not compare");
    let data = authenticator.data("localhost");
    assert!(asserted(&authenticator.asserted(&more.to_string(), &data, None), &held).is_ok());
    more.as_object_mut().unwrap().remove("crossOrigin");
    let data = authenticator.data("localhost");
    assert!(asserted(&authenticator.asserted(&more.to_string(), &data, None), &held).is_ok());
}

#[test]
fn somebody_has_to_be_there_and_to_be_known_and_to_mean_this_site() {
    let (present, verified) = (flag::PRESENT, flag::VERIFIED);
    let (mut authenticator, passkey) = registered("EdDSA");
    let held = [passkey];
    for (party, flags, fault) in [
        ("corp.example", present | verified, Fault::Party),
        ("", present | verified, Fault::Party),
        ("localhost.", present | verified, Fault::Party),
        ("localhost", verified, Fault::Presence),
        ("localhost", present, Fault::Verification),
        ("localhost", 0, Fault::Presence),
        ("localhost", present | verified | flag::BACKED_UP, Fault::Backup),
    ] {
        authenticator.flags = flags;
        let data = authenticator.data(party);
        let said = client("webauthn.get", &question(), PORT).to_string();
        assert_eq!(asserted(&authenticator.asserted(&said, &data, None), &held), Err(fault), "{party} {flags:b}");
        let data = authenticator.data_with(party, &map(&authenticator.cose()));
        let said = client("webauthn.create", &question(), PORT).to_string();
        let answer = authenticator.created(&said, &object(&data, "none", &map(&[])));
        assert_eq!(created(&answer).unwrap_err(), fault, "{party} {flags:b}");
    }
    // What was said of copies at first does not change.
    authenticator.flags = present | verified | flag::BACKUP_ELIGIBLE;
    assert_eq!(asserted(&authenticator.get(&question(), PORT), &held), Err(Fault::Backup));
    let made = created(&authenticator.create(&question(), PORT)).unwrap();
    assert!(made.backup_eligible);
    let held = [self::passkey(made)];
    authenticator.flags |= flag::BACKED_UP;
    assert!(asserted(&authenticator.get(&question(), PORT), &held).is_ok(), "a copy that was made later");
    authenticator.flags = present | verified;
    assert_eq!(asserted(&authenticator.get(&question(), PORT), &held), Err(Fault::Backup));
}

#[test]
fn only_the_passkey_s_own_signature_over_just_this_counts() {
    let (mut authenticator, passkey) = registered("ES256");
    let (mut other, others) = registered("ES256");
    let held = [passkey.clone()];
    let said = client("webauthn.get", &question(), PORT).to_string();
    // Another's passkey, and another's signature under this one's name.
    assert_eq!(asserted(&other.get(&question(), PORT), &held), Err(Fault::Credential));
    assert_eq!(asserted(&other.get(&question(), PORT), &[]), Err(Fault::Credential));
    other.id.clone_from(&authenticator.id);
    other.count = Some(100);
    assert_eq!(asserted(&other.get(&question(), PORT), &held), Err(Fault::Signature));
    let data = authenticator.data("localhost");
    let signature = authenticator.sign(&[data.as_slice(), &sha256(said.as_bytes())].concat());
    let answer = |data: &[u8], said: &str, signature: &[u8]| {
        asserted(&authenticator.asserted_with(said, data, signature, None), &held)
    };
    assert!(answer(&data, &said, &signature).is_ok());
    let mut counted = data.clone();
    counted[36] += 1;
    assert_eq!(answer(&counted, &said, &signature), Err(Fault::Signature), "a count that was not signed");
    let spaced = said.replacen(':', ": ", 1);
    assert_eq!(answer(&data, &spaced, &signature), Err(Fault::Signature), "words that were not signed");
    for bad in [&signature[..signature.len() - 1], &[], &[0; 64], &[signature.as_slice(), &[0]].concat()] {
        assert_eq!(answer(&data, &said, bad), Err(Fault::Signature), "{bad:x?}");
    }
    // Under a key of another kind.
    let (_, ed) = registered("EdDSA");
    let mixed = [Passkey { key: ed.key, ..passkey.clone() }];
    assert_eq!(asserted(&authenticator.get(&question(), PORT), &mixed), Err(Fault::Signature));
    let mixed = [Passkey { key: others.key, ..passkey.clone() }];
    assert_eq!(asserted(&authenticator.get(&question(), PORT), &mixed), Err(Fault::Signature));
    // It says that it is somebody else's.
    for user in [&[9; 10][..], &[], &USER.as_bytes()[..9]] {
        let data = authenticator.data("localhost");
        assert_eq!(asserted(&authenticator.asserted(&said, &data, Some(user)), &held), Err(Fault::User));
    }
}

#[test]
fn a_passkey_that_counts_never_counts_backwards() {
    let (mut authenticator, passkey) = registered("EdDSA");
    let with = |count| [Passkey { count, ..passkey.clone() }];
    // Before it signs, then the count that is held.
    for (before, held, sound) in [(4, 4, true), (4, 0, true), (3, 4, false), (0, 4, false), (4, 1_000, false)] {
        authenticator.count = Some(before);
        let shown = asserted(&authenticator.get(&question(), PORT), &with(held));
        assert_eq!(shown, if sound { Ok((0, before + 1)) } else { Err(Fault::Cloned) }, "{before} {held}");
    }
    // Who does not count says so always.
    authenticator.count = None;
    assert_eq!(asserted(&authenticator.get(&question(), PORT), &with(0)), Ok((0, 0)));
    assert_eq!(asserted(&authenticator.get(&question(), PORT), &with(1)), Err(Fault::Cloned));
    // Nobody is called a clone by somebody who cannot sign for it.
    let (mut stranger, _) = registered("EdDSA");
    stranger.id.clone_from(&authenticator.id);
    stranger.count = None;
    assert_eq!(asserted(&stranger.get(&question(), PORT), &with(7)), Err(Fault::Signature));
}

#[test]
fn what_an_authenticator_says_is_read_to_its_end_and_no_further() {
    let (mut authenticator, passkey) = registered("ES256");
    let held = [passkey];
    let said = client("webauthn.get", &question(), PORT).to_string();
    let data = authenticator.data("localhost");
    let shown = |data: &[u8]| asserted(&authenticator.asserted(&said, data, None), &held);
    for cut in 0..data.len() {
        assert_eq!(shown(&data[..cut]), Err(Fault::Data), "{cut}");
    }
    assert_eq!(shown(&[data.as_slice(), &[0]].concat()), Err(Fault::Data), "more than it says");
    let flagged = |bits: u8, more: &[u8]| {
        let mut data = data.clone();
        data[32] |= bits;
        [data.as_slice(), more].concat()
    };
    assert_eq!(shown(&flagged(flag::EXTENSIONS, &[])), Err(Fault::Data), "extensions that are not there");
    assert_eq!(shown(&flagged(flag::EXTENSIONS, &number(1))), Err(Fault::Data), "no extensions");
    assert_eq!(shown(&flagged(flag::EXTENSIONS, &[map(&[]), vec![0]].concat())), Err(Fault::Data), "and more");
    assert_eq!(shown(&flagged(flag::ATTESTED, &[])), Err(Fault::Data), "a credential that is not there");
    let whole = [&[0; 16][..], &32_u16.to_be_bytes(), &authenticator.id, &map(&authenticator.cose())].concat();
    assert_eq!(shown(&flagged(flag::ATTESTED, &whole)), Err(Fault::Data), "a credential where none was made");
}

#[test]
fn what_is_made_is_read_to_its_end_and_no_further() {
    let mut authenticator = Authenticator::new("ES256");
    let said = client("webauthn.create", &question(), PORT).to_string();
    let cose = map(&authenticator.cose());
    let data = authenticator.data_with("localhost", &cose);
    let whole = object(&data, "none", &map(&[]));
    let answer = |attestation: &[u8]| created(&authenticator.created(&said, attestation));
    assert!(answer(&whole).is_ok());
    for cut in 0..whole.len() {
        assert_eq!(answer(&whole[..cut]).unwrap_err(), Fault::Data, "{cut}");
    }
    assert_eq!(answer(&[whole.as_slice(), &[0]].concat()).unwrap_err(), Fault::Data, "trailing");
    for cut in 0..data.len() {
        let fault = answer(&object(&data[..cut], "none", &map(&[]))).unwrap_err();
        assert!(matches!(fault, Fault::Data), "{cut} {fault:?}");
    }
    assert_eq!(answer(&object(&[data.as_slice(), &[0]].concat(), "none", &map(&[]))).unwrap_err(), Fault::Data);
    // Without a credential, without a part, with a part too many, with one twice.
    let plain = [&data[..32], &[flag::PRESENT | flag::VERIFIED, 0, 0, 0, 1]].concat();
    let (format, statement) = ((text("fmt"), text("none")), (text("attStmt"), map(&[])));
    let inner = (text("authData"), bytes(&data));
    let deep = (0..=CBOR_DEPTH_MAX).fold(number(1), |inner, _| map(&[(number(1), inner)]));
    for (bad, why) in [
        (object(&plain, "none", &map(&[])), "no credential"),
        (map(&[format.clone(), statement.clone()]), "no data"),
        (map(&[format.clone(), inner.clone()]), "no statement"),
        (map(&[statement.clone(), inner.clone()]), "no format"),
        (map(&[format.clone(), statement.clone(), inner.clone(), (text("x"), number(1))]), "a part too many"),
        (map(&[format.clone(), statement, inner.clone(), inner.clone()]), "a part twice"),
        (map(&[format.clone(), (text("attStmt"), number(0)), inner.clone()]), "a statement that is none"),
        (map(&[format, (text("attStmt"), deep), inner]), "a statement without a bottom"),
        (bytes(&data), "no map"),
        (vec![0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "a length that lies"),
        (vec![0xbb, 0, 0, 0, 1, 0, 0, 0, 0], "as many parts as there are not bytes"),
    ] {
        assert_eq!(answer(&bad).unwrap_err(), Fault::Data, "{why}");
    }
    // The name outside is the one inside.
    authenticator.id[0] ^= 1;
    assert_eq!(created(&authenticator.created(&said, &whole)).unwrap_err(), Fault::Data);
    // The longest name, and one that is longer.
    for (length, sound) in [(CREDENTIAL_ID_MAX, true), (CREDENTIAL_ID_MAX + 1, false), (0, false)] {
        authenticator.id = vec![1; length];
        let data = authenticator.data_with("localhost", &cose);
        assert_eq!(
            created(&authenticator.created(&said, &object(&data, "none", &map(&[])))).is_ok(),
            sound,
            "{length}"
        );
    }
}

#[test]
fn a_key_is_of_an_algorithm_that_was_offered_and_has_what_that_takes() {
    let said = client("webauthn.create", &question(), PORT).to_string();
    let answer = |authenticator: &mut Authenticator, cose: &[(Vec<u8>, Vec<u8>)]| {
        let data = authenticator.data_with("localhost", &map(cose));
        created(&authenticator.created(&said, &object(&data, "none", &map(&[])))).map(|_| ()).unwrap_err()
    };
    for algorithm in ["ES256", "EdDSA", "RS256"] {
        let mut key = Authenticator::new(algorithm);
        // ES384, PS256, RS1, none, and one that is only named wrongly.
        for other in [-35, -37, -65_535, 0, 7] {
            let cose = key.cose_as(other);
            assert_eq!(answer(&mut key, &cose), Fault::Algorithm, "{algorithm} {other}");
        }
        let own = key.algorithm();
        for other in ALGORITHMS.into_iter().filter(|other| *other != own) {
            let cose = key.cose_as(other);
            assert_eq!(answer(&mut key, &cose), Fault::Key, "{algorithm} as {other}");
        }
        let cose = key.cose();
        for leave in 0..cose.len() {
            let mut less = cose.clone();
            let (name, _) = less.remove(leave);
            let fault = if name == number(3) { Fault::Algorithm } else { Fault::Key };
            assert_eq!(answer(&mut key, &less), fault, "{algorithm} without {name:x?}");
        }
        let more = [cose.clone(), vec![(number(2), bytes(b"id"))]].concat();
        assert_eq!(answer(&mut key, &more), Fault::Key, "a part that must not be there");
        for at in 2..cose.len() {
            let mut short = cose.clone();
            short[at].1 = bytes(&[1; 31]);
            assert_eq!(answer(&mut key, &short), Fault::Key, "{algorithm} {at}");
        }
    }
    let mut key = Authenticator::new("ES256");
    let mut off = key.cose();
    off[4].1 = bytes(&[1; 32]);
    assert_eq!(answer(&mut key, &off), Fault::Key, "a point that is on no curve");
    let mut key = Authenticator::new("RS256");
    let cose = key.cose();
    for modulus in [vec![0; 256], vec![0xff; 255], vec![0xff; 1_025], [vec![0], vec![0xff; 256]].concat()] {
        let mut other = cose.clone();
        other[2].1 = bytes(&modulus);
        assert_eq!(answer(&mut key, &other), Fault::Key, "{}", modulus.len());
    }
    for exponent in [vec![], vec![0, 1], vec![1; 9]] {
        let mut other = cose.clone();
        other[3].1 = bytes(&exponent);
        assert_eq!(answer(&mut key, &other), Fault::Key);
    }
}

#[test]
fn an_answer_is_json_of_a_length_and_each_thing_once() {
    let (mut authenticator, _) = registered("ES256");
    let (get, create) = (authenticator.get(&question(), PORT), authenticator.create(&question(), PORT));
    assert!(Asserted::read(&get).is_some() && Created::read(&create).is_some());
    assert!(Asserted::read(&create).is_none() && Created::read(&get).is_none(), "each is its own kind");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    for (good, read) in [
        (text(&get), (|bytes| Asserted::read(bytes).is_some()) as fn(&[u8]) -> bool),
        (text(&create), |bytes| Created::read(bytes).is_some()),
    ] {
        let padded = format!("{good}{}", " ".repeat(PASSKEY_ANSWER_MAX - good.len()));
        assert!(read(padded.as_bytes()) && !read(format!("{padded} ").as_bytes()));
        for bad in [
            good.replace("public-key", "password"),
            good.replacen("\"id\"", "\"ID\"", 1),
            good.replacen("clientDataJSON", "clientData", 1),
            good.replacen('{', "{\"id\":\"AAAA\",", 1),
            good.replacen("\"response\":{", "\"response\":[{", 1).replacen('}', "}]", 1),
            good.replacen("\"id\":\"", "\"id\":\"=", 1),
            good[1..].to_owned(),
            String::new(),
        ] {
            assert!(!read(bad.as_bytes()), "{bad}");
        }
    }
}

#[test]
fn a_question_names_what_is_held_and_fits_into_a_page() {
    let (_, passkey) = registered("RS256");
    let longest = Passkey { credential: vec![0xff; CREDENTIAL_ID_MAX], ..passkey };
    let held = vec![longest; FACTORS_PER_USER_MAX];
    let (organisation, user) = ("o".repeat(253), "u".repeat(64));
    let create = options::create(&organisation, (USER, &user), &held, &CHALLENGE);
    let get = options::get(&held, &CHALLENGE);
    for question in [&create, &get] {
        assert!(question.to_string().len() <= PASSKEY_OPTIONS_MAX);
        assert_eq!(question["publicKey"]["challenge"], crate::token::test_keys::b64(CHALLENGE));
    }
    let asked = &create["publicKey"];
    assert_eq!((&asked["rp"]["id"], &asked["attestation"]), (&json!("localhost"), &json!("none")));
    assert_eq!(asked["authenticatorSelection"]["userVerification"], "required");
    assert_eq!(asked["excludeCredentials"].as_array().unwrap().len(), held.len());
    let asked = &get["publicKey"];
    assert_eq!((&asked["rpId"], &asked["userVerification"]), (&json!("localhost"), &json!("required")));
    assert_eq!(asked["allowCredentials"].as_array().unwrap().len(), held.len());
}
