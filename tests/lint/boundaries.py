"""Dependencies point down only (ARCHITECTURE.md): checked on what Cargo resolved.

A crate of the workspace may depend on crates of lower layers only, and some crates must never be found under others,
however deep. `boundaries.py` prints every violation and ends with status 1 if there is one.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

PREFIX = "leapbox-"
# From the bottom up. A crate that is not here is unknown to the architecture: it must be given its place.
LAYERS = [
    {"errors"},
    {"ids", "egress-policy"},
    {"api-types", "guest-protocol", "egress"},
    {"storage", "network", "guest-client"},
    {"vmm"},
    {"db", "templates", "bases"},
    {"auth", "lifecycle", "conformance", "fuzz-targets"},
    {"api", "gateway"},
    {"leapbox"},
    {"bench"},
    # Only tests link the simulated machines.
    {"simulated"},
]
# PID 1 of every guest stands beside the layers: of ours it has the protocol, and what all do alike with errors.
AGENT = "leapbox-agent"
AGENT_MAY_USE = {"guest-protocol", "errors"}
FORBIDDEN = {
    AGENT: {"sqlx", "sqlx-core", "axum", "hyper", "h2", "tokio", "rustls", "reqwest"},
    "leapbox-egress-policy": {"tokio", "hyper", "rustls"},
    "leapbox-guest-protocol": {"tokio", "sqlx-core", "axum", "hyper"},
    "leapbox-vmm": {"sqlx", "axum"},
    "leapbox-egress": {"sqlx", "axum"},
    "leapbox-network": {"sqlx", "axum"},
}


def metadata() -> dict:
    argv = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]
    return json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True, env=os.environ).stdout)


def normal_dependencies(resolved: dict) -> dict[str, set[str]]:
    """Package name → names of what it links; build scripts and tests are not the product."""
    names = {package["id"]: package["name"] for package in resolved["packages"]}
    graph: dict[str, set[str]] = {}
    for node in resolved["resolve"]["nodes"]:
        linked = (d["pkg"] for d in node["deps"] if any(kind["kind"] is None for kind in d["dep_kinds"]))
        graph.setdefault(names[node["id"]], set()).update(names[package] for package in linked)
    return graph


def everything_below(graph: dict[str, set[str]], name: str) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = graph.get(waiting.pop(), set()) - found
        found |= new
        waiting.extend(new)
    return found


def layer_of(name: str) -> int | None:
    short = name.removeprefix(PREFIX)
    return next((number for number, layer in enumerate(LAYERS) if short in layer), None)


def violations(graph: dict[str, set[str]], members: set[str]) -> Iterator[str]:
    for name in sorted(members - {AGENT}):
        layer = layer_of(name)
        if layer is None:
            yield f"{name} has no place in the layers"
            continue
        for below in sorted(graph[name] & members):
            lower = layer_of(below)
            if below == AGENT or lower is None or lower >= layer:
                yield f"{name} depends on {below}, which is not below it"
    for below in sorted(graph[AGENT] & members):
        if below.removeprefix(PREFIX) not in AGENT_MAY_USE:
            yield f"{AGENT} depends on {below}"
    for name, forbidden in FORBIDDEN.items():
        for crate in sorted(everything_below(graph, name) & forbidden):
            yield f"{crate} is found under {name}"


def main() -> int:
    resolved = metadata()
    members = {package["name"] for package in resolved["packages"] if package["id"] in resolved["workspace_members"]}
    found = list(violations(normal_dependencies(resolved), members))
    for line in found:
        print(f"boundary: {line}", file=sys.stderr)
    print(f"boundaries: {len(members)} crates, {len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
