//! Archive ids for tests, of short names that say what they are of: `ckp-1`, `base-2`.

use leapbox_ids::ArchiveId;

/// The id of the checkpoint or base with this short name; other short names have other ids.
pub(crate) fn archive_id(short: &str) -> ArchiveId {
    archive_name(short).parse().expect("the short name of a checkpoint or base")
}

/// The name of that archive's directory. Names of other files stay as they are.
pub(crate) fn archive_name(short: &str) -> String {
    match short.split_once('-') {
        // A checkpoint's id has letters only, and no digit becomes the `a` that fills it up.
        Some(("ckp", number)) => {
            let letters: String = number.bytes().map(|digit| char::from(digit - b'0' + b'b')).collect();
            format!("ckp-{letters:a<20}")
        }
        Some(("base", number)) => format!("base-{number:f<40}"),
        _ => short.to_owned(),
    }
}
