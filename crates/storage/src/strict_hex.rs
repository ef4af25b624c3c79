//! Hexadecimal digits that are read strictly: one text per value, so that a changed digit is never overlooked.

/// The bytes; none unless `text` is exactly what `hex::encode` writes for them.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    hex::decode(text).ok().filter(|bytes| hex::encode(bytes) == text)
}
