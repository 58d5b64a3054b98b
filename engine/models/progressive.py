"""Progressive validation: a model is asked about each row of a stream, and learns from it when its label is known.

It is the actors' own loop: the model runs as an arm (engine.models.arm) over a ledger, here with a clock that ticks once a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.models.prequential_blocks import Blocks


def progressive(
    model: Any,
    stream: Iterable[tuple[Any, Any]],
    delay: int | None = 0,
    *,
    on_rows: Callable[[int], None] | None = None,
    blocks: Blocks | None = None,
) -> dict[str, Any]:
    """Return the scores of a model on a stream of (features, target) pairs, a label being used `delay` rows later.

    `model` is what `build` gives or takes; it is taught, not copied. The label of row i is known before question i + delay (0 and
    None, like 1: right after the model was asked about it), and what is left over is learned at the end, all as in River's
    `evaluate.progressive_val_score`, whose numbers these are. A row about which the model says nothing (`unsaid`), or whose target is
    None or NaN (`void`), has no part in them; `n` counts the others.

        classes      accuracy, mcc, brier (halved, so that two classes give the mean of (p - y)^2), log_loss
        values       mae, rmse
        anomalies    mean, highest; roc_auc where the targets are bool (1: an anomaly)
        clusters     clusters; purity and adjusted_rand where there are targets

    `baselines` holds the accuracy, or mae, that others have on the same rows from the same labels: the commonest label so far or the
    mean, and the newest. `on_rows` is told now and then how many rows were asked; `blocks`
    gathers what `prequential_blocks.stream_intervals` makes the intervals of.

    Raises ModelError if the model fails at a row, or the stream holds something else.
    """
    from engine.models.build import build
    from engine.models.prequential import Prequential

    return Prequential(build(model), delay, blocks).run(stream, on_rows)
