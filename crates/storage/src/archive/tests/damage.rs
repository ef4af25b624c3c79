//! Whatever is done to an archive is found, and named.

use super::*;

/// A small archive with every kind of part; its files are small enough to try every bit.
fn small(dir: &Path, id: &str) -> PathBuf {
    write(dir, id, vec![run(4096, b"page one"), run(8192, &[9; 60])])
}

fn flip(path: &Path, at: u64, bit: u8) {
    let file = File::options().read(true).write(true).open(path).expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ (1 << bit)], at).expect("written");
}

fn swap(a: &Path, b: &Path) {
    let spare = a.with_extension("spare");
    for (from, to) in [(a, spare.as_path()), (b, a), (&spare, b)] {
        std::fs::rename(from, to).expect("moved");
    }
}

fn refused(place: &Path) -> String {
    read(place).expect_err("must not be read").to_string()
}

#[test]
fn every_flipped_bit_of_every_file_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let place = small(dir.path(), "ckp-1");
    for name in ["memory", "state", MANIFEST] {
        let path = place.join(name);
        let length = std::fs::metadata(&path).expect("there").len();
        for (at, bit) in (0..length).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            flip(&path, at, bit);
            let error = refused(&place);
            assert!(error.contains(&path.display().to_string()), "bit {bit} of byte {at} of {name}: {error}");
            flip(&path, at, bit);
        }
    }
    read(&place).expect("as it was");
}

#[test]
fn every_truncation_and_an_extension_of_every_file_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["memory", "state", MANIFEST] {
        let place = small(dir.path(), &format!("ckp-{}", name.len()));
        let path = place.join(name);
        let bytes = std::fs::read(&path).expect("read");
        for length in 0..bytes.len() {
            std::fs::write(&path, &bytes[..length]).expect("written");
            assert!(refused(&place).contains("is damaged"), "{name}, {length} bytes");
        }
        for more in [b"}", b" ", b"\0"] {
            std::fs::write(&path, [&bytes, more.as_slice()].concat()).expect("written");
            assert!(refused(&place).contains("is damaged"), "{name}, extended");
        }
    }
}

#[test]
fn the_message_names_the_file_the_frame_and_its_place() {
    let dir = tempfile::tempdir().expect("a folder");
    let megabytes = (0..3).map(|n| run(n << 20, &noise(RUN_MAX))).collect();
    let place = write(dir.path(), "ckp-1", megabytes);
    flip(&place.join("memory"), (1 << 20) + 5000, 0);
    let message = refused(&place);
    let first = 4 + 5 + 12 + RUN_MAX + 16;
    assert!(
        message.ends_with(&format!("/memory is damaged: frame 1, at byte {first}, is not what was sealed")),
        "{message}"
    );
    let archive = open(&place).expect("the manifest is sound");
    let read: Vec<io::Result<Run>> = archive.runs("memory").expect("there").collect();
    assert_eq!(
        read.iter().map(Result::is_ok).collect::<Vec<_>>(),
        [true, false],
        "what is sound, then an error, the end"
    );
    let error = read.into_iter().find_map(Result::err).expect("one");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(matches!(
        error.get_ref().and_then(|inner| inner.downcast_ref()),
        Some(ArchiveError::Damaged { frame: 1, .. })
    ));
}

#[test]
fn frames_in_another_order_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let place = write(dir.path(), "ckp-1", (0..3).map(|n| run(n << 20, &noise(RUN_MAX))).collect());
    let path = place.join("memory");
    let bytes = std::fs::read(&path).expect("read");
    let frame = |n: usize| &bytes[n * bytes.len() / 3..(n + 1) * bytes.len() / 3];
    for order in [[1, 0, 2], [0, 0, 2], [0, 2, 1], [2, 1, 0], [0, 1, 1]] {
        std::fs::write(&path, order.map(frame).concat()).expect("written");
        assert!(refused(&place).contains("/memory is damaged: frame "), "{order:?}");
    }
    std::fs::write(&path, [0, 1, 2].map(frame).concat()).expect("written");
    read(&place).expect("as it was");
}

