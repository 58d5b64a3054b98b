"""The command line as somebody meets it: real processes, their exit codes, what they print and where."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from engine.cli.command import build_parser
from engine.config import Config, to_toml
from store.record_code import compiled as compiled_journal
from tests.commands import inside
from tests.folding import COMMAND, LTC, QUOTES, TRADES, environment

VERBS = ("run", "replay", "verify", "exchange", "record", "audit", "models", "top", "doctor", "config")
JSON_VERBS = {
    "replay": ("replay", LTC, "--json"),
    "replay with digests": ("replay", LTC, "--digest", "--json"),
    "audit": ("audit", LTC, "--cuts", "1", "--to", "2025-06-21T12:50:00Z", "--json"),
    "config": ("config", "--json"),
}
TRACEBACK = "Traceback (most recent call last)"


class Done:
    """What a process left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def lines(self) -> list[str]:
        """What it said on stderr, line by line."""
        return self.err.splitlines()


@cache
def tickfold(
    *arguments: object, cwd: Path = LTC.parent, command: tuple[object, ...] = (COMMAND,), **settings: str
) -> Done:
    """Run the command, in a folder without a config.toml unless told otherwise. What was run once is remembered."""
    words = [str(word) for word in (*command, *arguments)]
    ran = subprocess.run(
        words, capture_output=True, text=True, cwd=cwd, env=environment(**settings), timeout=60, check=False
    )
    return Done(ran.returncode, ran.stdout, ran.stderr)


def here(*arguments: str | Path, cwd: Path = LTC.parent, **settings: str) -> Done:
    """Run the command in this process: for what it says and finds. What is the same for every verb, a process of its own shows."""
    ran = inside(*arguments, cwd=cwd, **settings)
    return Done(ran.returncode, ran.stdout, ran.stderr)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile what the commands need, the journal's part too, so that no test hears of it."""
    compiled_journal()
    assert here("replay", "--json").code == 0


def plugin(folder: Path, body: str, name: str = "plugin") -> Path:
    """A strategy file that hears every trade."""
    path = folder / f"{name}.py"
    path.write_text(
        "import builtins, os, signal, sys\n"
        "from engine.events import Tick\n"
        "from strategies import Strategy\n\n\n"
        "class Plugin(Strategy):\n"
        "    subscribes = [Tick]\n\n"
        f"    def on_tick(self, event):\n        {body}\n"
    )
    return path


def quick(folder: Path, *strategies: Path) -> dict[str, str]:
    """Settings of a replay with these strategies only."""
    return {"TICKFOLD_STRATEGIES__RUN": json.dumps([str(path) for path in strategies])}


# Help


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_its_options(verb: str) -> None:
    done = here(verb, "--help")
    assert (done.code, done.err) == (0, "")
    for word in (f"usage: tickfold {verb}", "--config FILE", "--verbose", "--json"):
        assert word in done.out


def test_the_help_of_the_command_names_every_verb() -> None:
    done = here("--help")
    assert done.code == 0
    assert [verb for verb in VERBS if not re.search(rf"^\s+{verb}\s", done.out, re.MULTILINE)] == []


