"""Output folders: whose they are, what is refused before any work, and that no finished work is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

import vlmadapt
from tests.experiments.world import TIP, TIP_F, ColourEncoder, make_world
from tests.test_cli import call, fit_tip_f
from vlmadapt import atomic, backbones
from vlmadapt.data import Extraction
from vlmadapt.errors import InputError
from vlmadapt.experiments.results import ProtocolResults
from vlmadapt.files import read_tensors
from vlmadapt.provenance.about import ABOUT
from vlmadapt.provenance.place import hold

SEARCH = ("--set", "search_beta=[1,4,2]", "--set", "search_alpha=[1,4,2]")
FIT = ("--adapter", "tip-adapter", "--shots", "2", *SEARCH)
WHOLE = ["adapter.json", "adapter.safetensors", "run.json", "thumbnails.safetensors"]  # of a fit
COMPARE = ("--adapters", f"zero-shot,{TIP}", "--shots", "1,2", "--seeds", "2")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(*arguments, named: str) -> str:
    """The one sentence of a command that ends before any picture is encoded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Extraction, "extract", lambda *args, **options: pytest.fail("the work began"))
        result = call(*arguments, code=2)
    sentence = result.stderr.splitlines()[-1]
    assert named in sentence, sentence
    return sentence


@pytest.fixture
def other(tmp_path):
    """Another data set of the same classes and file names."""
    root = make_world(tmp_path / "elsewhere" / "world")
    for split in ("train", "val", "test"):
        first, second = root / split / "apple", root / split / "fish"
        first.rename(root / "x")
        second.rename(first)
        (root / "x").rename(second)
    return root


# One run at a time.

BUSY = {
    "fit": ("fit", "{world}", *FIT, "--out", "{out}"),
    "compare": ("compare", "{world}", *COMPARE, "--out", "{out}"),
    "demo": ("demo", "--out", "{out}"),
    "eval": ("eval", "{run}", "--out", "{out}"),
    "tune": ("tune", "--task", "vqa", "--method", "frozen", "--out", "{out}"),
}


@pytest.mark.parametrize("command", BUSY)
def test_a_folder_that_another_run_holds_is_refused(command, world, tmp_path):
    fit_tip_f(world, tmp_path / "run")
    filled = [part.format(world=world, run=tmp_path / "run", out=tmp_path / "out") for part in BUSY[command]]
    started, end = threading.Event(), threading.Event()

    def hold_it():
        with hold(tmp_path / "out"):
            started.set()
            end.wait(60)

    thread = threading.Thread(target=hold_it)
    thread.start()
    started.wait()
    try:
        sentence = refused(*filled, named="is being written by")
    finally:
        end.set()
        thread.join()
    assert str(tmp_path / "out") in sentence and "--out" in sentence


def test_two_calls_of_the_package_do_not_share_a_folder(world, tmp_path, monkeypatch):
    encode, inside, go_on = ColourEncoder.encode_images, threading.Event(), threading.Event()

    def slow(encoder, pixels, normalize=True):
        inside.set()
        go_on.wait(60)
        return encode(encoder, pixels, normalize)

    monkeypatch.setattr(ColourEncoder, "encode_images", slow)
    options = {"adapter": "zero-shot", "shots": 1, "out": tmp_path / "run", "no_cache": True}
    thread = threading.Thread(target=lambda: vlmadapt.fit(world, seed=0, **options))
    thread.start()
    inside.wait(60)
    try:
        with pytest.raises(InputError, match="another call in this process"):
            vlmadapt.fit(world, seed=1, **options)
    finally:
        go_on.set()
        thread.join()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["seed"] == 0


# A folder is of one run.


