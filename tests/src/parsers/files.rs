//! What lies on a disk: it may be cut, altered by hand, or somebody else's.

use super::{Parser, Seeds, head_of, parser, seed};
use client::held::Held;
use controller::audit::{self, Chain, Entry, Outcome, Verifier, segment};
use controller::backup::container::{Identity as BackupIdentity, Opening, Readers, Sealing, Unlock};
use controller::backup::content;
use controller::directory as d;
use controller::store::{Assembler, Key, Record, decode};
use host::forwarding::Forwarding;
use host::resolv::Original;
use host::slots;
use model::audit::{AuditHead, SignedHead};
use model::key::PublicKey;
use model::pool::Pool;
use model::revision::Revision;
use model::secret::Secret;
use model::time::WallMs;
use node::Identity;
use node::witness::Witness;
use proto::join::{JoinFile, JoinKind};
use std::io::Read as _;
use std::path::Path;

pub const PARSERS: &[Parser] = &[
    parser("join-file", "a join file, of whoever sent it", join_file, join_seeds, 2),
    parser("identity", "a node's identity.json", identity, identity_seeds, 2),
    parser("held", "a client's held.json", held, held_seeds, 1),
    parser("slots", "a slot of a node's `seen` or a gateway's witness file", slot, slot_seeds, 1),
    parser("original", "the note of what resolv.conf was", original, original_seeds, 1),
    parser("forwarding", "the note of what the forwarding switches were", forwarding, forwarding_seeds, 1),
    parser("audit-file", "a file of the audit trail, or an export", audit_file, audit_file_seeds, 2),
    parser("audit-record", "an audit record as the store holds it", audit_record, audit_record_seeds, 1),
    parser("witness", "what a witness keeps of an audit trail", witness, witness_seeds, 5),
    parser("backup", "a backup's container, encrypted", backup, backup_seeds, 20),
    parser("backup-lines", "what a backup holds, when it has been opened", backup_lines, backup_lines_seeds, 2),
    parser("pieces", "the pieces of the store's records on the disk", pieces, pieces_seeds, 1),
    Parser {
        name: "record",
        reads: "a record of the controller's store, its kind in the first line",
        run: record,
        seeds: record_seeds,
        headed: true,
        cost: 2,
    },
];

const NOW: WallMs = WallMs(1_700_000_000_000);

/// What any pool that was read must bear.
fn use_pool(pool: &Pool) {
    for number in [0, 1, 16_127, 16_128, 49_150, u32::MAX] {
        let _ = (pool.device_v4(number), pool.virtual_v4(number), pool.virtual_v6(number));
    }
    let _ = (pool.controller(), pool.resolver_v4(), pool.resolver_v6(), pool.node(u64::MAX), pool.provisional(1));
    let _ = (pool.node_net(), pool.provisional_net());
    assert!(!pool.contains(std::net::IpAddr::from([192, 0, 2, 1])), "{pool:?} holds what is nobody's");
}

fn pool() -> anyhow::Result<Pool> {
    Ok(Pool::new("10.77.0.0/16".parse()?, "fd12:3456:789a::/48".parse()?)?)
}

fn join_file(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let read = JoinFile::parse(text, JoinKind::Device, NOW);
    if let Ok(file) = &read {
        use_pool(&file.pool);
        let again = file.to_text().and_then(|text| JoinFile::parse(&text, JoinKind::Device, NOW));
        assert_eq!(
            again.map(|again| again.fingerprint()).ok(),
            Some(file.fingerprint()),
            "a join file is what was written"
        );
    }
    read.is_ok()
}

