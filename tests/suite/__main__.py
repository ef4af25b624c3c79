"""`python3 -m suite [--only PART …]`: runs the suite, or parts of it and what they need. `make test` is the whole.

Ends with 0 when everything passed, 1 when something failed, and 130 when it was stopped.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from suite import parts, schedule
from suite.job import Job
from suite.report import Report


def main() -> int:
    parser = argparse.ArgumentParser(prog="suite", description=__doc__)
    parser.add_argument("--only", action="append", metavar="JOB", help="this job (or all with this beginning)")
    parser.add_argument("--list", action="store_true", help="say what would run, and stop")
    parser.add_argument("--record", action="store_true", help="keep the seconds of end-to-end files for the order")
    arguments = parser.parse_args()
    target = Path(os.environ.get("CARGO_TARGET_DIR", parts.ROOT / "target")).resolve()
    every = parts.all_jobs(parts.Places(target))
    for only in arguments.only or ():
        if not any(job.name.startswith(only) for job in every):
            parser.error(f"there is no job {only}")
    if arguments.only and arguments.record:
        parser.error("--record wants the whole suite")
    jobs = _wanted(every, arguments.only)
    if arguments.list:
        print("\n".join(f"{job.name:<16}{job.seconds:6.0f} s  {' '.join(job.argv)}" for job in jobs))
        return 0
    return _run(jobs, target, arguments.record)


def _run(jobs: list[Job], target: Path, record: bool) -> int:
    os.environ["PYTHONPATH"] = str(parts.TESTS)
    os.environ["CARGO_TARGET_DIR"] = str(target)
    os.environ.setdefault("LEAPBOX_ARTIFACTS_DIR", str(target / "artifacts"))
    os.chdir(parts.ROOT)
    report = Report()
    try:
        schedule.run(jobs, target / "suite", report)
    except schedule.Interrupted:
        print("\nsuite: stopped; everything it had started has been ended", file=sys.stderr)
        return 130
    passed = report.conclude()
    report.save(target / "suite" / "report.json")
    if record and passed:
        parts.SECONDS.write_text(json.dumps(report.seconds_by_file(parts.E2E), indent=1) + "\n")
    return 0 if passed else 1


def _wanted(jobs: list[Job], only: list[str] | None) -> list[Job]:
    """The jobs that were asked for, and all that they need."""
    if not only:
        return jobs
    by_name = {job.name: job for job in jobs}
    waiting = [job.name for job in jobs if any(job.name.startswith(each) for each in only)]
    wanted: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += by_name[name].needs
    return [job for job in jobs if job.name in wanted]


if __name__ == "__main__":
    sys.exit(main())
