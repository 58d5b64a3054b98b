"""Logging: structlog, told to people on stderr and, by a daemon, to a file of JSON lines. Inside the fold nothing logs.

`configure` is for commands that end, `configure_daemon` for what runs for months. There a record costs the loop its encoding and no
more: threads write (engine/log_file.py). No secret passes (engine/redact.py). What logs by Python's own `logging` (aiohttp, asyncio)
and what threads die of comes out here too.

Line     {"time": "2024-08-08T23:55:00.123456Z", "level": "info", "event": "...", "sequence": n, fields...}
Level    the file has everything from info on, with `verbose` debug too; people see warnings and worse, with `verbose` everything,
         and on a terminal the LIFECYCLE as well
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import msgspec
import structlog

from engine.events import (
    Command,
    Configured,
    Drift,
    FeedStatus,
    Gap,
    HandlerFailed,
    History,
    Parked,
    Promotion,
    Refused,
    Resumed,
    Shed,
    WindowOverflow,
)
from engine.log_file import LineWriter, RotatingFile, Stream
from engine.redact import redact

REFUSED_SHOWN = 5
LIFECYCLE = frozenset(
    {"starting", "recovered", "warmed", "ready", "listening", "feed connected", "feed recovered", "feed filled", "snapshot", "stopping", "stopped"}
)  # fmt: skip
"""What happens a few times in a daemon's life, and whoever watches it wants to see."""
FIELD_CHARACTERS = 16_384
LINE_BYTES = 65_536
FIXED = ("time", "level", "event", "sequence")
TRACEBACKS = ("exception", "traceback")
FEED_LEVELS: Mapping[str, str] = {
    "connected": "info",
    "recovered": "info",
    "filled": "info",
    "failed": "error",
    "lost": "error",
}
"""Levels of what a feed says of itself; what is not here is a warning."""


def configure(verbose: bool) -> Any:
    """Return the logger of this process: warnings and worse, with `verbose` everything."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0, sort_keys=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(10 if verbose else 30),
        # Made anew for each record, so that it goes to what stderr is then, and not to one that was closed since.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    return structlog.get_logger()


def configure_daemon(file: Path, *, file_bytes: int, verbose: bool, sequence: Callable[[], int]) -> Any:
    """Return the logger of a daemon, which `structlog.get_logger()` gives from now on as well.

    file: JSON lines; at `file_bytes` it becomes FILE.1, the one older file that is kept. sequence: gives the number of the input
    being folded; it is called by whichever thread logs. A file that cannot be written hurts nobody: it is said on stderr, lines are
    counted, and once it can be written again it says how many are missing. `close_daemon` writes out what waits.
    """
    close_daemon()
    _open.append(_DaemonLog(file, file_bytes, verbose, sequence, sys.stderr))
    return structlog.get_logger()


def close_daemon(timeout_s: float = 2.0) -> None:
    """Write out what waits to be written, for `timeout_s` at most, and let go of the file. Also done when the process exits."""
    while _open:
        _open.pop().close(timeout_s)


def lost_lines() -> int:
    """How many log lines of this daemon found no place: the queue was full, or the disk."""
    return sum(opened.lost for opened in _open)


_open: list[_DaemonLog] = []  # the one there is, if there is one: structlog's configuration is the process's too
atexit.register(close_daemon)


class _DaemonLog:
    """What a daemon's log consists of: a chain that makes a record, and two writers."""

    def __init__(
        self, file: Path, file_bytes: int, verbose: bool, sequence: Callable[[], int], terminal: TextIO
    ) -> None:
        self._verbose = verbose
        self._sequence = sequence
        self._is_watched = terminal.isatty()
        self._people = LineWriter(Stream(terminal), "log to stderr", lambda said, _: f"log: {said}\n".encode())
        complain = self._people.put
        rotating = RotatingFile(file, file_bytes, lambda text: complain(f"log: {text}\n".encode()))
        self._file = LineWriter(rotating, "log to file", _notice)
        self._console = structlog.dev.ConsoleRenderer(
            colors=self._is_watched, pad_event_to=0, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
        )
        structlog.configure(
            processors=[structlog.processors.add_log_level, self._deliver],
            wrapper_class=structlog.make_filtering_bound_logger(10 if verbose else 20),
            logger_factory=lambda *_: None,
            cache_logger_on_first_use=False,
        )
        self._bridge = _Bridge(logging.WARNING)
        logging.getLogger().addHandler(self._bridge)
        self._threads_end, threading.excepthook = threading.excepthook, _thread_died

    @property
    def lost(self) -> int:
        return self._file.lost

    def close(self, timeout_s: float) -> None:
        logging.getLogger().removeHandler(self._bridge)
        threading.excepthook = self._threads_end
        configure(self._verbose)
        self._file.close(timeout_s)
        self._people.close(timeout_s)

    def _deliver(self, _logger: Any, _method: str, fields: Any) -> Any:
        """Hand a record to whoever writes it. Whatever it holds, it is no reason to fail."""
        now = _now()
        level, event = str(fields.pop("level")), str(fields.pop("event", ""))
        record: dict[str, Any] = {"time": _iso(now), "level": level, "event": _shown_value(event)}
        record["sequence"] = fields.pop("sequence") if "sequence" in fields else self._numbered()
        _write_exception(fields)
        for name, value in fields.items():
            record[f"{name}_" if name in FIXED else name] = _shown_value(value, name)
        self._file.put(_line(record))
        is_grave = level in ("warning", "error", "critical")
        if is_grave or self._verbose or (self._is_watched and event in LIFECYCLE):
            self._people.put(self._told(record, now))
        raise structlog.DropEvent

    def _numbered(self) -> int | None:
        try:
            return self._sequence()
        except Exception:
            return None  # the fold is not there yet, or no longer

    def _told(self, record: Mapping[str, Any], now: datetime) -> bytes:
        """A record as people read it: with the time of day, and without tracebacks unless they asked for everything."""
        last = ("sequence", "time", *TRACEBACKS)
        told = {name: value for name, value in record.items() if name not in last}
        if record["sequence"]:
            told["sequence"] = record["sequence"]
        told["timestamp"] = now.strftime("%H:%M:%S.") + f"{now.microsecond // 1000:03d}"
        for name in TRACEBACKS:
            if name in record and self._verbose:
                told["exception"] = str(record[name]).strip()
            elif name in record:
                told.setdefault("error", str(record[name]).strip().rpartition("\n")[2])
        try:
            return (str(self._console(None, "", told)) + "\n").encode("utf-8", "backslashreplace")
        except Exception:
            return _line(record)


