"""What reaches into other libraries refuses what it does not know."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from vlmadapt.doors import PROVEN, Door
from vlmadapt.errors import IncompatibleLibrary, InputError

DOOR = Door(
    "torch",
    "Attention.forward",
    ("hidden", "mask", "past", "place"),
    optional=frozenset({"place"}),
    aliases={"cache": "past"},
    no_effect={"return_dict": "it always is one"},
    refuses={"window": "leave it out"},
)
ROOT = Path(__file__).resolve().parent.parent


def ours(owner: Any, hidden: int, mask: Any = None, past: Any = None, place: Any = None) -> tuple[Any, ...]:
    return owner, hidden, mask, past, place


def older(self: Any, hidden: Any, mask: Any = None, past: Any = None, place: Any = None) -> None: ...


def newer(self: Any, hidden: Any, cache: Any = None, mask: Any = None, *, return_dict: bool = True, **kwargs: Any): ...


def test_names_and_order_are_those_of_the_installed_version() -> None:
    first, second = DOOR.replace(older, ours), DOOR.replace(newer, ours)
    assert first("me", 1, 2, 3, 4) == ("me", 1, 2, 3, 4)
    assert second("me", 1, 3, 2) == ("me", 1, 2, 3, None)
    assert second("me", 1, cache=3, mask=None) == ("me", 1, None, 3, None)
    assert DOOR.spelling(newer)["past"] == "cache" and DOOR.spelling(older)["past"] == "past"


def test_what_is_not_known_is_an_error_in_one_sentence() -> None:
    method = DOOR.replace(newer, ours)
    assert method("me", 1, return_dict=True, window=None, unheard_of=None)[1] == 1
    with pytest.raises(IncompatibleLibrary) as caught:
        method("me", 1, kv_store=object())
    said = str(caught.value)
    assert re.fullmatch(
        r"Attention\.forward was given 'kv_store', which is not known here: torch \S+ is installed, use one of \S+ to "
        r"\S+, which are known to work\.",
        said,
    )
    # False is not None: an unknown switch that is off may mean anything.
    with pytest.raises(IncompatibleLibrary, match="was given 'kv_store'"):
        method("me", 1, kv_store=False)


def test_what_is_refused_says_what_to_do() -> None:
    method = DOOR.replace(newer, ours)
    assert method("me", 1, window=False)[1] == 1
    with pytest.raises(InputError, match=r"^Attention\.forward was given window: leave it out\.$"):
        method("me", 1, window=128)


def test_the_signature_is_compared_on_attaching() -> None:
    def renamed(self: Any, hidden: Any, mask: Any = None, kv_store: Any = None) -> None: ...

    def without(self: Any, hidden: Any, mask: Any = None) -> None: ...

    with pytest.raises(IncompatibleLibrary, match="takes an argument 'kv_store', which is not known here: torch"):
        DOOR.replace(renamed, ours)
    with pytest.raises(IncompatibleLibrary, match="takes no argument 'past': torch"):
        DOOR.replace(without, ours)


def test_ranges_agree_with_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    for library, (oldest, newest) in PROVEN.items():
        ranges = {found[1] for line in asked if (found := re.match(rf"{library}(>=.+)", line))}
        assert len(ranges) == 1, library
        low, _, high = ranges.pop().removeprefix(">=").partition(",<")
        assert oldest == low or oldest.startswith(f"{low}."), f"{library}: pyproject asks for {low}"
        if high:
            *head, last = map(int, high.split("."))
            below = ".".join(map(str, [*head, last - 1]))
            assert newest.startswith(f"{below}."), f"{library}: pyproject ends below {high}"
        assert f"| {oldest} | {newest} |" in page


def test_nothing_is_swallowed() -> None:
    """``**_`` in the package: each such function would let a renamed argument through."""
    for path in (ROOT / "vlmadapt").rglob("*.py"):
        assert not re.search(r"\*\*_\b", path.read_text(encoding="utf-8")), path
