"""The example's page: one HTML file without scripts, in the reader's own theme, wide or on a phone.

Positions are percentages, so every chart grows with its place; what they show is in the text beside them too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

CSS = Path(__file__).with_name("page.css")
SKILL_LOW = -0.5
"""Skills below this are drawn at the edge: a model that says what is certainly wrong has no lower end."""
PLOT = 100.0


def render(recordings: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of what was judged."""
    body = "".join(_recording(one) for one in recordings)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="dark light">
<title>tickfold: the direction of a price, honestly</title>
<style>
{CSS.read_text()}</style>
</head>
<body>
<header>
<p class="mark">tickfold <span>example: direction</span></p>
<h1>Five models of where a price goes next, beside what anybody can say without one</h1>
{_summary(recordings)}
</header>
<main>
{body}</main>
<footer>
<p><b>Skill</b> is 1 &minus; loss / loss of the best baseline, the loss being the Brier score of classes and the squared error of
values. 0 is as good as no model. <b>Lines</b> are 95 % intervals over outcomes that do not overlap (block bootstrap); one that
reaches 0 has shown nothing. <b>Net</b> is what the likeliest class would have earned a prediction, after two fees.
<b>Held</b> is how often the outcome lay in the set that was announced, promised for 90 %.</p>
<p>Made by examples/direction/run.py. Every prediction was verified when its horizon had passed, and learned from only then.</p>
</footer>
</body>
</html>
"""


def _summary(recordings: Sequence[Mapping[str, Any]]) -> str:
    versions = [
        (model, one)
        for recording in recordings
        for model in recording["models"]
        for one in model["versions"]
        if one["skill"] is not None
    ]
    classes = [one for model, one in versions if model["classes"]]
    better = sum(one["interval"][0] is not None and one["interval"][0] > 0.0 for one in classes)
    earned = sum(one["net_bps"] > 0.0 for one in classes)
    held = [one["coverage"] for model, one in versions if one["coverage"] is not None]
    tiles = [
        (f"{better} of {len(classes)}", "verdicts on a model of the direction: better than every baseline, by its 95 % interval"),
        (f"{earned} of {len(classes)}", "of them: earned more than the fees"),
    ]  # fmt: skip
    if held:
        tiles.append((f"{min(held):.1%} to {max(held):.1%}", "of outcomes lay where they were announced; promised were 90 %"))  # fmt: skip
    return (
        '<div class="tiles">'
        + "".join(f"<div><strong>{big}</strong><span>{small}</span></div>" for big, small in tiles)
        + "</div>"
    )


def _recording(recording: Mapping[str, Any]) -> str:
    directions = [one for one in recording["models"] if one["classes"] and one["versions"][0]["n"]]
    values = [one for one in recording["models"] if not one["classes"] and one["versions"][0]["n"]]
    fooled = "".join(
        f'<li><h4>{escape(one["name"])}</h4><p class="said">{escape(one["said"])}</p><p>{escape(one["true"])}</p></li>'
        for one in recording["fooled"]
    )
    return f"""<section>
<h2>{escape(recording["symbol"])} <span>{escape(recording["exchange"])}</span></h2>
<p class="facts">{escape(recording["from"])} to {escape(recording["to"])} UTC, {recording["trades"]:,} trades in {recording["hours"]:.1f} hours.
Fee {recording["fee_bps"]:g} bps one way.</p>
{"".join(_direction(one) for one in directions)}{_values(values) if values else ""}<h3>How one gets fooled by the same recording</h3>
<ul class="fooled">{fooled}</ul>
</section>
"""


def _direction(model: Mapping[str, Any]) -> str:
    champion = next(one for one in model["versions"] if one["version"] == model["champion"])
    marks = "".join(f"<li>{escape(text)}</li>" for text in model["marks"])
    warnings = "".join(f"<li>{escape(one['text'])}</li>" for one in champion["trivial"])
    return f"""<article>
