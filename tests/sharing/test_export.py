"""A program that was exported says what its classifier says, in torch and in onnxruntime, whatever the adapter."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import vlmadapt
from tests.adapters.problem import make_problem
from tests.adapters.test_battery import NAMES, make
from tests.experiments.world import ColourEncoder
from tests.test_cli import call
from vlmadapt.adapters import create_adapter
from vlmadapt.backbones.load import load_encoder
from vlmadapt.classifier import Classifier
from vlmadapt.errors import FileError, InputError, MissingDependency
from vlmadapt.sharing import export as exporting
from vlmadapt.sharing.probe import probe_features, probe_picture
from vlmadapt.sharing.program import Program


@pytest.fixture(scope="module", params=NAMES)
def traced(request):
    problem = make_problem()
    adapter = make(request.param, problem).fit(*problem.fit_arguments)
    before = adapter.state_dict()
    program = exporting._traced(Program(adapter), problem.queries)
    assert all(torch.equal(before[name], value) for name, value in adapter.state_dict().items())
    return adapter, program, problem.queries


def test_a_program_of_torch_says_the_same_for_any_number_of_rows(traced):
    adapter, program, queries = traced
    run = program.module()
    for rows in (queries, queries[:1], 3 * queries[:5]):  # of any length
        logits, probabilities = run(rows)
        torch.testing.assert_close(logits, adapter.logits(rows), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(probabilities, adapter.predict_proba(rows), rtol=1e-9, atol=1e-9)


def test_it_holds_no_custom_operator_and_no_look_at_the_numbers(traced):
    _, program, queries = traced
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert all(name.startswith("aten.") for name in called if "." in name)
    assert not [name for name in called if "isfinite" in name or "_assert_async" in name]
    assert bool(program.module()(queries[:2] * torch.nan)[1].isnan().all())


def test_a_program_of_onnx_says_the_same(traced, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    adapter, program, queries = traced
    exporting._write_onnx(program, tmp_path / "it.onnx", "features")
    model = onnx.load(tmp_path / "it.onnx")
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"} and not model.functions
    session = runtime.InferenceSession(str(tmp_path / "it.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", adapter.width]
    for rows in (queries, queries[:1]):
        logits, probabilities = session.run(["logits", "probabilities"], {"features": rows.numpy()})
        np.testing.assert_allclose(logits, adapter.logits(rows).numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(probabilities, adapter.predict_proba(rows).numpy(), atol=1e-6)


def read_probe(folder):
    with np.load(folder / "probe.npz", allow_pickle=False) as probe:
        return dict(probe)


def test_features_to_probabilities_with_all_that_another_runtime_needs(run, tmp_path):
    classifier = Classifier.load(run)
    done = vlmadapt.export(classifier, out=tmp_path / "out", format="torch")
    assert done.differences["torch"] <= 1e-6 and done.program == tmp_path / "out" / "classifier.pt2"
    told = json.loads((tmp_path / "out" / "export.json").read_text())
    assert told["class_names"] == list(classifier.class_names)
    assert told["input"] == {"name": "features", "shape": ["batch", classifier.adapter.width], "dtype": "float32"}
    assert [each["name"] for each in told["outputs"]] == ["logits", "probabilities"]
    assert told["temperature"] == classifier.adapter.temperature_ and told["probe"]["tolerance"] == 1e-4
    assert str(tmp_path) not in json.dumps(told)
    probe = read_probe(tmp_path / "out")
    again = torch.export.load(done.program).module()(torch.from_numpy(probe["features"]))[1]
    np.testing.assert_allclose(again.numpy(), probe["probabilities"], atol=1e-6)


def test_pixels_to_probabilities_of_the_saved_picture(run, tmp_path):
    done = vlmadapt.export(run, out=tmp_path / "out", format="torch", with_encoder=True)
    classifier = Classifier.load(run)
    probe = read_probe(tmp_path / "out")
    with Image.open(tmp_path / "out" / "probe.png") as picture:
        pixels = ColourEncoder().transform(picture)
    assert np.array_equal(probe["pixels"], pixels[None].numpy())
    expected = classifier.predict([tmp_path / "out" / "probe.png"], top=classifier.adapter.num_classes)[0].classes
    found = dict(zip(classifier.class_names, probe["probabilities"][0].tolist(), strict=True))
    assert found == pytest.approx(dict(expected), abs=1e-6)
    other = torch.stack([pixels, pixels.flip(-1), 1 - pixels])
    wanted = classifier.adapter.predict_proba(ColourEncoder().encode_images(other))
    torch.testing.assert_close(torch.export.load(done.program).module()(other)[1], wanted, rtol=1e-5, atol=1e-6)


def test_only_features_need_no_backbone(run, tmp_path, monkeypatch):
    monkeypatch.setattr("vlmadapt.backbones.load_encoder", lambda *_args, **_more: pytest.fail("not needed"))
    vlmadapt.export(run, out=tmp_path / "out", format="torch")


def test_what_differs_is_not_left_behind(run, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_largest_difference", lambda *_: float("nan"))
    with pytest.raises(InputError, match=r"differs by nan in torch from the classifier, more than 0\.0001"):
        vlmadapt.export(run, out=tmp_path / "out", format="torch")
    assert list(tmp_path.iterdir()) == []


def test_folders_of_something_else_are_left_alone(run, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileError, match=r"holds mine.txt and is no export"):
        vlmadapt.export(run, out=tmp_path, format="torch")
    out = tmp_path / "out"
    vlmadapt.export(run, out=out, format="torch")
    with pytest.raises(FileError, match="pass --overwrite"):
        vlmadapt.export(run, out=out, format="torch")
    vlmadapt.export(run, out=out, format="torch", overwrite=True)


def test_wrong_formats_and_missing_packages_are_one_sentence(run, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="format is 'tflite': choose one of onnx, torch"):
        vlmadapt.export(run, out=tmp_path / "out", format="tflite")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependency, match=r"format onnx needs onnx: run pip install 'vlmadapt\[export\]'"):
        vlmadapt.export(run, out=tmp_path / "out")


def test_the_command(run, tmp_path):
    result = call("export", run, "--out", tmp_path / "out", "--format", "torch", "--with-encoder")
    assert f"exported: {tmp_path / 'out' / 'classifier.pt2'}" in result.stdout
    assert "torch: probabilities of the probe within" in result.stderr


def test_probe_features_are_unit_rows_with_and_without_text():
    problem = make_problem()
    rows = probe_features(make("ncm", problem))
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(8, dtype=rows.dtype))


@pytest.mark.parametrize("name", ["timm:test_vit@random", "open_clip:ViT-S-32-alt@random"])
@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_towers_of_libraries_become_programs_of_any_number_of_pictures(name, engine):
    pytest.importorskip(name.partition(":")[0])
    encoder = load_encoder(name, engine=engine)
    adapter = create_adapter("zero-shot", torch.randn(3, encoder.width), 5.0)
    pixels = torch.stack([encoder.transform(probe_picture().rotate(angle)) for angle in (0, 90, 180)])
    program = exporting._traced(Program(adapter, encoder), pixels).module()
    wanted = adapter.predict_proba(encoder.encode_images(pixels))
    torch.testing.assert_close(program(pixels)[1], wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(program(pixels[1:2])[1], wanted[1:2], rtol=1e-4, atol=1e-5)
    assert encoder.preprocessing["mean"] and encoder.preprocessing["interpolation"]
