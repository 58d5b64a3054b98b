"""Compute features of a whole table: decode the built-in recording into ticks and quotes, then `compute`.

Run it: .venv/bin/python examples/01_features_of_a_table.py
"""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.compute as pc

from engine.events import Tick
from feeds import decoder
from replay.sources import BUILT_IN
from store import compute

SIDES = {"buy": 1, "sell": -1, None: 0}


def recording() -> tuple[pa.Table, pa.Table]:
    """Return the trades and the quotes of the built-in recording as Arrow tables."""
    decode = decoder("binance").decode
    ticks, quotes = [], []
    with gzip.open(BUILT_IN, "rt") as lines:
        for line in map(json.loads, lines):
            for event in decode(line["raw"].encode(), line["recv_ns"]) if line["kind"] == "recv" else []:
                row = {name: getattr(event, name) for name in event.__struct_fields__}
                (ticks if isinstance(event, Tick) else quotes).append(row)
    for row in ticks:
        row["side"] = SIDES[row["side"]]
    return pa.Table.from_pylist(ticks), pa.Table.from_pylist(quotes)


def main() -> None:
    ticks, quotes = recording()
    features = compute(["market", "technical", "derived"], ticks, quotes)
    print(
        f"{features.num_rows:,} rows x {features.num_columns} columns from {ticks.num_rows:,} trades, {quotes.num_rows:,} quotes"
    )
    last = features.filter(pc.equal(features["symbol"], "BTC/USDT")).to_pylist()[-1]
    for name in ("price", "spread_bps", "rsi_14", "macd", "vwap_1m", "trade_imbalance_1m"):
        print(f"  {name:<20} {last[name]:.6g}")


if __name__ == "__main__":
    main()
