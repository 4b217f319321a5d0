"""The tasks' view of models of transformers that read pictures, against the model's own forward on what its own
processor makes of a picture and a question; one battery for all families."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("transformers")
pytest.importorskip("torchvision")

from tests.generative.tiny import in_training
from tests.generative.tiny_folders import FOLDERS, asked
from vlmadapt.generative.methods.registry import attach
from vlmadapt.generative.models import chat, load_generative
from vlmadapt.generative.models.host_view import HostView
from vlmadapt.generative.models.load import task_model
from vlmadapt.generative.models.text import IGNORED, Targets
from vlmadapt.generative.tasks import Pictures
from vlmadapt.generative.tasks.base import token_losses
from vlmadapt.generative.tasks.ranking import rank_answers

QUESTIONS = ["what colour is it?", "is it red?", "what colour is the picture of? surely not black"]
ANSWERS = ["red", "there is no picture", "a plain blue"]


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / request.param.replace("/", ".")
    FOLDERS[request.param](path)
    return path


@pytest.fixture(scope="module")
def view(folder: Path) -> Any:
    return task_model(load_generative(f"{folder.name.partition('.')[0]}:{folder}"))


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder)


def pictures() -> list[Image.Image]:
    """Three, of three shapes."""
    drawn = np.random.default_rng(0)
    return [
        Image.fromarray(drawn.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in ((40, 52), (33, 90), (70, 30))
    ]


def features(view: HostView, number: int = 3) -> Any:
    return Pictures(view, read=lambda path: pictures()[int(path.name)]).features([Path(str(n)) for n in range(number)])


def with_answer(given: dict[str, Tensor], answer: Tensor) -> dict[str, Tensor]:
    """What a processor gave, and behind it the tokens of an answer int64 [1, T]."""
    added: dict[str, Any] = {"input_ids": answer, "attention_mask": 1, "mm_token_type_ids": 0, "token_type_ids": 1}
    return {
        name: torch.cat([value, torch.zeros_like(answer) + added[name]], 1) if name in added else value
        for name, value in given.items()
    }


@torch.no_grad()
def test_the_logits_are_the_models_own(view: Any, processor: Any) -> None:
    seen = features(view)
    targets = view.targets(ANSWERS)
    found = view.answer_logits(*view.read(seen, QUESTIONS), targets)
    for row, (picture, question) in enumerate(zip(pictures(), QUESTIONS, strict=True)):
        given = asked(processor, picture, question)
        answer = targets.inputs[row : row + 1, 1 : int(targets.mask[row].sum())]
        whole = view.module(**with_answer(given, answer)).logits[0]
        assert whole.std() > 0.5  # weights are wide enough for the picture to matter
        start = given["input_ids"].shape[1] - 1
        torch.testing.assert_close(found[row, : answer.shape[1] + 1], whole[start:], rtol=1e-5, atol=1e-5)


def test_position_t_predicts_token_t_plus_one(view: Any, processor: Any) -> None:
    """Our loss is that of the model's own forward, which shifts the labels it is given."""
    seen, targets = features(view), view.targets(ANSWERS)
    kept = targets.mask.bool()
    assert torch.equal(targets.labels[:, :-1][kept[:, 1:]], targets.inputs[:, 1:][kept[:, 1:]])
    ends = targets.mask.sum(1, keepdim=True) - 1
    assert (targets.labels.gather(1, ends) == view.words.sep).all() and (targets.inputs[:, 0] == view.words.bos).all()
    assert (targets.labels[~kept] == IGNORED).all()
    losses = token_losses(view.answer_logits(*view.read(seen, QUESTIONS), targets), targets)
    for row, (picture, question) in enumerate(zip(pictures(), QUESTIONS, strict=True)):
        given = asked(processor, picture, question)
        answer = targets.labels[row : row + 1, : int(targets.mask[row].sum())]
        learnt = with_answer(given, answer)
        labels = torch.cat([torch.full_like(given["input_ids"], IGNORED), answer], 1)
        own = view.module(**{**learnt, "labels": labels}).loss
        torch.testing.assert_close(losses[row].sum() / answer.shape[1], own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["frozen", "p-adapter", "prefix"])
