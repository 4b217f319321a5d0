from __future__ import annotations

import csv
import json
import shutil
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from tests.experiments.world import TIP, TIP_F, WIDTH, ColourEncoder, make_world
from vlmadapt.adapters import Adapter
from vlmadapt.data import Extraction, FeatureCache, load_dataset, sample_shots
from vlmadapt.errors import InputError
from vlmadapt.experiments import measures, protocol
from vlmadapt.experiments.features import FeatureTable
from vlmadapt.experiments.protocol import run_protocol
from vlmadapt.experiments.protocols import PROTOCOLS
from vlmadapt.experiments.results import ProtocolResults
from vlmadapt.experiments.single import fit_classifier
from vlmadapt.experiments.store import FitKey, FolderFits
from vlmadapt.provenance.identity import file_name, file_name_of_0_1_0
from vlmadapt.provenance.settings import parse_method
from vlmadapt.reporting.table import protocol_table

QUIET = Extraction(progress=False)
METHODS = ["zero-shot", TIP, TIP_F]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return load_dataset(make_world(tmp_path_factory.mktemp("data") / "world"))


def run(dataset, methods=METHODS, shots=(1, 2), seeds=(0, 1), encoder=None, **options):
    return run_protocol(encoder or ColourEncoder(), dataset, methods, shots, seeds, extraction=QUIET, **options)


class Recorder:
    """Notes, in order, what is extracted and what each fit is given."""

    def __init__(self, monkeypatch):
        self.events: list[tuple[str, Any]] = []
        extract, fit = Extraction.extract, Adapter.fit

        def recording_extract(extraction, encoder, paths, views=1, each_view=False):
            self.events.append(("extract", list(paths)))
            return extract(extraction, encoder, paths, views, each_view)

        def recording_fit(adapter, *args, **options):
            self.events.append(("fit", args))
            return fit(adapter, *args, **options)

        monkeypatch.setattr(Extraction, "extract", recording_extract)
        monkeypatch.setattr(Adapter, "fit", recording_fit)


def test_the_test_split_is_read_once_after_the_last_fit(dataset, monkeypatch):
    recorder = Recorder(monkeypatch)
    run(dataset)
    test_paths = {sample.path for sample in dataset.test}
    reads = [i for i, (what, paths) in enumerate(recorder.events) if what == "extract" and test_paths & set(paths)]
    fits = [i for i, (what, _) in enumerate(recorder.events) if what == "fit"]
    assert len(fits) == len(METHODS) * 4
    assert len(reads) == 1
    assert reads[0] > fits[-1]


def test_no_fit_is_given_a_test_feature(dataset, monkeypatch):
    recorder = Recorder(monkeypatch)
    encoder = ColourEncoder()
    run(dataset, encoder=encoder)
    test = QUIET.extract(encoder, [sample.path for sample in dataset.test])
    for what, args in recorder.events:
        if what == "fit":
            train, _, val, _ = args
            assert torch.cdist(torch.cat([train, val]), test).min() > 1e-4


def test_wrong_test_labels_change_nothing_but_the_test_accuracy(dataset):
    wrong = replace(dataset, test=tuple(replace(one, label=(one.label + 1) % 4) for one in dataset.test))
    right_cells, wrong_cells = run(dataset).cells, run(wrong).cells
    for right_cell, wrong_cell in zip(right_cells, wrong_cells, strict=True):
        assert right_cell.values["accuracy"] + wrong_cell.values["accuracy"] <= 1.0
        assert right_cell.values["accuracy"] > wrong_cell.values["accuracy"]
        for name in ("val_accuracy", "selected", "split_hash"):
            assert getattr(right_cell, name) == getattr(wrong_cell, name)


def test_every_method_sees_the_same_pictures_and_each_is_encoded_once(dataset, monkeypatch):
    recorder = Recorder(monkeypatch)
    encoder = ColourEncoder()
    results = run(dataset, encoder=encoder)
    given = [args for what, args in recorder.events if what == "fit"]
    for first in range(0, len(given), len(METHODS)):
        group = given[first : first + len(METHODS)]
        assert all(torch.equal(a, b) for other in group[1:] for a, b in zip(group[0], other, strict=True))
    splits = [sample_shots(dataset, shots, seed) for shots in (1, 2) for seed in (0, 1)]
    needed = {sample.path for split in splits for sample in (*split.train, *split.val)}
    assert encoder.pictures_encoded == len(needed) + len(dataset.test)
    assert {cell.split_hash for cell in results.cells} == {split.split_hash for split in splits}


def test_the_accuracies_are_those_of_the_adapters_themselves(dataset):
    encoder = ColourEncoder()
    cell = run(dataset, ["zero-shot"], (1,), (0,), encoder).cells[0]
    features = QUIET.extract(encoder, [sample.path for sample in dataset.test])
    text = encoder.encode_texts([f"a photo of a {name}." for name in dataset.class_names])
    labels = torch.tensor([sample.label for sample in dataset.test])
    assert cell.values["accuracy"] == pytest.approx(float(((features @ text.T).argmax(1) == labels).double().mean()))
    assert 0 < cell.values["accuracy"] < 1


