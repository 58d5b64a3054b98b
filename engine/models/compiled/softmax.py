"""scaled_softmax: any number of classes by softmax regression on standardised features, learned by stochastic gradient descent.

Like       River 0.26: StandardScaler() | SoftmaxRegression(SGD(lr), l2=), equal to 1e-9 with intercept_lr = 0 (default): there no class
           has an intercept. On standardised features that means that it cannot learn how frequent a class is; intercept_lr > 0 learns
           one a class by the same gradient
Output     a probability a class. Before anything was learned all are equal. A class that was never seen has probability 0, and the
           others share 1 among them: River does not know a class before it has seen it, and here the same rows give the same numbers
Parameters lr, l2 as in River; intercept_lr: of the intercepts, 0 for none; clip_z: bound of a scaled feature in deviations, 0 (default, as in River) for none
Cost       O(n k) time, 1 + 2 n + k (n + 2) floats of state, the classes behind all else
Heavy tails  as scaled_logistic
"""

from __future__ import annotations

import math
from typing import Any

from engine.models.compiled.learner import Learner, Parameter
from engine.models.compiled.logistic import RATES, descend
from engine.models.compiled.scaler import clip_of, dot, scaler_learn, scaler_size, scaler_transform

LR, L2, CLIP_Z, INTERCEPT_LR = range(4)
SEEN, INTERCEPT, WEIGHTS = range(3)  # of a class: whether it was seen; then its linear predictor
PROBABILITY_MIN, PROBABILITY_MAX = (
    1e-15,
    1.0 - 1e-15,
)  # what River's cross-entropy clamps to before it takes the gradient


def softmax_size(features: Any, outputs: Any) -> int:
    """Return the floats of state: the scaler, then for each class whether it was seen, its intercept, and its weights."""
    return scaler_size(features) + int(outputs) * (WEIGHTS + int(features))


def softmax_work(features: Any, outputs: Any) -> int:
    """Return the floats of scratch: the scaled row, and a probability a class."""
    return int(features) + int(outputs)


def softmax_of(classes: Any, z: Any, out: Any) -> None:
    """Write the probabilities of a scaled row; `classes` is the state behind the scaler."""
    features, outputs = len(z), len(out)
    highest = -math.inf
    for at in range(outputs):
        begin = at * (WEIGHTS + features)
        if classes[begin + SEEN] > 0.0:
            out[at] = dot(classes[begin + WEIGHTS : begin + WEIGHTS + features], z) + classes[begin + INTERCEPT]
            highest = max(highest, out[at])
    if highest == -math.inf:
        for at in range(outputs):
            out[at] = 1.0 / outputs
        return
    total = 0.0
    for at in range(outputs):
        out[at] = math.exp(out[at] - highest) if classes[at * (WEIGHTS + features) + SEEN] > 0.0 else 0.0
        total += out[at]
    for at in range(outputs):
        out[at] /= total


def softmax_predict(p: Any, s: Any, x: Any, out: Any, work: Any) -> None:
    """Write a probability a class."""
    z = work[: len(x)]
    scaler_transform(s, x, z, clip_of(p[CLIP_Z]))
    softmax_of(s[scaler_size(len(x)) :], z, out)


def softmax_learn(p: Any, s: Any, x: Any, y: float, outputs: Any, work: Any) -> None:
    """Take the row into the scaler, then one step down the gradient of its cross-entropy, for each class seen so far."""
    features = len(x)
    z = work[:features]
    likely = work[features : features + outputs]
    scaler_learn(s, x, z, clip_of(p[CLIP_Z]))
    classes = s[scaler_size(features) :]
    softmax_of(classes, z, likely)
    label = int(y)
    if classes[label * (WEIGHTS + features) + SEEN] == 0.0:
        # River has no probability of a class that it sees for the first time (and of no class at first): the gradient takes it as 0.
        likely[label] = 0.0
        classes[label * (WEIGHTS + features) + SEEN] = 1.0
    for at in range(outputs):
        begin = at * (WEIGHTS + features)
        if classes[begin + SEEN] > 0.0:
            gradient = max(min(likely[at], PROBABILITY_MAX), PROBABILITY_MIN) - (1.0 if at == label else 0.0)
            classes[begin + INTERCEPT] -= p[INTERCEPT_LR] * gradient
            descend(classes[begin + WEIGHTS : begin + WEIGHTS + features], z, gradient, p[LR], p[L2])


SOFTMAX = Learner(
    name="scaled_softmax",
    version=2,
    is_class=True,
    outputs_min=2,
    outputs_max=1_024,
    parameters={
        "lr": RATES,
        "l2": Parameter(0.0, 0.0, 1.0),
        "clip_z": Parameter(0.0, 0.0, 1e9),
        "intercept_lr": Parameter(0.0, 0.0, 1.0),
    },
    size=softmax_size,
    work=softmax_work,
    predict=softmax_predict,
    learn=softmax_learn,
    grows=True,
)
