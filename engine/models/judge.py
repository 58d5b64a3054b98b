"""The judge of one model and key: verifies what has matured, compiled. It feeds baselines, scores, intervals, evidence and drift.

It walks the same steps as the arms did. At each answer the baselines and the scores learn what became of the prediction made then; an
answer that does not overlap the one that counted before (one a horizon) is evidence for the contest and for the drift detectors too.
At each question the baselines speak, every arm gets its conformal threshold, and one arm is served. A promotion or a drift is a
decision: the judge stops right behind that answer, the caller acts, and the judge goes on from there.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import cache
from typing import Any

from engine.jit import Gathered, compile_module, entry_point
from engine.models.baselines import baselines_answer, baselines_ask
from engine.models.conformal import conformal_answer, conformal_ask
from engine.models.contest import contest_answer
from engine.models.drift import drift_answer
from engine.models.layout import (
    CLASSES,
    CLOCK,
    DUE,
    HEAD,
    HIGH,
    IS_READY,
    LOW,
    OUTCOME_RECEIVED,
    RESOLVED,
    SERVED,
    SLOT,
    STATUS,
    UPTO,
)
from engine.models.score import net_bps, score_answer
from engine.models.timeline import THINNED_DUE

# Where the judge stands: step, answer; what was decided there: the arm that wins, the stream that drifts (-1: none); who is served: the
# champion, and the arm that serves here instead of it in a split (-1: none); and of a contest of all keys the slot of a pair for it (-1).
AT_STEP, AT_ANSWER, WINNER, DRIFTED, CHAMPION, SPLIT, PAIRED = range(7)
POSITION = 7
# Integer parameters, and float ones.
J_KIND, J_OUTPUTS, J_IS_CLASS, J_FEATURES, J_BASELINES, J_PAIRS_MIN, J_IS_POOLED, J_BY_TIME = range(8)
J_FEE, J_COVERAGE, J_ALPHA, J_MARGIN = range(4)


def threshold_of(conformal: Any, row: Any, out_at: Any, outputs: Any, is_class: Any) -> None:
    """Give an arm's outputs in a row their conformal threshold, if it said anything."""
    value = row[out_at]
    if value == value:  # noqa: PLR0124 - not NaN
        conformal_ask(conformal, row, out_at, outputs, is_class)


def serve(row: Any, row_ids: Any, arm: Any, out_at: Any, outputs: Any, is_class: Any, said: Any) -> None:
    """Note an arm's prediction as the served one, with its interval or set; copy it to `said`: outputs, low, high, classes."""
    row_ids[SERVED] = arm
    threshold = row[out_at + outputs]
    if is_class:
        mask = 0
        for at in range(outputs):
            if 1.0 - row[out_at + at] <= threshold:
                mask |= 1 << at
        row[CLASSES] = float(mask)
    else:
        row[LOW] = row[out_at] - threshold
        row[HIGH] = row[out_at] + threshold
    for at in range(outputs):
        said[at] = row[out_at + at]
    said[outputs] = row[LOW]
    said[outputs + 1] = row[HIGH]
    said[outputs + 2] = row[CLASSES]


def question(
    row: Any, row_ids: Any, baselines: Any, conformal: Any, position: Any, ints: Any, base_at: Any, said: Any
) -> None:
    """Let the baselines speak, give thresholds, choose who is served."""
    outputs = ints[J_OUTPUTS]
    first = base_at + ints[J_BASELINES]
    baselines_ask(baselines, row, base_at, ints[J_KIND], outputs)
    for arm in range(conformal.shape[0]):
        threshold_of(conformal[arm], row, first + arm * (outputs + 1), outputs, ints[J_IS_CLASS])
    said[0] = math.nan
    for turn in range(2):
        arm = position[SPLIT] if turn == 0 else position[CHAMPION]
        if arm >= 0 and row_ids[SERVED] < 0 and not math.isnan(row[first + arm * (outputs + 1)]):
            serve(row, row_ids, arm, first + arm * (outputs + 1), outputs, ints[J_IS_CLASS], said)


