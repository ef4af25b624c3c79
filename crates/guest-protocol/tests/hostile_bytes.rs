//! Whatever bytes arrive: decoding never panics and never allocates out of proportion.

use leapbox_guest_protocol::*;
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts what the current thread holds, so that a test can ask for the peak of one decoding.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn account(bytes: isize) {
    let held = HELD.get() + bytes;
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// SAFETY: every call is passed on to the system's allocator unchanged; the counters allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        account(layout.size().cast_signed());
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        account(-layout.size().cast_signed());
        // SAFETY: the caller's promises about `pointer` and `layout` are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Peak of the bytes held while `work` ran, beyond what was held before.
fn peak_of(work: impl FnOnce()) -> isize {
    let before = HELD.get();
    PEAK.set(before);
    work();
    PEAK.get() - before
}

/// An upper bound of what decoding may hold: the longest list's elements (doubled, as vectors grow by doubling) and
/// the bytes themselves.
fn allowance(body: &[u8]) -> isize {
    let list = MAX_ENTRIES * size_of::<FileInfo>();
    (3 * list + 2 * body.len() + 4096).cast_signed()
}

proptest! {
    #[test]
    fn case_07_arbitrary_bytes_decode_to_an_error_or_a_value(body in prop::collection::vec(any::<u8>(), 0..4096)) {
        let peak = peak_of(|| {
            let _ = decode::<Response>(&body);
            let _ = decode_call(&body);
        });
        prop_assert!(peak <= allowance(&body), "{peak} bytes for {} on the wire", body.len());
    }

    #[test]
    fn case_07_arbitrary_bytes_behind_a_valid_start_decode_to_an_error_or_a_value(
        variant in 0u8..16,
        rest in prop::collection::vec(any::<u8>(), 0..512),
    ) {
        let mut answer = vec![0, variant];
        answer.extend(&rest);
        let _ = decode::<Response>(&answer);
        let mut call = encode_call(&Request::Ping).expect("encodes")[PREFIX_LEN..].to_vec();
        call.pop();
        call.push(variant);
        call.extend(&rest);
        let _ = decode_call(&call);
    }

    #[test]
    fn a_file_survives_the_wire(content in prop::collection::vec(any::<u8>(), 0..2048), path in ".*") {
        let request = Request::WriteFile(WriteFile { path, permissions: None, content: &content });
        let frame = encode_call(&request).expect("encodes");
        prop_assert_eq!(decode_call(&frame[PREFIX_LEN..]).expect("decodes"), request);
    }
}

#[test]
fn case_07_a_listing_of_empty_entries_cannot_blow_up_memory() {
    // Ten bytes each on the wire, a hundred and more in memory.
    let mut body = vec![0, 5];
    body.extend([0xff, 0xff, 0x3f]);
    body.resize(MAX_FRAME, 0);
    let peak = peak_of(|| assert!(decode::<Response>(&body).is_err()));
    assert!(peak < 1 << 20, "{peak} bytes");
}

#[test]
fn case_07_a_length_that_lies_allocates_nothing() {
    let announces_4_gib = [0, 4, 0xff, 0xff, 0xff, 0xff, 0x0f];
    let peak = peak_of(|| assert!(decode::<Response>(&announces_4_gib).is_err()));
    assert!(peak < 4096, "{peak} bytes");
}
