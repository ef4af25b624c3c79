//! Reads the head of an HTTP/1 request (RFC 9112) so strictly that no server can read another host or another length
//! out of it: whatever two implementations are known to disagree about is refused.

pub use super::chunks::Chunks;
use super::{MAX_FIRST_BYTES, Progress};
use crate::denial::Denial;
use crate::header::is_token;
use crate::name::{DomainName, NameError};
use std::ops::Range;
use std::str::Utf8Error;

// Registered methods have at most 17 characters. Without a bound, letters without end would never be classified.
const MAX_METHOD: usize = 32;
// Servers accept about 100 (Apache, hyper); the array is on the stack.
const MAX_HEADERS: usize = 128;
/// Longest identification line of SSH in bytes (RFC 4253, 4.2).
const MAX_SSH_LINE: usize = 255;

/// The head of one request that was read completely and is unambiguous.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Length in bytes, with the empty line; the body begins behind it.
    pub length: usize,
    /// The method as the guest has written it: methods are case-sensitive.
    pub method: String,
    pub host: DomainName,
    /// The port in `Host`, if one is given. It decides nothing: the port that the guest has dialled counts.
    pub port: Option<u16>,
    pub framing: Framing,
    pub upgrade: Upgrade,
    bytes: Vec<u8>,
    headers: Vec<(String, Range<usize>)>,
}

/// How the end of the body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// The request has no body.
    None,
    /// The body has that many bytes.
    Length(u64),
    /// The body consists of chunks, whose end [`Chunks`] finds.
    Chunked,
}

/// The protocol to which the guest asks to switch the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    None,
    /// A WebSocket and nothing else. Its bytes belong to this one request, so they may pass unread.
    WebSocket,
    /// Anything else. Within HTTP/2 or TLS each request could name another host, unseen by the proxy. The header
    /// `upgrade` must therefore be removed; the server then answers as if it had not been sent.
    Other,
}

/// Reads the head out of all bytes so far, from the beginning of a request.
///
/// # Errors
/// [`Denial::NoName`] for an IP address in `Host`, [`Denial::Malformed`] for what a server could take for HTTP and is
/// not one unambiguous request.
pub fn read(bytes: &[u8]) -> Result<Progress<Head>, Denial> {
    let bytes = bytes.get(..MAX_FIRST_BYTES).unwrap_or(bytes);
    let progress = match kind(bytes)? {
        Kind::Unclear => Progress::More,
        Kind::Other => return Ok(Progress::Other),
        Kind::Http => head(bytes)?.map_or(Progress::More, Progress::Done),
    };
    progress.within(bytes.len(), "a request's head longer than 16 KiB")
}

impl Head {
    /// Returns the head without the headers for whose lower-case name `removed` is true, or `None` if it has none of
    /// them. All other bytes stay as the guest has sent them.
    pub fn without(&self, removed: impl Fn(&str) -> bool) -> Option<Vec<u8>> {
        let mut kept = Vec::with_capacity(self.bytes.len());
        let mut at = 0;
        for (_, line) in self.headers.iter().filter(|(name, _)| removed(name)) {
            kept.extend_from_slice(self.bytes.get(at..line.start).unwrap_or_default());
            at = line.end;
        }
        kept.extend_from_slice(self.bytes.get(at..).unwrap_or_default());
        (kept.len() < self.bytes.len()).then_some(kept)
    }