@pytest.mark.parametrize("arguments", [("--help",), *((verb, "--help") for verb in VERBS)], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    done = tickfold(*arguments, command=(sys.executable, "-X", "importtime", COMMAND))
    assert done.code == 0
    imported = {line.split("|")[-1].strip() for line in done.lines()}
    assert "engine.cli" in imported
    assert imported & {"numba", "pyarrow", "numpy", "rich", "structlog", "msgspec", "llvmlite"} == set()


def test_without_a_verb_it_says_how_to_use_it_on_stderr() -> None:
    done = tickfold()
    assert (done.code, done.out) == (2, "")
    assert "tickfold replay" in done.err


def test_python_m_engine_is_the_command() -> None:
    by_module = tickfold("config", "--json", command=(sys.executable, "-m", "engine"))
    by_name = tickfold("config", "--json")
    assert (by_module.code, by_module.out, by_module.err) == (by_name.code, by_name.out, by_name.err)
    assert by_module.code == 0
    wrong = tickfold("replay", "none.parquet", command=(sys.executable, "-m", "engine"))
    assert (wrong.code, wrong.err) == (2, "tickfold: none.parquet: no such file\n")


# Results


def test_a_replay_says_what_it_folded_and_its_digests_only_where_they_are_asked_for() -> None:
    plain, asked = here("replay", LTC), here("replay", LTC, "--digest")
    assert (plain.code, plain.err, asked.code, asked.err) == (0, "", 0, "")
    assert plain.out.startswith("4,005 inputs of 1 keys in ")
    assert "4,000 trades" in plain.out
    assert "inputs  " not in plain.out
    words = [line.split() for line in asked.out.splitlines()[-5:]]
    assert [name for name, _ in words] == ["inputs", "features", "predictions", "signals", "state"]
    said = json.loads(tickfold("replay", LTC, "--digest", "--json").out)
    assert dict(words) == said["digest"]


def test_a_replay_without_a_source_folds_the_built_in_recording_and_says_its_digests() -> None:
    done = here("replay")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("37,883 inputs of 4 keys")
    assert re.search(r"^inputs +[0-9a-f]{64}$", done.out, re.MULTILINE)


@pytest.mark.parametrize("what", JSON_VERBS)
def test_json_is_exactly_one_document_on_stdout_and_stderr_is_silent(what: str) -> None:
    done = tickfold(*JSON_VERBS[what])
    assert (done.code, done.err) == (0, "")
    assert isinstance(json.loads(done.out), dict)
    assert len(done.out.splitlines()) == 1


def test_an_audit_that_passes_ends_with_0_and_one_that_fails_with_1_and_names_the_offender(tmp_path: Path) -> None:
    # It keeps what it saw where a new run finds it again: the future of the run before.
    seer = plugin(
        tmp_path,
        "seen = builtins.__dict__.setdefault('seen', {}); known = event.timestamp in seen\n"
        "        seen[event.timestamp] = event.price; return [self.signal(event, float(known))]",
        "seer",
    )
    options = ("--cuts", "1", "--to", "2025-06-21T12:50:00Z")
    passed = here("audit", LTC, *options)
    assert (passed.code, passed.err) == (0, "")
    assert passed.out.startswith("nothing looks ahead: ")
    failed = tickfold("audit", LTC, *options, **quick(tmp_path, seer))
    assert failed.code == 1
    assert failed.out.startswith("LOOKS AHEAD: signals of plugin binance LTC/USDT: value of row ")
    said = json.loads(tickfold("audit", LTC, *options, "--json", **quick(tmp_path, seer)).out)
    assert (said["passed"], said["offender"]["stream"]) == (False, "signals of plugin binance LTC/USDT")


# Selections


SECOND_TRADE = 1_750_509_512_839_000_000  # received of the second trade of LTC


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1750509512839000000", SECOND_TRADE),
        ("2025-06-21T12:38:32.839Z", SECOND_TRADE),
        ("2025-06-21T12:38:32.839", SECOND_TRADE),
        ("2025-06-21 12:38:32.839000000", SECOND_TRADE),
        ("2025-06-21T14:38:32.839+02:00", SECOND_TRADE),
        ("2025-06-21T12:38:32.839001Z", SECOND_TRADE + 1_000),
        ("2025-06-21", SECOND_TRADE // (86_400 * 10**9) * (86_400 * 10**9)),
        ("1969-12-31T23:59:59.5Z", -500_000_000),
        ("-5", -5),
    ],
)
def test_times_are_iso_8601_in_utc_unless_they_say_otherwise_or_nanoseconds(text: str, ns: int) -> None:
    assert build_parser().parse_args(["replay", f"--from={text}"]).start == ns


def test_iso_8601_times_are_exact_to_the_nanosecond_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        found = build_parser().parse_args(["replay", "--from=2025-06-21T12:38:32.839000001Z"]).start
    except SystemExit:
        assert "expected" in capsys.readouterr().err
    else:
        assert found == SECOND_TRADE + 1, "the last digits are passed over in silence"


