//! The container: who opens it, and that nobody alters it unseen.

use super::*;
use std::io::Cursor;

fn passphrase(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

fn sealed(readers: &Readers, plain: &[u8], step: usize) -> Vec<u8> {
    let mut sealing = Sealing::begin(readers).unwrap();
    let mut out = Vec::new();
    for part in plain.chunks(step) {
        sealing.push(part).unwrap();
        out.extend(sealing.take());
    }
    out.extend(sealing.finish().unwrap());
    out
}

fn opened(sealed: &[u8], unlock: &Unlock) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    let mut opening = Opening::begin(Cursor::new(sealed), unlock).map_err(|e| e.to_string())?;
    opening.read_to_end(&mut plain).map_err(|e| e.to_string())?;
    Ok(plain)
}

/// A reader with a key pair: no work for a passphrase.
fn keyed() -> (Readers, Unlock) {
    let (identity, recipient) = Identity::generate().unwrap();
    (Readers { passphrase: None, recipients: vec![recipient] }, Unlock::Identity(identity))
}

#[test]
fn each_reader_opens_it_and_nobody_else() {
    let (identity, recipient) = Identity::generate().unwrap();
    let readers = Readers { passphrase: Some(passphrase("correct horse battery")), recipients: vec![recipient] };
    let file = sealed(&readers, b"the CA's key", 5);
    assert!(!file.windows(6).any(|w| w == b"the CA"));
    assert_eq!(opened(&file, &Unlock::Passphrase(passphrase("correct horse battery"))).unwrap(), b"the CA's key");
    let copied = Identity::parse(&identity.to_text()).unwrap();
    assert_eq!(opened(&file, &Unlock::Identity(copied)).unwrap(), b"the CA's key");
    let wrong = opened(&file, &Unlock::Passphrase(passphrase("correct horse batterz"))).unwrap_err();
    assert!(wrong.contains("does not open with this passphrase"), "{wrong}");
    let (stranger, _) = Identity::generate().unwrap();
    assert!(opened(&file, &Unlock::Identity(stranger)).unwrap_err().contains("this identity"));
}

#[test]
fn every_length_comes_back_whatever_the_steps() {
    let (readers, unlock) = keyed();
    for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7] {
        let plain: Vec<u8> = (0..len).map(|i| i as u8).collect();
        for step in [1 + len / 3, CHUNK, 4 * CHUNK] {
            assert_eq!(opened(&sealed(&readers, &plain, step), &unlock).unwrap(), plain, "{len} {step}");
        }
    }
}

#[test]
fn what_was_altered_cut_reordered_or_continued_does_not_open() {
    let (readers, unlock) = keyed();
    let plain = vec![7; 3 * CHUNK + 100];
    let file = sealed(&readers, &plain, CHUNK);
    let body = file.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(1).unwrap().0 + 1;
    // All of the two lines, some of each chunk.
    for at in (0..body).chain((body..file.len()).step_by(9_973)) {
        let mut altered = file.clone();
        altered[at] ^= 1;
        assert!(opened(&altered, &unlock).is_err(), "byte {at}");
    }
    for len in (0..body + 20).chain([body + CHUNK + TAG, body + 2 * (CHUNK + TAG), file.len() - 1]) {
        assert!(opened(&file[..len], &unlock).is_err(), "cut at {len}");
    }
    let (head, chunks) = file.split_at(body);
    let (first, rest) = chunks.split_at(CHUNK + TAG);
    let (second, last) = rest.split_at(CHUNK + TAG);
    assert!(opened(&[head, second, first, last].concat(), &unlock).is_err());
    assert!(opened(&[head, first, last].concat(), &unlock).is_err());
    assert!(opened(&[file.as_slice(), b"x"].concat(), &unlock).is_err());
    assert!(opened(&[file.as_slice(), first].concat(), &unlock).is_err());
    assert_eq!(opened(&file, &unlock).unwrap(), plain);
}

#[test]
fn a_backup_for_nobody_or_behind_a_weak_passphrase_is_refused() {
    assert!(matches!(Sealing::begin(&Readers::default()), Err(ContainerError::Nobody)));
    for (bytes, fits) in [(PASSPHRASE_MIN - 1, false), (PASSPHRASE_MIN, true), (PASSWORD_MAX + 1, false)] {
        let readers = Readers { passphrase: Some(passphrase(&"x".repeat(bytes))), recipients: Vec::new() };
        let made = Sealing::begin(&readers);
        assert_eq!(!matches!(made, Err(ContainerError::Passphrase)), fits, "{bytes}");
    }
    let (_, recipient) = Identity::generate().unwrap();
    let crowd = Readers { passphrase: None, recipients: vec![recipient; BACKUP_RECIPIENTS_MAX + 1] };
    assert!(matches!(Sealing::begin(&crowd), Err(ContainerError::Recipients)));
}

#[test]
fn a_strange_file_is_told_and_asks_for_no_work() {
    let unlock = Unlock::Passphrase(passphrase("correct horse battery"));
    for strange in ["", "\n", "umbra-backup 1", "umbra-backup 2\n{}\n", "umbra-backup 1\n{}\n", "umbra-backup 1\n[]\nx"]
    {
        assert!(opened(strange.as_bytes(), &unlock).is_err(), "{strange}");
    }
    let greedy = r#"{"keys":[{"argon2id":{"salt":"AAAAAAAAAAA=","kib":4194304,"passes":9,"lanes":1,"key":"AA=="}}]}"#;
    let file = format!("umbra-backup 1\n{greedy}\n");
    assert!(opened(file.as_bytes(), &unlock).unwrap_err().contains("more work"));
    let endless = [b"umbra-backup 1\n".as_slice(), &vec![b' '; BACKUP_HEADER_MAX * 2]].concat();
    assert!(opened(&endless, &unlock).unwrap_err().contains("no end"));
}

#[test]
fn keys_have_one_text_and_errors_quote_no_secret() {
    let (identity, recipient) = Identity::generate().unwrap();
    assert_eq!(recipient.to_string().parse::<Recipient>().unwrap(), recipient);
    assert!("umbra-backup-recipient:AAAA".parse::<Recipient>().is_err() && "".parse::<Recipient>().is_err());
    let text = identity.to_text().expose().replace("identity:", "identity:A");
    let error = Identity::parse(&Secret::new(text.clone())).err().unwrap().to_string();
    assert!(!error.contains(&text[IDENTITY.len()..IDENTITY.len() + 12]), "{error}");
}
