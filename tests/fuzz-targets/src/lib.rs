//! What is fuzzed: for each reader of a guest's first bytes, a function that feeds it some bytes and panics when
//! something does not hold.
//!
//! ```text
//! client_hello, http_head, dns ◄── tests/corpus.rs   (`make test`: the corpus, and thousands of mutations of it)
//!                              ◄── fuzz/programs     (`make fuzz`: libFuzzer, guided by coverage)
//! ```
//!
//! The two share this code, so that a target which no longer compiles or holds is found by every run of the tests. The
//! programs are apart because everything under them is built with coverage counters, for minutes.

mod client_hello;
mod dns;
mod http_head;

pub use client_hello::client_hello;
pub use dns::dns;
pub use http_head::http_head;
