"""The command line, end to end on a tiny world with a tiny encoder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.experiments.world import COLOURS, TIP, TIP_F, ColourEncoder, make_world
from vlmadapt import backbones
from vlmadapt.cli import app
from vlmadapt.files import read_tensors

SEARCH = ["--set", "search_beta=[1,4,2]", "--set", "search_alpha=[1,4,2]", "--set", "epochs=4"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path_factory):
    """Every backbone is the colour encoder; the cache is the test's own."""
    monkeypatch.setenv("VLMADAPT_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(backbones, "load_encoder", lambda *_, **__: ColourEncoder())


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("data") / "world")


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exit_code != code:
        raise AssertionError(f"exit code {result.exit_code}: {result.output}{result.stderr}") from result.exception
    return result


def fit_tip_f(world, folder, *more, code=0):
    what = "--adapter", "tip-adapter-f", "--shots", 2, "--protocol", "few-val"
    return call("fit", world, *what, "--out", folder, *SEARCH, *more, code=code)


def fit_once(world, tmp_path_factory) -> Path:
    """A saved classifier of ``world``, for a fixture that outlives a test."""
    folder = tmp_path_factory.mktemp("runs") / "tip"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "load_encoder", lambda *_, **__: ColourEncoder())
        patch.setenv("VLMADAPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        fit_tip_f(world, folder)
    return folder


@pytest.fixture(scope="module")
def fitted(world, tmp_path_factory):
    """A saved classifier, for tests that only read it."""
    return fit_once(world, tmp_path_factory)


def test_fit_says_what_was_chosen_and_saves_everything(world, tmp_path, monkeypatch):
    monkeypatch.setattr("vlmadapt.adapters.base.WIDENINGS", 0)
    result = fit_tip_f(world, tmp_path / "run")
    assert "is on the edge of what was searched: --set search_" in result.output  # of two values
    assert re.search(r"validation accuracy [0-9.]+ % \[[0-9.]+, [0-9.]+\]", result.output)
    assert "(Wilson, 95 %)" in result.output and "alpha" in result.output
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["class_names"] == ["apple", "fish", "leaf", "sun"]
    assert run["templates"] and run["encoder"] == {
        "name": "colours",
        "fingerprint": ColourEncoder().fingerprint,
        "engine": "torch",
    }
    assert len(run["support"]) == 8 and all((world / name).is_file() for name, _ in run["support"])
    assert run["config"]["epochs"] == 4 and "beta" in run["selected"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "adapter.json",
        "adapter.safetensors",
        "run.json",
        "thumbnails.safetensors",
    ]


def test_eval_writes_results_and_names_the_hardest_classes(fitted, tmp_path):
    result = call("eval", fitted, "--out", tmp_path)
    value = json.loads((tmp_path / "results.json").read_text())
    cell = value["cells"][0]
    assert value["dataset"]["test"] == 16 and 0.4 < cell["test_accuracy"] <= 1.0
    assert f"{100 * cell['test_accuracy']:.1f}" in result.output
    assert (tmp_path / "results.csv").is_file()
    rows = (tmp_path / "by_class.csv").read_text().splitlines()
    header = "class,test_pictures,accuracy,accuracy_low,accuracy_high,predicted,precision,f1"
    assert rows[0] == header and len(rows) == 5
    low, high = cell["accuracy_interval"]
    assert low < cell["test_accuracy"] <= high and f"[{100 * low:.1f}, {100 * high:.1f}]" in result.output
    assert "hardest classes" in result.output


def test_predict_lists_classes_and_names_the_pictures_that_voted(fitted, world, tmp_path):
    picture = world / "test" / "fish" / "0.png"
    result = call("predict", fitted, picture, "--top", 2, "--explain", "--votes", 3)
    assert str(picture) in result.output and "train/fish/" in result.output and "share of vote" in result.output
    drawing = tmp_path / "why.png"
    predictions = json.loads(call("predict", fitted, picture, "--json", "--explain-picture", drawing).output)
    assert Image.open(drawing).format == "PNG"
    classes = predictions[0]["classes"]
    assert len(classes) == 3 and classes[0]["probability"] >= classes[1]["probability"]
    shares = [vote["share"] for vote in predictions[0]["votes"]]
    assert len(shares) == 5 and shares == sorted(shares, reverse=True)


def test_fit_trains_on_all_labelled_pictures_by_default(world, tmp_path):
    result = call("fit", world, "--adapter", "tip-adapter", "--shots", 2, "--out", tmp_path / "run")
    assert re.search(r"2 shots, seed 0, k-fold: accuracy on pictures held out in turn [0-9.]+ % \[", result.output)
    assert "8 training pictures, 8 validation pictures, fitted on too" in result.output
    assert re.search(r"chosen by cross-validation or trained: beta [0-9.]+, alpha", result.output)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["protocol"] == "k-fold" and len(run["support"]) == len(run["validation"]) == 8
    votes = json.loads(
        call("predict", tmp_path / "run", world / run["validation"][3][0], "--json", "--explain").output
    )[0]["votes"]
    assert votes[0]["support"]["name"] == run["validation"][3][0]


def test_the_shares_of_all_votes_sum_to_one(fitted, world):
    picture = world / "test" / "sun" / "1.png"
    output = call("predict", fitted, picture, "--json", "--explain", "--votes", 8).output
    votes = json.loads(output)[0]["votes"]
    by_class = json.loads(output)[0]["class_votes"]
    assert [item["share"] for item in by_class] == sorted((item["share"] for item in by_class), reverse=True)
    for item in by_class:
        own = sum(vote["share"] for vote in votes if vote["class_name"] == item["name"])
        assert item["share"] == pytest.approx(own, abs=1e-6)
    assert sum(vote["share"] for vote in votes) == pytest.approx(1.0, abs=1e-6)
    of_sun = [vote["class_share"] for vote in votes if vote["class_name"] == "sun"]
    assert sum(of_sun) == pytest.approx(1.0, abs=1e-6)


def test_the_picture_itself_votes_most_for_itself(fitted, world):
    run = json.loads((fitted / "run.json").read_text())
    name = run["support"][3][0]
    votes = json.loads(call("predict", fitted, world / name, "--json", "--explain").output)[0]["votes"]
    assert votes[0]["support"]["name"] == name


def test_predict_takes_folders(fitted, world):
    output = call("predict", fitted, world / "test", world / "val" / "sun" / "0.png", "--json").output
    assert len(json.loads(output)) == 17


def test_predict_still_works_when_the_support_pictures_are_gone(tmp_path):
    world = make_world(tmp_path / "world")
    fit_tip_f(world, tmp_path / "run")
    picture = (world / "test" / "fish" / "0.png").rename(tmp_path / "mine.png")
    world.rename(tmp_path / "elsewhere")
    call("predict", tmp_path / "run", picture, "--explain", "--explain-picture", tmp_path / "why.png")
    assert (tmp_path / "why.png").is_file()


def test_resuming_a_finished_fit_shows_it_again(world, tmp_path):
    first = fit_tip_f(world, tmp_path / "run")
    before = (tmp_path / "run" / "run.json").read_text()
    assert fit_tip_f(world, tmp_path / "run", "--resume").output == first.output
    assert (tmp_path / "run" / "run.json").read_text() == before


def test_a_finished_fit_is_replaced_only_when_asked(world, tmp_path):
    fit_tip_f(world, tmp_path / "run")
    assert "--overwrite" in fit_tip_f(world, tmp_path / "run", "--seed", 1, code=2).stderr
    fit_tip_f(world, tmp_path / "run", "--seed", 1, "--overwrite")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["seed"] == 1


def test_compare_ends_with_table_curve_and_results(world, tmp_path):
    result = call(
        "compare", world, "--adapters", f"zero-shot,{TIP}", "--shots", "1,2", "--seeds", 2, "--out", tmp_path / "out"
    )
    assert "| zero-shot" in result.output and "±" in result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".vlmadapt.json",
        "curve.png",
        "differences.csv",
        "reliability.png",
        "report.html",
        "results.csv",
        "results.json",
        "table.md",
    ]
    text = (tmp_path / "out" / "results.json").read_text()
    assert str(tmp_path) not in text and str(world) not in text
    assert len(json.loads(text)["cells"]) == 8
    assert "[8/8]" in result.stderr


