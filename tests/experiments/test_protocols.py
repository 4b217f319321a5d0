from __future__ import annotations

import json
import re
import shutil
from typing import Any

import numpy as np
import pytest

import vlmadapt
from tests.experiments.test_protocol import Recorder
from tests.experiments.world import TIP, ColourEncoder, make_world
from vlmadapt.adapters import Adapter
from vlmadapt.data import Extraction, load_dataset, sample_shots
from vlmadapt.errors import InputError
from vlmadapt.experiments.protocol import run_protocol
from vlmadapt.experiments.protocols import PROTOCOLS, Cross, HeldOutShot, NoVal, Protocol, protocol_of
from vlmadapt.experiments.results import ProtocolResults
from vlmadapt.provenance.settings import Method
from vlmadapt.reporting.table import protocol_table
from vlmadapt.reporting.transfer import transfer_table

CLIP = "clip-adapter:epochs=2"
METHODS = ("zero-shot", TIP, CLIP)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("data") / "world")


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    """photo and sketch, each with the same classes in class folders without splits."""
    root = tmp_path_factory.mktemp("data") / "domains"
    for domain, count in (("photo", 10), ("sketch", 6)):
        made = make_world(root / "made", train=count, val=0, test=0)
        shutil.move(made / "train", root / domain)
        shutil.rmtree(made)
    return root


def run(dataset, protocol: Protocol, shots=(2,), seeds=(0, 1), methods=METHODS, **more: Any) -> ProtocolResults:
    return run_protocol(
        ColourEncoder(),
        dataset,
        methods,
        shots,
        seeds,
        extraction=Extraction(progress=False),
        protocol=protocol,
        **more,
    )


def compare(data, **options: Any) -> ProtocolResults:
    options = {"adapters": METHODS, "shots": (2,), "seeds": 2, "encoder": ColourEncoder(), "no_cache": True, **options}
    return vlmadapt.compare(data, **options)


def by_set(results: ProtocolResults, method: str) -> dict[str | None, str | None]:
    return {cell.tested_on: cell.answered_by for cell in results.cells if cell.method == method}


def test_no_val_gives_no_fit_a_validation_picture(world, monkeypatch):
    dataset = load_dataset(world)
    recorder = Recorder(monkeypatch)
    results = run(dataset, NoVal())
    assert all(args[2] is None and args[3] is None for what, args in recorder.events if what == "fit")
    assert all(cell.val_accuracy is None and cell.split_hash == cell.train_hash for cell in results.cells)
    assert results.protocol_name == "no-val" and "no validation images" in results.protocol["selection"]
    assert any("protocol no-val: no validation pictures" in note for note in protocol_table(results).notes)


def test_auto_is_said_to_train_on_what_chooses_where_something_does(world):
    auto = Method("auto", "auto", {"parts": ("zero-shot", "ncm-1"), "folds": 2})
    said = "Fitted on the validation pictures too: "
    for protocol, expected in ((HeldOutShot(), True), (NoVal(), False)):
        notes = protocol_table(run(load_dataset(world), protocol, methods=(auto,), seeds=(0,))).notes
        assert any(note.startswith(said) for note in notes) == expected


@pytest.mark.parametrize("shots", [1, 2, 4])
def test_a_held_out_shot_is_one_of_the_shots(world, shots):
    dataset = load_dataset(world)
    whole, split = sample_shots(dataset, shots, 3), HeldOutShot().draw(dataset, shots, 3)
    assert sorted((*split.train, *split.val), key=str) == sorted(whole.train, key=str)
    assert [sample.label for sample in split.val] == ([] if shots == 1 else [0, 1, 2, 3])
    assert len(split.train) == 4 * max(shots - 1, 1) and (split.split_hash == whole.split_hash) is False
    if shots == 1:
        no_val = NoVal().draw(dataset, 1, 3)
        assert (split.train, split.val, split.split_hash) == (no_val.train, no_val.val, no_val.split_hash)


def test_a_shot_that_cannot_be_held_out_is_said(world):
    lines: list[str] = []
    results = run(load_dataset(world), HeldOutShot(), (1, 2), report=lines.append)
    assert any("held-out-shot is no-val there" in line for line in lines)
    assert any("held-out-shot is no-val there" in note for note in protocol_table(results).notes)