def test_a_comparison_of_other_data_is_refused_and_nothing_changes(world, other, tmp_path):
    out = tmp_path / "out"
    call("compare", world, *COMPARE, "--out", out, "--keep-fits")
    before = contents(out)
    refused("compare", other, *COMPARE, "--out", out, named="other pictures or splits")
    third = make_world(tmp_path / "third", classes=["apple", "fish"])
    refused("compare", third, *COMPARE, "--out", out, named="of data set 'world', not of 'third'")
    refused("compare", world, *COMPARE, "--views", "2", "--out", out, named="views was 1, is 2")
    refused("compare", world, *COMPARE, "--template", "the {}", "--out", out, named="templates was")
    assert contents(out) == before
    call("compare", third, *COMPARE, "--out", out, "--overwrite")
    assert ProtocolResults.load(out).dataset["name"] == "third" and not (out / "fits").exists()


def test_another_encoder_is_refused(world, tmp_path, monkeypatch):
    call("compare", world, *COMPARE, "--out", tmp_path / "out")
    monkeypatch.setattr(backbones, "load_encoder", lambda name, **_options: ColourEncoder("2"))
    refused("compare", world, *COMPARE, "--out", tmp_path / "out", named="another encoder")


def test_default_folders_carry_the_name_of_the_data(world, tmp_path):
    third = make_world(tmp_path / "third", classes=["apple", "fish"])
    for data in (world, third):
        call("compare", data, *COMPARE)
        call("fit", data, *FIT)
        call("features", data)
        call("eval", f"runs/{data.name}-tip-adapter-2")
    assert sorted(path.name for path in Path("runs").iterdir()) == [
        "compare-third",
        "compare-world",
        "third-tip-adapter-2",
        "world-tip-adapter-2",
    ]
    assert Path("runs/third-tip-adapter-2/eval-third/results.json").is_file()
    assert sorted(path.name for path in Path().glob("*.safetensors")) == [
        "features-third.safetensors",
        "features-world.safetensors",
    ]


def test_kinds_of_runs_do_not_mix(world, tmp_path):
    fit_tip_f(world, tmp_path / "fit")
    call("compare", world, *COMPARE, "--out", tmp_path / "compare")
    refused("compare", world, *COMPARE, "--out", tmp_path / "fit", "--overwrite", named="holds a fit, not a comparison")
    refused("fit", world, *FIT, "--out", tmp_path / "compare", "--overwrite", named="holds a comparison, not a fit")
    refused("eval", tmp_path / "fit", "--out", tmp_path / "compare", named="holds a comparison, not an evaluation")
    refused("demo", "--out", tmp_path / "compare", named="holds a comparison, not a demo")


def test_an_evaluation_of_other_data_or_of_another_classifier_is_not_replaced(world, other, tmp_path):
    fit_tip_f(world, tmp_path / "a")
    fit_tip_f(world, tmp_path / "b", "--seed", "1")
    call("eval", tmp_path / "a", "--out", tmp_path / "out")
    before = contents(tmp_path / "out")
    refused("eval", tmp_path / "b", "--out", tmp_path / "out", named="with other settings (classifier.")
    refused("eval", tmp_path / "a", other, "--out", tmp_path / "out", named="other pictures or splits")
    assert contents(tmp_path / "out") == before
    call("eval", tmp_path / "a", "--out", tmp_path / "out")  # the same again
    call("eval", tmp_path / "b", "--out", tmp_path / "out", "--overwrite")
    # In the classifier's own folder it is of whatever classifier lies there.
    call("eval", tmp_path / "a")
    fit_tip_f(world, tmp_path / "a", "--seed", "1", "--overwrite")
    call("eval", tmp_path / "a")


def test_features_of_other_data_are_not_replaced(world, other, tmp_path):
    path = tmp_path / "f.safetensors"
    call("features", world, "--out", path)
    before = path.read_bytes()
    refused("features", other, "--out", path, named="other pictures or splits")
    refused("features", world, "--views", "2", "--out", path, named="views was 1, is 2")
    assert path.read_bytes() == before
    again = read_tensors(path)
    call("features", world, "--out", path)
    assert read_tensors(path)[1] == again[1]
    call("features", world, "--views", "2", "--out", path, "--overwrite")
    (tmp_path / "mine.safetensors").write_text("a letter")
    refused("features", world, "--out", tmp_path / "mine.safetensors", named="is not a file of vlmadapt features")


