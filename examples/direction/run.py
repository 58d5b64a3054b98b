"""Predict the direction of a price on recorded ticks, through the real fold, and say honestly how it went.

Run it: .venv/bin/python examples/direction/run.py [trades.parquet ...]

Without files it takes the two small recordings that the tests hold. It prints each model beside its baselines and writes a page: where
--html says, else into a new temporary folder. README.md says what came of the full recordings, which convert.py makes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fooled
import msgspec
import page
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.config import Config, load
from engine.models.report import report
from engine.models.spec import ModelSpec, resolve_models
from engine.models.standing import Standing, VersionStanding
from engine.models.triviality import FeatureWatch
from replay.driver import build_fold, drive, views_of
from replay.sources import open_source, total_rows
from replay.terminal import progress_bar

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "tests" / "data"
SMALL = (DATA / "binance_20250621_ltc_trades.parquet", DATA / "cme_es_20130901_trades.parquet")
FEES_BPS = {"binance": 10.0, "CME": 1.0}
"""What a taker pays one way: Binance's spot fee; half a tick of ES, and the commission."""
NAMES = {
    "scaled_softmax": "softmax, compiled",
    "scaled_linear": "linear (NLMS), compiled",
    "naive_bayes.GaussianNB": "Gaussian naive Bayes",
    "tree.HoeffdingTreeClassifier": "Hoeffding tree",
    "forest.ARFClassifier": "adaptive random forest",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=SMALL, help="Parquet trades, a recording each")
    parser.add_argument("--models", default="", help="only these of direction.toml, with commas between them")
    parser.add_argument(
        "--fee-bps", type=float, help="one way (default: 10 on binance, 1 on CME, else the models' own)"
    )
    parser.add_argument("--html", type=Path, help="the page to write (default: report.html in a new temporary folder)")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    options = parser.parse_args()
    config = load(HERE / "direction.toml", {})
    specs = resolve_models(config.models, [view.name for view in views_of(config)])
    if options.models:
        specs = tuple(spec for spec in specs if spec.name in options.models.split(","))
    recordings = [judge(config, specs, path, options.fee_bps) for path in options.files]
    for recording in recordings:
        show(recording)
    html = options.html or Path(tempfile.mkdtemp(prefix="tickfold-")) / "report.html"
    html.write_text(page.render(recordings))
    print(f"the page: {html}")
    if options.json:
        options.json.write_text(json.dumps(recordings, indent=1, allow_nan=False))


def judge(config: Config, specs: Sequence[ModelSpec], path: Path, fee_bps: float | None) -> dict[str, Any]:
    """Fold one recording with the models; return how each version of each did, and how one could have been fooled by it."""
    source = open_source(path)
    trades = fooled.Trades.of(path)
    fee = FEES_BPS.get(trades.exchange) if fee_bps is None else fee_bps
    if fee is not None:
        specs = [_with_fee(spec, fee) for spec in specs]
    paid = specs[0].config.fee_bps
    # Exactly the fold of a daemon; only the strategies are left out.
    fold = build_fold(config, [], models=specs)
    assert fold.models is not None
    watch, kept = FeatureWatch(), fooled.Kept()

    def matured(*batch: Any) -> None:
        watch(*batch)
        kept(*batch)

    fold.models.matured = matured
    with progress_bar(path.name, total_rows([source]) or 0) as progress:
        done = 0

        def advance(rows: int) -> None:
            nonlocal done
            done += rows
            progress(done)

        drive(fold, [source], progress=advance)
    fold.stop()
    standings = fold.models.standings()
    models = [_model(one, watch) for one in standings]
    return {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "exchange": trades.exchange,
        "symbol": trades.symbol,
        "trades": len(trades.price),
        "hours": (int(trades.timestamp[-1]) - int(trades.timestamp[0])) / 3.6e12,
        "from": _utc(int(trades.timestamp[0])),
        "to": _utc(int(trades.timestamp[-1])),
        "fee_bps": paid,
        "models": models,
        "fooled": fooled.figures(trades, kept, models, paid),
    }


