"""Folders as ``save_pretrained`` writes them: the tiny hosts with tiny processors, each in its own model's chat."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.generative import tiny_hosts

WORDS = 320
TEXTS = (
    "what colour is it? is it red? the picture is all red green blue black. a plain red picture there is no yes maybe "
    "surely not or dark USER: ASSISTANT: Assistant: User: assistant user answer caption en Question: Answer: "
    "Describe the picture."
)
LLAVA = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ content['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def pieces(special: list[str]) -> Any:
    """Byte pairs behind spaces turned into a mark, as SentencePiece has them; a text begins with one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    words.decoder = decoders.Metaspace(prepend_scheme="first")
    return trained(words, special, [*string.printable])


def trained(words: Any, special: list[str], alphabet: list[str]) -> Any:
    from tokenizers import trainers

    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator([TEXTS], trainer)
    return words


def byte_pairs(special: list[str]) -> Any:
    """Byte pairs as GPT-2 has them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    return trained(words, special, pre_tokenizers.ByteLevel.alphabet())


def tokenizer(made: Any, special: list[Any], **named: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=made, additional_special_tokens=special, **named)


def text_sizes(words: Any, **numbers: int) -> dict[str, Any]:
    return {**tiny_hosts.TEXT, "vocab_size": len(words), "max_position_embeddings": 256, **numbers}


def llava(folder: Path, **config: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    from tokenizers import AddedToken, processors

    special = ["<unk>", "<s>", "</s>", "<image>", "<pad>"]
    made = pieces(special)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    words = tokenizer(
        made, [AddedToken("<image>", special=True, normalized=False)],
        unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
    )  # fmt: skip
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    options = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(**size), words, chat_template=LLAVA, **options
    )
    picture = words.convert_tokens_to_ids("<image>")
    model = tiny_hosts.llava(
        "Llava",
        text=text_sizes(words, bos_token_id=1, eos_token_id=2, pad_token_id=4),
        image_token_id=picture, image_token_index=picture,
        **{"vision_feature_layer": -2, "vision_feature_select_strategy": "default", **config},
    )  # fmt: skip
    return saved(folder, model, processor)


QWEN = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen_vl(folder: Path, name: str) -> Any:
    transformers = pytest.importorskip("transformers")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    special += ["<|video_pad|>"]
    words = tokenizer(byte_pairs(special), special, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    sizes = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
    limits = {"shortest_edge": 256, "longest_edge": 1600}
    processor = getattr(transformers, f"{name}Processor")(
        transformers.Qwen2VLImageProcessor(size=limits, **sizes), words, transformers.Qwen2VLVideoProcessor(**sizes),
        chat_template=QWEN,
    )  # fmt: skip
    marks = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 3, "vision_end_token_id": 4}
    model = tiny_hosts.qwen2_vl(name, text=text_sizes(words, bos_token_id=0, eos_token_id=2, pad_token_id=0), **marks)
    return saved(folder, model, processor)


SMOLVLM = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def smolvlm(folder: Path, name: str) -> Any:
    transformers = pytest.importorskip("transformers")
    from tokenizers import processors

    special = ["<|im_end|>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>"]
    special += ["<global-img>", *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2))]
    made = byte_pairs(special)
    # A beginning of its own, which the chat has in it already.
    made.post_processor = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])
    words = tokenizer(made, special, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>")
    sizes = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
    parts = [getattr(transformers, f"{name}ImageProcessor")(**sizes), words]
    if name == "SmolVLM":
        pytest.importorskip("num2words")
        parts.append(transformers.SmolVLMVideoProcessor())
    processor = getattr(transformers, f"{name}Processor")(*parts, image_seq_len=4, chat_template=SMOLVLM)
    text = text_sizes(words, bos_token_id=1, eos_token_id=0, pad_token_id=0)
    picture = words.convert_tokens_to_ids("<image>")
    return saved(folder, tiny_hosts.smolvlm(name, text=text, image_token_id=picture), processor)


def paligemma(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    made = Tokenizer(models.BPE(unk_token="<unk>"))  # as Gemma's: no text begins with a space of its own
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    made.decoder = decoders.Metaspace(prepend_scheme="never")
    made = trained(made, special, [*string.printable])
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    words = tokenizer(made, [AddedToken("<image>", special=True, normalized=False)], **named)
    pixels = transformers.SiglipImageProcessor(size={"height": 16, "width": 16})
    pixels.image_seq_length = 4
    processor = transformers.PaliGemmaProcessor(pixels, words)
    text = text_sizes(words, bos_token_id=2, eos_token_id=1, pad_token_id=0)
    picture = words.convert_tokens_to_ids("<image>")
    model = tiny_hosts.paligemma("PaliGemma", text=text, image_token_id=picture, image_token_index=picture)
    return saved(folder, model, processor)


def saved(folder: Path, model: Any, processor: Any) -> Any:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


FOLDERS: dict[str, Callable[[Path], Any]] = {
    "llava": llava,
    "qwen-vl/2": lambda folder: qwen_vl(folder, "Qwen2VL"),
    "smolvlm/Idefics3": lambda folder: smolvlm(folder, "Idefics3"),
    "smolvlm/SmolVLM": lambda folder: smolvlm(folder, "SmolVLM"),
    "paligemma": paligemma,
    "qwen-vl/2.5": lambda folder: qwen_vl(folder, "Qwen2_5_VL"),
}


def asked(processor: Any, picture: Any, question: str, request: bool = False) -> dict[str, Any]:
    """What the processor itself makes of a picture and a question, or a request."""
    if type(processor).__name__ == "PaliGemmaProcessor":
        text = "<image>" + "answer en " * (not request) + question
        given = dict(processor(images=[picture], text=[text], return_tensors="pt"))
        return {name: value for name, value in given.items() if name != "labels"}
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    given = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return dict(given)