def test_a_fit_of_other_pictures_with_the_same_names_is_not_taken_for_this_one(world, other, tmp_path):
    fit_tip_f(world, tmp_path / "run")
    assert "picture content" in fit_tip_f(other, tmp_path / "run", "--resume", code=2).stderr


def test_a_kept_fit_of_other_pictures_with_the_same_names_is_made_again(world, other, tmp_path):
    options: Any = {"adapters": [TIP], "shots": (2,), "seeds": 1, "keep_fits": True, "no_cache": True}
    vlmadapt.compare(world, out=tmp_path / "out", **options)
    (tmp_path / "out" / ABOUT).unlink()  # as in a folder of 0.1.0, which did not say of which pictures it is
    (tmp_path / "out" / "results.json").unlink()
    mixed = vlmadapt.compare(other, out=tmp_path / "out", **options)
    assert mixed.cells[0].values == vlmadapt.compare(other, **options).cells[0].values


# Finished work is lost only when asked.


def test_fits_that_a_run_would_not_have_are_not_lost(world, tmp_path):
    out = tmp_path / "out"
    call("compare", world, *COMPARE, "--out", out, "--keep-fits")
    before = contents(out)
    for fewer, named in (
        (("--adapters", "zero-shot", "--shots", "1,2", "--seeds", "2"), f"4 fits that this run would not have, {TIP}"),
        (("--adapters", f"zero-shot,{TIP}", "--shots", "2", "--seeds", "2"), "4 fits"),
        (("--adapters", f"zero-shot,{TIP}", "--shots", "1,2", "--seeds", "1"), "at 1 shot and seed 1 the first"),
    ):
        refused("compare", world, *fewer, "--out", out, named=named)
        assert contents(out) == before
    with pytest.raises(InputError, match="4 fits"):
        vlmadapt.compare(world, adapters=["zero-shot"], shots=(1, 2), seeds=2, out=out)
    more = ("--adapters", f"zero-shot,{TIP},{TIP_F}", "--shots", "1,2", "--seeds", "2", "--keep-fits")
    result = call("compare", world, *more, "--out", out)
    assert "[12/12]" in result.stderr and len(ProtocolResults.load(out).cells) == 12
    kept = {name: value for name, value in contents(out).items() if name in before and name.startswith("fits/")}
    assert kept and all(value == before[name] for name, value in kept.items())  # reused as they were


def test_a_label_with_other_settings_is_another_fit(world, tmp_path):
    from vlmadapt.provenance.settings import Method

    options = {"shots": (2,), "seeds": 1, "out": tmp_path, "no_cache": True}
    vlmadapt.compare(world, adapters=[Method("mine", "tip-adapter", {"search_beta": (1, 4, 2)})], **options)
    with pytest.raises(InputError, match="mine at 2 shots and seed 0"):
        vlmadapt.compare(world, adapters=[Method("mine", "tip-adapter", {"search_beta": (1, 4, 3)})], **options)


def test_without_keep_fits_only_those_of_this_run_are_removed(world, tmp_path):
    out = tmp_path / "out"
    call("compare", world, *COMPARE, "--out", out, "--keep-fits")
    (out / "results.json").unlink()  # so that they are not of its results
    call("compare", world, "--adapters", "zero-shot", "--shots", "1", "--seeds", "1", "--out", out)
    assert not (out / "fits" / "zero-shot" / "shots-1-seed-0").exists()
    assert (out / "fits" / "zero-shot" / "shots-2-seed-1" / "fit.json").is_file()


