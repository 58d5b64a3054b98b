"""Whole daemons: what they kept is what a replay makes of it, through restarts, commands, other configurations and full disks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, NamedTuple

import pytest

from tests.commands import inside
from tests.daemons import Child, children, command, replayed
from tests.folding import LTC

FAST = {"FEEDS__REPLAY_SPEED": "40", "JOURNAL__EXPORT": "false", "JOURNAL__CHECKPOINT_INPUTS": "100"}


class Lives(NamedTuple):
    """What was seen of a daemon that was stopped, killed and stopped again."""

    health: list[Any]  # of each life
    process: int  # of the first life
    port: int
    second: CompletedProcess[str]  # a daemon for the same folder during the first life
    neighbour: CompletedProcess[str]  # and one for the same port
    exchange: list[int]  # processes that the last life had started
    stopped_in_s: float
    left: list[int]  # those of them that were there when it had stopped


class Lived(NamedTuple):
    """The folder of a daemon that has lived three lives, and what was seen of them."""

    folder: Path
    lives: Lives


@pytest.fixture(scope="module")
def witnessed(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """Three lives in one folder. Tests copy the folder before they write into it."""
    folder = tmp_path_factory.mktemp("lived") / "data"
    said = []
    with Child(folder, **FAST) as child:
        child.wait_for_sequence(1500)
        said.append(child.health())
        process = child.process.pid
        second = command("run", "--data", folder, TICKFOLD_SERVER__PORT="0")
        port = int(child.url.rpartition(":")[2])
        neighbour = command("run", "--data", folder.parent / "other", TICKFOLD_SERVER__PORT=str(port))
        child.stop()
    with Child(folder, **FAST) as child:
        child.wait_for_sequence(child.health()["live_sequence"] + 1000)
        said.append(child.health())
        child.kill()
    with Child(folder, **FAST) as child:
        child.wait_for_sequence(child.health()["live_sequence"] + 500)
        said.append(child.health())
        exchange = children(child.process.pid)
        begun = time.monotonic()
        child.stop()
        stopped_in_s = time.monotonic() - begun
    left = [pid for pid in exchange if Path(f"/proc/{pid}").exists()]
    return Lived(folder, Lives(said, process, port, second, neighbour, exchange, stopped_in_s, left))


@pytest.fixture(scope="module")
def lived(witnessed: Lived) -> Path:
    """The folder."""
    return witnessed.folder


def test_a_replay_up_to_a_sequence_equals_what_health_reported_there(witnessed: Lived) -> None:
    assert len(witnessed.lives.health) == 3
    for health in witnessed.lives.health:
        again = replayed(witnessed.folder, "--until-sequence", str(health["sequence"]))
        assert again["sequence"] == health["sequence"]
        assert {kind: again["digest"][kind] for kind in health["digest"]} == health["digest"]


def test_after_a_clean_stop_the_whole_equals_its_digest_file(lived: Path) -> None:
    assert replayed(lived) == json.loads((lived / "digest.json").read_bytes())


def test_verify_is_clean_and_has_compared_something(lived: Path) -> None:
    done = inside("verify", lived, "--json")
    verdict = json.loads(done.stdout)
    assert done.returncode == 0
    assert verdict["passed"]
    assert sum(stretch["checkpoints"] for stretch in verdict["stretches"]) >= 3, "one at each clean stop at least"


@pytest.mark.parametrize("record", [0, 1, 40, 700, 1200])
def test_verify_names_the_file_and_the_offset_of_a_flipped_byte(lived: Path, tmp_path: Path, record: int) -> None:
    folder = Path(shutil.copytree(lived, tmp_path / "copy"))
    segment = min((folder / "journal").glob("*.seg"))
    content = bytearray(segment.read_bytes())
    content[4096 + 64 * record + record % 64] ^= 0x10
    segment.write_bytes(content)
    done = inside("verify", folder, "--json")
    verdict = json.loads(done.stdout)
    assert done.returncode == 1
    assert verdict["file"] == str(segment)
    assert verdict["offset"] == 4096 + 64 * record
    assert inside("replay", folder).returncode == 2


def test_verify_names_the_first_difference_to_what_was_recorded(lived: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(lived, tmp_path / "copy"))
    final = json.loads((folder / "digest.json").read_bytes())
    final["digest"]["signals"] = "0" * 64
    (folder / "digest.json").write_text(json.dumps(final))
    done = inside("verify", folder, "--json")
    difference = json.loads(done.stdout)["difference"]
    assert done.returncode == 1
    assert (difference["sequence"], difference["what"]) == (final["sequence"], "signals")
    assert 0 < difference["agreed_until"] < final["sequence"]


def test_verify_misses_inputs_that_were_acknowledged(lived: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(lived, tmp_path / "copy"))
    segment = min((folder / "journal").glob("*.seg"))
    content = bytearray(segment.read_bytes())
    # What a power cut leaves of pages that never reached the disk; the seal says otherwise, so it goes too.
    cut = 4096 + 64 * 640
    content[cut:] = bytes(len(content) - cut)
    segment.write_bytes(content)
    done = inside("verify", folder, "--json")
    assert done.returncode == 1
    verdict = json.loads(done.stdout)
    assert verdict["missing"] or verdict["corrupt"]
    (folder / "digest.json").write_text("{}")
    assert inside("verify", folder).returncode == 1


def test_commands_over_http_are_inputs_that_a_replay_obeys(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with Child(folder, **FAST) as child:
        child.wait_for_sequence(300)
        assert child.post("/commands", {"verb": "park", "target": "order_flow_imbalance"}, token=False)[0] == 401
        status, parked = child.post("/commands", {"verb": "park", "target": "order_flow_imbalance"})
        assert status == 200
        status, removed = child.post("/commands", {"verb": "remove_symbol", "target": "binance:NKN/USDT"})
        assert status == 200
        for verb, target in (
            ("park", "nobody"),
            ("add_symbol", "binance:NOPE/XXX"),
            ("add_symbol", "kucoin:BTC/USDT"),
            ("remove_symbol", "binance:NEVER/USDT"),
            ("snapshot", "zzz"),
            ("dance", ""),
        ):
            status, answer = child.post("/commands", {"verb": verb, "target": target})
            assert status in (400, 404, 422), (verb, target, answer)
            assert answer["error"]["field"] in ("target", "verb")
        child.wait_for_sequence(removed["sequence"] + 300)
        assert child.post("/commands", {"verb": "snapshot", "target": ""})[0] == 200
        child.wait_for(lambda health: health["parts"]["snapshots"]["sequence"] > removed["sequence"])
        kept = child.stop()
    assert replayed(folder) == kept
    assert replayed(folder, "--until-sequence", str(parked["sequence"] - 1))["digest"] != kept["digest"]
    with Child(folder, **FAST) as child:
        health = child.health()
        strategies = {one["name"]: one for one in health["parts"]["strategies"]}
        assert strategies["order_flow_imbalance"]["state"] == "parked"
        assert all("NKN/USDT" not in feed["symbols"] for feed in health["parts"]["feeds"])
        child.stop()


def test_another_configuration_folds_the_journal_anew(lived: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(lived, tmp_path / "data"))
    before = json.loads((folder / "digest.json").read_bytes())
    with Child(folder, **FAST, FEATURES__VIEWS="market,technical_1s,derived") as child:
        assert "made by another definition" in (folder / "log.jsonl").read_text()
        child.wait_for_sequence(before["sequence"] + 200)
        kept = child.stop()
    assert replayed(folder) == kept
    # What the first configuration made of the inputs up to then is still what it was.
    assert replayed(folder, "--until-sequence", str(before["sequence"])) == before
    assert inside("verify", folder).returncode == 0
    # And back again: the snapshots of the first configuration fit, and what came since is folded by it.
    with Child(folder, **FAST) as child:
        child.wait_for_sequence(kept["sequence"] + 200)
        back = child.stop()
    assert replayed(folder) == back
    assert replayed(folder, "--until-sequence", str(kept["sequence"])) == kept
    assert inside("verify", folder).returncode == 0


def test_history_is_folded_first_and_no_strategy_hears_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    words = ("--warm", str(LTC))
    with Child(folder, *words, **FAST, FEEDS__SYMBOLS="BTC/USDT") as child:
        health = child.wait_for_sequence(7000)
        status, read = child.post(
            "/get-online-features",
            {"features": ["technical:rsi_14"], "entities": {"exchange": ["binance"], "symbol": ["LTC/USDT"]}},
            token=False,
        )
        assert status == 200
        assert read["results"][2]["statuses"] == ["PRESENT"]
        child.stop()
    assert health["live_sequence"] > 6000
    again = replayed(folder)
    assert again == json.loads((folder / "digest.json").read_bytes())
    with Child(folder, *words, **FAST) as child:
        assert "not warmed" in child.stderr()
        child.stop()


def test_a_second_daemon_is_told_who_has_the_folder_or_the_port(witnessed: Lived) -> None:
    lives = witnessed.lives
    assert lives.second.returncode == 3
    assert f"in use by process {lives.process}" in lives.second.stderr
    assert lives.neighbour.returncode == 3
    assert str(lives.port) in lives.neighbour.stderr


def test_feeds_without_a_symbol_that_they_know_do_not_start(tmp_path: Path) -> None:
    done = command(
        "run",
        "--data",
        tmp_path / "data",
        "--feeds",
        "binance",
        TICKFOLD_FEEDS__SYMBOLS="BTCUSDT,XXX",
        TICKFOLD_SERVER__PORT="0",
    )
    assert done.returncode == 2
    assert "feeds.symbols: expected symbols of binance: BTCUSDT: not in the product list" in done.stderr
    done = command("run", "--data", "", TICKFOLD_SERVER__PORT="0", cwd=tmp_path)
    assert done.returncode == 2
    assert "expected a folder of its own" in done.stderr
    done = command("run", "--data", tmp_path / "other", "--feeds", "replay,binance")
    assert done.returncode == 2
    assert not (tmp_path / "other").exists(), "nothing is made by a start that is refused"


def test_sigterm_stops_within_five_seconds_and_takes_the_exchange_along(witnessed: Lived) -> None:
    assert witnessed.lives.exchange
    assert witnessed.lives.stopped_in_s < 5.0
    assert witnessed.lives.left == []


def test_a_second_sigterm_ends_it_at_once(tmp_path: Path) -> None:
    with Child(tmp_path / "data", **FAST) as child:
        child.wait_for_sequence(100)
        # Both are there before the loop sees the first.
        child.process.send_signal(signal.SIGSTOP)
        child.process.send_signal(signal.SIGTERM)
        child.process.send_signal(signal.SIGINT)
        child.process.send_signal(signal.SIGCONT)
        child.process.communicate(timeout=20)
        assert child.process.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT), "whichever came second"


# A disk that fills up -----------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """A file system of its own of so many MiB. Needs the right to mount one."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Leave nothing of a disk."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            return ballast


