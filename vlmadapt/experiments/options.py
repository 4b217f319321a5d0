"""The options of the few-shot commands (:mod:`vlmadapt.options`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vlmadapt.options import OptionSet, says

if TYPE_CHECKING:
    from vlmadapt.backbones import Encoder
    from vlmadapt.classifier import DataSource
    from vlmadapt.data import Dataset
    from vlmadapt.provenance.settings import Method

METHODS = ("zero-shot", "linear-probe", "tip-adapter", "tip-adapter-f", "xmadapter")


COLUMNS = ("path_column", "label_column", "split_column")


@dataclass(frozen=True, kw_only=True)
class Options(OptionSet):
    """What several commands take."""

    encoder: str | Encoder = field(
        default="embedded",
        metadata=says(
            "embedded, open_clip:MODEL/TAG, open_clip:MODEL@CHECKPOINT, hf-hub:ORG/NAME or timm:MODEL[@CHECKPOINT].",
            flag="--backbone",
        ),
    )
    root: Path | None = field(
        default=None, metadata=says("Folder of a benchmark's or JSON split's pictures.", type=Path)
    )
    split_seed: int = field(default=0, metadata=says("Seed that splits data which comes without a split."))
    templates: Sequence[str] | None = field(
        default=None,
        metadata=says(
            "Prompt with {} for the class name, instead of the data set's; repeatable.",
            flag="--template",
            type=list[str],
        ),
    )
    descriptions: Path | None = field(
        default=None,
        metadata=says(
            "A .json, .csv or .jsonl file of classes and descriptions, prompts in place of the templates.", type=Path
        ),
    )
    domain: str | None = field(
        default=None,
        metadata=says("The one folder to take, where folders of domains hold the same classes.", type=str),
    )
    test_domain: str | None = field(
        default=None, metadata=says("Another domain to test on, or others for all the others.", type=str)
    )
    path_column: str = field(default="path", metadata=says("Column of a list that holds the paths, in any case."))
    label_column: str = field(default="label", metadata=says("Column of a list that holds the class names."))
    split_column: str = field(default="split", metadata=says("Column of a list that holds train, val or test."))
    allow_short: bool = field(default=False, metadata=says("Let a class have fewer pictures than shots."))
    views: int = field(
        default=1,
        metadata=says(
            "Augmented views averaged for each training picture, or each a sample (each_view=yes of a method); 1 takes "
            "the picture as it is.",
            least=1,
        ),
    )
    batch_size: int = field(default=64, metadata=says("Pictures encoded at a time.", least=1))
    precision: Literal["fp32", "bf16"] = field(default="fp32", metadata=says("fp32 or bf16, of the backbone."))
    device: str = field(default="auto", metadata=says("cpu, cuda, cuda:1, ... or auto."))
    engine: str = field(
        default="auto",
        metadata=says("What computes pictures: torch, onednn (fused operators of a CPU) or auto, the faster."),
    )
    download: bool = field(default=False, metadata=says("Allow fetching the backbone's weights."))
    logit_scale: float | None = field(
        default=None, metadata=says("Of the encoder of given features.", type=float, shown="the file's, else 100")
    )
    cache: Path | None = field(
        default=None, metadata=says("Folder of the feature cache.", type=Path, shown="the user's")
    )
    no_cache: bool = field(default=False, metadata=says("Neither read nor write the feature cache."))
    report: Callable[[str], None] | None = field(
        default=None, metadata=says("Called with a line about the data, and after each fit of several.", python=True)
    )


def all_but(*names: str) -> tuple[str, ...]:
    """The shared options without ``names``: for a command that takes few of them."""
    return tuple(each.name for each in fields(Options) if each.name not in names)


@dataclass(frozen=True, kw_only=True)
class FitOptions(Options):
    adapter: str = field(default="auto", metadata=says("The method: see vlmadapt adapters."))
    shots: int | Literal["all"] = field(
        default=16, metadata=says("Training pictures a class, or all there are.", type=str, whole=True)
    )
    seed: int = field(default=0, metadata=says("Seed of the few-shot sample and of training."))
    protocol: str = field(
        default="k-fold", metadata=says("What chooses hyper-parameters: k-fold, few-val, no-val or held-out-shot.")
    )
    out: Path | None = field(
        default=None, metadata=says("Folder of the classifier.", type=Path, shown="runs/DATA-ADAPTER-SHOTS")
    )
    settings: Mapping[str, Any] | None = field(
        default=None,
        metadata=says(
            "A setting of the adapter: see vlmadapt adapters NAME.", flag="--set", type=list[str], metavar="KEY=VALUE"
        ),
    )
    resume: bool = field(default=False, metadata=says("Go on with an interrupted fit."))
    overwrite: bool = field(default=False, metadata=says("Replace the classifier in the folder."))
    source: DataSource | None = field(
        default=None, metadata=says("Where a data set came from, so that evaluate finds it again.", python=True)
    )


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Options):
    adapters: Sequence[str | Method] | None = field(
        default=None,
        metadata=says(
            "Methods, by commas; settings follow colons: xmadapter:fusion=fixed:epochs=20.",
            type=str,
            commas="names",
            shown=f"{','.join(METHODS)}; without class text, all that can do without",
        ),
    )
    shots: Sequence[int] = field(
        default=(1, 2, 4, 8, 16), metadata=says("Training pictures a class, by commas.", commas="numbers")
    )
    seeds: int = field(default=3, metadata=says("How many seeds, from 0.", least=1))
    protocol: str = field(
        default="few-val",
        metadata=says(
            "few-val, k-fold, no-val, held-out-shot, base-to-new, cross or shift: what chooses, fits and tests."
        ),
    )
    test_on: Sequence[str | Path | Dataset] | None = field(
        default=None,
        metadata=says("Other data to test on, by commas: of cross or shift.", type=str, commas="names", shown="none"),
    )
    against: str | None = field(
        default=None,
        metadata=says(
            "Method that differences are taken to, as in --adapters.", type=str, shown="tip-adapter-f, else the first"
        ),
    )
    out: Path | None = field(
        default=None, metadata=says("Folder of the results.", type=Path, shown="runs/compare-DATA")
    )
    keep_fits: bool = field(default=False, metadata=says("Keep the fitted adapters in OUT/fits."))
    overwrite: bool = field(default=False, metadata=says("Replace the results of another run in the folder."))


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    without: ClassVar = all_but("encoder", "device", "engine", "cache", "no_cache")

    out: Path = field(default=Path("runs/demo"), metadata=says("Folder of the results."))
    seeds: int = field(default=1, metadata=says("How many seeds, from 0.", least=1))
    overwrite: bool = field(default=False, metadata=says("Replace the results of another run in the folder."))


@dataclass(frozen=True, kw_only=True)
class FeaturesOptions(Options):
    without: ClassVar = ("allow_short", "logit_scale")

    out: Path | None = field(
        default=None, metadata=says("File to write.", type=Path, shown="features-DATA.safetensors")
    )
    overwrite: bool = field(default=False, metadata=says("Replace a file of other features."))


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    without: ClassVar = (
        *("encoder", "templates", "descriptions", "allow_short", "views", "precision", "download"),
        "logit_scale",  # is the classifier's
    )

    abstain: float | None = field(
        default=None,
        metadata=says("Say none for pictures less certain than all but this share of the known ones.", type=float),
    )
    skip_unknown: bool = field(
        default=False, metadata=says("Leave out pictures of classes that the classifier does not know, and count them.")
    )
    out: Path | None = field(default=None, metadata=says("Folder of the results.", type=Path, shown="RUN/eval-DATA"))
    overwrite: bool = field(default=False, metadata=says("Replace the results of another run in the folder."))


@dataclass(frozen=True, kw_only=True)
class PredictOptions(Options):
    without: ClassVar = all_but("batch_size", "device", "engine")

    top: int = field(default=3, metadata=says("Classes to list for each picture.", least=1))
    explain: bool = field(default=False, metadata=says("Name the cached support pictures that voted."))
    votes: int = field(default=5, metadata=says("Support pictures to name.", least=1))
    explain_picture: Path | None = field(
        default=None, metadata=says("Draw one picture beside its support pictures.", type=Path, metavar="PNG")
    )
    abstain: float | None = field(
        default=None,
        metadata=says("Say none for pictures less certain than all but this share of the known ones.", type=float),
    )
    as_json: bool = field(default=False, metadata=says("Print JSON.", flag="--json"))


@dataclass(frozen=True, kw_only=True)
class AddOptions(Options):
    without: ClassVar = all_but("batch_size", "device")

    out: Path | None = field(default=None, metadata=says("Folder of the new classifier.", type=Path, shown="RUN-more"))
    overwrite: bool = field(default=False, metadata=says("Replace the classifier in the folder."))


@dataclass(frozen=True, kw_only=True)
class AddClassOptions(AddOptions):
    without: ClassVar = AddOptions.without

    name: str | None = field(default=None, metadata=says("Name of the class.", type=str, shown="the folder's"))


@dataclass(frozen=True, kw_only=True)
class CheckOptions(Options):
    without: ClassVar = all_but(
        *("root", "split_seed", "domain", "test_domain", *COLUMNS),
        *("encoder", "device", "engine", "batch_size", "download", "cache", "no_cache"),  # of outliers
    )

    outliers: bool = field(
        default=False,
        metadata=says("Name pictures that the backbone finds far from their class and near another: wrong labels?"),
    )


@dataclass(frozen=True, kw_only=True)
class GraphOptions(Options):
    without: ClassVar = all_but()

    classes: Sequence[str] | None = field(
        default=None,
        metadata=says("Classes to draw, by commas.", type=str, commas="names", shown="the pairs pulled apart most"),
    )
    top: int = field(default=8, metadata=says("Relations drawn of each kind, and pairs listed.", least=1))
    out: Path | None = field(
        default=None, metadata=says("Picture to write, .png or .svg.", type=Path, shown="RUN/graph.png")
    )
