"""Write an indicator in ten lines, and use it in a view beside built-in ones.

Run it: .venv/bin/python examples/02_own_indicator.py
"""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from engine.indicator import indicator
from engine.indicators import highest, lowest
from store import FeatureView, compute


# The step is a pure function of scalars: state in, inputs, parameters; state out, outputs. The program keeps the state, compiles
# the step together with all other features, and calls it only with finite inputs.
@indicator(state={"count": 0.0, "last": 0.0, "run": 0.0}, warm_up=2)
def up_run(count, last, run, price):  # type: ignore[no-untyped-def]
    """How many times in a row the price has risen; NaN at the first price."""
    if count == 0.0:
        return 1.0, price, 0.0, math.nan
    run = run + 1.0 if price > last else 0.0
    return count, price, run, run


VIEW = FeatureView(
    "momentum",
    clock="10 ticks",
    features={"run": up_run("price"), "top": highest("high", 3), "bottom": lowest("low", "1m")},
)


def main() -> None:
    count = 1_000
    random = np.random.default_rng(7)
    times = 1_700_000_000_000_000_000 + np.arange(count) * 100_000_000
    ticks = pa.table(
        {
            "timestamp": times,
            "received": times,
            "exchange": ["binance"] * count,
            "symbol": ["BTC/USDT"] * count,
            "price": 60_000 + np.cumsum(random.normal(0, 1, count)),
            "volume": random.exponential(0.1, count),
            "side": random.choice([-1, 1], count).astype(np.int8),
            "trade_id": np.arange(count),
        }
    )
    bars = compute([VIEW], ticks)
    print(f"{bars.num_rows} bars of ten ticks; longest run of rising closes: {max(bars['run'].to_pylist()[1:]):.0f}")
    print(bars.select(["run", "top", "bottom"]).to_pylist()[-3:])


if __name__ == "__main__":
    main()
