//! Finds the compressed kernel inside a bzImage.
//!
//! The offsets are those of the Linux/x86 boot protocol (Documentation/arch/x86/boot.rst): the setup header begins at
//! 0x1f1, `payload_offset` counts from the protected-mode code, and the last four bytes of the payload are its
//! decompressed length, little-endian. No input makes it panic.

const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// The first version of the protocol that has `payload_offset` and `payload_length`.
const VERSION_2_08: u16 = 0x0208;
const SECTOR: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Xz,
    Zstd,
    Lz4,
}

/// The compressed kernel: a stream that the usual tool of its compression can read, and its length in bytes once
/// decompressed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Payload<'a> {
    pub(super) compression: Compression,
    pub(super) stream: &'a [u8],
    pub(super) length: u32,
}

fn u32_at(image: &[u8], at: usize) -> Result<u32, &'static str> {
    let bytes = image.get(at..at + 4).and_then(|b| b.try_into().ok());
    bytes.map(u32::from_le_bytes).ok_or("it is too short")
}

/// Finds the payload; the error says what is wrong with the image.
pub(super) fn payload(image: &[u8]) -> Result<Payload<'_>, &'static str> {
    if image.get(MAGIC..MAGIC + 4) != Some(b"HdrS".as_slice()) {
        return Err("it is not a bzImage");
    }
    let version = u32_at(image, VERSION)? as u16;
    if version < VERSION_2_08 {
        return Err("its boot protocol is older than 2.08");
    }
    // By the protocol, zero means four (kernels that are older than the field).
    let sectors = match image.get(SETUP_SECTORS).copied().ok_or("it is too short")? {
        0 => 4,
        n => usize::from(n),
    };
    // The boot sector comes before the setup code and is not counted in `setup_sects`.
    let start = (sectors + 1) * SECTOR + u32_at(image, PAYLOAD_OFFSET)? as usize;
    let length = u32_at(image, PAYLOAD_LENGTH)? as usize;
    let whole = image.get(start..start.saturating_add(length)).ok_or("its payload lies outside of the file")?;
    let (packed, trailer) = whole.split_last_chunk::<4>().ok_or("its payload is empty")?;
    let compression = compression_of(packed)?;
    // gzip's own trailer ends with that length. To the other formats the build appends it, and their tools would refuse
    // the extra bytes.
    let stream = if compression == Compression::Gzip { whole } else { packed };
    Ok(Payload { compression, stream, length: u32::from_le_bytes(*trailer) })
}

fn compression_of(stream: &[u8]) -> Result<Compression, &'static str> {
    let known: [(&[u8], Compression); 4] = [
        (&[0x1f, 0x8b], Compression::Gzip),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], Compression::Xz),
        (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
        (&[0x02, 0x21, 0x4c, 0x18], Compression::Lz4),
    ];
    let found = known.iter().find(|(magic, _)| stream.starts_with(magic));
    found.map(|(_, c)| *c).ok_or("its compression is none of gzip, xz, zstd, lz4")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(setup_sectors: u8, payload: &[u8]) -> Vec<u8> {
        let start = (if setup_sectors == 0 { 4 } else { usize::from(setup_sectors) } + 1) * SECTOR;
        let mut image = vec![0; start + 16];
        image[SETUP_SECTORS] = setup_sectors;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[VERSION..VERSION + 2].copy_from_slice(&0x020f_u16.to_le_bytes());
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn the_payload_of_an_lz4_image_is_cut_before_its_length() {
        let payload_bytes = [&[0x02, 0x21, 0x4c, 0x18], b"data".as_slice(), &7_u32.to_le_bytes()].concat();
        for sectors in [0, 27] {
            let image = image(sectors, &payload_bytes);
            let found = payload(&image).expect("a payload");
            assert_eq!(found, Payload { compression: Compression::Lz4, stream: &payload_bytes[..8], length: 7 });
        }
    }

    #[test]
    fn gzip_keeps_its_own_trailer() {
        let payload_bytes = [&[0x1f, 0x8b], b"data".as_slice(), &7_u32.to_le_bytes()].concat();
        let image = image(4, &payload_bytes);
        assert_eq!(payload(&image).expect("a payload").stream, payload_bytes);
    }

    #[test]
    fn a_payload_outside_of_the_file_is_refused() {
        let mut image = image(4, &[0x1f, 0x8b, 0, 0, 0, 0]);
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(payload(&image).is_err());
    }

    proptest! {
        #[test]
        fn no_input_makes_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let _ = payload(&bytes);
            if bytes.len() > MAGIC + 4 {
                bytes[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
                let _ = payload(&bytes);
            }
        }
    }
}
