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
    let whole = offline::verify(&files).unwrap();
    assert_eq!(whole, offline::Found { verified: Verified { first: 1, last: 30, head: chain.hash }, files: 3 });
    files.reverse();
    assert_eq!(offline::verify(&files).unwrap(), whole, "in any order");
    files.reverse();

    let said = |files: &[std::path::PathBuf]| offline::verify(files).unwrap_err().to_string();
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
