//! The folder's promises, on real files with small contents.

use super::builder::NewArtifact;
use super::*;
use leapbox_ids::ImageDigest;
use std::fs;

fn build(builder: &mut ArtifactBuilder, content: &str) -> StoredArtifact {
    let scratch = builder.scratch("thing").expect("scratch");
    fs::write(scratch.join(INITRAMFS_FILE), content).expect("write");
    let new = NewArtifact { kind: "initramfs", prefix: "", file: INITRAMFS_FILE, inputs: content };
    let stored = builder.publish(&scratch, new).expect("publish");
    builder.record(|m| m.initramfs = Some(stored.clone())).expect("record");
    stored
}

#[test]
fn a_published_artifact_is_found_again_by_content() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut builder = ArtifactBuilder::open(dir.path(), || {}).expect("open");
    let stored = build(&mut builder, "one");
    assert!(builder.is_current(Some(&stored), "one"));
    assert!(!builder.is_current(Some(&stored), "two"));
    drop(builder);

    let artifacts = Artifacts::open(dir.path()).expect("open");
    assert_eq!(artifacts.manifest().initramfs.as_ref(), Some(&stored));
    assert!(stored.path(dir.path()).ends_with(format!("initramfs/{}/initrd", &stored.sha256[..12])));
}

#[test]
fn a_rebuilt_artifact_leaves_the_old_one_in_place() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut builder = ArtifactBuilder::open(dir.path(), || {}).expect("open");
    let (one, two) = (build(&mut builder, "one"), build(&mut builder, "two"));
    assert_eq!(fs::read_to_string(one.path(dir.path())).expect("read"), "one");
    assert_eq!(fs::read_to_string(two.path(dir.path())).expect("read"), "two");
}

#[test]
fn case_39_a_truncated_or_flipped_artifact_is_noticed_and_replaced() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut builder = ArtifactBuilder::open(dir.path(), || {}).expect("open");
    let stored = build(&mut builder, "good");

    fs::write(stored.path(dir.path()), "goo").expect("truncate");
    assert!(!builder.is_current(Some(&stored), "good"));
    fs::write(stored.path(dir.path()), "goof").expect("flip");
    assert!(matches!(stored.verify(dir.path()), Err(ArtifactError::Damaged { .. })));

    build(&mut builder, "good");
    stored.verify(dir.path()).expect("whole again");
}

#[test]
fn what_an_interrupted_builder_left_is_cleared_and_not_in_use() {
    let dir = tempfile::tempdir().expect("temp dir");
    let builder = ArtifactBuilder::open(dir.path(), || {}).expect("open");
    let scratch = builder.scratch("half").expect("scratch");
    fs::write(scratch.join("half"), "half").expect("write");
    drop(builder);

    let builder = ArtifactBuilder::open(dir.path(), || {}).expect("open again");
    assert!(!scratch.exists());
    assert_eq!(builder.manifest(), &Manifest::default());
}

#[test]
fn a_second_builder_waits_for_the_first() {
    let dir = tempfile::tempdir().expect("temp dir");
    let first = ArtifactBuilder::open(dir.path(), || {}).expect("open");
    let path = dir.path().to_owned();
    let (told, hears) = std::sync::mpsc::channel();
    let second = std::thread::spawn(move || ArtifactBuilder::open(&path, || told.send(()).expect("heard")));
    hears.recv().expect("the second one waits");
    drop(first);
    second.join().expect("no panic").expect("opens after the first");
}

#[test]
fn an_unknown_template_says_to_run_setup() {
    let dir = tempfile::tempdir().expect("temp dir");
    assert!(matches!(Artifacts::open(dir.path()), Err(ArtifactError::NotBuilt { .. })));
    let mut builder = ArtifactBuilder::open(dir.path(), || {}).expect("open");
    build(&mut builder, "one");
    let error = Artifacts::open(dir.path()).expect("open").guest_image("no/such").expect_err("refused");
    assert!(error.to_string().contains("leapbox setup"), "{error}");
}

