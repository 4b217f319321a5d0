"""Losses, predictions and measures of the three tasks on a tiny BLIP."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers")

from tests.generative.tasks import world
from vlmadapt.errors import InputError
from vlmadapt.generative.models.load import task_model
from vlmadapt.generative.models.text import IGNORED, encode_prompts, encode_targets
from vlmadapt.generative.tasks import TASK_CLASSES, Pictures, TaskOptions
from vlmadapt.generative.tasks.ranking import answer_losses, rank_answers
from vlmadapt.pictures import read


def make(task, tmp_path, **options):
    return TASK_CLASSES[task](task_model(world.model(task)), world.records(task, tmp_path), TaskOptions(**options))


def overfit(task, steps=120):
    optimizer = torch.optim.AdamW(task.model.module.parameters(), lr=3e-3)
    indices = torch.arange(len(task.data.train))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = task.loss(indices)
        loss.backward()
        optimizer.step()
    task.model.module.eval()
    return float(loss.detach())


@pytest.mark.parametrize("task, options", [
    ("vqa", {}), ("vqa", {"answering": "generate"}), ("entailment", {}), ("caption", {"label_smoothing": 0.0}),
    ("caption", {"prompt": "a plain"}),
])  # fmt: skip
def test_training_learns_the_tiny_world(task, options, tmp_path):
    if task == "caption":
        pytest.importorskip("pycocoevalcap")
    made = make(task, tmp_path, **options)
    before = made.score_validation()[0]
    overfit(made)
    measures = made.measure(made.data.test, made.predict(made.data.test))
    assert measures[made.metric] > max(before, 0.0) and made.score_validation()[0] > before
    wanted = {"vqa": 0.95, "entailment": 0.99, "caption": 1.5}  # VQA: black is also called dark
    assert measures[made.metric] > wanted[task]
    assert made.predict(made.data.test[:2])[0] == made.predict(made.data.test)[0]


def test_vqa_loss_is_the_weighted_sum_over_answers(tmp_path):
    made = make("vqa", tmp_path)
    black = next(record for record in made.data.train if record.answers[0][0] == "black")
    states, mask = made.model.read(made.features([black]), [black.prompt])
    one = {word: answer_losses(made.model, states, mask, [word]).item() for word in ("black", "dark")}
    assert made.loss_of([black]).item() == pytest.approx(0.8 * one["black"] + 0.2 * one["dark"], rel=1e-5)


def test_answer_losses_are_summed_log_probabilities(tmp_path):
    made = make("vqa", tmp_path)
    record = made.data.train[0]
    states, mask = made.model.read(made.features([record]), [record.prompt])
    words = made.model.tokenizer
    numbers = [words.bos, *words.encode("plain red"), words.sep]
    total = 0.0
    for position in range(1, len(numbers)):
        inputs = torch.tensor([numbers[:position]])
        logits = made.model.module.text_decoder(input_ids=inputs, encoder_hidden_states=states).logits
        total -= float(logits[0, -1].log_softmax(-1)[numbers[position]])
    both = answer_losses(made.model, states.repeat(2, 1, 1), mask.repeat(2, 1), ["plain red", "red"])
    assert float(both[0]) == pytest.approx(total, rel=1e-5)


def test_ranking_is_the_likeliest_candidate(tmp_path):
    made = make("vqa", tmp_path)
    overfit(made, steps=15)  # undecided enough for the order to matter
    candidates = ["red", "plain red", "all of the plain", "black", "no", "dark picture"]
    chosen = made.data.test
    states, mask = made.model.read(made.features(chosen), [record.prompt for record in chosen])
    losses = torch.stack([answer_losses(made.model, states, mask, [text] * len(chosen)) for text in candidates], 1)
    assert torch.equal(rank_answers(made.model, states, mask, candidates, 99), losses.argmin(1))
    first = made.model.targets(candidates).labels[:, 0]
    opening = made.model.answer_logits(states, mask, made.model.targets([""] * len(chosen)))[:, 0].log_softmax(-1)
    kept = opening[:, first].topk(2, dim=1).indices
    expected = kept.gather(1, losses.gather(1, kept).argmin(1, keepdim=True)).squeeze(1)
    assert torch.equal(rank_answers(made.model, states, mask, candidates, 2), expected)


def test_an_answer_does_not_depend_on_the_questions_beside_it(tmp_path):
    """BlipForQuestionAnswering.generate attends to the padding of shorter questions; ours must not."""
    made = make("vqa", tmp_path)
    overfit(made, steps=10)
    short, long = made.data.test[0], made.data.test[5]
    model = made.model
    alone, _ = model.read(made.features([short]), [short.prompt])
    beside, mask = model.read(made.features([short, long]), [short.prompt, long.prompt])
    length = alone.shape[1]
    torch.testing.assert_close(beside[:1, :length], alone)
    targets = model.targets(["red", "red"])
    together = model.answer_logits(beside, mask, targets)[0]
    single = model.answer_logits(alone, mask[:1, :length], model.targets(["red"]))[0]
    torch.testing.assert_close(together, single)
    changed = beside.clone()
    changed[0, length:] = 1e3
    assert model.reply(changed, mask, 1, 4) == model.reply(beside, mask, 1, 4)


def test_caption_loss_smooths_labels_and_leaves_the_prompt_out(tmp_path):
    made = make("caption", tmp_path, label_smoothing=0.3, prompt="a plain")
    record = made.data.train[0]
    record = type(record)(record.id, record.image, record.split, captions=(record.captions[0],))
    model = made.model
    words = model.tokenizer
    text = words.encode("a plain") + words.encode(record.captions[0])
    inputs = torch.tensor([[words.bos, *text]])
    logits = model.module.text_decoder(input_ids=inputs, encoder_hidden_states=made.features([record])).logits[0]
    labels = torch.tensor([*text[2:], words.sep])
    expected = F.cross_entropy(logits[2:], labels, label_smoothing=0.3)
    assert float(made.loss_of([record])) == pytest.approx(float(expected), rel=1e-5)


def test_validation_is_greedy_and_test_searches(tmp_path, monkeypatch):
    made = make("caption", tmp_path, beams=4)
    asked = []

    def describe(self, features, prompt, beams, longest):
        asked.append(beams)
        return ["a"] * len(features)

    monkeypatch.setattr(type(made.model), "describe", describe)
    made.score_validation()
    made.predict(made.data.test)
    assert asked == [1, 4]


def test_targets_are_shifted_and_padded():
    words = world.tokenizer()
    red, plain, blue = (words.encode(text)[0] for text in ("red", "plain", "blue"))
    targets = encode_targets(words, ["red", "plain blue"], 16)
    assert targets.inputs.tolist() == [[words.bos, red, words.pad], [words.bos, plain, blue]]
    assert targets.labels.tolist() == [[red, words.sep, IGNORED], [plain, blue, words.sep]]
    assert targets.mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    numbers, mask = encode_prompts(words, ["red " * 30], 6)
    assert numbers.tolist() == [[words.cls, red, red, red, red, words.sep]] and mask.sum() == 6


def test_features_of_a_frozen_tower_are_computed_once_and_equal(tmp_path):
    made = make("vqa", tmp_path)
    model = made.model
    paths = [record.image for record in made.data.train]
    fresh = model.features(torch.stack([world.to_pixels(read(path)) for path in paths])).detach()
    model.module.requires_grad_(False)
    calls = []

    def counted(path):
        calls.append(path)
        return read(path)

    pictures = Pictures(model, counted)
    torch.testing.assert_close(pictures.features(paths + paths[:1]), torch.cat([fresh, fresh[:1]]))
    pictures.features(paths)
    assert len(calls) == len(paths)
    model.module.vision_model.requires_grad_(True)  # a training tower is asked again, with a graph
    assert all(feature.requires_grad for feature in pictures.features(paths[:2]))
    none = Pictures(model, counted, budget_mib=0)
    model.module.requires_grad_(False)
    before = len(calls)
    none.features(paths[:2])
    none.features(paths[:2])
    assert len(calls) == before + 4


def test_models_and_tasks_must_fit(tmp_path):
    for task in ("vqa", "entailment"):
        with pytest.raises(InputError, match="does not answer questions"):
            TASK_CLASSES[task](task_model(world.model("caption")), world.records(task, tmp_path))
    captions = world.records("caption", tmp_path)
    with pytest.raises(InputError, match="does not describe pictures"):
        TASK_CLASSES["caption"](task_model(world.model("vqa")), captions)
    for limits in ((None, 1, None), (None, None, 1)):
        with pytest.raises(InputError, match="captions need at least 2"):
            TASK_CLASSES["caption"](task_model(world.model("caption")), captions.limited(*limits))
    with pytest.raises(InputError, match="answering is 'guess'"):
        TaskOptions(answering="guess")
    with pytest.raises(InputError, match="'beam' is no option"):
        TaskOptions.make({"beam": 3})


def test_coca_captions(tmp_path):
    pytest.importorskip("open_clip")
    from tests.generative.methods.test_methods import WORDS, build_coca
    from vlmadapt.generative.models import GenerativeModel, generate
    from vlmadapt.generative.models.small import WordTokenizer

    words = WordTokenizer(list("abcdefghijklmno"))
    assert len(words) == WORDS
    loaded = GenerativeModel("coca:tiny", build_coca(), words, world.to_pixels, (16, 16))
    made = TASK_CLASSES["caption"](task_model(loaded), world.records("caption", tmp_path), TaskOptions(longest=5))
    loss = made.loss(torch.arange(3))
    loss.backward()
    assert torch.isfinite(loss)
    said = made.predict(made.data.test[:2], beams=2)
    pixels = torch.stack([made.model.transform(read(record.image)) for record in made.data.test[:2]])
    start = torch.full((2, 1), words.bos)
    told = generate(
        loaded.model, pixels, start, start_token=words.bos, end_token=words.sep, max_new_tokens=5, num_beams=2
    )
    assert said == [words.decode(row[1:].tolist()) for row in told]
    assert "_encode_image" not in loaded.model.__dict__


LIMIT = world.TINY.max_length  # 16: the start, prompt and text, the end


@pytest.mark.parametrize("words", [LIMIT - 3, LIMIT - 2, LIMIT - 1, LIMIT, 3 * LIMIT])
def test_a_prompt_leaves_room_for_a_text_or_is_refused(tmp_path, words):
    prompt = " ".join(["plain"] * words)
    if words > LIMIT - 3:
        said = f"prompt has {words} tokens, but the model reads {LIMIT} in all: shorten it to {LIMIT - 3}"
        with pytest.raises(InputError, match=said):
            make("caption", tmp_path, prompt=prompt)
        with pytest.raises(InputError, match=said):
            encode_targets(world.tokenizer(), ["red"], LIMIT, prompt)
        return
    made = make("caption", tmp_path, prompt=prompt)
    targets = made.model.targets(["red blue"], prompt)
    red = world.tokenizer().encode("red")[0]
    assert targets.labels[0].tolist() == [IGNORED] * words + [red, world.tokenizer().sep]
    assert targets.inputs.shape == targets.labels.shape == targets.mask.shape
    assert torch.isfinite(made.loss(torch.arange(3))) and len(made.predict(made.data.test[:2])) == 2


@pytest.mark.parametrize("prompt", ["", "plain red"])
@pytest.mark.parametrize("length", [1, LIMIT - 5, LIMIT - 4, LIMIT - 2, LIMIT, 5 * LIMIT])
def test_long_texts_are_cut_at_their_end(prompt, length):
    words = world.tokenizer()
    text = words.encode("blue") + words.encode("black") * (length - 1)
    targets = encode_targets(words, [words.decode(text)], LIMIT, prompt)
    start = words.encode(prompt)
    assert targets.inputs.shape == targets.labels.shape and targets.inputs.shape[1] < LIMIT
    kept = text[: LIMIT - 2 - len(start)]
    assert targets.inputs[0].tolist() == [words.bos, *start, *kept]
    assert targets.labels[0].tolist() == [IGNORED] * len(start) + [*kept, words.sep]


def test_saying_nothing_entails_nothing(tmp_path):
    made = make("entailment", tmp_path)
    assert made.measure(made.data.test, [""] * len(made.data.test)) == {"accuracy": 0.0}


@pytest.mark.parametrize("task, changed, said", [
    ("caption", {"captions": ("", " ...")}, "no captions with words"), ("vqa", {"answers": ((" ", 3),)}, "the answers"),
    ("vqa", {"answers": (("red", 0),)}, "the answers"), ("vqa", {"prompt": " "}, "an empty prompt"),
    ("entailment", {"prompt": ""}, "an empty prompt"), ("entailment", {"label": ""}, "the label ''"),
])  # fmt: skip
def test_records_that_say_nothing_are_refused(tmp_path, task, changed, said):
    data = world.records(task, tmp_path)
    with pytest.raises(InputError, match=f"record train-0 has {said}"):
        replace(data, train=(replace(data.train[0], **changed), *data.train[1:]))


def test_labels_are_shifted_once(tmp_path):
    """What a decoder is asked and told here is what transformers' own loss makes of the whole answers."""
    made = make("vqa", tmp_path)
    model, states, mask = made.read(made.data.train[:3])
    module, words = model.module.eval(), ["red", "surely not black", "dark"]
    targets = encode_targets(model.tokenizer, words, model.longest)
    later = targets.mask[:, 1:] == 1
    assert torch.equal(targets.labels[:, :-1][later], targets.inputs[:, 1:][later])
    logits, smoothing = model.answer_logits(states, mask, targets), module.text_decoder.label_smoothing
    ours = F.cross_entropy(logits.flatten(0, 1), targets.labels.flatten(), label_smoothing=smoothing)
    whole = torch.cat([targets.inputs[:, :1], targets.labels.clamp(min=0)], 1)
    learnt = torch.cat([targets.inputs[:, :1], targets.labels], 1)
    seen = torch.cat([targets.mask, torch.zeros_like(targets.mask[:, :1])], 1)
    given = {"encoder_hidden_states": states, "encoder_attention_mask": mask, "use_cache": False}
    theirs = module.text_decoder(input_ids=whole, attention_mask=seen, labels=learnt, **given).loss
    torch.testing.assert_close(ours, theirs.mean(), rtol=1e-5, atol=1e-6)