def test_features_are_written_with_labels_and_names(world, tmp_path):
    call("features", world, "--out", tmp_path / "f.safetensors")
    tensors, metadata = read_tensors(tmp_path / "f.safetensors")
    assert tensors["train"].shape == (20, 16) and tensors["test_labels"].tolist() == [
        n for n in range(4) for _ in "1234"
    ]
    assert tensors["text"].shape == (4, 16)
    assert json.loads(metadata["paths"])["test"][0] == "test/apple/0.png" and metadata["format"] == "1"


def test_demo_ends_with_a_classifier_and_the_command_to_use_it(world, tmp_path, monkeypatch):
    from vlmadapt.cli import demo

    monkeypatch.setattr(demo, "DATA", str(world))
    monkeypatch.setattr(demo, "SHOTS", (1, 2))
    monkeypatch.setattr(demo, "ADAPTERS", ("zero-shot", TIP_F))
    monkeypatch.setattr(demo, "SAVED", TIP_F)
    result = call("demo", "--out", tmp_path / "demo")
    assert f"vlmadapt predict {tmp_path / 'demo' / 'classifier'} PICTURE" in result.output
    assert (tmp_path / "demo" / "evidence.png").is_file()
    call("predict", tmp_path / "demo" / "classifier", world / "test" / "sun" / "0.png", "--explain")


