"""No pipe, device or oversized file is read, whatever its name and the door: nothing hangs, nothing fills memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.experiments.world import ColourEncoder, make_world
from vlmadapt import files
from vlmadapt.data import check_dataset, extract_features, load_dataset
from vlmadapt.errors import FileError
from vlmadapt.files import open_file, read_bytes, read_json, read_metadata, read_tensors, read_text, sha256_of_file
from vlmadapt.pictures import Identity, Kind, identify, kind_of, read
from vlmadapt.pictures.identity import Known
from vlmadapt.pictures.read import contents, digest_of
from vlmadapt.provenance.place import LOCK, hold
from vlmadapt.weights import read_pair

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def link_to_pipe(path: Path) -> Path:
    path.symlink_to(pipe(path.with_name("pipe")))
    return path


def link_to_zeros(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


SPECIAL = (pipe, link_to_pipe, link_to_zeros)
DOORS: dict[str, Callable[[Path], Any]] = {
    "bytes": read_bytes,
    "text": read_text,
    "json": read_json,
    "tensors": read_tensors,
    "metadata": read_metadata,
    "sha256": sha256_of_file,
    "picture": read,
    "identity": identify,
    "known": lambda path: Known([(Identity("0", "1x1:0"), "a")]).name_of(path),
    "picture's bytes": contents,
    "picture's sha256": digest_of,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_ordinary_file_is_refused(door, special, tmp_path):
    path = special(tmp_path / "a.jpg")
    with pytest.raises(FileError, match=r"a\.jpg is a pipe, a socket or a device, .*: give an ordinary file\.$"):
        DOORS[door](path)


@pytest.mark.parametrize("special", SPECIAL)
def test_a_folder_s_listing_does_not_wait_for_a_pipe(special, tmp_path):
    assert kind_of(special(tmp_path / "no_ending")) is Kind.NONE


@pytest.mark.parametrize("special", SPECIAL)
def test_a_data_set_with_a_special_file_names_it(special, tmp_path):
    world = make_world(tmp_path / "world")
    (place,) = sorted((world / "train").iterdir())[:1]
    path = place / "zz.png"
    path.symlink_to(special(tmp_path / "elsewhere.png"))
    dataset = load_dataset(world)
    assert path in {sample.path for sample in dataset.train}
    with pytest.raises(FileError, match=r"zz\.png is a pipe"):
        extract_features(ColourEncoder(), [sample.path for sample in dataset.train], progress=False)
    assert any("zz.png is a pipe" in line for line in check_dataset(world, progress=False).lines())


def test_special_adapter_files(tmp_path):
    (tmp_path / "adapter.json").write_text(json.dumps({"format_version": 1, "tensors_sha256": ""}))
    pipe(tmp_path / "adapter.safetensors")
    with pytest.raises(FileError, match=r"adapter\.safetensors is a pipe"):
        read_pair(tmp_path)


def test_a_pipe_put_in_the_place_of_a_file_is_not_waited_for(tmp_path, monkeypatch):
    """Between the look and the opening; without O_NONBLOCK this hangs."""
    path, other = pipe(tmp_path / "a.jpg"), tmp_path / "b.jpg"
    other.write_bytes(b"x")
    ordinary = other.stat()
    with monkeypatch.context() as patch, pytest.raises(FileError, match=r"a\.jpg is a pipe"):
        patch.setattr(os, "stat", lambda _: ordinary)
        read_bytes(path)


def test_folders_are_still_named_as_folders(tmp_path):
    with pytest.raises(FileError, match=r"^could not read .*: Is a directory\.$"), open_file(tmp_path):
        pass


def sparse(path: Path, size: int) -> Path:
    with open(path, "wb") as stream:
        stream.truncate(size)
    return path


@pytest.mark.parametrize("door", ["picture", "identity", "known", "picture's bytes", "picture's sha256"])
def test_a_picture_file_too_large_is_refused_before_it_is_read(door, tmp_path):
    path = sparse(tmp_path / "vast.jpg", 1 << 40)
    with pytest.raises(FileError, match=r"vast\.jpg has 1,099,511,627,776 bytes, more than the 1,073,741,824"):
        DOORS[door](path)


@pytest.mark.parametrize("door", ["text", "json"])
def test_a_text_too_large_is_refused_before_it_is_read(door, tmp_path):
    with pytest.raises(FileError, match=r"vast\.csv has 1,099,511,627,776 bytes, more than the 1,073,741,824"):
        DOORS[door](sparse(tmp_path / "vast.csv", 1 << 40))


def test_the_limit_itself_is_read(tmp_path):
    path = sparse(tmp_path / "a", 10)
    assert len(read_bytes(path, 10)) == 10
    with pytest.raises(FileError, match="has 10 bytes, more than the 9 "):
        read_bytes(path, 9)


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path):
    """It came with the folder; writing into it would replace what the user has elsewhere."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(FileError, match="run cannot be written"), hold(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_result_that_is_a_link_replaces_the_link(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "results.json").symlink_to(tmp_path / "precious")
    files.write_text(tmp_path / "results.json", "new")
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "results.json").is_symlink() and (tmp_path / "results.json").read_text() == "new"
