"""`tickfold doctor` on machines and configurations with something wrong: it is found, named, and nothing is left behind."""

from __future__ import annotations

import argparse
import fcntl
import json
import re
import resource
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from engine.cli import checks
from engine.config import Config, load
from engine.doctor import (
    ClockCheck,
    Finding,
    check_packages,
    check_reserve,
    check_space,
    check_sync,
    filesystem,
    guarded,
    is_within,
)
from store.folder import DataFolder
from tests.daemons import Child, command
from tests.folding import COMMAND, environment

CHECKS = [
    "python", "packages", "event loop", "config", "plugins", "compiled programs", "processors", "memory", "open files", "data folder",
    "disk space", "reserving", "disk sync", "journal", "token", "port", "page", "clock",
]  # fmt: skip
FREE = {"TICKFOLD_SERVER__PORT": "0", "TICKFOLD_JOURNAL__RETENTION_MIB": "16"}


class Visit:
    """What the doctor said: exit code and findings by check."""

    def __init__(self, *words: str | Path, cwd: Path, **settings: str) -> None:
        done = command("doctor", "--json", *words, cwd=cwd, **{**FREE, **settings})
        assert done.stderr == "", done.stderr
        self.code = done.returncode
        self.said: dict[str, Any] = json.loads(done.stdout)
        self.findings = {found["check"]: found for found in self.said["findings"]}

    def of(self, check: str) -> tuple[str, str]:
        """Status and all words of one check."""
        found = self.findings[check]
        return found["status"], " ".join((found["found"], found["expected"], found["remedy"]))


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile what a start needs: whether that was done is one of the things that are looked at."""
    assert command("replay", "--json").returncode == 0


# A machine that is well


def test_where_all_is_well_it_says_so_in_one_line_a_check_and_leaves_nothing_behind(tmp_path: Path) -> None:
    before = tree(tmp_path)
    done = command("doctor", cwd=tmp_path, **FREE)
    *lines, last = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert [re.match(r"(?:ok  |warn)  (\S.{17}) \S", line)[1].strip() for line in lines] == CHECKS  # type: ignore[index]
    assert re.fullmatch(r"18 checks: 0 failed, \d+ with a warning", last)
    assert tree(tmp_path) == before


def test_json_is_one_document(tmp_path: Path) -> None:
    visit = Visit(cwd=tmp_path)
    assert visit.code == 0
    assert (visit.said["passed"], visit.said["failed"]) == (True, 0)
    assert list(visit.findings) == CHECKS
    assert set(visit.findings["python"]) == {"check", "status", "found", "expected", "remedy"}
    assert f"uvloop {metadata.version('uvloop')}" in visit.of("event loop")[1]
    assert visit.of("plugins")[1].startswith("moving_average_cross, order_flow_imbalance; views market, technical, ")
    assert visit.of("port") == ("ok", "127.0.0.1, any that is free  ")
    assert visit.of("compiled programs")[0] == "ok"


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", COMMAND, "doctor", "--help"], capture_output=True, text=True, env=environment(), check=True
    )  # fmt: skip
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert imported & {"numba", "numpy", "aiohttp", "msgspec"} == set()


# Folders


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter, which pytest's are not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def test_a_folder_that_cannot_be_written_fails(open_folder: Path) -> None:
    folder = open_folder / "data"
    folder.mkdir(mode=0o555)
    # Permissions do not hold for root: it looks as somebody else.
    script = """
        import os, sys
        from pathlib import Path
        from engine.doctor import check_folder
        if os.geteuid() == 0:
            os.setegid(65534)
            os.seteuid(65534)
        found = check_folder(Path(sys.argv[1]))
        print(found.status, found.found)
    """
    words = [sys.executable, "-c", textwrap.dedent(script), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), check=False)
    assert done.stdout.strip() == f"fail {folder}: Permission denied", done.stderr


def test_a_folder_that_cannot_be_made_fails_and_what_would_write_there_is_not_tried(tmp_path: Path) -> None:
    visit = Visit("--data", "/proc/tickfold", cwd=tmp_path)
    assert visit.code == 1
    status, said = visit.of("data folder")
    assert status == "fail"
    assert "/proc/tickfold (not made yet, in /proc): " in said
    assert "--data DIR names another" in said
    assert not {"reserving", "disk sync"} & set(visit.findings)


def test_a_file_in_the_place_of_the_data_folder_fails(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    visit = Visit(cwd=tmp_path)
    assert visit.code == 1
    assert visit.of("data folder")[0] == "fail"


def test_a_disk_too_small_for_what_is_to_be_kept_is_a_warning_and_for_two_segments_a_failure(tmp_path: Path) -> None:
    visit = Visit(cwd=tmp_path, TICKFOLD_JOURNAL__RETENTION_MIB=str(1 << 40))
    assert (visit.code, visit.of("disk space")[0]) == (0, "warn")
    assert "journal.retention_mib" in visit.of("disk space")[1]
    assert check_space(tmp_path, 1 << 60, 0, 0).status == "fail"
    assert check_space(tmp_path, 1 << 20, 1 << 60, 1 << 60).status in ("ok", "warn")


def test_reserving_and_syncing_are_measured_and_leave_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "made"
    assert check_reserve(folder, 64 << 20).status in ("ok", "warn")
    found = check_sync(folder, "interval")
    assert re.fullmatch(r"f\w+sync takes [\d.]+ ms, [\d.]+ at most \(journal.fsync = 'interval'\)", found.found)
    assert tree(tmp_path) == set()


@pytest.mark.skipif(not Path("/proc/mounts").exists(), reason="only Linux says what is mounted in /proc")
def test_file_systems_are_known_by_the_deepest_mount() -> None:
    assert filesystem(Path("/proc/tickfold/data")) == "proc"
    assert filesystem(Path("/")) != ""
    if Path("/dev/shm").is_dir():
        found = check_space(Path("/dev/shm/data"), 1 << 12, 1 << 12, 0)
        assert (found.status, found.expected) == ("warn", "a disk")


# Configuration, plugins, programs


def test_a_wrong_configuration_fails_with_its_own_words_and_the_other_checks_go_on(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[store]\nring_row = 64\n")
    visit = Visit(cwd=tmp_path)
    assert visit.code == 1
    assert visit.of("config")[0] == "fail"
    assert "config.toml: store.ring_row = 64: no such key; did you mean ring_rows?" in visit.of("config")[1]
    assert list(visit.findings) == CHECKS


def test_it_says_which_file_and_which_variables_set_what_but_not_their_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text('[engine]\nseed = 3\n[server]\ntoken_file = "mine"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TICKFOLD_ENGINE__BUS_LIMIT", "77")
    monkeypatch.setenv("TICKFOLD_CACHE_DIR", "elsewhere")
    config, found = checks.check_config(argparse.Namespace(config=None))
    assert (config.engine.seed, config.engine.bus_limit) == (3, 77)
    expected = "config.toml sets engine.seed, server.token_file; the environment sets TICKFOLD_ENGINE__BUS_LIMIT"
    assert (found.status, found.found) == ("ok", expected)


def test_strategies_and_views_that_do_not_load_fail(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import nothing_of_this_name\n")
    for key in ("STRATEGIES__RUN", "FEATURES__VIEWS"):
        found = checks.check_plugins(load(None, {f"TICKFOLD_{key}": str(tmp_path / "mine.py")}))
        assert found.status == "fail"
        assert "nothing_of_this_name" in found.found


def test_programs_that_are_not_compiled_are_a_warning_and_no_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checks.check_cache(Config()).status == "ok"
    monkeypatch.setenv("TICKFOLD_CACHE_DIR", str(tmp_path / "cache"))
    found = checks.check_cache(Config())
    assert found.status == "warn"
    assert "the first start compiles them" in found.remedy
    assert tree(tmp_path) == set()


def test_a_folder_of_programs_that_others_may_write_to_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs").chmod(0o777)
    monkeypatch.setenv("TICKFOLD_CACHE_DIR", str(tmp_path))
    found = checks.check_cache(Config())
    assert found.status == "fail"
    assert "mode 777" in found.found


# Port and token


def test_a_port_that_another_program_holds_fails_and_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        visit = Visit(cwd=tmp_path, TICKFOLD_SERVER__PORT=str(port))
    assert visit.code == 1
    status, said = visit.of("port")
    assert status == "fail"
    assert f"127.0.0.1:{port} is held by another program" in said
    assert "TICKFOLD_SERVER__PORT" in said


def test_an_address_beyond_this_machine_fails_unless_it_is_allowed() -> None:
    alone = {"TICKFOLD_SERVER__HOST": "0.0.0.0", "TICKFOLD_SERVER__PORT": "0"}
    assert checks.check_port(load(None, alone)).status == "fail"
    assert checks.check_port(load(None, {**alone, "TICKFOLD_SERVER__ALLOW_REMOTE": "true"})).status == "ok"


def test_a_token_that_others_can_read_fails(tmp_path: Path) -> None:
    token = tmp_path / "data" / "token"
    token.parent.mkdir()
    token.write_text("0123456789abcdef0123456789abcdef\n")
    token.chmod(0o644)
    visit = Visit(cwd=tmp_path)
    assert (visit.code, visit.of("token")[0]) == (1, "fail")
    assert "mode 0644" in visit.of("token")[1]
    assert "0123456789" not in json.dumps(visit.said)
    for mode, status in ((0o640, "fail"), (0o606, "fail"), (0o600, "ok"), (0o400, "ok")):
        token.chmod(mode)
        assert checks.check_token(Config(), DataFolder(token.parent)).status == status
    named = load(None, {"TICKFOLD_SERVER__TOKEN_FILE": str(tmp_path / "none")})
    assert (
        checks.check_token(named, DataFolder(token.parent)).found
        == f"{tmp_path / 'none'}: made at the first start, mode 0600"
    )
    assert not (tmp_path / "none").exists()


def test_a_running_daemon_is_found_by_its_port_and_its_lock(tmp_path: Path) -> None:
    with Child(tmp_path / "data", FEEDS__REPLAY_SPEED="20.0") as child:
        child.wait_for_sequence(50)
        visit = Visit(cwd=tmp_path, TICKFOLD_SERVER__PORT=child.url.rstrip("/").rpartition(":")[2])
        assert visit.code == 0, visit.said
        assert re.search(r": tickfold \S+ serves there, \w+, at sequence [\d,]+", visit.of("port")[1])
        assert f"in use by process {child.process.pid}" in visit.of("journal")[1]
        sequence = child.stop()["sequence"]
    folder = DataFolder(tmp_path / "data")
    after = checks.check_data(folder)
    assert after.status == "ok"
    assert f"stopped at {sequence:,}" in after.found
    assert f"the newest at {sequence:,} of " in after.found
    (snapshot,) = (tmp_path / "data" / "snapshots").glob("*.snap")
    snapshot.write_bytes(snapshot.read_bytes()[:100])
    broken = checks.check_data(folder)
    assert broken.status == "warn"
    assert snapshot.name in broken.found


def test_a_lock_is_seen_where_the_system_has_no_list_of_them(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert checks.holder_of(lock) is None
    lock.write_text("4711\n")
    assert checks.holder_of(lock) is None
    with lock.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert checks.holder_of(lock) == "4711"
        with lock.open("rb") as other:
            assert checks._cannot_lock(other.fileno())
    with lock.open("rb") as other:
        assert not checks._cannot_lock(other.fileno())


# The machine


def test_few_open_files_are_a_warning(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    done = subprocess.run(
        [COMMAND, "doctor", "--json"], capture_output=True, cwd=tmp_path, env=environment(**FREE), preexec_fn=limit, check=False
    )  # fmt: skip
    (found,) = [found for found in json.loads(done.stdout)["findings"] if found["check"] == "open files"]
    assert (found["status"], found["found"]) == ("warn", "200")
    assert found["remedy"].startswith("ulimit -n 1024")


def test_a_wall_clock_that_is_moved_meanwhile_is_a_warning() -> None:
    check = ClockCheck()
    assert check.look().status in ("ok", "warn")
    check._began -= 50_000_000
    found = check.look()
    assert found.status == "warn"
    assert "moved +50." in found.found or "moved +49." in found.found


def test_a_check_that_breaks_is_a_finding_and_no_reason_to_stop() -> None:
    def broken() -> Finding:
        raise RuntimeError("no")

    assert guarded("mine", broken) == Finding(
        "mine", "fail", "RuntimeError: no", "a check that can be made", "report this"
    )


def test_packages_that_are_missing_or_of_other_versions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy<3,>=2.1", "msgspec>=999", "nothing-of-this-name>=1", 'pytest>=1; extra == "dev"']
    monkeypatch.setattr(metadata, "requires", lambda _: wanted)
    missing = check_packages()
    assert (missing.status, missing.found) == ("fail", "not installed: nothing-of-this-name>=1")
    wanted.remove("nothing-of-this-name>=1")
    outside = check_packages()
    assert (outside.status, outside.found) == ("warn", f"msgspec {metadata.version('msgspec')} (expected >=999)")
    wanted[:] = ["numpy", "metaflow-card-uplot==1.0.0"]
    monkeypatch.setattr(metadata, "version", version_without_uplot)
    assert check_packages().status == "warn"


def version_without_uplot(name: str) -> str:
    if name == "metaflow-card-uplot":
        raise metadata.PackageNotFoundError(name)
    return "1.0"


numbers = st.lists(st.integers(0, 30), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))
ranges = st.lists(st.tuples(st.sampled_from([">=", "<=", "==", "!=", ">", "<"]), numbers).map("".join), max_size=3)


@given(numbers, ranges)
def test_ranges_mean_what_packaging_says_they_mean(version: str, wanted: list[str]) -> None:
    assert is_within(version, ",".join(wanted)) == SpecifierSet(",".join(wanted)).contains(version)


@pytest.mark.parametrize(
    ("version", "wanted"),
    [("2.4.1", "~=2.1"), ("3.0", "~=2.1"), ("2.1.5", "~=2.1.2"), ("2.2", "~=2.1.2"), ("1.0.7", "==1.0.*"), ("1.1", "==1.0.*"), ("1.1", "!=1.0.*")],
)  # fmt: skip
def test_compatible_and_wildcard_ranges_too(version: str, wanted: str) -> None:
    assert is_within(version, wanted) == SpecifierSet(wanted).contains(version)
