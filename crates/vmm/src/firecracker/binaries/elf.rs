//! Tells whether an executable is static, so that it runs in a jail without libraries.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// The first bytes of a 64-bit little-endian ELF file.
const MAGIC: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];
const FILE_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// The type of the program header that names the dynamic loader.
const PT_INTERP: u32 = 3;

/// True for an ELF executable that asks for no dynamic loader (`static` and `static-pie` alike). False for everything
/// else, scripts included. Source: System V ABI, chapters 4 and 5.
pub(super) fn is_static(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut header = [0; FILE_HEADER];
    match file.read_exact(&mut header) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        read => read?,
    }
    if !header.starts_with(&MAGIC) {
        return Ok(false);
    }
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let mut offset = [0; 8];
    offset.copy_from_slice(&header[32..40]);
    let (entry_size, entries) = (usize::from(half(54)), usize::from(half(56)));
    if entry_size != PROGRAM_HEADER || entries == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::Start(u64::from_le_bytes(offset)))?;
    let mut table = vec![0; entry_size * entries];
    file.read_exact(&mut table)?;
    let kind = |entry: &[u8]| u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
    Ok(table.chunks_exact(entry_size).all(|entry| kind(entry) != PT_INTERP))
}