class StopHere(Exception):
    pass


def stop_after(count):
    lines = []

    def report(line):
        lines.append(line)
        if len(lines) == count:
            raise StopHere

    return report


def comparable(results):
    return [{**asdict(cell), "fit_seconds": 0, "peak_memory_mib": 0} for cell in results.cells]


def test_an_interrupted_comparison_goes_on_to_the_same_results(dataset, tmp_path, monkeypatch):
    whole = run(dataset)
    with pytest.raises(StopHere):
        run(dataset, fits=FolderFits(tmp_path), report=stop_after(5))
    recorder = Recorder(monkeypatch)
    resumed = run(dataset, fits=FolderFits(tmp_path))
    assert sum(what == "fit" for what, _ in recorder.events) == len(METHODS) * 4 - 5
    assert comparable(resumed) == comparable(whole)


def test_a_kept_fit_of_other_data_or_weights_is_not_reused(dataset, tmp_path, monkeypatch):
    fits = FolderFits(tmp_path)
    run(dataset, [TIP], (1,), (0,), fits=fits)
    recorder = Recorder(monkeypatch)
    run(dataset, [TIP], (1,), (0,), fits=fits)
    assert not any(what == "fit" for what, _ in recorder.events)
    run(dataset, [TIP], (1,), (0,), ColourEncoder("2"), fits=fits)
    assert sum(what == "fit" for what, _ in recorder.events) == 1


def test_a_kept_fit_can_be_loaded(dataset, tmp_path):
    fits = FolderFits(tmp_path)
    results = run(dataset, [TIP_F], (1,), (0,), fits=fits)
    key = FitKey(TIP_F, 1, 0)
    assert fits.measures(key).val_accuracy == results.cells[0].val_accuracy
    assert fits.get(key).config.epochs == 2
    assert not fits.checkpoint_dir(key).exists()
    run(dataset, ["zero-shot"], (1,), (0,), fits=fits)
    fits.remove(results)
    assert [path.name for path in tmp_path.iterdir()] == ["zero-shot"]  # that of another run stays


def test_averaged_views_are_for_training_pictures_only(dataset):
    encoder = ColourEncoder()
    run_protocol(encoder, dataset, [TIP], (1,), (0,), extraction=Extraction(views=3, progress=False))
    split = sample_shots(dataset, 1, 0)
    assert encoder.pictures_encoded == 3 * len(split.train) + len(split.val) + len(dataset.test)


def test_each_view_is_a_sample_where_a_method_says_so(dataset, monkeypatch):
    recorder, encoder = Recorder(monkeypatch), ColourEncoder()
    views = Extraction(views=3, progress=False)
    run_protocol(encoder, dataset, [TIP, f"{TIP}:each_view=yes"], (2,), (0,), extraction=views)
    (mean, _, val, _), (each, _, same, _) = [args for what, args in recorder.events if what == "fit"]
    assert mean.shape == (8, WIDTH) and each.shape == (8, 3, WIDTH) and torch.equal(val, same)
    plain = FeatureTable(encoder, dataset.train, QUIET).of(sample_shots(dataset, 2, 0).train).features
    torch.testing.assert_close(each[:, 0], plain)


def test_validation_pictures_have_views_where_they_are_trained_on(dataset, monkeypatch):
    given = []

    def recording_fit(adapter, *args, **options):
        given.append(args)
        return adapter.fit(*args)

    monkeypatch.setattr(Adapter, "fit_on_all", recording_fit)
    views = Extraction(views=3, progress=False)
    run_protocol(
        ColourEncoder(), dataset, [f"{TIP}:each_view=yes"], (2,), (0,), extraction=views, protocol=PROTOCOLS["k-fold"]()
    )
    assert [args[2].shape for args in given] == [(8, 3, WIDTH)]


def test_a_classifier_of_views_votes_by_pictures(dataset):
    method, views = parse_method(f"{TIP}:each_view=yes"), Extraction(views=3, progress=False)
    on_all = PROTOCOLS["k-fold"]()
    classifier = fit_classifier(ColourEncoder(), dataset, None, method, 2, 0, None, views, protocol=on_all)
    (prediction,) = classifier.predict([dataset.test[0].path], votes=100)
    pictures = [picture.name for picture in classifier.support]
    assert len(pictures) == 16 and sorted(vote.support.name for vote in prediction.votes) == sorted(pictures)
    assert sum(vote.share for vote in prediction.votes) == pytest.approx(1.0)