def test_data_check_passes_good_data_and_names_bad_pictures(world, tmp_path):
    assert "nothing wrong found" in call("data", "check", world).output
    bad = make_world(tmp_path / "bad")
    (bad / "val" / "fish" / "0.png").write_bytes(b"not a picture")
    result = call("data", "check", bad, code=1)
    assert "val/fish/0.png" in result.output


def test_adapters_are_listed_with_their_settings():
    assert "xmadapter" in call("adapters").output
    assert "fusion" in call("adapters", "xmadapter").output
    assert "'clip'" in call("adapters", "clip", code=2).stderr


def sentence(result) -> str:
    """The one line of an error; a traceback or a second line fails."""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("world: ")]
    assert len(lines) == 1 and "Traceback" not in result.stderr, result.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["fit", "{tmp}/nowhere"], "nowhere"),
        (["fit", "{world}", "--shots", "2", "--adapter", "tip", "--out", "{tmp}/r"], "'tip'"),
        (["fit", "{world}", "--shots", "50", "--out", "{tmp}/r"], "shots is 50"),
        (["fit", "{world}", "--shots", "2", "--set", "speed=3", "--out", "{tmp}/r"], "'speed'"),
        (["fit", "{world}", "--set", "epochs", "--out", "{tmp}/r"], "key=value"),
        (["fit", "{world}", "--adapter", "taskres", "--shots", "2", "--set", "epochs=many"], "many"),
        (["fit", "{world}", "--device", "tpu", "--out", "{tmp}/r"], "'tpu'"),
        (["fit", "{world}", "--precision", "fp8", "--out", "{tmp}/r"], "'fp8'"),
        (["fit", "{world}", "--out", "{world}"], "lies inside the data"),
        (["fit", "{world}", "--out", "{world}/.."], "holds other files"),
        (["fit", "{world}", "--resume", "--overwrite", "--out", "{tmp}/r"], "--overwrite"),
        (["compare", "{world}", "--shots", "1;2", "--out", "{tmp}/r"], "'1;2'"),
        (["eval", "{tmp}"], "run.json"),
        (["predict", "{tmp}", "{world}/test/sun/0.png"], "run.json"),
        (["predict", "{fitted}", "{tmp}/no.png"], "no.png"),
        (["predict", "{fitted}", "{tmp}"], "holds no pictures"),
        (["predict", "{fitted}", "{world}/test", "--explain-picture", "{tmp}/why.png"], "--explain-picture"),
    ],
)
def test_an_error_is_one_sentence_that_names_what_is_wrong(arguments, named, world, fitted, tmp_path):
    filled = [argument.format(world=world, tmp=tmp_path, fitted=fitted) for argument in arguments]
    assert named in sentence(call(*filled, code=2))
    assert list(tmp_path.iterdir()) == []  # nothing half done is left behind


