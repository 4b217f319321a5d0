"""The tasks' view of a causal language model that reads pictures in the place of words. Ours.

A picture and a question stand in the user's turn of a chat, in the model's own layout; the answer follows. Of that turn
the last token, the same for all, counts as the first of the answer: what follows it is the first word. A caption is the
answer to a fixed request.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlmadapt.generative.models.search import decoder_class
from vlmadapt.generative.models.text import Targets
from vlmadapt.generative.models.view import Answerer, Captioner

ANSWERED_AT_ONCE = 256  # rows; the keys and values of what they answer to are copied for each
COPIED_AT_ONCE = 1024**3  # bytes of them


class ChatView(Captioner, Answerer):
    """It describes and answers. :meth:`read` gives states [B, L, D], which are the embeddings of all but the last token
    of the prompt, and a mask [B, ..., L] that only :meth:`longer` and :meth:`logits` look into.

    request: what a caption is the answer to.
    """

    request = "Describe the picture."

    @abstractmethod
    def embed(self, tokens: Tensor) -> Tensor:
        """[..., D] of token numbers."""

    @abstractmethod
    def logits(self, embeddings: Tensor, mask: Tensor, last: int, cache: Any = None) -> Tensor:
        """[B, last, vocabulary]: what follows each of the ``last`` positions of ``embeddings`` [B, L, D].

        mask: of what ``cache`` holds, and behind it of ``embeddings``.
        """

    def longer(self, mask: Tensor, answer: Tensor) -> Tensor:
        """``mask`` of a prompt and behind it of an answer, whose own is int64 [B, T]; its first token is the prompt's
        last."""
        return torch.cat([mask, answer], -1)

    def targets(self, texts: Sequence[str], prompt: str = "") -> Targets:
        """As others', with a space between ``prompt`` and text: to a language model it is part of the word."""
        return super().targets([f" {text}" for text in texts] if prompt else texts, prompt)

    def answer_logits(self, states: Tensor, mask: Tensor, targets: Targets) -> Tensor:
        read = torch.cat([states, self.embed(targets.inputs)], 1)
        return self.logits(read, self.longer(mask, targets.mask), targets.inputs.shape[1])

    def candidate_logits(self, states: Tensor, mask: Tensor, rows: Tensor, targets: Targets) -> Tensor:
        """Without gradients each of ``states`` is read once, however many answers to it there are."""
        if torch.is_grad_enabled():
            return super().candidate_logits(states, mask, rows, targets)
        from transformers import DynamicCache

        used, place = rows.unique(return_inverse=True)
        start = targets.inputs[:1, :1].expand(len(used), 1)
        prompt, read = torch.cat([states[used], self.embed(start)], 1), DynamicCache()
        first = self.logits(prompt, self.longer(mask[used], torch.ones_like(start)), 1, read)
        if targets.inputs.shape[1] == 1:
            return first[place]
        layers: list[Any] = list(read.layers)
        bytes_each = sum(2 * layer.keys[0].numel() * layer.keys.element_size() for layer in layers)
        at_once = max(1, min(ANSWERED_AT_ONCE, COPIED_AT_ONCE // bytes_each))
        said = []
        for begin in range(0, len(rows), at_once):
            part = slice(begin, begin + at_once)
            cache = DynamicCache()
            for number, layer in enumerate(layers):
                cache.update(layer.keys[place[part]], layer.values[place[part]], number)
            words = self.embed(targets.inputs[part, 1:])
            said.append(self.logits(words, self.longer(mask[rows[part]], targets.mask[part]), words.shape[1], cache))
        return torch.cat([first[place], torch.cat(said)], 1)

    def read_request(self, features: Any) -> tuple[Tensor, Tensor]:
        """:meth:`read` of pictures with :attr:`request`."""
        return self.read(features, [self.request] * len(features))

    def reply(self, states: Tensor, mask: Tensor, beams: int, longest: int) -> list[str]:
        start = torch.full((len(states), 1), self.tokenizer.bos, device=states.device)
        return self._said(states, mask, start, beams, longest)

    def caption_logits(self, features: Any, targets: Targets) -> Tensor:
        return self.answer_logits(*self.read_request(features), targets)

    def describe(self, features: Any, prompt: str, beams: int, longest: int) -> list[str]:
        start = torch.tensor([self.opening(prompt)] * len(features), device=self.device)
        return self._said(*self.read_request(features), start, beams, longest)

    def _said(self, states: Tensor, mask: Tensor, start: Tensor, beams: int, longest: int) -> list[str]:
        longest = min(longest, self.longest - start.shape[1])
        told = self.search(states, mask, start, num_beams=beams, max_new_tokens=longest)
        return self.decode(told[:, start.shape[1] :])

    @torch.no_grad()
    def search(self, states: Tensor, mask: Tensor, start: Tensor, **options: Any) -> Any:
        """What ``transformers``' search says behind the tokens ``start`` int64 [B, T] of an answer, these included;
        ``options`` are those of its ``generate``."""
        from transformers import DynamicCache

        words = self.tokenizer
        decoder = decoder_class()(self.module, self._step, len(words), words.bos, words.sep, words.pad)
        given = {"states": states, "mask": mask, "attention_mask": torch.ones_like(start)}
        kept = {decoder.cache_name: DynamicCache()} if options.get("use_cache", True) else {}
        return decoder.generate(start, **{**given, **kept, "do_sample": False, **options})

    def _step(self, tokens: Tensor, states: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """[B, 1, vocabulary]: what follows the last of ``tokens`` int64 [B, T] of answers."""
        read = 0 if cache is None else cache.get_seq_length()
        words = self.embed(tokens[:, max(0, read - states.shape[1]) :])
        words = words if read else torch.cat([states, words], 1)
        return self.logits(words, self.longer(mask, torch.ones_like(tokens)), 1, cache)
