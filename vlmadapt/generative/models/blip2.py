"""BLIP-2 and InstructBLIP of ``transformers`` (arXiv 2301.12597, 2305.06500): where they are adapted."""

from __future__ import annotations

from torch import Tensor

from vlmadapt.generative.models.host import Host, HostProbe


class Blip2Probe(HostProbe):
    def inputs(self) -> dict[str, Tensor]:
        config = self.model.config
        text = self.with_picture(config.num_query_tokens)
        if hasattr(self.model.qformer, "embeddings") and "Instruct" in type(self.model).__name__:
            read = self.tokens(config.qformer_config.vocab_size, 1)
            text |= {"qformer_input_ids": read, "qformer_attention_mask": read.new_ones(read.shape)}
        return {**text, "pixel_values": self.pixels(config.vision_config.image_size)}

    def logits(self) -> Tensor:
        given = self.inputs()
        if self.model.config.text_config.is_encoder_decoder:
            given["decoder_input_ids"] = given["input_ids"][:, -2:]
        return self.model(**given, use_cache=False).logits


class Blip2(Host):
    """BLIP-2 and InstructBLIP, with any language model that the interface reaches."""

    classes = ("Blip2ForConditionalGeneration", "InstructBlipForConditionalGeneration")
    text = ("language_model",)
    image = ("vision_model", "qformer")
    probe = Blip2Probe
