"""Timing by CPU seconds of one thread, in interleaved repeats, and peaks of resident memory."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MIB = 2**20


def interleaved(variants: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The median CPU seconds of each variant; each repeat runs all of them once, after one round that is not counted.

    CPU seconds of this process, so that other load on the machine does not enter; threads must be set to one.
    """
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats + 1):
        for name, run in variants.items():
            begun = time.process_time()
            run()
            if repeat:
                taken[name].append(time.process_time() - begun)
    return {name: statistics.median(times) for name, times in taken.items()}


def once(run: Callable[[], Any]) -> float:
    """CPU seconds of a single run."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


def peak_growth(run: Callable[[], Any]) -> float:
    """By how many MiB resident memory peaks above what it is before the run (Linux, glibc)."""
    gc.collect()
    # Memory that earlier runs gave back only to the allocator would hide what this one takes.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    raise KeyError(key)
