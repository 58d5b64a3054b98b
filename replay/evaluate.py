"""Models judged on what was recorded: ticks through the real fold, or rows of a data set through the actors' own test-then-learn loop.

On ticks nothing but the models takes part: their views are computed, no strategy hears anything. The scores are those of the fold's
own ledger: each prediction verified when its horizon has passed by `received`, and learned from only then.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from engine.config import Config
from engine.errors import ConfigError
from engine.models.naming import algorithm_text
from engine.models.report import report as report_of
from engine.models.score import pooled
from engine.models.settings import ModelConfig
from engine.models.spec import BUILT_IN, ModelSpec, resolve_model
from engine.models.standing import Standing
from engine.models.target import NONE
from engine.models.triviality import FeatureWatch, Triviality
from replay.datasets import DataSet, Row
from replay.driver import Selection, build_fold, drive, views_of
from replay.sources import Source

Progress = Callable[[int], None]
ALWAYS = ("n", "n_eff", "accuracy", "mcc", "brier", "skill", "interval", "baselines")
"""What every verdict has, null where it does not apply."""
LEVEL = 0.95  # of the intervals
EVERY_ROWS = 256  # of a data set between two steps of the progress


# Models on ticks ----------------------------------------------------------------------------------------------------------------


def models_to_judge(
    config: Config, name: str | None = None, *, horizon: str | None = None, changes: Sequence[str] = ()
) -> tuple[ModelSpec, ...]:
    """Return the model of a name, or all that are built in or defined (None), with `changes` ("band=2.0", "algorithm.lr=0.01") made.

    Raises ConfigError for a model or key that is not there, and for a value that cannot be.
    """
    known = {**BUILT_IN, **config.models.define}
    if name is not None and name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"--model {name!r}: expected one of {', '.join(known)}{hint}")
    made = [*changes, *([f"horizon={horizon}"] if horizon is not None else [])]
    return tuple(
        resolve_model(one, _changed(one, known[one], made)) for one in ([name] if name is not None else list(known))
    )


def _changed(name: str, model: ModelConfig, changes: Sequence[str]) -> ModelConfig:
    fields: dict[str, Any] = msgspec.to_builtins(model)
    for change in changes:
        key, separator, text = change.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {change!r}: expected KEY=VALUE, such as band=2.0")
        _put(fields, key.strip(), text.strip())
    try:
        return msgspec.convert(fields, ModelConfig)
    except msgspec.ValidationError as error:
        known = ModelConfig.__struct_fields__
        near = [one for change in changes for one in difflib.get_close_matches(change.partition("=")[0], known, 1)]
        hint = f"; did you mean {near[0]}?" if "unknown field" in str(error) and near else ""
        raise ConfigError(f"models.define.{name}: {error}{hint}") from error


def _put(fields: dict[str, Any], key: str, text: str) -> None:
    """Write a value where a dotted key says."""
    *path, last = key.split(".")
    into = fields
    for part in path:
        found = into.setdefault(part, {})
        if not isinstance(found, dict):
            raise ConfigError(f"--set {key}={text}: {part} has no keys below it")
        into = found
    into[last] = _parsed(text)


def _parsed(text: str) -> Any:
    """Read a value of TOML; what is none is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def evaluate(
    config: Config,
    sources: Sequence[Source],
    selection: Selection,
    models: Sequence[ModelSpec],
    *,
    report: Callable[[Any], None] | None = None,
    progress: Progress | None = None,
    pooled: bool = False,
) -> list[dict[str, Any]]:
    """Fold ticks with these models alone; return a verdict for each key and model, `pooled`: and one for all keys of a model.

    progress hears how many rows were read so far. Raises ConfigError for what the models need and is not there.
    """
    # As in an audit: where a model runs does not matter to its bits, and here nobody waits for the loop.
    models = [replace(model, config=msgspec.structs.replace(model.config, place="loop")) for model in models]
    wanted = {view for model in models for view, _ in model.features}
    views = tuple(view for view in views_of(config) if view.name in wanted)
    config = msgspec.structs.replace(config, models=msgspec.structs.replace(config.models, run=(), ledger=False))
    fold = build_fold(config, [], views=views, models=models, report=report)
    done = 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done)

    assert fold.models is not None, "there are models to judge"
    watch = fold.models.matured = FeatureWatch()
    drive(fold, sources, selection, progress=advance)
    fold.stop()
    standings = fold.models.standings()
    found = [verdict(one, watch.leaks(one.model, (one.exchange, one.symbol))) for one in standings]
    if pooled:
        for name in dict.fromkeys(standing.model for standing in standings):
            found.append(_pooled([standing for standing in standings if standing.model == name]))
    return found