def _with_fee(spec: ModelSpec, fee_bps: float) -> ModelSpec:
    return replace(spec, config=msgspec.structs.replace(spec.config, fee_bps=fee_bps))


def _model(standing: Standing, watch: FeatureWatch) -> dict[str, Any]:
    leaks = watch.leaks(standing.model, (standing.exchange, standing.symbol))
    return {
        "model": standing.model,
        "horizon": standing.horizon,
        "target": standing.target,
        "classes": list(standing.classes),
        "champion": standing.champion,
        "void": standing.void,
        "promotions": standing.promotions,
        "drifts": standing.drifts,
        "marks": [text for _, _, text in standing.marks],
        "leaks": [one.text for one in leaks],
        "versions": [_version(one, standing) for one in standing.versions],
    }


def _version(one: VersionStanding, standing: Standing) -> dict[str, Any]:
    return {
        "version": one.version,
        "name": name_of(one.algorithm),
        "role": one.role,
        "learned": one.learned,
        "memory": one.memory,
        "pairs": one.pairs,
        "e_value": one.e_value if math.isfinite(one.e_value) else None,  # the champion has none
        "threshold": one.threshold if math.isfinite(one.threshold) else None,
        **report(one.score, kind=standing.kind, classes=standing.classes, coverage=standing.coverage),
    }


def name_of(algorithm: Mapping[str, Any]) -> str:
    """Return what a reader calls an algorithm."""
    named = algorithm.get("algorithm") or algorithm.get("river")
    return NAMES.get(named, named) if isinstance(named, str) else "logistic regression, River"


def _utc(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns / 1e9, UTC):%Y-%m-%d %H:%M}"


# What is printed ----------------------------------------------------------------------------------------------------------------


def show(recording: Mapping[str, Any]) -> None:
    """Print a recording's tables: no score without its baselines, no skill without its interval."""
    console = Console(width=140)
    console.print(
        f"\n[bold]{recording['symbol']}[/] of {recording['exchange']}, {recording['from']} to {recording['to']} UTC, "
        f"{recording['trades']:,} trades, fee {recording['fee_bps']:g} bps one way"
    )
    for model in recording["models"]:
        first = model["versions"][0]
        loss = first["headline"]
        columns = ("accuracy", "mcc", loss, "net_bps") if loss == "brier" else (loss, "mae", "net_bps")
        table = Table(
            title=f"{model['model']}: n {first['n']:,}, n_eff {first['n_eff']:,}, {model['void']:,} void, "
            f"champion {model['champion']}",
            title_justify="left",
            box=None,
            padding=(0, 2, 0, 0),
        )
        table.add_column("")
        for column in (*columns, "skill, 95 % interval", "in interval or set"):
            table.add_column(column, justify="right")
        for one in model["versions"]:
            low, high = (number(end, "+.1%") for end in one["interval"])
            skill = f"{number(one['skill'], '+.1%')} ({low} to {high})"
            scores = [number(one[column], FORMS[column]) for column in columns]
            table.add_row(f"{one['version']} {one['name']}", *scores, skill, number(one["coverage"], ".1%"))
        for name, scores in first["beside"].items():
            is_best = name == first["best_baseline"]
            row = [number(scores.get(column), FORMS[column]) for column in columns]
            table.add_row(
                Text(f"  {name}", "" if is_best else "dim"), *row, Text("the best baseline" if is_best else "", "dim")
            )
        console.print(table)
        for text in [warning["text"] for warning in first["trivial"]] + model["leaks"]:
            console.print(f"  [yellow]{text}[/]")
    for one in recording["fooled"]:
        console.print(f"[bold]{one['name']}[/]: {one['said']} {one['true']}")


FORMS = {"accuracy": ".1%", "mcc": "+.3f", "brier": ".4f", "net_bps": "+.2f", "mse": ".3g", "mae": ".3g"}


def number(value: float | None, form: str) -> str:
    """Return a number as text, a dash where there is none."""
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    main()
