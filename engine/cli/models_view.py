"""Models as `tickfold models` shows them to people. No accuracy stands without the most accurate baseline's, no skill without its interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from engine.cli.fitting import Column, fitted
from engine.models.naming import BETWEEN, algorithm_text

NONE = Text("-", "dim")
MIB = 1 << 20
MARKS_SHOWN = 10
LOSSES = {"brier": "Brier", "mse": "squared error"}


def overview(standings: Sequence[Mapping[str, Any]], width: int) -> RenderableType:
    """A line for each model and key of a daemon, with as much of it as `width` columns have room for."""
    if not standings:
        return Text(
            "no models: [models] run names those that take part, and a key has them from its first row on", "dim"
        )
    rows = [[cell(one, _champion(one).get("report") or {}) for _, cell in COLUMNS] for one in standings]
    table = fitted([column for column, _ in COLUMNS], rows, width)
    warned = [warning for one in standings for warning in _warnings(one, _champion(one).get("report") or {})]
    return Group(table, *warned)


def _state(one: Mapping[str, Any]) -> Text:
    state = Text("ready", "green") if one["ready"] else Text("warming up", "yellow")
    return state.append(" pinned", "cyan") if one["pinned"] else state


def portrait(standings: Sequence[Mapping[str, Any]], width: int) -> RenderableType:
    """All that is known of one model, key by key, in `width` columns."""
    parts: list[RenderableType] = []
    for one in standings:
        parts += [Text(), *_portrait(one, width)] if parts else _portrait(one, width)
    return Group(*parts)


def verdicts(found: Sequence[Mapping[str, Any]], width: int) -> RenderableType:
    """What `evaluate` found, in `width` columns: a line for each model and key, and its baselines below it."""
    if not found:
        return Text("nothing to judge: no key of these sources had a row of features", "yellow")
    parts: list[RenderableType] = []
    for one in found:
        where = " ".join(filter(None, (one["exchange"], one["symbol"])))
        title = Text.assemble((one["model"], "bold"), f" of {where}, {one['target']} over {one['horizon']}")
        counts = f"{_count(one['n'])} verified, {_count(one['n_eff'])} of them independent, {_count(one['void'])} void"
        if skipped := {name: count for name, count in (one.get("skipped") or {}).items() if count}:
            counts += "; not predicted on: " + ", ".join(f"{_count(count)} {name}" for name, count in skipped.items())
        parts += [title, Text(counts, "dim"), _scores(one["model"], one, width)]
        parts += [*_promises(one), *_warnings(one, one), Text()]
    return Group(*parts[:-1])


# -- parts


def _portrait(one: Mapping[str, Any], width: int) -> list[RenderableType]:
    champion = _champion(one)
    report = champion.get("report") or {}
    title = Text.assemble(
        (one["model"], "bold"),
        f" of {one['exchange']} {one['symbol']}: {one['target']} over {one['horizon']}, version {one['champion']}",
    )
    if one["served"] != one["champion"]:
        title.append(f", version {one['served']} is served")
    counts = [
        f"{_count(one[name])} {name}" for name in ("predictions", "outcomes", "void", "waiting", "drifts", "promotions")
    ]
    counts += [f"{_count(count)} skipped ({name})" for name, count in one["skipped"].items() if count]
    if one["row_us"] is not None:
        counts.append(f"{_duration(one['row_us'])} a row")
    found: list[RenderableType] = [title, Text(", ".join(counts), "dim")]
    found.append(_scores(one["model"], report, width) if report.get("n") else Text("nothing verified yet", "dim"))
    found += [*_promises(report), *_warnings(one, report)]
    found.append(fitted(VERSIONS, map(_version, one["versions"]), width))
    parked = [version for version in one["versions"] if version["parked"]]
    found += [Text(f"version {version['version']} is parked: {version['parked']}", "red") for version in parked]
    for mark in one["marks"][-MARKS_SHOWN:]:
        found.append(Text(f"at {mark['sequence']:,}: {mark['text']}", "yellow" if mark["kind"] == "drift" else "cyan"))
    return found


def _version(version: Mapping[str, Any]) -> list[Text | str]:
    return [
        Text(version["version"], "bold"),
        version["role"],
        algorithm_text(version["algorithm"]).replace(BETWEEN, f"{BETWEEN.rstrip()}\n"),
        _count(version["since"]),
        _count(version["learned"]),
        _skill(version["report"] or {}, "\n"),
        _evidence([version], "\n"),
        f"{version['memory_bytes'] / MIB:.1f} MiB",
    ]


def _scores(name: str, report: Mapping[str, Any], width: int) -> RenderableType:
    """A model's scores above those of its baselines on the same rows."""
    beside = report.get("beside") or {}
    loss = report.get("headline") or ("brier" if report.get("brier") is not None else "mse")
    is_class = loss == "brier"
    rows: list[list[Text | str]] = []

    def row(title: Text, scores: Mapping[str, Any], skill: Text) -> None:
        # Only the model's own report has intervals.
        accuracy, mcc = _percent(scores.get("accuracy")), _number(scores.get("mcc"), "+.3f")
        of_class = (
            accuracy + _between(scores, "accuracy", ".1f", 100.0, "\n"),
            mcc + _between(scores, "mcc", "+.3f", between="\n"),
        )
        more = (
            of_class
            if is_class
            else (_number(scores.get("mae"), ".4g") + _between(scores, "mae", ".4g", between="\n"),)
        )
        rows.append([title, _number(scores.get(loss), ".4f" if is_class else ".4g"), skill, *more])

    row(Text(name.replace(BETWEEN, f"{BETWEEN.rstrip()}\n"), "bold"), report, _skill(report, "\n"))
    losses = report.get("baselines") or {}
    for baseline, value in sorted(losses.items(), key=lambda one: (one[1] is None, one[1])):
        is_best = baseline == report.get("best_baseline")
        title = Text(f"  {baseline.replace('_', ' ')}", "" if is_best else "dim")
        row(title, beside.get(baseline) or {loss: value}, Text("the best baseline" if is_best else "", "dim"))
    of_kind = [Column("accuracy", 1), Column("MCC", 2)] if is_class else [Column("MAE", 1)]
    return fitted([Column(""), Column(LOSSES[loss]), Column("skill"), *of_kind], rows, width)


