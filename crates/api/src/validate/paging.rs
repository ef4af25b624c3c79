//! What the lists have in common: words, a direction, pages. The parameters are texts.

use crate::fields::Fields;
use leapbox_api_types::sandbox::SortOrder;

/// Lines on a page when nothing is asked for.
const DEFAULT_PAGE_SIZE: u64 = 20;
/// Lines on a page.
const PAGE_SIZE_MAX: u64 = 100;

/// Newest first, or largest, when nothing is asked for.
pub(super) fn order(fields: &mut Fields<'_>) -> SortOrder {
    word(fields, "order-by", &[("asc", SortOrder::Ascending), ("desc", SortOrder::Descending)])
        .unwrap_or(SortOrder::Descending)
}

/// From 1.
pub(super) fn page(fields: &mut Fields<'_>) -> u64 {
    number(fields, "page", u64::MAX).unwrap_or(1)
}

pub(super) fn page_size(fields: &mut Fields<'_>) -> u64 {
    number(fields, "page-size", PAGE_SIZE_MAX).unwrap_or(DEFAULT_PAGE_SIZE)
}

/// One of some words.
pub(super) fn word<T: Copy>(fields: &mut Fields<'_>, field: &str, words: &[(&str, T)]) -> Option<T> {
    let text = fields.text(field)?;
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    if found.is_none() {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        fields.refuse(field, format!("must be one of {}", words.join(", ")));
    }
    found
}

/// A number from 1 to `max`, in digits.
fn number(fields: &mut Fields<'_>, field: &str, max: u64) -> Option<u64> {
    let text = fields.text(field)?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && (1..=max).contains(number));
    if number.is_none() {
        let range = if max == u64::MAX { "of at least 1".to_owned() } else { format!("between 1 and {max}") };
        fields.refuse(field, format!("must be an integer {range}"));
    }
    number
}
