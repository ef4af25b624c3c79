"""Runs the steps inside the machine and tells the host about them. Started by stage2.sh, with Debian's bare Python.

For each step: what it prints goes to the port `output` and to `/results/<step>/log`; its start and end go to the port
`events`, with a heartbeat between; when it has ended, its folder goes to the port `results` as a tar.
"""

import json
import os
import signal
import subprocess
import threading
import time

RESULTS = "/results"
HEARTBEAT_SECONDS = 5
GRACE_SECONDS = 15
TIMED_OUT = 124
# Looked at when a step has failed, for whoever has to find out why.
FACTS = {
    "dmesg": ["dmesg"],
    "processes": ["ps", "-eo", "pid,ppid,user,stat,rss,etimes,args", "--forest"],
    "memory": ["cat", "/proc/meminfo"],
    "disks": ["df", "-h"],
    "mounts": ["cat", "/proc/mounts"],
    "cgroups": ["find", "/sys/fs/cgroup", "-mindepth", "1", "-type", "d"],
    "scratch": ["find", "/scratch", "-maxdepth", "4", "-not", "-path", "/scratch/artifacts/*"],
}


class Events:
    """JSON lines to the host."""

    def __init__(self):
        self._port = open("/dev/virtio-ports/events", "wb", buffering=0)
        self._lock = threading.Lock()

    def tell(self, kind, **details):
        line = json.dumps({"event": kind, "uptime": uptime(), **details})
        with self._lock:
            self._port.write(line.encode() + b"\n")

    def beat_for_ever(self):
        while True:
            time.sleep(HEARTBEAT_SECONDS)
            self.tell("heartbeat")


def uptime():
    """Seconds since the machine's kernel started."""
    with open("/proc/uptime") as file:
        return float(file.read().split()[0])


def copy_output(source, log, output):
    """Passes on what the step prints, as it prints it."""
    while block := os.read(source, 1 << 16):
        log.write(block)
        output.write(block)


def end_after(process, seconds, expired):
    """Ends a process and its group when its time is over."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        expired.set()
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def run(step, folder, output):
    """Runs a step to its end; returns its exit status as a shell would tell it."""
    environment = {**os.environ, **step["environment"], "KVMHOST_RESULTS": folder}
    with open(f"{folder}/log", "wb", buffering=0) as log:
        try:
            process = subprocess.Popen(
                step["argv"],
                env=environment,
                cwd="/leapbox",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            output.write(f"{step['argv'][0]}: {error.strerror}\n".encode())
            return 127
        expired = threading.Event()
        threading.Thread(target=end_after, args=(process, step["deadline"], expired), daemon=True).start()
        reader = threading.Thread(target=copy_output, args=(process.stdout.fileno(), log, output), daemon=True)
        reader.start()
        code = process.wait()
        # Something of it may live on and hold its output open.
        reader.join(GRACE_SECONDS)
    return TIMED_OUT if expired.is_set() else code if code >= 0 else 128 - code


def gather_facts(folder):
    for name, argv in FACTS.items():
        with open(f"{folder}/{name}.txt", "wb") as file:
            subprocess.run(argv, stdout=file, stderr=subprocess.STDOUT)
    kept = "/scratch/lab/failures"
    if os.path.isdir(kept):
        subprocess.run(["cp", "-r", kept, f"{folder}/lab"])


def main():
    with open("/leapbox/steps.json") as file:
        steps = json.load(file)
    events = Events()
    output = open("/dev/virtio-ports/output", "wb", buffering=0)
    results = open("/dev/virtio-ports/results", "wb", buffering=0)
    events.tell("booted")
    threading.Thread(target=events.beat_for_ever, daemon=True).start()
    for step in steps:
        name, folder = step["name"], f"{RESULTS}/{step['name']}"
        os.mkdir(folder)
        events.tell("start", step=name, deadline=step["deadline"])
        started = time.monotonic()
        status = run(step, folder, output)
        seconds = time.monotonic() - started
        if status != 0 or os.path.exists(f"{folder}/second-try"):
            gather_facts(folder)
        subprocess.run(["tar", "--create", "--file=-", f"--directory={RESULTS}", name], stdout=results)
        events.tell("end", step=name, status=status, seconds=round(seconds, 1))
    events.tell("finished")


main()
