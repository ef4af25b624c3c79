//! What was stored comes back as it was, or is refused with the name of what is wrong.

use super::*;
use crate::key::ServerKey;
use crate::run::{RUN_MAX, Run, Runs};
use crate::test_ids::{archive_id, archive_name};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

mod damage;
mod full_disk;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    kind: String,
    vcpus: u8,
}

pub(super) fn header() -> Header {
    Header { kind: "test".to_owned(), vcpus: 2 }
}

pub(super) fn key() -> ServerKey {
    ServerKey::of(7)
}

pub(super) fn run(offset: u64, bytes: &[u8]) -> Run {
    Run { offset, bytes: bytes.to_vec() }
}

pub(super) fn runs(runs: Vec<Run>) -> Runs {
    Box::new(runs.into_iter().map(Ok))
}

/// Bytes that cannot be compressed.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// The archive `id` with these runs as its memory, and a state.
pub(super) fn write(dir: &Path, id: &str, memory: Vec<Run>) -> PathBuf {
    let mut writer = Writer::begin(dir, &archive_id(id), &key(), None).expect("begun");
    writer.runs("memory", runs(memory)).expect("written");
    writer.bytes("state", b"registers").expect("written");
    writer.seal(&header()).expect("sealed");
    dir.join(archive_name(id))
}

pub(super) fn open(place: &Path) -> Result<Archive, ArchiveError> {
    let name = place.file_name().and_then(|name| name.to_str()).expect("a name");
    Archive::open(place, &name.parse().expect("an id"), &key())
}

/// Everything that a reader reads.
pub(super) fn read(place: &Path) -> io::Result<(Vec<Run>, Vec<u8>)> {
    let archive = open(place)?;
    archive.verify()?;
    let memory = archive.runs("memory")?.collect::<io::Result<_>>()?;
    Ok((memory, archive.bytes("state")?))
}

#[test]
fn an_archive_comes_back_with_its_header_and_all_parts() {
    let dir = tempfile::tempdir().expect("a folder");
    let memory = vec![run(4096, &[7; 8192]), run(1 << 40, &noise(RUN_MAX)), run(i64::MAX as u64 - 3, b"end")];
    let place = write(dir.path(), "ckp-1", memory.clone());
    let archive = open(&place).expect("sound");
    assert_eq!(archive.header::<Header>().expect("a header"), header());
    assert!(archive.has("memory") && archive.has("state") && !archive.has("disk"));
    assert_eq!(archive.plain_bytes(), 8192 + RUN_MAX as u64 + 3 + 9);
    assert_eq!(archive.part("state").expect("there").plain_bytes, 9);
    assert_eq!(read(&place).expect("whole"), (memory, b"registers".to_vec()));
    let stored: u64 = std::fs::read_dir(&place)
        .expect("listed")
        .map(|entry| entry.and_then(|entry| entry.metadata()).expect("metadata"))
        .inspect(|file| assert_eq!(file.mode() & 0o7777, 0o600))
        .map(|file| file.len())
        .sum();
    assert_eq!(archive.stored_bytes(), stored);
    assert_eq!(std::fs::metadata(&place).expect("there").mode() & 0o7777, 0o700);
}

#[test]
fn a_stamp_comes_back_and_an_archive_without_one_is_as_earlier_versions_wrote_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let stamp = Stamp { installation: "ins-1".to_owned(), sequence: 7 };
    let mut writer = Writer::begin(dir.path(), &archive_id("ckp-1"), &key(), Some(stamp.clone())).expect("begun");
    writer.bytes("state", b"registers").expect("written");
    writer.seal(&header()).expect("sealed");
    assert_eq!(open(&dir.path().join(archive_name("ckp-1"))).expect("sound").stamp(), Some(&stamp));

    let place = write(dir.path(), "ckp-2", vec![]);
    let text = std::fs::read_to_string(place.join(MANIFEST)).expect("read");
    assert!(!text.contains("stamp"), "{text}");
    assert_eq!(open(&place).expect("sound").stamp(), None);
}

