"""Debian's package archive as this host reaches it, for a release of ours: the host's own may be another.

The same idea as in `crates/templates/src/debian_archive`: the host's entries for the suite are used, its mirror
included, and the public archive when it has none. apt itself reads its configuration.
"""

from pathlib import Path

from kvmhost.host import run

SUITE = "bookworm"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_POCKETS = (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
_PUBLIC = (
    ("http://deb.debian.org/debian", SUITE),
    ("http://deb.debian.org/debian", f"{SUITE}-updates"),
    ("http://deb.debian.org/debian-security", f"{SUITE}-security"),
)
_DOWNLOAD_SETTINGS = (
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::ForceIPv",
)


def sources() -> str:
    """Sources of the suite in deb822 style."""
    argv = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    entries = {tuple(line.split()[:2]) for line in run(argv, "ask apt for its sources").splitlines() if _ours(line)}
    if not any(suite == SUITE for _, suite in entries):
        entries = set(_PUBLIC)
    stanzas = [
        f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n"
        for uri, suite in sorted(entries)
    ]
    return "\n".join(stanzas)


def _ours(line: str) -> bool:
    # Debian's own archives only: a third party's repository may use the same suite name.
    uri, suite, component = line.split()
    fetched = uri.startswith(("http://", "https://", "mirror+"))
    return fetched and suite in _POCKETS and component == "main" and _last_part(uri).startswith("debian")


def _last_part(uri: str) -> str:
    return uri.rstrip("/").rsplit("/", 1)[-1]


def download_settings() -> list[str]:
    """How this host's apt downloads (proxies, time-outs, date checks), one setting a line."""
    lines = run(["apt-config", "dump"], "read apt's configuration").splitlines()
    return [line for line in lines if line.startswith(_DOWNLOAD_SETTINGS) and not line.endswith('"";')]
