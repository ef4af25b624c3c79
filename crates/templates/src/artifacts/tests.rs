//! The folder's promises, on real files with small contents.

use super::workshop::NewArtifact;
use super::*;
use std::fs;

fn build(workshop: &mut Workshop, content: &str) -> StoredArtifact {
    let scratch = workshop.scratch("thing").expect("scratch");
    fs::write(scratch.join(INITRAMFS_FILE), content).expect("write");
    let new = NewArtifact { kind: "initramfs", prefix: "", file: INITRAMFS_FILE, inputs: content };
    let stored = workshop.publish(&scratch, new).expect("publish");
    workshop.record(|m| m.initramfs = Some(stored.clone())).expect("record");
    stored
}

#[test]
fn a_published_artifact_is_found_again_by_content() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut workshop = Workshop::open(dir.path(), || {}).expect("open");
    let stored = build(&mut workshop, "one");
    assert!(workshop.is_current(Some(&stored), "one"));
    assert!(!workshop.is_current(Some(&stored), "two"));
    drop(workshop);

    let artifacts = Artifacts::open(dir.path()).expect("open");
    assert_eq!(artifacts.manifest().initramfs.as_ref(), Some(&stored));
    assert!(stored.path(dir.path()).ends_with(format!("initramfs/{}/initrd", &stored.sha256[..12])));
}

#[test]
fn a_rebuilt_artifact_leaves_the_old_one_in_place() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut workshop = Workshop::open(dir.path(), || {}).expect("open");
    let (one, two) = (build(&mut workshop, "one"), build(&mut workshop, "two"));
    assert_eq!(fs::read_to_string(one.path(dir.path())).expect("read"), "one");
    assert_eq!(fs::read_to_string(two.path(dir.path())).expect("read"), "two");
}

#[test]
fn case_39_a_truncated_or_flipped_artifact_is_noticed_and_replaced() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut workshop = Workshop::open(dir.path(), || {}).expect("open");
    let stored = build(&mut workshop, "good");

    fs::write(stored.path(dir.path()), "goo").expect("truncate");
    assert!(!workshop.is_current(Some(&stored), "good"));
    fs::write(stored.path(dir.path()), "goof").expect("flip");
    assert!(matches!(stored.verify(dir.path()), Err(ArtifactError::Damaged { .. })));

    build(&mut workshop, "good");
    stored.verify(dir.path()).expect("whole again");
}

#[test]
fn what_an_interrupted_builder_left_is_cleared_and_not_in_use() {
    let dir = tempfile::tempdir().expect("temp dir");
    let workshop = Workshop::open(dir.path(), || {}).expect("open");
    let scratch = workshop.scratch("half").expect("scratch");
    fs::write(scratch.join("half"), "half").expect("write");
    drop(workshop);

    let workshop = Workshop::open(dir.path(), || {}).expect("open again");
    assert!(!scratch.exists());
    assert_eq!(workshop.manifest(), &Manifest::default());
}

#[test]
fn a_second_builder_waits_for_the_first() {
    let dir = tempfile::tempdir().expect("temp dir");
    let first = Workshop::open(dir.path(), || {}).expect("open");
    let path = dir.path().to_owned();
    let (told, hears) = std::sync::mpsc::channel();
    let second = std::thread::spawn(move || Workshop::open(&path, || told.send(()).expect("heard")));
    hears.recv().expect("the second one waits");
    drop(first);
    second.join().expect("no panic").expect("opens after the first");
}

#[test]
fn an_unknown_template_says_to_run_setup() {
    let dir = tempfile::tempdir().expect("temp dir");
    assert!(matches!(Artifacts::open(dir.path()), Err(ArtifactError::NotBuilt { .. })));
    let mut workshop = Workshop::open(dir.path(), || {}).expect("open");
    build(&mut workshop, "one");
    let error = Artifacts::open(dir.path()).expect("open").guest_image("no/such").expect_err("refused");
    assert!(error.to_string().contains("leapbox setup"), "{error}");
}

#[test]
fn a_manifest_of_another_format_is_refused_by_readers_and_replaced_by_builders() {
    let dir = tempfile::tempdir().expect("temp dir");
    fs::write(dir.path().join("current.json"), r#"{"format": 99}"#).expect("write");
    assert!(matches!(Artifacts::open(dir.path()), Err(ArtifactError::Format { found: 99, .. })));
    let mut workshop = Workshop::open(dir.path(), || {}).expect("open");
    build(&mut workshop, "one");
    Artifacts::open(dir.path()).expect("readable again");
}
