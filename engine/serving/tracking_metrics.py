"""What /metrics says of MLflow: how many reports it got, how many wait, and how many it did not get."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from engine.health import TrackingHealth


def tracking_metrics(health: TrackingHealth | None) -> Iterator[Metric]:
    """Yield its families; none where MLflow is not switched on."""
    if health is None:
        return
    reports = CounterMetricFamily(
        "tickfold_mlflow_reports", "Reports for MLflow, by what became of them", labels=("outcome",)
    )
    for outcome in ("sent", "dropped", "refused"):
        reports.add_metric((outcome,), getattr(health, outcome))
    yield reports
    yield GaugeMetricFamily("tickfold_mlflow_waiting", "Reports that MLflow has not got yet", health.waiting)
    yield CounterMetricFamily("tickfold_mlflow_versions", "Versions of models that were logged", health.logged)
    yield CounterMetricFamily("tickfold_mlflow_failures", "Tries to tell MLflow something that failed", health.failures)
    yield GaugeMetricFamily(
        "tickfold_mlflow_up", "1 if it took what it was last told", float(health.state == "tracking")
    )
