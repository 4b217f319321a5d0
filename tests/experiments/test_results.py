from __future__ import annotations

import csv
import json
import statistics
from dataclasses import replace

import pytest

from vlmadapt.errors import FileError
from vlmadapt.experiments.protocols import FewVal
from vlmadapt.experiments.results import Cell, ProtocolResults
from vlmadapt.provenance.versions import public_name, versions

ACCURACY = {("zero-shot", 1): [0.3, 0.3, 0.3], ("tip-adapter", 1): [0.4, 0.5, 0.45]}


def results(accuracy=None) -> ProtocolResults:
    accuracy = accuracy or ACCURACY
    cells = [
        Cell(
            method=method,
            adapter=method,
            shots=shots,
            seed=seed,
            split_hash=f"hash{seed}",
            val_accuracy=0.5,
            values={"accuracy": value},
            trainable_parameters=10 * shots,
            fit_seconds=1.0 + seed,
            peak_memory_mib=100.0 + seed,
            selected={"beta": 2.0},
        )
        for (method, shots), values in accuracy.items()
        for seed, value in enumerate(values)
    ]
    seeds = range(max(map(len, accuracy.values())))
    return ProtocolResults(
        dataset={"name": "toys", "classes": 3, "split_hash": "abc", "test": 7},
        encoder={"name": "colours", "fingerprint": "f00d", "width": 4, "logit_scale": 20.0},
        protocol={"seeds": list(seeds), "shots": [1], "views": 1, "precision": "fp32", "selection": FewVal().words},
        versions=versions(),
        methods={method: {"epochs": 3} for method, _ in accuracy},
        cells=tuple(cells),
    )


def test_mean_and_sample_deviation():
    summary = results().of("tip-adapter", 1)
    assert summary.mean == pytest.approx(0.45)
    assert summary.std == pytest.approx(0.05)  # the population's deviation would be .041
    assert summary.fit_seconds == statistics.fmean([1, 2, 3])
    assert summary.peak_memory_mib == 102.0


def test_one_seed_has_no_deviation():
    assert results({("zero-shot", 1): [0.3]}).of("zero-shot", 1).std is None


def test_files_hold_what_reproducing_needs(tmp_path):
    json_path, csv_path = results().save(tmp_path)
    value = json.loads(json_path.read_text())
    assert value["versions"].keys() == {"vlmadapt", "torch", "python", "platform"}
    assert "validation" in value["protocol"]["selection"] and "read once" in value["protocol"]["selection"]
    assert value["dataset"]["split_hash"] == "abc" and value["encoder"]["fingerprint"] == "f00d"
    assert value["methods"]["tip-adapter"] == {"epochs": 3}
    with open(csv_path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6
    last = rows[-1]
    assert (last["method"], last["seed"], last["split_hash"]) == ("tip-adapter", "2", "hash2")
    assert json.loads(last["config"]) == {"epochs": 3} and json.loads(last["selected"]) == {"beta": 2.0}
    assert all(last[name] for name in last)


def test_results_read_back_equal(tmp_path):
    saved = results()
    saved.save(tmp_path)
    assert ProtocolResults.load(tmp_path) == saved


def test_a_foreign_file_is_named(tmp_path):
    (tmp_path / "results.json").write_text('{"cells": [{"speed": 1}]}')
    with pytest.raises(FileError, match=r"results\.json is not a results file"):
        ProtocolResults.load(tmp_path)


def test_nothing_names_the_folder_of_a_checkpoint():
    assert public_name("open_clip:ViT-B-32@/home/someone/w.safetensors") == "open_clip:ViT-B-32@w.safetensors"
    assert public_name("open_clip:ViT-B-32/laion2b") == "open_clip:ViT-B-32/laion2b"
    assert public_name("embedded") == "embedded"


def test_differences_of_every_pair_are_written_once(tmp_path):
    three = {(name, 1): [0.3 + 0.1 * number, 0.4] for number, name in enumerate(("ncm", "gda", "proker"))}
    several = results(three)
    assert [(gain.method, gain.reference) for gain in several.pairs()] == [
        ("gda", "ncm"),
        ("proker", "ncm"),
        ("proker", "gda"),
    ]
    several.save(tmp_path)
    with open(tmp_path / "differences.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["difference"]) for row in rows] == pytest.approx([0.05, 0.1, 0.05])
    assert rows[0]["low"] == ""  # which pictures were right was not kept
    results({("ncm", 1): [0.3]}).save(tmp_path)
    assert not (tmp_path / "differences.csv").exists()


def test_the_method_that_differences_are_taken_to_can_be_named():
    found = results()
    assert found.reference == "zero-shot"
    asked = replace(found, protocol={**found.protocol, "against": "tip-adapter"})
    assert asked.reference == "tip-adapter" and [gain.method for gain in asked.gains()] == ["zero-shot"]
