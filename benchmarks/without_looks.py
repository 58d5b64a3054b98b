"""`tickfold run` with feeds that look after their symbols once an hour: what `bench_idle` compares the real one with."""

from __future__ import annotations

import runpy

from feeds import live

if __name__ == "__main__":
    live.LOOK_S = 3_600.0
    runpy.run_module("engine", run_name="__main__")
