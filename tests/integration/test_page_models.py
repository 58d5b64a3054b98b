"""The page's view of the models in a real browser: over the real server and the real stage of the fold."""

from __future__ import annotations

import re

import msgspec
import pytest

from engine.models.settings import ModelConfig, ModelsConfig
from engine.serving import models as models_module
from engine.serving import page as page_module
from tests.integration import test_page
from tests.integration.test_page import BTC, ETH, PHONE, Stage

pytestmark = pytest.mark.asyncio(loop_scope="module")
browser, stage = test_page.browser, test_page.stage  # fixtures

SOFTMAX = {"algorithm": "scaled_softmax", "lr": 0.002}
QUICK = ModelConfig(
    features=("market:side", "technical:rsi_14"),
    algorithm=SOFTMAX,
    horizon="3s",
    warm_up=20,
    challengers=({**SOFTMAX, "lr": 0.0002},),
)
MOVE = ModelConfig(
    features=("market:side",), target="log_return", algorithm={"algorithm": "scaled_linear"}, horizon="20t", warm_up=20
)
SAYING = ModelsConfig(
    run=("odd", "kind"),
    define={
        "odd": ModelConfig(
            features=("technical:rsi_14",),
            target="none",
            algorithm={"river": ["preprocessing.MinMaxScaler", {"river": "anomaly.HalfSpaceTrees", "n_trees": 3}]},
            warm_up=20,
        ),
        "kind": ModelConfig(
            features=("technical:rsi_14",),
            target="none",
            algorithm={"river": ["preprocessing.StandardScaler", {"river": "cluster.KMeans", "n_clusters": 2}]},
            warm_up=20,
        ),
    },
)
MODELS = ModelsConfig(run=("quick", "move"), define={"quick": QUICK, "move": MOVE})


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The history has a sample each tenth of a second, so that there is a line at once."""
    monkeypatch.setattr(models_module, "SAMPLE_S", 0.1)


async def test_models_stand_beside_their_baselines_with_charts_versions_and_marks(stage: Stage, often: None) -> None:
    daemon = await stage.daemon(history=4_000, models=MODELS)
    window = await (await stage.window()).open()
    await window.page.locator("#view label").nth(1).click()
    await window.shows("[data-model=quick] .model-head", "direction over 3s")
    assert window.page.url.endswith(f"{BTC};models")
    assert not await window.page.locator("#charts").is_visible()
    await window.shows("[data-model=quick] .model-figures", "Accuracy")
    figures = await window.page.locator("[data-model=quick] .model-figures > div").all_inner_texts()
    beside = {name: rest for name, *rest in (figure.split("\n") for figure in figures)}
    assert re.fullmatch(r"[^\d ][\d,.]+ %", beside["Skill"][0])
    assert " to " in beside["Skill"][1]
    assert "verified" in beside["Independent outcomes"][1]
    assert re.search(r"[a-z ]+ \d+\.\d %", beside["Accuracy"][2])
    assert "wanted 90.0 %" in beside["Coverage"][2]
    for name in ("Skill", "Brier", "Accuracy", "MCC", "Coverage", "Net"):
        assert re.fullmatch(r"\S+ to \S+ · n_eff [\d,]+", beside[name][1]), (name, beside[name])
    bars = await window.page.locator("[data-model=quick] .bar-row span").all_inner_texts()
    assert {"quick", "base rate", "majority", "last label", "no change"} <= set(bars)
    await window.shows("[data-model=quick] .footnote", "last return and last return opposite have the same Brier")
    await window.shows("[data-model=quick] [data-version='2']", "pairs")
    await window.shows("[data-model=move] .model-figures", "RMSE")
    for model, plot in (("quick", "skill"), ("quick", "reliability"), ("move", "skill")):
        await window.until(INKED, f"[data-model={model}] .plot-{plot} canvas")
    assert await window.overflow() <= 0

    daemon.command("promote", "quick@2 binance:BTC/USDT")
    await window.shows("[data-model=quick] .model-head", "version 2")
    await window.shows("[data-model=quick] .model-marks", "1 -> 2")
    await window.shows("[data-model=quick] [data-version='1']", "previous")
    daemon.command("pin", "quick")
    await window.shows("[data-model=quick] .model-head", "pinned")


async def test_an_anomaly_and_a_cluster_are_shown_by_what_they_say_without_skill(stage: Stage, often: None) -> None:
    await stage.daemon(history=2_000, models=SAYING)
    window = await (await stage.window()).open(f"{BTC};models")
    pipeline = "MinMaxScaler | HalfSpaceTrees(n_trees=3)"
    await window.shows("[data-model=odd] .model-head", f"Anomaly score · {pipeline}")
    await window.shows("[data-model=kind] .model-head", "Cluster · StandardScaler | KMeans(n_clusters=2)")
    for model in ("odd", "kind"):
        await window.until(INKED, f"[data-model={model}] .plot-said canvas")
        text = await window.page.locator(f"[data-model={model}]").inner_text()
        assert not re.search("skill|net|rmse|coverage|none over|verified 60s", text, re.IGNORECASE)
    figures = await window.page.locator("[data-model=odd] .model-figures > div").all_inner_texts()
    shown = {name: rest for name, *rest in (figure.split("\n") for figure in figures)}
    assert 0.0 <= float(shown["Anomaly score"][0]) <= 1.0
    assert re.fullmatch(r"[\d,]+", shown["Rows scored"][0])
    assert await window.page.locator("[data-model=kind] .model-figures dd").first.inner_text() in ("0", "1")
    await window.page.locator(".model-jumps button", has_text="kind").click()
    await window.until("() => document.activeElement.dataset.model === 'kind'")
    assert window.faults == []


async def test_where_no_skill_can_be_said_the_reason_is(stage: Stage, often: None) -> None:
    never = msgspec.structs.replace(QUICK, warm_up=1_000_000)
    await stage.daemon(history=2_000, live=False, models=ModelsConfig(run=("quick",), define={"quick": never}))
    window = await (await stage.window(PHONE)).open(f"{BTC};models")
    await window.shows("[data-model=quick] .model-figures", "no skill can be said:\nnone counted yet: it is warming up")
    await window.shows("[data-model=quick] [data-version='2']", "no skill can be said")
    await window.shows("[data-model=quick] .plot-skill", "No line yet")
    height = "() => document.querySelector('[data-model=quick] .model-plots').offsetHeight"
    assert await window.page.evaluate(height) < 200
    assert not await window.page.locator(".model-jumps").is_visible()


INKED = """(selector) => {
    const canvas = document.querySelector(selector);
    if (!canvas) return false;
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let at = 3; at < data.length; at += 4) count += data[at] > 0;
    return count / (canvas.width * canvas.height) > 0.01;
}"""
"""Whether a canvas has been drawn on."""


async def test_the_address_opens_the_models_and_a_symbol_is_changed_there(stage: Stage, often: None) -> None:
    await stage.daemon(history=4_000, live=False, models=MODELS)
    window = await (await stage.window()).open(f"{ETH};models")
    await window.shows("[data-model=quick] .model-head", "scaled_softmax")
    assert await window.page.input_value("#symbol") == "ETH/USDT"
    asked = "() => Number(document.querySelector('#models').dataset.asked)"
    first = await window.page.evaluate(asked)
    await window.until("(first) => Number(document.querySelector('#models').dataset.asked) > first", first)
    assert await window.page.locator(".model").count() == 2  # drawn into what is there
    await window.page.keyboard.press("/")
    await window.page.keyboard.type("btc")
    await window.page.keyboard.press("Enter")
    await window.shows("[data-model=quick] .model-head", "scaled_softmax")
    assert window.page.url.endswith(f"{BTC};models")
    await window.page.locator("#view label").nth(0).click()
    await window.until("() => document.querySelector('#charts').checkVisibility()")
    assert window.page.url.endswith(BTC)
    for pane, share in (await window.inked()).items():
        assert share > 0.01, pane


@pytest.mark.parametrize("scheme", ["dark", "light"])
async def test_models_fit_a_phone_in_both_themes(stage: Stage, often: None, scheme: str) -> None:
    await stage.daemon(history=4_000, live=False, models=MODELS)
    window = await (await stage.window(PHONE, color_scheme=scheme)).open(f"{BTC};models")
    await window.until(INKED, "[data-model=quick] .plot-reliability canvas")
    assert await window.overflow() <= 0
    before = await window.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    await window.page.locator("#theme").click()
    await window.until("(before) => getComputedStyle(document.body).backgroundColor !== before", before)
    await window.until(INKED, "[data-model=quick] .plot-reliability canvas")


async def test_without_models_or_uplot_the_view_says_so(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "WHEEL", "no-such-wheel")
    await stage.daemon(history=2_000, live=False)
    window = await (await stage.window()).open(f"{BTC};models")
    await window.shows("#models", "No model looks at this symbol yet")
    await stage.daemon(history=4_000, live=False, models=MODELS)
    window = await (await stage.window()).open(f"{BTC};models")
    await window.shows("[data-model=quick] .plot-skill", "uPlot is not installed")
    await window.shows("[data-model=quick] .model-figures", "Brier")
