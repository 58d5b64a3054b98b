"""The machine and each exchange's protocol together, with an exchange that holds them to its rules: scenes, and any input at all."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.connection import Connection
from feeds.limits import Host
from feeds.speech import (
    Action,
    Answer,
    Close,
    Dial,
    Fetch,
    Limits,
    Missed,
    Note,
    Pong,
    Reach,
    Rejected,
    Renew,
    Report,
    Send,
    Wake,
)
from tests.feeds.peers import PEERS, SYMBOLS, CoinbasePeer, KucoinPeer

MS = 1_000_000
S = 1_000_000_000
MINUTE = 60 * S
EXCHANGES = ("binance", "coinbase", "coinbase_exchange", "kucoin")
COUNTED = ("coinbase", "coinbase_exchange")


def limits(exchange: str, renew_ns: int = 0) -> Limits:
    peer = PEERS[exchange]
    return Limits(
        connect_ns=10 * S,
        acknowledge_ns=5 * S,
        silence_ns=30 * S,
        backoff_first_ns=S // 4,
        backoff_max_ns=30 * S,
        stable_ns=30 * S,
        messages=peer.messages,
        messages_span_ns=peer.span_ns,
        renew_ns=renew_ns,
    )


class World:
    """A machine, its exchange, the clock and the timer between them; every action is held to what must always be so."""

    def __init__(
        self,
        exchange: str,
        symbols: Iterable[str] = SYMBOLS[:3],
        *,
        dials: int = 300,
        batch: int = 100,
        capacity: int = 100,
        renew_ns: int = 0,
        seed: int = 1,
    ) -> None:
        self.peer = PEERS[exchange](batch, capacity)
        kept = limits(exchange, renew_ns)
        self.host = Host(dials, 5 * MINUTE, kept)
        self.machine = Connection(
            self.peer.protocol, kept, self.host, random.Random(seed), symbols, connection_id=f"{exchange} 1"
        )
        self.now = 1_000 * S
        self.wake: int | None = None
        self.log: list[tuple[int, Action]] = []
        self.socket = "none"
        self.held = self.started = self.stopped = False
        self.heard = 0
        self.most_dials = dials
        self.dialled: list[int] = []
        self.urls: list[str] = []

    @property
    def state(self) -> str:
        return self.machine.state

    def tell(self, what: str, *arguments: Any) -> list[Action]:
        """Give the machine one input; return its actions, but for Wake."""
        was_live = self.state == "live"
        if what == "opened" and self.socket == "dialling":
            self.socket, self.heard, self.held = "open", 0, False
            self.peer.open(self.now)
        elif what == "fetched" and self.socket == "fetching":
            self.socket = "none"
        elif (what in ("refused", "failed") and self.socket in ("fetching", "dialling")) or (
            what == "closed" and self.socket == "open"
        ):
            self._gone()
        elif what in ("hold", "resume"):
            self.held = what == "hold" and self.socket == "open"
        actions: list[Action] = getattr(self.machine, what)(*arguments, self.now)
        for action in actions:
            self.log.append((self.now, action))
            self._check(action, was_live)
        self.started = self.started or what == "start"
        if what == "stop":
            self.stopped, self.wake = True, None
        if self.started and self.state != "stopped" and not self.held:
            assert self.wake is not None, "something is due, and nobody will call"
        return [action for action in actions if not isinstance(action, Wake)]

    def deliver(self, frame: str) -> list[Action]:
        """Let a message come that holds no event."""
        answer: Answer | None = self.peer.protocol.read(frame.encode())
        return self.answer(answer)

    def answer(self, answer: Answer | None) -> list[Action]:
        self.heard += 1
        was_live = self.state == "live"
        actions = self.machine.answered(answer, self.now, self.heard)
        for action in actions:
            self.log.append((self.now, action))
            self._check(action, was_live)
        return [action for action in actions if not isinstance(action, Wake)]

    def advance(self) -> list[Action]:
        """Let the exchange do what it does when all is well."""
        done: list[Action] = []
        if self.socket == "fetching":
            assert isinstance(self.peer, KucoinPeer)
            done += self.tell("fetched", self.peer.bullet())
        if self.socket == "dialling":
            done += self.tell("opened")
        while self.socket == "open" and (self.peer.waiting or self.peer.pending):
            self.peer.answer()
            done += self.deliver_next()
        return done

    def deliver_next(self) -> list[Action]:
        frame = self.peer.pending.popleft()
        if '"welcome"' in frame:
            self.peer.is_greeted = True
        return self.deliver(frame)

    def spend(self, ns: int, *, heard: bool = False) -> list[Action]:
        """Let time pass, with the timer going off when it was asked to; with `heard`, market data comes all the time."""
        until = self.now + ns
        done: list[Action] = []
        calls = 0
        while self.wake is not None and self.wake <= until:
            calls += 1
            assert calls <= 20 + ns // (10 * MS), "it spins"
            self.now, self.wake = max(self.now, self.wake), None
            if heard:
                self.machine.last_heard = self.now
            done += self.tell("timer")
        self.now = until
        if heard:
            self.machine.last_heard = until
        return done

    def go_live(self) -> list[Action]:
        done = self.tell("start")
        for _ in range(100):
            done += self.advance()
            if self.state == "live":
                return done
            done += self.spend(S // 2, heard=True)
        raise AssertionError(f"{self.state}: {self.machine.detail}")

    def _check(self, action: Action, was_live: bool) -> None:
        assert not self.stopped, f"{action} after stop"
        match action:
            case Wake(at_ns):
                assert self.now < at_ns <= self.now + 4 * 24 * 60 * MINUTE
                self.wake = at_ns
            case Fetch():
                assert self.socket == "none"
                self.socket = "fetching"
            case Dial(url):
                assert self.socket == "none"
                self.socket = "dialling"
                self.urls.append(url)
                self.dialled.append(self.now)
                before = self.dialled[-self.most_dials - 1 : -self.most_dials]
                assert not before or before[0] <= self.now - 5 * MINUTE
            case Close():
                assert self.socket != "none"
                self._gone()
            case Send(text):
                assert self.socket == "open"
                self.peer.hear(text, self.now)
            case Pong():
                assert self.socket == "open"
                self.peer.say(self.now)
            case Renew(reason):
                assert was_live
                assert reason
            case Report("connected" | "recovered", _, detail):
                assert self.socket == "open"
                asked = [named for _, subscribes, _, named in self.peer.waiting if subscribes]
                assert self.peer.is_lossy or not asked, f"{detail}, but {asked} wait for their answers"
            case Report(_, _, detail) | Note(detail):
                assert detail
            case Missed(count):
                assert count > 0

    def _gone(self) -> None:
        self.socket = "none"
        self.peer.close()


def reports(actions: Iterable[Action]) -> list[tuple[str, str]]:
    return [(action.status, action.symbol) for action in actions if isinstance(action, Report)]


def sent(actions: Iterable[Action]) -> list[Any]:
    return [json.loads(action.text) for action in actions if isinstance(action, Send)]


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_it_goes_live_is_lost_and_comes_back(exchange: str) -> None:
    world = World(exchange)
    assert ("connected", "") in reports(world.go_live())
    for channel in world.peer.protocol.channels:
        assert world.peer.subscribed[channel] == set(SYMBOLS[:3])
    assert reports(world.tell("closed", 1006, "broke off")) == [("disconnected", "")]
    world.spend(S)
    assert ("connected", "") in reports(world.advance())
    assert world.machine.reconnects == 1
    assert world.state == "live"


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_lost_acknowledgement_keeps_it_from_being_live_and_ends_the_socket(exchange: str) -> None:
    world = World(exchange, batch=2)
    world.tell("start")
    if world.socket == "fetching":
        assert isinstance(world.peer, KucoinPeer)
        world.tell("fetched", world.peer.bullet())
    world.tell("opened")
    if world.peer.pending:
        world.deliver_next()
    world.peer.answer()
    lost = world.peer.pending.popleft()
    assert lost
    while world.peer.pending:
        assert ("connected", "") not in reports(world.deliver_next())
    assert world.state == "subscribing"
    done = world.spend(5 * S, heard=True)
    assert reports(done)[0] == ("disconnected", "")
    assert "no answer within 5 s to a request to subscribe to" in str(done)
    world.spend(S)
    assert ("connected", "") in reports(world.advance())


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_symbol_that_the_exchange_does_not_have_is_refused_by_name_and_the_others_go_on(exchange: str) -> None:
    world = World(exchange, SYMBOLS)
    world.peer.unknown = {SYMBOLS[4], SYMBOLS[9]}
    done = world.go_live()
    assert sorted(symbol for status, symbol in reports(done) if status == "failed") == [SYMBOLS[4], SYMBOLS[9]]
    assert set(world.machine.rejected) == world.peer.unknown
    assert "live with 10 of 12 symbols" in world.machine.detail
    for channel in world.peer.protocol.channels:
        assert world.peer.subscribed[channel] == set(SYMBOLS) - world.peer.unknown


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_half_open_tcp_is_stale_within_the_silence_and_then_recovers(exchange: str) -> None:
    world = World(exchange)
    world.go_live()
    done = world.spend(30 * S)  # not even pongs come
    assert ("stalled", "") in reports(done)
    assert any(isinstance(action, Close) for action in done)
    for _ in range(3):
        world.spend(S)
        done += world.advance()
    assert reports(done)[-1] == ("recovered", "")


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_connection_carries_no_more_symbols_than_the_exchange_allows(exchange: str) -> None:
    world = World(exchange, SYMBOLS[:4], capacity=3)
    assert ("failed", SYMBOLS[3]) in reports(world.go_live())
    assert world.machine.symbols == SYMBOLS[:3]
    said = [Report("failed", SYMBOLS[5], "no room: a connection carries at most 3 symbols")]
    assert world.tell("add", [SYMBOLS[5]]) == said
    # Who leaves makes room, and is gone from the socket before the next is asked for: the peer counts.
    world.tell("remove", [SYMBOLS[0]])
    assert reports(world.tell("add", [SYMBOLS[5]])) == []
    world.spend(2 * S)
    world.advance()
    assert world.peer.subscribed[world.peer.protocol.channels[0]] == {SYMBOLS[1], SYMBOLS[2], SYMBOLS[5]}


def test_kucoin_fetches_a_token_for_every_dial_and_says_nothing_before_the_welcome() -> None:
    world = World("kucoin")
    assert world.tell("start") == [Fetch("POST", "https://api.kucoin.com/api/v1/bullet-public")]
    assert world.state == "connecting"
    assert isinstance(world.peer, KucoinPeer)
    assert world.tell("opened") == []  # there is nothing that could be open
    assert world.tell("fetched", world.peer.bullet()) == [
        Dial("wss://ws-api-spot.kucoin.com/?token=token1&connectId=kucoin-1-1")
    ]
    assert world.tell("fetched", world.peer.bullet()) == []
    assert world.tell("opened") == []
    assert world.state == "subscribing"
    assert [message["topic"] for message in sent(world.deliver_next())] == [
        "/market/match:S0-USDT,S1-USDT,S2-USDT",
        "/market/ticker:S0-USDT,S1-USDT,S2-USDT",
    ]
    done = world.advance()
    assert "gaps of kucoin cannot be proved: its trade ids are not contiguous" in done[-1].detail  # type: ignore[union-attr]
    for number in range(2, 5):
        world.tell("closed", 1006, "")
        world.spend(3 * S)
        world.advance()
        assert f"token={'token'}{number + 1}" in world.urls[-1]
    assert len(set(world.urls)) == len(world.urls) == 4


def test_a_token_that_has_expired_is_replaced_at_once_but_not_over_and_over() -> None:
    world = World("kucoin")
    world.go_live()
    expired = '{"id":"660fd6c8","type":"error","code":401,"data":"token is expired"}'
    done = world.deliver(expired)
    assert [type(action) for action in done] == [Close, Report, Fetch]
    assert "the exchange turns the token down: token is expired (code 401); dialling anew at once" in str(done)
    tokens = world.peer.tokens  # type: ignore[union-attr]
    for _ in range(600):
        if world.socket == "fetching":
            world.tell("fetched", world.peer.bullet())  # type: ignore[union-attr]
            world.tell("opened")
            world.deliver(expired)
        world.spend(S)
    assert 10 < world.peer.tokens - tokens < 40  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "came nothing"),
        (b'{"code":"429000","msg":"too many requests"}', 'came {"code":"429000","msg":"too many requests"}'),
        (b"<html>maintenance</html>", "came <html>maintenance</html>"),
        (b'{"code":"200000","data":{"token":"t","instanceServers":[]}}', '"instanceServers":[]'),
    ],
)
def test_an_answer_without_an_address_says_what_was_expected_and_what_came(body: bytes, said: str) -> None:
    world = World("kucoin")
    world.tell("start")
    assert reports(world.tell("fetched", body)) == [("failed", "")]
    assert world.machine.detail.startswith("https://api.kucoin.com/api/v1/bullet-public: expected code 200000 and data")
    assert said in world.machine.detail
    assert [type(action) for action in world.spend(S)] == [Fetch]


@pytest.mark.parametrize(("status", "state"), [(404, "failed"), (429, "waiting"), (418, "waiting"), (503, "waiting")])
def test_a_fetch_that_is_refused_waits_like_a_dial(status: int, state: str) -> None:
    world = World("kucoin")
    world.tell("start")
    world.tell("refused", status, f"expected 200, came {status}", 20 * S if status == 418 else None)
    assert world.state == state
    assert not world.dialled
    if status == 418:
        assert world.spend(19 * S) == []
    assert Fetch in map(type, world.spend(30 * S))


def test_a_fetch_or_a_greeting_that_does_not_come_is_a_failure() -> None:
    world = World("kucoin")
    world.tell("start")
    done = world.spend(10 * S)
    assert [type(action) for action in done] == [Close, Report]
    assert "https://api.kucoin.com: no answer within 10 s" in world.machine.detail
    world.spend(S)
    world.tell("fetched", world.peer.bullet())  # type: ignore[union-attr]
    world.tell("opened")
    world.peer.pending.clear()
    assert reports(world.spend(10 * S, heard=True)) == [("failed", "")]
    assert "no greeting within 10 s of the dial" in world.machine.detail


def test_kucoin_is_pinged_every_interval_however_busy_the_feed_is() -> None:
    world = World("kucoin")
    world.go_live()
    began = world.now
    for _ in range(10 * 60 * 2):
        world.spend(S // 2, heard=True)
        world.advance()
    pings = world.peer.pings  # type: ignore[union-attr]
    assert [at - began for at in pings] == [18 * S * number for number in range(1, 34)]
    assert world.state == "live"


def test_a_ping_without_a_pong_is_a_stall_even_if_data_comes() -> None:
    world = World("kucoin")
    world.go_live()
    assert reports(world.spend(28 * S - 1, heard=True)) == []
    assert reports(world.spend(1, heard=True)) == [("stalled", "")]
    assert "no answer to a ping for 10 s" in world.machine.detail
    assert world.state == "stale"


def test_who_does_not_read_cannot_miss_a_pong_or_a_greeting() -> None:
    world = World("kucoin")
    world.go_live()
    world.spend(20 * S, heard=True)
    world.tell("hold")
    world.spend(5 * MINUTE)
    world.tell("resume")
    assert reports(world.spend(8 * S - 1, heard=True)) == []  # 2 of the 10 s had passed
    assert reports(world.spend(1, heard=True)) == [("stalled", "")]
    world.tell("closed", 1006, "")


def test_coinbase_asks_for_heartbeats_first_and_for_one_channel_a_message() -> None:
    world = World("coinbase", batch=2)
    world.tell("start")
    assert [(message["channel"], message.get("product_ids")) for message in sent(world.tell("opened"))] == [
        ("heartbeats", None),
        ("market_trades", ["S0-USDT", "S1-USDT"]),
        ("market_trades", ["S2-USDT"]),
        ("ticker", ["S0-USDT", "S1-USDT"]),
        ("ticker", ["S2-USDT"]),
    ]


def test_the_messages_of_all_coinbase_sockets_are_counted_together() -> None:
    kept = limits("coinbase")
    host = Host(300, 5 * MINUTE, kept)
    machines = [
        Connection(CoinbasePeer().protocol, kept, host, random.Random(number), SYMBOLS[:2]) for number in range(4)
    ]
    said = [action for machine in machines for action in (*machine.start(S), *machine.opened(S))]
    assert len(sent(said)) == 8
    assert [machine.waiting_messages for machine in machines] == [False, False, True, True]
    later = [action for machine in machines for action in machine.timer(S + 1_255 * MS)]
    assert len(sent(later)) == 4


def heartbeat(sequence_num: int) -> str:
    event = {"current_time": "2026-08-09 21:05:48.854840045 +0000 UTC m=+41691.26", "heartbeat_counter": 41691}
    return json.dumps({"channel": "heartbeats", "sequence_num": sequence_num, "events": [event]})


def test_messages_that_never_came_are_counted_once_for_each_socket() -> None:
    world = World("coinbase")
    world.go_live()
    heard = world.heard
    assert world.deliver(heartbeat(heard)) == []  # counted from 0
    assert world.deliver(heartbeat(heard + 4)) == [Missed(3)]
    assert world.deliver(heartbeat(heard + 5)) == []
    assert world.deliver(heartbeat(heard + 7)) == [Missed(1)]
    assert world.deliver(heartbeat(0)) == []  # the exchange counts anew
    assert world.deliver(heartbeat(2)) == [Missed(1)]
    assert world.machine.missed == 5
    world.tell("closed", 1006, "")
    world.spend(S)
    world.advance()
    assert world.deliver(heartbeat(world.heard)) == []


def test_a_heartbeat_of_the_exchange_feed_says_how_far_its_trades_are() -> None:
    world = World("coinbase_exchange")
    world.go_live()
    frame = '{"type":"heartbeat","sequence":90,"last_trade_id":20,"product_id":"S1-USDT","time":"2026-08-09T21:05:48Z"}'
    assert world.deliver(frame) == [Reach("S1/USDT", 20)]
    assert world.deliver(frame.replace("S1-", "NOBODY-")) == []


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_connection_is_renewed_before_its_age_is_up_and_not_with_all_others(exchange: str) -> None:
    ages = set()
    for seed in range(8):
        world = World(exchange, renew_ns=80 * MINUTE, seed=seed)
        world.go_live()
        asked: list[Action] = []
        while not asked:
            asked = [action for action in world.spend(S, heard=True) if isinstance(action, Renew)]
            world.advance()
        ages.add(world.now - world.machine.connected_at)
        assert 75 * MINUTE <= world.now - world.machine.connected_at <= 80 * MINUTE + S
        for _ in range(3):  # it asks once, and goes on until it is told otherwise
            world.advance()
            assert world.spend(10 * S, heard=True) == [] or exchange == "kucoin"
        assert world.state == "live"
    assert len(ages) == 8


def test_who_asks_for_a_renewal_gets_one_as_long_as_there_is_something_to_hand_over() -> None:
    world = World("binance")
    assert world.tell("renew", "streams are mute") == []
    world.go_live()
    assert world.tell("renew", "streams are mute") == [Renew("streams are mute")]
    world.tell("retire")
    assert world.tell("renew", "again") == []


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_connection_with_a_successor_stops_once_its_socket_is_lost(exchange: str) -> None:
    world = World(exchange, renew_ns=MINUTE)
    world.go_live()
    assert world.tell("retire") == []
    for _ in range(12):
        world.spend(10 * S, heard=True)  # past the age at which it would be renewed
        assert not [action for action in world.advance() if isinstance(action, Renew)]
    assert world.state == "live"
    assert world.tell("closed", 1001, "going away") == []
    assert world.state == "stopped"
    assert world.machine.start(world.now) == []
    waiting = World(exchange)
    waiting.go_live()
    waiting.tell("closed", 1006, "")
    assert waiting.tell("retire") == []
    assert waiting.state == "stopped"


SAID = (
    "",
    "7",
    "[]",
    '"text"',
    "{}",
    '{"result":null,"id":1000000}',
    '{"id":"1000000","type":"ack"}',
    '{"id":"x","type":"ack"}',
    '{"type":"status"}',
    '{"channel":"candles"}',
    '{"e":"kline"}',
    '{"type":"error","message":"slow down"}',
    '{"code":3,"msg":"Invalid JSON"}',
    '{"id":"x","type":"error","code":500}',
    '{"e":"serverShutdown","E":1}',
    '{"id":"u","type":"error","code":401,"data":"token is expired"}',
)
"""What may come at any time: each is something to some exchange, and nonsense to the others."""
STEPS = st.one_of(
    st.sampled_from(["advance"] * 6 + ["answer", "refuse", "deliver", "lose", "heard", "fetched", "opened"]),
    st.sampled_from(
        ["start", "hold", "resume", "timer", "renew", "pinged", "failed", "closed", "too many", "heartbeat"]
    ),
    st.sampled_from([404, 429, 418, 503, 200]),
    st.sampled_from(SAID),
    st.integers(0, 80).map(lambda halves: ("spend", halves * S // 2)),
    st.integers(0, 300).map(lambda ms: ("spend", ms * MS)),
    st.tuples(st.sampled_from(["add", "remove"]), st.sampled_from(SYMBOLS)),
)


def step(world: World, what: Any) -> None:
    peer = world.peer
    match what:
        case "advance":
            world.advance()
        case "answer" | "refuse" if peer.waiting:
            if what == "answer":
                peer.accept()
            else:
                peer.refuse()
        case "deliver" if peer.pending and world.socket == "open":
            world.deliver_next()
        case "lose" if peer.pending:
            peer.pending.popleft()
            peer.is_lossy = True
        case "heard":
            world.machine.last_heard = world.now
        case "fetched":
            world.tell("fetched", b"{}")
        case "opened" | "start" | "hold" | "resume" | "timer":
            world.tell(what)
        case "renew":
            world.tell("renew", "asked")
        case "pinged":
            world.tell("pinged", b"payload")
        case "failed":
            world.tell("failed", "connection refused")
        case "closed":
            world.tell("closed", 1006, "broke off")
        case "too many":
            world.tell("closed", 1008, "Too many requests")
        case "heartbeat":
            world.deliver(heartbeat(world.heard + 2))
        case int():
            world.tell("refused", what, f"came {what}", 7 * S if what == 418 else None)
        case str() if what in SAID:
            if isinstance(peer.protocol.read(what.encode()), Rejected):
                peer.is_lossy = True
            world.deliver(what)
        case ("spend", ns):
            world.spend(ns)
        case (str(), symbol):
            world.tell(what[0], [symbol])


ANYTHING = (
    st.sampled_from(EXCHANGES),
    st.lists(STEPS, max_size=80),
    st.integers(1, 4),
    st.integers(2, 6),
    st.integers(0, 3),
)


def comes_back(exchange: str, steps: list[Any], batch: int, dials: int, seed: int) -> None:
    world = World(exchange, dials=dials, batch=batch, capacity=6, renew_ns=MINUTE, seed=seed)
    world.tell("start")
    for what in steps:
        step(world, what)
    # From here on the exchange behaves: within a round of the limit of dials and a wait at the cap, all is well.
    world.tell("resume")
    for _ in range(400):
        world.advance()
        world.spend(S, heard=True)
    world.advance()
    assert world.state == "live"
    peer, wanted = world.peer, set(world.machine.symbols)
    for channel in peer.protocol.channels:
        assert wanted - set(world.machine.rejected) <= peer.subscribed[channel]
        assert peer.is_lossy or peer.subscribed[channel] <= wanted
    assert set(map(type, world.tell("stop"))) == {Close}
    for what in steps[:20]:
        if what not in ("advance", "answer", "refuse", "deliver", "lose"):
            step(world, what)  # any action is an error
    assert world.state == "stopped"


@settings(max_examples=250)
@given(*ANYTHING)
def test_whatever_happens_its_limits_hold_and_it_comes_back(
    exchange: str, steps: list[Any], batch: int, dials: int, seed: int
) -> None:
    comes_back(exchange, steps, batch, dials, seed)


@pytest.mark.soak
@settings(max_examples=20_000)
@given(*ANYTHING)
def test_whatever_happens_for_longer_its_limits_hold_and_it_comes_back(
    exchange: str, steps: list[Any], batch: int, dials: int, seed: int
) -> None:
    comes_back(exchange, steps, batch, dials, seed)


@settings(max_examples=50)
@given(st.sampled_from(EXCHANGES), st.lists(STEPS, max_size=60), st.integers(0, 3))
def test_equal_inputs_give_equal_actions(exchange: str, steps: list[Any], seed: int) -> None:
    first, second = World(exchange, seed=seed), World(exchange, seed=seed)
    for world in (first, second):
        world.tell("start")
        for what in steps:
            step(world, what)
    assert first.log == second.log


@settings(max_examples=100)
@given(st.sampled_from(EXCHANGES), st.lists(STEPS, max_size=40), st.lists(STEPS, max_size=40))
def test_a_retired_connection_never_dials_again(exchange: str, before: list[Any], after: list[Any]) -> None:
    world = World(exchange, renew_ns=MINUTE)
    world.tell("start")
    for what in before:
        step(world, what)
    world.tell("retire")
    dials = len(world.dialled)
    for what in after:
        step(world, what)
    world.tell("closed", 1006, "")
    assert len(world.dialled) == dials
    assert world.state == "stopped"