def verify(
    row: Any, row_ids: Any, baselines: Any, scores: Any, conformal: Any, contest: Any, drift: Any,
    losses: Any, nets: Any, position: Any, timeline_ids: Any, ints: Any, floats: Any, base_at: Any, slot: Any,
) -> None:  # fmt: skip
    """Take in one outcome."""
    kind, outputs, is_class = ints[J_KIND], ints[J_OUTPUTS], ints[J_IS_CLASS]
    first = base_at + ints[J_BASELINES]
    is_thin = row_ids[CLOCK] >= timeline_ids[THINNED_DUE]
    if is_thin:
        # An outcome may come later than it was due: the next that counts is made when this one was known.
        timeline_ids[THINNED_DUE] = max(row_ids[DUE], row_ids[OUTCOME_RECEIVED]) if ints[J_BY_TIME] else row_ids[DUE]
    is_ready = row_ids[IS_READY] == 1
    for arm in range(scores.shape[0]):
        losses[arm] = math.nan
        nets[arm] = math.nan
        out_at = first + arm * (outputs + 1)
        if math.isnan(row[out_at]):
            continue
        conformal_answer(conformal[arm], row, out_at, outputs, is_class, floats[J_COVERAGE])
        if is_ready:
            losses[arm] = score_answer(scores[arm], row, out_at, base_at, kind, outputs, is_thin, floats[J_FEE])
            nets[arm] = net_bps(row, out_at, kind, outputs, floats[J_FEE])
    baselines_answer(baselines, row, base_at, kind, outputs)
    if is_thin and is_ready and ints[J_IS_POOLED]:
        position[PAIRED] = slot
    elif is_thin and is_ready:
        position[WINNER] = contest_answer(
            contest, losses, nets, floats[J_ALPHA], float(ints[J_PAIRS_MIN]), floats[J_MARGIN]
        )
    if is_thin and is_ready:
        champion = position[CHAMPION]
        if not math.isnan(losses[champion]):
            out_at = first + champion * (outputs + 1)
            position[DRIFTED] = drift_answer(
                drift, row, HEAD, ints[J_FEATURES], out_at, outputs, is_class, losses[champion]
            )


def judge(
    ledger: Any, ledger_ids: Any, steps: Any, answers: Any, count: int, position: Any, timeline_ids: Any, baselines: Any, scores: Any,
    conformal: Any, contest: Any, drift: Any, losses: Any, nets: Any, ints: Any, floats: Any, said: Any,
) -> int:  # fmt: skip
    """Go on from `position` over `count` steps; return whether there is a decision (1) or all steps are done (0).

    said: written, count x (outputs + 3): what is served at each step, its first value NaN where nothing is.
    """
    base_at = HEAD + ints[J_FEATURES]
    step = position[AT_STEP]
    answer = position[AT_ANSWER]
    position[WINNER] = -1
    position[DRIFTED] = -1
    position[PAIRED] = -1
    while step < count:
        while answer < steps[step, UPTO]:
            slot = answers[answer]
            answer += 1
            if ledger_ids[slot, STATUS] != RESOLVED:
                continue
            verify(
                ledger[slot], ledger_ids[slot], baselines, scores, conformal, contest, drift, losses, nets, position, timeline_ids,
                ints, floats, base_at, slot,
            )  # fmt: skip
            if position[WINNER] >= 0 or position[DRIFTED] >= 0 or position[PAIRED] >= 0:
                position[AT_STEP] = step
                position[AT_ANSWER] = answer
                return 1
        slot = steps[step, SLOT]
        said[step, 0] = math.nan
        if slot >= 0:
            question(ledger[slot], ledger_ids[slot], baselines, conformal, position, ints, base_at, said[step])
        step += 1
    position[AT_STEP] = step
    position[AT_ANSWER] = answer
    return 0


SIGNATURE = (
    "int64(float64[:, ::1], int64[:, ::1], int64[:, ::1], int64[::1], int64, int64[::1], int64[::1], float64[::1], float64[:, ::1], "
    "float64[:, ::1], float64[:, ::1], float64[::1], float64[::1], float64[::1], int64[::1], float64[::1], float64[:, ::1])"
)
SERVE_SIGNATURE = "void(float64[::1], int64[::1], int64, int64, int64, int64, float64[::1], float64[::1])"


def answered(
    row: Any, row_ids: Any, arm: int, out_at: int, outputs: int, is_class: int, conformal: Any, said: Any
) -> None:
    """Take in what a worker said to a row: its threshold as of now, and with `arm` >= 0 it is served."""
    threshold_of(conformal, row, out_at, outputs, is_class)
    if arm >= 0:
        serve(row, row_ids, arm, out_at, outputs, is_class, said)


@cache
def text_of_judge() -> str:
    """Return the module that is compiled for `judge` and `answered`."""
    gathered = Gathered()
    bodies = []
    for function, signature in ((judge, SIGNATURE), (answered, SERVE_SIGNATURE)):
        arguments = ", ".join(inspect.signature(function).parameters)
        body = f"    return {gathered.add(function)}({arguments})"
        bodies.append(entry_point(f"entry_{function.__name__}", signature, arguments, body))
    return gathered.text("\n\n".join(bodies))


@cache
def compiled() -> tuple[Callable[..., int], Callable[..., None]]:
    """Return `judge` and `answered`, compiled: one for all models."""
    module = compile_module(text_of_judge(), "the models' judge")
    return module.entry_judge, module.entry_answered
