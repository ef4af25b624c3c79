//! Another program that ours is compared with.

/// Started, or not there to be compared with.
pub enum Rival<P> {
    /// It runs; what it says its version is.
    Running(P, String),
    /// Why it does not run.
    Missing(String),
}
