"""Generative models."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import peers
from ..case import OURS, Verdict, case
from ..judge import judged, of_call

NAME = "Generative models"
METHODS: dict[str, dict[str, Any]] = {"lora": {"rank": 2}, "bottleneck": {"width": 4}, "p-adapter": {"reduction": 4}}
CAPTION = "BlipForConditionalGeneration"

prompts = case(
    NAME,
    "a prompt of captions that fills the model's text, or nearly",
    "the text is learnt where there is room for one; refused by name where not",
    "training on captions with a prompt",
    "generative/tasks/test_tasks.py::test_a_prompt_leaves_room_for_a_text_or_is_refused",
    "generative/tasks/test_tasks.py::test_long_texts_are_cut_at_their_end",
)


@prompts.by(OURS)
def _prompts(place: Path) -> list[Verdict]:
    from tests.generative.tasks import world
    from vlmadapt.generative.models.text import encode_targets

    words, limit, found = world.tokenizer(), world.TINY.max_length, []
    for count in (limit - 3, limit - 2, limit - 1, limit, 2 * limit):
        prompt = " ".join(["plain"] * count)

        def check(targets: Any) -> tuple[bool, str]:
            learnt = [number for number in targets.labels[0].tolist() if number >= 0]
            right = learnt == [*words.encode("red"), words.sep] and targets.inputs.shape == targets.labels.shape
            return right, f"{len(learnt)} tokens learnt, the end among them"

        found.append(
            of_call(
                lambda: encode_targets(words, ["red"], limit, prompt), ("prompt",), check, f"{count} of {limit} words"
            )
        )
    return found


checkpointed = case(
    NAME,
    "gradient checkpointing with `use_reentrant=True` under an adapter",
    "the gradients of training without checkpointing",
    "adapters of a model",
    "generative/methods/test_wrapped.py::test_checkpointing_changes_no_gradient",
    "generative/methods/test_wrapped.py::test_checkpointed_before_attaching",
)


def enable(model: Any) -> None:
    """transformers renamed it within version 5."""
    (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)(
        {"use_reentrant": True}
    )


def trained(model: Any, parameters: dict[str, nn.Parameter]) -> dict[str, torch.Tensor | None]:
    """Gradients of one step, dropout and all."""
    from tests.generative.tiny import pictures, texts

    tokens, mask = texts()
    torch.manual_seed(4)
    model(
        pixel_values=pictures(), input_ids=tokens, attention_mask=mask, labels=tokens.masked_fill(mask == 0, -100)
    ).loss.backward()
    return {name: parameter.grad for name, parameter in parameters.items()}


def equal_gradients(found: dict[str, torch.Tensor | None], plain: dict[str, torch.Tensor | None]) -> tuple[bool, str]:
    same = []
    for name, theirs in plain.items():
        ours = found[name]
        both = ours is not None and theirs is not None and torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)
        same.append(both or (ours is None and theirs is None))
    return all(same) and any(value is not None for value in plain.values()), f"{sum(same)} of {len(same)} gradients"


@checkpointed.by(OURS)
def _checkpointed(place: Path) -> list[Verdict]:
    from tests.generative.tiny import in_training, tiny_blip
    from vlmadapt.generative.methods.registry import attach

    def gradients(name: str, checkpoint: bool) -> dict[str, torch.Tensor | None]:
        model = tiny_blip(CAPTION).train()
        if checkpoint:
            enable(model)
        attached = in_training(attach(model, name, METHODS[name]))
        return trained(model, dict(attached.named_parameters()))

    return [
        of_call(lambda: gradients(name, True), (), lambda found: equal_gradients(found, gradients(name, False)), name)
        for name in METHODS
    ]


@checkpointed.by("peft")
def _checkpointed_peft(place: Path) -> Verdict:
    from tests.generative.tiny import tiny_blip

    def gradients(checkpoint: bool) -> dict[str, torch.Tensor | None]:
        model = tiny_blip(CAPTION).train()
        if checkpoint:
            enable(model)
        wrapped = moved(peers.lora(model))
        return trained(wrapped, {name: each for name, each in wrapped.named_parameters() if each.requires_grad})

    return of_call(lambda: gradients(True), (), lambda found: equal_gradients(found, gradients(False)))


@torch.no_grad()
def moved(model: Any) -> Any:
    """As if some steps had been trained: LoRA begins with a product of zero."""
    draw = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=draw))
    return model


compiled = case(
    NAME,
    "an adapter trained on `torch.compile(model)`, saved, loaded on the plain model; and the other way round",
    "the loaded one gives the outputs of the saved one",
    "adapters of a model",
    "generative/methods/test_wrapped.py::test_a_wrapped_model_and_a_plain_one_share_their_files",
)


def wrap(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


def logits(model: Any) -> torch.Tensor:
    from tests.generative.tiny import pictures, texts

    tokens, mask = texts()
    with torch.no_grad():
        return model(pixel_values=pictures(), input_ids=tokens, attention_mask=mask).logits


def close(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[bool, str]:
    return torch.allclose(*pair, atol=1e-4), f"outputs differ by {(pair[0] - pair[1]).abs().max():.1e}"


def plain(model: nn.Module) -> nn.Module:
    return model


WAYS = {"plain to plain": (plain, plain), "compiled to plain": (wrap, plain), "plain to compiled": (plain, wrap)}


@compiled.by(OURS)
def _compiled(place: Path) -> list[Verdict]:
    from tests.generative.tiny import in_training, tiny_blip
    from vlmadapt.generative.methods.registry import attach

    original, found = tiny_blip(CAPTION), []
    for what, (first, second) in WAYS.items():
        for name, settings in METHODS.items():

            def both(
                first: Any = first, second: Any = second, name: str = name, settings: Any = settings, what: str = what
            ) -> Any:
                one = in_training(attach(first(copy.deepcopy(original)), name, settings))
                one.save(place / what / name)
                other = attach(second(copy.deepcopy(original)), name, settings)
                other.load(place / what / name)
                return logits(one.model), logits(other.model)

            found.append(of_call(both, (), close, f"{name}, {what}"))
    return found


@compiled.by("peft")
def _compiled_peft(place: Path) -> list[Verdict]:
    from peft import PeftModel

    from tests.generative.tiny import tiny_blip

    original, found = tiny_blip(CAPTION), []
    for what, (first, second) in WAYS.items():

        def both(first: Any = first, second: Any = second, what: str = what) -> tuple[torch.Tensor, torch.Tensor]:
            one = moved(peers.lora(first(copy.deepcopy(original)))).eval()
            one.save_pretrained(str(place / what))
            return logits(one), logits(
                PeftModel.from_pretrained(second(copy.deepcopy(original)), str(place / what)).eval()
            )

        found.append(of_call(both, (), close, f"LoRA, {what}"))
    return found


quantised = case(
    NAME,
    "a model whose layers `quantize_dynamic` has replaced",
    "refused, the layer or its type named",
    "adapters of a model",
    "generative/methods/test_wrapped.py::test_quantised_weights_are_refused_in_one_sentence",
)


def quantise() -> Any:
    from tests.generative.tiny import tiny_blip

    return torch.ao.quantization.quantize_dynamic(tiny_blip(CAPTION), {nn.Linear}, dtype=torch.qint8)


@quantised.by(OURS)
def _quantised(place: Path) -> list[Verdict]:
    from vlmadapt.generative.methods.registry import attach

    return [
        of_call(
            lambda: attach(quantise(), name, METHODS[name]), ("packed weights",), lambda _: (False, "attached"), name
        )
        for name in METHODS
    ]


@quantised.by("peft")
def _quantised_peft(place: Path) -> Verdict:
    return of_call(lambda: peers.lora(quantise()), ("Quantized", "Linear"), lambda _: (False, "attached"), "LoRA")


answers = case(
    NAME,
    "a model answers nothing, or signs only, where people said something",
    "scores 0",
    "measure of visual question answering",
    "generative/tasks/test_answers.py::test_saying_nothing_is_never_right_where_people_said_something",
)


@answers.by(OURS)
def _answers(place: Path) -> list[Verdict]:
    from vlmadapt.generative.tasks.answers import answer_accuracy

    people: dict[str, list[tuple[str, int]]] = {
        "red": [("red", 10)],
        "?!": [("?!", 1)],
        "an article": [("a", 6), ("the", 4)],
    }
    return [
        judged(
            answer_accuracy(said, given) == 0, f"{answer_accuracy(said, given):g}", f"{said!r} where people said {what}"
        )
        for what, given in people.items()
        for said in ("", "...")
    ]
