from __future__ import annotations

import pytest
import torch

from tests.experiments.world import TIP, ColourEncoder, make_world
from vlmadapt.data import Extraction, load_dataset
from vlmadapt.errors import FileError
from vlmadapt.experiments.protocol import run_protocol
from vlmadapt.experiments.results import ProtocolResults
from vlmadapt.experiments.rights import pack, unpack
from vlmadapt.files import read_json, write_versioned
from vlmadapt.seals import without_seal


@pytest.mark.parametrize("pictures", [0, 1, 7, 8, 9, 1155])
def test_what_is_packed_is_unpacked(pictures):
    right = torch.rand(pictures, generator=torch.Generator().manual_seed(0)) < 0.6
    assert torch.equal(unpack(pack(right), pictures), right)


@pytest.mark.parametrize("text", ["", "/w==", "AAA=", "no base64"])
def test_a_text_of_other_pictures_is_refused(text):
    with pytest.raises(ValueError, match="run again what wrote it"):
        unpack(text, 5)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    dataset = load_dataset(make_world(tmp_path_factory.mktemp("data") / "world"))
    return run_protocol(ColourEncoder(), dataset, ["zero-shot", TIP], (1, 2), (0, 1), extraction=Extraction())


def test_results_keep_which_pictures_were_right(results, tmp_path):
    results.save(tmp_path)
    loaded = ProtocolResults.load(tmp_path)
    for cell in loaded.cells:
        right = loaded.right(cell)
        assert right is not None
        assert len(right) == results.dataset["test"]
        assert float(right.double().mean()) == cell.values["accuracy"]


def test_training_pictures_are_told_apart_from_validation_pictures(results):
    cells = {(cell.shots, cell.seed): cell for cell in results.cells}
    assert len({cell.train_hash for cell in cells.values()} | {cell.split_hash for cell in cells.values()}) == 8


def test_results_without_pictures_are_read(results, tmp_path):
    path, _ = results.save(tmp_path)
    value = read_json(path)
    for cell in value["cells"]:
        del cell["right"], cell["train_hash"]
    write_versioned(path, without_seal(value), value["format"])
    loaded = ProtocolResults.load(tmp_path)
    assert all(loaded.right(cell) is None for cell in loaded.cells)


def test_bits_of_another_number_of_pictures_are_damage(results, tmp_path):
    path, _ = results.save(tmp_path)
    value = read_json(path)
    value["cells"][0]["right"] += "AAAA"
    write_versioned(path, without_seal(value), value["format"])
    with pytest.raises(FileError, match=r"results\.json"):
        ProtocolResults.load(tmp_path)