def test_an_answer_does_not_depend_on_the_padding_of_its_question(view: Any, method: str) -> None:
    settings = {"p-adapter": {"reduction": 4}, "prefix": {"length": 3}}.get(method)
    with_method = in_training(attach(view.module, method, settings))
    try:
        seen = features(view)
        together = view.answer_logits(*view.read(seen, QUESTIONS), view.targets(ANSWERS))
        for row, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=True)):
            one = view.targets([answer])
            alone = view.answer_logits(*view.read(seen[row : row + 1], [question]), one)
            torch.testing.assert_close(together[row, : one.inputs.shape[1]], alone[0], rtol=1e-4, atol=1e-4)
    finally:
        with_method.detach()


@pytest.mark.parametrize("method", ["frozen", "p-adapter"])
def test_many_answers_to_a_question_are_those_read_one_by_one(
    monkeypatch: pytest.MonkeyPatch, view: Any, method: str
) -> None:
    monkeypatch.setattr(chat, "COPIED_AT_ONCE", 80_000)
    attached = in_training(attach(view.module, method, {"reduction": 4} if method == "p-adapter" else None))
    try:
        states, mask = view.read(features(view), QUESTIONS)
        rows = torch.tensor([0, 0, 1, 2, 2, 2, 0])
        targets = view.targets([*ANSWERS, "blue", "yes", "maybe", "black"])
        expected = view.answer_logits(states[rows], mask[rows], targets)
        with torch.no_grad():
            found = view.candidate_logits(states, mask, rows, targets)
            kept = targets.mask.bool()
            torch.testing.assert_close(found[kept], expected[kept], rtol=1e-4, atol=1e-4)
            losses = []
            for name in ANSWERS:
                same = view.targets([name] * 3)
                losses.append(token_losses(view.answer_logits(states, mask, same), same).sum(1))
            best = rank_answers(view, states, mask, ANSWERS, keep=3)
            assert best.tolist() == torch.stack(losses, 1).argmin(1).tolist()
    finally:
        attached.detach()


@torch.no_grad()
@pytest.mark.parametrize("method", ["frozen", "p-adapter"])
def test_what_is_generated_is_as_likely_as_teacher_forcing_says(view: Any, processor: Any, method: str) -> None:
    attached = in_training(attach(view.module, method, {"reduction": 4} if method == "p-adapter" else None))
    try:
        states, mask = view.read(features(view), QUESTIONS)
        unsaid = [view.words.picture, view.words.sep]
        told = {"max_new_tokens": 4, "output_logits": True, "return_dict_in_generate": True}
        start = torch.full((3, 1), view.words.bos)
        for use_cache in (True, False):
            found = view.search(states, mask, start, suppress_tokens=unsaid, use_cache=use_cache, **told)
            forced = view.answer_logits(states, mask, generated(found.sequences))
            logits = torch.stack(found.logits, 1)
            torch.testing.assert_close(forced, logits, rtol=1e-4, atol=1e-4)
        for row, (picture, question) in enumerate(zip(pictures(), QUESTIONS, strict=True)):
            given = asked(processor, picture, question)
            own = view.module.generate(**given, max_new_tokens=4, suppress_tokens=unsaid, do_sample=False)
            assert own[0, -4:].tolist() == found.sequences[row, 1:].tolist()
        beams = {"num_beams": 3, "max_new_tokens": 4, "suppress_tokens": unsaid}
        searched = view.search(states, mask, start, **beams)
        own = view.module.generate(**given, do_sample=False, **beams)
        assert own[0, -4:].tolist() == searched[2, 1:].tolist()
    finally:
        attached.detach()


def generated(sequences: Tensor) -> Targets:
    return Targets(sequences[:, :-1], sequences[:, 1:], torch.ones_like(sequences[:, 1:]))


