"""``import vlmadapt`` offers what a user needs, and loads none of it."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, assert_type

import pytest
import torch
import typer.main

import vlmadapt
from tests.experiments.world import TIP, TIP_F, ColourEncoder, make_world
from tests.modes import MODES
from vlmadapt.cli import app
from vlmadapt.experiments import folders
from vlmadapt.experiments.options import (
    CheckOptions,
    CompareOptions,
    DemoOptions,
    EvaluateOptions,
    FeaturesOptions,
    FitOptions,
    GraphOptions,
    PredictOptions,
)
from vlmadapt.generative.front import tune
from vlmadapt.generative.options import AnswerOptions, TuneOptions
from vlmadapt.options import OptionSet, offered

SEARCH = {"search_beta": [1, 4, 2], "search_alpha": [1, 4, 2], "epochs": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("data") / "world")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_it_loads_nothing() -> None:
    code = "import sys; old = set(sys.modules); import vlmadapt; dir(vlmadapt); print(sorted(set(sys.modules) - old))"
    loaded = ast.literal_eval(run(code))
    assert [name for name in loaded if name.startswith("vlmadapt")] == ["vlmadapt", "vlmadapt.version"]
    assert not {name.partition(".")[0] for name in loaded} & {"torch", "numpy", "PIL", "typer", "rich", "safetensors"}


def test_tab_shows_what_is_offered_and_all_of_it_is_there() -> None:
    assert dir(vlmadapt) == sorted(vlmadapt.__all__) == sorted(set(vlmadapt.__all__))
    for name in vlmadapt.__all__:
        assert getattr(vlmadapt, name) is not None
    assert inspect.ismodule(vlmadapt.ops) and isinstance(vlmadapt.Classifier, type)
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        vlmadapt.fitt  # noqa: B018


def test_what_type_checkers_see_is_what_is_offered() -> None:
    tree = ast.parse(Path(vlmadapt.__file__).read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    names = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names | {"__version__"} == set(vlmadapt.__all__)


def test_fit_saves_nothing_unless_told_and_predicts(world: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    options: Any = {"adapter": "tip-adapter-f", "shots": 2, "settings": SEARCH, "encoder": ColourEncoder()}
    classifier = vlmadapt.fit(world, no_cache=True, **options)
    assert list(tmp_path.iterdir()) == []
    found = vlmadapt.evaluate(classifier, no_cache=True)
    assert found.accuracy > 0.4 and len(found.by_class) == 4
    assert len(classifier.predict([str(world / "test" / "sun" / "0.png")], top=4)[0].classes) == 4
    # The same from a data set, saved and read back.
    dataset = vlmadapt.load_dataset(world)
    saved = vlmadapt.fit(dataset, out=tmp_path / "run", no_cache=True, **options)
    for name, value in classifier.adapter.state_dict().items():
        assert torch.equal(value, saved.adapter.state_dict()[name])
    back = vlmadapt.Classifier.load(tmp_path / "run", ColourEncoder())
    assert vlmadapt.evaluate(back, dataset, out=tmp_path / "eval", no_cache=True).accuracy == found.accuracy
    assert {path.name for path in (tmp_path / "eval").glob("[!.]*")} == set(folders.EVALUATED)
    with pytest.raises(ValueError, match="data is missing"):
        vlmadapt.evaluate(back, no_cache=True)


@pytest.mark.parametrize("mode", MODES)
def test_fit_compare_and_evaluate_do_the_same_whatever_the_caller_has_set(mode: str, world: Path) -> None:
    given: Any = {"encoder": ColourEncoder(), "no_cache": True}

    def run() -> Any:
        classifier = vlmadapt.fit(world, adapter="tip-adapter-f", shots=2, settings=SEARCH, **given)
        compared = vlmadapt.compare(world, adapters=["taskres:epochs=2"], shots=(1,), seeds=1, **given)
        predicted = classifier.predict([world / "test" / "sun" / "0.png"], votes=2)
        return vlmadapt.evaluate(classifier, no_cache=True).by_class, compared.cells[0].values, predicted

    expected = run()
    with MODES[mode]():
        assert run() == expected


def test_compare_returns_results_and_goes_on_in_a_folder(world: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    options: Any = {"adapters": [TIP, TIP_F], "shots": [1], "seeds": 2, "encoder": ColourEncoder(), "no_cache": True}
    results = vlmadapt.compare(world, report=lines.append, **options)
    assert len(results.cells) == 4 and len(lines) == 5 and lines[0].startswith("world: 4 classes")
    kept = vlmadapt.compare(world, out=tmp_path, keep_fits=True, **options)
    assert [cell.values["accuracy"] for cell in kept.cells] == [cell.values["accuracy"] for cell in results.cells]
    assert (tmp_path / "results.csv").is_file() and (tmp_path / "fits").is_dir()
    vlmadapt.compare(world, out=tmp_path, **options)
    assert not (tmp_path / "fits").exists()


def test_bad_arguments_are_named(world: Path) -> None:
    given: Any = {"encoder": ColourEncoder(), "shots": 2, "no_cache": True}
    changes: list[dict[str, Any]] = [{"device": "tpu", "encoder": "embedded"}, {"precision": "fp8"}, {"adapter": "tip"}]
    for changed in changes:
        with pytest.raises(ValueError, match=f"'{next(iter(changed.values()))}'"):
            vlmadapt.fit(world, **{**given, **changed})
    with pytest.raises(TypeError, match="backbone"):
        vlmadapt.fit(world, backbone="embedded")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="views"):
        vlmadapt.evaluate(world, views=2)


def typed() -> None:
    """For the type checker, which knows every argument: an ignore that is not needed is an error in this file."""
    assert_type(vlmadapt.fit("clipart", shots=4, report=print), vlmadapt.Classifier)
    vlmadapt.fit("clipart", shots="4")  # type: ignore[arg-type]
    vlmadapt.compare("clipart", shots=4)  # type: ignore[arg-type]
    vlmadapt.evaluate("runs/mine", data="clipart", out="here")  # type: ignore[arg-type]
    assert_type(vlmadapt.evaluate("runs/mine").accuracy, float)


COMMANDS: dict[str, tuple[Any, type[OptionSet]]] = {
    "fit": (vlmadapt.fit, FitOptions),
    "compare": (vlmadapt.compare, CompareOptions),
    "eval": (vlmadapt.evaluate, EvaluateOptions),
    "tune": (tune, TuneOptions),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_is_an_argument_with_the_same_help_and_default(name: str) -> None:
    function, options = COMMANDS[name]
    command: Any = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    shown = {each.name: each for each in command.params}
    arguments = inspect.signature(function).parameters
    assert {each.name for each in offered(options)} | set(options.without) == {each.name for each in fields(options)}
    for each in offered(options):
        required = each.default is MISSING
        assert arguments[each.name].default == (inspect.Parameter.empty if required else each.default)
        assert each.metadata["help"] in function.__doc__
        if each.metadata.get("python"):
            assert each.name not in shown
            continue
        assert shown[each.name].required == required
        assert shown[each.name].help == each.metadata["help"]
        if not required and not {"command", "commas"} & set(each.metadata):
            # What may also be a word is text on the command line.
            assert shown[each.name].default == (str(each.default) if "whole" in each.metadata else each.default)


OTHERS: dict[str, type[OptionSet]] = {
    "predict": PredictOptions,
    "data check": CheckOptions,
    "graph": GraphOptions,
    "features": FeaturesOptions,
    "demo": DemoOptions,
    "answer": AnswerOptions,
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_command_has_its_options_and_no_others(name: str) -> None:
    command: Any = typer.main.get_command(app)
    for word in name.split():
        command = command.commands[word]
    shown = {each.name: each for each in command.params if each.param_type_name == "option"}
    known = {each.name: each for each in offered(OTHERS[name]) if not each.metadata.get("python")}
    assert shown.keys() - {"help"} == known.keys()
    for each in known.values():
        assert (shown[each.name].help, shown[each.name].default) == (each.metadata["help"], each.default)
