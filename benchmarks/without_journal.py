"""`tickfold run` with a daemon that journals nothing: what `bench_journal` compares the real one with.

It takes no snapshots either, for those need a journal; all else is the same.
"""

from __future__ import annotations

import runpy

from engine.app import daemon


class Forgetful(daemon.Daemon):
    """A daemon whose intake writes to no journal."""

    async def _start(self) -> None:
        await super()._start()
        self._intake.journal = None


if __name__ == "__main__":
    daemon.Daemon = Forgetful  # type: ignore[misc]
    runpy.run_module("engine", run_name="__main__")
