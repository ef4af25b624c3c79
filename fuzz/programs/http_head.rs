//! See `tests/fuzz-targets`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| leapbox_fuzz_targets::http_head(bytes));