SMALL = {**FAST, "JOURNAL__SEGMENT_MIB": "1", "FEEDS__REPLAY_SPEED": "80"}
SMALL_DISK = {**SMALL, "MODELS__RUN": "[]"}
"""At this pace some ten thousand predictions wait for their minute to pass: a snapshot of them does not fit."""


def journal_of(health: Any) -> Any:
    return health["parts"]["journal"]


def test_a_full_disk_is_declared_and_healed_with_a_break_and_a_snapshot(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 12) as disk, Child(disk / "data", **SMALL_DISK) as child:
        child.wait_for_sequence(2000)
        ballast = fill(disk)
        health = child.wait_for(lambda health: journal_of(health)["state"] == "not journaling")
        assert health["status"] == "degraded"
        assert "No space left" in journal_of(health)["detail"]
        lost_from = journal_of(health)["sequence"] + 1
        health = child.wait_for_sequence(health["live_sequence"] + 500)
        assert journal_of(health)["state"] == "not journaling", "it folds on"
        ballast.unlink()
        health = child.wait_for(lambda health: journal_of(health)["state"] == "journaling")
        child.wait_for_sequence(health["live_sequence"] + 500)
        kept = child.stop()
        assert replayed(disk / "data") == kept
        done = inside("verify", disk / "data", "--json")
        verdict = json.loads(done.stdout)
        assert done.returncode == 0, verdict
        [lost] = verdict["breaks"]
        assert lost["first"] == lost_from
        assert lost["last"] > lost["first"]
        assert "No space left" in lost["reason"]
        with Child(disk / "data", **SMALL_DISK) as again:
            assert again.health()["live_sequence"] >= kept["sequence"]
            kept = again.stop()
        assert replayed(disk / "data") == kept


