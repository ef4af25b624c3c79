//! Real folders with small contents.

use super::*;
use crate::base::BaseKind;
use leapbox_ids::ImageDigest;
use leapbox_vmm::Shape;

const KEY: &str = "0123456789abcdef0123456789abcdef-and-the-rest-of-it";

fn header(taken_at_ms: u64) -> Header {
    Header {
        kind: BaseKind::Ready,
        image: ImageDigest::from([10; 32]),
        taken_at_ms,
        shape: Shape { vcpus: 1, memory_mib: 512 },
        compatibility_key: KEY.to_owned(),
        memory: "memory".to_owned(),
        state: "state".to_owned(),
        disk: "disk".to_owned(),
    }
}

fn sealed(bases: &Path, header: &Header) -> Base {
    let unfinished = bases.join(".unfinished");
    std::fs::create_dir(&unfinished).expect("made");
    for name in header.files() {
        std::fs::write(unfinished.join(name), format!("the {name}")).expect("written");
    }
    seal(header, &unfinished, bases).expect("sealed")
}

fn kept() -> (tempfile::TempDir, PathBuf, Base) {
    let bases = tempfile::tempdir().expect("a folder");
    let base = sealed(bases.path(), &header(1));
    let dir = bases.path().join(base.id.as_str());
    (bases, dir, base)
}

#[test]
fn a_sealed_base_lies_under_its_id_and_is_read_again() {
    let (_bases, dir, base) = kept();
    assert!(base.id.as_str().starts_with("base-") && base.id.as_str().len() == 45, "{}", base.id);
    assert_eq!(base.snapshot.memory, dir.join("memory"));
    assert_eq!(read(&dir).expect("sound"), base);
    verify(&dir).expect("whole");
}

#[test]
fn the_same_contents_have_the_same_id_and_any_other_another() {
    let (bases, dir, base) = kept();
    let other = sealed(bases.path(), &header(2));
    assert_ne!(other.id, base.id, "taken at another time");
    remove(&dir);
    assert_eq!(sealed(bases.path(), &header(1)).id, base.id);
    let bare = Header { kind: BaseKind::Diskless, ..header(1) };
    assert_ne!(sealed(bases.path(), &bare).id, base.id);
}

#[test]
fn case_39_a_changed_byte_anywhere_is_refused() {
    for name in ["memory", "state", "disk", "manifest.json"] {
        let (_bases, dir, _) = kept();
        let whole = std::fs::read(dir.join(name)).expect("read");
        for changed in [0, whole.len() / 2, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[changed] ^= 1;
            std::fs::write(dir.join(name), bytes).expect("written");
            assert!(verify(&dir).is_err(), "{name}, byte {changed}");
        }
        std::fs::write(dir.join(name), whole).expect("written");
        verify(&dir).expect("whole again");
    }
}

#[test]
fn a_base_in_anothers_place_is_refused_by_its_manifest() {
    let (bases, dir, base) = kept();
    let other = bases.path().join("base-of-something-else");
    std::fs::rename(&dir, &other).expect("moved");
    let misplaced = read(&other).expect_err("misplaced").to_string();
    assert!(misplaced.contains(base.id.as_str()) && misplaced.contains("base-of-something-else"), "{misplaced}");
}

#[test]
fn a_file_or_a_link_where_a_base_should_be_is_removed_and_its_target_is_not() {
    let (bases, dir, _) = kept();
    let elsewhere = bases.path().join("elsewhere");
    std::fs::rename(&dir, &elsewhere).expect("moved");
    std::os::unix::fs::symlink(&elsewhere, &dir).expect("linked");
    remove(&dir);
    std::fs::write(&dir, "a file").expect("written");
    remove(&dir);
    assert!(!dir.exists() && elsewhere.join("memory").exists());
}

#[test]
fn what_is_set_aside_is_out_of_sight_before_it_is_removed() {
    let (_bases, dir, _) = kept();
    let aside = set_aside(&dir);
    assert!(!dir.exists() && aside.join("memory").exists());
    assert!(aside.file_name().expect("a name").to_string_lossy().starts_with('.'));
}
