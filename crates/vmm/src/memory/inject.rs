//! Writes changes into the RAM that a VMM has mapped copy-on-write, from outside the VMM. The QEMU driver restores with
//! it.

use super::changes::checked;
use super::mapping::{Mapping, Piece, Proc};
use crate::blocking::blocking;
use crate::error::VmmError;
use crate::shape::Shape;
use leapbox_storage::{Run, Runs};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Writes `changes` into the RAM of a VMM that has not begun to use it. The pages become anonymous, as if the guest had
/// written them, so that a later [`difference`](fn@super::difference) finds them there, and none are inherited. After a
/// failure some of them are written, and the machine must never run. If the future is dropped, the work goes on until
/// `changes` or the process end.
pub(crate) async fn inject(process: Proc, mapping: Mapping, shape: Shape, changes: Runs) -> Result<(), VmmError> {
    blocking("writing changes into a memory", move || write(&process, mapping, shape.memory_bytes(), changes)).await
}

fn write(process: &Proc, mapping: Mapping, bytes: u64, changes: Runs) -> Result<(), VmmError> {
    let pieces = process.ram(mapping, bytes)?;
    let memory = process.writable_memory()?;
    for run in checked(changes, bytes) {
        write_run(&memory, &pieces, &run?).map_err(|source| process.failed("writing the memory", source))?;
    }
    Ok(())
}

/// Writes one run, which may span several pieces.
fn write_run(memory: &File, pieces: &[Piece], run: &Run) -> io::Result<()> {
    let mut bytes = run.bytes.as_slice();
    let mut offset = run.offset;
    let first = pieces.partition_point(|piece| piece.offset + piece.length <= offset);
    for piece in &pieces[first..] {
        let within = offset - piece.offset;
        let (here, rest) = bytes.split_at(bytes.len().min((piece.length - within) as usize));
        memory.write_all_at(here, piece.address + within)?;
        offset += here.len() as u64;
        bytes = rest;
        if bytes.is_empty() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::changes::tests::{damaged, run, runs};
    use super::super::{PAGE, difference};
    use super::*;
    use crate::memory::testing::{Guest, SHAPE, contents};
    use std::collections::BTreeMap;

    const RAM: u64 = 16 << 20;

    async fn injected(guest: &Guest, changes: Runs) -> Result<(), VmmError> {
        inject(guest.process(), guest.mapping(), SHAPE, changes).await
    }

    async fn found(guest: &Guest) -> BTreeMap<u64, u8> {
        let found = difference(guest.process(), guest.mapping(), SHAPE, None).await.expect("found");
        contents(found).expect("read")
    }

    #[tokio::test]
    async fn what_was_injected_is_the_guests_own_and_part_of_its_next_difference() {
        for mut guest in [Guest::of_file(RAM), Guest::of_memfd(RAM)] {
            guest.map(8 << 20, 8 << 20);
            guest.map(0, 8 << 20);
            // A page of zeroes, the border of the two pieces, and the end.
            let changes = vec![run(3, 2, 0), run(2000, 100, 7), run(RAM / PAGE - 1, 1, 9)];
            injected(&guest, runs(changes)).await.expect("injected");
            let mut expected: BTreeMap<u64, u8> = (2000..2100).map(|page| (page, 7)).collect();
            expected.extend([(3, 0), (4, 0), (4095, 9)]);
            assert_eq!(found(&guest).await, expected);
            for (page, byte) in [(4, 5), (100, 6)] {
                guest.write(page, byte);
                expected.insert(page, byte);
            }
            assert_eq!(found(&guest).await, expected);
            assert_eq!(std::fs::read(guest.base()).expect("read")[3 * PAGE as usize], 4, "the base was written");
        }
    }

    #[tokio::test]
    async fn a_source_that_fails_half_way_and_runs_that_do_not_fit_are_refused() {
        let mut guest = Guest::of_memfd(RAM);
        guest.map(0, RAM);
        let told = injected(&guest, damaged()).await;
        assert!(matches!(told, Err(VmmError::Changes { .. })), "{told:?}");
        let told = injected(&guest, runs(vec![run(RAM / PAGE, 1, 1)])).await;
        assert!(matches!(told, Err(VmmError::Change { .. })), "{told:?}");
    }

    #[tokio::test]
    async fn a_process_that_is_gone_or_has_mapped_something_else_is_refused() {
        let mut guest = Guest::of_memfd(RAM);
        let told = injected(&guest, runs(vec![run(0, 1, 1)])).await;
        assert!(matches!(told, Err(VmmError::Mapping { .. })), "{told:?}");
        guest.map(0, RAM);
        let (process, mapping) = (guest.process(), guest.mapping());
        let pieces = process.ram(mapping, RAM).expect("mapped");
        let memory = process.writable_memory().expect("opened");
        drop(guest);
        let told = write_run(&memory, &pieces, &run(0, 1, 1)).map_err(|source| process.failed("writing", source));
        assert!(matches!(told, Err(VmmError::NotAlive { .. })), "{told:?}");
        let told = inject(process, mapping, SHAPE, runs(vec![run(0, 1, 1)])).await;
        assert!(matches!(told, Err(VmmError::NotAlive { .. })), "{told:?}");
    }
}
