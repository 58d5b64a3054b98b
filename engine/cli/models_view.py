"""Models as `tickfold models` shows them to people. No accuracy stands without the most accurate baseline's, no skill without its interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.models.naming import algorithm_text

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
    shown = [(title, cell) for title, cell, needs in COLUMNS if needs <= width]
    table = _table(*(title for title, _ in shown))
    for one in standings:
        champion = _champion(one)
        table.add_row(*(cell(one, champion.get("report") or {}) for _, cell in shown))
    warned = [warning for one in standings for warning in _warnings(one, _champion(one).get("report") or {})]
    return Group(table, *warned)


def _state(one: Mapping[str, Any]) -> Text:
    state = Text("ready", "green") if one["ready"] else Text("warming up", "yellow")
    return state.append(" pinned", "cyan") if one["pinned"] else state


def portrait(standings: Sequence[Mapping[str, Any]]) -> RenderableType:
    """All that is known of one model, key by key."""
    parts: list[RenderableType] = []
    for one in standings:
        parts += [Text(), *_portrait(one)] if parts else _portrait(one)
    return Group(*parts)


def verdicts(found: Sequence[Mapping[str, Any]]) -> RenderableType:
    """What `evaluate` found: a line for each model and key, and its baselines below it."""
    if not found:
        return Text("nothing to judge: no key of these sources had a row of features", "yellow")
    parts: list[RenderableType] = []
    for one in found:
        where = " ".join(filter(None, (one["exchange"], one["symbol"])))
        title = Text.assemble((one["model"], "bold"), f" of {where}, {one['target']} over {one['horizon']}")
        counts = f"{_count(one['n'])} verified, {_count(one['n_eff'])} of them independent, {_count(one['void'])} void"
        if skipped := {name: count for name, count in (one.get("skipped") or {}).items() if count}:
            counts += "; not predicted on: " + ", ".join(f"{_count(count)} {name}" for name, count in skipped.items())
        parts += [title, Text(counts, "dim"), _scores(one["model"], one), *_promises(one), *_warnings(one, one), Text()]
    return Group(*parts[:-1])


# -- parts


def _portrait(one: Mapping[str, Any]) -> list[RenderableType]:
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
    found.append(_scores(one["model"], report) if report.get("n") else Text("nothing verified yet", "dim"))
    found += [*_promises(report), *_warnings(one, report)]
    table = _table("versions", "role", "algorithm", ">since", ">learned", "skill", "evidence", ">memory", "parked")
    for version in one["versions"]:
        table.add_row(
            Text(version["version"], "bold"),
            version["role"],
            algorithm_text(version["algorithm"]),
            _count(version["since"]),
            _count(version["learned"]),
            _skill(version["report"] or {}),
            _evidence([version]),
            f"{version['memory_bytes'] / MIB:.1f} MiB",
            Text(version["parked"], "red"),
        )
    found.append(table)
    for mark in one["marks"][-MARKS_SHOWN:]:
        found.append(Text(f"at {mark['sequence']:,}: {mark['text']}", "yellow" if mark["kind"] == "drift" else "cyan"))
    return found


def _scores(name: str, report: Mapping[str, Any]) -> Table:
    """A model's scores above those of its baselines on the same rows."""
    beside = report.get("beside") or {}
    loss = report.get("headline") or ("brier" if report.get("brier") is not None else "mse")
    is_class = loss == "brier"
    table = _table("", f">{LOSSES[loss]}", "skill", *((">accuracy", ">MCC") if is_class else (">MAE",)))

    def row(title: Text, scores: Mapping[str, Any], skill: Text) -> None:
        # Only the model's own report has intervals.
        accuracy, mcc = _percent(scores.get("accuracy")), _number(scores.get("mcc"), "+.3f")
        of_class = (
            accuracy + _between(scores, "accuracy", ".1f", 100.0),
            mcc + _between(scores, "mcc", "+.3f"),
        )
        more = of_class if is_class else (_number(scores.get("mae"), ".4g") + _between(scores, "mae", ".4g"),)
        table.add_row(title, _number(scores.get(loss), ".4f" if is_class else ".4g"), skill, *more)

    row(Text(name, "bold"), report, _skill(report))
    losses = report.get("baselines") or {}
    for baseline, value in sorted(losses.items(), key=lambda one: (one[1] is None, one[1])):
        is_best = baseline == report.get("best_baseline")
        title = Text(f"  {baseline.replace('_', ' ')}", "" if is_best else "dim")
        row(title, beside.get(baseline) or {loss: value}, Text("the best baseline" if is_best else "", "dim"))
    return table


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


