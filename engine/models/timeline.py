"""The timeline of one model and key: what its ledger sees of the inputs, compiled. It asks, and it says what an outcome was.

It walks the inputs of a block, and the rows of features that came of them, in their order. Each input may resolve predictions that are
due; each row of features is a step: what was resolved by then becomes answers, in the order in which the predictions were made, and
then a new prediction is asked for, unless the features are not finite, there is no price to measure from, or the ledger is full.

Outcome of a horizon of time: the first price of the row's kind with `received` at or after its due time: a mid for a prediction that was
made when the key had a quote, else a trade's price. If nothing of that kind came within the staleness bound, it is void. Outcome of a
horizon of trades or rows: the price that stands when so many have come, void if that mid is older than the bound. Time that passes
without an input of the key resolves nothing.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from engine.ingress import QUOTE, TRADE
from engine.jit import Gathered, compile_module, entry_point
from engine.models.horizon import BY_ROWS, BY_TIME, BY_TRADES
from engine.models.layout import (
    CLASSES,
    CLOCK,
    DUE,
    HEAD,
    HIGH,
    IS_MID,
    IS_READY,
    LABEL,
    LAST_RETURN,
    LAST_SIDE,
    LOW,
    MADE,
    OUTCOME,
    OUTCOME_RECEIVED,
    OUTCOME_SEQUENCE,
    OUTCOME_TIMESTAMP,
    REFERENCE,
    RESOLVED,
    SEQUENCE,
    SERVED,
    SLOT,
    SPREAD,
    STATUS,
    STEP_RECEIVED,
    STEP_SEQUENCE,
    STEP_TIMESTAMP,
    TIMESTAMP,
    UPTO,
    VARIANCE,
    VOID,
    WAITING,
)
from engine.models.target import BPS, CUSTOM, NONE, label_of

# The state, one vector of float64; what is an integer is an int64 view of the same bytes.
ASKED, ANSWERED, NEXT_TRADE, NEXT_MID, FIRST_MID = range(5)
"""Numbers of ledger rows: the next to be asked; the oldest that was not answered; the oldest unresolved one that waits for a trade,
and for a quote; the first that waits for a quote (NO_MID before there is one)."""
TRADES, ROWS, LEARNED, MID_RECEIVED = (
    5,
    6,
    7,
    8,
)  # trades and rows so far; answers with a label; when the newest quote came
NOT_FINITE, LEDGER_FULL, NO_PRICE, VOIDS, IMPUTED = (
    9,
    10,
    11,
    12,
    13,
)  # rows that were not asked, and why; void outcomes; imputed values
THINNED_DUE = 14  # due clock of the newest answer that counts as independent of the one before
MID, MID_SPREAD, LAST_PRICE = 15, 16, 17  # float64: what stands; NaN until there is one
VARIANCE_MID, VARIANCE_TRADE = 18, 19  # sums of squared log returns of mids, of trades
RETURN_SIGN, SIDE = 20, 21
IMPUTE = 22  # then for each feature: count, mean, last finite value
NO_MID = 1 << 62
SKIP, LAST, MEAN = range(3)
MISSING = {"skip": SKIP, "last": LAST, "mean": MEAN}
COUNTERS = {"not finite": NOT_FINITE, "ledger full": LEDGER_FULL, "no price": NO_PRICE}

# Integer parameters of a model, and float ones.
P_TARGET, P_HORIZON, P_COUNT, P_STALE_NS, P_MISSING, P_LEDGER_MAX, P_WARM_UP, P_IN_SPREADS = range(8)
P_BAND, P_FEE = range(2)


def timeline_size(features: int) -> int:
    """Return the floats of state."""
    return IMPUTE + 3 * features


def new_timeline(features: int) -> Any:
    """Return the state of a model that has seen nothing."""
    state = np.zeros(timeline_size(features))
    ids = state.view(np.int64)
    ids[FIRST_MID] = NO_MID
    ids[THINNED_DUE] = -(1 << 62)
    state[[MID, MID_SPREAD, LAST_PRICE]] = math.nan
    for feature in range(features):
        state[IMPUTE + 3 * feature + 2] = math.nan
    return state


def resolve(
    ledger: Any, ledger_ids: Any, slot: Any, price: float, variance: float, timestamp: Any, received: Any, sequence: Any,
    ints: Any, floats: Any,
) -> None:  # fmt: skip
    """Note the outcome of one row, and its label; NaN is a price that never came."""
    row = ledger[slot]
    ids = ledger_ids[slot]
    ids[OUTCOME_TIMESTAMP] = timestamp
    ids[OUTCOME_RECEIVED] = received
    ids[OUTCOME_SEQUENCE] = sequence
    row[OUTCOME] = price
    row[VARIANCE] = variance - row[VARIANCE]
    label = math.nan
    if ints[P_TARGET] != CUSTOM:
        label = label_of(
            ints[P_TARGET], row[REFERENCE], price, row[SPREAD], row[VARIANCE], floats[P_BAND], ints[P_IN_SPREADS], floats[P_FEE]
        )  # fmt: skip
    row[LABEL] = label
    ids[STATUS] = RESOLVED if label == label or (ints[P_TARGET] == CUSTOM and price > 0.0) else VOID  # noqa: PLR0124 - not NaN


def resolve_due(
    state: Any, ids: Any, ledger: Any, ledger_ids: Any, is_quote: Any, timestamp: Any, received: Any, sequence: Any,
    ints: Any, floats: Any,
) -> None:  # fmt: skip
    """Resolve what is due at an input whose price stands already."""
    mask = ledger.shape[0] - 1
    by_time = ints[P_HORIZON] == BY_TIME
    now = received
    if ints[P_HORIZON] == BY_TRADES:
        now = ids[TRADES]
    elif ints[P_HORIZON] == BY_ROWS:
        now = ids[ROWS]
    stale = ints[P_STALE_NS]
    end = min(ids[FIRST_MID], ids[ASKED])
    while ids[NEXT_TRADE] < end:
        slot = ids[NEXT_TRADE] & mask
        due = ledger_ids[slot, DUE]
        if now < due:
            break
        if by_time and received - due > stale:
            resolve(ledger, ledger_ids, slot, math.nan, math.nan, timestamp, received, sequence, ints, floats)
        elif is_quote and by_time:
            break
        else:
            resolve(
                ledger, ledger_ids, slot, state[LAST_PRICE], state[VARIANCE_TRADE], timestamp, received, sequence, ints, floats
            )  # fmt: skip
        ids[NEXT_TRADE] += 1
    while ids[FIRST_MID] <= ids[NEXT_MID] < ids[ASKED]:
        slot = ids[NEXT_MID] & mask
        due = ledger_ids[slot, DUE]
        if now < due:
            break
        age = received - due if by_time else received - ids[MID_RECEIVED]
        if age > stale:
            resolve(ledger, ledger_ids, slot, math.nan, math.nan, timestamp, received, sequence, ints, floats)
        elif by_time and not is_quote:
            break
        else:
            resolve(
                ledger, ledger_ids, slot, state[MID], state[VARIANCE_MID], timestamp, received, sequence, ints, floats
            )
        ids[NEXT_MID] += 1


def see(state: Any, ids: Any, is_quote: Any, received: Any, price: float, side: Any, ask: float) -> None:
    """Let the prices stand as an input leaves them."""
    if is_quote:
        mid = 0.5 * (price + ask)
        before = state[MID]
        if before > 0.0:
            change = math.log(mid / before)
            state[VARIANCE_MID] += change * change
            if change != 0.0:
                state[RETURN_SIGN] = 1.0 if change > 0.0 else -1.0
        state[MID] = mid
        state[MID_SPREAD] = BPS * (ask - price) / mid
        ids[MID_RECEIVED] = received
        return
    before = state[LAST_PRICE]
    if before > 0.0:
        change = math.log(price / before)
        state[VARIANCE_TRADE] += change * change
        if change != 0.0 and not state[MID] > 0.0:
            state[RETURN_SIGN] = 1.0 if change > 0.0 else -1.0
    state[LAST_PRICE] = price
    state[SIDE] = float(side)
    ids[TRADES] += 1


def gate(state: Any, row: Any, table: Any, column: Any, where: Any, missing: Any) -> Any:
    """Write the features into a ledger row, imputed by policy; return the values that were imputed, -1 if the row cannot be used."""
    imputed = 0
    usable = True
    for feature in range(where.shape[0]):
        value = table[where[feature], column]
        at = IMPUTE + 3 * feature
        if math.isfinite(value):
            state[at] += 1.0
            state[at + 1] += (value - state[at + 1]) / state[at]
            state[at + 2] = value
        elif missing == MEAN:
            value = state[at + 1]  # 0 before the first: a scaler that has seen nothing else makes nothing of it
            imputed += 1
        elif missing == LAST and state[at] > 0.0:
            value = state[at + 2]
            imputed += 1
        else:
            usable = False
        row[HEAD + feature] = value
    return imputed if usable else -1


def ask(
    state: Any, ids: Any, ledger: Any, ledger_ids: Any, table: Any, column: Any, where: Any,
    timestamp: Any, received: Any, sequence: Any, ints: Any, floats: Any,
) -> Any:  # fmt: skip
    """Open a ledger row for a prediction; return its slot, -1 if none can be made."""
    slot = ids[ASKED] & (ledger.shape[0] - 1)
    row = ledger[slot]
    row_ids = ledger_ids[slot]
    imputed = gate(state, row, table, column, where, ints[P_MISSING])
    is_mid = state[MID] > 0.0
    reference = state[MID] if is_mid else state[LAST_PRICE]
    if imputed < 0:
        ids[NOT_FINITE] += 1
        return -1
    if not reference > 0.0 or (is_mid and received - ids[MID_RECEIVED] > ints[P_STALE_NS]):
        ids[NO_PRICE] += 1
        return -1
    if ids[ASKED] - ids[ANSWERED] >= ints[P_LEDGER_MAX]:
        ids[LEDGER_FULL] += 1
        return -1
    ids[IMPUTED] += imputed
    if is_mid and ids[FIRST_MID] == NO_MID:
        ids[FIRST_MID] = ids[ASKED]
        ids[NEXT_MID] = ids[ASKED]
    clock = received
    if ints[P_HORIZON] == BY_TRADES:
        clock = ids[TRADES]
    elif ints[P_HORIZON] == BY_ROWS:
        clock = ids[ROWS]
    row_ids[SEQUENCE] = sequence
    row_ids[TIMESTAMP] = timestamp
    row_ids[MADE] = received
    row_ids[CLOCK] = clock
    row_ids[DUE] = clock + ints[P_COUNT]
    row_ids[STATUS] = WAITING
    row_ids[IS_MID] = 1 if is_mid else 0
    row_ids[IS_READY] = 1 if ids[LEARNED] >= ints[P_WARM_UP] else 0
    row_ids[SERVED] = -1
    row_ids[OUTCOME_TIMESTAMP] = 0
    row_ids[OUTCOME_RECEIVED] = 0
    row_ids[OUTCOME_SEQUENCE] = 0
    row[REFERENCE] = reference
    row[OUTCOME] = math.nan
    row[SPREAD] = state[MID_SPREAD] if is_mid else math.nan
    row[VARIANCE] = state[VARIANCE_MID] if is_mid else state[VARIANCE_TRADE]
    row[LABEL] = math.nan
    row[LAST_RETURN] = state[RETURN_SIGN]
    row[LAST_SIDE] = state[SIDE]
    row[LOW] = math.nan
    row[HIGH] = math.nan
    row[CLASSES] = math.nan
    for at in range(HEAD + where.shape[0], ledger.shape[1]):
        row[at] = math.nan
    ids[ASKED] += 1
    return slot


def walk(
    state: Any, ids: Any, ledger: Any, ledger_ids: Any, steps: Any, answers: Any, ints: Any, floats: Any,
    outcome: Any, timestamp: Any, received: Any, sequence: Any, price: Any, side: Any, ask_price: Any,
    table: Any, table_ids: Any, where: Any, column: int, count: int,
) -> int:  # fmt: skip
    """Walk one block of one key; return how many answers there are. `column` is the slot of the first of `count` new feature rows.

    steps: written, one a feature row. answers: written, at most as many as were pending and are new. The ledger has room for them all.
    """
    step = 0
    found = 0
    mask = ledger.shape[0] - 1
    is_supervised = ints[P_TARGET] != NONE
    for i in range(outcome.shape[0]):
        kind = outcome[i]
        if kind not in (TRADE, QUOTE):
            continue
        is_quote = kind == QUOTE
        see(state, ids, is_quote, received[i], price[i], side[i], ask_price[i] if is_quote else 0.0)
        if is_supervised and ints[P_HORIZON] != BY_ROWS:
            resolve_due(state, ids, ledger, ledger_ids, is_quote, timestamp[i], received[i], sequence[i], ints, floats)
        while step < count and table_ids[2, column + step] <= sequence[i]:
            at = column + step
            stamps = steps[step]
            stamps[STEP_TIMESTAMP] = table_ids[0, at]
            stamps[STEP_RECEIVED] = table_ids[1, at]
            stamps[STEP_SEQUENCE] = table_ids[2, at]
            ids[ROWS] += 1
            if not is_supervised:
                ids[LEARNED] += ids[ASKED] - ids[ANSWERED]  # a row is learned from when it was predicted on
                ids[ANSWERED] = ids[ASKED]
            elif ints[P_HORIZON] == BY_ROWS:
                resolve_due(
                    state, ids, ledger, ledger_ids, is_quote, timestamp[i], received[i], sequence[i], ints, floats
                )
            while is_supervised and ids[ANSWERED] < ids[ASKED]:
                slot = ids[ANSWERED] & mask
                status = ledger_ids[slot, STATUS]
                if status == WAITING:
                    break
                if status == VOID:
                    ids[VOIDS] += 1
                else:
                    ids[LEARNED] += 1
                answers[found] = slot
                found += 1
                ids[ANSWERED] += 1
            stamps[UPTO] = found
            stamps[SLOT] = ask(
                state, ids, ledger, ledger_ids, table, at, where, stamps[STEP_TIMESTAMP], stamps[STEP_RECEIVED],
                stamps[STEP_SEQUENCE], ints, floats,
            )  # fmt: skip
            step += 1
    return found


READ = "Array({}, {}, 'C', readonly=True)"
SIGNATURE = (
    "int64(float64[::1], int64[::1], float64[:, ::1], int64[:, ::1], int64[:, ::1], int64[::1], int64[::1], float64[::1], "
    + ", ".join(READ.format(kind, 1) for kind in ("uint8", "int64", "int64", "int64", "float64", "int8", "float64"))
    + f", {READ.format('float64', 2)}, {READ.format('int64', 2)}, int64[::1], int64, int64)"
)


@cache
def text_of_walk() -> str:
    """Return the module that is compiled for `walk`."""
    gathered = Gathered()
    arguments = ", ".join(inspect.signature(walk).parameters)
    entry = entry_point("walk_block", SIGNATURE, arguments, f"    return {gathered.add(walk)}({arguments})")
    return gathered.text(entry)


@cache
def walker() -> Callable[..., int]:
    """Return `walk`, compiled: one for all models."""
    found: Callable[..., int] = compile_module(text_of_walk(), "the models' timeline").walk_block
    return found
