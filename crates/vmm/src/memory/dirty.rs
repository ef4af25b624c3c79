//! The pages that a guest has written since it was restored, as a sparse file.

use super::blocking;
use super::mapping::{Mapping, Piece, Proc};
use super::pages::{runs, written};
use crate::error::VmmError;
use crate::spec::Shape;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes moved at a time.
const CHUNK: u64 = 1 << 20;

/// Writes into the new file `target` (mode 0600, as long as the RAM) what the guest of process `pid`, which is paused,
/// has written since `mapping` was mapped, and leaves holes for everything else. Not synced. On failure there is no
/// file. A future that is dropped leaves the work to end by itself, with its file.
pub(crate) async fn write_dirty(pid: i32, mapping: Mapping, shape: Shape, target: &Path) -> Result<(), VmmError> {
    let target = target.to_path_buf();
    blocking("writing a diff", move || write(pid, mapping, shape.memory_bytes(), &target)).await
}

fn write(pid: i32, mapping: Mapping, bytes: u64, target: &Path) -> Result<(), VmmError> {
    let process = Proc::open(pid)?;
    let pieces = process.ram(mapping, bytes)?;
    let runs = runs(&process, &pieces, written)?;
    let file = |step| move |source| VmmError::File { step, path: target.to_path_buf(), source };
    let made = File::options().read(true).write(true).create_new(true).mode(0o600).open(target);
    let to = made.map_err(file("creating"))?;
    let filled = (|| {
        to.set_len(bytes).map_err(file("sizing"))?;
        copy(&process, &runs, &to, target)?;
        if holes_are_kept(&to, &runs, bytes).map_err(file("looking for the holes of"))? {
            return Ok(());
        }
        Err(VmmError::Holes { path: target.to_path_buf() })
    })();
    if filled.is_err() {
        // The reason is what counts; what cannot be removed is in a folder that the caller throws away.
        let _ = std::fs::remove_file(target);
    }
    filled
}

fn copy(process: &Proc, runs: &[Piece], to: &File, target: &Path) -> Result<(), VmmError> {
    let step = "reading its memory";
    let memory = process.file("mem", step)?;
    let mut buffer = vec![0; CHUNK as usize];
    for run in runs {
        for done in (0..run.length).step_by(CHUNK as usize) {
            let bytes = &mut buffer[..CHUNK.min(run.length - done) as usize];
            memory.read_exact_at(bytes, run.address + done).map_err(|source| process.failed(step, source))?;
            let written = to.write_all_at(bytes, run.offset + done);
            written.map_err(|source| VmmError::File { step: "writing", path: target.to_path_buf(), source })?;
        }
    }
    Ok(())
}

/// Whether `file` has data exactly where `runs` are.
///
/// A file system with larger blocks, or with huge pages (tmpfs), tells zeroes around a page as data, which would
/// overwrite the base's bytes; one that looks for zeroes tells a page of them as a hole, through which the base would
/// show. Neither can be known from what `statfs` says, so the finished file is asked.
fn holes_are_kept(file: &File, runs: &[Piece], bytes: u64) -> io::Result<bool> {
    let mut position = 0;
    let mut runs = runs.iter().peekable();
    while let Some(run) = runs.next() {
        let mut end = run.offset + run.length;
        while let Some(next) = runs.next_if(|next| next.offset == end) {
            end += next.length;
        }
        if seek(file, position, Whence::SeekData)? != Some(run.offset)
            || seek(file, run.offset, Whence::SeekHole)? != Some(end)
        {
            return Ok(false);
        }
        position = end;
    }
    Ok(position == bytes || seek(file, position, Whence::SeekData)?.is_none())
}

