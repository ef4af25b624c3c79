"""The suite's runner: what `make test` calls. It runs every part beside the others, and tells how each test ended.

    parts.py      what there is to run: jobs, what each needs, how long it takes
      └─► schedule.py   which job starts next: the one with the longest way to the end, while cores are free
            └─► job.py       one job's process: its lines, its CPU time, its end
                  └─► report.py   a line for each test as it ends, the log of a failure, the tables at the end

A job is a command of its own. One that runs tests prints a line for each of them (`events.py`), which
`pytest_events.py` writes for pytest and `libtest.py` for Rust's test executables. The KVM test host passes the same
lines on from inside its machine, so that there is one reader for all of them.

The runner is plain Python without packages, because it starts before the virtual environment exists.
"""
