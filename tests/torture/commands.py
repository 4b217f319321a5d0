"""What is tortured: each command and each save of the package, and what has to lie there before it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.experiments.world import TIP, TIP_F, ColourEncoder
from vlmadapt.adapters import load_adapter
from vlmadapt.classifier import Classifier
from vlmadapt.errors import FileError
from vlmadapt.weights import read_pair

Line = tuple[str, ...]
SEARCH: Line = ("--set", "search_beta=[1,4,2]", "--set", "search_alpha=[1,4,2]", "--set", "epochs=2")


@dataclass(frozen=True)
class Command:
    """``line`` is tortured, a command line or a call of :class:`tests.torture.world.World`.

    ``before`` are lines that end well before it; ``check`` looks at what a failure left. ``printed`` is the file that
    standard output goes to, as a shell's ``>`` would send it.
    """

    line: Line
    before: tuple[Line, ...] = ()
    check: Callable[[Path], None] = lambda root: None
    printed: str | None = None


def fit(adapter: str, *more: str) -> Line:
    return ("fit", "{data}", "--adapter", adapter, "--shots", "2", "--out", "{root}/run", *SEARCH, *more)


def compare(*more: str) -> Line:
    adapters = ("--adapters", f"zero-shot,{TIP},{TIP_F}")
    return ("compare", "{data}", *adapters, "--shots", "2", "--seeds", "1", "--out", "{root}/run", *more)


def tune() -> Line:
    what = ("--task", "vqa", "--model", "blip:{model}", "--method", "frozen,bitfit", "--out", "{root}/run")
    return ("tune", *what, "--epochs", "2", "--batch-size", "8", "--set", "longest=4")


def old_or_new(root: Path) -> None:
    """An older classifier is still there, or the new one is, or the folder says that it is between the two."""
    with suppress(FileError):
        Classifier.load(root / "run", ColourEncoder())
        return
    assert (root / "run" / "unfinished.json").is_file(), "no classifier loads, and nothing says that one is being made"


def whole_or_refused(load: Callable[[Path], object]) -> Callable[[Path], None]:
    """A save over an older one: what is there loads, or is refused in one sentence."""

    def check(root: Path) -> None:
        with suppress(FileError):
            load(root / "saved")

    return check


FIT = fit("tip-adapter-f")
GRAPH = fit("hegraph", "--set", "search_w=[1,2,2]")
PICTURE = "{data}/test/sun/0.png"

COMMANDS = {
    "fit": Command(FIT),
    "fit --overwrite": Command((*FIT, "--overwrite"), before=((*FIT, "--seed", "1"),), check=old_or_new),
    "eval": Command(("eval", "{root}/run"), before=(FIT,)),
    "eval --out": Command(("eval", "{root}/run", "--out", "{root}/found"), before=(FIT,)),
    "compare": Command(compare()),
    "compare --keep-fits": Command(compare("--keep-fits")),
    "demo": Command(("demo", "--out", "{root}/run")),
    "features": Command(("features", "{data}", "--out", "{root}/f.safetensors", "--batch-size", "16")),
    "predict --explain-picture": Command(
        ("predict", "{root}/run", PICTURE, "--explain-picture", "{root}/why.png"), before=(FIT,)
    ),
    "predict --json > file": Command(
        ("predict", "{root}/run", "{data}/test", "--explain", "--json"), before=(FIT,), printed="predictions.json"
    ),
    "graph": Command(("graph", "{root}/run"), before=(GRAPH,)),
    "tune": Command(tune()),
    "tune, small model": Command(("small model",)),
    "Classifier.save": Command(("Classifier.save", "{root}/new"), before=(FIT,)),
    "Adapter.save, over another": Command(
        ("Adapter.save", "{root}/saved", "0"),
        before=(("Adapter.save", "{root}/saved", "1"),),
        check=whole_or_refused(load_adapter),
    ),
    "p-adapter save, over another": Command(
        ("p-adapter save", "{root}/saved", "0"),
        before=(("p-adapter save", "{root}/saved", "1"),),
        check=whole_or_refused(read_pair),
    ),
    "mnist5k": Command(("mnist5k",)),
    "covered pictures": Command(("covered pictures",)),
}
