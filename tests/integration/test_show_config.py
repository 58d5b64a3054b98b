"""`tickfold config` shows what holds, and no secret of it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from engine.config import Config, load, to_toml
from tests.daemons import command

SECRET = """
[binance]
websocket = "wss://ann:hunter2@proxy.example:9443"
[server]
token_file = "/etc/tickfold/token"
[strategies.parameters.order_flow_imbalance]
threshold = 0.5
api_key = "hunter2"
sources = ["redis://:hunter2@cache/0", { password = "hunter2", user = "ann" }]
"""


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["text", "json"])
def test_secrets_are_redacted_and_all_else_is_shown(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "config.toml").write_text(SECRET)
    done = command("config", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hunter2" not in done.stdout
    shown = json.loads(done.stdout) if words else tomllib.loads(done.stdout)
    assert shown["binance"]["websocket"] == "wss://[redacted]@proxy.example:9443"
    assert shown["server"]["token_file"] == "/etc/tickfold/token"
    assert shown["strategies"]["parameters"]["order_flow_imbalance"] == {
        "threshold": 0.5,
        "api_key": "[redacted]",
        "sources": ["redis://[redacted]@cache/0", {"password": "[redacted]", "user": "ann"}],
    }


def test_without_secrets_it_can_be_given_back_as_it_was_printed(tmp_path: Path) -> None:
    printed = command("config", cwd=tmp_path).stdout
    (tmp_path / "again.toml").write_text(printed)
    assert load(tmp_path / "again.toml", {}) == Config()
    assert printed == to_toml(Config())