/// The next data or hole at or after `position`.
fn seek(file: &File, position: u64, whence: Whence) -> io::Result<Option<u64>> {
    match lseek(file, position as i64, whence) {
        Ok(found) => Ok(Some(found as u64)),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PAGE, compose_memory};
    use super::*;
    use crate::memory::testing::{Guest, SHAPE};
    use std::os::unix::fs::MetadataExt;

    const RAM: u64 = 16 << 20;

    /// Pages of `file` that hold data.
    fn data(file: &Path) -> Vec<u64> {
        let file = File::open(file).expect("opened");
        let mut pages = Vec::new();
        let mut position = 0;
        while let Some(start) = seek(&file, position, Whence::SeekData).expect("sought") {
            position = seek(&file, start, Whence::SeekHole).expect("sought").expect("the end is one");
            pages.extend(start / PAGE..position / PAGE);
        }
        pages
    }

    fn page(file: &Path, page: u64) -> Vec<u8> {
        let mut bytes = vec![0; PAGE as usize];
        File::open(file).expect("opened").read_exact_at(&mut bytes, page * PAGE).expect("read");
        bytes
    }

    #[tokio::test]
    async fn a_diff_is_exactly_what_was_written_and_grows_with_it() {
        for mut guest in [Guest::of_file(RAM), Guest::of_memfd(RAM)] {
            let dir = tempfile::tempdir().expect("a folder");
            guest.map(8 << 20, 8 << 20);
            guest.map(0, 8 << 20);
            guest.read(77);
            guest.write(0, 1);
            guest.write(2047, 2);
            guest.write(2048, 3);
            let first = dir.path().join("first");
            write_dirty(guest.pid(), guest.mapping(), SHAPE, &first).await.expect("written");
            assert_eq!(data(&first), [0, 2047, 2048]);
            assert_eq!(page(&first, 2048), [3; PAGE as usize]);
            let meta = std::fs::metadata(&first).expect("metadata");
            assert_eq!((meta.len(), meta.mode() & 0o777), (RAM, 0o600));

            guest.write(2048, 4);
            guest.write(4095, 5);
            let second = dir.path().join("second");
            write_dirty(guest.pid(), guest.mapping(), SHAPE, &second).await.expect("written again");
            assert_eq!(data(&second), [0, 2047, 2048, 4095]);
            assert_eq!(page(&second, 2048), [4; PAGE as usize]);
        }
    }

    #[tokio::test]
    async fn base_and_diff_are_the_guests_memory_zeroes_included() {
        let mut guest = Guest::of_file(RAM);
        let dir = tempfile::tempdir().expect("a folder");
        guest.map(0, RAM);
        // The base is nonzero everywhere.
        guest.write(5, 0);
        guest.write(6, 9);
        let (diff, whole) = (dir.path().join("diff"), dir.path().join("whole"));
        write_dirty(guest.pid(), guest.mapping(), SHAPE, &diff).await.expect("written");
        assert_eq!(data(&diff), [5, 6]);
        compose_memory(guest.base(), &diff, &whole).await.expect("composed");
        let mut expected = std::fs::read(guest.base()).expect("read");
        expected[5 * PAGE as usize..][..PAGE as usize].fill(0);
        expected[6 * PAGE as usize..][..PAGE as usize].fill(9);
        assert!(std::fs::read(&whole).expect("read") == expected, "another memory");
    }

    #[tokio::test]
    async fn an_untouched_guest_has_an_empty_diff() {
        let mut guest = Guest::of_memfd(RAM);
        let dir = tempfile::tempdir().expect("a folder");
        guest.map(0, RAM);
        let diff = dir.path().join("diff");
        write_dirty(guest.pid(), guest.mapping(), SHAPE, &diff).await.expect("written");
        let meta = std::fs::metadata(&diff).expect("metadata");
        assert_eq!((meta.len(), meta.blocks()), (RAM, 0));
    }

    #[tokio::test]
    async fn a_guest_that_wrote_everything_has_a_full_diff() {
        let mut guest = Guest::of_memfd(RAM);
        let dir = tempfile::tempdir().expect("a folder");
        guest.map(0, RAM);
        guest.write_all(8);
        let diff = dir.path().join("diff");
        write_dirty(guest.pid(), guest.mapping(), SHAPE, &diff).await.expect("written");
        assert!(std::fs::read(&diff).expect("read").iter().all(|byte| *byte == 8));
    }

    #[tokio::test]
    async fn a_mapping_that_is_short_leaves_no_file() {
        let mut guest = Guest::of_memfd(RAM);
        let dir = tempfile::tempdir().expect("a folder");
        guest.map(0, RAM / 2);
        let diff = dir.path().join("diff");
        let refused = write_dirty(guest.pid(), guest.mapping(), SHAPE, &diff).await;
        assert!(matches!(refused, Err(VmmError::Mapping { .. })), "{refused:?}");
        assert!(!diff.exists());
    }

    #[tokio::test]
    async fn a_diff_never_overwrites() {
        let mut guest = Guest::of_memfd(RAM);
        let dir = tempfile::tempdir().expect("a folder");
        guest.map(0, RAM);
        let diff = dir.path().join("diff");
        std::fs::write(&diff, b"old").expect("written");
        assert!(write_dirty(guest.pid(), guest.mapping(), SHAPE, &diff).await.is_err());
        assert_eq!(std::fs::read(&diff).expect("read"), b"old");
    }

    #[test]
    fn a_process_that_dies_meanwhile_is_an_error() {
        let mut guest = Guest::of_memfd(RAM);
        let dir = tempfile::tempdir().expect("a folder");
        guest.map(0, RAM);
        guest.write_all(8);
        let process = Proc::open(guest.pid()).expect("alive");
        let pieces = process.ram(guest.mapping(), RAM).expect("all there");
        let found = runs(&process, &pieces, written).expect("read");
        let mapping = guest.mapping();
        drop(guest);
        let to = File::create(dir.path().join("diff")).expect("created");
        let gone =
            |result: Result<(), VmmError>| assert!(matches!(result, Err(VmmError::NotAlive { .. })), "{result:?}");
        gone(copy(&process, &found, &to, dir.path()));
        gone(runs(&process, &pieces, written).map(drop));
        gone(process.ram(mapping, RAM).map(drop));
    }

    #[test]
    fn a_file_system_that_loses_or_blurs_holes_is_found_out() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = File::options().read(true).write(true).create_new(true).open(dir.path().join("diff"));
        let file = file.expect("created");
        file.set_len(RAM).expect("sized");
        let run = |page: u64, pages: u64| Piece { address: 0, offset: page * PAGE, length: pages * PAGE };
        file.write_all_at(&[0; 2 * PAGE as usize], 8 * PAGE).expect("written");
        file.write_all_at(&[1; PAGE as usize], RAM - PAGE).expect("written");
        let kept = |runs: &[Piece]| holes_are_kept(&file, runs, RAM).expect("sought");
        assert!(kept(&[run(8, 1), run(9, 1), run(RAM / PAGE - 1, 1)]));
        assert!(!kept(&[run(8, 1), run(RAM / PAGE - 1, 1)]), "a page too many");
        assert!(!kept(&[run(8, 2)]), "data after the last");
        assert!(!kept(&[run(7, 3), run(RAM / PAGE - 1, 1)]), "a page too few");
    }
}
