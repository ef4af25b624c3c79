//! Deserialisers of lists and texts that refuse to grow past a bound.
//!
//! A frame's cap bounds its bytes, but a list of empty entries is many times larger in memory than on the wire. The
//! bounds on the number of entries bound that factor. Fields of requests and replies name the functions here.

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// Entries of a listing at most.
// An empty entry takes 10 bytes in a frame and more than a hundred in memory: with the cap of a frame alone, a hostile
// answer could take hundreds of megabytes of the host's memory.
pub const MAX_ENTRIES: usize = 50_000;
/// Environment variables in one request at most.
pub const MAX_PAIRS: usize = 4096;
/// Exclude patterns in one request at most.
pub const MAX_PATTERNS: usize = 1024;
/// Bytes of a certificate in PEM at most.
// One for a key on an elliptic curve, which is what the host makes, has some 700.
pub const MAX_CERTIFICATE: usize = 8 << 10;

struct Bounded<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Bounded<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX} entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        // postcard's hint is the number that the sender announces: enough to refuse a list, and not to allocate one.
        if seq.size_hint().is_some_and(|count| count > MAX) {
            return Err(A::Error::custom("too many entries"));
        }
        let mut list = Vec::new();
        while let Some(entry) = seq.next_element()? {
            if list.len() == MAX {
                return Err(A::Error::custom("too many entries"));
            }
            list.push(entry);
        }
        Ok(list)
    }
}

fn list<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_seq(Bounded::<T, MAX>(PhantomData))
}

/// A list of at most [`MAX_ENTRIES`].
pub(crate) fn entries<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    list::<D, T, MAX_ENTRIES>(deserializer)
}

/// Names and values, at most [`MAX_PAIRS`].
pub(crate) fn pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    list::<D, _, MAX_PAIRS>(deserializer)
}

/// Names and values, at most [`MAX_PAIRS`], or `None`.
pub(crate) fn optional_pairs<'de, D>(deserializer: D) -> Result<Option<Vec<(String, String)>>, D::Error>
where
    D: Deserializer<'de>,
{
    // `deserialize_with` cannot reach into an `Option`, but a type of its own can.
    #[derive(serde::Deserialize)]
    struct Pairs(#[serde(deserialize_with = "pairs")] Vec<(String, String)>);
    Ok(Option::<Pairs>::deserialize(deserializer)?.map(|Pairs(list)| list))
}

/// A list of at most [`MAX_PATTERNS`].
pub(crate) fn patterns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    list::<D, _, MAX_PATTERNS>(deserializer)
}

/// A text of at most [`MAX_CERTIFICATE`] bytes.
pub(crate) fn certificate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    // Borrowed from the frame, so that one that is too long is never copied.
    let text = <&'de str>::deserialize(deserializer)?;
    if text.len() > MAX_CERTIFICATE {
        return Err(D::Error::custom("the certificate is too long"));
    }
    Ok(text.to_owned())
}
