//! The chain, its bounds and its verification.

use super::*;

fn entry(n: u64) -> Entry {
    Entry::new(WallMs(1_700_000_000_000), "local:root", "user.create", format!("user/us-{n}"), Outcome::Done)
        .with("z", n)
        .with("a", "x")
}

fn chain(n: u64) -> (Chain, Vec<(u64, Vec<u8>)>) {
    let mut chain = Chain::default();
    let records = (0..n).map(|i| chain.append(&entry(i))).collect();
    (chain, records)
}

fn verify(chain: Chain, records: &[(u64, Vec<u8>)]) -> Result<Verified, VerifyError> {
    let mut verifier = Verifier::new(chain.first);
    records.iter().try_for_each(|(seq, stored)| verifier.push(*seq, stored).map(drop))?;
    verifier.finish(chain)
}

fn broken_at(result: Result<Verified, VerifyError>) -> u64 {
    match result {
        Err(VerifyError::Broken { seq, .. }) => seq,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_whole_chain_verifies_and_any_change_of_it_is_found_where_it_is() {
    let (chain, records) = chain(9);
    assert_eq!(verify(chain, &records), Ok(Verified { first: 1, last: 9, head: chain.hash }));
    for at in 0..records.len() {
        let seq = records[at].0;
        let mut removed = records.clone();
        removed.remove(at);
        assert_eq!(broken_at(verify(chain, &removed)), seq);
        for byte in 0..records[at].1.len() {
            let mut flipped = records.clone();
            flipped[at].1[byte] ^= 1;
            assert_eq!(broken_at(verify(chain, &flipped)), seq, "byte {byte}");
        }
        // Altered with a fresh hash: the next one, or the end of the chain, does not fit any more.
        let mut forged = records.clone();
        let line = String::from_utf8(forged[at].1[32..].to_vec()).unwrap().replace("root", "ruut");
        forged[at].1 = [&hash(line.as_bytes()).0[..], line.as_bytes()].concat();
        assert_eq!(broken_at(verify(chain, &forged)), (seq + 1).min(9));
    }
}

#[test]
fn a_chain_whose_oldest_records_went_verifies_only_if_one_of_its_records_says_so() {
    let (mut chain, mut records) = chain(9);
    chain.first = 4;
    assert_eq!(verify(chain, &records[3..]), Err(VerifyError::Beginning { first: 4 }));
    for (last, whole) in [(2, false), (3, true), (100, true)] {
        let (mut chain, mut records) = (chain, records.clone());
        let dropped = Entry::new(WallMs(1), "controller", DROPPED, "audit", Outcome::Done).with("last", last);
        records.push(chain.append(&dropped));
        assert_eq!(verify(chain, &records[3..]).is_ok(), whole, "{last}");
    }
    let restored = Entry::new(WallMs(1), "local:restore", "org.restore", "org/self", Outcome::Done);
    records.push(chain.append(&restored.with("audit_first", 4)));
    assert_eq!(verify(chain, &records[3..]).unwrap().first, 4);
    assert_eq!(broken_at(verify(chain, &records[4..])), 4);
    assert_eq!(broken_at(verify(chain, &records)), 1);
}

#[test]
fn an_empty_chain_verifies() {
    assert_eq!(verify(Chain::default(), &[]), Ok(Verified { first: 1, last: 0, head: Hash::default() }));
}

#[test]
fn the_stored_line_is_canonical_and_decodes() {
    let mut chain = Chain::default();
    let (_, stored) = chain.append(&entry(3));
    let line = String::from_utf8(stored[32..].to_vec()).unwrap();
    assert_eq!(
        line,
        format!(
            r#"{{"seq":1,"at":1700000000000,"actor":"local:root","action":"user.create","object":"user/us-3","outcome":"done","detail":{{"a":"x","z":3}},"prev":"{}"}}"#,
            Hash::default()
        )
    );
    let record = decode(&stored).unwrap();
    assert_eq!(record.line(), line);
    assert_eq!(
        record.to_string(),
        r#"1 2023-11-14T22:13:20.000Z local:root user.create user/us-3 done {"a":"x","z":3}"#
    );
}

#[test]
fn whatever_the_fields_hold_a_record_is_one_bounded_line() {
    let evil = "x\n\u{1b}[2J\u{202e}\" \\ä".repeat(500);
    let mut chain = Chain::default();
    for detail in ["small\n\u{9b}", &evil] {
        let entry = Entry::new(WallMs(i64::MAX), &*evil, &*evil, &*evil, Outcome::Deny).with("why\n", detail);
        let (_, stored) = chain.append(&entry);
        assert!(stored.len() + 4 <= model::limits::STORE_VALUE_MAX, "{}", stored.len());
        let record = decode(&stored).unwrap();
        for line in [record.to_string(), record.line()] {
            assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
        }
    }
}

#[test]
fn fields_and_details_are_whole_up_to_their_bounds() {
    let field = "x".repeat(AUDIT_FIELD_MAX);
    let stored = |actor: &str, detail: usize| {
        // With the braces, the name and the quotes: {"why":"..."}
        let entry = Entry::new(WallMs(1), actor, "a", "o", Outcome::Done).with("why", "y".repeat(detail - 10));
        decode(&Chain::default().append(&entry).1).unwrap()
    };
    let fits = stored(&field, AUDIT_DETAIL_MAX);
    assert_eq!((&fits.actor, fits.detail["why"].as_str().unwrap().len()), (&field, AUDIT_DETAIL_MAX - 10));
    let beyond = stored(&format!("{field}x"), AUDIT_DETAIL_MAX + 1);
    assert_eq!(beyond.actor, field, "clipped");
    assert_eq!(beyond.detail.get("omitted_bytes").unwrap(), AUDIT_DETAIL_MAX + 1, "and said");
    assert_eq!(beyond.detail.get("why"), None);
}

#[test]
fn queries_select() {
    let mut chain = Chain::default();
    let (_, stored) = chain.append(&entry(1));
    let record = decode(&stored).unwrap();
    let some = |text: &str| Some(text.to_owned());
    assert!(
        Query { actor: some("root"), action: some("user."), object: some("us-1"), ..Query::default() }.matches(&record)
    );
    assert!(!Query { action: some("create"), ..Query::default() }.matches(&record));
    assert!(!Query { outcome: Some(Outcome::Deny), ..Query::default() }.matches(&record));
    assert!(!Query { before: Some(1), ..Query::default() }.matches(&record));
    assert!(!Query { since: Some(WallMs(i64::MAX)), ..Query::default() }.matches(&record));
    assert_eq!(Query::default().limit(), AUDIT_LIST_MAX);
}

/// A folder with the trail in files of `each` records.
fn in_files(each: usize, records: &[(u64, Vec<u8>)]) -> (crate::test_support::Folder, Vec<std::path::PathBuf>) {
    let folder = crate::test_support::Folder::new();
    let segments = segment::Segments::new(folder.path().to_owned());
    for chunk in records.chunks(each) {
        let lines: Vec<u8> = chunk.iter().flat_map(|(_, stored)| [&stored[32..], b"\n"].concat()).collect();
        segments.write(chunk[0].0, chunk[chunk.len() - 1].0, &lines).unwrap();
    }
    let files = segments.list().unwrap().into_iter().map(|segment| segment.path).collect();
    (folder, files)
}

#[test]
fn files_verify_without_a_store_and_every_harm_is_named_with_its_first_record() {
    let (chain, records) = chain(30);
    let (_folder, mut files) = in_files(10, &records);
    let whole = offline::verify(&files, &[]).unwrap();
    assert_eq!((whole.verified, whole.files), (Verified { first: 1, last: 30, head: chain.hash }, 3));
    files.reverse();
    assert_eq!(offline::verify(&files, &[]).unwrap(), whole, "in any order");
    files.reverse();

    let said = |files: &[std::path::PathBuf]| offline::verify(files, &[]).unwrap_err().to_string();
    assert!(said(&files[1..]).contains("records 1 to 10 are missing"), "{}", said(&files[1..]));
    let without = said(&[files[0].clone(), files[2].clone()]);
    assert!(without.contains("record 11") && without.contains("records 11 to 20 are missing"), "{without}");
    let twice = said(&[&files[..], &files[1..2]].concat());
    assert!(twice.contains("record 21") && twice.contains("there twice"), "{twice}");

    let sound = std::fs::read_to_string(&files[1]).unwrap();
    let with = |text: String| {
        std::fs::write(&files[1], text).unwrap();
        said(&files)
    };
    let altered = with(sound.replace("us-14", "us-99"));
    assert!(altered.contains("record 15") && altered.contains("altered"), "{altered}");
    let mut lines: Vec<&str> = sound.lines().collect();
    lines.swap(3, 4);
    let reordered = with(lines.join("\n"));
    assert!(reordered.contains("record 14") && reordered.contains("record"), "{reordered}");
    let lines: Vec<&str> = sound.lines().enumerate().filter(|(n, _)| *n != 5).map(|(_, line)| line).collect();
    let missing = with(lines.join("\n"));
    assert!(missing.contains("record 16") && missing.contains("missing"), "{missing}");
    let torn = with(sound[..sound.len() - 30].to_owned());
    assert!(torn.contains("record 20"), "{torn}");
    std::fs::write(&files[0], "x".repeat(1 << 20)).unwrap();
    assert!(said(&files).contains("does not begin with an audit record"));
}

/// What a gateway kept of a trail that ends so, on the disk.
fn witnessed(
    folder: &crate::test_support::Folder,
    ca: &crate::ca::Ca,
    incarnation: u64,
    (seq, hash): (u64, Hash),
) -> std::path::PathBuf {
    use model::audit::{AuditHead, SignedHead};
    let revision = model::revision::Revision { incarnation, number: seq };
    let head = AuditHead { revision, seq, hash: hash.0, at: WallMs(1_700_000_000_000) };
    let signed = SignedHead { signature: ca.sign_text(&head.text()).unwrap(), head };
    let key = model::key::PublicKey([9; 32]);
    let gateway = "gw-00000000000000".to_owned();
    let witness = node::witness::Witness::new(gateway, "corp.example".to_owned(), &key, ca.certificate(), signed);
    let path = folder.path().join(format!("witness-{incarnation}-{seq}"));
    std::fs::write(&path, serde_json::to_string(&witness).unwrap()).unwrap();
    path
}

#[test]
fn a_cut_or_rewritten_trail_is_told_by_a_witness_and_a_restore_is_none_of_both() {
    let folder = crate::test_support::Folder::new();
    let (ca, _) = crate::ca::Ca::create(&"corp.example".parse().unwrap(), WallMs(1_700_000_000_000)).unwrap();
    let (mut chain, mut records) = chain(30);
    let hash_at = |records: &[(u64, Vec<u8>)], seq: usize| Hash(*records[seq - 1].1.first_chunk::<32>().unwrap());
    let early = witnessed(&folder, &ca, 1, (12, hash_at(&records, 12)));
    let late = witnessed(&folder, &ca, 1, (30, hash_at(&records, 30)));
    let (_files, files) = in_files(10, &records);
    let all = [early.clone(), late.clone()];
    let found = offline::verify(&files, &all).unwrap();
    assert_eq!((found.witnessed, found.fingerprints.len(), found.notes.len()), (2, 1, 0));

    // The end is cut: the chain alone does not show it, a witness does.
    let (_cut, cut) = in_files(10, &records[..25]);
    assert!(offline::verify(&cut, std::slice::from_ref(&early)).is_ok());
    let said = offline::verify(&cut, &all).unwrap_err().to_string();
    assert!(said.contains("ends at record 25") && said.contains("records 26 to 30 were cut off"), "{said}");
    // All of it is written anew after the 11th.
    let mut again = Chain { first: 1, seq: 11, hash: hash_at(&records, 11) };
    let anew: Vec<_> = (0..19).map(|n| again.append(&entry(100 + n))).collect();
    let (_anew, anew) = in_files(10, &[&records[..11], &anew].concat());
    let said = offline::verify(&anew, &all).unwrap_err().to_string();
    assert!(said.contains("rewritten: record 30"), "{said}");
    // Somebody else's word, or an altered one, is none.
    let text = std::fs::read_to_string(&late).unwrap();
    std::fs::write(&late, text.replace("\"seq\":30", "\"seq\":31")).unwrap();
    assert!(offline::verify(&files, &all).unwrap_err().to_string().contains("not believed"));
    std::fs::write(&late, text).unwrap();

    // A restore as of record 25 says so itself: what was witnessed after it is lost, not hidden.
    records.truncate(25);
    (chain.seq, chain.hash) = (25, hash_at(&records, 25));
    let restored = Entry::new(WallMs(1), "local:restore", "org.restore", "org/self", Outcome::Done);
    records.push(chain.append(&restored.with("incarnation", 2).with("backup_audit_seq", 25)));
    records.extend((0..9).map(|n| chain.append(&entry(n))));
    let (_restored, files) = in_files(10, &records);
    let found = offline::verify(&files, &all).unwrap();
    assert_eq!((found.witnessed, found.notes.len()), (1, 1));
    assert!(found.notes[0].contains("5 records are lost"), "{:?}", found.notes);
    // In the new life, the same claim would be a cut.
    let later = witnessed(&folder, &ca, 2, (40, Hash([7; 32])));
    assert!(offline::verify(&files, &[later]).unwrap_err().to_string().contains("records 36 to 40 were cut off"));
}
