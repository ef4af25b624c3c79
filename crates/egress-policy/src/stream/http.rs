//! The head of an HTTP/1 request (RFC 9112), read so strictly that no server can read another host or another length
//! out of it: whatever two implementations are known to disagree about is refused.

pub use super::chunks::Chunks;
use super::{MAX_FIRST_BYTES, Progress};
use crate::denial::Denial;
use crate::header::is_token;
use crate::name::{DomainName, NameError};
use std::ops::Range;
use std::str::Utf8Error;

/// Longest word that could be a method. Registered ones have at most 17 characters.
const MAX_METHOD: usize = 32;
const MAX_HEADERS: usize = 128;
/// Longest first line of SSH (RFC 4253, 4.2).
const MAX_SSH_LINE: usize = 255;

/// A request's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Bytes it takes; the body begins behind them.
    pub length: usize,
    /// As the guest has written it: methods are case-sensitive.
    pub method: String,
    /// The one `Host`.
    pub host: DomainName,
    /// The port in `Host`, if one is given.
    pub port: Option<u16>,
    pub framing: Framing,
    pub upgrade: Upgrade,
    bytes: Vec<u8>,
    headers: Vec<(String, Range<usize>)>,
}

/// How long the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// That many bytes.
    Length(u64),
    /// In chunks: see [`Chunks`].
    Chunked,
}

/// What the guest would like to speak afterwards on the same connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    None,
    /// A WebSocket and nothing else: its bytes belong to this one request.
    WebSocket,
    /// Anything else. In HTTP/2 or TLS each request would name a host of its own behind the proxy's back, so the header
    /// `upgrade` must be withheld from the server, which then answers as if it had not been there.
    Other,
}

/// Reads the head out of all bytes so far, from the beginning of a request.
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
    /// The head without the headers of those names (given in lower case) that are to be removed, if it has any.
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

    /// The head as it came.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

enum Kind {
    Unclear,
    Http,
    Other,
}

/// Whether it begins as a request does: a word and a blank. Line breaks and blanks before it, and other blanks behind
/// it, are tolerated by some servers and therefore HTTP, too.
fn kind(bytes: &[u8]) -> Result<Kind, Denial> {
    if let [b'\r' | b'\n' | b' ' | b'\t', ..] = bytes {
        return Err(malformed("a blank or a line break before the request"));
    }
    if bytes.starts_with(b"SSH-") {
        return ssh(bytes);
    }
    // Not later than the length alone says it: what a verdict is must not depend on how the bytes were split.
    match bytes.iter().take(MAX_METHOD + 1).position(|b| !is_token(*b)) {
        Some(end) if end > 0 => match bytes.get(end) {
            Some(b' ' | b'\t' | 0x0b | 0x0c) => Ok(Kind::Http),
            Some(_) | None => Ok(Kind::Other),
        },
        Some(_) => Ok(Kind::Other),
        None if bytes.len() > MAX_METHOD => Err(malformed("a method of too many characters")),
        None => Ok(Kind::Unclear),
    }
}

/// The first line of an SSH client may look like the beginning of a request with a strange method.
fn ssh(bytes: &[u8]) -> Result<Kind, Denial> {
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

/// Where the first empty line ends. Until there each line must end in CR LF and none may be a folded one: here
/// lenient servers differ from strict ones.
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

/// Where each header's line is, with its CR LF.
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
        return Err(malformed("CONNECT: connect to the server itself"));
    }
    if method == "PRI" {
        return Err(malformed("HTTP/2 without TLS"));
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(());
    }
    Err(malformed("a request's target that is not a path"))
}

/// The values of a header.
fn values<'h>(headers: &'h [httparse::Header<'_>], name: &'h str) -> impl Iterator<Item = &'h [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// A header's only value.
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
        (None, Some(coding)) if chunks_known && coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (None, Some(_)) => Err(malformed("a Transfer-Encoding that is not chunked alone")),
        (Some(_), Some(_)) => Err(malformed("both Content-Length and Transfer-Encoding")),
    }
}

/// Digits and nothing else; `u64::from_str` would take a sign.
fn decimal<N: std::str::FromStr>(digits: &[u8]) -> Option<N> {
    let digits = std::str::from_utf8(digits).ok()?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Servers differ in whether `Connection` must name it, too: the header alone counts.
fn upgrade(headers: &[httparse::Header<'_>]) -> Upgrade {
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