#[test]
fn a_manifest_of_another_format_is_refused_by_readers_and_replaced_by_builders() {
    let dir = tempfile::tempdir().expect("temp dir");
    fs::write(dir.path().join("current.json"), r#"{"format": 99}"#).expect("write");
    assert!(matches!(Artifacts::open(dir.path()), Err(ArtifactError::Format { found: 99, .. })));
    let mut builder = ArtifactBuilder::open(dir.path(), || {}).expect("open");
    build(&mut builder, "one");
    Artifacts::open(dir.path()).expect("readable again");
}

/// Kernel, initramfs and root file system of the first image that tests build.
pub(super) const FIRST: [&str; 3] = ["the kernel", "the initramfs", "the root"];

/// Builds an image of these contents, in use as `system/test`.
pub(super) fn build_image(dir: &Path, [kernel, initramfs, rootfs]: [&str; 3]) {
    let mut builder = ArtifactBuilder::open(dir, || {}).expect("open");
    let publish = |kind, file: &'static str, content: &str| {
        let scratch = builder.scratch(kind).expect("scratch");
        fs::write(scratch.join(file), content).expect("write");
        let config = r#"{"user":"u","uid":1,"gid":1,"groups":[],"home":"/","workdir":"/","env":[],"port":null}"#;
        fs::write(scratch.join(IMAGE_FILE), config).expect("write");
        builder.publish(&scratch, NewArtifact { kind, prefix: "", file, inputs: content }).expect("publish")
    };
    let stored = publish("kernel", KERNEL_FILE, kernel);
    let (version, package) = ("6.1".to_owned(), "linux".to_owned());
    let kernel = KernelArtifact { version, package, stored };
    let initramfs = publish("initramfs", INITRAMFS_FILE, initramfs);
    let rootfs = publish("rootfs", ROOTFS_FILE, rootfs);
    builder.record(|m| m.kernel = Some(kernel)).expect("record");
    builder.record(|m| m.initramfs = Some(initramfs)).expect("record");
    builder.record(|m| drop(m.templates.insert("system/test".to_owned(), rootfs))).expect("record");
}

#[test]
fn an_image_that_is_in_use_no_more_is_found_by_its_digest() {
    let dir = tempfile::tempdir().expect("temp dir");
    build_image(dir.path(), FIRST);
    let old = Artifacts::open(dir.path()).expect("open").guest_image("system/test").expect("built");
    build_image(dir.path(), ["the kernel", "a newer initramfs", "the root"]);
    let artifacts = Artifacts::open(dir.path()).expect("open");
    let new = artifacts.guest_image("system/test").expect("built");
    assert_ne!(new.digest, old.digest);
    let (found, config) = artifacts.image_of(&old.digest).expect("still there");
    assert_eq!((found, config.user.as_str()), (old, "u"));
    assert_eq!(artifacts.image_of(&new.digest).expect("in use").0, new);
}

#[test]
fn what_is_missing_of_an_older_image_is_named() {
    let dir = tempfile::tempdir().expect("temp dir");
    build_image(dir.path(), FIRST);
    let old = Artifacts::open(dir.path()).expect("open").guest_image("system/test").expect("built");
    build_image(dir.path(), ["the kernel", "a newer initramfs", "the root"]);
    let artifacts = Artifacts::open(dir.path()).expect("open");
    fs::remove_file(&old.initramfs).expect("removed");
    match artifacts.image_of(&old.digest).expect_err("incomplete") {
        ArtifactError::File(error) => assert_eq!(error.path, old.initramfs),
        other => panic!("{other}"),
    }
    let error = artifacts.image_of(&ImageDigest::from([0; 32])).expect_err("never built");
    assert!(matches!(error, ArtifactError::NoImage { .. }), "{error}");
}

#[test]
fn a_list_entry_that_names_other_contents_is_refused() {
    let dir = tempfile::tempdir().expect("temp dir");
    build_image(dir.path(), FIRST);
    let old = Artifacts::open(dir.path()).expect("open").guest_image("system/test").expect("built");
    build_image(dir.path(), ["the kernel", "a newer initramfs", "the root"]);
    let entry = dir.path().join(format!("images/{}.json", old.digest));
    let forged = fs::read_to_string(&entry).expect("read").replacen("\"sha256\": \"", "\"sha256\": \"0", 1);
    fs::write(&entry, forged).expect("write");
    let error = Artifacts::open(dir.path()).expect("open").image_of(&old.digest).expect_err("refused");
    assert!(matches!(error, ArtifactError::Damaged { .. }), "{error}");
}