def test_replacing_keeps_the_old_results_until_the_new_are_there(world, tmp_path, monkeypatch):
    out = tmp_path / "out"
    call("compare", world, *COMPARE, "--out", out, "--keep-fits")
    before = (out / "results.json").read_bytes()
    fewer = ("compare", world, "--adapters", f"zero-shot,{TIP_F}", "--shots", "1", "--seeds", "1", "--out", out)
    assert (
        "'tip'"
        in call("compare", world, "--adapters", "tip", "--shots", "1", "--out", out, "--overwrite", code=2).stderr
    )
    assert len(list((out / "fits").rglob("fit.json"))) == 8  # a wrong argument costs nothing
    with monkeypatch.context() as patch:
        from vlmadapt.experiments import protocol

        fit, fitted = protocol.fit, list[Any]()

        def interrupted(adapter, *args, **options):
            if fitted:
                raise KeyboardInterrupt
            fitted.append(adapter)
            return fit(adapter, *args, **options)

        patch.setattr(protocol, "fit", interrupted)
        hint = call(*fewer, "--overwrite", code=130).stderr.splitlines()[-1]
    assert hint.endswith(f"--out {out}")  # replacing again would begin anew
    assert (out / "results.json").read_bytes() == before
    assert "[2/2]" in call(*fewer).stderr
    assert len(ProtocolResults.load(out).cells) == 2
    refused(*fewer[:2], "--adapters", "zero-shot", "--shots", "1", "--seeds", "1", "--out", out, named="1 fits")


def test_results_of_python_do_not_stand_beside_a_table_of_an_older_run(world, tmp_path):
    call("compare", world, *COMPARE, "--out", tmp_path)
    vlmadapt.compare(world, adapters=["zero-shot", TIP, TIP_F], shots=(1, 2), seeds=2, out=tmp_path, no_cache=True)
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["differences.csv", "results.csv", "results.json"]


def test_a_wrong_argument_costs_no_checkpoints(world, tmp_path):
    fit_tip_f(world, tmp_path / "run")
    shutil.copy(tmp_path / "run" / "run.json", tmp_path / "run" / "unfinished.json")
    (tmp_path / "run" / "checkpoints").mkdir()
    before = contents(tmp_path / "run")
    call("fit", world, "--adapter", "tip", "--out", tmp_path / "run", "--overwrite", code=2)
    assert contents(tmp_path / "run") == before and (tmp_path / "run" / "checkpoints").is_dir()


# Output beside the data, not inside.

INSIDE = {
    "fit .": ("fit", ".", *FIT),
    "compare .": ("compare", ".", *COMPARE),
    "fit --out": ("fit", "{world}", *FIT, "--out", "{world}/runs/x"),
    "compare --out": ("compare", "{world}", *COMPARE, "--out", "{world}/train/apple"),
    "eval --out": ("eval", "{run}", "--out", "{world}/results"),
    "eval DATA --out": ("eval", "{run}", "{world}", "--out", "{world}/results"),
    "features --out": ("features", "{world}", "--out", "{world}/train/apple/f.safetensors"),
    "features --cache": ("features", "{world}", "--out", "f.safetensors", "--cache", "{world}/cache"),
    "predict": ("predict", "{run}", "{world}/test/sun/0.png", "--explain-picture", "{world}/train/sun/why.png"),
    "link": ("fit", "{link}", *FIT, "--out", "{world}/runs/x"),
}


@pytest.mark.parametrize("case", INSIDE)
def test_output_inside_the_data_is_refused_before_the_work(case, tmp_path, monkeypatch):
    data = make_world(tmp_path / "pets")
    fit_tip_f(data, tmp_path / "run")
    (tmp_path / "link").symlink_to(data)
    before = contents(data)
    monkeypatch.chdir(data)
    filled = [part.format(world=data, run=tmp_path / "run", link=tmp_path / "link") for part in INSIDE[case]]
    sentence = refused(*filled, named="lies inside the data")
    place = sentence.rpartition(" ")[2].rstrip(".")
    assert not (data / place).resolve().is_relative_to(data)  # what it proposes is outside
    assert contents(data) == before and not (data / "runs").exists()
    if case in ("fit .", "compare ."):
        for _ in range(2):
            call(*filled, "--out", place, *(["--overwrite"] if case == "fit ." else []))
        assert vlmadapt.load_dataset(data).class_names == ("apple", "fish", "leaf", "sun")


