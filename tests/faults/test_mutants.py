"""That the suite finds defects, and not only those that it was shown: the product is broken in one place, and has to be accused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from engine.events import FeedStatus, Tick
from engine.intake import Intake
from engine.trade_ids import TradeIds
from feeds.coinbase import CoinbaseDecoder
from feeds.handover import Handover
from feeds.limits import RollingWindow
from feeds.line import Line
from feeds.live import Feed
from feeds.liveness import SymbolWatch
from tests.faults.cases import singles
from tests.faults.invariants import violations
from tests.faults.world import play

Patch = pytest.MonkeyPatch


def no_gap_is_asked_for(patch: Patch) -> None:
    patch.setattr(Feed, "gap", lambda *_: None)


def history_is_thrown_away(patch: Patch) -> None:
    offer = Intake.offer
    patch.setattr(
        Intake, "offer", lambda self, events: offer(self, [one for one in events if not getattr(one, "late", False)])
    )


def nobody_looks_after_symbols(patch: Patch) -> None:
    patch.setattr(SymbolWatch, "look", lambda *_: [])


def no_message_has_to_wait(patch: Patch) -> None:
    patch.setattr(RollingWindow, "free_at", lambda _, now: now)


def a_handover_loses_what_waits(patch: Patch) -> None:
    patch.setattr(Handover, "release", lambda *_: [])
    patch.setattr(Line, "_pass_old", lambda *_: None)


def one_trade_in_fifty_is_lost(patch: Patch) -> None:
    passed = Line._pass
    count = 0

    def leak(line: Line, events: Any) -> None:
        nonlocal count
        count += 1
        if count % 50:
            passed(line, events)

    patch.setattr(Line, "_pass", leak)


def strategies_are_told_later(patch: Patch) -> None:
    tell = Line._tell

    def later(line: Line, *what: Any) -> None:
        offer = line._offer
        now = line._now()

        def put_off(events: list[FeedStatus]) -> None:
            stamped = [msgspec.structs.replace(event, received=now) for event in events]
            asyncio.get_running_loop().call_later(1.0, offer, stamped)

        line._offer = put_off  # type: ignore[assignment]
        tell(line, *what)
        line._offer = offer

    patch.setattr(Line, "_tell", later)


def the_maker_s_side_is_taken_for_the_taker_s(patch: Patch) -> None:
    decode = CoinbaseDecoder.decode

    def turned(decoder: CoinbaseDecoder, frame: bytes, received: int) -> list[Any]:
        other = {"buy": "sell", "sell": "buy"}
        return [
            msgspec.structs.replace(event, side=other[event.side]) if type(event) is Tick and event.side else event
            for event in decode(decoder, frame, received)
        ]

    patch.setattr(CoinbaseDecoder, "decode", turned)


def nobody_looks_below_what_history_tells(patch: Patch) -> None:
    patch.setattr(TradeIds, "skipped_below", lambda *_: None)


def sockets_are_never_let_go_of(patch: Patch) -> None:
    patch.setattr(Feed, "let_go", lambda *_: None)


@pytest.mark.parametrize(
    ("mutant", "name", "complaint"),
    [
        (no_gap_is_asked_for, "15 one symbol's gap, binance", "never spoken of again"),
        (history_is_thrown_away, "15 one symbol's gap, binance", "lost, though history has them"),
        (nobody_looks_after_symbols, "01 one symbol mute, coinbase_exchange", "never noticed"),
        (no_message_has_to_wait, "04 40 changes of symbols in a second, binance", "too many requests"),
        (a_handover_loses_what_waits, "03 renewed before the cut, binance", "though the fault is another symbol's"),
        (one_trade_in_fifty_is_lost, "00 nothing wrong, coinbase", "though the fault is another symbol's"),
        (one_trade_in_fifty_is_lost, "03 reset, without a word, kucoin", "missing, and nobody said so"),
        (strategies_are_told_later, "03 reset, without a word, binance", "too late"),
        (
            nobody_looks_below_what_history_tells,
            "02 lost, while a quiet symbol trades, coinbase_exchange",
            "nobody said so",
        ),
        (sockets_are_never_let_go_of, "03 renewed before the cut, binance", "connections at the end"),
        (the_maker_s_side_is_taken_for_the_taker_s, "00 nothing wrong, coinbase", "expected"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_defect_is_found(mutant: Callable[[Patch], None], name: str, complaint: str, monkeypatch: Patch) -> None:
    case = next(case for case in singles() if str(case) == name)
    assert violations(play(case.scenario, seed=1), case.bounds) == []
    mutant(monkeypatch)
    assert complaint in "\n".join(violations(play(case.scenario, seed=1), case.bounds))
