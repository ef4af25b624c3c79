//! Hexadecimal digits that are read strictly: every value has one text, so that a changed digit is never overlooked.

/// The bytes; none unless `text` is exactly what `hex::encode` writes for them.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    // `hex::decode` takes upper-case digits as well. A flipped bit can turn `a` into `A`, and nothing would notice it.
    hex::decode(text).ok().filter(|bytes| hex::encode(bytes) == text)
}