def test_what_does_no_harm_inside_the_data_is_allowed(tmp_path, monkeypatch):
    data = make_world(tmp_path / "pets")
    rows = [f"{path.relative_to(data)},{path.parent.name}" for path in sorted(data.glob("train/*/*.png"))]
    (data / "labels.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    monkeypatch.chdir(data)
    call(
        "fit", "labels.csv", "--adapter", "tip-adapter", "--shots", "1", *SEARCH
    )  # a list says itself which pictures it means
    call("features", ".")
    call("predict", "runs/labels-tip-adapter-1", "test/sun/0.png", "--explain-picture", "why.png")
    assert Path("why.png").is_file()


# Writable, before the work.

WRITING = {**BUSY, "features": ("features", "{world}", "--out", "{out}/f.safetensors")}
WRITING["predict"] = ("predict", "{run}", "{world}/test/sun/0.png", "--explain-picture", "{out}/why.png")
WRITING["graph"] = ("graph", "{run}", "--out", "{out}/graph.png")


@pytest.mark.parametrize("obstacle", ["a file", "full"])
@pytest.mark.parametrize("command", WRITING)
def test_what_cannot_be_written_is_refused_before_the_work(command, obstacle, world, tmp_path, monkeypatch):
    fit_tip_f(world, tmp_path / "run")
    out = tmp_path / "out"
    if obstacle == "a file":
        out.write_text("mine")
        out = out / "below"
    else:

        def full(handle):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
    filled = [part.format(world=world, run=tmp_path / "run", out=out) for part in WRITING[command]]
    sentence = refused(*filled, named="cannot be written")
    assert str(out) in sentence
    assert (tmp_path / "out").read_text() == "mine" if obstacle == "a file" else not out.exists()


# Leftovers.


def leave_behind(path: Path) -> None:
    """What a process that was killed while it wrote ``path`` leaves."""
    place, handle = atomic._locked_folder(path.parent, f".{path.name}.")
    (place / path.name).write_bytes(b"half of it")
    os.close(handle)


@pytest.mark.parametrize("more", [(), ("--resume",), ("--overwrite",)])
def test_a_fit_that_was_killed_at_its_first_file_leaves_the_folder_usable(more, world, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    leave_behind(out / "unfinished.json")
    (out / ".vlmadapt.lock").touch()
    assert len(list(out.iterdir())) == 2
    fit_tip_f(world, out, *more)
    assert sorted(path.name for path in out.iterdir()) == WHOLE


def test_checkpoints_that_a_disk_kept_go_with_the_next_call_of_a_finished_fit(world, tmp_path):
    out = tmp_path / "run"
    fit_tip_f(world, out)
    (out / "checkpoints").mkdir()
    (out / "checkpoints" / "tip-adapter-f.safetensors").touch()
    fit_tip_f(world, out, "--resume")
    assert sorted(path.name for path in out.iterdir()) == WHOLE


def test_leftovers_below_a_comparison_and_in_the_cache_go_with_the_next_run(world, tmp_path):
    cache, out = tmp_path / "cache", tmp_path / "out"
    call("compare", world, *COMPARE, "--out", out, "--cache", cache, "--keep-fits")
    [shards, *_] = [path for path in cache.iterdir() if path.is_dir()]
    fit = out / "fits" / "zero-shot" / "shots-1-seed-0"
    for path in (out / "results.json", fit / "fit.json", shards / "x.safetensors"):
        leave_behind(path)
    assert len(list(tmp_path.rglob("*.tmp"))) == 3
    shutil.rmtree(out / "fits" / "zero-shot" / "shots-2-seed-1")
    for shard in cache.rglob("*.safetensors"):
        shard.unlink()
    call("compare", world, *COMPARE, "--out", out, "--cache", cache)
    assert not list(tmp_path.rglob("*.tmp"))
