//! In a mount namespace and folders of the test's own, with everything that a guest's root may have put there.

use super::*;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;
use tempfile::TempDir;

pub(crate) const OURS: &str = include_str!("../../tests/samples/ours.pem");
pub(crate) const OURS_TOO: &str = include_str!("../../tests/samples/ours_too.pem");
pub(crate) const OTHERS: &str = include_str!("../../tests/samples/others.pem");

const SOURCE: &str = "usr/local/share/ca-certificates/leapbox-egress.crt";
const SYSTEM: &str = "etc/ssl/certs/ca-certificates.crt";

/// A guest's folders: `root` is its disk.
struct Guest {
    folder: TempDir,
    store: TrustStore,
}

impl Guest {
    /// As Debian has it.
    fn debian() -> Self {
        let guest = Self::empty();
        for name in ["etc/ssl/certs", "usr/local/share", "etc/profile.d", "etc/sudoers.d"] {
            fs::create_dir_all(guest.path(name)).expect("makes");
        }
        fs::write(guest.path(SYSTEM), OTHERS).expect("writes");
        guest
    }

    /// With nothing on its disk.
    fn empty() -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("unshares");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("makes mounts private");
        let folder = TempDir::new().expect("temporary folder");
        for name in ["root", "hidden", "run"] {
            fs::create_dir(folder.path().join(name)).expect("makes");
        }
        let (root, hidden) = (folder.path().join("root"), folder.path().join("hidden"));
        let store = TrustStore::install(&root, &hidden, &folder.path().join("run/leapbox")).expect("installs");
        Self { folder, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("root").join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("reads")
    }

    /// A file of the agent's folder, where the workload sees it.
    fn shown(&self, name: &str) -> PathBuf {
        self.folder.path().join("run/leapbox").join(name)
    }

    /// Trusts, on a disk that takes it.
    fn trust(&self, pem: &str) {
        self.store.apply(&Trust::Certificate(pem.into())).expect("is in memory");
        self.until_idle();
        assert_eq!(fs::read_to_string(self.shown("egress-ca.pem")).expect("is shown"), pem);
    }

    fn distrust(&self) {
        self.store.apply(&Trust::None).expect("forgets");
        self.until_idle();
        assert!(!self.shown("egress-ca.pem").exists());
    }

