//! The key is made once, read with suspicion, and opens only what was sealed for the same purpose.

use super::*;
use proptest::prelude::*;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("server.key");
    (dir, path)
}

fn key() -> ServerKey {
    let (_dir, path) = folder();
    ServerKey::load_or_create(&path).expect("made")
}

#[test]
fn a_key_is_made_once_for_its_owner_alone_and_is_the_same_ever_after() {
    let (dir, path) = folder();
    assert!(ServerKey::load(&path).expect("nothing there").is_none());
    let made = ServerKey::load_or_create(&path).expect("made");
    let found = std::fs::metadata(&path).expect("there");
    assert_eq!((found.mode() & 0o7777, found.len(), found.nlink()), (0o600, 32, 1));
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1, "nothing else is left");
    let sealed = made.seal("environment", b"A=1").expect("sealed");
    let loaded = ServerKey::load_or_create(&path).expect("loaded");
    assert_eq!(loaded.fingerprint(), made.fingerprint());
    assert_eq!(loaded.open("environment", &sealed).expect("opened"), b"A=1");
}

#[test]
fn a_key_that_is_there_is_not_replaced_by_a_new_one() {
    let (_dir, path) = folder();
    let made = ServerKey::create(&path).expect("made");
    assert_eq!(ServerKey::create(&path).expect("the same").fingerprint(), made.fingerprint());
}

#[test]
fn many_that_start_at_once_agree_on_one_key() {
    let (_dir, path) = folder();
    let prints: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| ServerKey::load_or_create(&path).expect("a key"))).collect();
        threads.into_iter().map(|thread| thread.join().expect("joined").fingerprint().to_owned()).collect()
    });
    assert!(prints.iter().all(|print| *print == prints[0]), "{prints:?}");
}

#[test]
fn a_key_that_others_can_read_or_that_is_truncated_or_a_link_is_refused_with_what_to_do() {
    let (dir, path) = folder();
    ServerKey::load_or_create(&path).expect("made");
    std::fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("opened up");
    let error = ServerKey::load_or_create(&path).expect_err("open to a group");
    assert!(error.to_string().contains("chmod 0600"), "{error}");

    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("closed");
    let bytes = std::fs::read(&path).expect("read");
    for length in [0, 31, 33] {
        std::fs::write(&path, [bytes.as_slice(), b"x"].concat().get(..length).expect("as long")).expect("written");
        let error = ServerKey::load_or_create(&path).expect_err("of another length");
        assert!(matches!(error, KeyError::Length { found, .. } if found == length as u64), "{error}");
        assert!(error.to_string().contains("backup"), "{error}");
    }

    let link = dir.path().join("link.key");
    std::fs::write(&path, bytes).expect("whole again");
    std::os::unix::fs::symlink(&path, &link).expect("linked");
    assert!(matches!(ServerKey::load_or_create(&link), Err(KeyError::NotAFile { .. })));
    assert!(matches!(ServerKey::load_or_create(dir.path()), Err(KeyError::NotAFile { .. })));
}

#[test]
fn a_key_of_another_user_is_refused() {
    let (_dir, path) = folder();
    ServerKey::load_or_create(&path).expect("made");
    if std::os::unix::fs::chown(&path, Some(4711), None).is_err() {
        return; // only root can give a file away
    }
    assert!(matches!(ServerKey::load_or_create(&path), Err(KeyError::Owner { owner: 4711, .. })));
}

#[test]
fn nothing_of_the_key_is_shown() {
    let (_dir, path) = folder();
    let key = ServerKey::load_or_create(&path).expect("made");
    let text = format!("{key:?}");
    assert_eq!(text, format!("ServerKey {{ fingerprint: {:?}, .. }}", key.fingerprint()));
    assert!(!hex::encode(std::fs::read(&path).expect("read")).contains(key.fingerprint()));
}

#[test]
fn a_secret_opens_for_its_purpose_and_with_its_key_only() {
    let key = key();
    let sealed = key.seal("environment of sbx-1", b"TOKEN=secret").expect("sealed");
    assert!(matches!(key.open("environment of sbx-2", &sealed), Err(KeyError::Refused { .. })));
    assert!(matches!(super::tests::key().open("environment of sbx-1", &sealed), Err(KeyError::Refused { .. })));
    let again = key.seal("environment of sbx-1", b"TOKEN=secret").expect("sealed");
    assert_ne!(sealed, again, "two sealings of the same show nothing in common");
}

#[test]
fn every_flipped_bit_and_every_truncation_of_a_secret_is_refused() {
    let key = key();
    let sealed = key.seal("p", b"some secret").expect("sealed").into_bytes();
    for (at, bit) in (0..sealed.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut damaged = sealed.clone();
        damaged[at] ^= 1 << bit;
        assert!(key.open("p", &String::from_utf8_lossy(&damaged)).is_err(), "bit {bit} of byte {at}");
    }
    for length in 0..sealed.len() {
        assert!(key.open("p", std::str::from_utf8(&sealed[..length]).expect("hex")).is_err(), "{length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_secret_comes_back(purpose in ".*", plain in proptest::collection::vec(any::<u8>(), 0..300)) {
        let key = key();
        let sealed = key.seal(&purpose, &plain).expect("sealed");
        prop_assert_eq!(key.open(&purpose, &sealed).expect("opened"), plain);
    }

    #[test]
    fn arbitrary_text_is_never_opened(text in ".{0,200}") {
        prop_assert!(key().open("p", &text).is_err());
    }
}
