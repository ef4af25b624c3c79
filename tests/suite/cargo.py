"""The test executables that Cargo has built, from `cargo test --no-run --message-format=json`.

`python3 -m suite.cargo FILE PACKAGE` prints where those of a package are.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Executable:
    """A test executable of the workspace."""

    package: str
    target: str
    file: Path
    # The package's own folder: where Cargo would run it.
    folder: Path

    @property
    def name(self) -> str:
        """As its tests are told: the package, and the target where that is not the package itself."""
        if self.target.replace("_", "-").removeprefix("leapbox-") == self.package:
            return self.package
        return f"{self.package}/{self.target}"


def executables(messages: Path) -> list[Executable]:
    """Every test executable that the messages name, in Cargo's order."""
    found = []
    for line in messages.read_text().splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("executable") and message["profile"]["test"]:
            folder = Path(message["manifest_path"]).parent
            target = message["target"]["name"]
            found.append(Executable(_package(message["package_id"]), target, Path(message["executable"]), folder))
    return found


def _package(package_id: str) -> str:
    # path+file:///…/crates/network#leapbox-network@0.1.0, or …/tests/conformance#0.1.0 when the folder has its name.
    place, _, rest = package_id.partition("#")
    name = rest.partition("@")[0] if "@" in rest else place.rpartition("/")[2]
    return name.removeprefix("leapbox-")


if __name__ == "__main__":
    print(*(each.file for each in executables(Path(sys.argv[1])) if each.package == sys.argv[2]), sep="\n")