@torch.no_grad()
def test_a_caption_is_the_answer_to_a_request(view: Any, processor: Any) -> None:
    seen, targets = features(view), view.targets(ANSWERS)
    found = view.caption_logits(seen, targets)
    for row, picture in enumerate(pictures()):
        own = view.module(**asked(processor, picture, view.request, request=True)).logits[0, -1]
        torch.testing.assert_close(found[row, 0], own, rtol=1e-5, atol=1e-5)
    said = view.reply(*view.read_request(seen), 1, 4)
    assert view.describe(seen, "", 1, 4) == said
    words, prompt = view.words, "there is"
    told = view.targets(["no picture"], prompt)
    assert words.decode([*told.inputs[0, 1:].tolist(), words.sep]) == "there is no picture"
    opening = len(view.opening(prompt))
    assert told.inputs[0, :opening].tolist() == view.opening(prompt)
    assert told.labels[0, : opening - 1].eq(IGNORED).all() and not told.labels[0, opening - 1 :].eq(IGNORED).any()
    assert len(view.describe(seen, prompt, 2, 3)) == 3


@torch.no_grad()
def test_a_text_that_spells_a_special_token_is_a_text(view: Any) -> None:
    words, seen = view.words, features(view)[:1]
    for spelt in (words.image_token, words.tokenizer.eos_token):
        question = f"what is {spelt}?"
        states, _ = view.read(seen, [question])
        plain, _ = view.read(seen, [f"what is {spelt[0]} {spelt[1:]}?"])
        torch.testing.assert_close(states, plain)
        numbers = words.encode(f"red {spelt}")
        assert words.sep not in numbers and words.picture not in numbers
        assert words.decode(numbers).replace(" ", "") == f"red{spelt}"
    long = "what colour is it? " * 200  # is cut, what follows it is not
    assert words.prompt(long, words.image_token, view.longest)[-1] == words.bos
    states, _ = view.read(seen, [long])
    assert states.shape[1] + view.longest <= view.positions


def test_a_frozen_tower_is_asked_once_and_a_trained_one_has_gradients(
    view: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[int] = []
    original = type(view).features

    def watched(self: Any, pixels: Tensor) -> Tensor:
        asked_for.append(len(pixels))
        return original(self, pixels)

    monkeypatch.setattr(type(view), "features", watched)
    kept = Pictures(view, read=lambda path: pictures()[int(path.name)])
    paths = [Path(name) for name in "0120"]
    with torch.no_grad():
        for parameter in view.module.parameters():
            parameter.requires_grad_(False)
        first, again = kept.features(paths), kept.features(paths)
    assert sum(asked_for) == 3 and all(map(torch.equal, first, again))
    attached = attach(view.module, "full")
    try:
        loss = view.caption_logits(kept.features(paths), view.targets(["red"] * 4)).square().mean()
        loss.backward()
        assert sum(asked_for) == 7
        towers = [parameter for parameter in view.tower.parameters() if parameter.grad is not None]
        assert any(parameter.grad.abs().sum() > 0 for parameter in towers)  # type: ignore[union-attr]
    finally:
        view.module.zero_grad(set_to_none=True)
        attached.detach()


@torch.no_grad()
def test_a_picture_in_one_piece_has_its_own_layout(tmp_path: Path) -> None:
    """Idefics3 that is told not to split pictures."""
    FOLDERS["smolvlm/Idefics3"](tmp_path)
    path = tmp_path / "processor_config.json"
    settings = json.loads(path.read_text())
    settings["image_processor"]["do_image_splitting"] = False
    path.write_text(json.dumps(settings))
    view: Any = task_model(load_generative(f"smolvlm:{tmp_path}"))
    from transformers import AutoProcessor

    seen, targets = features(view), view.targets(ANSWERS)
    assert seen.shape == (3, 1, 1, 16, 16)
    found = view.answer_logits(*view.read(seen, QUESTIONS), targets)
    given = asked(AutoProcessor.from_pretrained(tmp_path), pictures()[0], QUESTIONS[0])
    torch.testing.assert_close(found[0, 0], view.module(**given).logits[0, -1], rtol=1e-5, atol=1e-5)