fn join_seeds() -> Seeds {
    let file = JoinFile {
        trust_domain: "corp.example".to_owned(),
        controller_key: PublicKey([1; 32]),
        endpoints: vec![
            "controller.corp.example:443".to_owned(),
            "203.0.113.10:443".to_owned(),
            "[2001:db8::1]:443".to_owned(),
        ],
        ca: vec![1, 2, 3],
        pool: pool()?,
        zones: vec!["corp.example".parse()?],
        prefixes: vec!["10.20.0.0/24".parse()?],
        kind: JoinKind::Device,
        expires: NOW.plus(std::time::Duration::from_secs(60)),
        secret: Secret::new([7; 32]),
        needs_token: true,
    };
    let text = file.to_text()?;
    let foreign = text.replace("fd12:3456:789a::/48", "10.77.0.0/16");
    let gateway = JoinFile { kind: JoinKind::Gateway, ..file }.to_text()?;
    Ok(vec![seed("device", text), seed("gateway", gateway), seed("pool-of-one-family", foreign), seed("empty", "{}")])
}

fn identity(bytes: &[u8]) -> bool {
    let read = Identity::parse(bytes, Path::new("identity.json"));
    if let Ok(identity) = &read {
        use_pool(&identity.pool);
        let _ = (identity.svid_slot().is_ok(), identity.organisation_fingerprint());
    }
    read.is_ok()
}

fn identity_seeds() -> Seeds {
    let encoded = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    let text = serde_json::json!({
        "version": 1, "trust_domain": "corp.example",
        "node": format!("spiffe://corp.example/device/{}", model::ids::DeviceId::from_bytes([5; 10])),
        "controller_key": encoded, "endpoints": ["192.0.2.1:443"], "ca": encoded, "pool": pool()?, "control_key": encoded,
        "control_key_since": NOW, "next_control_key": encoded, "recovery": encoded, "svid_key": encoded,
        "svid_chain": [encoded], "v6": "fd12:3456:789a::1", "v4": "10.77.0.9", "zones": ["corp.example"],
        "prefixes": ["10.20.0.0/24"], "fingerprint": "0123-4567-89ab-cdef"
    });
    let text = serde_json::to_string_pretty(&text)?;
    let foreign = text.replace("fd12:3456:789a::/48", "10.77.0.0/24").replace("10.77.0.0/16", "::/0");
    Ok(vec![seed("device", text), seed("pool-of-wrong-families", foreign), seed("empty", "{}")])
}

fn held(bytes: &[u8]) -> bool {
    let read = Held::parse(bytes);
    if let Some(held) = &read {
        let lists = [held.names.len(), held.suffixes.len(), held.zones.len(), held.prefixes.len()];
        assert!(lists.iter().all(|len| *len <= model::limits::HELD_MAX), "{lists:?}");
        let again = serde_json::to_vec(held).ok().and_then(|text| Held::parse(&text));
        assert_eq!(again.as_ref(), Some(held), "what is held is what was written");
    }
    read.is_some()
}

