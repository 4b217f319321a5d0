"""The options of ``serve`` (:mod:`vlmadapt.options`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from vlmadapt.options import OptionSet, says


@dataclass(frozen=True, kw_only=True)
class ServeOptions(OptionSet):
    port: int = field(default=8000, metadata=says("Port to listen at; 0 takes a free one.", least=0))
    host: str = field(
        default="127.0.0.1", metadata=says("Address to listen at; any but this computer's own asks for a token.")
    )
    open: bool = field(default=False, metadata=says("Open the page in a browser."))
    abstain: float | None = field(
        default=None,
        metadata=says("Say none for pictures less certain than all but this share of the known ones.", type=float),
    )
    device: str = field(default="auto", metadata=says("cpu, cuda, cuda:1, ... or auto."))
