"""The walls around a VMM, as a table: what every driver has, and what each one's jail looks like.

`test_walls.py` compares it with a running sandbox; SECURITY.md says what each wall is for.
"""

from dataclasses import dataclass, field

GIB = 1024**3
MIB = 1024**2

# Of every thread of every VMM, in /proc/PID/task/*/status.
OF_EVERY_THREAD = {
    "CapInh": "0000000000000000",
    "CapPrm": "0000000000000000",
    "CapEff": "0000000000000000",
    "CapAmb": "0000000000000000",
    "NoNewPrivs": "1",
    "Seccomp": "2",
}
# Neither the server's nor a neighbour's. The user namespace is the host's: the VMM is a user without rights in it.
OWN_NAMESPACES = ("mnt", "net", "pid", "ipc", "uts", "cgroup")
# Both hard and soft.
LIMITS_OF_ALL = {
    "Max core file size": "0",
    "Max locked memory": "0",
    "Max msgqueue size": "0",
    "Max file size": str(10 * GIB),
}


@dataclass(frozen=True)
class Walls:
    """One driver's."""

    # Every path below its root, but for what is below `own_program`: the VMM, its libraries and data.
    root: frozenset[str]
    # May be there, depending on the host's kernel.
    root_may_have: frozenset[str]
    own_program: tuple[str, ...]
    # What its user may write there. Folders are not among them: nothing can be added.
    writable: frozenset[str]
    # Mount points, and whether the root is mounted read-only besides.
    mounts: frozenset[str]
    root_is_read_only: bool
    # Kinds of open descriptors: see `test_walls.kind_of`.
    descriptors: frozenset[str]
    # No process of it could ever gain a capability, even without NoNewPrivs.
    bounding_set_is_empty: bool
    # A clone maps its RAM out of a sealed memfd; otherwise out of a file that is on the list of artifacts.
    ram_is_a_memfd: bool
    # Control group: memory = factor × the guest's + overhead, tasks = vCPUs + extra, cpus = vCPUs.
    memory_factor: int
    memory_overhead: int
    extra_tasks: int
    limits: dict[str, str] = field(default_factory=dict)


def _set(*names: str) -> frozenset[str]:
    return frozenset(names)


WALLS = {
    "qemu": Walls(
        root=_set("lib", "lib64", "usr"),
        root_may_have=_set(),
        own_program=("lib", "lib64", "usr"),
        writable=_set(),
        mounts=_set("/", "/lib", "/lib64", "/usr", "/proc"),
        root_is_read_only=True,
        descriptors=_set("own disk", "artifact", "own RAM", "own log", "tap", "unix socket", "event", "null"),
        bounding_set_is_empty=True,
        ram_is_a_memfd=True,
        memory_factor=2,
        memory_overhead=384 * MIB,
        extra_tasks=80,
        limits={"Max open files": "256"},
    ),
    "firecracker": Walls(
        root=_set(
            *("firecracker", "firecracker.pid", "api.sock", "run"),
            *("dev", "dev/kvm", "dev/net", "dev/net/tun", "dev/urandom"),
            *("disk", "memory", "rootfs", "state"),
        ),
        root_may_have=_set("dev/userfaultfd"),
        own_program=(),
        writable=_set("disk", "api.sock", "dev/kvm", "dev/net/tun", "dev/urandom", "dev/userfaultfd"),
        mounts=_set("/"),
        # The jailer binds the jail's folder; its folders are root's, so that nothing can be added all the same.
        root_is_read_only=False,
        descriptors=_set(
            *("own disk", "artifact", "console", "own log", "tap", "kvm"),
            *("unix socket", "event", "null", "randomness"),
        ),
        # The jailer leaves it; NoNewPrivs makes it harmless, since no program can be started that would gain from it.
        bounding_set_is_empty=False,
        ram_is_a_memfd=False,
        memory_factor=1,
        memory_overhead=256 * MIB,
        extra_tasks=16,
        limits={"Max open files": "128"},
    ),
}
