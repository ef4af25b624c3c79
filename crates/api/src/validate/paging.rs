//! The query parameters that all lists have in common: sort words, a direction, pages.
//!
//! In a query every parameter is a string, so numbers are read from digits here.

use crate::fields::Fields;
use leapbox_api_types::sandbox::SortOrder;

/// Entries on a page when the client asks for no size.
const DEFAULT_PAGE_SIZE: u64 = 20;
/// Entries on a page at most.
const PAGE_SIZE_MAX: u64 = 100;

/// Reads the direction. Without one it is descending: newest first.
pub(super) fn order(fields: &mut Fields<'_>) -> SortOrder {
    word(fields, "order-by", &[("asc", SortOrder::Ascending), ("desc", SortOrder::Descending)])
        .unwrap_or(SortOrder::Descending)
}

/// Reads the page's number, which counts from 1.
pub(super) fn page(fields: &mut Fields<'_>) -> u64 {
    number(fields, "page", u64::MAX).unwrap_or(1)
}

pub(super) fn page_size(fields: &mut Fields<'_>) -> u64 {
    number(fields, "page-size", PAGE_SIZE_MAX).unwrap_or(DEFAULT_PAGE_SIZE)
}

/// Reads one of the given words as the value beside it.
pub(super) fn word<T: Copy>(fields: &mut Fields<'_>, field: &str, words: &[(&str, T)]) -> Option<T> {
    let text = fields.text(field)?;
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    if found.is_none() {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        fields.refuse(field, format!("must be one of {}", words.join(", ")));
    }
    found
}

/// Reads a number from 1 to `max`, written in digits.
fn number(fields: &mut Fields<'_>, field: &str, max: u64) -> Option<u64> {
    let text = fields.text(field)?;
    // `parse` alone would also take a plus sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && (1..=max).contains(number));
    if number.is_none() {
        let range = if max == u64::MAX { "of at least 1".to_owned() } else { format!("between 1 and {max}") };
        fields.refuse(field, format!("must be an integer {range}"));
    }
    number
}
