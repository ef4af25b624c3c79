//! Finds the end of a chunked body (RFC 9112, 7.1) while it passes. Whatever two implementations could read differently
//! is an error: a body that ends earlier for the server than for the proxy would hide a request in its rest.
//!
//! ```text
//! Size ──;──► Extension ──CR──► SizeLf ──► Data ──► DataCr ──► DataLf ──► Size …
//!   └──────────────CR─────────────┘ └── size 0 ──► Trailer ──empty line──► Done
//! ```

use crate::denial::Denial;
use crate::header::is_token;

// Without bounds, extensions and trailers would be traffic without end that is neither body nor request.
/// Bytes of one chunk's extensions.
const MAX_EXTENSION: usize = 1024;
/// Bytes of all trailers together.
const MAX_TRAILERS: usize = 8 * 1024;
// More hexadecimal digits do not fit 64 bits. A parser that let the size overflow would see another end of the chunk.
const MAX_DIGITS: usize = 16;
// As trailers these would contradict the head, and some servers merge trailers into the headers (RFC 9110, 6.5.1).
const NOT_TRAILERS: [&[u8]; 3] = [b"content-length", b"host", b"transfer-encoding"];

/// The position within one chunked body, across reads.
#[derive(Debug)]
pub struct Chunks {
    state: State,
    /// The trailer line that has begun, bounded by `MAX_TRAILERS`.
    line: Vec<u8>,
    trailers: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Size { size: u64, digits: usize },
    Extension { size: u64, length: usize },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailer,
    Done,
}

impl Default for Chunks {
    fn default() -> Self {
        Self::new()
    }
}

impl Chunks {
    /// Starts at a body's first byte.
    pub fn new() -> Self {
        Self { state: State::Size { size: 0, digits: 0 }, line: Vec::new(), trailers: 0 }
    }

    /// Takes the body's next bytes. Returns how many of them belong to the body, and whether it ends there.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, bool), Denial> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            self.state = match self.state {
                State::Done => break,
                // A chunk's data is skipped in one step: only its framing is read byte by byte.
                State::Data { left } => {
                    let here = (bytes.len() - at).min(usize::try_from(left).unwrap_or(usize::MAX));
                    at += here;
                    let left = left - here as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                    continue;
                }
                State::Size { size, digits } => in_size(size, digits, *byte)?,
                State::Extension { size, length } => in_extension(size, length, *byte)?,
                State::SizeLf { size: 0 } => expect(*byte, b'\n', State::Trailer)?,
                State::SizeLf { size } => expect(*byte, b'\n', State::Data { left: size })?,
                State::DataCr => expect(*byte, b'\r', State::DataLf)?,
                State::DataLf => expect(*byte, b'\n', State::Size { size: 0, digits: 0 })?,
                State::Trailer => self.in_trailer(*byte)?,
            };
            at += 1;
        }
        Ok((at, matches!(self.state, State::Done)))
    }

    fn in_trailer(&mut self, byte: u8) -> Result<State, Denial> {
        self.trailers += 1;
        if self.trailers > MAX_TRAILERS {
            return Err(malformed("trailers longer than 8 KiB"));
        }
        self.line.push(byte);
        if byte != b'\n' {
            return Ok(State::Trailer);
        }
        let line = self.line.strip_suffix(b"\r\n").ok_or(malformed("a trailer that ends without CR"))?;
        if line.is_empty() {
            return Ok(State::Done);
        }
        check_trailer(line)?;
        self.line.clear();
        Ok(State::Trailer)
    }
}

fn in_size(size: u64, digits: usize, byte: u8) -> Result<State, Denial> {
    if let Some(digit) = char::from(byte).to_digit(16) {
        if digits == MAX_DIGITS {
            return Err(malformed("a chunk's size"));
        }
        return Ok(State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 });
    }
    match byte {
        b'\r' if digits > 0 => Ok(State::SizeLf { size }),
        b';' if digits > 0 => Ok(State::Extension { size, length: 0 }),
        _ => Err(malformed("a chunk's size")),
    }
}

fn in_extension(size: u64, length: usize, byte: u8) -> Result<State, Denial> {
    match byte {
        b'\r' => Ok(State::SizeLf { size }),
        b'\t' | b' '..=b'~' if length < MAX_EXTENSION => Ok(State::Extension { size, length: length + 1 }),
        _ => Err(malformed("a chunk's extension")),
    }
}

fn expect(byte: u8, wanted: u8, next: State) -> Result<State, Denial> {
    if byte == wanted { Ok(next) } else { Err(malformed("a chunk's end")) }
}

/// Checks that a line has the form `name: value`, is not folded and holds no control character.
fn check_trailer(line: &[u8]) -> Result<(), Denial> {
    let colon = line.iter().position(|b| *b == b':').ok_or(malformed("a trailer without a colon"))?;
    let (name, value) = line.split_at(colon);
    if name.is_empty()
        || !name.iter().all(|b| is_token(*b))
        || value.iter().any(|b| b.is_ascii_control() && *b != b'\t')
    {
        return Err(malformed("a trailer"));
    }
    if NOT_TRAILERS.iter().any(|refused| refused.eq_ignore_ascii_case(name)) {
        return Err(malformed("a trailer that only a head may have"));
    }
    Ok(())
}

fn malformed(what: &'static str) -> Denial {
    Denial::Malformed { what }
}
