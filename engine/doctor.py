"""Checks of the machine: whether what a daemon relies on is so. Each looks, measures where it must, and leaves nothing behind.

A finding is `fail` if the daemon cannot run or could lose what it has promised to keep, `warn` if it runs and somebody may be
surprised, else `ok`. What is not so comes with what was expected and what to do.
"""

from __future__ import annotations

import errno
import mmap
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec

Status = Literal["ok", "warn", "fail"]
PACKAGE = "tickfold"
OPTIONAL = frozenset({"metaflow-card-uplot"})
"""Packages without which the daemon runs all the same."""
SYNCS = 20
SYNC_SLOW_MS = 20.0
SYNC_BYTES = 4_096
PREALLOCATED_MAX = 4 << 20
STEP_MS = 5.0  # of the wall clock against the monotonic one, while the checks run
RESOLUTION_NS = 1_000_000
DESCRIPTORS = 1_024
MEMORY_MIB = 512
COMMAND_S = 1.0
PASSING = frozenset({"tmpfs", "ramfs"})
SHARED = ("nfs", "cifs", "smb", "9p", "fuse", "ceph", "glusterfs", "lustre")


class Finding(msgspec.Struct, frozen=True):
    """What one check found."""

    check: str
    status: Status
    found: str
    expected: str = ""  # "" if it is as expected
    remedy: str = ""  # what to do, "" if nothing


def guarded(check: str, look: Callable[[], Finding]) -> Finding:
    """Return what a check finds; one that breaks is a finding too, and no reason to leave out the others."""
    try:
        return look()
    except Exception as error:
        return Finding(check, "fail", f"{type(error).__name__}: {error}", "a check that can be made", "report this")


# -- Python and packages


def check_python() -> Finding:
    """Python's version against what the package asks for."""
    wanted = metadata.metadata(PACKAGE)["Requires-Python"] or ""
    found = (
        f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}"
    )
    if not is_within(platform.python_version(), wanted):
        return Finding("python", "fail", found, f"Python {wanted}", "make PYTHON=python3.12 install")
    return Finding("python", "ok", found)


def check_packages() -> Finding:
    """Versions of the packages that running needs, against the ranges that the package asks for."""
    missing, outside, shown = [], [], []
    for requirement in metadata.requires(PACKAGE) or ():
        name, ranges, is_extra = _requirement(requirement)
        if is_extra:
            continue
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(f"{name}{ranges}")
            continue
        shown.append(f"{name} {version}")
        if not is_within(version, ranges):
            outside.append(f"{name} {version} (expected {ranges})")
    if missing:
        needed = [name for name in missing if re.split(r"[^\w.-]", name)[0] not in OPTIONAL]
        return Finding(
            "packages",
            "fail" if needed else "warn",
            f"not installed: {', '.join(missing)}",
            "all of them",
            "make install",
        )
    if outside:
        return Finding("packages", "warn", "; ".join(outside), "versions that were tested", "make install")
    return Finding("packages", "ok", ", ".join(shown))


def check_uvloop() -> Finding:
    """Whether an event loop of uvloop runs."""
    try:
        import uvloop

        loop = uvloop.new_event_loop()
        try:
            loop.call_soon(loop.stop)
            loop.run_forever()
        finally:
            loop.close()
    except Exception as error:
        return Finding(
            "event loop", "fail", f"{type(error).__name__}: {error}", "a loop of uvloop that runs", "make install"
        )
    return Finding("event loop", "ok", f"uvloop {metadata.version('uvloop')}")


def is_within(version: str, ranges: str) -> bool:
    """Whether a version lies in ranges such as ">=3.12,<4". Compares the numbers of a release, which is all that is asked here."""
    found = _numbers(version)
    for part in ranges.split(","):
        match = re.fullmatch(r"\s*(>=|<=|==|!=|>|<|~=)\s*([\w.*]+)\s*", part)
        if match is None:
            continue
        sign, wanted = match[1], _numbers(match[2])
        length = max(len(found), len(wanted))
        ours, theirs = (numbers + (0,) * (length - len(numbers)) for numbers in (found, wanted))
        is_equal = ours[: len(wanted)] == wanted if match[2].endswith("*") else ours == theirs
        if sign == "~=":
            kept = ours >= theirs and ours[: len(wanted) - 1] == wanted[:-1]
        else:
            kept = {
                ">=": ours >= theirs,
                "<=": ours <= theirs,
                ">": ours > theirs,
                "<": ours < theirs,
                "==": is_equal,
                "!=": not is_equal,
            }[sign]
        if not kept:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(number) for number in release[0].split(".")) if release else ()


