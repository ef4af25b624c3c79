//! Adds a certificate to a bundle and removes it. A bundle is one PEM after the other, with comments between them.
//! Pure.
//!
//! A sandbox's own certificate is recognised by its subject, however it came into a bundle: the guest's own
//! `update-ca-certificates` puts it there, too.

use leapbox_guest_protocol::{MAX_CERTIFICATE, SANDBOX_CA_NAME};

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE-----";

/// The certificate of a sandbox's own authority, as one PEM in a fixed layout.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Certificate {
    pem: String,
}

/// The reason why a text is not the certificate of a sandbox's own authority.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CertificateError {
    #[error("the certificate has more than {MAX_CERTIFICATE} bytes")]
    TooLong,
    /// The BEGIN and END lines are missing, or there is other text around them.
    #[error("the certificate is not one PEM")]
    NotPem,
    /// The text between the lines is not base64; it holds a second certificate, for instance.
    #[error("the certificate is not base64")]
    NotBase64,
    /// It was issued to another name. The agent puts no authority but ours into a guest's trust store.
    #[error("the certificate does not name {SANDBOX_CA_NAME}")]
    OtherSubject,
}

impl Certificate {
    /// Parses one PEM, with any line ends.
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
        if !names_sandbox_ca(body.as_bytes()) {
            return Err(CertificateError::OtherSubject);
        }
        let mut pem = format!("{first}\n");
        for line in body.as_bytes().chunks(64) {
            pem.extend(line.iter().copied().map(char::from));
            pem.push('\n');
        }
        pem.extend([last, "\n"]);
        Ok(Self { pem })
    }

    /// The PEM in lines of 64 characters, with a newline at its end.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }
}

/// Returns the bundle with this certificate at its end, and without any other of a sandbox's own authority.
pub(super) fn with(bundle: &[u8], certificate: &Certificate) -> Vec<u8> {
    let mut joined = without(bundle);
    if joined.last().is_some_and(|last| *last != b'\n') {
        joined.push(b'\n');
    }
    joined.extend(certificate.pem.as_bytes());
    joined
}

/// Returns the bundle without any certificate of a sandbox's own authority. Every other byte stays.
pub(super) fn without(bundle: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(bundle.len() + MAX_CERTIFICATE);
    // Offset at which the certificate begins that is being read.
    let mut begun: Option<usize> = None;
    let mut at = 0;
    for line in bundle.split_inclusive(|byte| *byte == b'\n') {
        let end = at + line.len();
        match (line.trim_ascii(), begun) {
            // A certificate without an END before the next BEGIN is not recognised, and its bytes stay.
            (BEGIN, before) => {
                kept.extend(&bundle[before.unwrap_or(at)..at]);
                begun = Some(at);
            }
            (END, Some(start)) => {
                if !is_sandbox_ca(&bundle[start..end]) {
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

/// Whether this PEM is the certificate of a sandbox's own authority.
pub(super) fn is_sandbox_ca(pem: &[u8]) -> bool {
    let lines = pem.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let body: Vec<&[u8]> = lines.filter(|line| !line.starts_with(b"-----")).collect();
    names_sandbox_ca(&body.concat())
}

/// Whether a certificate in base64 names a sandbox's own authority.
fn names_sandbox_ca(body: &[u8]) -> bool {
    // DER holds the characters of a name as they are, so searching for them needs no parser of X.509.
    let name = SANDBOX_CA_NAME.as_bytes();
    decode(body).windows(name.len()).any(|window| window == name)
}

/// Decodes base64 (RFC 4648), skipping other characters: the bytes may be anything that the guest's root has written.
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
        assert_eq!(refused(OTHERS), Some(CertificateError::OtherSubject));
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
