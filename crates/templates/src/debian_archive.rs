//! Debian's package archive as this host reaches it: where kernel and system template come from.
//!
//! The host may reach Debian through a mirror or proxy of its own. Its entries for our suite are used for
//! downloading, with package lists of our own: the host's may be stale, or of another Debian release. Nothing of it
//! is ever written into an image.

mod sources;

use crate::error::ArtifactError;
use crate::host_command::HostCommand;
use crate::progress::Step;
use leapbox_errors::FileError;
use std::path::{Path, PathBuf};

/// The Debian release kernel and system template come from.
pub(crate) const SUITE: &str = "bookworm";
/// The archive's public keys, of the package `debian-archive-keyring`.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The sources a plain Debian has; what every image gets.
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

/// A scratch folder with sources and package lists.
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
            std::fs::create_dir_all(&path).map_err(FileError::of("create a folder for apt", &path))?;
        }
        let text = sources::of_host(Path::new("/etc/apt")).unwrap_or_else(|| PUBLIC_SOURCES.to_owned());
        for (path, text) in [(archive.sources(), text.as_str()), (dir.join("status"), "")] {
            std::fs::write(&path, text).map_err(FileError::of("write apt's files", &path))?;
        }
        Ok(archive)
    }

    /// The sources as a deb822 file.
    pub(crate) fn sources(&self) -> PathBuf {
        self.dir.join("leapbox.sources")
    }

    /// Fetches the package lists.
    pub(crate) fn update(&self, step: &Step) -> Result<(), ArtifactError> {
        let command = self.apt("apt-get").args(["update", "--error-on=any"]).in_namespaces();
        command.run(step).map_err(ArtifactError::command("fetch Debian's package lists")).map(|_| ())
    }

    /// The one package a metapackage depends on whose name begins with `prefix`.
    pub(crate) fn dependency(&self, metapackage: &str, prefix: &str) -> Result<String, ArtifactError> {
        let command = self.apt("apt-cache").args(["depends", "--important", metapackage]);
        let text = command.query().map_err(ArtifactError::command("ask for the current kernel package"))?;
        let names = text.lines().filter_map(|l| l.trim().strip_prefix("Depends: "));
        names.map(str::to_owned).find(|n| n.starts_with(prefix)).ok_or(ArtifactError::Package {
            package: metapackage.to_owned(),
            reason: "it depends on no package of the expected name",
        })
    }

    /// Downloads a package into `dir`; apt checks its signature chain. Returns the file.
    pub(crate) fn download(&self, package: &str, dir: &Path, step: &Step) -> Result<PathBuf, ArtifactError> {
        let command = self.apt("apt-get").args(["download", package]).dir(dir).in_namespaces();
        command.run(step).map_err(ArtifactError::command("download a package"))?;
        let entries = std::fs::read_dir(dir).map_err(FileError::of("list downloads", dir))?;
        let mut files = entries.flatten().map(|e| e.path());
        files
            .find(|p| p.extension().is_some_and(|e| e == "deb"))
            .ok_or(ArtifactError::Package { package: package.to_owned(), reason: "apt-get download left no file" })
    }

    /// apt with our sources and lists, and the host's proxy and trust settings.
    fn apt(&self, program: &str) -> HostCommand {
        let set = |key: &str, path: &Path| format!("-o{key}={}", path.display());
        HostCommand::new(program).env("DEBIAN_FRONTEND", "noninteractive").args([
            set("Dir::Etc::sourcelist", &self.sources()),
            "-oDir::Etc::sourceparts=/dev/null".to_owned(),
            "-oDir::Etc::preferences=/dev/null".to_owned(),
            "-oDir::Etc::preferencesparts=/dev/null".to_owned(),
            set("Dir::State::lists", &self.dir.join("lists")),
            set("Dir::State::status", &self.dir.join("status")),
            set("Dir::Cache", &self.dir.join("cache")),
            // The folder is root's alone, and apt's own user could not write there.
            "-oAPT::Sandbox::User=root".to_owned(),
            "-oAPT::Architecture=amd64".to_owned(),
            "-oAPT::Architectures=amd64".to_owned(),
            "-oAcquire::Retries=3".to_owned(),
            // Hooks of the host (caches, indexes) have no business with these lists.
            "-oAPT::Update::Post-Invoke=".to_owned(),
            "-oAPT::Update::Post-Invoke-Success=".to_owned(),
        ])
    }
}

/// The host's settings of how apt downloads (proxies, time-outs, date checks), for a tool that would not read them.
pub(crate) fn download_settings() -> Result<Vec<String>, ArtifactError> {
    let text = HostCommand::new("apt-config").arg("dump").query();
    let text = text.map_err(ArtifactError::command("read the host's apt configuration"))?;
    Ok(sources::download_settings(&text))
}
