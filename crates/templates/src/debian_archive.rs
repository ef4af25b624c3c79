//! Debian's package archive as this host reaches it, from which the kernel and the system template come.
//!
//! The host may reach Debian through a mirror or proxy of its own, so its sources for our suite are used for
//! downloading. The package lists are separate ones, because the host's may be stale, or of another Debian release.
//! Nothing of the host's configuration is written into an image.

mod sources;

use crate::error::ArtifactError;
use crate::host_command::HostCommand;
use crate::progress::Step;
use leapbox_errors::FileError;
use std::path::{Path, PathBuf};

/// The Debian release of the guest's kernel and of the system template.
pub(crate) const SUITE: &str = "bookworm";
/// The archive's public keys, from the package `debian-archive-keyring`.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The sources of a plain Debian. Every image gets them, and a host without sources for our suite uses them as well.
pub(crate) const PUBLIC_SOURCES: &str = "\
Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";

/// A scratch directory with sources and package lists for apt.
#[derive(Debug)]
pub(crate) struct DebianArchive {
    dir: PathBuf,
}

impl DebianArchive {
    /// Writes the sources into `dir`, which exists; fetches nothing yet.
    pub(crate) fn new(dir: &Path) -> Result<Self, ArtifactError> {
        let archive = Self { dir: dir.to_owned() };
        for sub in ["lists/partial", "cache/archives/partial"] {
            let path = dir.join(sub);
            std::fs::create_dir_all(&path).map_err(FileError::of("creating a directory for apt", &path))?;
        }
        let text = sources::of_host(Path::new("/etc/apt")).unwrap_or_else(|| PUBLIC_SOURCES.to_owned());
        // An empty `status` says that nothing is installed: the host's packages have no influence on the guest's.
        for (path, text) in [(archive.sources(), text.as_str()), (dir.join("status"), "")] {
            std::fs::write(&path, text).map_err(FileError::of("writing apt's files", &path))?;
        }
        Ok(archive)
    }

    /// The file of the sources, in the deb822 format (sources.list(5)).
    pub(crate) fn sources(&self) -> PathBuf {
        self.dir.join("leapbox.sources")
    }

    /// Fetches the package lists.
    pub(crate) fn update(&self, step: &Step) -> Result<(), ArtifactError> {
        // By default `apt-get update` succeeds when a list could not be fetched, and the kernel would be an older one.
        let command = self.apt("apt-get").args(["update", "--error-on=any"]).in_namespaces();
        command.run(step).map_err(ArtifactError::command("fetching Debian's package lists")).map(|_| ())
    }

    /// The package whose name begins with `prefix` among those that a metapackage depends on.
    pub(crate) fn dependency(&self, metapackage: &str, prefix: &str) -> Result<String, ArtifactError> {
        let command = self.apt("apt-cache").args(["depends", "--important", metapackage]);
        let text = command.query().map_err(ArtifactError::command("asking for the current kernel package"))?;
        let names = text.lines().filter_map(|l| l.trim().strip_prefix("Depends: "));
        names.map(str::to_owned).find(|n| n.starts_with(prefix)).ok_or(ArtifactError::Package {
            package: metapackage.to_owned(),
            reason: "it depends on no package of the expected name",
        })
    }

    /// Downloads a package into `dir` and returns its file. apt checks it against the signed package lists.
    pub(crate) fn download(&self, package: &str, dir: &Path, step: &Step) -> Result<PathBuf, ArtifactError> {
        let command = self.apt("apt-get").args(["download", package]).dir(dir).in_namespaces();
        command.run(step).map_err(ArtifactError::command("downloading a package"))?;
        let entries = std::fs::read_dir(dir).map_err(FileError::of("listing downloads", dir))?;
        let mut files = entries.flatten().map(|e| e.path());
        files
            .find(|p| p.extension().is_some_and(|e| e == "deb"))
            .ok_or(ArtifactError::Package { package: package.to_owned(), reason: "apt-get download left no file" })
    }

    /// An apt program with our sources and lists, and with the host's proxy and trust settings.
    fn apt(&self, program: &str) -> HostCommand {
        let set = |key: &str, path: &Path| format!("-o{key}={}", path.display());
        HostCommand::new(program).env("DEBIAN_FRONTEND", "noninteractive").args([
            set("Dir::Etc::sourcelist", &self.sources()),
            "-oDir::Etc::sourceparts=/dev/null".to_owned(),
            // The host's pins are meant for its own packages.
            "-oDir::Etc::preferences=/dev/null".to_owned(),
            "-oDir::Etc::preferencesparts=/dev/null".to_owned(),
            set("Dir::State::lists", &self.dir.join("lists")),
            set("Dir::State::status", &self.dir.join("status")),
            set("Dir::Cache", &self.dir.join("cache")),
            // The directory is root's alone, and apt's own user could not write there.
            "-oAPT::Sandbox::User=root".to_owned(),
            "-oAPT::Architecture=amd64".to_owned(),
            "-oAPT::Architectures=amd64".to_owned(),
            "-oAcquire::Retries=3".to_owned(),
            // The host's hooks (which update caches and indexes of its own lists) must not run for these.
            "-oAPT::Update::Post-Invoke=".to_owned(),
            "-oAPT::Update::Post-Invoke-Success=".to_owned(),
        ])
    }
}

/// The host's settings for apt's downloads (proxies, timeouts, date checks), in apt's syntax. mmdebstrap does not read
/// the host's configuration, so it gets them as options.
pub(crate) fn download_settings() -> Result<Vec<String>, ArtifactError> {
    let text = HostCommand::new("apt-config").arg("dump").query();
    let text = text.map_err(ArtifactError::command("reading the host's apt configuration"))?;
    Ok(sources::download_settings(&text))
}
