"""The trades and the quotes of a symbol, watched apart."""

from __future__ import annotations

from feeds.liveness import FIRST_NS, Recovered, Silent, Stalled, SymbolWatch
from feeds.streams import Heard, StreamWatch

S = 1_000_000_000
EVERY = S // 4
BTC = "BTC/USDT"
ETH = "ETH/USDT"


class Scene:
    """Looks each quarter of a second at symbols, of which chosen streams come each time."""

    def __init__(self, *symbols: str) -> None:
        self.watch = StreamWatch(SymbolWatch(), SymbolWatch())
        self.now = 1_000 * S
        for symbol in symbols:
            self.watch.add(symbol, self.now)

    def go_on(self, seconds: float, trades: tuple[str, ...] = (), quotes: tuple[str, ...] = ()) -> list[Heard]:
        heard = []
        for _ in range(round(seconds * S / EVERY)):
            self.now += EVERY
            for symbol in trades:
                self.watch.trades.note(symbol, self.now)
            for symbol in quotes:
                self.watch.quotes.note(symbol, self.now)
            heard += self.watch.look(self.now)
        return heard


def told(heard: list[Heard]) -> list[tuple[str, str]]:
    return [(type(one.change).__name__, one.change.detail.split(":")[0]) for one in heard if one.tells]


def test_trades_that_are_mute_while_quotes_come_are_a_stall() -> None:
    scene = Scene(BTC)
    assert scene.go_on(90, (BTC,), (BTC,)) == []
    (stalled,) = scene.go_on(10, (), (BTC,))
    assert stalled.tells
    assert isinstance(stalled.change, Stalled)
    assert stalled.change.detail.startswith("trades: nothing came for 2 s")
    assert scene.watch.stalled == (BTC,)
    assert told(scene.go_on(1, (BTC,), (BTC,))) == [("Recovered", "trades")]
    assert not scene.watch.stalled


def test_a_symbol_is_stalled_once_until_all_of_its_streams_are_heard() -> None:
    scene = Scene(BTC, ETH)
    scene.go_on(90, (BTC, ETH), (BTC, ETH))
    heard = scene.go_on(1, (ETH,), (BTC, ETH)) + scene.go_on(10, (ETH,), (ETH,))
    changes = [(one.change.symbol, type(one.change), one.tells) for one in heard]
    assert changes == [(BTC, Stalled, True), (BTC, Stalled, False)]
    (first,) = scene.go_on(2, (BTC, ETH), (ETH,))
    assert isinstance(first.change, Recovered)
    assert not first.tells
    assert scene.watch.stalled == (BTC,)
    assert told(scene.go_on(2, (BTC, ETH), (BTC, ETH))) == [("Recovered", "quotes")]


def test_a_thin_market_that_is_quoted_without_a_trade_is_not_silent() -> None:
    scene = Scene(BTC)
    assert told(scene.go_on(3 * FIRST_NS / S, (), (BTC,))) == []


def test_a_symbol_of_which_nothing_comes_is_silent_once_until_anything_does() -> None:
    scene = Scene(BTC)
    (silent,) = [one.change for one in scene.go_on(3 * FIRST_NS / S) if one.tells]
    assert isinstance(silent, Silent)
    assert silent.detail.startswith("nothing has come for 60 s")
    assert [kind for kind, _ in told(scene.go_on(2, (), (BTC,)))] == ["Recovered"]
    assert told(scene.go_on(2, (BTC,), (BTC,))) == []


def test_quotes_that_are_heard_end_a_silence_that_trades_had_told() -> None:
    scene = Scene(BTC)
    scene.go_on(1, (), (BTC,))
    scene.watch.reset(scene.now)
    assert [kind for kind, _ in told(scene.go_on(FIRST_NS / S + 1))] == ["Silent"]
    assert told(scene.go_on(2, (), (BTC,))) == [("Recovered", "is heard now")]


def test_a_symbol_that_is_removed_is_forgotten() -> None:
    scene = Scene(BTC)
    scene.go_on(90, (BTC,), (BTC,))
    scene.go_on(10, (), (BTC,))
    scene.watch.remove(BTC)
    assert scene.watch.stalled == ()
    assert scene.go_on(10, (BTC,), (BTC,)) == []
