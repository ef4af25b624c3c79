"""The machine's initramfs: busybox, `inside/stage1.sh` as /init, and the modules that reach its disks."""

from pathlib import Path

from kvmhost.artifacts import Artifacts
from kvmhost.host import HostError
from kvmhost.places import PACKAGE

_WANTED = ("virtio_mmio", "virtio_blk", "virtio_console", "virtio_rng", "erofs", "overlay")
_FOLDERS = ("base", "bin", "dev", "modules", "proc", "root", "sys", "writes")


def pack(artifacts: Artifacts, busybox: Path, destination: Path) -> None:
    """Writes the archive, uncompressed: under emulation, reading is faster than decompressing."""
    modules = load_order(artifacts.modules, _WANTED)
    archive = _Cpio()
    for folder in _FOLDERS:
        archive.add(folder, 0o040755)
    archive.add("dev/console", 0o020600, device=(5, 1))
    archive.add("bin/busybox", 0o100755, busybox.read_bytes())
    archive.add("init", 0o100755, (PACKAGE / "inside/stage1.sh").read_bytes())
    for module in modules:
        archive.add(f"modules/{module.name}", 0o100644, module.read_bytes())
    archive.add("modules/order", 0o100644, "".join(f"{module.name}\n" for module in modules).encode())
    destination.write_bytes(archive.finish())


def load_order(folder: Path, wanted: tuple[str, ...]) -> list[Path]:
    """The wanted modules and all they depend on, first to load first, as depmod wrote it down for this kernel."""
    needs: dict[str, list[str]] = {}
    paths: dict[str, Path] = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        paths[_name(path)] = folder / path
        needs[_name(path)] = [_name(need) for need in rest.split()]
    builtin = {_name(line) for line in (folder / "modules.builtin").read_text().splitlines()}
    order: list[str] = []

    def visit(module: str) -> None:
        if module in order or module in builtin:
            return
        if module not in paths:
            raise HostError(f"the kernel in {folder} has no module {module}")
        for need in needs[module]:
            visit(need)
        order.append(module)

    for module in wanted:
        visit(module)
    return [paths[module] for module in order]


def _name(path: str) -> str:
    # Dash and underscore are the same to the kernel.
    return path.rsplit("/", 1)[-1].split(".ko")[0].replace("-", "_")


class _Cpio:
    """An archive in the "newc" format (kernel: Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._inode = 0

    def add(self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        header = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0)
        self._bytes += b"070701" + b"".join(b"%08X" % number for number in header) + path
        self._pad()
        self._bytes += content
        self._pad()

    def _pad(self) -> None:
        self._bytes += bytes(-len(self._bytes) % 4)

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return bytes(self._bytes)
