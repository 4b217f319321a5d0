"""What attaching a method to a generative model returns: the trained part of a model that is otherwise frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from vlmadapt.config import AdapterConfig
from vlmadapt.errors import FileError, InputError
from vlmadapt.generative.methods.check import Check, check_attached
from vlmadapt.generative.methods.checkpointing import watch_embeddings
from vlmadapt.generative.models.load import family_of, find_probe
from vlmadapt.generative.models.probe import Probe
from vlmadapt.generative.models.wrappers import adaptable, named_parameters, plain_names, plain_state, wrapping
from vlmadapt.training import fingerprint_tensors
from vlmadapt.weights import DESCRIPTION, read_pair, write_pair

MARK = "_vlmadapt_method"


class Attached:
    """A method attached to ``model``, which stays the caller's own object and is changed in place.

    model: any ``nn.Module``; of one that torch wraps (``torch.compile``, ``DataParallel``, ...) what is inside. Every
        parameter is frozen; a method then adds modules, replaces forwards and unfreezes what it trains with the
        functions below, each of which knows how to undo itself.
    method: the method's name, for files and tables.
    config: its configuration.

    Raises :class:`InputError` when ``model`` already carries a method, or its weights are quantised.
    """

    def __init__(self, model: nn.Module, method: str, config: AdapterConfig) -> None:
        model = adaptable(model)
        present = model.__dict__.get(MARK)
        if present is not None:
            raise InputError(f"model already carries the method {present!r}: call detach() on what attached it first.")
        self.model = model
        self.method = method
        self.config = config
        self._flags = {name: tensor.requires_grad for name, tensor in named_parameters(model)}
        self._undo: list[Callable[[], None]] = [handle.remove for handle in watch_embeddings(model)]
        self._attached = True
        self._added: tuple[str, ...] = ()
        self._modules: set[int] = set()
        self._start = self._fingerprint()
        model.__dict__[MARK] = method
        model.requires_grad_(False)

    # What a method is built from.

    @contextmanager
    def building(self) -> Iterator[None]:
        """Attach inside this block: on an error the model is left as it was found."""
        try:
            yield
            self._added = tuple(name for name, _ in self.named_parameters() if name not in self._flags)
            self._start = self._fingerprint()
        except BaseException:
            self.detach()
            raise

    def add_module(self, owner: nn.Module, name: str, module: nn.Module) -> None:
        """Register ``module``, whose parameters train, as the child ``name`` of ``owner``, a module of the model.

        Raises :class:`InputError` where ``owner`` has such an attribute already.
        """
        if hasattr(owner, name):
            raise InputError(f"{type(owner).__name__} already has an attribute {name!r}: attach to an unchanged model.")
        owner.add_module(name, module)
        self._modules.add(id(module))
        self.on_detach(lambda: delattr(owner, name))

    def replace_forward(
        self, module: nn.Module, forward: Callable[..., Any], bound_to: nn.Module | None = None
    ) -> None:
        """Make ``forward(bound_to or module, ...)`` what calling ``module`` runs; its hooks and weights stay."""
        before = module.__dict__.get("forward")
        module.__dict__["forward"] = MethodType(forward, module if bound_to is None else bound_to)

        def undo() -> None:
            if before is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = before

        self.on_detach(undo)

    def train_backbone(self, names: Iterable[str]) -> None:
        """Unfreeze the parameters ``names`` of the model; their values come back on detach, at the cost of a copy."""
        parameters = dict(named_parameters(self.model))
        for name in names:
            parameter = parameters[name]
            parameter.requires_grad_(True)
            self.on_detach(_restoring(parameter))

    def on_detach(self, undo: Callable[[], None]) -> None:
        """Have ``undo`` called by :meth:`detach`; the last one added runs first."""
        self._undo.append(undo)

    # What a user calls.

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What trains, under its name in the model, without those of wrappers within."""
        for name, parameter in named_parameters(self.model):
            if parameter.requires_grad:
                yield name, parameter

    def parameters(self) -> Iterator[nn.Parameter]:
        """What trains: give these to the optimizer."""
        for _, parameter in self.named_parameters():
            yield parameter

    def trainable_parameters(self) -> int:
        """How many numbers training changes."""
        return sum(parameter.numel() for parameter in self.parameters())

    def __str__(self) -> str:
        trained = self.trainable_parameters()
        total = sum(parameter.numel() for parameter in self.model.parameters())
        share = 100 * trained / max(total, 1)
        return (
            f"{self.method} on {type(self.model).__name__}: {trained:,} of {total:,} parameters train ({share:.2f} %)"
        )

    def show(self) -> str:
        """A line for every module that trains, or has parameters that do: its name, its side of the model, its size.

        An added module, however deep, is one line.
        """
        plain = plain_names(self.model)
        added = [plain(name) for name, module in self.model.named_modules() if id(module) in self._modules]
        sizes: dict[str, int] = {}
        for name, parameter in self.named_parameters():
            place = next((root for root in added if name.startswith(f"{root}.")), name.rpartition(".")[0])
            sizes[place] = sizes.get(place, 0) + parameter.numel()
        family = family_of(self.model)
        sides = {name: "" if family is None else family.part_of(name) for name in sizes}
        wide, side = max(map(len, sizes), default=0), max(map(len, sides.values()), default=0)
        lines = [f"{name:{wide}}  {sides[name]:{side}}  {size:>13,}" for name, size in sizes.items()]
        return "\n".join([*lines, str(self)])

    def detach(self) -> nn.Module:
        """Take the method off; the model's weights, forwards and ``requires_grad`` flags are as before attaching.

        Raises :class:`InputError` where it is off already.
        """
        if not self._attached:
            raise InputError(f"this {self.method} is not attached any more: attach it again first.")
        while self._undo:
            self._undo.pop()()
        for name, parameter in named_parameters(self.model):
            parameter.requires_grad_(self._flags[name])
        del self.model.__dict__[MARK]
        self._attached = False
        return self.model

    def backbone_fingerprint(self, prefix: str = "") -> str:
        """sha256 over the frozen weights: the same before and after training. prefix: of their names."""
        state = plain_state(self.model).items()
        return fingerprint_tensors(**{prefix + name: tensor for name, tensor in state if not tensor.requires_grad})

    def check(self, probe: Probe | None = None) -> Check:
        """See that what was added reaches the model's output, and that a text is the same with and without a cache.

        Takes a few passes of one picture and five tokens; the model is left as it was. probe: how to ask a model of
        no known family (:class:`vlmadapt.generative.models.probe.Probe`). ``print(attached.check())`` says what
        was found. Raises :class:`IncompatibleLibrary` naming what is without effect and the versions known to work.
        """
        self._require_attached()
        at_start = self._fingerprint() == self._start
        found = find_probe(self.model) if probe is None else probe
        return check_attached(self.model, self._added_parameters(), at_start, found)

    def _added_parameters(self) -> dict[str, nn.Parameter]:
        """What trains and the model did not have before."""
        present = dict(named_parameters(self.model))
        return {name: present[name] for name in self._added}

    def _fingerprint(self) -> str:
        return fingerprint_tensors(**self._added_parameters())

    def save(self, folder: str | Path) -> Path:
        """Write what was trained, and nothing else, as ``adapter.safetensors`` and ``adapter.json`` in ``folder``."""
        self._require_attached()
        header = {
            "adapter": self.method,
            "config": self.config.as_dict(),
            "model": type(self.model).__name__,
            "backbone_sha256": self.backbone_fingerprint(),
            "trainable_parameters": self.trainable_parameters(),
        }
        return write_pair(Path(folder), dict(self.named_parameters()), header)

    @torch.no_grad()
    def load(self, folder: str | Path, check_backbone: bool = True, check: bool = True) -> None:
        """Put in place what :meth:`save` wrote into ``folder`` for the same method and configuration.

        Runs :meth:`check`. Raises :class:`FileError` for a missing or damaged file; :class:`InputError` where it was
        saved for another method, configuration or (unless ``check_backbone`` is false) frozen weights; what
        :meth:`check` raises (unless ``check`` is false). Nothing is changed then.
        """
        self._require_attached()
        header, state = read_pair(Path(folder))
        self._refuse_other(Path(folder), header)
        parameters = dict(self.named_parameters())
        prefix = "" if parameters.keys() == state.keys() else wrapping(next(iter(state), ""))
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        for name in parameters.keys() | state.keys():
            if name not in state or name not in parameters or state[name].shape != parameters[name].shape:
                raise FileError(f"{folder} does not fit this model at {name}: attach to the architecture it came from.")
        if check_backbone and header.get("backbone_sha256") != self.backbone_fingerprint(prefix):
            raise InputError(
                f"{folder} was trained on other frozen weights than this model's: load the {header.get('model')} it "
                "came from, or pass check_backbone=False."
            )
        if check:
            self.check()
        for name, parameter in parameters.items():
            parameter.copy_(state[name])

    def _refuse_other(self, folder: Path, header: dict[str, Any]) -> None:
        if header.get("adapter") != self.method:
            raise InputError(
                f"{folder} holds the method {header.get('adapter')!r}, not {self.method!r}: attach that one."
            )
        saved = header.get("config")
        if not isinstance(saved, dict):
            raise FileError(f"{folder / DESCRIPTION} names no configuration: save the adapter again.")
        ours = self.config.as_dict()
        for name in {**saved, **ours}:
            value, other = ours.get(name), saved.get(name)
            if (list(value) if isinstance(value, tuple) else value) != other:
                raise InputError(f"{folder} was saved with {name}={other!r}, not {value!r}: attach with its value.")

    def _require_attached(self) -> None:
        if not self._attached:
            raise InputError(f"this {self.method} was detached: attach it again first.")


def _restoring(parameter: nn.Parameter) -> Callable[[], None]:
    before: Tensor = parameter.detach().clone()

    def undo() -> None:
        with torch.no_grad():
            parameter.copy_(before)

    return undo
