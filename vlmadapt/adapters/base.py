"""The interface every method shares: fit, logits, predict_proba, predict, save, load, explain."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from vlmadapt.adapters.all_labelled import FitOptions, fit_on_all
from vlmadapt.adapters.checks import (
    canonical_order,
    check_class_names,
    check_logit_scale,
    check_text_features,
    normalize,
)
from vlmadapt.adapters.folds import together
from vlmadapt.adapters.images import ImageEncoder, encode_pictures, is_pictures, listed
from vlmadapt.adapters.no_text import NoText
from vlmadapt.adapters.ranges import WIDENINGS, Range, on_edge, wider
from vlmadapt.adapters.views import ViewsConfig, spread
from vlmadapt.adapters.votes import Vote
from vlmadapt.checks import check_labels, check_matrix, numbered, tensor_of, words_of
from vlmadapt.config import AdapterConfig
from vlmadapt.errors import FileError, InputError, VlmadaptError, shape_of
from vlmadapt.kinds import of_kinds
from vlmadapt.modes import usual
from vlmadapt.training import (
    Samples,
    TrainResult,
    best_temperature,
    certainties,
    choose,
    score_in_tiles,
    threshold,
    tiles,
)
from vlmadapt.weights import DESCRIPTION, read_pair, write_pair

AGAINST_TEXT = ("alpha", "w")  # weigh the samples against the text; without text they only scale the logits

AnyAdapter = TypeVar("AnyAdapter", bound="Adapter")
Encoder = TypeVar("Encoder")
Value = TypeVar("Value")


class Adapter(nn.Module):
    """A classifier over fixed classes, on top of frozen image and text features.

    text_features: floating point ``[C, D]``, one row a class, C >= 2; normalised here. Its dtype (float32 or float64)
        is the dtype of all computation: features of another one are converted. :class:`NoText` where there are none.
    logit_scale: the encoder's temperature tau > 0.
    config: the method's ``config_class``, a dict of its fields, or ``None`` for the defaults.
    class_names: ``C`` names; ``"class 0"``, ... by default.
    encoder: lets every ``features`` argument also be paths or PIL images.

    ``features`` are ``[n, D]`` and normalised here; they and labels are tensors, arrays or lists, and labels may be
    names of classes. All arguments are checked; what is wrong is one :class:`InputError`. A method fills in
    ``_fit`` and ``_logits``; one that can do without text says so in ``needs_text``, and finds zeros in
    ``text_features`` then.
    """

    name: ClassVar[str]
    kinds: ClassVar[Mapping[str, type[Adapter]]] = {}  # every method by name: the registry's, which puts it here
    config_class: ClassVar[type[AdapterConfig]]
    needs_text: ClassVar[bool] = True  # the samples alone do not make its classifier
    needs_negatives: ClassVar[bool] = False  # takes negative_text_features= too
    needs_encoder: ClassVar[bool] = False  # fits with the encoder's text tower
    transfers: ClassVar[bool] = False  # what it learns is not bound to its classes: see for_classes
    learns: ClassVar[bool] = True  # classifies by the samples it was given
    explains: ClassVar[bool] = False  # keeps a cache, hence can say which samples decided
    trains_on_validation: ClassVar[bool] = False  # fits on validation samples as on the others
    grows: ClassVar[bool] = False  # add_class and add_samples give what a fit with these samples too would
    least_classes: ClassVar[int] = 1  # that must have samples
    numbers: ClassVar[tuple[str, ...]] = ()  # of the state, read as numbers of Python where it predicts
    config: Any
    text_features: Tensor
    encoder: ImageEncoder | None

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "__init__" in cls.__dict__:  # its tensors are made under the usual modes, whatever the caller's are
            cls.__init__ = usual(grad=True)(cls.__init__)  # type: ignore[method-assign]

    @usual(grad=True)
    def __init__(
        self,
        text_features: Tensor | NoText,
        logit_scale: float,
        config: AdapterConfig | Mapping[str, Any] | None = None,
        class_names: Sequence[str] | None = None,
        encoder: ImageEncoder | None = None,
    ):
        super().__init__()
        self.has_text = not isinstance(text_features, NoText)
        if isinstance(text_features, NoText):
            self._refuse_without_text()
            text = text_features.zeros()
        else:
            text = check_text_features(text_features)
        self.register_buffer("text_features", text if text.dtype == torch.float64 else text.float())
        self.logit_scale = check_logit_scale(logit_scale)
        self.config = self.config_class.make(config)
        self.class_names = check_class_names(class_names, len(text))
        # Plain attribute, not a submodule: the encoder's weights are no part of this adapter.
        self.__dict__["encoder"] = encoder
        self.train_result_: TrainResult | None = None
        self.temperature_ = 1.0  # of the probabilities, over and above what is in the logits
        self.certainties_: tuple[float, ...] = ()  # of held-out samples, ascending
        self.held_out_accuracy_: float | None = None  # where they are held out in turn and fitted on at last
        self._widenings = 0
        self._edges_of_folds: dict[str, str] = {}  # what most folds of fit_on_all left on an edge, and the range
        self._widened: dict[str, Range] = {}  # ranges that were searched in place of the configured ones
        self.fitted_ = False
        self.eval()

    def _refuse_without_text(self) -> None:
        if self.needs_text:
            able = ", ".join(name for name, kind in self.kinds.items() if not kind.needs_text)
            raise InputError(
                f"{self.name} needs class text, and there is none here: give text_features, or use {able}."
            )

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.text_features)

    @property
    def width(self) -> int:
        """D."""
        return self.text_features.shape[1]

    @of_kinds
    @usual(grad=True)
    def fit(
        self: AnyAdapter,
        features: Any,
        labels: Any,
        val_features: Any = None,
        val_labels: Any = None,
        *,
        seed: int = 0,
        checkpoint_dir: str | Path | None = None,
        progress: bool = False,
    ) -> AnyAdapter:
        """Fit on support ``features [n, D]`` and ``labels [n]``; search hyper-parameters on validation samples only.

        Without validation samples the documented defaults stand. A class may have no samples. With ``each_view`` in the
        configuration, features may also be ``[n, V, D]``: each sample as it is and V - 1 further views, all of which
        are learned from (validation samples are judged as they are). The result depends on the set of samples and the
        seed, not on the order of the samples. ``checkpoint_dir`` makes an interrupted fit go on where it stopped, to
        the same result; ``progress`` shows a bar.

        Raises :class:`InputError` for one of ``val_features [m, D]`` and ``val_labels [m]`` without the other, and for
        shapes, types or labels that do not fit.
        """
        support, validation = self._given(features, labels, val_features, val_labels)
        self._forget()
        self._fit(spread(support), validation, FitOptions(seed, _path(checkpoint_dir), progress))
        self.temperature_, self.certainties_ = self._calibrate(validation)
        self.fitted_ = True
        return self.eval()

    @of_kinds
    @usual(grad=True)
    def fit_on_all(
        self: AnyAdapter,
        features: Any,
        labels: Any,
        val_features: Any = None,
        val_labels: Any = None,
        *,
        folds: int = 4,
        repeats: int | None = None,
        seed: int = 0,
        checkpoint_dir: str | Path | None = None,
        progress: bool = False,
    ) -> AnyAdapter:
        """Fit on all labelled samples, validation ones too; hyper-parameters and calibration by cross-validation. Ours.

        ``features [n, D]``, ``labels [n]``, ``val_features [m, D]``, ``val_labels [m]``, ``seed``, ``checkpoint_dir``
        and ``progress`` are those of :meth:`fit`. The samples of a class are dealt into ``folds`` (2 or more; not more
        than a usual class has samples), ``repeats`` times: as often as brings 300 held-out predictions, at most 3
        times, where it is None (:mod:`vlmadapt.adapters.all_labelled`); the views of a sample stay together. Takes
        ``2 folds repeats + 1`` fits, or ``folds repeats + 2`` where nothing is searched. A method that fits on all
        samples anyway (auto) does what it always does.

        Raises :class:`InputError` as :meth:`fit` does, and for folds below 2 or repeats below 1.
        """
        for name, value, least in (("folds", folds, 2), ("repeats", 1 if repeats is None else repeats, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} is {value!r}: give a whole number of at least {least}.")
        support, validation = self._given(features, labels, val_features, val_labels)
        options = FitOptions(seed, _path(checkpoint_dir), progress)
        self._forget()
        if self.trains_on_validation:
            self._fit(support, validation, options)
            self.temperature_, self.certainties_ = self._calibrate(validation)
        else:
            fit_on_all(self, together(support, validation), folds, repeats, options)
        self.fitted_ = True
        return self.eval()

    def _forget(self) -> None:
        """What an earlier fit has left."""
        self.train_result_ = None
        self.fitted_ = False
        self.temperature_, self.certainties_, self.held_out_accuracy_ = 1.0, (), None
        self._widened, self._widenings = {}, 0
        self._edges_of_folds = {}

    def _given(self, features: Any, labels: Any, val_features: Any, val_labels: Any) -> tuple[Samples, Samples | None]:
        """Support and validation samples, checked."""
        if (val_features is None) != (val_labels is None):
            raise InputError("val_features and val_labels belong together: give both or neither.")
        support = self._samples("features", features, "labels", labels)
        if val_features is None:
            return support, None
        return support, self._samples("val_features", val_features, "val_labels", val_labels)

    def another(self: AnyAdapter) -> AnyAdapter:
        """An unfitted adapter of the same kind, classes and configuration."""
        return self._of_kind(type(self), self.config, self.encoder)

    def _of_kind(
        self,
        kind: type[AnyAdapter],
        config: AdapterConfig | Mapping[str, Any],
        encoder: ImageEncoder | None = None,
        text: Tensor | NoText | None = None,
        *added: str,
    ) -> AnyAdapter:
        """An unfitted adapter of ``kind`` over the same classes, or those ``added`` too, whose ``text`` it then is."""
        more: dict[str, Any] = {}
        if kind.needs_negatives and self.has_text:
            more["negative_text_features"] = self.negative_text_features
        if text is None:
            text = self.text_features if self.has_text else NoText.like(self.text_features)
        return kind(text, self.logit_scale, config, class_names=(*self.class_names, *added), encoder=encoder, **more)

    def _configured(self, values: Mapping[str, float]) -> Any:
        """The configuration in which ``values``, hyper-parameters by name, replace what :meth:`fit` starts from."""
        known = {entry.name for entry in fields(self.config)}
        return replace(self.config, **{name: value for name, value in values.items() if name in known})

    def _use(self, values: Mapping[str, float]) -> None:
        """Use ``values``, hyper-parameters by name, after a fit that did not search them."""

    def forward(self, features: Tensor) -> Tensor:
        """Class logits ``[B, C]`` of features ``[B, D]``, differentiable. Raises :class:`InputError` before ``fit``."""
        self._require_fit()
        return self._logits(self._features("features", features))

    @usual()
    @torch.no_grad()
    def logits(self, features: Any) -> Tensor:
        """Class logits ``[B, C]``, in the adapter's dtype."""
        self._require_fit()
        rows = self._features("features", features)
        result = rows.new_empty(len(rows), self.num_classes)
        for tile in tiles(len(rows), self.num_classes):
            result[tile] = self._logits(rows[tile])
        return result

    def predict_proba(self, features: Any) -> Tensor:
        """Class probabilities ``[B, C]``, rows summing to 1: of the logits over ``temperature_``, which :meth:`fit`
        chooses on validation samples."""
        return (self.logits(features) / self.temperature_).softmax(-1)

    def least_certainty(self, rate: float) -> float:
        """The probability of the best class below which a share ``rate`` of samples of the known classes lies.

        In [0, 1], by the samples that :meth:`fit` held out: what is less certain may be of none of the classes.
        Raises :class:`InputError` for a rate outside of [0, 1), and without held-out samples.
        """
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
            raise InputError(f"abstain is {rate!r}: give the share of pictures that may be lost, 0 or more, below 1.")
        if not self.certainties_:
            raise InputError(
                f"this {self.name} adapter was fitted without samples to hold out, or before they were noted: fit it "
                "again with validation samples to abstain."
            )
        return threshold(self.certainties_, rate)

    @torch.no_grad()
    def predict(self, features: Any) -> Tensor:
        """Most probable class, int64 ``[B]``; of equal ones the smallest number."""
        self._require_fit()
        rows = self._features("features", features)
        parts = [self._logits(rows[tile]).argmax(-1) for tile in tiles(len(rows), self.num_classes)]
        return torch.cat([*parts, rows.new_empty(0, dtype=torch.int64)])

    @property
    def can_transfer(self) -> bool:
        """Whether :meth:`for_classes` can be called."""
        return self.transfers

    @usual(grad=True)
    @torch.no_grad()
    def for_classes(self: AnyAdapter, text_features: Tensor, class_names: Sequence[str] | None = None) -> AnyAdapter:
        """The same fitted method on other classes: ``text_features [C', D]`` in place of its own.

        Raises :class:`InputError` where what it learned is of its own classes (``can_transfer``), or before ``fit``.
        """
        self._require_fit()
        if not self.can_transfer:
            able = ", ".join(name for name, kind in self.kinds.items() if kind.transfers)
            raise InputError(
                f"this {self.name} adapter learned its own classes and no others: fit it again, or use {able}."
            )
        other = type(self)(text_features, self.logit_scale, self.config, class_names, self.encoder)
        for name, tensor in self._learned().items():
            _place(other, name, tensor)
        other._take_over()
        other.temperature_ = self.temperature_
        other.fitted_ = True
        return other.eval()

    def _learned(self) -> dict[str, Tensor]:
        """What :meth:`for_classes` hands on: the state, apart from what is of the classes."""
        return {name: tensor for name, tensor in self.state_dict().items() if name != "text_features"}

    def _take_over(self) -> None:
        """What else there is to do once other classes and what was learned are in place."""

    @usual()
    @torch.no_grad()
    def add_class(self: AnyAdapter, text_feature: Tensor | None, features: Any, name: str | None = None) -> AnyAdapter:
        """The same fitted method with one class more, numbered C: what a fit on its samples too would give. Ours.

        text_feature: ``[D]``, of the class's text; None where the adapter has no text. features: ``[k, D]``, k >= 1
        samples of it (``[k, V, D]`` as in :meth:`fit`). name: of the class, ``"class C"`` by default. Hyper-parameters,
        temperature and certainties stay what they are; nothing is searched. The adapter itself does not change.

        Raises :class:`InputError` where a class cannot be added without a fit, for a name that is taken, text of
        another width or none, and without samples.
        """
        self.require_growth()
        rows, views = self._with_views("features", features)
        if not len(rows):
            raise InputError("features has no rows: give at least one sample of the class.")
        added = Samples.of(rows, torch.full((len(rows),), self.num_classes, device=rows.device), views)
        name = f"class {self.num_classes}" if name is None else name
        if name in self.class_names:
            raise InputError(f"name is {name!r}, which is a class already: give another.")
        return self._grown(
            self._of_kind(type(self), self.config, self.encoder, self._with_text(text_feature), name), added
        )

    @usual()
    @torch.no_grad()
    def add_samples(self: AnyAdapter, features: Any, labels: Any) -> AnyAdapter:
        """The same fitted method with more samples of its classes: what a fit on these too would give. Ours.

        ``features [k, D]`` (``[k, V, D]`` as in :meth:`fit`), k >= 1, and ``labels [k]``; a class that had no samples
        may get some. Hyper-parameters, temperature and certainties stay what they are; nothing is searched. The adapter
        itself does not change.
        Raises :class:`InputError` where samples cannot be added without a fit, and as :meth:`fit` does.
        """
        self.require_growth()
        added = self._samples("features", features, "labels", labels)
        return self._grown(self._of_kind(type(self), self.config, self.encoder), added)

    def _grown(self: AnyAdapter, other: AnyAdapter, added: Samples) -> AnyAdapter:
        """``other``, unfitted, with what this adapter knows and the samples ``added``."""
        other._extend(self, spread(added))
        other.temperature_, other.certainties_ = self.temperature_, self.certainties_
        other._widened, other.fitted_ = dict(self._widened), True
        return other.eval()

    def require_growth(self) -> None:
        """Raise :class:`InputError` where neither a class nor samples can be added, or before ``fit``."""
        self._require_fit()
        if not self.grows:
            able = ", ".join(name for name, kind in self.kinds.items() if kind.grows)
            raise InputError(
                f"{self.name} cannot take a class or samples without a fit on all samples: fit it again, or use {able}."
            )

    def _with_text(self, text_feature: Tensor | None) -> Tensor | NoText:
        """Text features of all classes and one more, ``[C + 1, D]``."""
        if not self.has_text:
            if text_feature is not None:
                raise InputError(f"text_feature is given, but this {self.name} adapter has no text: pass None.")
            return NoText(self.num_classes + 1, self.width, self.text_features.dtype, self.text_features.device)
        if text_feature is None:
            raise InputError(f"text_feature is None: give the class's text feature [{self.width}].")
        given = tensor_of(text_feature)
        row = given.unsqueeze(0) if isinstance(given, Tensor) and given.dim() == 1 else given
        matrix = check_matrix("text_feature", row, self.width)
        if len(matrix) != 1:
            raise InputError(f"text_feature is {shape_of(matrix)}: give one class's, [{self.width}].")
        return torch.cat([self.text_features, normalize(matrix.to(self.text_features))])

    def _extend(self: AnyAdapter, before: AnyAdapter, added: Samples) -> None:
        """Take over what ``before`` knows, of as many classes or the first of them, and the samples ``added``."""
        raise NotImplementedError

    def explain(self, features: Any, top: int = 5) -> list[list[Vote]]:
        """The ``top`` cached samples that weighed most for each query.

        Raises :class:`InputError` where the method keeps no cache, or ``top`` is below 1.
        """
        able = ", ".join(name for name, kind in self.kinds.items() if kind.explains)
        raise InputError(f"{self.name} keeps no cache to explain by: use {able}.")

    def hyperparameters(self) -> dict[str, float]:
        """The values in use after ``fit``, searched on validation or trained, for result files."""
        return {}

    def at_edges(self) -> dict[str, str]:
        """Hyper-parameters in use that lie on the edge of the range they were searched in, and the field of the range.

        A better value may lie beyond, though the range was widened there (three times). Empty without validation
        samples, by which nothing was searched. Without text, what only scales the logits is not named.
        """
        if not self.certainties_:
            return {}
        found = {**{key: name for key, name, _ in self._edges()}, **self._edges_of_folds}
        return {key: name for key, name in found.items() if self.has_text or key not in AGAINST_TEXT}

    def _edges(self) -> Iterator[tuple[str, str, float]]:
        """Each hyper-parameter on the edge of its range, the field of the range, and the value."""
        for name, _, _ in self.config_class.describe():
            of = name.removeprefix("search_")
            if of == name or not isinstance(getattr(self.config, name), tuple):
                continue
            for key, value in self.hyperparameters().items():
                if key in (of, f"{of}_image", f"{of}_text") and on_edge(value, self.searched(name)):
                    yield key, name, value

    def searched(self, name: str) -> Range:
        """``(low, high, steps)`` of the field ``name``, ``"search_..."``: as configured, or as ``fit`` widened it."""
        return self._widened.get(name) or getattr(self.config, name)

    def _search_widely(self, search: Callable[[], None]) -> None:
        """``search`` in ranges, and again in wider ones while the best lies on an edge."""
        search()
        while self._widenings < WIDENINGS:
            moved = {name: wider(self.searched(name), value) for _, name, value in self._edges()}
            if all(searched == self.searched(name) for name, searched in moved.items()):
                return
            self._widened.update(moved)
            self._widenings += 1
            search()

    def trainable_parameters(self) -> int:
        """How many numbers training changes."""
        return sum(tensor.numel() for tensor in self.parameters() if tensor.requires_grad)

    @of_kinds
    def save(self, folder: str | Path) -> Path:
        """Write ``adapter.safetensors`` and ``adapter.json`` into ``folder``; on failure the old pair stays."""
        self._require_fit()
        encoder = self.encoder
        header = {
            "adapter": self.name,
            "has_text": self.has_text,
            "logit_scale": self.logit_scale,
            "class_names": list(self.class_names),
            "config": self.config.as_dict(),
            "hyperparameters": self.hyperparameters(),
            "temperature": self.temperature_,
            "certainties": self.certainties_,
            "widened": self._widened,
            "edges_of_folds": self._edges_of_folds,
            "held_out_accuracy": self.held_out_accuracy_,
            "encoder": None if encoder is None else {"name": encoder.name, "fingerprint": encoder.fingerprint},
        }
        return write_pair(Path(folder), self.state_dict(), header)

    @classmethod
    @usual(grad=True)
    def load(cls: type[AnyAdapter], folder: str | Path, encoder: ImageEncoder | None = None) -> AnyAdapter:
        """Read what :meth:`save` wrote into ``folder``; on ``Adapter`` itself, an adapter of any kind.

        Raises :class:`FileError` naming a file that is missing or damaged, :class:`InputError` when ``encoder`` is
        not the one the adapter was fitted with, or the adapter is of another kind.
        """
        path = Path(folder) / DESCRIPTION
        header, state = read_pair(Path(folder))
        name, fingerprint = _encoder_of(path, header)
        if fingerprint is not None and encoder is not None and fingerprint != encoder.fingerprint:
            raise InputError(
                f"{folder} was fitted with encoder {name}, not with this {encoder.name}: load that encoder."
            )
        try:
            adapter = _restored(cls.kinds[header["adapter"]], header, state, encoder)
        except (KeyError, AttributeError, TypeError, ValueError, VlmadaptError) as error:
            raise FileError(f"{path} does not describe an adapter this version knows ({error}): fit again.") from error
        if not isinstance(adapter, cls):
            raise InputError(f"{folder} holds a {adapter.name} adapter, not a {cls.__name__}: use load_adapter.")
        return adapter

    def _restore(self, header: Mapping[str, Any]) -> None:
        """What else loading does, once the tensors are in place; ``header`` is what :meth:`save` wrote."""

    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        raise NotImplementedError

    def _logits(self, features: Tensor) -> Tensor:
        """``[B, D]`` normalised -> ``[B, C]``, differentiable."""
        raise NotImplementedError

    @torch.no_grad()
    def _score(self, samples: Samples) -> tuple[float, ...]:
        """What epochs and candidates are compared by, on validation ``samples``."""
        return score_in_tiles(lambda rows: self._logits(samples.features[rows]), samples.labels, self.num_classes)

    @torch.no_grad()
    def _calibrate(self, validation: Samples | None) -> tuple[float, tuple[float, ...]]:
        """The temperature of the probabilities, and their largest ones on held-out samples. Validation samples have
        chosen settings before: both are a little too sure."""
        if validation is None:
            return 1.0, ()
        parts, features = list(tiles(len(validation), self.num_classes)), self._judged("val_features", validation)
        logits = [self._logits(features[rows]) for rows in parts]
        temperature = best_temperature(logits, [validation.labels[rows] for rows in parts])
        return temperature, certainties(logits, temperature)

    def _judged(self, name: str, samples: Samples) -> Tensor:
        """Features ``[n, D]`` by which the fitted adapter judges ``samples``, the argument ``name``."""
        return samples.features

    @property
    def wants_pictures(self) -> bool:
        """Whether :meth:`fit` learns more from pictures than from their features; it is asked before the fit."""
        return False

    @property
    def adapts_images(self) -> bool:
        """Whether pictures are seen with an encoder of the fitted adapter's own: see :meth:`encoder_for`."""
        return False

    def encoder_for(self, encoder: Encoder) -> Encoder:
        """What pictures are to be encoded with for the fitted adapter, which was fitted with ``encoder``: that itself,
        or one that it has adapted, whose features no cache should keep."""
        return encoder

    def _choose(self, candidates: Sequence[Value], take: Callable[[Value], Any], validation: Samples) -> None:
        """``take`` the candidate that scores best on validation; list the default first, it wins ties."""

        def score(value: Value) -> tuple[float, ...]:
            take(value)
            return self._score(validation)

        take(choose(candidates, score))

    def _zero_shot_logits(self, features: Tensor) -> Tensor:
        return self.logit_scale * features @ self.text_features.T

    def _require_fit(self) -> None:
        if not self.fitted_:
            raise InputError(f"this {self.name} adapter is not fitted: call fit(features, labels) or load(folder).")

    def _features(self, name: str, value: Any, learning: bool = False) -> Tensor:
        """``[n, D]``, normalised; ``learning``: as the encoder sees pictures, whatever a fit has made of it."""
        if is_pictures(value):
            own = self.encoder if learning or not self.fitted_ else self.encoder_for(self.encoder)
            value = encode_pictures(name, value, own)
        matrix = check_matrix(name, value, self.width, "text_features" if self.has_text else "NoText")
        return normalize(matrix.to(self.text_features))

    def _samples(self, name: str, features: Any, labels_name: str, labels: Any) -> Samples:
        matrix, views = self._with_views(name, features)
        pictures = listed(features) if is_pictures(features) else None
        if len(matrix) == 0:
            raise InputError(f"{name} has no rows: give at least one sample.")
        words = words_of(labels)
        numbers = labels if words is None else numbered(labels_name, words, self.class_names)
        checked = check_labels(labels_name, numbers, len(matrix), self.num_classes)
        order = canonical_order(matrix).to(matrix.device)
        return Samples.of(matrix, checked.to(matrix.device), views, pictures).rows(order)

    def _with_views(self, name: str, features: Any) -> tuple[Tensor, Tensor | None]:
        """``features [n, D]``, or ``[n, V, D]`` where each view may be a sample: the first of them and the others."""
        features = features if is_pictures(features) else tensor_of(features)
        if not isinstance(features, Tensor) or features.dim() != 3:
            return self._features(name, features, learning=True).detach(), None
        if not (isinstance(self.config, ViewsConfig) and self.config.each_view):
            able = ", ".join(kind for kind, one in self.kinds.items() if issubclass(one.config_class, ViewsConfig))
            raise InputError(
                f"{name} is {shape_of(features)}, several views of each sample: set each_view=yes, which {able} know, "
                "or give their means [rows, width]."
            )
        if features.shape[1] == 0:
            raise InputError(f"{name} is {shape_of(features)}: give at least one view of each sample.")
        every = self._features(name, features.flatten(0, 1)).detach().view(*features.shape[:2], -1)
        return every[:, 0].contiguous(), (every[:, 1:] if every.shape[1] > 1 else None)


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)


