"""A daemon and MLflow: it tells what it learned where that is on, imports nothing of it where it is off, and stops in time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemons import Child, replayed

HEAVY = {"mlflow", "river", "pandas", "sklearn", "sqlalchemy"}
QUIET = {"STRATEGIES__RUN": "[]", "MODELS__RUN": "['direction']", "FEEDS__REPLAY_SPEED": "50.0"}


def imported(said: str) -> set[str]:
    """Top-level packages that `-X importtime` named."""
    lines = [line.rpartition("|")[2].strip() for line in said.splitlines() if line.startswith("import time:")]
    return {line.partition(".")[0] for line in lines}


@pytest.mark.parametrize("module", ["engine", "engine.tracking", "engine.app.tracking", "engine.cli.run"])
def test_no_module_imports_mlflow_or_river_by_itself(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"import {module}"], capture_output=True, text=True, check=True
    )
    assert not imported(done.stderr) & HEAVY


def test_a_daemon_imports_neither_mlflow_nor_river(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    with Child(tmp_path / "data", **QUIET) as daemon:
        daemon.wait_for(lambda health: health["parts"]["models"]["instances"] > 0)
        assert daemon.health()["parts"]["mlflow"] is None
        daemon.stop()
    found = imported(daemon.stderr())
    assert {"engine", "numpy", "numba"} <= found
    assert not found & HEAVY


def test_a_daemon_tells_mlflow_and_stops_in_time_with_the_digests_of_a_replay(tmp_path: Path) -> None:
    how = {**QUIET, "MLFLOW__ENABLED": "true", "MLFLOW__METRICS_S": "0.5", "MLFLOW__EVERY_S": "2.0"}
    with Child(tmp_path / "data", **how) as daemon:
        told = daemon.wait_for(lambda health: health["parts"]["mlflow"]["sent"] > 0, 150.0)["parts"]["mlflow"]
        assert told["state"] == "tracking"
        assert told["uri"].startswith("sqlite:///")
        stopped = daemon.stop()
    home = tmp_path / "data" / "mlflow"
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "mlflow.db").is_file()
    assert stopped == replayed(tmp_path / "data"), "an effect changes no bit"