def test_base_to_new_fits_base_alone_and_tests_both(world, monkeypatch, tmp_path):
    dataset = load_dataset(world)
    seen: set[Any] = set()
    fit = Adapter.fit

    def noting(adapter: Adapter, *args: Any, **more: Any) -> Adapter:
        seen.add(tuple(adapter.class_names))
        return fit(adapter, *args, **more)

    monkeypatch.setattr(Adapter, "fit", noting)
    results = run(dataset, protocol_of("base-to-new"))
    assert seen == {("apple", "fish")}
    assert results.test_sets == ("base", "new") and results.pictures("base") == results.pictures("new") == 8
    assert by_set(results, TIP) == {"base": None, "new": "zero-shot"}
    assert by_set(results, CLIP) == {"base": None, "new": None}
    zero = results.of("zero-shot", 2, tested_on="new")
    assert results.of(TIP, 2, tested_on="new").mean == zero.mean and zero.one_draw
    table = transfer_table(results)
    assert list(table.header) == ["method", "shots", "base", "new", "harmonic mean"]
    marked = {row[0]: row[3].endswith("*") for row in table.rows}
    assert marked == {"zero-shot": False, TIP: True, CLIP: False} and any(
        "zero-shot answered" in n for n in table.notes
    )
    base, new = (results.of("zero-shot", 2, tested_on=place).mean for place in ("base", "new"))
    harmonic = re.fullmatch(r"([0-9.]+) same \[([0-9.]+), ([0-9.]+)\]", table.rows[0][4])
    assert harmonic is not None and harmonic[1] == f"{100 * 2 * base * new / (base + new):.1f}"
    assert float(harmonic[2]) <= float(harmonic[1]) <= float(harmonic[3])
    results.save(tmp_path)
    assert ProtocolResults.load(tmp_path) == results
    value = json.loads((tmp_path / "results.json").read_text())
    assert value["protocol"]["protocol"] == "base-to-new" and {each["tested_on"] for each in value["summary"]} == {
        "base",
        "new",
    }


def test_the_odd_class_is_base(tmp_path):
    dataset = load_dataset(make_world(tmp_path, classes=("apple", "fish", "leaf", "sun")))
    base, new = protocol_of("base-to-new").tests(dataset)
    assert (base.dataset.class_names, new.dataset.class_names) == (("apple", "fish"), ("leaf", "sun"))
    three = dataset.only(("sun", "apple", "leaf"))
    assert three.class_names == ("sun", "apple", "leaf") and len(three.train) == 15
    assert {sample.path.parent.name for sample in three.train if sample.label == 0} == {"sun"}
    with pytest.raises(InputError, match="has 3 classes, too few for two halves"):
        protocol_of("base-to-new").check(three)


def test_cross_tests_other_classes(tmp_path):
    first = load_dataset(make_world(tmp_path / "one", classes=("apple", "fish")))
    other = make_world(tmp_path / "two", classes=("leaf", "sun"))
    results = compare(first, protocol="cross", test_on=[other])
    assert results.test_sets == ("one", "two") and by_set(results, TIP) == {"one": None, "two": "zero-shot"}
    assert by_set(results, CLIP) == {"one": None, "two": None}
    table = transfer_table(results)
    assert list(table.header[2:]) == ["one", "two", "mean of the others"]
    with pytest.raises(InputError, match="use protocol shift"):
        compare(first, protocol="cross", test_on=[make_world(tmp_path / "three", classes=("apple", "fish"))])


def test_shift_tests_every_domain_of_a_folder(domains, tmp_path):
    results = compare(domains, protocol="shift", domain="photo", out=tmp_path / "out", keep_fits=True)
    assert results.test_sets == ("domains-photo", "domains-sketch")
    assert results.pictures("domains-sketch") == 24 and results.pictures("domains-photo") == 12
    assert set(by_set(results, TIP).values()) == {None}
    again = compare(domains, protocol="shift", domain="photo", out=tmp_path / "out")
    assert again.cells == results.cells
    with pytest.raises(InputError, match=r"with other settings \(protocol was 'shift', is 'few-val'\)"):
        compare(domains, domain="photo", out=tmp_path / "out")