def _requirement(text: str) -> tuple[str, str, bool]:
    """Split a requirement into its name, its ranges, and whether only an extra or another system needs it."""
    wanted, _, marker = text.partition(";")
    match = re.fullmatch(r"\s*([\w.-]+)\s*(?:\[[^]]*\])?\s*\(?([^)]*)\)?\s*", wanted)
    assert match is not None, text
    return match[1], match[2].strip(), bool(marker.strip())


# -- the machine


class ClockCheck:
    """Compares the wall clock with the monotonic one from its making on."""

    def __init__(self) -> None:
        self._began = self._difference()

    @staticmethod
    def _difference() -> int:
        return time.time_ns() - time.monotonic_ns()

    def look(self) -> Finding:
        """The clocks: resolution, whether the wall clock is moved, whether something keeps it right."""
        previous, steps = time.monotonic_ns(), []
        for _ in range(10_000):
            now = time.monotonic_ns()
            if now < previous:
                return Finding(
                    "clock",
                    "fail",
                    "the monotonic clock ran backwards",
                    "time that never decreases",
                    "another kernel or host",
                )
            if now > previous:
                steps.append(now - previous)
            previous = now
        moved_ms = (self._difference() - self._began) / 1e6
        kept = _is_synchronized()
        said = {
            True: "kept right by NTP",
            False: "nothing keeps it right",
            None: "whether NTP keeps it right cannot be told",
        }[kept]
        found = (
            f"monotonic to {min(steps, default=0)} ns, wall clock moved {moved_ms:+.2f} ms against it meanwhile, {said}"
        )
        if min(steps, default=RESOLUTION_NS) >= RESOLUTION_NS:
            return Finding(
                "clock",
                "warn",
                found,
                "steps below 1 ms",
                "another clock source: latencies are no better than its steps",
            )
        if abs(moved_ms) > STEP_MS:
            remedy = "`received` does not follow it; skew is reported"
            return Finding("clock", "warn", found, "a wall clock that is not moved", remedy)
        if kept is False:
            return Finding("clock", "warn", found, "a clock that is kept right", "timedatectl set-ntp true")
        return Finding("clock", "ok", found)


def _is_synchronized() -> bool | None:
    """Whether NTP keeps the clock right; None where the system does not say."""
    if shutil.which("timedatectl") is None:
        return None
    try:
        words = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
        said = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(said.stdout.strip())


def check_processors() -> Finding:
    """How many processors this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = f"{count} of {os.cpu_count()}"
    if count < 2:
        return Finding(
            "processors", "warn", found, "2 or more", "snapshots, exports and the fold will get in each other's way"
        )
    return Finding("processors", "ok", found)


def check_memory() -> Finding:
    """How much memory is left, for this process and for the machine."""
    free = _free_memory()
    if free is None:
        return Finding("memory", "ok", "cannot be told here")
    found = f"{free >> 20:,} MiB free"
    if free < MEMORY_MIB << 20:
        return Finding("memory", "warn", found, f"{MEMORY_MIB} MiB", "fewer symbols, or a smaller store.ring_rows")
    return Finding("memory", "ok", found)


def _free_memory() -> int | None:
    """Bytes that can still be had: of the machine, of its control group, the smaller."""
    amounts = []
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
        amounts += [int(found[1]) * 1024] if found else []
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        if limit.isdigit():
            amounts.append(int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):
        pass
    return min(amounts, default=None)


def check_descriptors() -> Finding:
    """How many files and sockets may be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = "no limit" if soft == resource.RLIM_INFINITY else f"{soft:,}"
    if soft != resource.RLIM_INFINITY and soft < DESCRIPTORS:
        more = f" (up to {hard:,} without asking anybody)" if hard > soft else ""
        return Finding("open files", "warn", found, f"{DESCRIPTORS:,} or more", f"ulimit -n {DESCRIPTORS}{more}")
    return Finding("open files", "ok", found)


# -- the disk


def check_folder(folder: Path) -> Finding:
    """Whether the data folder can be written, or made."""
    place = nearest(folder)
    found = str(folder) if folder.exists() else f"{folder} (not made yet, in {place})"
    if folder.exists() and not folder.is_dir():
        return Finding(
            "data folder",
            "fail",
            f"{folder} is no folder",
            "a folder",
            "--data DIR or TICKFOLD_DATA__DIR names another",
        )
    try:
        with _scratch(folder) as scratch, (scratch / "written").open("wb") as file:
            file.write(b"x")
    except OSError as error:
        expected = "a folder that user " + str(os.geteuid()) + " can write"
        return Finding(
            "data folder",
            "fail",
            f"{found}: {error.strerror}",
            expected,
            "chown or chmod it, or --data DIR names another",
        )
    return Finding("data folder", "ok", found)


