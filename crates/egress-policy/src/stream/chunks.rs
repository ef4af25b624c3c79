//! Finds the end of a chunked body (RFC 9112, 7.1) while it streams by.
//!
//! ```text
//! Size ──;──► Extension ──CR──► SizeLf ──► Data ──► DataCr ──► DataLf ──► Size …
//!   └──────────────CR─────────────┘ └── size 0 ──► Trailer ──empty line──► Done
//! ```

use crate::denial::Denial;
use crate::header::is_token;

/// Most bytes of one chunk's extensions, and of all trailers.
const MAX_EXTENSION: usize = 1024;
const MAX_TRAILERS: usize = 8 * 1024;
/// More hexadecimal digits than this don't fit 64 bits.
const MAX_DIGITS: usize = 16;
/// As trailers they would say again, and maybe otherwise, what the head has said.
const NOT_TRAILERS: [&[u8]; 3] = [b"content-length", b"host", b"transfer-encoding"];

/// Where in a chunked body one is.
#[derive(Debug)]
pub struct Chunks {
    state: State,
    /// Of the trailer's line that has begun.
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
    /// At a body's beginning.
    pub fn new() -> Self {
        Self { state: State::Size { size: 0, digits: 0 }, line: Vec::new(), trailers: 0 }
    }

    /// Takes the body's next bytes. Answers how many of them belong to it, and whether it ends there.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, bool), Denial> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            self.state = match self.state {
                State::Done => break,
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

/// A line of the form `name: value`, neither folded nor with control characters.
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
