//! The request head's reader and the scanner of chunked bodies: a whole connection of a guest's.

use leapbox_egress_policy::stream::Progress;
use leapbox_egress_policy::stream::http::{Chunks, Framing, Head, read};
use leapbox_egress_policy::{Denial, DomainName};

/// Reads the requests of a plain connection, whole and cut where the last byte says.
pub fn http_head(bytes: &[u8]) {
    let whole = read(bytes);
    // The last byte says where the first segment ends.
    let Some(last) = bytes.last() else { return };
    match read(&bytes[..bytes.len() * usize::from(*last) / 256]) {
        Ok(Progress::More) => {}
        Err(_) => assert!(whole.is_err(), "what was refused is accepted when more has come"),
        early => assert_eq!(early, whole, "what was decided changes when more has come"),
    }
    match whole {
        Ok(Progress::Done(head)) => requests(bytes, head, usize::from(*last)),
        Ok(Progress::Other) => assert!(!lenient(bytes), "a lenient server sees a request where we see none"),
        Ok(Progress::More) | Err(_) => {}
    }
}

/// What a reader that forgives much takes for a whole head.
fn lenient(bytes: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut config = httparse::ParserConfig::default();
    config.allow_multiple_spaces_in_request_line_delimiters(true).allow_space_before_first_header_name(true);
    config.ignore_invalid_headers_in_requests(true);
    let parsed = config.parse_request(&mut httparse::Request::new(&mut headers), bytes);
    parsed.is_ok_and(|status| status.is_complete())
}

/// Follows the connection from request to request, as the proxy does.
fn requests(mut bytes: &[u8], mut head: Head, piece: usize) {
    loop {
        check(&head, bytes);
        bytes = &bytes[head.length..];
        let body = match head.framing {
            Framing::None => 0,
            Framing::Length(length) => usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len()),
            Framing::Chunked => {
                let whole = chunked(bytes, bytes.len().max(1));
                assert_eq!(whole, chunked(bytes, piece % 7 + 1), "a body in pieces is another one");
                match whole {
                    Ok((length, true)) => length,
                    Ok((_, false)) | Err(_) => return,
                }
            }
        };
        bytes = &bytes[body..];
        match read(bytes) {
            Ok(Progress::Done(next)) => head = next,
            Ok(Progress::More | Progress::Other) | Err(_) => return,
        }
    }
}

fn check(head: &Head, bytes: &[u8]) {
    assert_eq!(head.bytes(), &bytes[..head.length]);
    assert_eq!(DomainName::parse(head.host.as_str()).as_ref(), Ok(&head.host), "the host is not in its normal form");
    assert!(lenient(head.bytes()), "another reader sees no head");
    let Some(kept) = head.without(|name| name == "cookie" || name == "upgrade") else { return };
    let Ok(Progress::Done(again)) = read(&kept) else { panic!("the rewritten head is none") };
    assert_eq!((&again.host, again.port, again.framing), (&head.host, head.port, head.framing));
    assert_eq!(again.length, kept.len());
    assert_eq!(again.without(|name| name == "cookie" || name == "upgrade"), None, "something was left");
}

/// How much of the bytes is the body and whether it ended, fed in pieces. Where it broke is no matter.
fn chunked(bytes: &[u8], piece: usize) -> Result<(usize, bool), Denial> {
    let mut chunks = Chunks::new();
    let mut total = 0;
    for piece in bytes.chunks(piece) {
        let (taken, done) = chunks.feed(piece)?;
        total += taken;
        if done {
            return Ok((total, true));
        }
        assert_eq!(taken, piece.len(), "a body that goes on takes everything");
    }
    Ok((total, false))
}