    /// Returns the head as the guest has sent it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

enum Kind {
    Unclear,
    Http,
    Other,
}

/// Tells whether the bytes begin as a request does: with a word and a blank.
fn kind(bytes: &[u8]) -> Result<Kind, Denial> {
    // Some servers skip these before a request line, so the bytes are HTTP to them.
    if let [b'\r' | b'\n' | b' ' | b'\t', ..] = bytes {
        return Err(malformed("a blank or a line break before the request"));
    }
    if bytes.starts_with(b"SSH-") {
        return ssh(bytes);
    }
    // One byte more than a method may have: the verdict must not depend on how the guest has split its bytes.
    match bytes.iter().take(MAX_METHOD + 1).position(|b| !is_token(*b)) {
        Some(end) if end > 0 => match bytes.get(end) {
            // Some servers take these other blanks for a space.
            Some(b' ' | b'\t' | 0x0b | 0x0c) => Ok(Kind::Http),
            Some(_) | None => Ok(Kind::Other),
        },
        Some(_) => Ok(Kind::Other),
        None if bytes.len() > MAX_METHOD => Err(malformed("a method of too many characters")),
        None => Ok(Kind::Unclear),
    }
}

fn ssh(bytes: &[u8]) -> Result<Kind, Denial> {
    // `SSH-2.0-x / HTTP/1.1` is an identification line and a request with an odd method at once. Only the whole line
    // tells which it is.
    let line = match bytes.iter().take(MAX_SSH_LINE).position(|b| *b == b'\n') {
        Some(end) => bytes.get(..end).unwrap_or(bytes),
        None if bytes.len() < MAX_SSH_LINE => return Ok(Kind::Unclear),
        None => return Err(malformed("a first line of SSH that does not end")),
    };
    if line.windows(5).any(|part| part.eq_ignore_ascii_case(b"http/")) {
        return Err(malformed("HTTP that pretends to be SSH"));
    }
    Ok(Kind::Other)
}

fn head(bytes: &[u8]) -> Result<Option<Head>, Denial> {
    let end = end_of_head(bytes)?;
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    // httparse alone is too lenient (a bare LF ends a line for it). Only where both find the same end is it the end.
    let parsed = request.parse(end.and_then(|end| bytes.get(..end)).unwrap_or(bytes)).map_err(unreadable)?;
    let (Some(end), httparse::Status::Complete(length)) = (end, parsed) else {
        return if end.is_none() && parsed.is_partial() { Ok(None) } else { Err(malformed("a head with two ends")) };
    };
    let bytes = bytes.get(..end).filter(|_| length == end).ok_or(malformed("a head with two ends"))?;
    let method = request.method.unwrap_or_default();
    check_target(method, request.path.unwrap_or_default())?;
    let (host, port) = host(request.headers)?;
    Ok(Some(Head {
        length,
        method: method.to_owned(),
        host,
        port,
        framing: framing(request.headers, request.version == Some(1))?,
        upgrade: upgrade(request.headers),
        headers: lines(bytes),
        bytes: bytes.to_vec(),
    }))
}

/// Returns where the first empty line ends. Up to there each line must end in CR LF and none may be folded, because
/// lenient servers and strict ones read such lines differently.
fn end_of_head(bytes: &[u8]) -> Result<Option<usize>, Denial> {
    let mut start = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        match (byte, before) {
            (b'\n', Some(b'\r')) if at == start + 1 => return Ok(Some(at + 1)),
            (b'\n', Some(b'\r')) => start = at + 1,
            (b'\n', _) => return Err(malformed("a line of the head that ends without CR")),
            (_, Some(b'\r')) => return Err(malformed("a CR within a line of the head")),
            (b' ' | b'\t', _) if at == start => return Err(malformed("a folded line in the head")),
            _ => {}
        }
    }
    Ok(None)
}

/// Returns each header's name in lower case and the range of its line, CR LF included.
fn lines(head: &[u8]) -> Vec<(String, Range<usize>)> {
    let mut lines = Vec::new();
    let mut start = 0;
    for line in head.split_inclusive(|b| *b == b'\n') {
        let range = start..start + line.len();
        start = range.end;
        let name = line.split(|b| *b == b':').next().unwrap_or_default();
        // The request line and the empty one begin with no header's name.
        if range.start > 0 && line.len() > 2 {
            lines.push((String::from_utf8_lossy(name).to_ascii_lowercase(), range));
        }
    }
    lines
}

