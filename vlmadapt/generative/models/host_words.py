"""Texts to tokens and back in the chat of a model of ``transformers``, as its own processor lays it out. Ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlmadapt.errors import FileError, InputError
from vlmadapt.generative.models.base import up_to

# Put in the place of texts, to find them again in what a template makes of them.
QUESTION, ANSWER = "question-4c51", "answer-4c51"


@dataclass(frozen=True)
class Layout:
    """What stands around picture, question and answer.

    before: what comes before the question, the picture's token in it once. after: what comes behind the question, up to
    the answer. lead: what separates that from the answer's words. tail: what follows the answer.
    """

    before: str
    after: str
    lead: str = ""
    tail: str = ""


def chat_layout(place: str, processor: Any) -> Layout:
    """That of the chat template of ``processor``, which was read from ``place``.

    Raises :class:`FileError` where it has none, or none for one picture and a question behind it.
    """
    from jinja2 import TemplateError

    if not getattr(processor, "chat_template", None):
        raise FileError(f"{place} has no chat template: add the chat_template.jinja of the published model.")
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
    assistant = {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}
    try:
        asked = processor.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
        told = processor.apply_chat_template([user, assistant], add_generation_prompt=False, tokenize=False)
    except TemplateError as error:
        raise FileError(f"the chat template of {place} takes no picture with a question: {error}") from error
    before, found, after = asked.partition(QUESTION)
    if not found or not after or before.count(processor.image_token) != 1 or processor.image_token in after:
        raise FileError(
            f"the chat template of {place} makes {asked!r} of a picture and a question: give one that puts "
            f"{processor.image_token} before the question once, and something behind it."
        )
    answer = told.removeprefix(asked)
    if answer == told:  # It has no answers in it that go on from what it asks for.
        return Layout(before, after)
    lead, _, tail = answer.partition(ANSWER)
    return Layout(before, after, lead, tail)


class HostTokenizer:
    """A processor's tokenizer as a :class:`Tokenizer`, in a chat of the given ``layout``.

    ``sep`` ends an answer: the special token that begins ``layout.tail``, or else ``end``. ``bos`` and ``cls`` are the
    last token before an answer. Texts are tokens as they are behind what comes before them; a text that spells a
    special token is a text, and gets a space in it.

    Raises :class:`InputError` where nothing says what ends an answer.
    """

    def __init__(self, processor: Any, layout: Layout, end: int | None) -> None:
        self.tokenizer = words = processor.tokenizer
        self.layout, self.image_token = layout, processor.image_token
        self.picture: int = words.convert_tokens_to_ids(self.image_token)
        special = {token.content for token in words.added_tokens_decoder.values() if token.special}
        special |= {self.image_token, *words.all_special_tokens}
        self._special = re.compile("|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)))
        self._stem = self._encode(layout.after)
        self.bos = self.cls = self._stem[-1]
        tail = self._encode(layout.tail.strip())[:1]
        ends = [number for number in tail if words.convert_ids_to_tokens(number) in special]
        [self.sep, *_] = [*ends, words.eos_token_id if end is None else end]
        if self.sep is None:
            raise InputError(
                "The model's tokenizer, chat and generation settings name no token that ends an answer: give "
                "generation_config.json an eos_token_id."
            )
        self.pad: int = self.sep if words.pad_token_id is None else words.pad_token_id

    def __len__(self) -> int:
        return len(self.tokenizer)

    def encode(self, text: str) -> list[int]:
        """Token numbers of an answer, or of what follows its first words where ``text`` begins with a space."""
        text = self._plain(text)
        text = text if not text or text[0].isspace() else f"{self.layout.lead}{text}"
        numbers, stem = self._encode(f"{self.layout.after}{text}"), len(self._stem)
        # Where both are one token, words are read by themselves.
        return numbers[stem:] if numbers[:stem] == self._stem else self._encode(text)

    def decode(self, numbers: Sequence[int]) -> str:
        return self.tokenizer.decode(up_to(numbers, self.sep), skip_special_tokens=True).strip()

    def prompt(self, question: str, picture: str, longest: int) -> list[int]:
        """Token numbers of a picture, spelt ``picture``, and of a question of at most ``longest`` tokens; the last is
        ``bos``. Raises :class:`InputError` where a question and what follows it make one token."""
        question = self._plain(question.strip())
        numbers = self._encode(question)
        if len(numbers) > longest:
            question = self.tokenizer.decode(numbers[:longest])
        text = f"{self.layout.before.replace(self.image_token, picture)}{question}{self.layout.after}"
        start = self.tokenizer.bos_token
        numbers = self._encode(text, special=start is None or not text.startswith(start))
        if numbers[-1] != self.bos:
            raise InputError(
                f"The question {question!r} runs into what follows it in this model's chat: end it with a full stop."
            )
        return numbers

    def _encode(self, text: str, special: bool = False) -> list[int]:
        return self.tokenizer(text, add_special_tokens=special)["input_ids"] if text else []

    def _plain(self, text: str) -> str:
        return self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
