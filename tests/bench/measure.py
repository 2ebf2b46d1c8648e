"""Clocks and CPU seconds of processes that this benchmark started."""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def settle():
    """Lets the disk finish what earlier steps left, so that nobody pays for another's writes."""
    os.sync()
    time.sleep(2)


# ext4 steps around each inode that was freed in the last minutes, so that removing many files makes new ones dear for whoever
# is measured next. Folders of many files are therefore only put aside, and removed at the end.
_aside = []


def discard(folder):
    """Puts a folder out of the way until the end."""
    folder = Path(folder)
    if folder.exists():
        aside = folder.with_name(f"discarded-{len(_aside)}-{folder.name}")
        folder.rename(aside)
        _aside.append(aside)


def remove_discarded():
    """Removes what was put aside."""
    for folder in _aside:
        shutil.rmtree(folder, ignore_errors=True)
    _aside.clear()


def tree(pid):
    """A process and its descendants."""
    found = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    except OSError:
        pass
    return found


def cpu_seconds(pids):
    """User and system time so far of processes, their descendants and the children that these have waited for."""
    total = 0
    for pid in {one for root in pids for one in tree(root)}:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(field) for field in fields[11:15])
    return total / TICKS


def children_seconds():
    """User and system time of the commands that were run and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def until(what, probe, patience=600.0, pause=0.02):
    """Polls until `probe` gives something true, and returns that."""
    deadline = time.monotonic() + patience
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {patience:.0f} s: {what}")
        time.sleep(pause)


def timed(command, **options):
    """Runs a command and gives its seconds."""
    begin = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)
    return time.monotonic() - begin


def percentile(values, share):
    """The value below which a share of the others lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values):
    """The middle; of rounds on a noisy machine."""
    return statistics.median(values)