def test_each_view_of_one_is_refused(dataset):
    encoder = ColourEncoder()
    with pytest.raises(InputError, match="each_view is yes, but views is 1: give the number of views"):
        run_protocol(encoder, dataset, [f"{TIP}:each_view=yes"], (1,), (0,), extraction=QUIET)
    assert encoder.pictures_encoded == 0


def test_a_cache_gives_the_same_results(dataset, tmp_path):
    cached = Extraction(progress=False, cache=FeatureCache(tmp_path))
    encoder = ColourEncoder()
    first = run_protocol(encoder, dataset, [TIP], (1,), (0,), extraction=cached)
    encoded = encoder.pictures_encoded
    second = run_protocol(encoder, dataset, [TIP], (1,), (0,), extraction=cached)
    assert encoder.pictures_encoded == encoded
    assert comparable(first) == comparable(second)


@pytest.mark.parametrize(
    ("methods", "shots", "seeds", "named"),
    [
        ([], (1,), (0,), "adapters is empty"),
        (["tip-adapter"], (), (0,), "shots is empty"),
        (["tip-adapter"], (1,), (), "seeds is empty"),
        (["tip-adapter", "tip-adapter"], (1,), (0,), "'tip-adapter' twice"),
        (["tip-adaptor"], (1,), (0,), "tip-adaptor"),
        (["tip-adapter:speed=1"], (1,), (0,), "speed"),
        (["tip-adapter"], (0,), (0,), r"shots is \[0\]"),
        (["tip-adapter"], (1, 1), (0,), "different whole numbers"),
        (["tip-adapter"], (99,), (0,), "shots is 99"),
    ],
)
def test_bad_arguments_are_named_before_any_picture_is_read(dataset, methods, shots, seeds, named):
    encoder = ColourEncoder()
    with pytest.raises(InputError, match=named):
        run(dataset, methods, shots, seeds, encoder)
    assert encoder.pictures_encoded == 0


def test_fits_are_not_shared_between_equal_calls_in_memory(dataset):
    first, second = run(dataset, [TIP_F]), run(dataset, [TIP_F])
    assert comparable(first) == comparable(second)
    assert protocol.SHOTS == (1, 2, 4, 8, 16)


TASK_RES = [f"taskres:epochs=1:scale={scale}:search_scale=false" for scale in ("1e-1", "1e+1")]


def test_labels_that_look_alike_keep_their_own_fits(dataset, tmp_path):
    assert len({file_name_of_0_1_0(label) for label in TASK_RES}) == 1
    in_memory = run(dataset, TASK_RES, (2,), (0,))
    in_folder = run(dataset, TASK_RES, (2,), (0,), fits=FolderFits(tmp_path))
    assert [cell.values for cell in in_folder.cells] == [cell.values for cell in in_memory.cells]
    assert [FolderFits(tmp_path).get(FitKey(label, 2, 0)).config.scale for label in TASK_RES] == [0.1, 10.0]


def test_a_folder_of_0_1_0_serves_the_label_whose_fit_it_holds(dataset, tmp_path, monkeypatch):
    first, second = TASK_RES
    fits = FolderFits(tmp_path)
    run(dataset, [second], (1,), (0,), fits=fits)
    shutil.move(tmp_path / file_name(second), tmp_path / file_name_of_0_1_0(second))
    recorder = Recorder(monkeypatch)
    resumed = FolderFits(tmp_path)
    run(dataset, [first, second], (1,), (0,), fits=resumed)
    assert sum(what == "fit" for what, _ in recorder.events) == 1
    assert [resumed.get(FitKey(label, 1, 0)).config.scale for label in TASK_RES] == [0.1, 10.0]
    assert FolderFits(tmp_path).get(FitKey(second, 1, 0)).config.scale == 10.0


def test_a_further_measure_is_one_entry_and_reaches_every_file_and_the_table(dataset, tmp_path, monkeypatch):
    def wrong(logits, labels):
        return 1 - measures.accuracy(logits, labels)

    monkeypatch.setattr(measures, "MEASURES", {**measures.MEASURES, "errors": wrong})
    results = run(dataset, ("zero-shot", TIP), (1, 2), (0, 1))
    for cell in results.cells:
        assert cell.values["errors"] == pytest.approx(1 - cell.values["accuracy"])
    json_path, csv_path = results.save(tmp_path)
    assert ProtocolResults.load(tmp_path) == results
    assert all("test_errors" in cell and "values" not in cell for cell in json.loads(json_path.read_text())["cells"])
    with open(csv_path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["test_errors"]) for row in rows] == [cell.values["errors"] for cell in results.cells]
    table = protocol_table(results)
    assert table.header[1:5] == ["1 shot", "2 shots", "calibration error, 2 shots", "errors, 2 shots"]
    right, errors = (float(text.split()[0]) for text in (table.rows[1][2], table.rows[1][4]))
    assert right + errors == pytest.approx(100, abs=0.11) and right != errors
