"""What a run leaves: folders of logs, `summary.json`, and a few lines for whoever reads the terminal."""

import json
import shutil
import tarfile
from dataclasses import asdict
from pathlib import Path

from kvmhost.places import RESULTS
from kvmhost.steps import Step
from kvmhost.watch import RESULTS_TAR, Outcome, console_tail
from suite import events

_DIED = 125
# Of all tests, how many may need a second try before the run is no proof of anything.
_MOST = 0.1


def unpack() -> None:
    """Brings the steps' folders out of the tars that the machine sent, one after the other."""
    if not RESULTS_TAR.stat().st_size:
        return
    with tarfile.open(RESULTS_TAR, "r:", ignore_zeros=True, errors="replace") as archive:
        for member in _readable(archive):
            place = RESULTS / member.name
            # Ours, but made by what we test: files and folders below the results, and nothing else.
            if not place.resolve().is_relative_to(RESULTS):
                continue
            if member.isdir():
                place.mkdir(parents=True, exist_ok=True)
            elif member.isfile():
                _write(archive.extractfile(member), place)


def _readable(archive: tarfile.TarFile):
    # The last one is cut off when the machine died while it sent it.
    try:
        yield from archive
    except tarfile.TarError:
        return


def _write(source, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as file:
        shutil.copyfileobj(source, file)


def conclude(steps: list[Step], outcome: Outcome, seconds: float) -> int:
    """Writes the summary and says how it went. Returns the exit status: the first one that is not 0."""
    summary = {"seconds": round(seconds, 1), **asdict(outcome), "second_tries": sorted(outcome.second_tries)}
    (RESULTS / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    ended = {step.name: step for step in outcome.ended}
    print(f"\nkvmhost: {seconds:.0f} s in all; results are in {RESULTS}")
    for step in steps:
        print(f"  {step.name:<12} {_fate(step, ended, outcome)}")
    if outcome.died:
        print(f"\nkvmhost: the machine died: {outcome.died}. The end of its console:\n{console_tail()}")
        return _DIED
    status = next((step.status for step in outcome.ended if step.status != 0), 0)
    failed = [name for name, how in outcome.tests.items() if how in (events.FAILED, events.FAILED_ONCE)]
    for name in failed:
        print(f"  FAILED: {name}")
    enough = _few_second_tries(outcome)
    return status or (1 if failed or not enough else 0)


def _few_second_tries(outcome: Outcome) -> bool:
    """Says how often the emulation was at fault, and whether that is seldom enough for the run to show anything."""
    ran = sum(how != events.SKIPPED for how in outcome.tests.values())
    if not ran:
        return True
    rate = len(outcome.second_tries) / ran
    print(f"  second tries: {len(outcome.second_tries)} of {ran} tests ({rate:.1%}; at most {_MOST:.0%})")
    for name in sorted(outcome.second_tries):
        print(f"    {name}")
    return rate <= _MOST


def _fate(step: Step, ended: dict, outcome: Outcome) -> str:
    if step.name == outcome.unfinished:
        return "was running when the machine died"
    if step.name not in ended:
        return "did not run"
    status, seconds = ended[step.name].status, ended[step.name].seconds
    if status == 0:
        return f"passed in {seconds:.0f} s"
    what = f"ran out of its {step.deadline} s" if status == 124 else f"ended with {status} after {seconds:.0f} s"
    return f"FAILED, {what}: see {RESULTS / step.name}"
