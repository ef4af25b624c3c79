//! Operations on sorted ranges of bytes, and their text format in stored files.

use std::fmt::Write;
use std::ops::Range;

/// Adds `next`, which must not begin before the last of `ranges` does. The two are joined if at most `gap` bytes are
/// between them.
pub(super) fn push(ranges: &mut Vec<Range<u64>>, next: Range<u64>, gap: u64) {
    match ranges.last_mut() {
        Some(last) if next.start <= last.end.saturating_add(gap) => last.end = last.end.max(next.end),
        _ => ranges.push(next),
    }
}

/// Returns the parts of `ranges` that are in none of `others`. Both must be in ascending order and without overlaps.
pub(super) fn minus(ranges: &[Range<u64>], others: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    let mut others = others.iter().peekable();
    for range in ranges {
        let mut start = range.start;
        while let Some(other) = others.next_if(|other| other.end <= range.end) {
            if start < other.start {
                left.push(start..other.start);
            }
            start = start.max(other.end);
        }
        let end = others.peek().map_or(range.end, |other| other.start.min(range.end));
        if start < end {
            left.push(start..end);
        }
    }
    left
}

/// Writes a line with start and end for each of `ranges`.
pub(super) fn print(text: &mut String, ranges: &[Range<u64>]) {
    for range in ranges {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{} {}", range.start, range.end);
    }
}

/// Parses the lines that [`print()`] writes. `None` unless the ranges are in ascending order, apart, and within
/// `bytes`.
pub(super) fn parse<'a>(lines: impl Iterator<Item = &'a str>, bytes: u64) -> Option<Vec<Range<u64>>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for line in lines {
        let (start, end) = line.split_once(' ')?;
        let range: Range<u64> = start.parse().ok()?..end.parse().ok()?;
        let after = ranges.last().is_none_or(|last| range.start > last.end);
        if !after || range.is_empty() || range.end > bytes {
            return None;
        }
        ranges.push(range);
    }
    Some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ranges, others, and what is left.
    type Case<'a> = (&'a [Range<u64>], &'a [Range<u64>], &'a [Range<u64>]);

    #[test]
    #[allow(clippy::single_range_in_vec_init)]
    fn what_is_left_of_ranges_is_what_the_others_do_not_have() {
        let cases: [Case<'_>; 8] = [
            (&[0..10, 20..30], &[], &[0..10, 20..30]),
            (&[], &[0..10], &[]),
            (&[0..10], &[0..10], &[]),
            (&[0..10], &[2..4, 6..7], &[0..2, 4..6, 7..10]),
            (&[10..20, 30..40], &[5..35], &[35..40]),
            (&[10..20, 30..40], &[0..12, 19..31, 39..50], &[12..19, 31..39]),
            (&[10..20, 30..40], &[20..30], &[10..20, 30..40]),
            (&[10..20], &[0..5, 6..30], &[]),
        ];
        for (ranges, others, left) in cases {
            assert_eq!(minus(ranges, others), left, "{ranges:?} without {others:?}");
        }
    }
}
