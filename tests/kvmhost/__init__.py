"""The KVM test host: a machine with a working /dev/kvm, on a host that has none.

    this host                          the machine (QEMU, TCG, emulated SVM, Debian's kernel)
    ──────────────────────────         ──────────────────────────────────────────────────────
    base/…/root.erofs ──read-only──►   /          Debian, Python and the tests' packages; writes go to memory
    run/payload.erofs ──read-only──►   /leapbox   our binaries, firecracker, jailer, tests, the steps to run
    run/scratch.ext4 ──────────────►   /scratch   artifacts, data folders and jails: one file system, for hard links
    stdout            ◄──port───────   output     what the steps print, as they print it
    Watch             ◄──port───────   events     booted, step started, step ended; a heartbeat between
    results/          ◄──port───────   results    a tar of a step's logs, sent when it ends
    results/console.log ◄──serial───   the kernel's console

This project's binaries are built outside and run in it against real Firecracker, jailer and KVM. It has no network
device: no packet can leave it. It boots in about four seconds and runs everything about ten times slower than the
host, so one boot runs all steps (`steps.py`).

Callers: `make test-firecracker`; people, with ``python -m kvmhost run -- COMMAND…``.
"""