#[test]
fn empty_parts_come_back_empty() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut writer = Writer::begin(dir.path(), &archive_id("ckp-1"), &key(), None).expect("begun");
    writer.runs("memory", runs(vec![])).expect("written");
    writer.bytes("state", b"").expect("written");
    writer.seal(&header()).expect("sealed");
    assert_eq!(read(&dir.path().join(archive_name("ckp-1"))).expect("whole"), (vec![], vec![]));
}

#[test]
fn large_states_are_cut_into_frames_and_too_large_ones_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut writer = Writer::begin(dir.path(), &archive_id("ckp-1"), &key(), None).expect("begun");
    let state = noise(2 * RUN_MAX + 1);
    assert_eq!(writer.bytes("state", &state).expect("written").frames, 3);
    let error = writer.bytes("huge", &vec![0; (64 << 20) + 1]).expect_err("too large to be read");
    assert!(matches!(error, ArchiveError::TooLong { .. }), "{error}");
    writer.seal(&header()).expect("sealed without it");
    assert!(open(&dir.path().join(archive_name("ckp-1"))).expect("sound").bytes("state").expect("read") == state);
}

#[test]
fn nothing_of_the_contents_can_be_read_from_the_files_and_zeroes_take_next_to_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let secret = b"a secret of the sandbox".repeat(200);
    let place = write(dir.path(), "ckp-1", vec![run(0, &secret[..4096]), run(RUN_MAX as u64, &[0; RUN_MAX])]);
    let stored = std::fs::read(place.join("memory")).expect("read");
    assert!(stored.len() < 16 << 10, "{} bytes", stored.len());
    assert!(!stored.windows(16).any(|bytes| secret.windows(16).any(|part| part == bytes)));
    let again = write(dir.path(), "ckp-2", vec![run(0, &secret[..4096]), run(RUN_MAX as u64, &[0; RUN_MAX])]);
    let other = std::fs::read(again.join("memory")).expect("read");
    assert!(
        !other.windows(16).any(|bytes| stored.windows(16).any(|part| part == bytes)),
        "the same, and no trace of it"
    );
}

#[test]
fn a_reader_is_not_disturbed_by_a_removal() {
    let dir = tempfile::tempdir().expect("a folder");
    let memory = vec![run(0, &noise(RUN_MAX)), run(RUN_MAX as u64, &noise(RUN_MAX)), run(4 << 20, &noise(RUN_MAX))];
    let place = write(dir.path(), "ckp-1", memory.clone());
    let archive = open(&place).expect("sound");
    let mut reading = archive.runs("memory").expect("there");
    let first = reading.next().expect("one").expect("read");
    std::fs::remove_dir_all(&place).expect("removed");
    drop(archive);
    let read: Vec<Run> = std::iter::once(Ok(first)).chain(reading).collect::<io::Result<_>>().expect("read");
    assert!(read == memory);
}

#[test]
fn a_source_that_fails_or_panics_leaves_no_archive() {
    let dir = tempfile::tempdir().expect("a folder");
    let many = |last: fn(u64) -> io::Result<Run>| -> Runs {
        Box::new((0..20).map(move |n| if n == 19 { last(n << 20) } else { Ok(run(n << 20, &[1; RUN_MAX])) }))
    };
    let mut writer = Writer::begin(dir.path(), &archive_id("ckp-1"), &key(), None).expect("begun");
    let error = writer.runs("memory", many(|_| Err(io::Error::other("the machine died")))).expect_err("no end");
    assert!(matches!(&error, ArchiveError::Source { source, .. } if source.to_string() == "the machine died"));
    assert!(matches!(writer.bytes("state", b"registers"), Err(ArchiveError::Unfinished { .. })));
    assert!(matches!(writer.seal(&header()), Err(ArchiveError::Unfinished { .. })));
    let panic = std::panic::catch_unwind(|| {
        let mut writer = Writer::begin(dir.path(), &archive_id("ckp-2"), &key(), None).expect("begun");
        writer.runs("memory", many(|_| panic!("a bug"))).map(drop)
    });
    assert!(panic.is_err());
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0, "nothing is left");
}

