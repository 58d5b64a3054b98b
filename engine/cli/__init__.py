"""The command line: `tickfold VERB`. A verb is a file; what it needs is imported when it runs, so that `--help` is fast.

stdout holds the result (one JSON document with --json), stderr the log and the live view.
Exit codes: 0 done, 1 the check failed, 2 usage, configuration or input error, 3 a needed service is down, 130 interrupted.
"""

from __future__ import annotations

from engine.cli.entry import main

__all__ = ["main"]