<div class="head"><h3>Direction, {escape(model["horizon"])} ahead</h3>
<p>{champion["n"]:,} predictions, of which <b>{champion["n_eff"]:,}</b> do not overlap{_void(model)}</p></div>
{_scores(model)}
{f'<ul class="marks">{marks}</ul>' if marks else ""}{f'<ul class="warnings">{warnings}</ul>' if warnings else ""}<div class="panels">
<figure><figcaption>When the champion said p, how often did it come true?</figcaption>{_reliability(champion)}</figure>
<figure><figcaption>How often the outcome lay in the announced set of classes (on average so many of three), beside the promise</figcaption>{_coverage([model])}</figure>
<figure><figcaption>What came, by what the champion held likeliest</figcaption>{_confusion(champion)}</figure>
</div>
</article>
"""


def _void(model: Mapping[str, Any]) -> str:
    return f"; {model['void']:,} more came to nothing (no trade in time)" if model["void"] else ""


# Scores, a row each -------------------------------------------------------------------------------------------------------------


def _scores(model: Mapping[str, Any]) -> str:
    versions = model["versions"]
    first = next(one for one in versions if one["version"] == model["champion"])
    best = first["baselines"][first["best_baseline"]]
    low = max(min(*(one["interval"][0] or 0.0 for one in versions), -0.05), SKILL_LOW)
    high = max(*(one["interval"][1] or 0.0 for one in versions), 0.05)
    net = [one["intervals"]["net_bps"] for one in versions]
    net_low = min(*(span[0] if span[0] is not None else 0.0 for span in net), -1.0)
    net_high = max(*(span[1] if span[1] is not None else 0.0 for span in net), 1.0)
    rows = []
    for one in versions:
        role = '<span class="tag">champion</span>' if one["version"] == model["champion"] else ""
        rows.append(
            _row(
                "model",
                f"{escape(one['name'])}{role}",
                _span(one["skill"], one["interval"], low, high),
                f"{_said(one['skill'], '+.1%')} <small>{_said(one['interval'][0], '+.1%')} to {_said(one['interval'][1], '+.1%')}</small>",
                one,
                _span(one["net_bps"], one["intervals"]["net_bps"], net_low, net_high),
            )
        )
    for name, scores in sorted(first["beside"].items(), key=lambda one: one[1]["brier"]):
        skill = 1.0 - scores["brier"] / best
        note = " <small>the best baseline</small>" if name == first["best_baseline"] else ""
        rows.append(
            _row(
                "base",
                escape(name.replace("_", " ")),
                _span(skill, (None, None), low, high),
                f"{_said(skill, '+.1%')}{note}",
                scores,
                _span(scores["net_bps"], (None, None), net_low, net_high),
            )
        )
    return (
        '<div class="scores"><div class="row top"><span>model</span><span class="wide">skill</span><span></span>'
        "<span>right</span><span>MCC</span><span>Brier</span><span>net, bps</span><span></span></div>"
        f"{''.join(rows)}</div>"
    )


def _row(kind: str, name: str, chart: str, skill: str, scores: Mapping[str, Any], net: str) -> str:
    cells = (
        ("right", _said(scores["accuracy"], ".1%")),
        ("MCC", _said(scores["mcc"], "+.3f")),
        ("Brier", _said(scores["brier"], ".4f")),
        ("net", _said(scores["net_bps"], "+.2f")),
    )
    told = "".join(f'<span class="cell" data-name="{label}">{value}</span>' for label, value in cells)
    return f'<div class="row {kind}"><span class="name">{name}</span>{chart}<span class="skill">{skill}</span>{told}{net}</div>'


def _span(value: float | None, ends: Sequence[float | None], low: float, high: float) -> str:
    """Return a dot on a line, with its interval and the place of 0."""

    def at(number: float) -> float:
        return PLOT * (min(max(number, low), high) - low) / (high - low)

    if value is None:
        return '<span class="plot"></span>'
    below, above = ends
    parts = [f'<i class="zero" style="left:{at(0.0):.2f}%"></i>']
    tone = "base"
    if below is not None and above is not None:
        tone = "good" if below > 0.0 else "bad" if above < 0.0 else "open"
        cut = " cut" if below < low else ""
        parts.append(
            f'<i class="line {tone}{cut}" style="left:{at(below):.2f}%;width:{max(at(above) - at(below), 0.6):.2f}%"></i>'
        )
    parts.append(f'<i class="dot {tone}" style="left:{at(value):.2f}%"></i>')
    return f'<span class="plot">{"".join(parts)}</span>'


# Panels -------------------------------------------------------------------------------------------------------------------------


def _reliability(one: Mapping[str, Any]) -> str:
    """Draw observed over predicted, a class a colour; perfect lies on the diagonal."""
    bins = [(name, part) for name, parts in one["reliability"].items() for part in parts]
    if not bins:
        return "<p>Too few outcomes.</p>"
    top = min(1.0, 0.1 + max(max(part["predicted"], part["observed"]) for _, part in bins))
    size, left, bottom = 240.0, 34.0, 26.0

    def x(value: float) -> float:
        return left + value / top * size

    def y(value: float) -> float:
        return size + 8.0 - min(value, top) / top * size

    drawn = [f'<path class="diagonal" d="M{x(0):.1f} {y(0):.1f}L{x(top):.1f} {y(top):.1f}"/>']
    steps = [step / 10 for step in range(0, 11, 2) if step / 10 <= top]
    drawn += [
        f'<path class="grid" d="M{left} {y(step):.1f}H{left + size}"/><text x="{left - 6}" y="{y(step) + 4:.1f}" text-anchor="end">{step:.0%}</text>'
        f'<text x="{x(step):.1f}" y="{size + bottom:.1f}" text-anchor="middle">{step:.0%}</text>'
        for step in steps
    ]
    for name, parts in one["reliability"].items():
        points = [(x(part["predicted"]), part) for part in parts]
        drawn += [
            f'<path class="whisker {name}" d="M{at:.1f} {y(part["low"]):.1f}V{y(part["high"]):.1f}"/>'
            for at, part in points
            if part["low"] is not None
        ]
        drawn += [
            f'<circle class="{name}" cx="{at:.1f}" cy="{y(part["observed"]):.1f}" r="3.6"/>' for at, part in points
        ]
    legend = "".join(f'<span class="key {name}">{name}</span>' for name in one["reliability"])
    label = "Reliability: " + ", ".join(
        f"{name} said {part['predicted']:.0%}, came {part['observed']:.0%}" for name, part in bins[:30]
    )
    return (
        f'<svg viewBox="0 0 {left + size + 12:.0f} {size + bottom + 8:.0f}" role="img" aria-label="{escape(label)}">'
        f'{"".join(drawn)}</svg><p class="legend">{legend}</p>'
    )


def _coverage(models: Sequence[Mapping[str, Any]], extra: bool = False) -> str:
    """Draw the achieved coverage of each version, with its interval, on a scale from 50 to 100 %."""
    rows = []
    for model in models:
        for one in model["versions"]:
            if one["coverage"] is None:
                continue
            low, high = (end if end is not None else one["coverage"] for end in one["intervals"]["coverage"])
            target = one["coverage_target"]
            name = (
                f"{escape(model['horizon'])} ahead"
                if extra
                else f"{escape(one['name'])} <small>{one['width']:.1f}</small>"
            )
            rows.append(
                f'<div class="cover"><span>{name}</span><span class="plot">'
                f'<i class="zero" style="left:{_half(target):.2f}%"></i>'
                f'<i class="line held" style="left:{_half(low):.2f}%;width:{_half(high) - _half(low):.2f}%"></i>'
                f'<i class="dot held" style="left:{_half(one["coverage"]):.2f}%"></i></span><b>{one["coverage"]:.1%}</b></div>'
            )
    return f'<div class="covers">{"".join(rows)}<div class="cover scale"><span></span><span class="ends"><i>50 %</i><i class="promise">90 %</i></span><b></b></div></div>'


def _half(share: float) -> float:
    return PLOT * 2.0 * max(share - 0.5, 0.0)


def _confusion(one: Mapping[str, Any]) -> str:
    total = max(one["n"], 1)
    most = max(max(row) for row in one["confusion"]) or 1
    names = one["classes"]
    head = "".join(f"<th>said {name}</th>" for name in names)
    rows = "".join(
        f"<tr><th>came {name}</th>"
        + "".join(
            f'<td style="--heat:{cell / most:.3f}"{" class=right" if at == number else ""}>{cell / total:.1%}</td>'
            for at, cell in enumerate(row)
        )
        + "</tr>"
        for number, (name, row) in enumerate(zip(names, one["confusion"], strict=True))
    )
    return f'<table class="confusion"><tr><th></th>{head}</tr>{rows}</table>'


def _values(models: Sequence[Mapping[str, Any]]) -> str:
    """Return the card of the intervals of returns: what was promised, and what was kept."""
    lines = []
    for model in models:
        (one, *_) = model["versions"]
        low, high = (_said(end, "+.1%") for end in one["interval"])
        lines.append(
            f"<li><b>{escape(model['horizon'])}</b>: intervals {_width(one)} wide on average; the value itself has a skill of "
            f"{_said(one['skill'], '+.1%')} ({low} to {high}) against “{escape(one['best_baseline'].replace('_', ' '))}”, the best baseline. "
            f"{one['n_eff']:,} outcomes that do not overlap.</li>"
        )
    return f"""<article>
<div class="head"><h3>What can be promised: where the return will lie, nine times in ten</h3></div>
<div class="promise-body"><figure>{_coverage(models, extra=True)}</figure><ul>{"".join(lines)}</ul></div>
</article>
"""


def _width(one: Mapping[str, Any]) -> str:
    width = one.get("width")
    return "of unknown width" if width is None else f"{1e4 * width:.1f} bps"


def _said(value: float | None, form: str) -> str:
    if value is None:
        return "&ndash;"
    text = format(value, form)
    return text.lstrip("+-") if not any(digit in "123456789" for digit in text) else text.replace("-", "&minus;")
