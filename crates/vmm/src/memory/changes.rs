//! Checks changes to a memory before they are written anywhere. Both ways of restoring them call this.

use super::PAGE;
use crate::error::VmmError;
use leapbox_storage::{RUN_MAX, Run, Runs};

/// Passes on the runs of `changes` as long as they are whole pages of a memory of `bytes` bytes, in ascending order and
/// without overlaps. The first error ends them. Blocking, as `changes` is.
pub(super) fn checked(changes: Runs, bytes: u64) -> impl Iterator<Item = Result<Run, VmmError>> {
    // The end of the last run that passed; `None` after an error. The caller must not write a run that comes after one
    // that is missing.
    let mut end = Some(0);
    changes.map_while(move |run| {
        let after = end.take()?;
        Some(run.map_err(|source| VmmError::Changes { source }).and_then(|run| {
            let fail = |fault| VmmError::Change { offset: run.offset, length: run.bytes.len(), fault };
            end = Some(check(&run, after, bytes).map_err(fail)?);
            Ok(run)
        }))
    })
}

/// Returns the end of `run`, or the fault it has. It must not begin before `after`.
fn check(run: &Run, after: u64, bytes: u64) -> Result<u64, &'static str> {
    let length = run.bytes.len();
    if length == 0 || length > RUN_MAX {
        return Err("it is empty, or too long for a run");
    }
    if !run.offset.is_multiple_of(PAGE) || !(length as u64).is_multiple_of(PAGE) {
        return Err("it is not of whole pages");
    }
    if run.offset < after {
        return Err("it overlaps the run before, or is out of order");
    }
    run.end().filter(|end| *end <= bytes).ok_or("it is outside the memory")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io;

    const RAM: u64 = 16 << 20;

    pub fn run(page: u64, pages: u64, byte: u8) -> Run {
        Run { offset: page * PAGE, bytes: vec![byte; (pages * PAGE) as usize] }
    }

    pub fn runs(runs: Vec<Run>) -> Runs {
        Box::new(runs.into_iter().map(Ok))
    }

    /// Two good runs, then what a damaged archive gives.
    pub fn damaged() -> Runs {
        let good = [Ok(run(1, 2, 1)), Ok(run(5, 1, 1))];
        let bad = || Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is damaged"));
        Box::new(good.into_iter().chain([bad(), Ok(run(9, 1, 1))]))
    }

    #[test]
    fn whole_pages_in_order_pass() {
        let given = vec![run(0, 1, 1), run(1, 256, 2), run(RAM / PAGE - 1, 1, 3)];
        let passed: Result<Vec<Run>, VmmError> = checked(runs(given.clone()), RAM).collect();
        assert_eq!(passed.expect("all are right"), given);
    }

    #[test]
    fn runs_outside_the_memory_unaligned_overlapping_or_of_no_size_are_refused() {
        let odd = |offset, length| Run { offset, bytes: vec![1; length] };
        let cases = [
            (run(RAM / PAGE, 1, 1), "outside"),
            (run(RAM / PAGE - 1, 2, 1), "outside"),
            (odd(u64::MAX - PAGE + 1, PAGE as usize), "outside"),
            (odd(PAGE + 1, PAGE as usize), "whole pages"),
            (odd(2 * PAGE, PAGE as usize - 1), "whole pages"),
            (run(4, 1, 1), "overlaps"),
            (run(0, 1, 1), "overlaps"),
            (odd(8 * PAGE, 0), "empty"),
            (run(8, 257, 1), "too long"),
        ];
        for (bad, why) in cases {
            let mut checked = checked(runs(vec![run(3, 2, 1), bad.clone(), run(9, 1, 1)]), RAM);
            assert!(checked.next().is_some_and(|first| first.is_ok()));
            match checked.next() {
                Some(Err(VmmError::Change { fault, .. })) => assert!(fault.contains(why), "{bad:?}: {fault}"),
                other => panic!("{bad:?}: {other:?}"),
            }
            assert!(checked.next().is_none(), "{bad:?}: it goes on");
        }
    }

    #[test]
    fn an_error_of_the_source_ends_them_and_is_told() {
        let told: Vec<Result<Run, VmmError>> = checked(damaged(), RAM).collect();
        assert!(matches!(told.as_slice(), [Ok(_), Ok(_), Err(VmmError::Changes { .. })]), "{told:?}");
    }
}
