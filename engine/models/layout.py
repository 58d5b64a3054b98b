"""Where things lie in a ledger: one row a prediction whose outcome is not known yet, all of one model and one key.

A ledger is a ring of rows of float64; times, counts and numbers are int64 views of the same bytes (`ids`), never floats. Row number n
lies in slot n mod capacity. Behind the columns below come the features that the prediction was made from, what the baselines said on
the same row, and what each arm (champion and challengers) said.
"""

from __future__ import annotations

from dataclasses import dataclass

# int64
SEQUENCE, TIMESTAMP, MADE = 0, 1, 2
"""Of the input that the row of features came of: its number, the exchange's time, and ours (ns UTC)."""
CLOCK, DUE = 3, 4
"""Where the horizon's clock stood when the prediction was made, and where it stands when the outcome is due: `received` in ns for a
horizon of time, trades or rows of the key so far for others."""
STATUS = 5  # WAITING, RESOLVED, VOID
IS_MID = 6  # 1: reference and outcome are mids of quotes; 0: prices of trades, for there was no quote
IS_READY = 7  # 1: the model had learned from as many outcomes as its warm-up asks for
SERVED = 8  # the arm whose prediction was published, -1 if none
OUTCOME_TIMESTAMP, OUTCOME_RECEIVED, OUTCOME_SEQUENCE = 9, 10, 11
# float64
REFERENCE, OUTCOME = 12, 13  # quote currency; the outcome is NaN until it is known
SPREAD = 14  # bps when the prediction was made; NaN without quotes
VARIANCE = 15  # sum of squared log returns so far: when the prediction was made, then over the horizon
LABEL = 16  # class (0, 1, ...) or value; NaN until the outcome is known, and of a void one
LAST_RETURN, LAST_SIDE = (
    17,
    18,
)  # sign of the newest change of the reference, taker's side of the newest trade: -1, 0, +1
LOW, HIGH = 19, 20  # of the served prediction: its interval (regression)
CLASSES = 21  # of the served prediction: the set of classes, bit k for class k (classification)
HEAD = 22

WAITING, RESOLVED, VOID = 0, 1, 2

# Columns of a batch's steps, int64: one step a row of features.
SLOT = 0  # of the ledger row of the prediction to make; -1 where none is made
UPTO = 1  # answers[UPTO of the step before : UPTO] are to be learned from before it
STEP_TIMESTAMP, STEP_RECEIVED, STEP_SEQUENCE = 2, 3, 4
STEP = 5


@dataclass(frozen=True)
class Layout:
    """The widths of one model's ledger."""

    features: int
    outputs: int  # classes of a classification, 1 of a regression
    baselines: int  # floats that the baselines take in a row
    arms: int

    @property
    def x_at(self) -> int:
        """Where the features begin."""
        return HEAD

    @property
    def baselines_at(self) -> int:
        """Where the baselines' outputs begin."""
        return HEAD + self.features

    def out_at(self, arm: int) -> int:
        """Where an arm's outputs begin: probabilities by class, or one value; NaN where it said nothing.

        Behind them, at `out_at(arm) + outputs`, lies the threshold of its conformal set when it said so: the half-width of the
        interval of a value, or what 1 - probability may be at most of a class in the set; infinite while there is none.
        """
        return HEAD + self.features + self.baselines + arm * (self.outputs + 1)

    @property
    def width(self) -> int:
        """Floats in a row."""
        return self.out_at(self.arms)
