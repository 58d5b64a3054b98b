"""`tickfold run`: the daemon."""

from __future__ import annotations

import argparse
import signal

from engine.cli.options import Verbs, add_verb
from engine.cli.replay import fold_sources


def add(verbs: Verbs) -> None:
    """Add the verb."""
    add_verb(verbs, "run", run, "fold the built-in recording with a live view (the daemon is to come)")


def run(options: argparse.Namespace) -> int:
    """Fold the built-in recording. SIGTERM ends it as SIGINT does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options.sources, options.speed, options.digest = [], None, True
    options.start = options.stop = options.until_sequence = None
    options.symbols = ()
    return fold_sources(options)
