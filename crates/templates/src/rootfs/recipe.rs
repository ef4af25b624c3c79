//! What a system template consists of. Plain data: its digest decides whether a template is rebuilt.

use crate::artifacts::SYSTEM_DEBIAN;
use crate::debian_archive::{PUBLIC_SOURCES, SUITE};
use leapbox_storage::digest;

/// Grows when [`super::finish`] writes something else, or packing changes.
const FINISH: &str = "2";

/// A template made from Debian's packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The template's name in the API.
    pub name: &'static str,
    /// Debian packages besides the required ones.
    pub packages: &'static [&'static str],
    /// dpkg options that leave files out, here and in what is installed later.
    pub excluded_files: &'static [&'static str],
    /// Shell command run on the host with the root folder as `$1` once the packages are installed.
    pub customize: &'static str,
    /// The user processes run as. The shell command makes it.
    pub user: &'static str,
    /// Where processes start.
    pub workdir: &'static str,
    /// Folders made for that user.
    pub folders: &'static [&'static str],
    /// Environment of processes.
    pub env: &'static [(&'static str, &'static str)],
    /// Where the sandbox's hostname without a port leads.
    pub port: Option<u16>,
}

impl Recipe {
    /// Digest of everything that decides what is built, but the versions of Debian's packages.
    pub(crate) fn inputs(&self) -> String {
        hex::encode(digest::of_parts(&[
            format!("{self:?}").as_bytes(),
            SUITE.as_bytes(),
            PUBLIC_SOURCES.as_bytes(),
            FINISH.as_bytes(),
        ]))
    }
}

/// `system/debian:bookworm`.
pub fn system_debian() -> Recipe {
    Recipe {
        name: SYSTEM_DEBIAN,
        packages: &["bash", "ca-certificates", "coreutils", "curl", "git", "iproute2", "procps", "python3", "sudo"],
        // As Debian's own slim container images do; licences stay.
        excluded_files: &[
            "path-exclude=/usr/share/doc/*",
            "path-include=/usr/share/doc/*/copyright",
            "path-exclude=/usr/share/man/*",
            "path-exclude=/usr/share/info/*",
            "path-exclude=/usr/share/locale/*",
            "path-include=/usr/share/locale/locale.alias",
        ],
        customize: "chroot \"$1\" useradd --create-home --user-group --uid 1000 --groups sudo \
                    --shell /bin/bash user",
        user: "user",
        workdir: "/home/user",
        folders: &["workspace"],
        env: &[("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("LANG", "C.UTF-8")],
        port: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_package_list_is_another_template() {
        let (one, mut two) = (system_debian(), system_debian());
        assert_eq!(one.inputs(), system_debian().inputs());
        two.packages = &["bash"];
        assert_ne!(one.inputs(), two.inputs());
    }
}
