//! Finding the end of a chunked body.

use leapbox_egress_policy::stream::http::Chunks;
use proptest::prelude::*;

/// Feeds pieces of that size; how many bytes were the body's and whether it ended, or nothing if it is malformed.
fn feed(body: &[u8], piece: usize) -> Option<(usize, bool)> {
    let mut chunks = Chunks::new();
    let mut total = 0;
    for piece in body.chunks(piece) {
        let (taken, done) = chunks.feed(piece).ok()?;
        total += taken;
        if done {
            return Some((total, true));
        }
        assert_eq!(taken, piece.len(), "a body that goes on takes everything");
    }
    Some((total, false))
}

#[test]
fn a_body_ends_after_its_trailers() {
    for body in [
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "00005\r\nhello\r\nA\r\n0123456789\r\n000\r\n\r\n",
        "5;name=value;q=\"a b\"\r\nhello\r\n0;last\r\n\r\n",
        "3\r\n\r\n0\r\n0\r\nGrpc-Status: 0\r\nx:\ty\r\n\r\n",
    ] {
        let more = format!("{body}GET / HTTP/1.1\r\n");
        for piece in 1..=more.len() {
            assert_eq!(feed(more.as_bytes(), piece), Some((body.len(), true)), "{body:?} in pieces of {piece}");
            assert_eq!(feed(&body.as_bytes()[..body.len() - 1], piece), Some((body.len() - 1, false)));
        }
    }
}

#[test]
fn a_body_that_has_ended_takes_no_more() {
    let mut chunks = Chunks::new();
    assert_eq!(chunks.feed(b"0\r\n\r\n0\r\n\r\n"), Ok((5, true)));
    assert_eq!(chunks.feed(b"0\r\n\r\n"), Ok((0, true)));
}

#[test]
fn whatever_readers_disagree_about_is_refused() {
    for body in [
        "\r\n",
        "-1\r\n",
        "+5\r\nhello\r\n",
        "0x5\r\nhello\r\n",
        " 5\r\nhello\r\n",
        "5 \r\nhello\r\n",
        "5\nhello\r\n",
        "5\rhello",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello!\r\n",
        "5\r\nhell\r\n0\r\n\r\n",
        "5;a\nhello",
        "5;a\0\r\nhello",
        ";a\r\n",
        "g\r\n",
        "10000000000000000\r\n",
        "0\r\nx: y\n\r\n",
        "0\r\n x: y\r\n\r\n",
        "0\r\nx : y\r\n\r\n",
        "0\r\nx\r\n\r\n",
        "0\r\n: y\r\n\r\n",
        "0\r\nx: y\rz\r\n\r\n",
        "0\r\nx: \0\r\n\r\n",
        "0\r\n\n",
        "0\r\nContent-Length: 5\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nHOST: x.com\r\n\r\n",
    ] {
        for piece in 1..=body.len() {
            assert_eq!(feed(body.as_bytes(), piece), None, "{body:?} in pieces of {piece}");
        }
    }
}

#[test]
fn extensions_and_trailers_are_bounded() {
    let extension = |length: usize| format!("0;{}\r\n\r\n", "a".repeat(length));
    assert!(feed(extension(1024).as_bytes(), 100).is_some());
    assert!(feed(extension(1025).as_bytes(), 100).is_none());
    let trailers = |count: usize| format!("0\r\n{}\r\n", "abc: def\r\n".repeat(count));
    assert!(feed(trailers(800).as_bytes(), 100).is_some());
    assert!(feed(trailers(900).as_bytes(), 100).is_none());
}

#[test]
fn a_chunk_may_be_as_large_as_64_bits_say() {
    assert_eq!(feed(b"ffffffffffffffff\r\nabc", 4), Some((21, false)));
}

proptest! {
    #[test]
    fn a_body_in_any_pieces_is_the_same(
        parts in prop::collection::vec(
            prop::sample::select(&["0\r\n", "5\r\n", "hello", "\r\n", "a;b\r\n", "0123456789", "x: y\r\n", "\n", "0"][..]),
            0..10,
        ),
        piece in 1..8_usize,
    ) {
        let body = parts.concat();
        prop_assert_eq!(feed(body.as_bytes(), piece), feed(body.as_bytes(), body.len().max(1)));
    }
}