def verdict(standing: Standing, leaks: Sequence[Triviality] = ()) -> dict[str, Any]:
    """Return what became of a model's predictions of one key: the champion's scores, and below them those of every version.

    leaks: features that know the answer, named in the warnings.
    """
    by_version = {one.version: _report(one.score, standing, leaks) for one in standing.versions}
    return {
        "exchange": standing.exchange,
        "symbol": standing.symbol,
        "model": standing.model,
        "horizon": standing.horizon,
        "target": standing.target,
        "version": standing.champion,
        **by_version[standing.champion],
        "void": standing.void,
        "predictions": standing.predictions,
        "waiting": standing.waiting,
        "skipped": standing.skipped,
        "drifts": standing.drifts,
        "promotions": standing.promotions,
        "memory_bytes": standing.memory,
        "versions": [
            {
                "version": one.version,
                "role": one.role,
                "algorithm": one.algorithm,
                "algorithm_text": algorithm_text(one.algorithm),
                "learned": one.learned,
                "parked": one.parked,
                "e_value": _finite(one.e_value),
                "threshold": _finite(one.threshold),
                "pairs": one.pairs,
                **{name: by_version[one.version][name] for name in ("n", "n_eff", "skill", "interval")},
            }
            for one in standing.versions
        ],
    }


def _pooled(standings: Sequence[Standing]) -> dict[str, Any]:
    """Return one verdict on the champions of all keys of a model."""
    first = standings[0]
    champions = [one.score for standing in standings for one in standing.versions if one.role == "champion"]
    return {
        "exchange": "*",
        "symbol": "*",
        "model": first.model,
        "horizon": first.horizon,
        "target": first.target,
        **_report(pooled(champions), first),
        "void": sum(standing.void for standing in standings),
        "predictions": sum(standing.predictions for standing in standings),
    }


def _report(state: Any, standing: Standing, leaks: Sequence[Triviality] = ()) -> dict[str, Any]:
    empty: dict[str, Any] = {**dict.fromkeys(ALWAYS), "n": 0, "n_eff": 0, "baselines": {}, "interval": [None, None]}
    if standing.kind == NONE:
        return empty
    found = report_of(state, kind=standing.kind, classes=standing.classes, coverage=standing.coverage)
    found["trivial"] += [{"name": one.name, "text": one.text} for one in leaks]
    return {**empty, **found, "warnings": [f"{one['name']}: {one['text']}" for one in found["trivial"]]}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


# A learner on a data set --------------------------------------------------------------------------------------------------------


