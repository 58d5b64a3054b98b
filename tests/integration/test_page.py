"""The page in a real browser: over the real server, and a fold that recorded ticks are pushed into as time goes by.

Waiting is for what the page shows, with a deadline. The browser is one for all tests; each test has a daemon and a window of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
import itertools
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest
import pytest_asyncio
from aiohttp import ClientSession
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from engine.events import FeatureEvent, FeedStatus, Gap, Signal
from engine.serving import page as page_module
from engine.serving.frames import Frames
from engine.serving.page import UPLOT_SHA256, find_uplot
from engine.serving.server import Server, serve
from strategies import Strategy
from strategies.moving_average_cross import MovingAverageCross
from strategies.order_flow_imbalance import OrderFlowImbalance
from tests.folding import recorded
from tests.serving import Daemon

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
LAPTOP, PHONE = (1440, 900), (390, 844)
DEADLINE_MS = 10_000
TOGETHER_S = 0.04  # rows so close to one another are folded together
HISTORY = 6_000  # rows of the recording that were folded before anybody looks
BTC, ETH = "#binance:BTC/USDT", "#binance:ETH/USDT"

pytestmark = pytest.mark.asyncio(loop_scope="module")


class LiveDaemon(Daemon):
    """Folds the recording at its own pace, its times moved to now."""

    def __init__(self, folder: Path, *strategies: Any, history: int = HISTORY, **server: Any) -> None:
        super().__init__(folder, *strategies, **server)
        self.next = 0
        self.fold.keys, self.block = recorded()
        self.due = np.maximum.accumulate(self.block.timestamp)
        self.shift = self.clock.now() - int(self.due[max(history - 1, 0)])
        self.push_until(history)

    def push_until(self, stop: int) -> None:
        """Fold rows up to one; what came before now was received when it was due."""
        while self.next < stop:
            part = self.block.take(slice(self.next, min(self.next + 256, stop)))
            now = self.clock.now()
            times = {"timestamp": part.timestamp + self.shift, "received": np.minimum(part.timestamp + self.shift, now)}
            self.fold.push(msgspec.structs.replace(part, **times))
            self.latency.add(max(self.clock.now() - now, 1) // len(part), times=len(part))
            self.next += len(part)

    async def run(self) -> None:
        """Fold what is due, until cancelled or at the recording's end."""
        while self.next < len(self.block):
            self.push_until(int(np.searchsorted(self.due, self.clock.now() - self.shift)))
            self.feed = msgspec.structs.replace(self.feed, newest=self.clock.now(), messages=self.next)
            await self.some_are_due()

    async def some_are_due(self) -> None:
        """Wait until the rows are due that the recording holds up to a moment after its next one."""
        if self.next == len(self.block):
            return
        due = asyncio.Event()
        wait_s = (int(self.due[self.next]) + self.shift - self.clock.now()) / 1e9 + TOGETHER_S
        timer = asyncio.get_running_loop().call_later(max(wait_s, 0.0), due.set)
        try:
            await due.wait()
        finally:
            timer.cancel()


class Window:
    """A page of the browser, and all that went wrong in it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.faults: list[str] = []
        self.expected = re.compile(r"WebSocket connection to 'ws://127\.0\.0\.1:\d+/stream.* failed")
        page.set_default_timeout(DEADLINE_MS)
        page.on("console", lambda said: self.note(said.type, said.text))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self.request(request.url))
        page.on("websocket", lambda socket: self.request(socket.url))

    def note(self, kind: str, text: str) -> None:
        # The browser itself says so when nobody answers at the daemon's port.
        if kind in ("error", "warning") and not self.expected.search(text):
            self.faults.append(text)

    def request(self, url: str) -> None:
        if urlsplit(url).netloc != urlsplit(self.url).netloc:
            self.faults.append(f"request to {url}")

    async def open(self, hash_: str = BTC) -> Window:
        await self.page.goto(f"{self.url}/{hash_}")
        await self.until("() => document.body.dataset.sequence !== undefined")
        return self

    async def until(self, script: str, arg: Any = None, timeout_ms: float = DEADLINE_MS) -> None:
        """Wait until a function of JavaScript returns something true."""
        await self.page.wait_for_function(script, arg=arg, timeout=timeout_ms)

    async def shows(self, selector: str, text: str, timeout_ms: float = DEADLINE_MS) -> None:
        """Wait until an element that is seen holds a text."""
        await self.until(
            """([selector, text]) => [...document.querySelectorAll(selector)].some(
                (found) => found.checkVisibility() && found.innerText.includes(text))""",
            [selector, text],
            timeout_ms,
        )

    async def sequence(self) -> int:
        return int(await self.page.evaluate("() => Number(document.body.dataset.sequence)"))

    async def picture(self, pane: str = "price") -> str:
        """A pane's pixels, as text."""
        found: str = await self.page.evaluate(
            "(pane) => document.querySelector(`[data-pane=${pane}] canvas`).toDataURL()", pane
        )
        return found

    async def inked(self) -> dict[str, float]:
        """The share of pixels that are drawn on, by pane."""
        found: dict[str, float] = await self.page.evaluate(
            """() => Object.fromEntries([...document.querySelectorAll("[data-pane]")].map((pane) => {
                const canvas = pane.querySelector("canvas");
                const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                let count = 0;
                for (let at = 3; at < data.length; at += 4) count += data[at] > 0;
                return [pane.dataset.pane, count / (canvas.width * canvas.height)];
            }))"""
        )
        return found

    async def overflow(self) -> int:
        """By how many px the page is wider than its window."""
        found: int = await self.page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
        return found


