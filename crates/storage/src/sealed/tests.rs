//! Whatever is done to a sealed folder is found, and named.

use super::*;
use leapbox_errors::FileError;
use proptest::prelude::*;
use serde::Deserialize;
use std::os::unix::fs::FileExt;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    kind: String,
    vcpus: u8,
}

fn header() -> Header {
    Header { kind: "test".to_owned(), vcpus: 2 }
}

const NAMES: [&str; 3] = ["memory", "state", "disk"];

/// A sparse file of 4 MiB with data in two places, a small one, and one without data.
fn sealed() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().expect("a folder");
    let dir = root.path().join("artifact");
    std::fs::create_dir(&dir).expect("made");
    let memory = File::create_new(dir.join("memory")).expect("made");
    memory.set_len(4 << 20).expect("sized");
    memory.write_all_at(&[7; 9000], 5000).expect("written");
    memory.write_all_at(b"end", (4 << 20) - 3).expect("written");
    std::fs::write(dir.join("state"), b"registers").expect("written");
    File::create_new(dir.join("disk")).and_then(|disk| disk.set_len(1 << 30)).expect("made");
    SealedFolder::seal(&dir, &header(), &NAMES).expect("sealed");
    (root, dir)
}

fn check(dir: &Path) -> Result<(), SealError> {
    SealedFolder::open(dir)?.verify()
}

fn writable(path: &Path) -> File {
    File::options().read(true).write(true).open(path).expect("opened")
}

fn flip(path: &Path, offset: u64, bits: u8) {
    let file = writable(path);
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    file.write_all_at(&[byte[0] ^ bits], offset).expect("written");
}

#[test]
fn what_was_sealed_opens_with_its_header_and_verifies_also_after_a_move() {
    let (root, dir) = sealed();
    let place = root.path().join("final");
    SealedFolder::open(&dir).expect("sound").move_to(&place).expect("moved");
    let folder = SealedFolder::open(&place).expect("sound");
    folder.verify().expect("whole");
    assert_eq!(folder.header::<Header>().expect("a header"), header());
    assert_eq!(folder.files()["memory"].length, 4 << 20);
    assert_eq!(folder.path("disk").expect("sealed"), place.join("disk"));
    assert!(matches!(folder.path("other"), Err(SealError::NotSealed { .. })));
}

#[test]
fn a_header_of_another_kind_is_not_read_as_this_one() {
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Other {
        region: String,
    }
    let (_root, dir) = sealed();
    let error = SealedFolder::open(&dir).expect("sound").header::<Other>().expect_err("another kind");
    assert!(error.to_string().ends_with("manifest.json is not of the expected kind"), "{error}");
}

