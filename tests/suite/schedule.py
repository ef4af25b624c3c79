"""Runs jobs beside each other until all have ended.

Of the jobs whose needs are met, the one with the longest way to the end starts first, as soon as the cores that it
keeps busy are free. A job whose needs failed does not run.
"""

import os
import queue
import signal
import time
from pathlib import Path

from suite import events
from suite.job import GRACE_SECONDS, Ended, Job, Running
from suite.report import Report

# What is planned on a core: tests wait for timers and disks, and two jobs of one core each leave some of it idle.
_CORES_PLANNED_PER_CORE = 1.5


class Interrupted(Exception):
    """Somebody stopped the run: everything that was started has been ended."""


def run(jobs: list[Job], logs: Path, report: Report) -> None:
    """Runs all jobs to their end and tells the report. Raises `Interrupted` on SIGINT and SIGTERM."""
    if missing := {need for job in jobs for need in job.needs} - {job.name for job in jobs}:
        raise ValueError(f"no such job: {', '.join(sorted(missing))}")
    ways = {job.name: _seconds_to_the_end(job, jobs) for job in jobs}
    waiting = sorted(jobs, key=lambda job: -ways[job.name])
    capacity = (os.cpu_count() or 1) * _CORES_PLANNED_PER_CORE
    running: dict[str, Running] = {}
    status: dict[str, bool] = {}
    told: queue.Queue = queue.Queue()
    with _Stop() as stop:
        while waiting or running:
            if stop.times:
                _end_all(running, told, stop)
                raise Interrupted
            _skip_what_cannot_run(waiting, status, report)
            for job in _startable(waiting, running, status, capacity):
                waiting.remove(job)
                report.started(job)
                running[job.name] = Running(job, logs / f"{job.name}.log", told)
            _take(told, running, status, report)


class _Stop:
    """Counts SIGINT, SIGTERM and SIGHUP without interrupting what is under way."""

    def __init__(self) -> None:
        self.times = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "_Stop":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, *_) -> None:
        self.times += 1


def _seconds_to_the_end(job: Job, jobs: list[Job]) -> float:
    after = (_seconds_to_the_end(other, jobs) for other in jobs if job.name in other.needs + other.after)
    return job.seconds + max(after, default=0.0)


def _skip_what_cannot_run(waiting: list[Job], status: dict[str, bool], report: Report) -> None:
    for job in list(waiting):
        if failed := [need for need in job.needs if status.get(need) is False]:
            waiting.remove(job)
            status[job.name] = False
            report.skipped(job, failed)


def _startable(waiting: list[Job], running: dict[str, Running], status: dict[str, bool], capacity: float) -> list[Job]:
    free = capacity - sum(other.job.cores for other in running.values())
    found = []
    to_come = {job.name for job in waiting} | running.keys()
    for job in waiting:
        if not all(status.get(need) for need in job.needs) or to_come & set(job.after):
            continue
        # Something always runs, however small the machine is.
        if job.cores <= free or not (running or found):
            found.append(job)
            free -= job.cores
    return found


def _take(told: queue.Queue, running: dict[str, Running], status: dict[str, bool], report: Report) -> None:
    """Waits a moment for something to be told, and takes all of it."""
    try:
        source, what = told.get(timeout=0.5)
        while True:
            _take_one(source, what, running, status, report)
            source, what = told.get_nowait()
    except queue.Empty:
        for each in running.values():
            each.check_time()


def _take_one(source: Running, what, running, status, report: Report) -> None:
    if isinstance(what, Ended):
        del running[source.job.name]
        status[source.job.name] = report.ended(source.job, what, source.log)
    elif ended := events.read(what):
        report.test(source.job, ended)


def _end_all(running: dict[str, Running], told: queue.Queue, stop: _Stop) -> None:
    for each in running.values():
        each.stop(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while running:
        if time.monotonic() > deadline or stop.times > 1:
            for each in running.values():
                each.stop(signal.SIGKILL)
        try:
            source, what = told.get(timeout=0.5)
        except queue.Empty:
            continue
        if isinstance(what, Ended):
            del running[source.job.name]