def _encoder_of(path: Path, header: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Name and fingerprint, None where the adapter was fitted without one; :class:`FileError` for anything else."""
    if "encoder" not in header:
        raise FileError(f"{path} describes no few-shot classifier: attach its method and load there.")
    stored = header["encoder"]
    if stored is None:
        return None, None
    if not isinstance(stored, dict) or not all(isinstance(stored.get(key), str) for key in ("name", "fingerprint")):
        raise FileError(f"{path} names an encoder {stored!r} without name and fingerprint: fit again.")
    return stored["name"], stored["fingerprint"]


def _restored(
    kind: type[Adapter], header: Mapping[str, Any], state: Mapping[str, Tensor], encoder: ImageEncoder | None
) -> Adapter:
    text = state["text_features"]
    has_text = header.get("has_text", True)  # 0.1.0 wrote none
    if not isinstance(has_text, bool) or not (has_text or (text.dim() == 2 and not bool(text.any()))):
        raise ValueError("it says that it has no text, and holds some")
    more: dict[str, Any] = {}
    if kind.needs_negatives and has_text:
        more["negative_text_features"] = state.get("negative_text_features")
    adapter = kind(
        text if has_text else NoText.like(text),
        header["logit_scale"],
        header["config"],
        class_names=header["class_names"],
        encoder=encoder,
        **more,
    )
    for name, tensor in state.items():
        _place(adapter, name, tensor)
    adapter._restore(header)
    missing = adapter.state_dict().keys() - state.keys()
    if missing:
        raise ValueError(f"tensor {sorted(missing)[0]} is missing")
    adapter.temperature_ = float(header.get("temperature", 1.0))  # 0.1.0 wrote neither
    adapter.certainties_ = tuple(map(float, header.get("certainties", ())))
    adapter._widened = {str(name): tuple(value) for name, value in header.get("widened", {}).items()}
    adapter._edges_of_folds = {str(key): str(name) for key, name in header.get("edges_of_folds", {}).items()}
    accuracy = header.get("held_out_accuracy")
    adapter.held_out_accuracy_ = None if accuracy is None else float(accuracy)
    if not 0 < adapter.temperature_ < math.inf or not all(0 <= each <= 1 for each in adapter.certainties_):
        raise ValueError(f"temperature {adapter.temperature_} or a certainty out of range")
    adapter.fitted_ = True
    _try_out(adapter.eval())
    return adapter


@torch.no_grad()
def _try_out(adapter: Adapter) -> None:
    """Raise :class:`ValueError` where an adapter that was put together from a file cannot classify."""
    row = adapter.text_features[:1]
    try:
        logits = adapter._logits(row if adapter.has_text else normalize(torch.ones_like(row)))
    except (RuntimeError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"its tensors do not fit: {error}") from error
    if logits.shape != (1, adapter.num_classes) or bool(logits.isnan().any()):
        raise ValueError("its logits are no numbers")


def _place(adapter: nn.Module, name: str, tensor: Tensor) -> None:
    """Set one entry of the state; shapes that depend on the support set are only known here.

    A copy: torch's own memory is aligned, that of a file is not, and products may round by it.
    """
    tensor = tensor.clone()
    path, _, leaf = name.rpartition(".")
    module = adapter.get_submodule(path)
    before = getattr(module, leaf, None)
    if isinstance(before, Tensor) and before.shape != tensor.shape:
        raise ValueError(f"tensor {name} is {list(tensor.shape)} for {list(before.shape)}")
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor, before is None or before.requires_grad)
    elif leaf in module._buffers:
        module._buffers[leaf] = tensor
    else:
        raise AttributeError(f"unknown tensor {name}")