class Stage:
    """What a test plays on: it starts daemons and opens windows, and all ends with it."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self.browser = browser
        self.folder = folder
        self.ends = contextlib.AsyncExitStack()
        self.windows: list[Window] = []
        self.server: Server | None = None

    async def daemon(
        self, *strategies: Any, history: int = HISTORY, live: bool = True, port: int = 0, **more: Any
    ) -> LiveDaemon:
        daemon = LiveDaemon(self.folder, *strategies, history=history, port=port, **more)
        self.server = await serve(daemon)
        self.ends.push_async_callback(self.server.stop)
        if live:
            task = asyncio.create_task(daemon.run())
            self.ends.push_async_callback(_end, task)
        return daemon

    async def window(self, size: tuple[int, int] = LAPTOP, **options: Any) -> Window:
        context: BrowserContext = await self.browser.new_context(
            viewport={"width": size[0], "height": size[1]}, **{"color_scheme": "dark", **options}
        )
        self.ends.push_async_callback(context.close)
        assert self.server is not None
        self.windows.append(Window(await context.new_page(), self.server.url))
        return self.windows[-1]


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.fail(
            f"the page is tested in a browser: expected one of {', '.join(BROWSERS)}; `apt-get install chromium`"
        )
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def stage(browser: Browser, tmp_path: Path) -> AsyncIterator[Stage]:
    made = Stage(browser, tmp_path)
    async with made.ends:
        yield made
        # Whatever a test looks at: nothing is fetched elsewhere, nothing refused by the policy, nothing thrown.
        assert [fault for window in made.windows for fault in window.faults] == []


# It draws, moves and answers --------------------------------------------------------------------------------------------------


async def test_it_draws_and_moves(stage: Stage) -> None:
    await stage.daemon()
    window = await (await stage.window()).open()
    assert await window.page.evaluate("() => typeof uPlot") == "function"
    for pane, share in (await window.inked()).items():
        assert share > 0.01, pane
    first, picture = await window.sequence(), await window.picture()
    await window.until("(first) => Number(document.body.dataset.sequence) > first", first)
    await window.until("(old) => document.querySelector('[data-pane=price] canvas').toDataURL() !== old", picture)
    await window.shows("#connection", "live")
    await window.shows("#recording", "recording")
    await window.until("() => /^[1-9]/.test(document.querySelector('#ticks').textContent)")
    await window.until("() => /s \\/ .*s$/.test(document.querySelector('#latency').textContent)")
    await window.until("() => /^[0-9.]+ (µs|ms)$/.test(document.querySelector('#delay').textContent)")
    await window.until("() => /^[0-9:]{8}$/.test(document.querySelector('#clock').textContent)")


async def test_a_symbol_is_chosen_by_keyboard_and_remembered_in_the_address(stage: Stage) -> None:
    await stage.daemon()
    window = await (await stage.window()).open("")
    picture = await window.picture()
    keyboard = window.page.keyboard
    await keyboard.press("/")
    await keyboard.type("ethus")
    assert await window.page.locator("#symbols [role=option]").all_inner_texts() == ["ETH/USDT\nbinance"]
    await keyboard.press("Enter")
    await window.until("() => /^2,6/.test(document.querySelector('#price').textContent)")
    assert window.page.url.endswith(ETH)
    assert await window.picture() != picture
    await window.page.reload()
    await window.until("() => /^2,6/.test(document.querySelector('#price').textContent)")
    assert await window.page.input_value("#symbol") == "ETH/USDT"
    await keyboard.press("/")
    await keyboard.press("ArrowUp")
    await keyboard.press("Enter")
    await window.until("() => /^61,/.test(document.querySelector('#price').textContent)")


async def test_bars_and_ticks_can_be_chosen_and_dragging_zooms(stage: Stage) -> None:
    await stage.daemon(live=False)
    window = await (await stage.window()).open()
    await window.shows(".pane-price .legend", "Close")
    bars = await window.picture()
    await window.page.locator("#interval label").nth(1).click()
    await window.shows(".pane-price .legend", "Price")
    ticks = await window.picture()
    assert ticks != bars
    mouse = window.page.mouse
    await mouse.move(300, 300)
    await mouse.down()
    await mouse.move(600, 310, steps=4)
    await mouse.up()
    await window.shows("#unzoom", "Reset zoom")
    assert await window.picture() != ticks
    await window.page.locator("#unzoom").click()
    await mouse.move(5, 5)
    await window.until("(old) => document.querySelector('[data-pane=price] canvas').toDataURL() === old", ticks)


async def test_a_thousand_symbols_are_found_by_typing(stage: Stage) -> None:
    daemon = await stage.daemon(live=False)
    symbols = tuple(f"C{number:03}/USDT" for number in range(1_000))
    daemon.feed = msgspec.structs.replace(daemon.feed, symbols=symbols)
    window = await (await stage.window()).open()
    await window.page.locator("#symbol").click()
    await window.shows("#symbols", "more: type to find them")
    assert await window.page.locator("#symbols li").count() < 100
    await window.page.keyboard.type("c987")
    assert await window.page.locator("#symbols [role=option]").all_inner_texts() == ["C987/USDT\nbinance"]
    await window.page.keyboard.press("Enter")
    await window.shows("#veil", "No data yet for C987/USDT")


# It says what is ----------------------------------------------------------------------------------------------------------------


class Broken(Strategy):
    """Raises at each bar."""

    subscribes = ["technical_1s"]  # noqa: RUF012

    def on_features(self, event: FeatureEvent) -> None:
        raise ValueError(f"cannot stand {event.symbol}")


async def test_it_shows_signals_strategies_stalled_feeds_gaps_and_alarms(stage: Stage) -> None:
    daemon = await stage.daemon(MovingAverageCross(), OrderFlowImbalance(), Broken(), history=0, live=False)
    window = await (await stage.window()).open()
    daemon.push_until(4_000)
    await window.shows("#strategies .card-bad", "broken")
    await window.shows("#strategies .card-bad", "parked")
    await window.shows("#strategies .card-bad .error", "ValueError: cannot stand")
    await window.shows("#signals", "takers")
    now = daemon.clock.now()
    daemon.report(Gap("binance", "BTC/USDT", 4, 8, 5, 0, now, now, 1))
    daemon.report(FeedStatus("binance", "BTC/USDT", "stalled", "no trade for 31 s", now, now, 1))
    daemon.journal_state = msgspec.structs.replace(
        daemon.journal_state, state="not journaling", detail="No space left on device"
    )
    await window.shows("#news", "5 trades missing, ids 4 to 8")
    await window.shows("#feeds", "no trade for 31 s")
    await window.shows("#connection", "BTC/USDT stalled")
    await window.shows("#alarm", "No space left on device")
    daemon.report(FeedStatus("binance", "BTC/USDT", "recovered", "", now, now, 1))
    daemon.feed = msgspec.structs.replace(daemon.feed, state="waiting", detail="connection refused")
    await window.shows("#connection", "binance 1 waiting")
    await window.shows("#feeds .error", "connection refused")


async def test_it_shows_what_was_lost_and_what_an_exchange_does_not_list(stage: Stage) -> None:
    daemon = await stage.daemon(live=False)
    none = daemon.exchange = msgspec.structs.replace(daemon.exchange, gaps_open=0, trades_filled=0, trades_lost=0)
    window = await (await stage.window()).open()
    await window.shows("#feeds", "binance 1")
    assert await window.page.locator("#feeds .exchange-line").count() == 0
    daemon.exchange = msgspec.structs.replace(none, gaps_open=1, trades_filled=415)
    await window.shows("#feeds .exchange-line.faint", "binance filled 415 · lost 0 · 1 gap open")
    daemon.exchange = msgspec.structs.replace(daemon.exchange, trades_lost=205, unlisted=("ETH/USDT",))
    await window.shows("#feeds .exchange-line.error", "binance filled 415 · lost 205 · 1 gap open")
    await window.shows("#feeds .exchange-line.warn", "not listed: ETH/USDT")
    now = daemon.clock.now()
    for symbol in ("ETH/USDT", "BTC/USDT"):
        daemon.report(FeedStatus("binance", symbol, "failed", "why", now, now, 1))
    await window.shows("#feeds .row-bad", "BTC/USDT")
    assert await window.page.locator("#feeds .row-bad").count() == 1  # what is not listed is said already
    daemon.exchange = none
    await window.until("() => !document.querySelector('#feeds .exchange-line')")


async def test_on_a_phone_events_are_read_to_their_end(stage: Stage) -> None:
    daemon = await stage.daemon(live=False)
    now = daemon.clock.now()
    daemon.report(FeedStatus("binance", "BTC/USDT", "lost", f"trades 4 to 8 lost: {'because ' * 20}", now, now, 1))
    window = await (await stage.window(PHONE, has_touch=True, is_mobile=True)).open()
    await window.shows("#news", "because")
    cut = "() => [...document.querySelectorAll('#news .grow')].some((text) => text.scrollWidth > text.clientWidth)"
    assert not await window.page.evaluate(cut)
    assert await window.overflow() <= 0


async def test_the_reason_of_a_signal_is_shown_where_the_pointer_is(stage: Stage) -> None:
    daemon = await stage.daemon(live=False)
    row = daemon.fold.features.latest("technical_1s", "binance", "BTC/USDT")
    assert row is not None
    at = row.timestamp
    daemon.report(Signal("mine", "binance", "BTC/USDT", 1.0, "the <b>reason</b>", at, at, row.sequence))
    window = await (await stage.window()).open()
    await window.shows("#signals", "the <b>reason</b>")
    box = await window.page.locator("[data-pane=price]").bounding_box()
    assert box is not None
    # The newest row lies 2 % before the end of the plot, whose axis takes 66 px; the mark is somewhere in its column.
    x = box["x"] + (box["width"] - 66) / 1.02
    for y in range(10, int(box["height"]), 10):
        await window.page.mouse.move(x, box["y"] + y)
        if await window.page.locator("#tip").is_visible():
            break
    tip = await window.page.locator("#tip").inner_text()
    assert "BUY mine" in tip
    assert "the <b>reason</b>" in tip


async def test_in_the_first_moments_it_says_one_thing(stage: Stage) -> None:
    daemon = await stage.daemon()
    daemon.feed = msgspec.structs.replace(daemon.feed, newest=daemon.clock.now())
    window = await stage.window()
    # Each picture of the screen from the first on: the pill, the veil, the feeds.
    await window.page.add_init_script(
        """window.said = [];
        const look = () => {
            const text = (id) => document.querySelector(id)?.innerText.replace(/\\s+/g, " ").trim() ?? "";
            const now = [text("#connection"), text("#veil"), text("#feeds .body").slice(0, 14)].join(" / ");
            if (document.body && window.said.at(-1) !== now) window.said.push(now);
            requestAnimationFrame(look);
        };
        requestAnimationFrame(look);"""
    )
    await window.open()
    await window.shows("#connection", "live")
    said = await window.page.evaluate("() => window.said")
    assert said[-1] == "live /  / binance 1 live"
    assert set(said) <= {"connecting /  / ", "connecting / Connecting to the daemon / ", said[-1]}


@pytest.mark.parametrize(
    ("history", "texts"),
    [
        (0, {"#veil": "No trades yet", "#signals": "None for this symbol yet", "#news": "No gaps"}),
        (40, {".pane-macd .warming": "MACD is warming up"}),
    ],
)
async def test_it_says_what_it_waits_for(stage: Stage, history: int, texts: dict[str, str]) -> None:
    daemon = await stage.daemon(history=0, live=False)
    daemon.feed = msgspec.structs.replace(daemon.feed, newest=daemon.clock.now())
    daemon.push_until(history)
    window = await (await stage.window()).open("")
    for selector, text in texts.items():
        await window.shows(selector, text)
    daemon.not_ready = "folding the journal: 40 %"
    await window.shows("#connection span", "folding the journal: 40 %")


# It knows one time from another --------------------------------------------------------------------------------------------------


async def test_after_ticks_of_another_year_the_charts_show_now_and_what_was_earlier_by_its_date(stage: Stage) -> None:
    daemon = await stage.daemon(history=0, live=False)
    shift, daemon.shift = daemon.clock.now() - int(daemon.due[3_299]), 0
    daemon.push_until(3_000)  # on their own day, in August 2024
    daemon.shift = shift
    daemon.push_until(3_300)  # the ring holds 512: some of both
    window = await (await stage.window()).open()
    box = await window.page.locator("[data-pane=price]").bounding_box()
    assert box is not None

    async def time_at(share: float) -> str:
        await window.page.mouse.move(box["x"] + (box["width"] - 66) * share, box["y"] + 200)
        return await window.page.locator(".cross-tag-x").inner_text()

    for interval in (0, 1):
        await window.page.locator("#interval label").nth(interval).click()
        await window.shows("#earlier", "Earlier: 2024-08-08")
        assert [re.sub(r"[0-9.]+", "0", await time_at(share)) for share in (0.02, 0.95)] == ["0:0:0"] * 2
        await window.page.locator("#earlier").click()
        await window.until("() => document.querySelector('#earlier').hidden")
        assert [(await time_at(share))[:11] for share in (0.02, 0.95)] == ["2024-08-08 "] * 2
        await window.page.locator("#unzoom").click()


@pytest.mark.parametrize("wheel", [page_module.WHEEL, "no-such-wheel"])
async def test_no_line_is_drawn_over_an_outage(stage: Stage, monkeypatch: pytest.MonkeyPatch, wheel: str) -> None:
    monkeypatch.setattr(page_module, "WHEEL", wheel)
    daemon = await stage.daemon(history=0, live=False)
    daemon.shift = daemon.clock.now() - int(daemon.due[8_999]) - 180_000_000_000
    daemon.push_until(5_000)
    daemon.shift += 180_000_000_000
    daemon.push_until(9_000)
    window = await (await stage.window()).open()
    # Which of a hundred columns hold ink of the price's line, which is the brightest that there is.
    columns = await window.page.evaluate(
        """() => {
            const canvas = document.querySelector("[data-pane=price] canvas");
            const { data, width } = canvas.getContext("2d").getImageData(0, 0, canvas.width - 68, canvas.height);
            const found = new Set();
            for (let at = 0; at < data.length; at += 4) {
                if (Math.min(data[at], data[at + 1], data[at + 2]) > 180 && data[at + 3] > 200) {
                    found.add(Math.floor((((at / 4) % width) / width) * 100));
                }
            }
            return [...found].sort((a, b) => a - b);
        }"""
    )
    holes = [after - before for before, after in itertools.pairwise(columns)]
    assert max(holes) > 40
    assert sorted(holes)[-2] < 4


async def test_rows_are_parted_at_holes_by_their_usual_distance(stage: Stage) -> None:
    await stage.daemon(history=0, live=False)
    window = await (await stage.window()).open("")
    found = await window.page.evaluate(
        """async () => {
            const { Series } = await import(new URL("series.js", document.querySelector("[type=module]").src));
            return [[1, 61], [1, 62], [1, 601, 1], [60, 1700], [60, 1900]].map(([usual, hole, lone]) => {
                const times = [...Array(20).keys()].map((row) => row * usual * 1000);
                times.push(times[19] + hole * 1000);
                if (lone) times.push(times[20] + 700000, times[20] + 701000);
                const series = new Series();
                series.append({ time_ms: times, price: times });
                const { columns, holes, lone: single } = series.drawn;
                return [[...holes], single, series.stretches, columns.price.length, columns.price.filter((at) => at === null).length];
            });
        }"""
    )
    assert found == [
        [[20], [21], [[0, 20]], 22, 1],
        [[20], [21], [[0, 20]], 22, 1],
        [[20, 22], [21], [[0, 19], [20, 20], [21, 22]], 25, 2],
        [[], [], [[0, 20]], 21, 0],
        [[20], [21], [[0, 19], [20, 20]], 22, 1],
    ]


async def test_the_axis_of_time_is_written_over_any_range(stage: Stage) -> None:
    await stage.daemon(history=0, live=False)
    window = await (await stage.window()).open("")
    second, day = 1_000, 86_400_000
    ranges = [5, 300, 7 * second, 100 * second, 5_000 * second, day, 3 * day, 30 * day, 140 * day, 500 * day]
    ranges += [5_000 * day, 100_000 * day]
    written = await window.page.evaluate(
        """async (ranges) => {
            const { roundTimes, timeLabels } = await import(new URL("axis.js", document.querySelector("[type=module]").src));
            const max = Date.UTC(2025, 5, 21, 12, 38, 31, 17);
            return ranges.map((range) => {
                const view = { min: max - range, max };
                const times = roundTimes(view.min, max, 900);
                const at = (ms) => ((ms - view.min) / range) * 900;
                const told = (now) => timeLabels(times, at, 900, { view, now });
                return [told(max), told(Date.UTC(2026, 1, 1))];
            });
        }""",
        ranges,
    )
    for today, later in written:
        shown = [text for text in later if text]
        assert 2 <= len(shown) <= 9
        assert all(one != other for one, other in itertools.pairwise(shown))
        assert re.match(r"\d{4}", shown[0])  # of another day: with the date
        assert len(today) == len(later)
    assert [[text for text in today if text][1] for today, _ in written] == [
        "12:38:31.014",
        "12:38:30.80",
        "12:38:26",
        "12:37:15",
        "11:45",
        "20:00",
        "12:00",
        "2025-06-02",
        "2025-04",
        "2024-07",
        "2014",
        "1850",
    ]
    crossing = [text for text in written[5][0] if text]
    assert crossing[0].startswith("2025-06-20 ")
    assert "2025-06-21" in crossing


async def test_what_happened_on_another_day_stands_under_its_date(stage: Stage) -> None:
    daemon = await stage.daemon(live=False)
    now, then = daemon.clock.now(), 1_723_161_255_342_000_000  # in 2024
    window = await (await stage.window()).open()
    for at in (then, now):
        daemon.report(Signal("mine", "binance", "BTC/USDT", 1.0, f"of {at}", at, at, 1))
        daemon.report(Gap("binance", "BTC/USDT", 4, 8, 5, 0, at, at, 1))
    await window.shows("#signals", f"of {now}")
    for panel in ("#signals", "#news"):
        rows = await window.page.locator(f"{panel} .body > *").all_inner_texts()
        assert [row.startswith("23:54:15") for row in rows].index(True) == rows.index("2024-08-08") + 1
        assert len(rows) == 3


# It loses the daemon, and finds it again ----------------------------------------------------------------------------------------


async def test_it_says_disconnected_and_comes_back_after_a_restart_with_another_history(stage: Stage) -> None:
    await stage.daemon()
    window = await (await stage.window()).open()
    await window.page.evaluate("() => { window.sameDocument = true; }")
    assert stage.server is not None
    port = urlsplit(stage.server.url).port or 0
    before = await window.sequence()
    await stage.server.stop()
    await window.shows("#connection", "disconnected", timeout_ms=2_000)
    await window.shows("#veil", "Disconnected since")
    assert (await window.page.title()).startswith("disconnected")
    await stage.daemon(history=2_000, port=port)
    await window.shows("#connection", "live")
    await window.until("(before) => Number(document.body.dataset.sequence) < before", before)
    assert await window.page.locator("#veil").is_hidden()
    assert await window.page.evaluate("() => window.sameDocument")
    first = await window.sequence()
    await window.until("(first) => Number(document.body.dataset.sequence) > first", first)


async def test_a_daemon_that_hangs_counts_as_gone(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await stage.daemon()
    window = await (await stage.window()).open()
    await window.shows("#connection", "live")
    with monkeypatch.context() as patch:
        patch.setattr(Frames, "next", lambda _: None)
        await window.shows("#connection", "disconnected", timeout_ms=2_300)
    await window.shows("#connection", "live")


# It looks right -----------------------------------------------------------------------------------------------------------------

CONTRAST = """() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const parts = (colour) => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => {
            const share = part / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
    };
    const light = (colour) => { const [r, g, b] = parts(colour); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const style = getComputedStyle(document.documentElement);
    const panel = light(style.getPropertyValue("--panel"));
    return Object.fromEntries(["--text", "--muted", "--up", "--down", "--warn", "--rsi", "--macd", "--signal"].map((name) => {
        const ink = light(style.getPropertyValue(name));
        return [name, (Math.max(ink, panel) + 0.05) / (Math.min(ink, panel) + 0.05)];
    }));
}"""


async def test_both_themes_are_legible_follow_the_system_and_can_be_chosen(stage: Stage) -> None:
    await stage.daemon(live=False)
    background = "() => getComputedStyle(document.body).backgroundColor"
    window = await (await stage.window(color_scheme="dark")).open()
    seen = {}
    for theme in ("light", "dark"):
        await window.page.emulate_media(color_scheme=theme)
        await window.until("(theme) => document.documentElement.dataset.theme === theme", theme)
        seen[theme] = await window.page.evaluate(background)
        for name, ratio in (await window.page.evaluate(CONTRAST)).items():
            assert ratio >= 4.5, (theme, name)
    assert seen["light"] != seen["dark"]
    picture = await window.picture()
    await window.page.locator("#theme").click()
    assert await window.page.evaluate(background) == seen["light"]
    assert await window.picture() != picture
    await window.page.reload()
    assert await window.page.evaluate(background) == seen["light"]


async def test_on_a_phone_nothing_runs_over_the_side(stage: Stage) -> None:
    daemon = await stage.daemon(MovingAverageCross(), OrderFlowImbalance(), Broken(), live=False)
    daemon.feed = msgspec.structs.replace(daemon.feed, state="waiting", detail="x" * 400, newest=1)
    window = await (await stage.window(PHONE, has_touch=True, is_mobile=True)).open()
    await window.shows("#feeds .error", "xxx")
    assert await window.overflow() <= 0
    for pane, share in (await window.inked()).items():
        assert share > 0.01, pane
    await window.page.locator("#symbol").tap()
    assert await window.overflow() <= 0


async def test_without_uplot_it_draws_by_itself_and_says_so(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "WHEEL", "no-such-wheel")
    daemon = await stage.daemon()
    now = daemon.clock.now()
    daemon.report(Signal("mine", "binance", "BTC/USDT", -1.0, "why not", now, now, 1))
    window = await (await stage.window()).open()
    assert await window.page.evaluate("() => typeof uPlot") == "undefined"
    await window.shows("#renderer", "Drawn without uPlot")
    for pane, share in (await window.inked()).items():
        assert share > 0.01, pane
    picture = await window.picture()
    await window.until("(old) => document.querySelector('[data-pane=price] canvas').toDataURL() !== old", picture)
    await window.page.mouse.move(500, 300)
    await window.until("() => !document.querySelector('.cross-tag-y').hidden")


# Its files ----------------------------------------------------------------------------------------------------------------------


async def test_files_are_kept_for_good_under_addresses_that_change_with_them(stage: Stage) -> None:
    await stage.daemon(history=0, live=False)
    assert stage.server is not None
    async with ClientSession(stage.server.url) as client:
        async with client.get("/") as answer:
            index = await answer.text()
            assert answer.headers["Cache-Control"] == "no-cache"
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert "{{" not in index
        assert not re.search(r"<(script|style)[^>]*>[^<\s]|\sstyle=|\son\w+=", index)
        addresses = re.findall(r'(?:src|href)="([^"]+)"', index)
        assert len(addresses) == 5
        for address in addresses:
            async with client.get(address) as answer:
                body = await answer.read()
                assert answer.status == 200
                assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            if "uplot" in address:
                assert hashlib.sha256(body).hexdigest() in address


async def test_uplot_is_taken_only_as_the_release_that_the_page_was_made_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, _ = find_uplot()
    assert body is not None
    assert hashlib.sha256(body).hexdigest() == UPLOT_SHA256
    (tmp_path / "uPlot.iife.min.js").write_bytes(body + b" ")

    class Found(importlib.metadata.PackagePath):
        def locate(self) -> Path:
            return tmp_path / self

    monkeypatch.setattr(importlib.metadata, "files", lambda _: [Found("uPlot.iife.min.js")])
    assert find_uplot()[0] is None
    assert "expected addc030d" in find_uplot()[1]
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [Found("absent/uPlot.iife.min.js")])
    assert "No such file" in find_uplot()[1]
    monkeypatch.setattr(importlib.metadata, "files", lambda _: None)
    assert "holds no uPlot" in find_uplot()[1]