fn held_seeds() -> Seeds {
    let full = r#"{"version":1,"names":["wiki.corp.example"],"suffixes":["apps.corp.example"],"zones":["corp.example"],"prefixes":["10.20.0.0/24","fd00::/64"]}"#;
    let many = format!(
        r#"{{"version":1,"names":[],"suffixes":[],"zones":[{}"a.b"],"prefixes":[]}}"#,
        r#""a.b","#.repeat(1_100)
    );
    Ok(vec![seed("full", full), seed("many", many), seed("later", r#"{"version":2}"#)])
}

fn slot(bytes: &[u8]) -> bool {
    let Some((_, value)) = slots::decode(bytes) else { return false };
    assert!(value.len() < bytes.len());
    serde_json::from_slice::<Revision>(value).is_ok() || serde_json::from_slice::<SignedHead>(value).is_ok()
}

fn slot_seeds() -> Seeds {
    let folder = std::env::temp_dir().join(format!("umbra-slots-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("slots");
    let written = (|| -> anyhow::Result<_> {
        slots::Slots::create(&path, &serde_json::to_vec(&Revision { incarnation: 1, number: 7 })?)?;
        Ok(std::fs::read(&path)?)
    })();
    let _ = std::fs::remove_dir_all(&folder);
    let whole = written?;
    let used = whole.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    Ok(vec![seed("revision", whole.get(..used).unwrap_or_default()), seed("zeros", [0; 32])])
}

fn original(bytes: &[u8]) -> bool {
    let Some(original) = Original::from_bytes(bytes) else { return false };
    assert_eq!(Original::from_bytes(&original.to_bytes()).as_ref(), Some(&original), "a note is what was written");
    let _ = original.is_marked();
    true
}

fn original_seeds() -> Seeds {
    Ok(vec![
        seed("file", "file 644 0 0\nnameserver 192.0.2.1\n"),
        seed("link", "link\n../run/systemd/resolve/stub-resolv.conf"),
        seed("absent", "absent\n"),
    ])
}

fn forwarding(bytes: &[u8]) -> bool {
    let Some(read) = std::str::from_utf8(bytes).ok().and_then(Forwarding::from_line) else { return false };
    assert_eq!(Forwarding::from_line(&read.to_line()).as_ref(), Some(&read), "a line is what was written");
    true
}

fn forwarding_seeds() -> Seeds {
    Ok(vec![seed("both", "0=0 1=1"), seed("none", ""), seed("beyond", "2=1")])
}

/// Three records, chained, as they are stored.
fn trail() -> Vec<Vec<u8>> {
    let mut chain = Chain::default();
    let entries = [
        Entry::new(NOW, "local:root", "user.add", "ada", Outcome::Done).with("groups", 2),
        Entry::new(NOW, "ada", "connect", "wiki \u{202e}", Outcome::Deny).with("reason", "no policy permits it"),
        Entry::new(NOW, "controller", "audit.drop", "audit", Outcome::Done).with("first", 1).with("last", 2),
    ];
    entries.iter().map(|entry| chain.append(entry).1).collect()
}

fn audit_file(bytes: &[u8]) -> bool {
    let mut verifier = None;
    let mut whole = true;
    for line in segment::Lines::of(bytes) {
        let Ok(line) = line else { return false };
        let first = serde_json::from_slice::<audit::Record>(&line).map_or(1, |record| record.seq);
        let verifier = verifier.get_or_insert_with(|| Verifier::new(first));
        match verifier.push_line(&line) {
            Ok(record) => {
                let shown = record.to_string();
                assert!(!shown.contains('\n') && !record.line().contains('\n'), "one record is one line: {shown}");
            }
            Err(error) => {
                let _ = error.to_string();
                whole = false;
            }
        }
    }
    let ended = verifier.map(|verifier| verifier.end());
    if let Some(Err(error)) = &ended {
        let _ = error.to_string();
    }
    whole && ended.is_some_and(|ended| ended.is_ok())
}

fn audit_file_seeds() -> Seeds {
    let lines: Vec<_> =
        trail().iter().filter_map(|stored| Some([audit::line_of(stored).ok()?, b"\n"].concat())).collect();
    Ok(vec![
        seed("three", lines.concat()),
        seed("without-the-first", lines.get(1..).unwrap_or_default().concat()),
        seed("swapped", lines.iter().rev().cloned().collect::<Vec<_>>().concat()),
    ])
}

fn audit_record(bytes: &[u8]) -> bool {
    let decoded = audit::decode(bytes);
    let mut verifier = Verifier::new(1);
    let pushed = verifier.push(1, bytes);
    assert!(pushed.is_err() || decoded.is_ok());
    if let Ok(record) = &decoded {
        let _ = (record.to_string(), audit::utc(record.at), audit::Query::default().matches(record));
    }
    decoded.is_ok()
}

fn audit_record_seeds() -> Seeds {
    Ok((1..).zip(trail()).map(|(number, stored)| seed(&format!("record-{number}"), stored)).collect())
}

fn witness(bytes: &[u8]) -> bool {
    let read = serde_json::from_slice::<Witness>(bytes).is_ok_and(|witness| witness.check().is_ok());
    read | segment::range(std::str::from_utf8(bytes).unwrap_or_default()).is_some_and(|(first, last)| first <= last)
}

fn witness_seeds() -> Seeds {
    let domain = "corp.example".parse()?;
    let (ca, _) = controller::ca::Ca::create(&domain, NOW)?;
    let head = AuditHead { revision: Revision { incarnation: 1, number: 7 }, seq: 3, hash: [9; 32], at: NOW };
    let signed = SignedHead { head, signature: ca.sign_text(&head.text())? };
    let witness =
        Witness::new("gateway".to_owned(), "corp.example".to_owned(), &PublicKey([1; 32]), ca.certificate(), signed);
    Ok(vec![seed("signed", serde_json::to_string(&witness)?), seed("file-name", "000000000001-000000010000.jsonl")])
}

/// Opens the backups of the corpus; it opens nothing else.
const BACKUP_IDENTITY: &str = "umbra-backup-identity:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

fn backup(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let _ = text.parse::<controller::backup::container::Recipient>().map(|recipient| recipient.to_string());
    let own = BackupIdentity::parse(&Secret::new(text.to_owned())).is_ok();
    let Ok(identity) = BackupIdentity::parse(&Secret::new(BACKUP_IDENTITY.to_owned())) else { return own };
    let Ok(mut opening) = Opening::begin(bytes, &Unlock::Identity(identity)) else { return own };
    let mut plain = Vec::new();
    let read = opening.read_to_end(&mut plain);
    assert!(plain.len() <= bytes.len());
    read.is_ok()
}

fn backup_seeds() -> Seeds {
    let (identity, recipient) = BackupIdentity::generate()?;
    let text = recipient.to_string();
    let mut sealing = Sealing::begin(&Readers { passphrase: None, recipients: vec![recipient] })?;
    sealing.push(b"what is in it\n")?;
    let begun = sealing.take();
    let whole = [begun, sealing.finish()?].concat();
    Ok(vec![
        seed("of-another-recipient", whole),
        seed("recipient", text),
        seed("identity", identity.to_text().expose().as_bytes()),
        seed("later", "umbra-backup 2\n{}\n"),
    ])
}

fn backup_lines(bytes: &[u8]) -> bool {
    let mut lines = content::Lines::new(bytes);
    if lines.header().is_err() {
        return false;
    }
    while let Ok(line) = lines.next_line() {
        match line {
            content::Line::Record(key, value) => {
                if let Ok(key) = Key::new(&key) {
                    let _ = (content::fate(key.set()), content::humbled(key.set(), value));
                }
            }
            content::Line::End(_) => return lines.finish().is_ok(),
            content::Line::Secret(..) | content::Line::Audit(..) => {}
        }
    }
    false
}

fn backup_lines_seeds() -> Seeds {
    let header = content::Header {
        umbra_backup: content::FORMAT,
        trust_domain: "corp.example".to_owned(),
        created: NOW,
        revision: Revision { incarnation: 1, number: 7 },
        version: "0.1.0".to_owned(),
        audit_seq: 3,
        audit_hash: audit::Hash::default(),
    };
    let mut text = serde_json::to_string(&header)? + "\n";
    let lines = [
        content::Line::Audit(1, "AAAA".to_owned()),
        content::Line::Record(
            "policy/current".to_owned(),
            serde_json::json!({"number": 1, "files": [], "applied": NOW, "applied_by": "ada"}),
        ),
        content::Line::Record("user/us-1".to_owned(), serde_json::json!({})),
        content::Line::Secret("secret/ca-key".to_owned(), "AAAA".to_owned()),
        content::Line::End(4),
    ];
    for line in lines {
        text += &(serde_json::to_string(&line)? + "\n");
    }
    Ok(vec![seed("small", text), seed("nothing", "")])
}

/// Pieces are parted by their lengths: a byte for the key's, two for the value's.
fn pieces(bytes: &[u8]) -> bool {
    let mut assembler = Assembler::default();
    let (mut rest, mut whole) = (bytes, 0);
    while let Some(([key, high, low], after)) = rest.split_first_chunk::<3>() {
        let (key, value) = (usize::from(*key), usize::from(u16::from_be_bytes([*high, *low])));
        let Some((key, after)) = after.split_at_checked(key) else { break };
        let Some((value, after)) = after.split_at_checked(value) else { break };
        rest = after;
        match assembler.push(key, value) {
            Ok(record) => whole += record.iter().filter(|(name, _)| Key::new(name).is_ok()).count(),
            Err(_) => return false,
        }
    }
    whole > 0 && assembler.finish().is_ok()
}

fn pieces_seeds() -> Seeds {
    let piece = |key: &[u8], value: &[u8]| {
        let len = u16::try_from(value.len()).unwrap_or(0).to_be_bytes();
        [&[u8::try_from(key.len()).unwrap_or(0)], len.as_slice(), key, value].concat()
    };
    let one = piece(b"duser/a\0\0\0\0\0", b"\0\0\0\x01value");
    let two = [piece(b"dsite/b\0\0\0\0\0", b"\0\0\0\x02first"), piece(b"dsite/b\0\0\0\0\x01", b"second")].concat();
    Ok(vec![seed("one", one.clone()), seed("two", two.clone()), seed("both", [two, one].concat())])
}

/// What is written again is what was read.
fn stored<R: Record + PartialEq + std::fmt::Debug>(key: &Key, bytes: &[u8]) -> bool {
    let Ok(record) = decode::<R>(key, bytes) else { return false };
    let again = serde_json::to_vec(&record).ok().and_then(|text| decode::<R>(key, &text).ok());
    assert_eq!(again.as_ref(), Some(&record), "a record is what was written");
    true
}

type Kind = (&'static str, fn(&Key, &[u8]) -> bool);

macro_rules! kinds {
    ($($record:ty),* $(,)?) => { &[$((<$record>::KIND, stored::<$record>)),*] };
}

const KINDS: &[Kind] = kinds!(
    d::Org,
    d::SealedSecret,
    d::OwnerToken,
    d::Group,
    d::User,
    d::Account,
    d::Vanished,
    d::Trust,
    d::TrustSecret,
    d::SpentToken,
    d::Site,
    d::Resource,
    d::SuffixName,
    d::JoinKey,
    d::Session,
    d::Device,
    d::Gateway,
    d::GatewaySeen,
    d::PolicyRevision,
    d::PastPolicy,
    d::Recovery,
    d::Counter,
);

fn record(input: &[u8]) -> bool {
    let Some((name, bytes)) = head_of(input) else { return false };
    let Ok(key) = Key::of(name, "one") else { return false };
    KINDS.iter().filter(|(kind, _)| *kind == name).fold(false, |taken, (_, read)| taken | read(&key, bytes))
}

fn record_seeds() -> Seeds {
    let key = "0000000000000007070707070707070707070707070707070707070707070707";
    let base = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    let policy = serde_json::json!({"number": 1, "files": [{"name": "web.cedar", "text": "permit(principal, action, resource);"}],
        "applied": NOW, "applied_by": "ada", "digest": key, "policies": 1, "restores": 1, "changes": null});
    let device = serde_json::json!({"id": model::ids::DeviceId::from_bytes([5; 10]), "name": "laptop", "user": null, "key": base,
        "address": "fd12:3456:789a::1", "v4": 9, "svid_key": base, "fingerprint": "0123", "state": "confirmed",
        "join_key": model::ids::JoinKeyId::from_bytes([7; 10]), "created": NOW});
    let made = [
        (d::PolicyRevision::KIND, policy.clone()),
        (d::PastPolicy::KIND, policy),
        (d::Device::KIND, device),
        (d::SealedSecret::KIND, serde_json::json!({"sealed": base})),
        (d::Group::KIND, serde_json::json!({"name": "staff", "created": NOW})),
        (d::Counter::KIND, serde_json::json!(7)),
    ];
    let mut seeds: Vec<_> =
        KINDS.iter().map(|(kind, _)| seed(&format!("{kind}-empty"), format!("{kind}\n{{}}"))).collect();
    seeds.extend(made.map(|(kind, value)| seed(kind, format!("{kind}\n{value}"))));
    Ok(seeds)
}
