"""Where things are, outside and inside of the machine."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
TESTS = PACKAGE.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", TESTS.parent / "target")).resolve()
ARTIFACTS = Path(os.environ.get("LEAPBOX_ARTIFACTS_DIR", TARGET / "artifacts")).resolve()
RELEASE = TARGET / "release"

# Everything of ours: caches, the running machine's disks, and what the last run brought out.
HOME = TARGET / "kvmhost"
RUN = HOME / "run"
RESULTS = HOME / "results"
PREVIOUS_RESULTS = HOME / "results.previous"

# Mount points inside.
INSIDE_PAYLOAD = "/leapbox"
INSIDE_SCRATCH = "/scratch"
INSIDE_RESULTS = "/results"
INSIDE_ARTIFACTS = f"{INSIDE_SCRATCH}/artifacts"
INSIDE_CONFORMANCE = f"{INSIDE_PAYLOAD}/conformance"