def test_a_full_disk_stops_the_daemon_if_it_is_told_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 12) as disk:
        with Child(disk / "data", **SMALL_DISK, JOURNAL__ON_FAILURE="stop") as child:
            child.wait_for_sequence(2000)
            ballast = fill(disk)
            child.process.communicate(timeout=60)
            assert child.process.returncode == 3
            assert "No space left" in child.stderr()
        ballast.unlink()
        with Child(disk / "data", **SMALL_DISK) as child:
            kept = child.stop()
        assert replayed(disk / "data") == kept


def test_old_segments_go_but_never_what_the_oldest_snapshot_needs(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    config = {
        **SMALL,
        "JOURNAL__EXPORT": "true",
        "JOURNAL__RETENTION_MIB": "16",
        "SNAPSHOTS__EVERY_S": "0.3",
        "SNAPSHOTS__KEEP": "2",
        "FEEDS__REPLAY_SPEED": "1000",
    }
    first = folder / "journal" / f"{1:020d}.seg"
    with Child(folder, **config) as child:
        child.wait_for(lambda _: not first.exists(), 120)
        kept = child.stop()
    assert replayed(folder) == kept
    verdict = json.loads(inside("verify", folder, "--json").stdout)
    assert verdict["passed"]
    assert verdict["first"] > 1
    done = inside("replay", folder, "--until-sequence", "5", "--digest")
    assert done.returncode == 2
    assert "journal" in done.stderr
    assert os.listdir(folder / "ticks")
    # What no snapshot fits is folded from what is left, and that is said.
    with Child(folder, **{**config, "FEATURES__VIEWS": "market,technical_1s,derived"}) as child:
        assert "history is gone" in child.stderr()
        kept = child.stop()
    assert replayed(folder) == kept
    assert json.loads(inside("verify", folder, "--json").stdout)["passed"]