def test_a_corrupt_picture_is_named(tmp_path):
    world = make_world(tmp_path / "world", train=2)
    (world / "train" / "leaf" / "1.png").write_bytes(b"\x89PNG broken")
    assert "train/leaf/1.png" in sentence(fit_tip_f(world, tmp_path / "run", code=2))


def test_methods_without_a_cache_say_which_can_explain(world, tmp_path):
    call("fit", world, "--adapter", "zero-shot", "--shots", 1, "--out", tmp_path / "zs")
    picture = world / "test" / "sun" / "0.png"
    call("predict", tmp_path / "zs", picture)
    assert "tip-adapter" in sentence(call("predict", tmp_path / "zs", picture, "--explain", code=2))


def test_other_weights_than_those_fitted_with_are_refused(fitted, world, monkeypatch):
    monkeypatch.setattr(backbones, "load_encoder", lambda *args, **options: ColourEncoder("2"))
    assert "other weights" in sentence(call("predict", fitted, world / "test" / "sun" / "0.png", code=2))


def test_evaluating_on_pictures_used_in_fitting_is_refused(tmp_path):
    world = make_world(tmp_path / "world")
    fit_tip_f(world, tmp_path / "run")
    swapped = tmp_path / "swapped.csv"
    rows = [f"world/train/{name}/{i}.png,{name},test" for name in ("apple", "fish", "leaf", "sun") for i in range(5)]
    rows += [f"world/test/{name}/0.png,{name},train" for name in ("apple", "fish", "leaf", "sun")]
    swapped.write_text("path,label,split\n" + "\n".join(rows) + "\n")
    message = call("eval", tmp_path / "run", swapped, code=2).stderr.splitlines()[-1]
    assert "8 test pictures were used to fit" in message


def test_evaluating_other_classes_is_refused(fitted, tmp_path):
    other = make_world(tmp_path / "other")
    for split in ("train", "val", "test"):
        (other / split / "sun").rename(other / split / "moon")
    message = sentence(call("eval", fitted, other, code=2))
    assert "classes that the classifier does not know (moon; 4 of 16 pictures)" in message


def test_some_of_the_classes_suffice_to_evaluate(fitted, tmp_path):
    other = make_world(tmp_path / "other", test=9, classes=["apple", "fish", "leaf"])
    for path in other.glob("test/*/[0-4].png"):
        path.unlink()  # the noise of these is that of the world's
    result = call("eval", fitted, other, "--out", tmp_path / "out")
    assert "'sun' of 4 classes have no test pictures" in result.stderr
    assert json.loads((tmp_path / "out" / "results.json").read_text())["dataset"]["test"] == 12