def test_from_and_to_are_half_open() -> None:
    until, since = (
        json.loads(here("replay", LTC, option, "2025-06-21T12:38:32.839Z", "--json").out)
        for option in ("--to", "--from")
    )
    assert (until["inputs"], since["inputs"]) == (1, 4004)


# Errors


WRONG: dict[str, tuple[tuple[str | Path, ...], str]] = {
    "missing file": (("replay", "none.parquet"), "none.parquet: no such file"),
    "no recording": (
        ("replay", Path(__file__)),
        "test_cli.py: expected Parquet ticks or quotes (.parquet) or a capture",
    ),
    "folder": (
        ("replay", "."),
        "expected a Parquet file of ticks or quotes, a capture (.jsonl, .jsonl.gz) or a data folder of the daemon (with journal/ in it)",
    ),
    "missing configuration": (("config", "--config", "none.toml"), "none.toml: No such file or directory"),
    "unknown symbol": (
        ("replay", LTC, "--symbols", "BTC/USDT"),
        "symbols BTC/USDT: not in the sources, which hold LTC/USDT",
    ),
    "no cuts": (("audit", LTC, "--cuts", "0"), "0 cuts: expected at least 1"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_in_one_line_without_a_traceback_and_ends_with_2(tmp_path: Path, what: str) -> None:
    arguments, said = WRONG[what]
    done = here(*arguments, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert len(done.lines()) == 1, done.err
    assert done.err.startswith("tickfold: ")
    assert said in done.err


def test_with_v_the_traceback_is_shown_too() -> None:
    done = tickfold("replay", "none.parquet", "-v")
    assert done.code == 2
    assert done.lines()[0] == "tickfold: none.parquet: no such file"
    assert TRACEBACK in done.err
    assert "ReplayError" in done.err


USAGE: dict[str, tuple[tuple[str | Path, ...], str]] = {
    "unknown verb": (("replai",), "replay"),
    "unknown option": (("replay", "--sped", "1", "--x"), "--x"),
    "speed": (("replay", "--speed", "fast"), """argument --speed: 'fast': expected "max" or a number above 0"""),
    "speed of none": (("replay", "--speed", "0"), "expected"),
    "speed not a number": (("replay", "--speed", "nan"), "expected"),
    "time": (
        ("replay", "--from", "yesterday"),
        "argument --from: 'yesterday': expected ISO 8601, such as 2024-08-08T23:55:00Z, or ns",
    ),
    "symbols": (("replay", "--symbols", ","), "argument --symbols: expected symbols with commas between them"),
    "source": (("audit",), "SOURCE"),
}


@pytest.mark.parametrize("what", USAGE)
def test_wrong_usage_names_the_argument_and_ends_with_2(what: str) -> None:
    arguments, said = USAGE[what]
    done = here(*arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.lines()[-1]
    assert TRACEBACK not in done.err


@pytest.mark.parametrize("what", USAGE)
def test_wrong_usage_is_said_in_one_or_two_lines(what: str) -> None:
    done = here(*USAGE[what][0])
    assert len(done.lines()) <= 2, done.err


def test_a_configuration_with_an_unknown_key_is_refused_with_file_key_and_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[store]\nring_row = 64\n")
    done = here("replay", cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err == "tickfold: config.toml: store.ring_row = 64: no such key; did you mean ring_rows?\n"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"TICKFOLD_STORE__RINGROWS": "64"},
            "TICKFOLD_STORE__RINGROWS=64: no key store.ringrows; did you mean ring_rows?",
        ),
        ({"TICKFOLD_STRATEGIES__RUN": "no_such"}, "strategy 'no_such': expected one of"),
        (
            {"TICKFOLD_STRATEGIES__PARAMETERS": "{ nobody = { x = 1 } }"},
            "strategies.parameters.nobody: no such strategy in strategies.run",
        ),
        (
            {"TICKFOLD_STRATEGIES__PARAMETERS": "{ order_flow_imbalance = { x = 1 } }"},
            "strategy order_flow_imbalance: no parameter 'x'; there are threshold",
        ),
        (
            {"TICKFOLD_FEATURES__VIEWS": "market"},
            "strategy moving_average_cross subscribes to 'technical_1s'; views that are computed: market",
        ),
    ],
)
def test_what_is_wrong_in_the_environment_is_said_in_one_line(
    tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    done = here("replay", LTC, cwd=tmp_path, **settings)
    assert (done.code, done.out, len(done.lines())) == (2, "", 1), done.err
    assert said in done.err


def test_a_damaged_recording_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "torn.parquet").write_bytes(TRADES.read_bytes()[:5000])
    (tmp_path / "binance.jsonl").write_text('{"kind":"recv"\n')
    for name in ("torn.parquet", "binance.jsonl"):
        done = here("replay", name, cwd=tmp_path)
        assert (done.code, done.out, len(done.lines())) == (2, "", 1), done.err
        assert name in done.err


# The configuration


def test_config_prints_what_holds_after_file_and_environment(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[store]\nring_rows = 64\n[engine]\nseed = 3\n")
    done = here("config", cwd=tmp_path, TICKFOLD_ENGINE__SEED="4")
    assert (done.code, done.err) == (0, "")
    resolved = tomllib.loads(done.out)
    assert (resolved["store"]["ring_rows"], resolved["engine"]["seed"], resolved["engine"]["bus_limit"]) == (
        64,
        4,
        10_000,
    )
    assert json.loads(here("config", "--json", cwd=tmp_path, TICKFOLD_ENGINE__SEED="4").out)["engine"]["seed"] == 4


def test_config_prints_a_configuration_that_can_be_given_back(tmp_path: Path) -> None:
    printed = here("config", cwd=tmp_path).out
    assert printed == to_toml(Config())
    (tmp_path / "again.toml").write_text(printed)
    assert here("config", "--config", "again.toml", cwd=tmp_path).out == printed


def test_a_config_file_is_read_only_where_it_is_named_or_lies_there(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[engine]\nseed = 9\n")
    assert tomllib.loads(here("config", cwd=tmp_path).out)["engine"]["seed"] == 0
    assert tomllib.loads(here("config", "--config", "mine.toml", cwd=tmp_path).out)["engine"]["seed"] == 9


# Plugins


def test_a_failing_strategy_is_reported_and_parked_and_the_replay_goes_on(tmp_path: Path) -> None:
    broken = plugin(tmp_path, "raise ValueError('no idea')")
    done = tickfold("replay", LTC, "--digest", cwd=tmp_path, **quick(tmp_path, broken))
    clean = here("replay", LTC, "--digest", cwd=tmp_path, **quick(tmp_path))
    assert done.code == 0
    assert [line for line in done.out.splitlines() if line.startswith(("inputs", "features", "signals  "))] == [
        line for line in clean.out.splitlines() if line.startswith(("inputs", "features", "signals  "))
    ]
    assert len(re.findall(r"^\[error +\] plugin failed ", done.err, re.MULTILINE)) == 5
    assert len(re.findall(r"^\[error +\] plugin parked ", done.err, re.MULTILINE)) == 1
    assert "ValueError: no idea" in done.err
    assert done.lines()[-1] == "strategy plugin failed 5 times and is parked"
    assert TRACEBACK not in done.err
    assert (
        TRACEBACK in tickfold("replay", LTC, "-v", "--until-sequence", "9", cwd=tmp_path, **quick(tmp_path, broken)).err
    )


def test_refused_rows_are_said_and_counted(tmp_path: Path) -> None:
    table = pq.read_table(LTC)
    prices = table["price"].to_pylist()
    prices[5:15] = [-1.0] * 10
    pq.write_table(table.set_column(table.column_names.index("price"), "price", [prices]), tmp_path / "bad.parquet")
    done = here("replay", "bad.parquet", cwd=tmp_path, TICKFOLD_STRATEGIES__RUN="[]")
    assert done.code == 0
    assert done.err.count("bad price: price -1.0: expected positive and finite") == 5
    assert "further ones are only counted" in done.err
    assert "10 rows were refused" in done.lines()[-1]
    assert "10 bad price" in done.out


# Interrupts and pipes


def interrupted(*arguments: object, folder: Path, number: signal.Signals = signal.SIGINT) -> Done:
    """Run the command and send it a signal once its strategy has heard a trade."""
    ready = plugin(folder, "print('folding', file=sys.stderr, flush=True)")
    process = subprocess.Popen(
        [COMMAND, *(str(word) for word in arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment(**quick(folder, ready)),
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.strip() == "folding":
                break
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    return Done(process.returncode, out, "\n".join(line for line in err.splitlines() if line != "folding"))


def test_an_interrupted_paced_replay_ends_with_130_and_one_line(tmp_path: Path) -> None:
    done = interrupted("replay", LTC, "--speed", "0.001", folder=tmp_path)
    assert (done.code, done.out, done.err) == (130, "", "interrupted")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_an_interrupted_run_ends_with_0_and_one_document(number: str, tmp_path: Path) -> None:
    # The strategy interrupts its own process, once: a second signal would end it at once.
    once = plugin(tmp_path, f"os.environ.pop('ONCE', None) and os.kill(os.getpid(), signal.{number})")
    settings = {**quick(tmp_path, once), "ONCE": "1", "TICKFOLD_SERVER__PORT": "0"}
    done = tickfold("run", "--json", "--data", tmp_path / "data", cwd=tmp_path, **settings)
    assert done.code == 0
    # A machine with too much to do may hold a loop by itself.
    assert [line for line in done.lines() if "loop held" not in line] == []
    assert len(done.out.splitlines()) == 1
    assert json.loads(done.out) == json.loads((tmp_path / "data" / "digest.json").read_bytes())


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_run_that_is_interrupted_while_it_starts_ends_with_0(number: str, tmp_path: Path) -> None:
    # The file of a strategy is run when the daemon is built.
    early = plugin(tmp_path, "pass")
    early.write_text(f"import os, signal\n\nos.kill(os.getpid(), signal.{number})\n\n{early.read_text()}")
    settings = {**quick(tmp_path, early), "TICKFOLD_SERVER__PORT": "0"}
    done = tickfold("run", "--data", tmp_path / "data", cwd=tmp_path, **settings)
    assert done.code == 0
    assert TRACEBACK not in done.err


def test_an_interrupted_replay_of_full_speed_ends_with_130(tmp_path: Path) -> None:
    suicidal = plugin(tmp_path, "os.kill(os.getpid(), signal.SIGINT)")
    done = tickfold("replay", LTC, cwd=tmp_path, **quick(tmp_path, suicidal))
    assert (done.code, done.out) == (130, "")
    assert done.err == "interrupted\n"


@pytest.mark.parametrize(
    "command",
    ["replay --digest", "config", "replay --help"],
)
def test_a_reader_that_reads_one_line_and_leaves_is_no_error(tmp_path: Path, command: str) -> None:
    verb, *options = command.split()
    words = " ".join(
        [str(COMMAND), verb, *([str(LTC)] if verb == "replay" and "--help" not in options else []), *options]
    )
    ran = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} | head -1"], capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=60, check=False
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(ran.stdout.splitlines()) == 1


@pytest.mark.parametrize("command", ["replay --digest", "config"])
def test_a_reader_that_has_left_before_the_first_line_is_no_error(tmp_path: Path, command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    verb, *options = command.split()
    words = [str(COMMAND), verb, *([str(LTC)] if verb == "replay" else []), *options]
    with open(writing, "wb") as gone:
        ran = subprocess.run(
            words,
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment(),
            timeout=60,
            check=False,
        )
    assert ran.stderr == ""
    assert ran.returncode in (0, 141), "neither an error of the check nor of the input"


# Terminals


def on_a_terminal(*arguments: object, folder: Path, width: int = 140, **settings: str) -> tuple[int, str]:
    """Run the command with stdout and stderr on a terminal; return its exit code and all that was written to it."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    changes = {"TERM": "xterm-256color", **settings}
    process = subprocess.Popen(
        [COMMAND, *(str(word) for word in arguments)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=folder,
        env=environment(**changes),
    )
    os.close(slave)
    written = bytearray()
    with process:
        while True:
            try:
                part = os.read(master, 65_536)
            except OSError:  # Linux says so when the last writer has left
                break
            if not part:
                break
            written += part
    os.close(master)
    return process.returncode, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())


def test_on_a_terminal_a_replay_shows_rates_features_and_signals(tmp_path: Path) -> None:
    code, shown = on_a_terminal("replay", QUOTES, TRADES, folder=tmp_path)
    assert code == 0
    words = (
        "tickfold", "binance_20240808_spot_trades.parquet", "trades 6,000", "quotes 26,275", "inputs/s", "newest features",
        "rsi_14", "BTC/USDT", "ETH/USDT", "newest signals", "moving_average_cross", "32,275 inputs of 2 keys",
    )  # fmt: skip
    assert [word for word in words if word not in shown] == []
    assert TRACEBACK not in shown


def test_a_narrow_terminal_is_no_error(tmp_path: Path) -> None:
    code, shown = on_a_terminal("replay", LTC, folder=tmp_path, width=20)
    assert code == 0
    assert "4,005 inputs" in shown.replace("\r\n", "")


def test_the_live_view_shows_the_newest_features_though_no_strategy_runs(tmp_path: Path) -> None:
    code, shown = on_a_terminal("replay", LTC, folder=tmp_path, TICKFOLD_STRATEGIES__RUN="[]")
    last = pq.read_table(LTC)["price"][-1].as_py()
    rows = [line for line in shown.splitlines() if re.search(r"binance +LTC/USDT", line) and "gap" not in line]
    assert code == 0
    assert rows
    assert f"{last:.6g}" in rows[-1], rows[-1]


def test_json_on_a_terminal_draws_nothing(tmp_path: Path) -> None:
    code, shown = on_a_terminal("replay", LTC, "--json", folder=tmp_path)
    assert code == 0
    assert json.loads(shown) == {"inputs": 4005, "sequence": 4005}


def test_an_audit_draws_its_progress_on_a_terminal_and_its_result_stays(tmp_path: Path) -> None:
    code, shown = on_a_terminal("audit", LTC, "--cuts", "2", "--to", "2025-06-21T12:50:00Z", folder=tmp_path)
    assert code == 0
    assert "2/2" in shown
    assert "nothing looks ahead: " in shown


def test_a_first_compile_says_so_in_plain_lines_where_stderr_is_no_terminal(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        '[features]\nviews = ["mine"]\n[strategies]\nrun = []\n[features.define.mine]\nfeatures = { a = "price" }\n'
    )
    done = tickfold("replay", LTC, "--json", cwd=tmp_path, TICKFOLD_CACHE_DIR=str(tmp_path / "cache"))
    assert done.code == 0
    assert json.loads(done.out)["inputs"] == 4005
    said = done.err.splitlines()
    assert [line.split(" (")[0].split(" in ")[0] for line in said] == [
        "tickfold: compiling 1 features of mine",
        "tickfold: compiled",
        "tickfold: compiling the ingress",
        "tickfold: compiled",
    ]
    assert "\x1b" not in done.err
    assert "\r" not in done.err


def test_a_cache_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "programs").mkdir(mode=0o777)
    (tmp_path / "programs").chmod(0o777)
    done = tickfold("replay", LTC, cwd=tmp_path, TICKFOLD_CACHE_DIR=str(tmp_path))
    assert (done.code, done.out, len(done.lines())) == (2, "", 1)
    assert "mode 777" in done.err


def test_the_configuration_as_json_is_that_of_the_structs() -> None:
    said: Any = json.loads(here("config", "--json").out)
    assert msgspec.convert(said, Config) == Config()
