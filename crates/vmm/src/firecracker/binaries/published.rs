//! Digests of published releases, to tell whether a binary is what upstream has released.

use super::super::version::Version;

/// SHA-256 digests of one release's binaries for x86-64, lowercase hexadecimal.
struct Release {
    version: &'static str,
    firecracker: &'static str,
    jailer: &'static str,
}

// Of the files in the release archives of firecracker-microvm/firecracker: a release of the oldest minor version that
// the driver works with, which the tests run, and the recommended one. Others are used as well, with provenance
// unknown.
const RELEASES: [Release; 2] = [
    Release {
        version: "1.12.1",
        firecracker: "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930",
        jailer: "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5",
    },
    Release {
        version: "1.16.1",
        firecracker: "2fd0171309af7e24cf8dafc8a6f921c1434c49b5f9349bb996b7ed0a4deb8aa7",
        jailer: "1f3a0c1fe86212d0001819bfe0819071c01208b3ccc9398c3b3bc1b84cf21edd",
    },
];

/// The origin of a pair of binaries, as far as their digests tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provenance {
    /// Both are upstream's own files.
    Published,
    /// They report the version of a release that is listed here, but have other digests.
    NotTheRelease,
    /// The release of this version is not listed here.
    Unknown,
}

impl Provenance {
    /// Compares digests (SHA-256, lowercase hexadecimal) with those of the release of `version`.
    pub(super) fn of(version: &Version, firecracker: &str, jailer: &str) -> Self {
        let version = version.to_string();
        match RELEASES.iter().find(|release| release.version == version) {
            None => Provenance::Unknown,
            Some(release) if release.firecracker == firecracker && release.jailer == jailer => Provenance::Published,
            Some(_) => Provenance::NotTheRelease,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_release_with_other_bytes_is_not_the_release() {
        let version = Version { major: 1, minor: 12, patch: 1, label: String::new() };
        let [known, other] = &RELEASES;
        assert_eq!(Provenance::of(&version, known.firecracker, known.jailer), Provenance::Published);
        assert_eq!(Provenance::of(&version, known.firecracker, other.jailer), Provenance::NotTheRelease);
        assert_eq!(Provenance::of(&version, other.firecracker, known.jailer), Provenance::NotTheRelease);
        let later = Version { patch: 9, ..version };
        assert_eq!(Provenance::of(&later, known.firecracker, known.jailer), Provenance::Unknown);
    }
}
