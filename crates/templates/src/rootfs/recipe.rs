//! The recipe of a system template: plain data, whose digest decides whether the template is built anew.

use crate::artifacts::SYSTEM_DEBIAN;
use crate::debian_archive::{PUBLIC_SOURCES, SUITE};
use leapbox_storage::digest;

/// To be increased when [`super::finish`] writes other files, or when packing changes, so that templates are built
/// anew.
const FINISH: &str = "2";

/// The recipe of a template that is made from Debian's packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The template's name in the API.
    pub name: &'static str,
    /// Debian packages besides those of the priority `required` and apt.
    pub packages: &'static [&'static str],
    /// Options of dpkg that leave files out, also when the sandbox's user installs packages later.
    pub excluded_files: &'static [&'static str],
    /// A shell command that runs on the host once the packages are installed, with the root directory as `$1`.
    pub customize: &'static str,
    /// The user that processes run as. It is created by `customize`.
    pub user: &'static str,
    /// The working directory of processes.
    pub workdir: &'static str,
    /// Directories that are created for the user, relative to the root.
    pub folders: &'static [&'static str],
    /// The environment of processes.
    pub env: &'static [(&'static str, &'static str)],
    /// The port in the sandbox to which its hostname without a port leads.
    pub port: Option<u16>,
}

impl Recipe {
    /// The digest of everything that decides what is built.
    pub(crate) fn inputs(&self) -> String {
        // Without the versions of Debian's packages: a template must not change, and all bases with it, because set-up
        // was run again.
        hex::encode(digest::of_parts(&[
            format!("{self:?}").as_bytes(),
            SUITE.as_bytes(),
            PUBLIC_SOURCES.as_bytes(),
            FINISH.as_bytes(),
        ]))
    }
}

/// The recipe of `system/debian:bookworm`.
pub fn system_debian() -> Recipe {
    Recipe {
        name: SYSTEM_DEBIAN,
        packages: &["bash", "ca-certificates", "coreutils", "curl", "git", "iproute2", "procps", "python3", "sudo"],
        // The same files that Debian's slim container images leave out. Licences stay.
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
