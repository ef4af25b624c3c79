//! Bundles of certificates: one PEM after the other, comments between them. Pure.
//!
//! A sandbox's own certificate is known by the name it was issued to, however it came into a bundle: the guest's own
//! `update-ca-certificates` puts it there, too.

use leapbox_guest_protocol::{MAX_CERTIFICATE, SANDBOX_CA_NAME};

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE-----";

/// The certificate of a sandbox's own authority.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Certificate {
    pem: String,
}

/// What cannot be such a certificate.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CertificateError {
    /// It has more than the protocol's bound.
    #[error("the certificate has more than {MAX_CERTIFICATE} bytes")]
    TooLong,
    /// It has no such lines around it, or other text besides.
    #[error("the certificate is not one PEM")]
    NotPem,
    /// What is between them is not base64.
    #[error("the certificate is not base64")]
    NotBase64,
    /// It names somebody else.
    #[error("the certificate does not name {SANDBOX_CA_NAME}")]
    AnothersName,
}

impl Certificate {
    /// One PEM, with whatever line ends.
    pub(super) fn parse(text: &str) -> Result<Self, CertificateError> {
        if text.len() > MAX_CERTIFICATE {
            return Err(CertificateError::TooLong);
        }
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let [first, body @ .., last] = lines.as_slice() else { return Err(CertificateError::NotPem) };
        if first.as_bytes() != BEGIN || last.as_bytes() != END {
            return Err(CertificateError::NotPem);
        }
        let body = body.concat();
        if body.trim_end_matches('=').bytes().any(|byte| six_bits(byte).is_none()) {
            return Err(CertificateError::NotBase64);
        }
        if !names_us(body.as_bytes()) {
            return Err(CertificateError::AnothersName);
        }
        let mut pem = format!("{first}\n");
        for line in body.as_bytes().chunks(64) {
            pem.extend(line.iter().copied().map(char::from));
            pem.push('\n');
        }
        pem.extend([last, "\n"]);
        Ok(Self { pem })
    }

    /// In lines of 64 characters, the last one ended too.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }
}

/// A bundle in which this is the only certificate of a sandbox's own authority: its last one.
pub(super) fn with(bundle: &[u8], certificate: &Certificate) -> Vec<u8> {
    let mut joined = without(bundle);
    if joined.last().is_some_and(|last| *last != b'\n') {
        joined.push(b'\n');
    }
    joined.extend(certificate.pem.as_bytes());
    joined
}

/// A bundle without any certificate of a sandbox's own authority. Every other byte stays.
pub(super) fn without(bundle: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(bundle.len() + MAX_CERTIFICATE);
    // Where the certificate begins that is being read.
    let mut begun: Option<usize> = None;
    let mut at = 0;
    for line in bundle.split_inclusive(|byte| *byte == b'\n') {
        let end = at + line.len();
        match (line.trim_ascii(), begun) {
            // One that never ended before this one begins is nobody's.
            (BEGIN, before) => {
                kept.extend(&bundle[before.unwrap_or(at)..at]);
                begun = Some(at);
            }
            (END, Some(start)) => {
                if !is_ours(&bundle[start..end]) {
                    kept.extend(&bundle[start..end]);
                }
                begun = None;
            }
            (_, None) => kept.extend(line),
            (_, Some(_)) => {}
        }
        at = end;
    }
    kept.extend(&bundle[begun.unwrap_or(at)..at]);
    kept
}

/// Whether this PEM is of a sandbox's own authority.
pub(super) fn is_ours(pem: &[u8]) -> bool {
    let lines = pem.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let body: Vec<&[u8]> = lines.filter(|line| !line.starts_with(b"-----")).collect();
    names_us(&body.concat())
}

/// Whether a certificate in base64 names a sandbox's own authority. Names are in it as they are written.
fn names_us(body: &[u8]) -> bool {
    let name = SANDBOX_CA_NAME.as_bytes();
    decode(body).windows(name.len()).any(|window| window == name)
}

/// Base64's bytes (RFC 4648); characters that are not base64's count for nothing.
fn decode(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() / 4 * 3 + 3);
    let (mut bits, mut held) = (0u32, 0);
    for six in body.iter().filter_map(|byte| six_bits(*byte)) {
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    bytes
}

fn six_bits(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::tests::{OTHERS, OURS, OURS_TOO};

    fn certificate(pem: &str) -> Certificate {
        Certificate::parse(pem).expect("a certificate")
    }

    #[test]
    fn base64_is_decoded() {
        assert_eq!(decode(b"TGVhcGJveCBzYW5kYm94IENB"), b"Leapbox sandbox CA");
        assert_eq!((decode(b"TGU="), decode(b"TA==")), (b"Le".to_vec(), b"L".to_vec()));
    }

    #[test]
    fn a_certificate_is_one_pem_of_a_sandboxs_authority() {
        assert_eq!(certificate(OURS).pem(), OURS);
        assert_eq!(certificate(&OURS.replace('\n', "\r\n")).pem(), OURS, "whatever its line ends");
        let refused = |text: &str| Certificate::parse(text).err();
        assert_eq!(refused(OTHERS), Some(CertificateError::AnothersName));
        assert_eq!(refused(""), Some(CertificateError::NotPem));
        assert_eq!(refused(&format!("# comment\n{OURS}")), Some(CertificateError::NotPem));
        assert_eq!(refused(&format!("{OURS}{OURS}")), Some(CertificateError::NotBase64));
        assert_eq!(refused(&OURS.replace("MII", "M;I")), Some(CertificateError::NotBase64));
        assert_eq!(refused(&format!("{OURS}{}", "\n".repeat(MAX_CERTIFICATE))), Some(CertificateError::TooLong));
    }

    #[test]
    fn ours_is_added_once_and_taken_away_without_a_trace() {
        let bundle = format!("# comment\n{OTHERS}\n{OTHERS}");
        let joined = with(bundle.as_bytes(), &certificate(OURS));
        assert_eq!(joined, format!("{bundle}{OURS}").as_bytes());
        assert_eq!(with(&joined, &certificate(OURS)), joined);
        assert_eq!(without(&joined), bundle.as_bytes());
    }

    #[test]
    fn an_older_one_of_ours_is_replaced_wherever_it_is() {
        let bundle = format!("{OURS_TOO}{OTHERS}{OURS_TOO}");
        assert_eq!(with(bundle.as_bytes(), &certificate(OURS)), format!("{OTHERS}{OURS}").as_bytes());
    }

    #[test]
    fn bytes_that_are_no_certificate_stay_as_they_are() {
        let half = OURS.strip_suffix("-----END CERTIFICATE-----\n").expect("ends so");
        for bundle in ["", "no newline", half, &format!("{half}{OTHERS}"), "-----END CERTIFICATE-----\n"] {
            assert_eq!(without(bundle.as_bytes()), bundle.as_bytes(), "{bundle:?}");
        }
        assert_eq!(with(b"no newline", &certificate(OURS)), format!("no newline\n{OURS}").as_bytes());
        assert_eq!(without(b"\xff\xfe\n"), b"\xff\xfe\n", "whatever its encoding");
    }
}
