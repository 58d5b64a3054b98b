"""Features written as text, for views that need no code: `rsi(price, 14)`, `macd(price)[1]`, `difference(ema(price, 5), price)`.

Names are fields of the clock and the indicators of `engine.indicators`, `before` among them; values are numbers and windows ("15m").
Nothing else is understood, so a configuration cannot run code.
"""

from __future__ import annotations

import ast
import difflib
from typing import Any

from engine import indicators
from engine.errors import ConfigError
from engine.indicator import Node, as_node, before
from store.schema import BAR_FIELDS, TICK_FIELDS

FIELDS = (*TICK_FIELDS, *(name for name in BAR_FIELDS if name not in TICK_FIELDS))


def parse(text: str, where: str) -> Node:
    """Return the node that an expression means. `where` opens the message of a ConfigError."""
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ConfigError(f"{where} = {text!r}: {error.msg} at character {error.offset}") from error
    value = _value(tree, f"{where} = {text!r}")
    if isinstance(value, tuple):
        raise ConfigError(f"{where} = {text!r}: gives {len(value)} values, expected one; pick it: {text}[0]")
    if not isinstance(value, (Node, str)):
        raise ConfigError(f"{where} = {text!r}: expected a field or an indicator, found {value!r}")
    return as_node(value)


def _value(tree: ast.expr, where: str) -> Any:
    if (
        isinstance(tree, ast.Constant)
        and isinstance(tree.value, (int, float, str))
        and not isinstance(tree.value, bool)
    ):
        return tree.value
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub) and isinstance(tree.operand, ast.Constant):
        return -_value(tree.operand, where)
    if isinstance(tree, ast.Name):
        if tree.id in FIELDS:
            return as_node(tree.id)
        raise ConfigError(f"{where}: no field {tree.id!r}{_near(tree.id, FIELDS)}")
    if isinstance(tree, ast.Subscript) and isinstance(tree.slice, ast.Constant):
        outputs = _value(tree.value, where)
        at = tree.slice.value
        if not isinstance(outputs, tuple) or not isinstance(at, int) or not 0 <= at < len(outputs):
            count = len(outputs) if isinstance(outputs, tuple) else 1
            raise ConfigError(f"{where}: no output [{at!r}] of {ast.unparse(tree.value)}, which gives {count}")
        return outputs[at]
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
        known = (*indicators.__all__, "before")
        if tree.func.id not in known:
            raise ConfigError(f"{where}: no indicator {tree.func.id!r}{_near(tree.func.id, known)}")
        function = before if tree.func.id == "before" else getattr(indicators, tree.func.id)
        values = [_value(argument, where) for argument in tree.args]
        if not all(keyword.arg for keyword in tree.keywords):
            raise ConfigError(f"{where}: ** is not understood")
        named = {str(keyword.arg): _value(keyword.value, where) for keyword in tree.keywords}
        try:
            return function(*values, **named)
        except (TypeError, ConfigError) as error:
            raise ConfigError(f"{where}: {error}") from error
    raise ConfigError(
        f"{where}: {ast.unparse(tree)!r} is not understood; expected fields, numbers, windows and indicators"
    )


def _near(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
