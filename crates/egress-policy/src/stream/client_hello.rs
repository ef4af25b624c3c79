//! Reads the TLS client's first message (RFC 8446, 4.1.2; server_name: RFC 6066, 3) and puts it together from its
//! records.
//!
//! A hello that contradicts itself, or says something twice, is refused: two servers could read different names in it.

use super::{MAX_FIRST_BYTES, Progress};
use crate::denial::Denial;
use crate::name::{DomainName, NameError};
use std::borrow::Cow;

const HANDSHAKE: u8 = 22;
/// Content types of TLS, from change_cipher_spec to heartbeat. A connection begins with `HANDSHAKE` only.
const CONTENT_TYPES: std::ops::RangeInclusive<u8> = 20..=24;
const CLIENT_HELLO: u8 = 1;
const MAX_RECORD: usize = 16 * 1024;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
// encrypted_client_hello (RFC 9849) and its drafts, and encrypted_server_name before them: to a server that knows one
// of them, the visible name is not the real one.
const ENCRYPTED: [u16; 7] = [0xfe0d, 0xfe0c, 0xfe0b, 0xfe0a, 0xfe09, 0xfe08, 0xffce];

/// The parts of a hello that the policy is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// The SNI, if the hello has one.
    pub server_name: Option<DomainName>,
    /// Whether the real name may be another one, hidden by encryption. Browsers also send the extension with random
    /// content (GREASE), which by design cannot be told from a real one.
    pub encrypted: bool,
    /// The application protocols that the client offers (RFC 7301), in its order, such as `h2`.
    pub alpn: Vec<Vec<u8>>,
}

/// Reads the hello out of all bytes so far.
///
/// # Errors
/// [`Denial::NoName`] for an IP address in place of a name, [`Denial::Malformed`] for everything that begins like TLS
/// and is not one well-formed hello.
pub fn read(bytes: &[u8]) -> Result<Progress<ClientHello>, Denial> {
    let bytes = bytes.get(..MAX_FIRST_BYTES).unwrap_or(bytes);
    match bytes {
        [] => return Ok(Progress::More),
        [first, ..] if !CONTENT_TYPES.contains(first) => return Ok(Progress::Other),
        [HANDSHAKE] | [HANDSHAKE, 3, ..] => {}
        // Another binary protocol may begin with such a byte; in TLS, the version's 3 would follow.
        [first] if *first != HANDSHAKE => return Ok(Progress::More),
        [first, second, ..] if *first != HANDSHAKE && *second != 3 => return Ok(Progress::Other),
        _ => return Err(malformed("TLS that does not begin with a hello")),
    }
    let progress = match message(bytes)? {
        Some(message) => Progress::Done(hello(&mut Reader(&message))?),
        None => Progress::More,
    };
    progress.within(bytes.len(), "a TLS hello longer than 16 KiB")
}

/// Returns the hello's body, put together from its records, or `None` while some of it is missing.
fn message(mut bytes: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Denial> {
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    loop {
        let Some((record, rest)) = record(bytes)? else { return Ok(None) };
        let fragment = rest.get(..record).unwrap_or(rest);
        let seen = message.len() + record;
        // Nearly every hello is one record, which needs no copy.
        if message.is_empty() {
            message = Cow::Borrowed(fragment);
        } else {
            message.to_mut().extend_from_slice(fragment);
        }
        let length = message_length(&message)?;
        // The hello's last record holds nothing else, because keys change right after it (RFC 8446, 5.1). The length
        // that the record announces counts, so that the verdict does not wait for its bytes.
        if length.is_some_and(|length| seen > length) {
            return Err(malformed("a TLS hello with something after it"));
        }
        if fragment.len() < record {
            return Ok(None);
        }
        if length == Some(message.len()) {
            return Ok(Some(without_header(message)));
        }
        bytes = rest.get(record..).unwrap_or_default();
    }
}

/// Returns a record's length and the bytes behind its header, or `None` while the header is incomplete.
fn record(bytes: &[u8]) -> Result<Option<(usize, &[u8])>, Denial> {
    let [kind, major, _, high, low, rest @ ..] = bytes else {
        return match bytes {
            [] | [HANDSHAKE] | [HANDSHAKE, 3, ..] => Ok(None),
            _ => Err(malformed("a TLS hello that another message interrupts")),
        };
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if *kind != HANDSHAKE || *major != 3 {
        return Err(malformed("a TLS hello that another message interrupts"));
    }
    // Empty handshake records are forbidden (RFC 8446, 5.1), and would be a hello without progress.
    if length == 0 || length > MAX_RECORD {
        return Err(malformed("a TLS record of an impossible length"));
    }
    Ok(Some((length, rest)))
}

/// Returns the message's length with its header of 4 bytes, or `None` while the header is incomplete.
fn message_length(message: &[u8]) -> Result<Option<usize>, Denial> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(malformed("TLS that does not begin with a hello"));
    }
    let [_, a, b, c, ..] = message else { return Ok(None) };
    let length = 4 + u32::from_be_bytes([0, *a, *b, *c]) as usize;
    if length > MAX_FIRST_BYTES {
        return Err(malformed("a TLS hello longer than 16 KiB"));
    }
    Ok(Some(length))
}

