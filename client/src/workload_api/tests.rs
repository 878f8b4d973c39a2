use super::*;
use crate::rpc::Identities;
use callers::Callers;
use host::local::Peer;
use model::ids::RegistrationId;
use model::secret::Secret;
use model::time::Instant;
use shelf::Shelf;
use std::time::Duration;
use tonic::Code;

fn program(uid: u32, gid: u32) -> Caller {
    Callers::default().admit(&Peer { uid, gid, pid: None, groups: vec![gid] }).unwrap()
}

fn named(n: u8, name: &str, uid: Option<u32>, gid: Option<u32>) -> Named {
    let spiffe = format!("spiffe://corp.example/workload/deploy/{name}").parse().unwrap();
    Named { registration: RegistrationId::from_bytes([n; 10]), spiffe, uid, gid }
}

fn word(named: Vec<Named>, chain: u8) -> Word {
    let mut shelf = Shelf::default();
    let told = Identities {
        trust_domain: "corp.example".into(),
        named,
        bundle: vec![7],
        token_bundle: "{\"keys\":[]}".into(),
    };
    for one in shelf.told(Instant(1), told) {
        shelf.made(Instant(1), one.registration, vec![chain], Secret::new(vec![9]), Duration::from_secs(60));
    }
    Word::Shown(Arc::new(shelf.shown()))
}

#[test]
fn a_call_without_the_header_is_refused() {
    let with = |values: &[&'static str]| {
        let mut request = Request::new(());
        for value in values {
            request.metadata_mut().append(HEADER, value.parse().unwrap());
        }
        check(request).map(|_| ()).map_err(|status| status.code())
    };
    assert_eq!(with(&["true"]), Ok(()));
    for bad in [&[][..], &["false"], &["TRUE"], &[""], &["true", "true"]] {
        assert_eq!(with(bad), Err(Code::InvalidArgument), "{bad:?}");
    }
}

#[test]
fn a_program_gets_what_is_registered_for_it_and_no_other_does() {
    let word = word(vec![named(1, "web", Some(1000), None), named(2, "ops", None, Some(5))], 1);
    let names = |uid, gid| {
        let svids = x509_svids(&word, &program(uid, gid)).map_err(|status| status.code())?.svids;
        Ok(svids.into_iter().map(|svid| svid.spiffe_id).collect::<Vec<_>>())
    };
    let (web, ops) = ("spiffe://corp.example/workload/deploy/web", "spiffe://corp.example/workload/deploy/ops");
    assert_eq!(names(1000, 1), Ok(vec![web.to_owned()]));
    assert_eq!(names(1000, 5), Ok(vec![web.to_owned(), ops.to_owned()]));
    assert_eq!(names(3, 5), Ok(vec![ops.to_owned()]));
    assert_eq!(names(1001, 1), Err(Code::PermissionDenied));
    assert_eq!(names(0, 0), Err(Code::PermissionDenied), "root is nobody in particular");
    let stranger = program(1001, 1);
    assert_eq!(x509_bundles(&word, &stranger).unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(jwt_bundles(&word, &stranger).unwrap_err().code(), Code::PermissionDenied);
    let bundles = x509_bundles(&word, &program(1000, 1)).unwrap().bundles;
    assert_eq!(bundles["spiffe://corp.example"], [7]);
    assert_eq!(x509_svids(&Word::NotYet, &stranger).unwrap_err().code(), Code::Unavailable);
    assert_eq!(x509_svids(&Word::Nothing, &stranger).unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_stream_gives_each_new_state_once_and_ends_with_a_refusal() {
    let web = || vec![named(1, "web", Some(1000), None)];
    let (told, words) = watch::channel(word(web(), 1));
    let mut stream = stream(words, program(1000, 1), x509_svids);
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!((first.svids[0].x509_svid.as_slice(), first.svids[0].x509_svid_key.as_slice()), (&[1][..], &[9][..]));
    told.send_replace(word(web(), 1));
    told.send_replace(word(web(), 2));
    let second = stream.next().await.unwrap().unwrap();
    assert_eq!(second.svids[0].x509_svid, [2], "a state that is the same is not told again");
    told.send_replace(word(Vec::new(), 2));
    assert_eq!(stream.next().await.unwrap().unwrap_err().code(), Code::PermissionDenied);
    assert!(stream.next().await.is_none());
    assert_eq!(told.receiver_count(), 0, "nothing is left of it");
}

#[tokio::test]
async fn a_stream_ends_with_its_program() {
    let (told, words) = watch::channel(word(vec![named(1, "web", Some(1000), None)], 1));
    let mut stream = stream(words, program(1000, 1), x509_svids);
    stream.next().await.unwrap().unwrap();
    drop(stream);
    told.closed().await;
}
