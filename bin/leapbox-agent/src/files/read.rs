//! Reads files, by bytes and by lines. Called by `connection`.

use super::{as_user, at, open_regular, resolve};
use crate::budget::Lease;
use crate::fault;
use crate::guest::Guest;
use leapbox_guest_protocol::{FaultKind, GuestFault, MAX_CONTENT, ReadFile};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;

/// A range of a file's bytes, of which all or the first or last lines are read.
struct Range<'a> {
    file: &'a File,
    path: &'a Path,
    from: u64,
    /// The offset after the last byte; beyond the file's end if its size is not known.
    to: u64,
    size_known: bool,
}

/// Reads a file, or the part of it that the request asks for.
pub(crate) fn read(guest: &Guest, request: &ReadFile, lease: &mut Lease<'_>) -> Result<Vec<u8>, GuestFault> {
    if request.head.is_some() && request.tail.is_some() {
        return Err(fault::invalid("head and tail exclude each other"));
    }
    let path = resolve(guest, &request.path)?;
    as_user(guest, || {
        let (file, metadata) = open_regular(&path, OpenOptions::new().read(true))?;
        let from = request.offset.unwrap_or(0);
        let limit = request.limit.map_or(u64::MAX, u64::from);
        // Files of /proc and /sys say that they are empty. An empty regular file is read in the same way, to its end.
        let size_known = metadata.len() > 0;
        let size = if size_known { metadata.len() } else { u64::MAX };
        let to = from.saturating_add(limit).min(size);
        let range = Range { file: &file, path: &path, from: from.min(to), to, size_known };
        // Twice, for the content and for the frame that it is sent in.
        lease.grow(2 * range.expected())?;
        match (request.head, request.tail) {
            (Some(lines), _) => range.head(lines),
            (None, Some(lines)) => range.tail(lines),
            (None, None) => range.whole(),
        }
    })
}

impl Range<'_> {
    /// The most bytes that the range can have, up to the bound of a call; for an unknown size, one chunk.
    fn expected(&self) -> usize {
        if !self.size_known {
            return CHUNK;
        }
        usize::try_from(self.to - self.from).unwrap_or(usize::MAX).min(MAX_CONTENT)
    }

    fn whole(&self) -> Result<Vec<u8>, GuestFault> {
        if self.size_known && self.to - self.from > MAX_CONTENT as u64 {
            return Err(self.too_large());
        }
        self.forward(|_| false)
    }

    fn head(&self, lines: u32) -> Result<Vec<u8>, GuestFault> {
        let mut missing = lines;
        if missing == 0 {
            return Ok(Vec::new());
        }
        self.forward(|byte| {
            missing -= u32::from(byte == b'\n');
            missing == 0
        })
    }

    fn tail(&self, lines: u32) -> Result<Vec<u8>, GuestFault> {
        if !self.size_known {
            let mut content = self.forward(|_| false)?;
            let start = last_lines(&content, lines);
            content.drain(..start);
            return Ok(content);
        }
        self.backward(lines)
    }

    /// Reads from the start, up to and including the first byte for which `stop` returns true.
    fn forward(&self, mut stop: impl FnMut(u8) -> bool) -> Result<Vec<u8>, GuestFault> {
        let mut content = Vec::with_capacity(self.expected().min(CHUNK));
        let mut offset = self.from;
        let mut chunk = vec![0; CHUNK.min(self.expected().max(1))];
        while offset < self.to {
            let wanted = usize::try_from(self.to - offset).unwrap_or(CHUNK).min(chunk.len());
            let len = self.read_at(&mut chunk[..wanted], offset)?;
            if len == 0 {
                break;
            }
            let end = chunk[..len].iter().position(|byte| stop(*byte));
            content.extend_from_slice(&chunk[..end.map_or(len, |end| end + 1)]);
            if content.len() > MAX_CONTENT {
                return Err(self.too_large());
            }
            if end.is_some() {
                break;
            }
            offset += len as u64;
        }
        Ok(content)
    }

    /// Reads chunks from the end until they hold enough lines.
    fn backward(&self, lines: u32) -> Result<Vec<u8>, GuestFault> {
        // From the end, because the last lines of a large log must not take reading all of it.
        let mut content = Vec::new();
        let mut start = self.to;
        while start > self.from {
            let len = (start - self.from).min(CHUNK as u64);
            start -= len;
            let mut chunk = vec![0; usize::try_from(len).unwrap_or(CHUNK)];
            let read = self.read_at(&mut chunk, start)?;
            chunk.truncate(read);
            chunk.extend_from_slice(&content);
            content = chunk;
            let found = last_lines(&content, lines);
            if found > 0 || lines == 0 {
                content.drain(..found);
                return Ok(content);
            }
            if content.len() > MAX_CONTENT {
                return Err(self.too_large());
            }
        }
        Ok(content)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, GuestFault> {
        loop {
            match self.file.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map_err(|error| at(self.path, &error)),
            }
        }
    }

    fn too_large(&self) -> GuestFault {
        let message = format!(
            "{}: is larger than the {} MiB one call returns; read it in parts with offset and limit",
            self.path.display(),
            MAX_CONTENT >> 20
        );
        GuestFault::new(FaultKind::TooLarge, message)
    }
}

/// Returns the offset at which the last `lines` lines start; 0 if there are not more than that. A newline at the very
/// end ends the last line and starts none, as in tail(1).
fn last_lines(content: &[u8], lines: u32) -> usize {
    if lines == 0 {
        return content.len();
    }
    let body = content.strip_suffix(b"\n").unwrap_or(content);
    let newlines = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    newlines.map(|(at, _)| at + 1).nth(lines as usize - 1).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::last_lines;

    #[test]
    fn the_last_lines_start_behind_the_right_newline() {
        assert_eq!(last_lines(b"a\nb\nc\n", 1), 4);
        assert_eq!(last_lines(b"a\nb\nc", 1), 4);
        assert_eq!(last_lines(b"a\nb\nc\n", 2), 2);
        assert_eq!(last_lines(b"a\nb\nc\n", 3), 0);
        assert_eq!(last_lines(b"\n\n", 1), 1);
        assert_eq!(last_lines(b"a\n", 0), 2);
    }
}