def _now() -> datetime:
    return datetime.fromtimestamp(time.time_ns() // 1_000 / 1_000_000, UTC)


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _write_exception(fields: dict[str, Any]) -> None:
    """Put the text of an exception in the place of `exc_info`."""
    given = fields.pop("exc_info", None)
    if not given:
        return
    error = given if isinstance(given, BaseException) else given[1] if isinstance(given, tuple) else sys.exc_info()[1]
    if error is not None:
        fields["exception"] = "".join(traceback.format_exception(error))


def _shown_value(value: Any, name: str = "") -> Any:
    """A value without its secrets, and of bounded length: cut roughly before they are looked for, exactly afterwards."""
    try:
        return _cut(redact(_cut(value, 2 * FIELD_CHARACTERS), name), FIELD_CHARACTERS)
    except Exception:
        return _printable(value)  # refers to itself, or has a `__str__` that raises


def _cut(value: Any, characters: int) -> Any:
    if isinstance(value, str) and len(value) > characters:
        return f"{value[:characters]}... ({len(value) - characters:,} characters more)"
    return value


def _line(record: Mapping[str, Any]) -> bytes:
    """One JSON line of at most LINE_BYTES, whatever the record holds."""
    try:
        line = msgspec.json.encode(record)
    except Exception:
        fixed = {name: _printable(record[name]) for name in FIXED}
        line = msgspec.json.encode({**fixed, "unencodable": {str(n): _printable(v) for n, v in record.items()}})
    if len(line) >= LINE_BYTES:
        fixed = {name: _printable(record[name]) for name in FIXED}
        line = msgspec.json.encode({**fixed, "cut": line[: LINE_BYTES // 4].decode("utf-8", "ignore")})
    return line + b"\n"


def _printable(value: object) -> str:
    try:
        return (value if isinstance(value, str) else repr(value)).encode("ascii", "backslashreplace").decode()[:1024]
    except Exception:
        return f"<{type(value).__name__} that cannot be printed>"


def _notice(said: str, count: int) -> bytes:
    """The line by which a file tells of lines that are missing in it."""
    record = {"time": _iso(_now()), "level": "warning", "event": "log lines lost", "sequence": None}
    return msgspec.json.encode({**record, "count": count, "reason": said}) + b"\n"


class _Bridge(logging.Handler):
    """Takes what is logged by Python's own `logging` into this log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            said = {"source": record.name, "exc_info": record.exc_info}
            structlog.get_logger().log(min(record.levelno, logging.CRITICAL) // 10 * 10, record.getMessage(), **said)
        except Exception:
            self.handleError(record)


def _thread_died(died: threading.ExceptHookArgs) -> None:
    name = died.thread.name if died.thread else "unknown"
    structlog.get_logger().error("thread died", thread=name, exc_info=died.exc_value)


class Reporter:
    """Logs what a fold reports.

    Refusals (the first few, then each tenth power), gaps, overflows, failing plugins, feeds, commands, and what becomes of models: a
    promotion is an alert.

    verbose: with the tracebacks of failing plugins. A daemon wants them: they go to its file, and are not shown to people.
    """

    def __init__(self, logger: Any, verbose: bool) -> None:
        self._log = logger
        self._verbose = verbose
        self.refused = 0
        self.failed = 0

    def __call__(self, event: Any) -> None:
        """Log one event; those that are no trouble are passed over."""
        if isinstance(event, Refused):
            self._refused(event)
        elif isinstance(event, Gap):
            ids = f"{event.first_id}..{event.last_id}"
            self._log.info(
                "gap", key=f"{event.exchange} {event.symbol}", ids=ids, missing=event.missing, sequence=event.sequence
            )
        elif isinstance(event, WindowOverflow):
            key = f"{event.exchange} {event.symbol}"
            hint = f"holds {event.capacity} trades (features.window_ticks_max); NaN until it is whole again"
            self._log.warning("window overflow", key=key, window=event.window, hint=hint, sequence=event.sequence)
        elif isinstance(event, HandlerFailed):
            self.failed += 1
            more = {"traceback": "\n" + event.traceback} if self._verbose else {}
            said = {"actor": event.actor, "handler": event.handler, "error": event.error, "in_a_row": event.in_a_row}
            self._log.error("plugin failed", **said, sequence=event.sequence, **more)
        elif isinstance(event, Parked):
            self._log.error("plugin parked", actor=event.actor, reason=event.reason, sequence=event.sequence)
        elif isinstance(event, Resumed):
            self._log.info("plugin resumed", actor=event.actor, sequence=event.sequence)
        elif isinstance(event, FeedStatus):
            name = f"{event.exchange} {event.symbol}".rstrip()
            tell = getattr(self._log, FEED_LEVELS.get(event.status, "warning"))
            tell(f"feed {event.status}", feed=name, detail=event.detail, sequence=event.sequence)
        elif isinstance(event, Shed):
            self._log.warning("quotes shed", quotes=event.quotes, reason=event.reason, sequence=event.sequence)
        elif isinstance(event, Promotion):
            versions = f"{event.from_version} -> {event.to_version}"
            said = {"model": event.model, "versions": versions, "reason": event.reason}
            self._log.warning("model promoted", key=_key(event), **said, sequence=event.sequence)
        elif isinstance(event, Drift):
            said = {"stream": event.stream, "detector": event.detector, "statistic": event.statistic}
            self._log.info("drift", key=_key(event), **said, started=event.started, sequence=event.sequence)
        elif isinstance(event, Command):
            self._log.info("command", verb=event.verb, target=event.target, sequence=event.sequence)
        elif isinstance(event, Configured):
            self._log.info("configured", definition=event.definition, begins=event.begins, sequence=event.sequence)
        elif isinstance(event, History):
            self._log.info(f"history {event.phase}", source=event.source, sequence=event.sequence)

    def _refused(self, event: Refused) -> None:
        self.refused += 1
        key = f"{event.exchange} {event.symbol}"
        if self.refused <= REFUSED_SHOWN:
            self._log.warning("refused", key=key, reason=event.reason)
        elif self.refused == REFUSED_SHOWN + 1:
            self._log.warning("refused", more="further ones are only counted")
        elif self.refused >= 100 and str(self.refused).strip("0") == "1":
            self._log.warning("refused", key=key, reason=event.reason, so_far=self.refused)


def _key(event: Any) -> str:
    """The key of an event; a promotion that was decided over all symbols has none."""
    return f"{event.exchange} {event.symbol}".strip() or "all"
