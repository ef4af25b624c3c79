//! A secret header value, which neither `Display` nor `Debug` shows.

use std::fmt;

/// Shown in place of every secret, in answers as well as in logs.
pub(crate) const REDACTED: &str = "[redacted]";

/// The value of an injected header. It has no `Serialize`, so that it cannot get into an answer by a derive.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(crate) fn new(value: &str) -> Self {
        Self(value.to_owned())
    }

    /// Returns the value, for the request that carries it and for sealed storage. No other caller may use it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}