fn check_target(method: &str, target: &str) -> Result<(), Denial> {
    if method.eq_ignore_ascii_case("CONNECT") {
        return Err(malformed("a CONNECT request: connect to the server directly"));
    }
    // The preface of HTTP/2 (RFC 9113, 3.4): its requests would follow in frames that are not read here.
    if method == "PRI" {
        return Err(malformed("HTTP/2 without TLS"));
    }
    // In a target of the absolute form the host stands twice, and servers differ in which of the two they take.
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(());
    }
    Err(malformed("a request's target that is not a path"))
}

fn values<'h>(headers: &'h [httparse::Header<'_>], name: &'h str) -> impl Iterator<Item = &'h [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// Returns a header's only value; `twice` is the error's text for a second one.
fn only<'h>(
    headers: &'h [httparse::Header<'_>],
    name: &'h str,
    twice: &'static str,
) -> Result<Option<&'h [u8]>, Denial> {
    let mut values = values(headers, name);
    let first = values.next();
    if values.next().is_some() { Err(malformed(twice)) } else { Ok(first) }
}

fn host(headers: &[httparse::Header<'_>]) -> Result<(DomainName, Option<u16>), Denial> {
    let value = only(headers, "host", "two Host headers")?.ok_or(malformed("a request without Host"))?;
    let value = std::str::from_utf8(value).map_err(|_: Utf8Error| malformed("a Host that is no domain name"))?;
    // An IPv6 address, which has colons and would look like a name with a bad port.
    if value.starts_with('[') {
        return Err(Denial::NoName);
    }
    let (name, port) = match value.split_once(':') {
        Some((name, port)) => (name, Some(decimal(port.as_bytes()).ok_or(malformed("a Host with a bad port"))?)),
        None => (value, None),
    };
    let name = DomainName::from_wire(name.as_bytes()).map_err(|error| match error {
        NameError::IpLiteral => Denial::NoName,
        _ => malformed("a Host that is no domain name"),
    })?;
    Ok((name, port))
}

fn framing(headers: &[httparse::Header<'_>], chunks_known: bool) -> Result<Framing, Denial> {
    let length = only(headers, "content-length", "two Content-Length headers")?;
    let coding = only(headers, "transfer-encoding", "two Transfer-Encoding headers")?;
    match (length, coding) {
        (None, None) => Ok(Framing::None),
        (Some(length), None) => {
            Ok(Framing::Length(decimal(length).ok_or(malformed("a Content-Length that is no number"))?))
        }
        // HTTP/1.0 has no chunks: a server that ignores the coding would read the body as further requests.
        (None, Some(coding)) if chunks_known && coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (None, Some(_)) => Err(malformed("a Transfer-Encoding that is not chunked alone")),
        // The classic of request smuggling (RFC 9112, 6.3): one reader takes the length, the other the chunks.
        (Some(_), Some(_)) => Err(malformed("both Content-Length and Transfer-Encoding")),
    }
}

fn decimal<N: std::str::FromStr>(digits: &[u8]) -> Option<N> {
    // `u64::from_str` alone would accept a sign.
    let digits = std::str::from_utf8(digits).ok()?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

fn upgrade(headers: &[httparse::Header<'_>]) -> Upgrade {
    // Some servers switch without `Connection: upgrade`, so the header `upgrade` alone counts.
    let mut values = values(headers, "upgrade");
    match (values.next(), values.next()) {
        (None, _) => Upgrade::None,
        (Some(only), None) if only.eq_ignore_ascii_case(b"websocket") => Upgrade::WebSocket,
        (Some(_), _) => Upgrade::Other,
    }
}

fn unreadable(error: httparse::Error) -> Denial {
    malformed(match error {
        httparse::Error::HeaderName => "a header's name",
        httparse::Error::HeaderValue => "a header's value",
        httparse::Error::NewLine => "a line's end in the head",
        httparse::Error::Token => "the request line",
        httparse::Error::TooManyHeaders => "more than 128 headers",
        httparse::Error::Version => "an HTTP version that is neither 1.0 nor 1.1",
        httparse::Error::Status => "the request line",
    })
}

fn malformed(what: &'static str) -> Denial {
    Denial::Malformed { what }
}