#[test]
fn parts_of_another_archive_or_of_another_name_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let (one, two) = (small(dir.path(), "ckp-1"), small(dir.path(), "ckp-2"));
    swap(&one.join("memory"), &two.join("memory"));
    assert!(refused(&one).contains("frame 0"));
    assert!(refused(&two).contains("frame 0"));
    swap(&one.join("memory"), &two.join("memory"));
    swap(&one.join(MANIFEST), &two.join(MANIFEST));
    let (first, second) = (archive_name("ckp-1"), archive_name("ckp-2"));
    assert!(refused(&one).contains(&format!("is the manifest of {second}, not of {first}")));
    swap(&one.join(MANIFEST), &two.join(MANIFEST));

    let mut writer = Writer::begin(dir.path(), &archive_id("ckp-3"), &key(), None).expect("begun");
    writer.runs("memory", runs(vec![run(0, b"same length")])).expect("written");
    writer.runs("disk", runs(vec![run(0, b"other bytes")])).expect("written");
    writer.bytes("state", b"").expect("written");
    writer.seal(&header()).expect("sealed");
    let three = dir.path().join(archive_name("ckp-3"));
    swap(&three.join("memory"), &three.join("disk"));
    assert!(refused(&three).contains("frame 0"));
}

#[test]
fn an_archive_under_another_name_or_of_another_key_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let place = small(dir.path(), "ckp-1");
    let moved = dir.path().join(archive_name("ckp-9"));
    std::fs::rename(&place, &moved).expect("moved");
    let (one, nine) = (archive_name("ckp-1"), archive_name("ckp-9"));
    assert!(refused(&moved).ends_with(&format!("manifest.json is the manifest of {one}, not of {nine}")));
    std::fs::rename(&moved, &place).expect("moved back");
    let error = Archive::open(&place, &archive_id("ckp-1"), &ServerKey::of(8)).expect_err("another key");
    assert!(error.to_string().contains("was sealed with another server key"), "{error}");
    assert!(matches!(error, ArchiveError::OtherKey { found, .. } if found == key().fingerprint()));
}

#[test]
fn a_manifest_that_another_key_signed_in_our_name_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let place = small(dir.path(), "ckp-1");
    let path = place.join(MANIFEST);
    let text = std::fs::read(&path).expect("read");
    let manifest = Manifest::decode(&text, &archive_name("ckp-1"), &key(), &path).expect("sound");
    let theirs = manifest.encode(&ServerKey::of(8), &path).expect("encoded");
    let theirs = String::from_utf8(theirs).expect("text").replace(ServerKey::of(8).fingerprint(), key().fingerprint());
    std::fs::write(&path, theirs).expect("written");
    assert!(refused(&place).ends_with("its tag does not match"));
}

#[test]
fn a_manifest_of_another_version_is_named_as_such_and_a_huge_one_is_not_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let place = small(dir.path(), "ckp-1");
    std::fs::write(place.join(MANIFEST), br#"{"format": 2, "signature": "later"}"#).expect("written");
    assert!(refused(&place).ends_with("manifest.json has format 2, this version reads 1"));
    File::options().write(true).open(place.join(MANIFEST)).and_then(|file| file.set_len(1 << 40)).expect("extended");
    assert!(matches!(open(&place), Err(ArchiveError::ManifestTooLong { .. })));
}

#[test]
fn missing_files_and_links_or_pipes_in_their_place_are_named() {
    for name in ["memory", "state", MANIFEST] {
        let dir = tempfile::tempdir().expect("a folder");
        let path = small(dir.path(), "ckp-1").join(name);
        let elsewhere = dir.path().join("elsewhere");
        std::fs::rename(&path, &elsewhere).expect("moved");
        let found = |place: &Path| open(place).expect_err("refused");
        let place = dir.path().join(archive_name("ckp-1"));
        assert!(matches!(found(&place), ArchiveError::Missing { path: missing } if missing == path));
        std::os::unix::fs::symlink(&elsewhere, &path).expect("linked");
        assert!(matches!(found(&place), ArchiveError::NotAFile { .. }), "the same bytes, behind a link");
        std::fs::remove_file(&path).expect("removed");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).expect("made");
        assert!(matches!(found(&place), ArchiveError::NotAFile { .. }));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn arbitrary_bytes_in_a_parts_place_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let dir = tempfile::tempdir().expect("a folder");
        let place = small(dir.path(), "ckp-1");
        let length = std::fs::metadata(place.join("memory")).expect("there").len() as usize;
        let mut padded = bytes;
        padded.resize(length, 0);
        std::fs::write(place.join("memory"), padded).expect("written");
        prop_assert!(read(&place).is_err());
    }
}