def test_a_swapped_adapter_file_is_refused(world, tmp_path):
    fit_tip_f(world, tmp_path / "a")
    fit_tip_f(world, tmp_path / "b", "--seed", 1)
    for name in ("adapter.json", "adapter.safetensors"):
        (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
    assert "another adapter.json" in sentence(call("predict", tmp_path / "a", world / "test" / "sun" / "0.png", code=2))


def test_debug_shows_the_traceback(tmp_path):
    result = CliRunner().invoke(app, ["--debug", "eval", str(tmp_path)])
    assert result.exit_code == 1 and type(result.exception).__name__ == "FileError"


def test_unicode_names_survive(tmp_path):
    world = make_world(tmp_path / "wörld 果")
    picture = tmp_path / "mein Bild é.png"
    Image.fromarray(np.full((6, 6, 3), 90, np.uint8)).save(picture)
    fit_tip_f(world, tmp_path / "run")
    assert json.loads(call("predict", tmp_path / "run", picture, "--json").output)[0]["picture"] == str(picture)


def test_help_is_quick_and_loads_no_torch():
    start = time.perf_counter()
    code = "import sys; from vlmadapt.cli import app; app(['fit', '--help'], standalone_mode=False); " + (
        "sys.exit(3 * ('torch' in sys.modules or 'matplotlib' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--adapter" in done.stdout
    assert time.perf_counter() - start < 20  # importing torch alone takes seconds; a busy machine gets its slack


def test_the_module_runs_as_a_program():
    done = subprocess.run([sys.executable, "-m", "vlmadapt", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("vlmadapt ")


def test_graph_draws_a_hegraph_run_and_lists_pairs(world, tmp_path):
    small = ["--set", "search_w=[1,2,2]", *SEARCH]
    call("fit", world, "--adapter", "hegraph", "--shots", 2, "--out", tmp_path / "run", *small)
    result = call("graph", tmp_path / "run", "--classes", "apple,sun", "--top", 2)
    assert "Pairs that negative nodes pull apart most" in result.output
    assert result.output.count(" / ") == 2
    assert Image.open(tmp_path / "run" / "graph.png").format == "PNG"
    call("graph", tmp_path / "run", "--out", tmp_path / "graph.svg")
    assert (tmp_path / "graph.svg").stat().st_size > 5000
    assert "name a .png or .svg file" in call("graph", tmp_path / "run", "--out", "x.pdf", code=2).stderr
    assert "there is no class 'plum'" in call("graph", tmp_path / "run", "--classes", "plum,sun", code=2).stderr


def test_graph_of_another_adapter_is_one_sentence(fitted):
    assert "which has no graph: fit with --adapter hegraph" in call("graph", fitted, code=2).stderr


def test_negative_prompts_are_among_the_features(world, tmp_path):
    call("features", world, "--out", tmp_path / "f.safetensors")
    tensors, _ = read_tensors(tmp_path / "f.safetensors")
    assert tensors["negative_text"].shape == tensors["text"].shape


def test_pictures_far_from_their_class_are_hints(tmp_path):
    bad = make_world(tmp_path / "bad", train=8)
    for number, path in enumerate(sorted(bad.rglob("*.png"))):
        noise = np.random.default_rng(number).normal(0, 12, (4, 4, 3))
        Image.fromarray((np.array(COLOURS[path.parent.name]) + noise).astype(np.uint8)).save(path)
    (bad / "train" / "fish" / "7.png").rename(bad / "train" / "sun" / "wrong.png")
    result = call("data", "check", bad, "--outliers")
    assert "nothing wrong found" in result.output
    [line] = [line for line in result.output.splitlines() if "is far from the others of 'sun'" in line]
    assert line.startswith("hint: ") and "wrong.png" in line and line.endswith("more like 'fish': look at its label")
    (bad / "train" / "fish" / "0.png").write_bytes(b"not a picture")
    assert "are looked for once all can be read" in call("data", "check", bad, "--outliers", code=1).output


def test_all_shots_are_every_training_picture(world, tmp_path):
    (tmp_path / "list.csv").write_text(
        "image,kind,split\n"
        + "".join(f"{path},{path.parent.name},train\n" for path in sorted(world.glob("train/*/*.png"))[:-2])
        + "".join(f"{path},{path.parent.name},test\n" for path in sorted(world.glob("test/*/*.png")))
    )
    own = "--path-column", "image", "--label-column", "Kind"
    result = call("fit", tmp_path / "list.csv", *own, "--adapter", "ncm", "--shots", "all", "--out", tmp_path / "run")
    assert "taking all there are" not in result.stderr
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(run["support"]) + len(run["validation"]) == 18 and run["shots"] == 4
    call("eval", tmp_path / "run")
    for shots in ("some", "4.5", ""):
        message = sentence(call("fit", world, "--shots", shots, "--out", tmp_path / "other", code=2))
        assert f"--shots is '{shots}': give a whole number, or all." in message


def test_compare_takes_differences_to_the_method_named(world, tmp_path):
    what = "compare", world, "--adapters", f"zero-shot,{TIP},ncm", "--shots", 1, "--seeds", 1
    result = call(*what, "--against", "ncm", "--out", tmp_path / "out")
    assert "| over ncm" in result.output
    rows = (tmp_path / "out" / "differences.csv").read_text().splitlines()
    assert len(rows) == 4 and rows[0] == "method,reference,shots,tested_on,seeds,difference,low,high"
    message = call(*what, "--against", "gda", "--out", tmp_path / "none", code=2).stderr.splitlines()[-1]
    assert "against is 'gda', which is not compared: use one of zero-shot, tip-adapter" in message