#[test]
fn a_flipped_bit_is_found_in_data_and_in_holes_and_its_chunk_is_named() {
    for (name, offset, chunk) in [("memory", 13_000, 0), ("memory", 3 << 20, 3 << 20), ("disk", 700 << 20, 700 << 20)] {
        let (_root, dir) = sealed();
        flip(&dir.join(name), offset, 1);
        match check(&dir) {
            Err(SealError::Damaged { path, offset }) => assert_eq!((path, offset), (dir.join(name), chunk)),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn the_message_says_which_file_is_damaged_and_where() {
    let (_root, dir) = sealed();
    flip(&dir.join("state"), 0, 0x80);
    let message = check(&dir).expect_err("damaged").to_string();
    assert!(
        message.ends_with("/state is damaged: its bytes at 0..1048576 are not those that were sealed"),
        "{message}"
    );
}

#[test]
fn data_that_became_a_hole_is_found() {
    let (_root, dir) = sealed();
    writable(&dir.join("memory")).write_all_at(&[0; 3], (4 << 20) - 3).expect("written");
    assert!(matches!(check(&dir), Err(SealError::Damaged { offset, .. }) if offset == 3 << 20));
}

#[test]
fn a_truncated_and_an_extended_file_are_refused_by_their_length() {
    for (name, length) in [("memory", (4 << 20) - 1), ("state", 0), ("state", 10), ("disk", (1 << 30) + 4096)] {
        let (_root, dir) = sealed();
        writable(&dir.join(name)).set_len(length).expect("resized");
        assert!(matches!(check(&dir), Err(SealError::Length { found, .. }) if found == length), "{name} {length}");
    }
}

#[test]
fn swapped_files_are_refused() {
    let (_root, dir) = sealed();
    std::fs::write(dir.join("state"), b"other-one").expect("same length, other bytes");
    assert!(matches!(check(&dir), Err(SealError::Damaged { .. })));
    let (_root, dir) = sealed();
    std::fs::rename(dir.join("memory"), dir.join("spare")).expect("moved");
    std::fs::rename(dir.join("disk"), dir.join("memory")).expect("moved");
    std::fs::rename(dir.join("spare"), dir.join("disk")).expect("moved");
    assert!(matches!(check(&dir), Err(SealError::Length { .. })));
}

#[test]
fn a_missing_file_and_a_missing_manifest_are_named() {
    for name in ["memory", "state", "disk", MANIFEST] {
        let (_root, dir) = sealed();
        std::fs::remove_file(dir.join(name)).expect("removed");
        let error = check(&dir).expect_err("missing");
        assert!(matches!(&error, SealError::Missing { path } if *path == dir.join(name)), "{error}");
    }
}

#[test]
fn a_link_or_a_pipe_in_a_files_place_is_refused() {
    let (root, dir) = sealed();
    let state = dir.join("state");
    std::fs::rename(&state, root.path().join("state")).expect("moved");
    std::os::unix::fs::symlink(root.path().join("state"), &state).expect("linked");
    assert!(matches!(check(&dir), Err(SealError::NotAFile { .. })), "the same bytes, behind a link");
    std::fs::remove_file(&state).expect("removed");
    nix::unistd::mkfifo(&state, nix::sys::stat::Mode::S_IRUSR).expect("made");
    assert!(matches!(check(&dir), Err(SealError::NotAFile { .. })));
}

#[test]
fn every_flipped_bit_of_the_manifest_is_found_before_a_file_is_read() {
    let (_root, dir) = sealed();
    let path = dir.join(MANIFEST);
    let text = std::fs::read(&path).expect("read");
    for (at, bit) in (0..text.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut damaged = text.clone();
        damaged[at] ^= 1 << bit;
        assert!(manifest::decode(&damaged, &path).is_err(), "bit {bit} of byte {at}");
    }
    flip(&path, text.len() as u64 - 10, 1);
    let error = SealedFolder::open(&dir).expect_err("damaged");
    assert!(error.to_string().contains("manifest.json is damaged"), "{error}");
}

#[test]
fn a_truncated_manifest_is_damaged() {
    let (_root, dir) = sealed();
    let text = std::fs::read(dir.join(MANIFEST)).expect("read");
    for length in 0..text.len() {
        assert!(manifest::decode(&text[..length], &dir).is_err(), "the first {length} bytes");
    }
}

#[test]
fn a_manifest_of_another_version_is_named_as_such_whatever_else_is_in_it() {
    let (_root, dir) = sealed();
    std::fs::write(dir.join(MANIFEST), br#"{"format": 2, "signature": "later"}"#).expect("written");
    let error = SealedFolder::open(&dir).expect_err("a later version");
    assert!(error.to_string().ends_with("manifest.json has format 2, this version reads 1"), "{error}");
}

#[test]
fn names_that_lead_elsewhere_are_never_sealed_nor_opened() {
    let (root, dir) = sealed();
    for name in ["../secret", "/etc/passwd", "a/b", "..", ".", "", "state/", MANIFEST] {
        let error = SealedFolder::seal(root.path(), &header(), &[name]).expect_err("not a plain name");
        assert!(matches!(error, SealError::Name { .. }), "{name:?}: {error}");
    }
    let files = BTreeMap::from([("../secret".to_owned(), SealedFile { length: 0, chunks: BTreeMap::new() })]);
    let forged = Content { header: serde_json::Value::Null, files };
    std::fs::write(dir.join(MANIFEST), manifest::encode(&forged).expect("encoded")).expect("written");
    assert!(matches!(SealedFolder::open(&dir), Err(SealError::Name { .. })));
}

#[test]
fn a_sealed_folder_is_not_sealed_again() {
    let (_root, dir) = sealed();
    assert!(matches!(
        SealedFolder::seal(&dir, &header(), &NAMES),
        Err(SealError::File(FileError { step: "creating", .. }))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_changed_byte_of_any_file_is_found(offset in 0_u64..4 << 20, bits in 1_u8.., small in 0_u64..9) {
        let (_root, dir) = sealed();
        flip(&dir.join("memory"), offset, bits);
        prop_assert!(check(&dir).is_err());
        flip(&dir.join("memory"), offset, bits);
        check(&dir).expect("as it was");
        flip(&dir.join("state"), small, bits);
        prop_assert!(check(&dir).is_err());
    }
}