fn without_header(message: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    match message {
        Cow::Borrowed(bytes) => Cow::Borrowed(bytes.get(4..).unwrap_or_default()),
        Cow::Owned(mut bytes) => {
            bytes.drain(..4.min(bytes.len()));
            Cow::Owned(bytes)
        }
    }
}

fn hello(reader: &mut Reader<'_>) -> Result<ClientHello, Denial> {
    // Any 3.x: TLS 1.3 writes 3.3 here, and names itself in an extension.
    let version = reader.take(2)?;
    if version.first() != Some(&3) {
        return Err(malformed("a TLS hello of an unknown version"));
    }
    reader.take(32)?;
    let session = reader.short_vector()?;
    let suites = reader.vector()?;
    let compression = reader.short_vector()?;
    if session.len() > 32 || suites.is_empty() || !suites.len().is_multiple_of(2) || compression.is_empty() {
        return Err(malformed("a TLS hello of impossible lengths"));
    }
    let mut hello = ClientHello { server_name: None, encrypted: false, alpn: Vec::new() };
    // Before TLS 1.2 the list of extensions may be missing altogether.
    if !reader.is_empty() {
        let all = reader.vector()?;
        reader.end()?;
        extensions(&mut Reader(all), &mut hello)?;
    }
    Ok(hello)
}

fn extensions(reader: &mut Reader<'_>, hello: &mut ClientHello) -> Result<(), Denial> {
    let mut seen = Vec::new();
    while !reader.is_empty() {
        let kind = reader.number()?;
        let mut body = Reader(reader.vector()?);
        seen.push(kind);
        match kind {
            SERVER_NAME => hello.server_name = Some(server_name(&mut body)?),
            ALPN => hello.alpn = alpn(&mut body)?,
            kind if ENCRYPTED.contains(&kind) => hello.encrypted = true,
            _ => {}
        }
    }
    // A server may take the first or the last of two names (RFC 8446, 4.2 forbids the repetition).
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    if seen.len() < count { Err(malformed("a TLS hello with an extension twice")) } else { Ok(()) }
}

fn server_name(body: &mut Reader<'_>) -> Result<DomainName, Denial> {
    let mut list = Reader(body.vector()?);
    body.end()?;
    // host_name is the only type there is (RFC 6066, 3).
    if list.take(1)? != [0] {
        return Err(malformed("a server name of an unknown type"));
    }
    let name = list.vector()?;
    if !list.is_empty() {
        return Err(malformed("more than one server name"));
    }
    DomainName::from_wire(name).map_err(|error| match error {
        NameError::IpLiteral => Denial::NoName,
        _ => malformed("a server name that is no domain name"),
    })
}

fn alpn(body: &mut Reader<'_>) -> Result<Vec<Vec<u8>>, Denial> {
    let mut list = Reader(body.vector()?);
    body.end()?;
    let mut protocols = Vec::new();
    while !list.is_empty() {
        protocols.push(list.short_vector()?.to_vec());
    }
    if protocols.is_empty() || protocols.iter().any(Vec::is_empty) {
        return Err(malformed("an empty list or name of protocols"));
    }
    Ok(protocols)
}

fn malformed(what: &'static str) -> Denial {
    Denial::Malformed { what }
}

/// The part of the message that is still to be read.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn end(&self) -> Result<(), Denial> {
        if self.is_empty() { Ok(()) } else { Err(malformed("a TLS hello of impossible lengths")) }
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], Denial> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(malformed("a TLS hello of impossible lengths"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u16, Denial> {
        Ok(self.take(2)?.iter().fold(0, |number, byte| number << 8 | u16::from(*byte)))
    }

    /// Reads a vector with a length of one byte.
    fn short_vector(&mut self) -> Result<&'b [u8], Denial> {
        let length = self.take(1)?.iter().map(|byte| usize::from(*byte)).sum();
        self.take(length)
    }

    /// Reads a vector with a length of two bytes.
    fn vector(&mut self) -> Result<&'b [u8], Denial> {
        let length = self.number()?;
        self.take(length.into())
    }
}
