"""Doors into other libraries: what a function that replaces or extends one of theirs takes, and what it refuses.

An argument that such a function swallows changes results without a word as soon as the library renames it. So each
names what it uses, what is without effect and what it refuses; anything else is an error. docs/compatibility.md lists
every place that reaches into another library. Ours.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlmadapt.errors import IncompatibleLibrary, InputError, MissingDependency

# The versions `make test-oldest` and `make test-latest` ran with, by the name pip knows; how far they ran is told in
# docs/compatibility.md.
PROVEN: dict[str, tuple[str, str]] = {
    "torch": ("2.13.0", "2.15.0"),
    "transformers": ("5.0.0", "5.24.0"),
    "open_clip_torch": ("3.3.0", "3.3.0"),
    "timm": ("1.0.17", "1.0.31"),
    "peft": ("0.18.0", "0.21.2"),
}


def known_versions(library: str) -> str:
    """``transformers 5.25.0 is installed, install 5.0.0 to 5.24.0``: how errors end."""
    try:
        installed = importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        installed = "of unknown version"
    oldest, newest = PROVEN[library]
    return f"{library} {installed} is installed, use one of {oldest} to {newest}, which are known to work"


def import_lora(extra: str) -> tuple[Any, Any, Any]:
    """peft's ``LoraConfig``, ``inject_adapter_in_model`` and ``LoraLayer``.

    Raises :class:`MissingDependency`, naming the ``extra`` of this package that brings it, without peft, and
    :class:`IncompatibleLibrary` where the installed one cannot be imported.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer
    except ModuleNotFoundError as error:
        raise MissingDependency(f"peft is not installed: run `pip install 'vlmadapt[{extra}]'`.") from error
    except ImportError as error:
        raise IncompatibleLibrary(f"peft could not be imported ({error}): {known_versions('peft')}.") from error
    return LoraConfig, inject_adapter_in_model, LoraLayer


COLLECTING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Door:
    """The arguments of one function of another library, as its replacement knows them.

    library: as pip knows it, a key of :data:`PROVEN`.
    replaced: name of the function, for sentences.
    uses: parameters the replacement takes, by the names it has for them.
    optional: those of ``uses`` that some versions of the library do not have.
    aliases: other versions' names for them.
    no_effect: parameters that change nothing here, with the reason.
    refuses: parameters that would, with what to do instead; None and False pass.
    """

    library: str
    replaced: str
    uses: Sequence[str]
    optional: frozenset[str] = frozenset()
    aliases: Mapping[str, str] = field(default_factory=dict)
    no_effect: Mapping[str, str] = field(default_factory=dict)
    refuses: Mapping[str, str] = field(default_factory=dict)

    def replace(self, theirs: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
        """``ours(owner, **arguments)`` as a method that takes what ``theirs``, the installed library's own, takes.

        Raises :class:`IncompatibleLibrary` when ``theirs`` has a parameter that is not known here, or lacks one that
        is used; so does a later call with an argument that is not known here.
        """
        order = tuple(self.spelling(theirs).values())

        def through(owner: Any, *positional: Any, **named: Any) -> Any:
            return ours(owner, **self.read(named, positional, order))

        return through

    def spelling(self, theirs: Callable[..., Any]) -> dict[str, str]:
        """How ``theirs`` spells the names of ``uses``; other parameters keep their own. In its order.

        Raises :class:`IncompatibleLibrary` as :meth:`replace` does.
        """
        parameters = inspect.signature(theirs).parameters.values()
        names = [one.name for one in parameters if one.name != "self" and one.kind not in COLLECTING]
        for name in names:
            if not self._knows(name):
                raise IncompatibleLibrary(self._sentence(f"takes an argument {name!r}, which is not known here"))
        spelt = {self.aliases.get(name, name): name for name in names}
        for name in self.uses:
            if name not in spelt and name not in self.optional:
                raise IncompatibleLibrary(self._sentence(f"takes no argument {name!r}"))
        return spelt

    def names(self, theirs: Callable[..., Any]) -> dict[str, str]:
        """How ``theirs``, which is called and not replaced, spells the names of ``uses``.

        What else it takes is its own; a name that it does not have could vanish among its keywords. Raises
        :class:`IncompatibleLibrary` for one.
        """
        spelt = {self.aliases.get(name, name): name for name in inspect.signature(theirs).parameters}
        for name in self.uses:
            if name not in spelt and name not in self.optional:
                raise IncompatibleLibrary(self._sentence(f"takes no argument {name!r}"))
        return {name: spelt[name] for name in self.uses if name in spelt}

    def read(
        self, named: Mapping[str, Any], positional: Sequence[Any] = (), order: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The arguments of one call under the names of ``uses``; ``order`` names the positional ones.

        Raises :class:`InputError` for an argument that is refused, :class:`IncompatibleLibrary` for one that is
        neither known nor None.
        """
        found = {}
        for name, value in [*zip(order, positional), *named.items()]:  # noqa: B905 (trailing ones may be left out)
            ours = self.aliases.get(name, name)
            if ours in self.uses:
                found[ours] = value
            elif name in self.refuses:
                if value is not None and value is not False:
                    raise InputError(f"{self.replaced} was given {name}: {self.refuses[name]}.")
            elif value is not None and name not in self.no_effect:
                raise IncompatibleLibrary(self._sentence(f"was given {name!r}, which is not known here"))
        return found

    def _knows(self, name: str) -> bool:
        return self.aliases.get(name, name) in self.uses or name in self.no_effect or name in self.refuses

    def _sentence(self, what: str) -> str:
        return f"{self.replaced} {what}: {known_versions(self.library)}."
