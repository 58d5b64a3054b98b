"""Models on disk are read only by whom they belong to, whole, and by the versions that wrote them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from engine.errors import ModelError
from engine.models.worker_files import (
    FileHead,
    own_folder,
    path_of,
    prune_models,
    read_model,
    remove_unfinished,
    suffix_of,
    versions,
    write_model,
)
from engine.models.worker_messages import ArmName

ARM = ArmName("mine", "1", "x", "BTC/USDT")
HEAD = FileHead(ARM, "definition", 12, 34, versions(), ())
ARRAYS = {"weights": np.arange(6.0).reshape(2, 3), "pickle": np.frombuffer(b"abc", np.uint8), "none": np.empty(0)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = path_of(own_folder(tmp_path / "models"), ARM, suffix_of(12))
    write_model(found, HEAD, ARRAYS)
    return found


def test_what_was_written_is_read(path: Path) -> None:
    head, arrays = read_model(path, ARM)
    assert (head.arm, head.sequence, head.learned, head.definition) == (ARM, 12, 34, "definition")
    assert {name: array.tolist() for name, array in arrays.items()} == {
        name: array.tolist() for name, array in ARRAYS.items()
    }
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize("what", ["the file", "the folder"])
def test_what_others_could_have_written_is_not_read(path: Path, what: str) -> None:
    (path if what == "the file" else path.parent).chmod(0o755)
    with pytest.raises(ModelError, match="lets others in"):
        read_model(path, ARM)


def test_a_folder_that_others_may_enter_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(ModelError, match="0755"):
        own_folder(tmp_path / "open")


def test_a_link_is_not_followed(path: Path) -> None:
    target = path.rename(path.with_name("elsewhere"))
    path.symlink_to(target)
    with pytest.raises(ModelError, match="plain file"):
        read_model(path, ARM)


@pytest.mark.parametrize("change", ["cut", "flipped", "empty"])
def test_what_is_not_whole_is_refused(path: Path, change: str) -> None:
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {"cut": data[:-1], "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], "empty": b""}[
            change
        ]
    )
    with pytest.raises(ModelError):
        read_model(path, ARM)


def test_another_version_of_river_does_not_read_it(path: Path) -> None:
    write_model(path, msgspec.structs.replace(HEAD, versions="river 0.1, python 3.0"), ARRAYS)
    with pytest.raises(ModelError, match=r"river 0\.1"):
        read_model(path, ARM)


def test_a_file_is_of_one_arm(path: Path) -> None:
    with pytest.raises(ModelError, match="of mine 1 x BTC/USDT"):
        read_model(path, ARM._replace(version="2"))


def test_names_of_symbols_make_no_folders(tmp_path: Path) -> None:
    path = path_of(tmp_path, ArmName("mine", "1", "..", "../a b"), suffix_of(1))
    assert path.parent == tmp_path


def test_models_go_with_their_snapshots(tmp_path: Path) -> None:
    folder = own_folder(tmp_path / "models")
    for sequence in (1, 2, 3, 9):
        write_model(path_of(folder, ARM, suffix_of(sequence)), HEAD, ARRAYS)
    write_model(path_of(folder, ARM, "checkpoint.model"), HEAD, ARRAYS)
    path_of(folder, ARM, f"{suffix_of(1)}.part").touch()
    prune_models(folder, [2, 3])  # 9 belongs to a snapshot that is being written
    assert sorted(path.name.rpartition("-")[2] for path in folder.iterdir()) == [
        suffix_of(2),
        suffix_of(3),
        suffix_of(9),
        "checkpoint.model",
    ]


def test_what_a_killed_process_had_begun_is_deleted(path: Path) -> None:
    path.with_name(f"{path.name}.part").touch()
    remove_unfinished(path.parent)
    assert [*path.parent.iterdir()] == [path]