#[test]
fn runs_that_are_empty_too_long_or_out_of_order_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let bad = [
        vec![run(0, &[])],
        vec![run(0, &[1; RUN_MAX + 1])],
        vec![run(4096, b"second"), run(0, b"first")],
        vec![run(0, &[1; 8192]), run(4096, b"overlaps")],
        vec![run(u64::MAX - 1, b"beyond every file")],
    ];
    for memory in bad {
        let mut writer = Writer::begin(dir.path(), &archive_id("ckp-1"), &key(), None).expect("begun");
        let error = writer.runs("memory", runs(memory)).expect_err("refused");
        assert!(matches!(error, ArchiveError::Run { .. }), "{error}");
    }
}

#[test]
fn an_archive_is_never_written_twice_nor_under_a_name_that_leads_elsewhere() {
    let dir = tempfile::tempdir().expect("a folder");
    let open_draft = Writer::begin(dir.path(), &archive_id("ckp-1"), &key(), None).expect("begun");
    assert!(matches!(Writer::begin(dir.path(), &archive_id("ckp-1"), &key(), None), Err(ArchiveError::Exists { .. })));
    drop(open_draft);
    write(dir.path(), "ckp-1", vec![]);
    assert!(matches!(Writer::begin(dir.path(), &archive_id("ckp-1"), &key(), None), Err(ArchiveError::Exists { .. })));
    for name in ["", ".", "..", "a/b", "/etc", ".hidden", "manifest.json", "a b", "ä", &"x".repeat(129)] {
        let mut writer = Writer::begin(dir.path(), &archive_id("ckp-2"), &key(), None).expect("begun");
        assert!(matches!(writer.bytes(name, b""), Err(ArchiveError::Name { .. })), "{name:?}");
    }
    let mut writer = Writer::begin(dir.path(), &archive_id("ckp-2"), &key(), None).expect("begun");
    writer.bytes("state", b"once").expect("written");
    assert!(matches!(writer.bytes("state", b"twice"), Err(ArchiveError::Exists { .. })));
}

#[test]
fn a_part_is_read_as_what_it_is_only() {
    let dir = tempfile::tempdir().expect("a folder");
    let archive = open(&write(dir.path(), "ckp-1", vec![run(0, b"page")])).expect("sound");
    for refused in [archive.bytes("memory").err(), archive.runs("state").err(), archive.runs("disk").err()] {
        assert!(matches!(refused, Some(ArchiveError::NoPart { .. })), "{refused:?}");
    }
}

/// Runs with gaps of every size, of bytes that compress well or not at all.
fn any_runs() -> impl Strategy<Value = Vec<Run>> {
    let length = prop_oneof![4 => 1_usize..9000, 1 => (RUN_MAX - 5000)..=RUN_MAX];
    let gap = prop_oneof![2 => Just(0_u64), 3 => 0_u64..100_000, 1 => 0_u64..1 << 50];
    proptest::collection::vec((gap, length, any::<bool>(), any::<u8>()), 0..12).prop_map(|pieces| {
        let mut at = 0;
        let placed = pieces.into_iter().map(|(gap, length, random, byte)| {
            let run = Run { offset: at + gap, bytes: if random { noise(length) } else { vec![byte; length] } };
            at = run.offset + length as u64;
            run
        });
        placed.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_runs_come_back_as_they_were(memory in any_runs()) {
        let dir = tempfile::tempdir().expect("a folder");
        let place = write(dir.path(), "ckp-1", memory.clone());
        let (found, _) = read(&place).expect("whole");
        prop_assert!(found == memory);
        let archive = open(&place).expect("sound");
        let bytes: usize = memory.iter().map(|run| run.bytes.len()).sum();
        prop_assert_eq!(archive.part("memory").expect("there").plain_bytes, bytes as u64);
        let overhead = 100 * memory.len() as u64 + 100 + bytes as u64 / 200;
        prop_assert!(archive.part("memory").expect("there").stored_bytes <= bytes as u64 + overhead);
    }
}
