"""Inputs as rows of their digest: 56 bytes a trade, quote or gap, in the order in which they were folded.

Row       timestamp int64, kind int64 (0 trade, 1 quote, 2 gap), then
Trade     price, volume, side (+1, -1, 0), 0 as float64, trade id int64
Quote     bid, bid volume, ask, ask volume as float64, update id int64
Gap       first id, last id, missing, filled, 0 as int64
"""

from __future__ import annotations

import math
import struct

import numpy as np
import numpy.typing as npt

from engine.digest import Digests
from engine.events import Key
from engine.ingress import QUOTE, TRADE, Admitted
from engine.outbox import Columns

INPUT_ROW, GAP_ROW = struct.Struct("<qqddddq"), struct.Struct("<7q")


def hash_inputs(
    inputs: Digests,
    key: Key,
    columns: Columns,
    admitted: Admitted,
    rows: npt.NDArray[np.intp] | None,
    gaps: npt.NDArray[np.int64],
) -> None:
    """Hash the inputs that one key folded: trades, quotes, and the gaps before them.

    columns: of the key's rows, as the program takes them. rows: where they are in `admitted`, None if they are all of it.
    """
    outcome, timestamp, _, sequence, price, volume, side, ask, ask_volume = columns
    ids = admitted.block.trade_id if rows is None else admitted.block.trade_id[rows]
    if len(outcome) == 1:
        _hash_input(inputs, key, columns, ids.item(0), gaps)
        return
    folded = (outcome == TRADE) | (outcome == QUOTE)
    is_quote = outcome[folded] == QUOTE
    result = np.zeros((int(np.count_nonzero(folded)), 7))
    integers = result.view(np.int64)
    integers[:, 0], integers[:, 1], integers[:, 6] = timestamp[folded], is_quote, ids[folded]
    result[:, 2], result[:, 3], result[:, 4] = price[folded], volume[folded], side[folded]
    if len(ask):
        result[is_quote, 4], result[is_quote, 5] = ask[folded][is_quote], ask_volume[folded][is_quote]
        floats = result[:, 2:6]
        floats[np.isnan(floats)] = np.nan
    if len(gaps):
        gap_rows = np.zeros((len(gaps), 7), np.int64)
        gap_rows[:, 0] = admitted.block.timestamp[gaps[:, 0]]
        gap_rows[:, 1] = 2
        gap_rows[:, 2:6] = gaps[:, 2:6]
        places = np.searchsorted(sequence[folded], gaps[:, 1])
        result = np.insert(result, places, gap_rows.view(np.float64), axis=0)
    inputs.extend(key, result)


def _hash_input(inputs: Digests, key: Key, columns: Columns, number: int, gaps: npt.NDArray[np.int64]) -> None:
    """Hash one input: the same row as of a block, at a tenth of the cost."""
    outcome = columns[0].item(0)
    if outcome not in (TRADE, QUOTE):
        return
    _, timestamp, _, _, price, volume, side, ask, ask_volume = columns
    when = timestamp.item(0)
    if len(gaps):
        _, _, first, last, missing, filled = gaps[0].tolist()
        inputs.append(key, GAP_ROW.pack(when, 2, first, last, missing, filled, 0))
    is_quote = outcome == QUOTE
    values = [
        price.item(0),
        volume.item(0),
        ask.item(0) if is_quote else float(side.item(0)),
        ask_volume.item(0) if is_quote else 0.0,
    ]
    values = [value if value == value else math.nan for value in values]  # noqa: PLR0124 - one bit pattern for every NaN
    inputs.append(key, INPUT_ROW.pack(when, is_quote, *values, number))