def algorithm_of(text: str, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Return the algorithm that JSON or TOML means: '{river="tree.HoeffdingTreeClassifier"}', or scaled_logistic by its name alone.

    Raises ConfigError for what is neither.
    """
    try:
        found = json.loads(text)
    except ValueError:
        found = _parsed(text)
    if isinstance(found, str):
        found = {"algorithm": found} if found.isidentifier() else {"river": found}
    if not isinstance(found, dict):
        raise ConfigError(
            f"--algorithm {text!r}: expected JSON or TOML such as {{algorithm='scaled_logistic', lr=0.005}} or "
            "{river='tree.HoeffdingTreeClassifier'}"
        )
    for change in changes:
        key, separator, value = change.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {change!r}: expected KEY=VALUE, such as lr=0.01")
        _put(found, key.strip().removeprefix("algorithm."), value.strip())
    return found


def evaluate_data_set(
    data: DataSet, algorithm: Mapping[str, Any], *, name: str = "", delay: int = 0, progress: Progress | None = None
) -> dict[str, Any]:
    """Return a verdict on a learner on a data set: test, then learn, a label being used `delay` rows later; its baselines likewise.

    The intervals are drawn by blocks of at least max(1, delay) rows, those of the best baseline together with the learner's.
    Raises ConfigError for an algorithm that is not there, ModelError for one that cannot learn these rows.
    """
    from engine.models.build import build
    from engine.models.prequential_blocks import Blocks, stream_intervals
    from engine.models.progressive import progressive

    model, together = build(algorithm), max(delay, 1)
    blocks = {"": Blocks(together)}  # by baseline; "": the learner's own
    rows = _counted(_learnable(data, algorithm, model), progress)
    scores = _plain(progressive(model, rows, delay, blocks=blocks[""]))
    is_class = "accuracy" in scores
    if not is_class and "mse" not in scores:
        raise ConfigError(
            f"{data.name}: {algorithm_text(algorithm)}: expected a classifier or a regressor; it gave {', '.join(scores)}"
        )
    beside = {}
    for baseline, rule in _baselines(is_class).items():
        blocks[baseline] = Blocks(together)
        beside[baseline] = _plain(progressive(rule, data.rows(), delay, blocks=blocks[baseline]))
    headline = "brier" if is_class else "mse"
    losses = {baseline: found[headline] for baseline, found in beside.items()}
    known = {baseline: loss for baseline, loss in losses.items() if loss is not None}
    best = min(known, key=lambda baseline: known[baseline], default=None)
    own = scores[headline]
    n = int(scores.get("n", 0))
    skill = None if own is None or best is None or not known[best] else 1.0 - own / known[best]
    spans = stream_intervals(
        blocks[""], None if skill is None or best is None else blocks[best], is_class=is_class, level=LEVEL
    )
    said = {score: [_finite(low), _finite(high)] for score, (low, high) in spans.items()}
    return {
        "exchange": "",
        "symbol": data.name,
        "model": name or _named(algorithm),
        "horizon": f"{delay} rows",
        "target": data.target,
        **dict.fromkeys(ALWAYS),
        **scores,
        "n_eff": -(-n // together),
        "level": LEVEL,
        "skill": skill,
        "interval": said.get("skill", [None, None]),
        "intervals": said,
        "headline": headline,
        "best_baseline": best,
        "baselines": losses,
        "beside": beside,
        "void": int(scores.get("void", 0)),
    }


def _learnable(data: DataSet, algorithm: Mapping[str, Any], model: Any) -> Iterator[Row]:
    """The rows of a data set. Raises ConfigError at a class in them where the model learns values."""
    from engine.models.river_arm import REGRESSOR
    from engine.models.river_role import role_of

    learns_values = role_of(model, data.name) == REGRESSOR
    for number, row in enumerate(data.rows(), 1):
        if learns_values and isinstance(row[1], str):
            raise ConfigError(
                f"{data.name}: column {data.target} names a class ({row[1]!r:.60} in row {number}), and {algorithm_text(algorithm)} is "
                "a regressor, which learns values; expected a classifier, or a column of numbers as the target"
            )
        yield row


def _named(algorithm: Mapping[str, Any]) -> str:
    """The name of what learns, as the algorithm gives it; of a pipeline, its steps."""
    named = algorithm.get("algorithm") or algorithm.get("river") or algorithm.get("factory")
    return named if isinstance(named, str) else algorithm_text(algorithm)


def _counted(rows: Iterator[Row], progress: Progress | None) -> Iterator[Row]:
    """The same rows; `progress` hears how many."""
    for number, row in enumerate(rows, 1):
        yield row
        if progress is not None and number % EVERY_ROWS == 0:
            progress(number)


def _plain(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores as JSON can have them, with the squared error where there is its root; without baselines, which are judged here."""
    found = {
        key: _finite(value) if isinstance(value, float) else value
        for key, value in scores.items()
        if key != "baselines"
    }
    if (rmse := found.get("rmse")) is not None:
        found["mse"] = float(rmse) ** 2
    return found


def _baselines(is_class: bool) -> dict[str, Any]:
    from river import dummy, stats

    if is_class:
        return {"base_rate": dummy.PriorClassifier(), "last_label": dummy.NoChangeClassifier()}
    return {"mean": dummy.StatisticRegressor(stats.Mean()), "last_label": dummy.StatisticRegressor(stats.Shift(0))}