def _skill(report: Mapping[str, Any]) -> Text:
    """The skill with its interval, or without any the words for it."""
    skill, (low, high) = report.get("skill"), report.get("interval") or (None, None)
    if skill is None:
        return NONE
    if low is None or high is None:
        return Text(f"{100 * skill:+.2f} % (no interval)")
    style = "green" if low > 0 else "red" if high < 0 else ""
    return Text(f"{100 * skill:+.2f} % ({100 * low:+.2f} to {100 * high:+.2f})", style)


def _accuracy(report: Mapping[str, Any]) -> Text:
    """The accuracy beside that of the baseline that was right most often."""
    beside = {name: scores.get("accuracy") for name, scores in (report.get("beside") or {}).items()}
    known = {name: value for name, value in beside.items() if value is not None}
    if report.get("accuracy") is None or not known:
        return NONE
    best = max(known, key=lambda name: known[name])
    return Text(f"{100 * report['accuracy']:.1f} % ({best.replace('_', ' ')} {100 * known[best]:.1f})")


def _evidence(versions: Sequence[Mapping[str, Any]]) -> Text:
    """E against its threshold, of the version that is nearest to it."""
    known = [one for one in versions if one["e_value"] is not None and one["threshold"]]
    if not known:
        return NONE
    one = max(known, key=lambda version: version["e_value"] / version["threshold"])
    return Text(f"{one['version']}: E {one['e_value']:.3g} of {one['threshold']:.3g}, {_count(one['pairs'])} pairs")


def _duration(us: float) -> str:
    """A time of so many microseconds, in the unit that reads best."""
    return f"{us / 1_000:.1f} ms" if us >= 1_000 else f"{us:.0f} us" if us >= 10 else f"{us:.1f} us"


def _between(report: Mapping[str, Any], name: str, form: str, scale: float = 1.0) -> str:
    """The interval of a score in brackets; nothing where there is none."""
    low, high = (report.get("intervals") or {}).get(name) or (None, None)
    return "" if low is None or high is None else f" ({scale * low:{form}} to {scale * high:{form}})"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _number(value: float | None, form: str) -> Text:
    return NONE if value is None else Text(format(value, form))


def _percent(value: float | None) -> Text:
    return NONE if value is None else Text(f"{100 * value:.1f} %")


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", no_wrap=True)
    return table


Cell = Callable[[Mapping[str, Any], Mapping[str, Any]], Any]
COLUMNS: tuple[tuple[str, Cell, int], ...] = (
    ("model", lambda one, _: Text(one["model"], "bold"), 0),
    ("key", lambda one, _: f"{one['exchange']} {one['symbol']}", 0),
    ("v", lambda one, _: one["champion"], 0),
    ("over", lambda one, _: one["horizon"], 90),
    ("state", lambda one, _: _state(one), 100),
    (">verified", lambda _, report: _count(report.get("n")), 110),
    (">n_eff", lambda _, report: _count(report.get("n_eff")), 0),
    ("skill (interval)", lambda _, report: _skill(report), 0),
    ("accuracy (best baseline's)", lambda _, report: _accuracy(report), 110),
    (">coverage", lambda _, report: _percent(report.get("coverage")), 120),
    ("evidence", lambda one, _: _evidence(one["versions"]), 150),
    (">memory", lambda one, _: f"{one['memory_bytes'] / MIB:.1f} MiB", 150),
)
"""Title, what stands there, and how wide the terminal has to be for it."""
