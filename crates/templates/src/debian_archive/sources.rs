//! Reads the host's apt configuration: the sources of our suite, and the settings for downloads.

use super::{KEYRING, SUITE};
use std::path::Path;

/// The suffixes of the suites that belong to a release.
const POCKETS: [&str; 3] = ["", "-updates", "-security"];

/// An archive, with those of our suites that it is configured for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    uri: String,
    suites: Vec<String>,
}

fn is_our_suite(suite: &str) -> bool {
    POCKETS.iter().any(|p| suite == format!("{SUITE}{p}"))
}

/// The host's sources of our suite in the deb822 format; none if it has none of the release itself.
pub(super) fn of_host(apt: &Path) -> Option<String> {
    let mut entries = Vec::new();
    let mut files = vec![apt.join("sources.list")];
    files.extend(std::fs::read_dir(apt.join("sources.list.d")).into_iter().flatten().flatten().map(|e| e.path()));
    files.sort();
    for path in files {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        match path.extension().and_then(|e| e.to_str()) {
            Some("list") => entries.extend(one_line_style(&text)),
            Some("sources") => entries.extend(deb822_style(&text)),
            _ => {}
        }
    }
    // Updates or security fixes alone, as on a host of another release, are not enough to install a system from.
    let has_release = entries.iter().any(|e| e.suites.iter().any(|s| s == SUITE));
    has_release.then(|| as_deb822(&entries))
}

fn entry(uri: &str, suites: impl Iterator<Item = String>, has_main: bool) -> Option<Entry> {
    let suites: Vec<_> = suites.filter(|s| is_our_suite(s)).collect();
    // An archive on a CD or in a local directory need not contain the packages of the template.
    let fetched = ["http://", "https://", "mirror+"].iter().any(|scheme| uri.starts_with(scheme));
    // Only mirrors of Debian's archives, which are known by the last segment of their URL: a third party's repository
    // may have a suite of the same name.
    let debian = uri.trim_end_matches('/').rsplit('/').next().is_some_and(|last| last.starts_with("debian"));
    (!suites.is_empty() && has_main && fetched && debian).then(|| Entry { uri: uri.to_owned(), suites })
}

fn one_line_style(text: &str) -> Vec<Entry> {
    let parse = |line: &str| {
        let mut rest = line.split('#').next()?.trim().strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
        // Options, such as the key that signs it, are left out: every entry gets Debian's keyring.
        if let Some(options) = rest.strip_prefix('[') {
            rest = options.split_once(']')?.1;
        }
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?.to_owned());
        entry(uri, std::iter::once(suite), words.any(|c| c == "main"))
    };
    text.lines().filter_map(parse).collect()
}

fn deb822_style(text: &str) -> Vec<Entry> {
    let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
    let text = lines.join("\n");
    text.split("\n\n").flat_map(stanza).collect()
}

fn stanza(text: &str) -> Vec<Entry> {
    let field = |name: &str| {
        let value = text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.trim().eq_ignore_ascii_case(name).then_some(value)
        });
        value.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let enabled = field("Enabled").first().is_none_or(|v| v != "no");
    if !enabled || !field("Types").iter().any(|t| t == "deb") {
        return Vec::new();
    }
    let has_main = field("Components").iter().any(|c| c == "main");
    let suites = field("Suites");
    field("URIs").iter().filter_map(|uri| entry(uri, suites.iter().cloned(), has_main)).collect()
}

fn as_deb822(entries: &[Entry]) -> String {
    let stanza = |e: &Entry| {
        let suites = e.suites.join(" ");
        format!("Types: deb\nURIs: {}\nSuites: {suites}\nComponents: main\nSigned-By: {KEYRING}\n", e.uri)
    };
    entries.iter().map(stanza).collect::<Vec<_>>().join("\n")
}

/// The lines of `apt-config dump` that are settings for downloads, unchanged.
pub(super) fn download_settings(dump: &str) -> Vec<String> {
    const WANTED: [&str; 6] = [
        "Acquire::http::",
        "Acquire::https::",
        "Acquire::Check-Valid-Until",
        "Acquire::Check-Date",
        "Acquire::Retries",
        "Acquire::ForceIPv",
    ];
    // apt-config prints an empty value for a node that has only children.
    let wanted = |line: &&str| WANTED.iter().any(|w| line.starts_with(w)) && !line.ends_with("\"\";");
    dump.lines().filter(wanted).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_mirror_of_the_release_is_used_for_downloading() {
        let text = "deb [arch=amd64 trusted=yes] https://mirror.corp/debian bookworm main contrib # ours\n\
                    deb https://packages.example.com/node bookworm main\n\
                    deb-src https://mirror.corp/debian bookworm main\n";
        let expected = Entry { uri: "https://mirror.corp/debian".into(), suites: vec!["bookworm".into()] };
        assert_eq!(one_line_style(text), [expected]);
    }

    #[test]
    fn deb822_entries_keep_only_our_suites() {
        let text = "Types: deb deb-src\n# comment\nURIs: http://deb.debian.org/debian\n\
                    Suites: bookworm bookworm-updates bookworm-backports\nComponents: main\n\n\
                    Enabled: no\nTypes: deb\nURIs: http://x/debian\nSuites: bookworm\nComponents: main\n";
        let suites = vec!["bookworm".into(), "bookworm-updates".into()];
        assert_eq!(deb822_style(text), [Entry { uri: "http://deb.debian.org/debian".into(), suites }]);
    }

    #[test]
    fn a_host_of_another_release_falls_back_to_the_public_archive() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(dir.path().join("sources.list"), "deb http://deb.debian.org/debian trixie main\n")
            .expect("write");
        assert_eq!(of_host(dir.path()), None);
    }

    #[test]
    fn only_settings_about_downloading_are_taken_over() {
        let dump = "Acquire::http::Proxy \"http://proxy:3128\";\nAcquire::http \"\";\nAPT::Foo \"1\";\n\
                    Acquire::Check-Date \"false\";\n";
        let expected = ["Acquire::http::Proxy \"http://proxy:3128\";", "Acquire::Check-Date \"false\";"];
        assert_eq!(download_settings(dump), expected);
    }
}
