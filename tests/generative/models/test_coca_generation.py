"""Generation for open_clip's CoCa: the search, the cache, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")
pytest.importorskip("open_clip")

from tests.generative.tiny import END, START, WORDS, in_training, pictures, tiny_coca
from vlmadapt.errors import InputError
from vlmadapt.generative.methods.p_adapter import attach_p_adapter
from vlmadapt.generative.models import generate
from vlmadapt.generative.models.generation import _cacheable

SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beam": {"num_beams": 3},
    "top_p": {"do_sample": True, "top_p": 0.8},
    "top_k": {"do_sample": True, "top_k": 5, "temperature": 2.0},
    "penalty": {"repetition_penalty": 1.3, "min_length": 6},
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models spend their time waking threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def written(model: Any, images: Tensor | None = None, **options: Any) -> Any:
    torch.manual_seed(0)
    given = {"start_token": START, "end_token": END, "max_length": 14, **options}
    return generate(model, pictures(3).double() if images is None else images, **given)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("correct_cls_mask", [False, True])
@pytest.mark.parametrize("adapted", [False, True])
def test_the_cache_changes_nothing(search: str, correct_cls_mask: bool, adapted: bool) -> None:
    model = tiny_coca().double()
    model.text.correct_cls_mask = correct_cls_mask
    if adapted:
        in_training(attach_p_adapter(model, {"reduction": 4}))
    assert _cacheable(model) is not None
    asked = {"output_logits": True, "return_dict_in_generate": True, **SEARCHES[search]}
    cached, plain = (written(model, use_cache=use_cache, **asked) for use_cache in (True, False))
    assert torch.equal(cached.sequences, plain.sequences)
    for row, other in zip(cached.logits, plain.logits, strict=True):
        torch.testing.assert_close(row, other, rtol=1e-6, atol=1e-6)


def test_each_step_reads_one_token_and_the_pictures_once() -> None:
    model = tiny_coca().double()
    seen: dict[str, list[int]] = {"self": [], "cross": []}
    model.text_decoder.resblocks[0].register_forward_pre_hook(lambda _, x: seen["self"].append(x[0].shape[1]))
    image_keys = model.text_decoder.cross_attn[0].attn
    model.visual.register_forward_pre_hook(lambda _, x: seen["cross"].append(len(x[0])))
    written(model, end_token=0, max_length=6)
    assert seen == {"self": [1, 1, 1, 1, 1], "cross": [3]}
    assert set(image_keys.__dict__).isdisjoint({"kv_cache", "forward"})


def test_greedy_takes_the_most_probable_token_of_the_models_own_forward() -> None:
    model = tiny_coca().double()
    result = written(model)
    assert result.dtype == torch.int64 and result.shape == (3, 14)
    for length in range(1, 14):
        said = model(pictures(3).double(), result[:, :length], output_labels=False)["logits"][:, -1].argmax(-1)
        going_on = ~(result[:, :length] == END).any(1)
        assert torch.equal(result[going_on, length], said[going_on])


def test_beams_find_at_least_as_probable_texts() -> None:
    model = tiny_coca().double()

    def score(tokens: Tensor) -> Tensor:
        logits = model(pictures(3).double(), tokens, output_labels=True)["logits"]
        return logits.log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1).sum(-1)

    # Texts of one length, so that scores compare.
    asked: dict[str, Any] = {"max_length": 7, "min_length": 7}
    greedy, beam = written(model, **asked), written(model, num_beams=WORDS, **asked)
    assert bool((score(beam) >= score(greedy) - 1e-9).all()) and not torch.equal(beam, greedy)


@pytest.mark.parametrize("search", ["top_p", "beam"])
def test_texts_that_ended_are_padded(search: str) -> None:
    model = tiny_coca().double()
    ended = 0
    for end in range(12, 18):
        # A penalty below 0 prefers short texts; sampling does without.
        options = {**SEARCHES[search], **({"length_penalty": -5.0} if search == "beam" else {})}
        for row in written(model, end_token=end, **options).tolist():
            if end in row[1:-1]:
                ended += 1
                assert set(row[row.index(end, 1) + 1 :]) <= {0}
    assert ended


def test_a_prompt_is_continued() -> None:
    model = tiny_coca().double()
    whole = written(model)
    prompt = whole[:, :5]
    assert torch.equal(written(model, prompt=prompt), whole)
    assert torch.equal(written(model, prompt=prompt, max_new_tokens=4)[:, :9], whole[:, :9])


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_coca().double().train()
    before = {name: set(module.__dict__) for name, module in model.named_modules()}
    written(model)
    with pytest.raises(ValueError, match="typo"):
        written(model, typo=1)
    assert model.training
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == before


def test_an_attention_taken_over_by_something_else_is_recomputed() -> None:
    model = tiny_coca().double()
    module = model.text_decoder.resblocks[0].attn
    original = module.forward
    module.forward = lambda *args, **kwargs: (2 * original(*args, **kwargs)[0], None)
    assert _cacheable(model) is None
    assert torch.equal(written(model), written(model, use_cache=False))
    bidirectional = tiny_coca(no_causal_mask=True).double()
    assert _cacheable(bidirectional) is None
    written(bidirectional)


def test_hooks_on_attentions_are_run() -> None:
    model = tiny_coca().double()
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.register_forward_hook(lambda _, inputs, output: (1.5 * output[0], output[1]))
    assert _cacheable(model) is not None
    cached, plain = (written(model, use_cache=use_cache, max_length=10) for use_cache in (True, False))
    assert torch.equal(cached, plain)


def test_image_tokens_stand_in_for_images() -> None:
    model = tiny_coca().double()
    tokens = model._encode_image(pictures(3).double())[1]
    assert torch.equal(written(model, tokens, num_beams=2), written(model, num_beams=2))


def test_empty_batch() -> None:
    assert written(tiny_coca().double(), pictures(1)[:0].double()).shape == (0, 1)


def test_refused() -> None:
    model = tiny_coca().double()
    with pytest.raises(InputError, match="max_length is 17 but the model has 16 positions"):
        written(model, max_length=17)
    with pytest.raises(InputError, match=r"images are float32 \[32, 32\]: pass \[B, 3, H, W\]"):
        written(model, pictures(1)[0, 0])
    with pytest.raises(InputError, match=r"prompt is int64 \[2, 1\] but must be int64 \[3, L\]"):
        written(model, prompt=torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(InputError, match="model is a Linear without 'visual'"):
        generate(nn.Linear(2, 2), pictures())
