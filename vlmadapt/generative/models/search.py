"""The searches of ``transformers`` over the words of a model whose steps are computed here. Ours.

GenerationMixin drives greedy search, beams and sampling, and keeps the cache; a function computes what follows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from vlmadapt.doors import Door
from vlmadapt.generative.models.base import transformers_for

# What transformers' search gives to every step besides the tokens and the cache.
STEPS = {
    "use_cache": "there is a cache, or none, from the start",
    "is_first_iteration": "the cache says what has been read",
    "next_sequence_length": "the cache says what has been read",
    "cache_position": "the cache says what has been read",
    "position_ids": "positions are counted from the first token",
    "logits_to_keep": "the search reads the last position only",
    "return_dict": "it always is one",
}
REFUSED = {
    "inputs_embeds": "pass tokens",
    "token_type_ids": "there is one kind of token, leave it out",
    "output_attentions": "attention probabilities are not kept, leave it out",
    "output_hidden_states": "hidden states are not kept, leave it out",
}
PREPARE = Door(
    "transformers",
    "GenerationMixin.prepare_inputs_for_generation",
    ("input_ids", "past_key_values", "attention_mask"),
    aliases={"cache": "past_key_values"},  # transformers 5.24
    no_effect=STEPS,
    refuses=REFUSED,
)
STEP = Door("transformers", "a step of GenerationMixin.generate", (), no_effect=STEPS, refuses=REFUSED)

Step = Callable[[Tensor, Tensor, "Tensor | None", Any], Tensor]


@lru_cache(maxsize=1)
def decoder_class() -> type[Any]:
    """``Decoder(model, step, words, start, end, pad)``, whose ``generate(tokens, states=, mask=)`` searches.

    step: ``step(tokens, states, mask, cache)`` gives the logits [B, L, words] of at least the last of ``tokens`` int64
    [B, T], after ``states`` [B, ...] and ``mask`` [B, ...], which are repeated for beams; ``cache`` is transformers',
    or None. model: whose weights compute it.

    Made on first use: transformers is slow to import. Raises :class:`MissingDependency` without it.
    """
    transformers_for("generation")
    from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions

    name = PREPARE.spelling(GenerationMixin.prepare_inputs_for_generation)["past_key_values"]

    class Decoder(PreTrainedModel, GenerationMixin):
        """A step as GenerationMixin wants a causal language model."""

        config_class = PreTrainedConfig
        main_input_name = "input_ids"
        cache_name = name

        def __init__(self, model: nn.Module, step: Step, words: int, start: int, end: int, pad: int):
            super().__init__(PreTrainedConfig(vocab_size=words))  # type: ignore[call-arg]
            self.inside = model
            self.step = step
            self.generation_config = GenerationConfig(bos_token_id=start, eos_token_id=end, pad_token_id=pad)

        def prepare_inputs_for_generation(
            self,
            input_ids: Tensor,
            past_key_values: Any = None,
            states: Tensor | None = None,
            mask: Tensor | None = None,
            attention_mask: Tensor | None = None,  # Named so that it may be passed; there is no padding to mask.
            cache: Any = None,  # The same thing's name since transformers 5.24.
            **others: Any,
        ) -> dict[str, Any]:
            PREPARE.read(others)
            past = past_key_values if cache is None else cache
            return {"input_ids": input_ids, self.cache_name: past, "states": states, "mask": mask}

        def forward(
            self,
            input_ids: Tensor,
            states: Tensor,
            mask: Tensor | None = None,
            past_key_values: Any = None,
            cache: Any = None,
            **others: Any,
        ) -> Any:
            STEP.read(others)
            past = past_key_values if cache is None else cache
            logits = self.step(input_ids, states, mask, past)
            return CausalLMOutputWithCrossAttentions(logits=logits, **{self.cache_name: past})

    return Decoder
