//! A disk that is full leaves nothing behind but an error.

use super::*;
use leapbox_errors::FileError;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Runs `test` in a folder on a file system of `size` bytes, that nobody else sees and that ends with it. Only root can
/// make one.
fn on_a_small_disk(size: usize, test: impl FnOnce(&Path) + Send) {
    let dir = tempfile::tempdir().expect("a folder");
    let outcome = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            match unshare(CloneFlags::CLONE_NEWNS) {
                Err(Errno::EPERM) => return,
                unshared => unshared.expect("a mount namespace"),
            }
            let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
            mount(none, "/", none, private, none).expect("private");
            let options = format!("size={size}");
            mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).expect("mounted");
            test(dir.path());
        });
        thread.join()
    });
    assert!(outcome.is_ok());
}

#[test]
fn an_archive_that_does_not_fit_leaves_nothing_and_one_that_does_follows() {
    on_a_small_disk(4 << 20, |dir| {
        for _ in 0..3 {
            let mut writer = Writer::begin(dir, &archive_id("ckp-1"), &key(), None).expect("begun");
            writer.bytes("state", b"fits").expect("written");
            let memory: Runs = Box::new((0..1000).map(|n| Ok(run(n << 20, &noise(RUN_MAX)))));
            let error = writer.runs("memory", memory).expect_err("does not fit");
            let full = |e: &io::Error| e.raw_os_error() == Some(Errno::ENOSPC as i32);
            assert!(
                matches!(&error, ArchiveError::File(FileError { step: "writing", source, .. }) if full(source)),
                "{error:?}"
            );
            assert!(matches!(writer.seal(&header()), Err(ArchiveError::Unfinished { .. })));
            assert_eq!(std::fs::read_dir(dir).expect("listed").count(), 0, "nothing is left");
        }
        let place = write(dir, "ckp-1", vec![run(0, &noise(RUN_MAX))]);
        read(&place).expect("whole");
    });
}