def test_every_test_split_is_read_once_after_all_fits(domains, monkeypatch):
    recorder = Recorder(monkeypatch)
    results = compare(domains, protocol="shift", domain="photo")
    own = load_dataset(domains, domain="photo")
    whole = {path for path in domains.rglob("*.png")}
    for test in ({sample.path for sample in own.test}, {path for path in whole if "sketch" in path.parts}):
        reads = [i for i, (what, paths) in enumerate(recorder.events) if what == "extract" and test & set(paths)]
        fits = [i for i, (what, _) in enumerate(recorder.events) if what == "fit"]
        assert len(reads) == 1 and reads[0] > fits[-1]
    assert len(results.cells) == 2 * len(METHODS) * 2


def test_another_protocol_is_another_fit(world, tmp_path):
    dataset, out = load_dataset(world), tmp_path / "out"
    compare(dataset, protocol="no-val", out=out, keep_fits=True)
    identity = json.loads(next(out.rglob("identity.json")).read_text())
    assert identity["protocol"] == "no-val"
    with pytest.raises(InputError, match=r"protocol was 'no-val', is 'few-val'"):
        compare(dataset, out=out)
    again = compare(dataset, protocol="no-val", out=out)
    assert again.protocol_name == "no-val"


@pytest.mark.parametrize("name", ["few-val", "no-val", "held-out-shot"])
def test_one_classifier_is_fitted_so(world, tmp_path, name):
    classifier = vlmadapt.fit(
        world,
        adapter="tip-adapter",
        shots=2,
        protocol=name,
        out=tmp_path / "run",
        encoder=ColourEncoder(),
        no_cache=True,
    )
    counts = {"few-val": (8, 8), "no-val": (8, 0), "held-out-shot": (4, 4)}
    assert (len(classifier.run.support), len(classifier.run.validation)) == counts[name]
    loaded = vlmadapt.Classifier.load(tmp_path / "run", ColourEncoder())
    assert loaded.run.protocol == name and name in loaded.run.selection
    assert vlmadapt.evaluate(loaded, no_cache=True).results.protocol_name == name


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": (
        {"protocol": "k-folds"},
        r"protocol is 'k-folds': use few-val, k-fold, no-val, held-out-shot, base-to-new, cross,",
    ),
    "cross alone": ({"protocol": "cross"}, r"'cross' without test_on: name the other data sets"),
    "shift alone": ({"protocol": "shift"}, r"'shift' without other data of the same classes"),
    "others for few-val": ({"test_on": ["clipart"]}, r"test_on is given, but protocol 'few-val' tests on the data"),
    "others for base-to-new": ({"protocol": "base-to-new", "test_on": ["clipart"]}, r"test_on is given"),
    "no domain of that name": (
        {"protocol": "shift", "domain": "oil"},
        r"domain is 'oil', but the domains of .* are photo",
    ),
    "one test domain": ({"protocol": "shift", "domain": "photo", "test_domain": "sketch"}, r"tests on every domain"),
    "classes of another": ({"protocol": "shift", "domain": "photo", "test_on": ["clipart"]}, r"use protocol cross"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_go_together_is_one_sentence_before_any_work(domains, case, monkeypatch):
    options, message = WRONG[case]
    monkeypatch.setattr(Extraction, "extract", lambda *_: pytest.fail("a picture was read"))
    with pytest.raises(InputError, match=message) as refused:
        compare(domains, **options)
    assert "\n" not in str(refused.value)


def test_the_same_data_are_not_named_twice(world):
    dataset = load_dataset(world)
    with pytest.raises(InputError, match=r"test_on names 'world' twice, or what is fitted on"):
        Cross((dataset,)).check(dataset)


@pytest.mark.parametrize("name", ["base-to-new", "cross", "shift"])
def test_fit_takes_what_one_classifier_can_follow(world, name):
    with pytest.raises(InputError, match=rf"protocol is '{name}', which is of comparisons: fit takes few-val"):
        vlmadapt.fit(world, protocol=name, encoder=ColourEncoder())


def test_every_protocol_says_in_words_what_it_does():
    for name, kind in PROTOCOLS.items():
        assert kind().words.startswith(f"Few-shot protocol {name}: ") and kind().words.endswith(".")


def test_classes_without_text_cannot_be_asked_for(tmp_path):
    path = tmp_path / "features.npz"
    rows = np.random.default_rng(0).normal(size=(48, 8)).astype(np.float32)
    np.savez(path, image_features=rows, labels=np.arange(48) % 4)
    with pytest.raises(InputError, match=r"has no text of them: use another protocol\.$"):
        vlmadapt.compare(path, adapters=("gda",), shots=(1,), seeds=1, protocol="base-to-new")
