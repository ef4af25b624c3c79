"""The machine's root file system: Debian, the kernel's modules and the tests' Python packages.

Kept in `target/kvmhost/base/<digest>`; the digest is over everything it is made from.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from kvmhost import archive, pypi
from kvmhost.artifacts import Artifacts
from kvmhost.host import emptied, publish, run
from kvmhost.places import HOME

# Grows when this file makes something else of the same inputs.
_LAYOUT = "1"
_PACKAGES = (
    "busybox-static",  # the initramfs
    "ca-certificates",
    "curl",
    "dnsmasq-base",
    "e2fsprogs",
    "iproute2",
    "kmod",
    "libnss-myhostname",
    "nftables",
    "nginx-light",  # `leapbox-bench` compares the gateway with it
    "procps",
    "python3",
    "tcpdump",
    "util-linux",
    # `leapbox setup` wants its builder's tools on every host, though all it would build is there.
    "debian-archive-keyring",
    "erofs-utils",
    "gzip",
    "lz4",
    "mmdebstrap",
    "xz-utils",
    "zstd",
)
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
_SITE_PACKAGES = f"usr/local/lib/python{pypi.PYTHON}/dist-packages"


@dataclass(frozen=True)
class Base:
    """A finished base."""

    root: Path
    busybox: Path


def ensure(artifacts: Artifacts) -> Base:
    """The base for this kernel and these requirements, built if need be: half a minute, once."""
    place = HOME / "base" / _digest(artifacts)
    if not place.exists():
        print("kvmhost: building the machine's root file system, once", flush=True)
        _build(artifacts, place)
    return Base(place / "root.erofs", place / "busybox")


def _digest(artifacts: Artifacts) -> str:
    parts = (_LAYOUT, archive.SUITE, *_PACKAGES, *_EXCLUDED, artifacts.kernel_digest, pypi.REQUIREMENTS.read_text())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _build(artifacts: Artifacts, place: Path) -> None:
    made = emptied(place.parent / "making")
    tree = made / "tree"
    _bootstrap(made, tree)
    shutil.copytree(artifacts.modules, tree / "usr/lib/modules" / artifacts.kernel_version)
    # The lab's fake internet is the only one.
    (tree / "etc/resolv.conf").unlink(missing_ok=True)
    (tree / "etc/resolv.conf").touch()
    (tree / "etc/hostname").write_text("kvmhost\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost kvmhost\n::1 localhost kvmhost\n")
    for mount_point in ("leapbox", "scratch", "results"):
        (tree / mount_point).mkdir()
    pypi.install_requirements(tree / _SITE_PACKAGES)
    # Compiled here, and believed without a look at the sources: imports are what tests under emulation wait for.
    compile_all = ["-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    stdlib = f"/usr/lib/python{pypi.PYTHON}"
    run(["chroot", str(tree), "python3", *compile_all, "-f", f"/{_SITE_PACKAGES}", stdlib], "compile Python packages")
    run(["mkfs.erofs", "--quiet", str(made / "root.erofs"), str(tree)], "pack the machine's root file system")
    shutil.copy2(tree / "bin/busybox", made / "busybox")
    shutil.rmtree(tree)
    publish(made, place)


def _bootstrap(made: Path, tree: Path) -> None:
    sources = made / "debian.sources"
    sources.write_text(archive.sources())
    # In namespaces of its own: when this process is killed, its mounts and processes vanish.
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    options = ["--mode=root", "--format=directory", "--architectures=amd64", "--variant=minbase"]
    options += [f"--include={','.join(_PACKAGES)}"]
    options += [f"--dpkgopt=path-exclude={glob}" for glob in _EXCLUDED]
    options += [f"--aptopt={line}" for line in archive.download_settings()]
    run([*namespaces, "mmdebstrap", *options, archive.SUITE, str(tree), str(sources)], "install Debian's packages")
