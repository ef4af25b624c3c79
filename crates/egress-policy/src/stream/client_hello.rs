//! The TLS client's first message (RFC 8446, 4.1.2; server_name: RFC 6066, 3), put together from its records.
//!
//! Only what a server could read in one way alone is read: what contradicts itself, or says a thing twice, is refused.

use super::{MAX_FIRST_BYTES, Progress};
use crate::denial::Denial;
use crate::name::{DomainName, NameError};
use std::borrow::Cow;

const HANDSHAKE: u8 = 22;
/// Content types of TLS: change_cipher_spec to heartbeat. A connection begins with `HANDSHAKE` only.
const CONTENT_TYPES: std::ops::RangeInclusive<u8> = 20..=24;
const CLIENT_HELLO: u8 = 1;
const MAX_RECORD: usize = 16 * 1024;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
/// encrypted_client_hello (RFC 9849) and its drafts, and encrypted_server_name before them.
const ENCRYPTED: [u16; 7] = [0xfe0d, 0xfe0c, 0xfe0b, 0xfe0a, 0xfe09, 0xfe08, 0xffce];

/// What a hello says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// SNI, if it is there.
    pub server_name: Option<DomainName>,
    /// Whether the real name may be another, hidden one. Browsers send the extension at random too, and nobody can
    /// tell the difference: that is its purpose.
    pub encrypted: bool,
    /// Application protocols in the client's order, such as `h2`.
    pub alpn: Vec<Vec<u8>>,
}

/// Reads the hello out of all bytes so far. An IP address in place of a name is [`Denial::NoName`].
pub fn read(bytes: &[u8]) -> Result<Progress<ClientHello>, Denial> {
    let bytes = bytes.get(..MAX_FIRST_BYTES).unwrap_or(bytes);
    match bytes {
        [] => return Ok(Progress::More),
        [first, ..] if !CONTENT_TYPES.contains(first) => return Ok(Progress::Other),
        [HANDSHAKE] | [HANDSHAKE, 3, ..] => {}
        // A binary protocol of its own may begin so; TLS would go on with its version.
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

/// The hello's body, put together from as many records as it takes; `None` if there are more to come.
fn message(mut bytes: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Denial> {
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    loop {
        let Some((record, rest)) = record(bytes)? else { return Ok(None) };
        let fragment = rest.get(..record).unwrap_or(rest);
        let seen = message.len() + record;
        if message.is_empty() {
            message = Cow::Borrowed(fragment);
        } else {
            message.to_mut().extend_from_slice(fragment);
        }
        let length = message_length(&message)?;
        // In one record with the hello there is nothing else: keys change right after it (RFC 8446, 5.1).
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

/// A record's length and what follows its header, if the header is there.
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
    if length == 0 || length > MAX_RECORD {
        return Err(malformed("a TLS record of an impossible length"));
    }
    Ok(Some((length, rest)))
}

/// The message's length with its header, if the header is there.
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
    // Before TLS 1.2 there need not be any.
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
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    if seen.len() < count { Err(malformed("a TLS hello with an extension twice")) } else { Ok(()) }
}

fn server_name(body: &mut Reader<'_>) -> Result<DomainName, Denial> {
    let mut list = Reader(body.vector()?);
    body.end()?;
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

/// What of the message is still to be read.
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

    /// What a length of one byte announces.
    fn short_vector(&mut self) -> Result<&'b [u8], Denial> {
        let length = self.take(1)?.iter().map(|byte| usize::from(*byte)).sum();
        self.take(length)
    }

    /// What a length of two bytes announces.
    fn vector(&mut self) -> Result<&'b [u8], Denial> {
        let length = self.number()?;
        self.take(length.into())
    }
}
