"""The kernel, initramfs and templates that `leapbox setup` made: the machine's own kernel is the same one."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from kvmhost.host import HostError
from kvmhost.places import ARTIFACTS

_CURRENT = "current.json"


@dataclass(frozen=True)
class Artifacts:
    """What is in use, as the manifest says."""

    manifest: dict

    @property
    def kernel_version(self) -> str:
        """The kernel's release, as `uname -r` prints it."""
        return self.manifest["kernel"]["version"]

    @property
    def kernel_digest(self) -> str:
        """Of the kernel's image."""
        return self.manifest["kernel"]["sha256"]

    @property
    def kernel(self) -> Path:
        """The kernel's ELF image."""
        entry = self.manifest["kernel"]
        return ARTIFACTS / entry["dir"] / entry["file"]

    @property
    def modules(self) -> Path:
        """Its modules, with the index that depmod wrote."""
        return ARTIFACTS / self.manifest["kernel"]["dir"] / "modules"

    def copy_to(self, destination: Path) -> None:
        """Copies what a server needs: the artifacts in use, without the modules that only building one takes."""
        shutil.copytree(self.modules.parent, destination / self.modules.parent.relative_to(ARTIFACTS), ignore=_modules)
        for entry in (self.manifest["initramfs"], *self.manifest["templates"].values()):
            shutil.copytree(ARTIFACTS / entry["dir"], destination / entry["dir"], dirs_exist_ok=True)
        shutil.copy2(ARTIFACTS / _CURRENT, destination / _CURRENT)


def _modules(_folder: str, names: list[str]) -> set[str]:
    return {"modules"} & set(names)


def current() -> Artifacts:
    """The artifacts in use."""
    try:
        manifest = json.loads((ARTIFACTS / _CURRENT).read_text())
    except FileNotFoundError as error:
        raise HostError(f"there are no artifacts in {ARTIFACTS}: run `make setup` first") from error
    if not manifest.get("kernel") or not manifest.get("initramfs"):
        raise HostError(f"the artifacts in {ARTIFACTS} are not complete: run `make setup`")
    return Artifacts(manifest)