    /// Waits for the disk: this machine may be busier than a guest.
    fn until_idle(&self) {
        let start = Instant::now();
        while self.store.worker.lock().is_busy() {
            assert!(start.elapsed() < Duration::from_secs(30), "the disk does not take it");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The bundle that the environment names is a copy, because the disk's could not be changed.
    fn has_a_copy(&self, text: &str) {
        assert!(!self.shown("ca-bundle.pem").is_symlink());
        assert_eq!(fs::read_to_string(self.shown("ca-bundle.pem")).expect("is shown"), text);
    }

    /// Every path on the disk and what it is.
    fn everything(&self) -> Vec<String> {
        let list = Command::new("find").args([".", "-printf", "%p %M %l\n"]).current_dir(self.path("")).output();
        let list = String::from_utf8(list.expect("finds").stdout).expect("UTF-8");
        let mut lines: Vec<String> = list.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

#[test]
fn debians_places_are_those_update_ca_certificates_would_fill() {
    let guest = Guest::debian();
    guest.trust(OURS);
    assert_eq!(guest.read(SOURCE), OURS);
    assert_eq!(guest.read(SYSTEM), format!("{OTHERS}{OURS}"));
    let link = |name: &str| fs::read_link(guest.path("etc/ssl/certs").join(name)).expect("a link");
    assert_eq!(link("leapbox-egress.pem"), PathBuf::from("/").join(SOURCE));
    assert_eq!(link("e9413f08.0"), PathBuf::from("leapbox-egress.pem"));
    assert_eq!(fs::read_link(guest.shown("ca-bundle.pem")).expect("a link"), PathBuf::from("/").join(SYSTEM));
}

#[test]
fn applied_again_it_changes_nothing_and_taken_away_it_leaves_nothing() {
    let guest = Guest::debian();
    fs::create_dir_all(guest.path("usr/local/share/ca-certificates")).expect("makes");
    let before = guest.everything();
    guest.trust(OURS);
    let with = guest.everything();
    assert_eq!(with.len(), before.len() + 5, "{with:?}");
    let changed = fs::metadata(guest.path(SYSTEM)).and_then(|file| file.modified()).expect("a time");
    guest.trust(OURS);
    assert_eq!(guest.everything(), with);
    assert_eq!(fs::metadata(guest.path(SYSTEM)).and_then(|file| file.modified()).expect("a time"), changed);
    guest.distrust();
    assert_eq!(guest.everything(), before);
    assert_eq!(guest.read(SYSTEM), OTHERS);
}

#[test]
fn a_guest_that_never_trusted_is_not_touched_when_it_distrusts() {
    let guest = Guest::debian();
    let before = guest.everything();
    guest.distrust();
    assert_eq!(guest.everything(), before);
    assert!(!guest.shown("").exists());
}

#[test]
fn anothers_certificate_is_replaced_everywhere_even_where_the_guests_own_program_put_it() {
    let guest = Guest::debian();
    guest.trust(OURS);
    // What update-ca-certificates makes of the source, which the guest's root then removes.
    fs::write(guest.path(SYSTEM), format!("{OURS}{OTHERS}")).expect("writes");
    fs::remove_file(guest.path(SOURCE)).expect("removes");
    guest.trust(OURS_TOO);
    assert_eq!((guest.read(SOURCE), guest.read(SYSTEM)), (OURS_TOO.to_owned(), format!("{OTHERS}{OURS_TOO}")));
    assert!(!guest.path("etc/ssl/certs/e9413f08.1").is_symlink());
}

#[test]
fn an_image_without_any_certificate_gets_a_bundle_that_goes_again() {
    let guest = Guest::empty();
    guest.trust(OURS);
    assert_eq!((guest.read(SOURCE), guest.read(SYSTEM)), (OURS.to_owned(), OURS.to_owned()));
    assert!(!guest.path("etc/profile.d").exists() && !guest.path("etc/sudoers.d").exists());
    guest.distrust();
    assert!(!guest.path(SYSTEM).exists() && !guest.path(SOURCE).exists());
}

#[test]
fn fedoras_bundle_is_found_behind_its_links() {
    let guest = Guest::empty();
    for name in ["etc/pki/ca-trust/extracted/pem", "etc/pki/ca-trust/source/anchors", "etc/pki/tls/certs", "etc/ssl"] {
        fs::create_dir_all(guest.path(name)).expect("makes");
    }
    let real = "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem";
    fs::write(guest.path(real), OTHERS).expect("writes");
    symlink("/".to_owned() + real, guest.path("etc/pki/tls/certs/ca-bundle.crt")).expect("links");
    symlink("/etc/pki/tls/certs", guest.path("etc/ssl/certs")).expect("links");
    guest.trust(OURS);
    assert_eq!(guest.read(real), format!("{OTHERS}{OURS}"));
    assert_eq!(guest.read("etc/pki/ca-trust/source/anchors/leapbox-egress.pem"), OURS);
    assert_eq!(fs::read_link(guest.shown("ca-bundle.pem")).expect("a link"), PathBuf::from("/").join(real));
}

#[test]
fn links_that_lead_out_are_not_followed() {
    let guest = Guest::debian();
    let outside = guest.folder.path().join("outside");
    fs::create_dir(&outside).expect("makes");
    fs::write(outside.join("file"), "untouched").expect("writes");
    fs::remove_file(guest.path(SYSTEM)).expect("removes");
    symlink(outside.join("file"), guest.path(SYSTEM)).expect("links");
    fs::remove_dir(guest.path("etc/sudoers.d")).expect("removes");
    symlink(&outside, guest.path("etc/sudoers.d")).expect("links");
    fs::create_dir_all(guest.path("usr/local/share/ca-certificates")).expect("makes");
    symlink(outside.join("file"), guest.path(SOURCE)).expect("links");
    guest.trust(OURS);
    assert_eq!(fs::read_to_string(outside.join("file")).expect("reads"), "untouched");
    assert_eq!(fs::read_dir(&outside).expect("lists").count(), 1);
    assert!(!guest.path(SOURCE).is_symlink(), "a file of ours is put in the link's place");
}

#[test]
fn a_bundle_that_is_found_through_links_alone_is_copied_into_memory() {
    let guest = Guest::debian();
    fs::create_dir(guest.path("store")).expect("makes");
    fs::rename(guest.path(SYSTEM), guest.path("store/bundle")).expect("moves");
    symlink("/store/bundle", guest.path(SYSTEM)).expect("links");
    guest.trust(OURS);
    guest.has_a_copy(&format!("{OTHERS}{OURS}"));
    assert_eq!(guest.read("store/bundle"), OTHERS);
}

#[test]
fn a_bundle_that_is_no_file_is_left_alone_and_the_copy_in_memory_serves() {
    for make in [
        |path: &Path| nix::unistd::mkfifo(path, Mode::from_bits_truncate(0o644)).map_err(io::Error::from),
        |path: &Path| fs::create_dir(path),
        |path: &Path| fs::File::create(path)?.set_len(10 << 30),
    ] {
        let guest = Guest::debian();
        let bundle = guest.path(SYSTEM);
        fs::remove_file(&bundle).expect("removes");
        make(&bundle).expect("makes");
        let kind = fs::symlink_metadata(&bundle).expect("is there");
        fs::create_dir_all(guest.path("etc/pki/tls/certs")).expect("makes");
        guest.trust(OURS);
        let after = fs::symlink_metadata(&bundle).expect("is there");
        assert_eq!((kind.file_type(), kind.len()), (after.file_type(), after.len()));
        guest.has_a_copy(OURS);
        guest.distrust();
    }
}

#[test]
fn a_disk_that_is_full_keeps_its_bundle_and_the_copy_in_memory_serves() {
    let small = Guest::empty();
    mount(Some("tmpfs"), &small.path(""), Some("tmpfs"), MsFlags::empty(), Some("size=64k")).expect("mounts");
    let (hidden, shown) = (small.folder.path().join("hidden"), small.folder.path().join("run/leapbox"));
    let store = TrustStore::install(&small.path(""), &hidden, &shown).expect("installs");
    let guest = Guest { store, ..small };
    fs::create_dir_all(guest.path("etc/ssl/certs")).expect("makes");
    fs::write(guest.path(SYSTEM), OTHERS).expect("writes");
    assert!(fs::write(guest.path("filler"), vec![0; 1 << 20]).is_err());
    guest.trust(OURS);
    guest.has_a_copy(&format!("{OTHERS}{OURS}"));
    assert_eq!(guest.read(SYSTEM), OTHERS);
    assert_eq!(guest.everything().iter().filter(|line| line.contains("leapbox-new")).count(), 0);
    fs::remove_file(guest.path("filler")).expect("removes");
    guest.trust(OURS);
    assert_eq!(guest.read(SYSTEM), format!("{OTHERS}{OURS}"), "there is room again");
    assert!(guest.shown("ca-bundle.pem").is_symlink());
}

/// A file system that is frozen until this is dropped: what writes to it cannot even be killed.
struct Frozen(PathBuf);

impl Frozen {
    fn new(path: PathBuf) -> Self {
        assert!(Command::new("fsfreeze").arg("--freeze").arg(&path).status().expect("runs").success());
        Self(path)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.0).status();
    }
}

#[test]
fn a_frozen_disk_is_not_waited_for_and_gets_the_last_wish_when_it_thaws() {
    let small = Guest::empty();
    let disk = small.folder.path().join("disk");
    fs::File::create(&disk).and_then(|file| file.set_len(16 << 20)).expect("makes");
    let run = |command: &mut Command| command.output().expect("runs").status.success();
    assert!(run(Command::new("mkfs.ext4").arg("-q").arg(&disk)));
    if !run(Command::new("mount").args(["-o", "loop"]).arg(&disk).arg(small.path(""))) {
        println!("skipped: there are no loop devices here");
        return;
    }
    let (hidden, shown) = (small.folder.path().join("hidden"), small.folder.path().join("run/leapbox"));
    let store = TrustStore::install(&small.path(""), &hidden, &shown).expect("installs");
    let guest = Guest { store, ..small };
    fs::create_dir_all(guest.path("etc/ssl/certs")).expect("makes");
    fs::write(guest.path(SYSTEM), OTHERS).expect("writes");
    let frozen = Frozen::new(guest.path(""));
    let apply = |trust: Trust| {
        let start = Instant::now();
        guest.store.apply(&trust).map(|()| start.elapsed())
    };
    for _ in 0..2 {
        let took = apply(Trust::Certificate(OURS.into())).expect("memory has it");
        assert!(took < DISK_TIMEOUT * 2, "{took:?}");
        guest.has_a_copy(&format!("{OTHERS}{OURS}"));
    }
    assert!(apply(Trust::Certificate(OURS_TOO.into())).is_err(), "the disk still has to take the last one");
    drop(frozen);
    guest.until_idle();
    assert_eq!(guest.read(SYSTEM), format!("{OTHERS}{OURS_TOO}"));
    assert_eq!(fs::read_to_string(guest.shown("egress-ca.pem")).expect("is shown"), OURS_TOO);
    nix::mount::umount2(&guest.path(""), nix::mount::MntFlags::MNT_DETACH).expect("unmounts");
}

#[test]
fn a_folder_that_is_mounted_over_is_not_entered() {
    let guest = Guest::debian();
    let over = guest.path("etc/ssl");
    mount(Some("tmpfs"), &over, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mounts");
    guest.trust(OURS);
    assert_eq!(fs::read_dir(over).expect("lists").count(), 0);
    guest.has_a_copy(OURS);
    assert_eq!(guest.read(SOURCE), OURS);
}

#[test]
fn whatever_is_in_the_way_of_the_folder_in_memory_makes_room() {
    let guest = Guest::debian();
    symlink("/nowhere", guest.shown("").parent().expect("run").join("leapbox")).expect("links");
    guest.trust(OURS);
    // The guest's root takes the mount away, and something else is in its place.
    nix::mount::umount(&guest.shown("").components().collect::<PathBuf>()).expect("unmounts");
    fs::write(guest.shown("egress-ca.pem"), "a lie").expect("writes");
    guest.trust(OURS);
    assert!(fs::write(guest.shown("egress-ca.pem"), "a lie").is_err(), "it is read-only");
}

#[test]
fn the_hash_is_what_openssl_says_and_it_verifies_by_the_folder_and_the_bundle() {
    let guest = Guest::debian();
    guest.trust(OURS);
    let sample = guest.folder.path().join("ours.pem");
    fs::write(&sample, OURS).expect("writes");
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).arg(&sample).output();
        output.ok().map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Some(hash) = openssl(&["x509", "-noout", "-hash", "-in"]) else {
        println!("skipped: there is no openssl program here");
        return;
    };
    assert_eq!(hash, "e9413f08\n");
    let certs = guest.path("etc/ssl/certs");
    // In a guest the link's target is the guest's.
    fs::remove_file(certs.join("leapbox-egress.pem")).expect("removes");
    symlink(guest.path(SOURCE), certs.join("leapbox-egress.pem")).expect("links");
    let (certs, bundle) = (certs.display().to_string(), guest.path(SYSTEM).display().to_string());
    for place in [["-CApath", &certs], ["-CAfile", &bundle]] {
        let verified = openssl(&["verify", "-no-CAfile", "-no-CApath", place[0], place[1]]).expect("runs");
        assert!(verified.ends_with(": OK\n"), "{place:?}: {verified}");
    }
}

#[test]
fn hashed_places_that_are_others_stay_theirs() {
    let guest = Guest::debian();
    fs::write(guest.path("etc/ssl/certs/e9413f08.0"), OTHERS).expect("writes");
    guest.trust(OURS);
    let ours = guest.path("etc/ssl/certs/e9413f08.1");
    assert_eq!(fs::read_link(&ours).expect("a link"), PathBuf::from("leapbox-egress.pem"));
    guest.distrust();
    assert!(!ours.is_symlink());
    assert_eq!(guest.read("etc/ssl/certs/e9413f08.0"), OTHERS);
}

#[test]
fn logins_are_told_what_is_not_set_already_and_sudo_keeps_it() {
    let guest = Guest::debian();
    guest.trust(OURS);
    let mode = |name: &str| fs::metadata(guest.path(name)).expect("is there").permissions().mode() & 0o7777;
    assert_eq!((mode("etc/profile.d/leapbox-egress.sh"), mode("etc/sudoers.d/leapbox-egress")), (0o644, 0o440));
    // The agent's folder is not shown at its place on this machine: the profile would say nothing.
    let profile = guest.read("etc/profile.d/leapbox-egress.sh").replace("-r /run/leapbox/egress-ca.pem", "1");
    let script = format!("{profile}printenv SSL_CERT_FILE NODE_EXTRA_CA_CERTS PIP_CERT");
    let login = Command::new("sh").args(["-euc", &script]).env_clear().env("PIP_CERT", "mine").output();
    let login = String::from_utf8(login.expect("runs").stdout).expect("UTF-8");
    assert_eq!(login, "/run/leapbox/ca-bundle.pem\n/run/leapbox/egress-ca.pem\nmine\n");
    let sudoers = guest.path("etc/sudoers.d/leapbox-egress");
    match Command::new("visudo").arg("-cf").arg(&sudoers).output() {
        Ok(checked) => assert!(checked.status.success(), "{checked:?}"),
        Err(_) => println!("not checked: there is no visudo program here"),
    }
}