def _promises(report: Mapping[str, Any]) -> Iterable[Text]:
    """What was promised of intervals, and what came of it; what the positions would have earned, beside a baseline's."""
    if report.get("coverage") is not None:
        wanted = report.get("coverage_target")
        of = f" (wanted {100 * wanted:g} %)" if wanted is not None else ""
        span = _between(report, "coverage", ".1f", 100.0)
        yield Text(f"intervals held {100 * report['coverage']:.1f} %{span} of what came{of}", "dim")
    if report.get("net_bps") is not None:
        beside = {name: scores.get("net_bps") for name, scores in (report.get("beside") or {}).items()}
        known = {name: value for name, value in beside.items() if value is not None}
        best = max(known, key=lambda name: known[name], default=None)
        than = f" ({best.replace('_', ' ')} {known[best]:+.2f})" if best is not None else ""
        span = _between(report, "net_bps", "+.2f")
        yield Text(f"net {report['net_bps']:+.2f}{span} bps a prediction after costs{than}", "dim")


def _champion(one: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((version for version in one["versions"] if version["role"] == "champion"), {})


def _warnings(one: Mapping[str, Any], report: Mapping[str, Any]) -> Iterable[Text]:
    where = f"{one['model']} of {one['exchange']} {one['symbol']}".rstrip()
    return [Text(f"{where}: {trivial['name']}: {trivial['text']}", "yellow") for trivial in report.get("trivial") or ()]


def _skill(report: Mapping[str, Any], between: str = " ") -> Text:
    """The skill with its interval, or without any the words for it; `between` may be a line break."""
    skill, (low, high) = report.get("skill"), report.get("interval") or (None, None)
    if skill is None:
        return NONE
    if low is None or high is None:
        return Text(f"{100 * skill:+.2f} %{between}(no interval)")
    style = "green" if low > 0 else "red" if high < 0 else ""
    return Text(f"{100 * skill:+.2f} %{between}({100 * low:+.2f} to {100 * high:+.2f})", style)


def _accuracy(report: Mapping[str, Any]) -> Text:
    """The accuracy beside that of the baseline that was right most often."""
    beside = {name: scores.get("accuracy") for name, scores in (report.get("beside") or {}).items()}
    known = {name: value for name, value in beside.items() if value is not None}
    if report.get("accuracy") is None or not known:
        return NONE
    best = max(known, key=lambda name: known[name])
    return Text(f"{100 * report['accuracy']:.1f} % ({best.replace('_', ' ')} {100 * known[best]:.1f})")


def _evidence(versions: Sequence[Mapping[str, Any]], between: str = " ") -> Text:
    """E against its threshold, of the version that is nearest to it."""
    known = [one for one in versions if one["e_value"] is not None and one["threshold"]]
    if not known:
        return NONE
    one = max(known, key=lambda version: version["e_value"] / version["threshold"])
    return Text(
        f"{one['version']}: E {one['e_value']:.3g} of {one['threshold']:.3g},{between}{_count(one['pairs'])} pairs"
    )


def _duration(us: float) -> str:
    """A time of so many microseconds, in the unit that reads best."""
    if us >= 1_000:
        return f"{us / 1_000:.1f} ms"
    return f"{us:.0f} us" if us >= 10 else f"{us:.1f} us" if us >= 1 else f"{us * 1_000:.0f} ns"


def _between(report: Mapping[str, Any], name: str, form: str, scale: float = 1.0, between: str = " ") -> str:
    """The interval of a score in brackets, `between` before them; nothing where there is none."""
    low, high = (report.get("intervals") or {}).get(name) or (None, None)
    return "" if low is None or high is None else f"{between}({scale * low:{form}} to {scale * high:{form}})"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _number(value: float | None, form: str) -> Text:
    return NONE if value is None else Text(format(value, form))


def _percent(value: float | None) -> Text:
    return NONE if value is None else Text(f"{100 * value:.1f} %")


Cell = Callable[[Mapping[str, Any], Mapping[str, Any]], Text | str]
COLUMNS: tuple[tuple[Column, Cell], ...] = (
    (Column("model"), lambda one, _: Text(one["model"], "bold")),
    (Column("key"), lambda one, _: f"{one['exchange']} {one['symbol']}"),
    (Column("v", 2), lambda one, _: one["champion"]),
    (Column("over", 4), lambda one, _: one["horizon"]),
    (Column("state", 5), lambda one, _: _state(one)),
    (Column("verified", 6, is_right=True), lambda _, report: _count(report.get("n"))),
    (Column("n_eff", 3, is_right=True), lambda _, report: _count(report.get("n_eff"))),
    (Column("skill (interval)", 1), lambda _, report: _skill(report)),
    (Column("accuracy (best baseline's)", 7), lambda _, report: _accuracy(report)),
    (Column("coverage", 8, is_right=True), lambda _, report: _percent(report.get("coverage"))),
    (Column("evidence", 9), lambda one, _: _evidence(one["versions"])),
    (Column("memory", 10, is_right=True), lambda one, _: f"{one['memory_bytes'] / MIB:.1f} MiB"),
)
"""What stands where, by importance."""
VERSIONS = (
    Column("version"),
    Column("role", 2),
    Column("algorithm"),
    Column("since", 5, is_right=True),
    Column("learned", 3, is_right=True),
    Column("skill", 1),
    Column("evidence", 4),
    Column("memory", 6, is_right=True),
)
