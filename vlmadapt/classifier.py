"""A saved classifier: a fitted adapter with everything needed to use it on new pictures, in one folder.

``adapter.safetensors`` and ``adapter.json`` are the adapter's own files; ``run.json`` holds the class names, prompt
templates, encoder, the pictures it was fitted on and how it was selected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from vlmadapt.adapters import load_adapter
from vlmadapt.adapters.images import is_pictures, listed
from vlmadapt.backbones.given import UNKNOWN, GivenEncoder
from vlmadapt.backbones.load import check_encoder
from vlmadapt.checks import check_matrix
from vlmadapt.data import BUILTIN, Columns, Extraction, load_dataset
from vlmadapt.data.table import NAMED
from vlmadapt.errors import FileError, InputError
from vlmadapt.files import check_format, read_json, sha256_of_file, write_json
from vlmadapt.kinds import of_kinds
from vlmadapt.modes import usual
from vlmadapt.pictures.thumbnails import Thumbnails, keep_thumbnails
from vlmadapt.seals import sealed, unsealed

if TYPE_CHECKING:
    from torch import Tensor

    from vlmadapt.adapters import Adapter
    from vlmadapt.backbones import Encoder
    from vlmadapt.data import Dataset

FORMAT = 1
DESCRIPTION = "run.json"
VOTES_AT_ONCE = 2**16  # a query has one for every support picture


@dataclass(frozen=True)
class DataSource:
    """The arguments of ``load_dataset`` that gave the data; paths are absolute, so that they mean the same later."""

    spec: str
    seed: int = 0
    root: str | None = None
    domain: str | None = None
    test_domain: str | None = None
    columns: Sequence[str] = NAMED

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", Columns(*self.columns))  # JSON gives a list

    @classmethod
    def of(
        cls,
        spec: str,
        seed: int,
        root: Path | None,
        domain: str | None = None,
        test_domain: str | None = None,
        columns: Columns = NAMED,
    ) -> DataSource:
        is_path = spec not in BUILTIN and Path(spec).expanduser().exists()
        place = str(Path(spec).expanduser().resolve()) if is_path else spec
        return cls(place, seed, None if root is None else str(root.resolve()), domain, test_domain, tuple(columns))

    def load(self, domain: str | None = None, test_domain: str | None = None) -> Dataset:
        """The data set, or other domains of it; raises what :func:`load_dataset` raises."""
        own = None if domain else self.test_domain
        return load_dataset(
            self.spec,
            self.seed,
            self.root,
            domain=domain or self.domain,
            test_domain=test_domain or own,
            columns=Columns(*self.columns),
        )


@dataclass(frozen=True)
class FittedOn:
    """The data of a fit: its name, folder, the hash of its splits, and where it is found again (None: nowhere)."""

    name: str
    root: str
    split_hash: str
    source: DataSource | None


@dataclass(frozen=True)
class FittedWith:
    """The encoder of a fit; ``engine``: what computed its pictures, which earlier versions did not choose."""

    name: str
    fingerprint: str
    engine: str = "torch"


@dataclass(frozen=True)
class Run:
    """What ``run.json`` says about a classifier: what it was fitted on and with, how it was selected, what it cost.

    ``support`` and ``validation`` hold (path from the data's root, label) of each picture. ``val_accuracy`` is a
    fraction, None without validation pictures. ``contents`` holds the sha256 of the bytes and of the pixels of each
    picture (:class:`vlmadapt.pictures.Identity`), in the same order; 0.1.0 wrote none. ``identity`` is by what ``fit
    --resume`` knows the fit again. ``protocol``: what chose, by name; 0.1.0 knew few-val alone. ``descriptions``:
    prompts of classes that took them in place of the templates.
    """

    data: FittedOn
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    encoder: FittedWith
    method: str
    adapter: str
    config: Mapping[str, Any]
    shots: int
    seed: int
    few_shot_split_hash: str
    views: int
    precision: Literal["fp32", "bf16"]
    support: tuple[tuple[str, int], ...]
    validation: tuple[tuple[str, int], ...]
    val_accuracy: float | None
    selected: Mapping[str, Any]
    trainable_parameters: int
    fit_seconds: float
    peak_memory_mib: float
    selection: str
    versions: Mapping[str, str]
    identity: Mapping[str, Any] | None = None
    contents: tuple[tuple[str, str], ...] = ()
    protocol: str = "few-val"
    descriptions: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The content of ``run.json``, apart from the adapter's hash."""
        value = {"format": FORMAT, **asdict(self)}
        for name in ("identity", "descriptions"):
            if not value[name]:
                del value[name]
        return value

    @classmethod
    def from_json(cls, path: Path, value: Any) -> Run:
        """``value`` of the file ``path``. Raises :class:`FileError` for another format, or what is no run."""
        again = "run vlmadapt fit --overwrite"
        check_format(path, value.get("format") if isinstance(value, dict) else None, FORMAT, again)
        value = unsealed(path, value, again)
        try:
            known = {each.name: value[each.name] for each in fields(cls) if each.name in value}
            source = value["data"]["source"]
            if not isinstance(value["data"]["root"], str):
                raise TypeError("the data have no folder")
            known["data"] = FittedOn(**{**value["data"], "source": None if source is None else DataSource(**source)})
            known["encoder"] = FittedWith(**value["encoder"])
            for name in ("class_names", "templates"):
                known[name] = tuple(value[name])
            for name in ("support", "validation"):
                known[name] = tuple((key, label) for key, label in value[name])
                if not all(type(key) is str and type(label) is int for key, label in known[name]):
                    raise TypeError(f"{name} holds more than paths and labels")
            known["contents"] = tuple((file, pixels) for file, pixels in value.get("contents", ()))
            return cls(**known)
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(f"{path} does not describe a saved classifier ({error}): {again}.") from error

    def pictures(self) -> tuple[Support, ...]:
        """The support pictures, where they lay, and after them those of validation, which some methods keep too."""
        root = Path(self.data.root)
        return tuple(Support(name, root / name, label) for name, label in (*self.support, *self.validation))


@dataclass(frozen=True)
class Support:
    """A picture the classifier was fitted on: its path from the data's root, and where it lay then."""

    name: str
    path: Path
    label: int


@dataclass(frozen=True)
class NamedVote:
    """A support picture's part in a decision.

    share: its affinity over the sum of all cached pictures' affinities, in [0, 1]; these shares sum to 1.
    class_share: its affinity over that of its own class.
    """

    support: Support
    class_name: str
    affinity: float
    share: float
    class_share: float
    stream: str


@dataclass(frozen=True)
class Prediction:
    """``classes`` are the most probable ones with their probabilities.

    ``votes`` are the support pictures that weighed most and ``class_votes`` the classes, with the share of the vote all
    their pictures have together; both are empty unless asked for. ``abstained``: the first class is less certain than
    was asked for, the picture may be of none of them.
    """

    path: Path
    classes: tuple[tuple[str, float], ...]
    votes: tuple[NamedVote, ...] = ()
    class_votes: tuple[tuple[str, float], ...] = ()
    abstained: bool = False


class Classifier:
    """A fitted ``adapter``, the ``encoder`` of its pictures, and the ``run`` that made it."""

    def __init__(self, adapter: Adapter, encoder: Encoder, run: Run, thumbnails: Thumbnails | None = None) -> None:
        self.adapter = adapter
        self.encoder = encoder
        self.run = run
        self.support = run.pictures()
        self.thumbnails = thumbnails  # of the folder it was read from

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.run.class_names

    @of_kinds
    def save(self, folder: str | Path) -> Path:
        """Write the classifier and thumbnails of its support pictures; ``run.json`` comes last, so that a folder that
        has it is whole."""
        folder = Path(folder)
        self.adapter.save(folder)
        keep_thumbnails(folder, self.support, self.thumbnails)
        whole = {**self.run.as_json(), "adapter_sha256": sha256_of_file(folder / "adapter.json")}
        write_json(folder / DESCRIPTION, sealed(whole))
        return folder

    @classmethod
    @of_kinds
    @usual(grad=True)
    def load(
        cls,
        folder: str | Path,
        encoder: Encoder | None = None,
        device: str = "cpu",
        only_features: bool = False,
        engine: str = "auto",
    ) -> Classifier:
        """Read a saved classifier, with its backbone unless ``encoder`` is given.

        only_features: without the backbone, which need not be installed; it takes features then and no pictures, as
            one does that was fitted on a file of features whose backbone is not known.
        engine: what the backbone computes pictures by, as in :func:`vlmadapt.load_encoder`.
        Raises :class:`FileError` for a folder that holds none, :class:`InputError` when the backbone of that name
        has other weights by now than the classifier was fitted with.
        """
        if encoder is not None:
            check_encoder(encoder)
        folder = Path(folder)
        value = _read(folder)
        run = Run.from_json(folder / DESCRIPTION, value)
        if sha256_of_file(folder / "adapter.json") != value.get("adapter_sha256"):
            raise FileError(
                f"{folder / DESCRIPTION} was written with another adapter.json: fit again with --overwrite."
            )
        bare: GivenEncoder | None = None
        if encoder is None and (only_features or run.encoder.name == UNKNOWN):
            encoder = bare = GivenEncoder(run.encoder.name, run.encoder.fingerprint, 0, 1.0, device)
        if encoder is None:
            from vlmadapt import backbones

            encoder = backbones.load_encoder(run.encoder.name, device=device, engine=engine)
        if encoder.fingerprint != run.encoder.fingerprint:
            raise InputError(
                f"{folder} was fitted with other weights or another transform of encoder {run.encoder.name!r} "
                "than are installed now: fit again."
            )
        adapter = load_adapter(folder, encoder=encoder).to(encoder.device)
        if bare is not None:
            bare.width, bare.logit_scale = adapter.width, adapter.logit_scale
        if adapter.num_classes != len(run.class_names) or any(label >= adapter.num_classes for _, label in run.support):
            raise FileError(
                f"{folder / DESCRIPTION} names {len(run.class_names)} classes, its adapter has {adapter.num_classes}: "
                "fit again with --overwrite."
            )
        return cls(adapter, encoder, run, Thumbnails(folder))

    @of_kinds
    def predict(
        self,
        paths: Any,
        top: int = 3,
        votes: int = 0,
        extraction: Extraction | None = None,
        abstain: float | None = None,
    ) -> list[Prediction]:
        """The ``top`` classes of each picture and the ``votes`` support pictures that weighed most.

        paths: files or PIL pictures, one or several, or features ``[n, D]`` of the classifier's encoder.
        abstain: the share of pictures of the known classes, in [0, 1), that may be taken for pictures of none of them
            (:meth:`Adapter.least_certainty`).
        Raises :class:`FileError` naming a picture that cannot be read, :class:`InputError` when ``votes`` is asked of
        an adapter that keeps no cache.
        """
        if not is_pictures(paths):
            rows = check_matrix("paths", paths, self.adapter.width, "the classifier's encoder").to(self.encoder.device)
            return self.predict_features([Path(f"row {i}") for i in range(len(rows))], rows, top, votes, abstain)
        pictures = [each if isinstance(each, Image.Image) else _path(each) for each in listed(paths)]
        extraction = extraction or Extraction(progress=False)
        files = [_named(each, i) if isinstance(each, Image.Image) else each for i, each in enumerate(pictures)]
        return self.predict_features(files, self.features(pictures, extraction), top, votes, abstain)

    def features(self, files: Sequence[Path | Image.Image], extraction: Extraction) -> Tensor:
        """Features ``[n, D]`` of pictures as the adapter takes them; raises what :meth:`Extraction.extract` raises."""
        if self.adapter.adapts_images:
            extraction = replace(extraction, cache=None)  # nobody asks for these features again
        return extraction.extract(self.adapter.encoder_for(self.encoder), files)

    @usual()
    def predict_features(
        self, files: Sequence[Path], features: Tensor, top: int = 3, votes: int = 0, abstain: float | None = None
    ) -> list[Prediction]:
        """:meth:`predict` of pictures whose :meth:`features` ``[n, D]`` are known. Raises :class:`InputError` as it
        does."""
        if top < 1:
            raise InputError(f"top is {top}: ask for at least 1 class.")
        chances, order = self.adapter.predict_proba(features).sort(dim=-1, descending=True, stable=True)
        ranked = [
            tuple((self.class_names[label], chance) for label, chance in zip(labels[:top], row[:top], strict=True))
            for labels, row in zip(order.tolist(), chances.tolist(), strict=True)
        ]
        least = 0.0 if abstain is None else self.adapter.least_certainty(abstain)
        unsure = (chances[:, 0] < least).tolist()
        explained: Iterable[tuple[Any, Any]] = (((), ()) for _ in files)
        if votes:
            # The votes of all support pictures are a thousand times what is kept of them.
            parts = features.split(max(1, VOTES_AT_ONCE // max(1, len(self.support))))
            explained = ((row[:votes], _by_class(row)[:top]) for part in parts for row in self._votes(part))
        return [
            Prediction(path, classes, *shown, abstained)
            for path, classes, shown, abstained in zip(files, ranked, explained, unsure, strict=True)
        ]

    def _votes(self, features: Tensor) -> list[tuple[NamedVote, ...]]:
        """The votes of all support pictures for each query, the largest first."""
        explained = []
        for row in self.adapter.explain(features, top=len(self.support)):
            total = sum(vote.affinity for vote in row)
            explained.append(
                tuple(
                    NamedVote(
                        support=self.support[vote.support_index],
                        class_name=vote.class_name,
                        affinity=vote.affinity,
                        share=vote.affinity / total if total > 0 else 0.0,
                        class_share=vote.class_share,
                        stream=vote.stream,
                    )
                    for vote in row
                )
            )
        return explained


def _path(value: object) -> Path:
    if not isinstance(value, (str, Path)):
        raise InputError(f"paths holds a {type(value).__name__}: give paths, PIL pictures or features [n, D].")
    return Path(value)


def _named(picture: Image.Image, place: int) -> Path:
    """The file that a picture was opened from, else its place among those given."""
    return Path(getattr(picture, "filename", "") or f"picture {place}")


def _by_class(votes: Sequence[NamedVote]) -> tuple[tuple[str, float], ...]:
    totals: dict[str, float] = {}
    for vote in votes:
        totals[vote.class_name] = totals.get(vote.class_name, 0.0) + vote.share
    return tuple(sorted(totals.items(), key=lambda item: -item[1]))


def read_run(folder: str | Path) -> Run:
    """The run of a saved classifier. Raises :class:`FileError` when ``folder`` has none."""
    return Run.from_json(Path(folder) / DESCRIPTION, _read(Path(folder)))


def _read(folder: Path) -> Any:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise FileError(f"{folder} holds no saved classifier ({DESCRIPTION} is missing): make one with vlmadapt fit.")
    return read_json(path)
