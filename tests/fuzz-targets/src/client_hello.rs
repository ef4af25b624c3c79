//! The TLS hello's reader: whatever a guest sends first, split wherever it likes.

use leapbox_egress_policy::DomainName;
use leapbox_egress_policy::stream::Progress;
use leapbox_egress_policy::stream::client_hello::read;

/// Reads a TLS hello, whole and cut where the last byte says.
pub fn client_hello(bytes: &[u8]) {
    let whole = read(bytes);
    if let Ok(Progress::Done(hello)) = &whole
        && let Some(name) = &hello.server_name
    {
        assert_eq!(DomainName::parse(name.as_str()).as_ref(), Ok(name), "the name is not in its normal form");
    }
    // The last byte says where the first segment ends.
    let Some(cut) = bytes.last().map(|last| bytes.len() * usize::from(*last) / 256) else { return };
    match read(&bytes[..cut]) {
        Ok(Progress::More) => {}
        Err(_) => assert!(whole.is_err(), "what was refused is accepted when more has come"),
        early => assert_eq!(early, whole, "what was decided changes when more has come"),
    }
    in_records_of_its_own(bytes, cut);
}

/// A whole hello of one record is the same hello in two.
fn in_records_of_its_own(bytes: &[u8], cut: usize) {
    let [22, 3, minor, high, low, fragment @ ..] = bytes else { return };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let Some(fragment) = fragment.get(..length).filter(|fragment| (1..fragment.len()).contains(&cut)) else { return };
    let one = read(&bytes[..5 + length]);
    if !matches!(one, Ok(Progress::Done(_))) {
        return;
    }
    let (first, second) = fragment.split_at(cut);
    let mut two = Vec::with_capacity(bytes.len() + 5);
    for part in [first, second] {
        let length = u16::try_from(part.len()).expect("no longer than the record").to_be_bytes();
        two.extend_from_slice(&[22, 3, *minor, length[0], length[1]]);
        two.extend_from_slice(part);
    }
    // Five bytes more may be too many.
    if two.len() < leapbox_egress_policy::stream::MAX_FIRST_BYTES {
        assert_eq!(one, read(&two), "a hello in two records is another one");
    }
}
