"""What /metrics tells of the models: counts, and scores that never stand without the best baseline's beside them.

Read from what the board saw last, so nothing is computed for a scrape; labels are model, exchange and symbol, and the version where it
is a version's. What cannot be said yet is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from engine.serving.models import Seen, loss_of, losses_of

OF = ("model", "exchange", "symbol")
NS_PER_S = 1e9


def model_metrics(known: Iterable[Seen]) -> Iterator[Metric]:
    """Yield all families, whether or not there are models."""
    known = list(known)
    yield from _counts(known)
    yield from _scores(known)
    yield from _versions(known)


def _counter(name: str, text: str, *more: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"tickfold_model_{name}", text, labels=(*OF, *more))


def _gauge(name: str, text: str, *more: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"tickfold_model_{name}", text, labels=(*OF, *more))


def _of(seen: Seen) -> tuple[str, str, str]:
    return seen.standing.model, seen.standing.exchange, seen.standing.symbol


def _counts(known: list[Seen]) -> Iterator[Metric]:
    predictions = _counter("predictions", "Predictions that were served")
    outcomes = _counter("outcomes", "Predictions whose outcome is known")
    void = _counter("void", "Predictions whose outcome did not come in time")
    skipped = _counter("skipped", "Rows of features that were not predicted on, by why", "reason")
    late = _counter("late_answers", "Answers of workers that came too late")
    drifts = _counter("drifts", "Drifts that were detected")
    promotions = _counter("promotions", "Changes of the champion")
    busy = _counter("busy_seconds", "Time spent learning and predicting, where it is measured")
    rows = _counter("rows", "Rows of features in which it was spent")
    ready = _gauge("ready", "1 once it has learned from as many outcomes as its warm-up asks for")
    waiting = _gauge("waiting", "Predictions whose outcome is not known yet")
    memory = _gauge("memory_bytes", "Memory of all its versions and its ledger")
    for seen in known:
        of, one = _of(seen), seen.standing
        for family, value in (
            (predictions, one.predictions), (outcomes, one.outcomes), (void, one.void), (late, one.late_answers),
            (drifts, one.drifts), (promotions, one.promotions), (busy, one.busy_ns / NS_PER_S), (rows, one.rows),
            (ready, float(one.is_ready)), (waiting, one.waiting), (memory, one.memory),
        ):  # fmt: skip
            family.add_metric(of, value)
        for reason, count in one.skipped.items():
            skipped.add_metric((*of, reason), count)
    yield from (predictions, outcomes, void, skipped, late, drifts, promotions, busy, rows, ready, waiting, memory)


def _scores(known: list[Seen]) -> Iterator[Metric]:
    skill = _gauge("skill", "1 - loss / loss of the best baseline, on the same rows", "baseline")
    low = _gauge("skill_low", "Lower end of the interval of the skill", "baseline")
    high = _gauge("skill_high", "Upper end of the interval of the skill", "baseline")
    loss = _gauge("loss", "Brier score (halved) or mean squared error of the champion", "score")
    base = _gauge("baseline_loss", "The same of each baseline, on the same rows", "score", "baseline")
    verified = _gauge("verified", "Predictions of the champion that were scored")
    effective = _gauge("independent", "Of those, outcomes that do not overlap one another")
    coverage = _gauge("coverage", "How often the interval or set of classes held what came", "wanted")
    for seen in known:
        champion = seen.champion
        report = None if champion is None else seen.report(champion.version)
        if not report or not report["n"]:
            continue
        of, best, score = _of(seen), report["best_baseline"], report["headline"]
        ends = zip((low, high), report["interval"], strict=True)
        for family, value in ((skill, report["skill"]), *ends):
            if value is not None:
                family.add_metric((*of, best), value)
        if (own := loss_of(report)) is not None:
            loss.add_metric((*of, score), own)
        for name, value in losses_of(report).items():
            if value is not None:
                base.add_metric((*of, score, name), value)
        verified.add_metric(of, report["n"])
        effective.add_metric(of, report["n_eff"])
        if report["coverage"] is not None:
            coverage.add_metric((*of, f"{seen.standing.coverage:g}"), report["coverage"])
    yield from (skill, low, high, loss, base, verified, effective, coverage)


def _versions(known: list[Seen]) -> Iterator[Metric]:
    champion = _gauge("champion", "1 for the version that is champion, 0 for the others", "version")
    evidence = _gauge("e_value", "Evidence of a version against the champion", "version")
    threshold = _gauge("e_threshold", "The evidence that promotes it", "version")
    pairs = _gauge("pairs", "Independent outcomes on which the two were compared", "version")
    parked = _gauge("parked", "1 for a version that is heard no more", "version")
    for seen in known:
        for one in seen.standing.versions:
            of = (*_of(seen), one.version)
            champion.add_metric(of, float(one.role == "champion"))
            parked.add_metric(of, float(bool(one.parked)))
            if one.role == "champion":
                continue
            for family, value in ((evidence, one.e_value), (threshold, one.threshold)):
                if value == value:  # noqa: PLR0124 - not NaN: the first pair is still to come
                    family.add_metric(of, value)
            pairs.add_metric(of, one.pairs)
    yield from (champion, evidence, threshold, pairs, parked)
