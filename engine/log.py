"""Logging for people: structlog, one line an event, to stderr. Inside the fold nothing logs; the shell logs what the fold reports."""

from __future__ import annotations

import sys
from typing import Any

import structlog

from engine.events import Gap, HandlerFailed, Parked, Refused, Resumed, WindowOverflow

REFUSED_SHOWN = 5


def configure(verbose: bool) -> Any:
    """Return the logger of this process: warnings and worse, with `verbose` everything."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0, sort_keys=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(10 if verbose else 30),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    return structlog.get_logger()


class Reporter:
    """Logs what a fold reports: refusals (the first few of them), gaps, overflows, failing plugins."""

    def __init__(self, logger: Any, verbose: bool) -> None:
        self._log = logger
        self._verbose = verbose
        self.refused = 0
        self.failed = 0

    def __call__(self, event: Any) -> None:
        """Log one event; those that are no trouble are passed over."""
        if isinstance(event, Refused):
            self.refused += 1
            if self.refused <= REFUSED_SHOWN:
                self._log.warning("refused", key=f"{event.exchange} {event.symbol}", reason=event.reason)
            elif self.refused == REFUSED_SHOWN + 1:
                self._log.warning("refused", more="further ones are only counted")
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