def check_space(folder: Path, segment_bytes: int, retention_bytes: int, used_bytes: int) -> Finding:
    """Whether the disk has room for all that the journal may come to keep."""
    usage = shutil.disk_usage(nearest(folder))
    kind = filesystem(folder)
    needed = max(retention_bytes - used_bytes, 0)
    found = f"{usage.free >> 20:,} MiB free of {usage.total >> 20:,} on {kind or 'an unknown file system'}"
    remedy = "make room, or a smaller journal.retention_mib"
    if usage.free < 2 * segment_bytes:
        return Finding("disk space", "fail", found, f"two segments, {2 * segment_bytes >> 20:,} MiB", remedy)
    if usage.free < needed:
        return Finding("disk space", "warn", found, f"{needed >> 20:,} MiB more for journal.retention_mib", remedy)
    if kind in PASSING:
        return Finding(
            "disk space", "warn", found, "a disk", "what is kept in memory is gone after a restart of the machine"
        )
    if kind.startswith(SHARED):
        return Finding(
            "disk space",
            "warn",
            found,
            "a disk of this machine",
            "locks and mapped writes over a network may not hold what they promise",
        )
    return Finding("disk space", "ok", found)


def check_sync(folder: Path, policy: str) -> Finding:
    """How long it takes until written bytes are on the disk: median of 20 times 4 KiB."""
    sync = getattr(os, "fdatasync", os.fsync)
    times = []
    with _scratch(folder) as scratch, (scratch / "synced").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(os.urandom(SYNC_BYTES))
            began = time.perf_counter()
            sync(file.fileno())
            times.append((time.perf_counter() - began) * 1e3)
    median = statistics.median(times)
    found = f"{sync.__name__} takes {median:.2f} ms, {max(times):.2f} at most (journal.fsync = {policy!r})"
    if median > SYNC_SLOW_MS:
        return Finding(
            "disk sync",
            "warn",
            found,
            f"below {SYNC_SLOW_MS:g} ms",
            'a faster disk; with journal.fsync = "always" each input waits so long',
        )
    return Finding("disk sync", "ok", found)


def check_reserve(folder: Path, segment_bytes: int) -> Finding:
    """Whether space can be reserved and mapped: a full disk is then an error, and never a signal that kills."""
    size = min(segment_bytes, PREALLOCATED_MAX)
    with _scratch(folder) as scratch, (scratch / "reserved").open("wb+", buffering=0) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except AttributeError:
            return Finding(
                "reserving",
                "warn",
                "this system has no posix_fallocate",
                "space that is reserved",
                "keep the disk from filling up",
            )
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                return Finding(
                    "reserving",
                    "warn",
                    f"{filesystem(folder)}: {error.strerror}",
                    "space that is reserved",
                    "keep the disk from filling up",
                )
            return Finding("reserving", "fail", f"{size >> 20} MiB: {error.strerror}", "a segment's space", "make room")
        reserved = os.fstat(file.fileno()).st_blocks * 512
        with mmap.mmap(file.fileno(), size) as mapped:
            mapped[-8:] = b"tickfold"
            mapped.flush()
        if os.pread(file.fileno(), 8, size - 8) != b"tickfold":
            return Finding(
                "reserving",
                "fail",
                "what was written to a mapped file is not in it",
                "a shared mapping",
                "another file system",
            )
    if reserved < size:
        return Finding(
            "reserving",
            "warn",
            f"{reserved >> 10:,} KiB of {size >> 10:,}",
            "all of it",
            "keep the disk from filling up",
        )
    return Finding("reserving", "ok", "space is reserved before it is written, mapped files work")


def nearest(folder: Path) -> Path:
    """Return the folder itself or the nearest one above it that exists."""
    place = folder.absolute()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    return place


def filesystem(folder: Path) -> str:
    """Return the kind of file system that a folder is on, "" where the system does not say."""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place = nearest(folder).resolve()
    best, kind = -1, ""
    for line in mounts:
        at, found = line.split()[1:3]
        at = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), at)
        if place.is_relative_to(at) and len(at) >= best:
            best, kind = len(at), found
    return kind


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Give a folder on the same disk that is gone afterwards: in the data folder, or where that is going to be."""
    with tempfile.TemporaryDirectory(prefix=".tickfold-doctor-", dir=nearest(folder)) as made:
        yield Path(made)
