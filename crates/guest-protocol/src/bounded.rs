//! Lists and texts that refuse to grow past a bound while they are decoded.
//!
//! A frame's cap bounds its bytes; a list of empty entries is still many times larger in memory than on the wire. The
//! counts here bound that factor.

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// Entries of a listing, at most.
pub const MAX_ENTRIES: usize = 50_000;
/// Environment variables in one request, at most.
pub const MAX_PAIRS: usize = 4096;
/// Exclude patterns in one request, at most.
pub const MAX_PATTERNS: usize = 1024;
/// Bytes of a certificate in PEM, at most. One of an elliptic curve has some 700.
pub const MAX_CERTIFICATE: usize = 8 << 10;

struct Bounded<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Bounded<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX} entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
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

/// At most [`MAX_ENTRIES`].
pub(crate) fn entries<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    list::<D, T, MAX_ENTRIES>(deserializer)
}

/// At most [`MAX_PAIRS`].
pub(crate) fn pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    list::<D, _, MAX_PAIRS>(deserializer)
}

/// At most [`MAX_PAIRS`], or none at all.
pub(crate) fn optional_pairs<'de, D>(deserializer: D) -> Result<Option<Vec<(String, String)>>, D::Error>
where
    D: Deserializer<'de>,
{
    #[derive(serde::Deserialize)]
    struct Pairs(#[serde(deserialize_with = "pairs")] Vec<(String, String)>);
    Ok(Option::<Pairs>::deserialize(deserializer)?.map(|Pairs(list)| list))
}

/// At most [`MAX_PATTERNS`].
pub(crate) fn patterns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    list::<D, _, MAX_PATTERNS>(deserializer)
}

/// At most [`MAX_CERTIFICATE`] bytes.
pub(crate) fn certificate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = <&'de str>::deserialize(deserializer)?;
    if text.len() > MAX_CERTIFICATE {
        return Err(D::Error::custom("the certificate is too long"));
    }
    Ok(text.to_owned())
}
