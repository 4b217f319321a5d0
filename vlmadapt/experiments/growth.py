"""``vlmadapt.add_class`` and ``add_pictures``: what a fit with these pictures too would give, without one. Ours.

Where that is exact, for methods that are sums over their samples (:meth:`Adapter.add_class`). Hyper-parameters and
calibration stay those of the fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from vlmadapt.adapters import Adapter
from vlmadapt.backbones import class_text_features, pick_device
from vlmadapt.classifier import Classifier, Run
from vlmadapt.data import Extraction
from vlmadapt.data.names import class_name_of
from vlmadapt.data.types import relative_key
from vlmadapt.data.walk import LeftOut, list_images, scan
from vlmadapt.errors import FileError, InputError, shown
from vlmadapt.experiments import folders, single
from vlmadapt.experiments.options import AddClassOptions, AddOptions
from vlmadapt.modes import usual
from vlmadapt.options import with_options
from vlmadapt.pictures.identity import Identity, Known, identify
from vlmadapt.provenance.place import hold

Given = ParamSpec("Given")
Result = TypeVar("Result")
AFTERWARDS = " Pictures were added afterwards, without a fit: hyper-parameters and calibration are those of before."


class OnPictures(Protocol[Given, Result]):
    """A function of a classifier and pictures; its keyword arguments are the fields of its options."""

    with_options: Callable[..., Result]

    def __call__(
        self, classifier: Classifier | str | Path, pictures: Any, *args: Given.args, **options: Given.kwargs
    ) -> Result: ...


def _on_pictures(kind: Callable[Given, AddOptions]) -> Callable[[Callable[..., Result]], OnPictures[Given, Result]]:
    decorator: Any = with_options(kind)
    return decorator


@_on_pictures(AddClassOptions)
@usual()
def add_class(
    classifier: Classifier | str | Path, pictures: str | Path | Sequence[str | Path], options: AddClassOptions
) -> Classifier:
    """The classifier with one class more, as a fit with its pictures would give it; with ``out`` saved there.

    classifier: a fitted one, or the folder of a saved one. pictures: of the class, a folder or paths.
    Raises :class:`InputError` for a method that cannot, a name that is taken or missing and a picture that was fitted
    on, :class:`FileError` for one that cannot be read and a folder without any.
    """
    name = options.name
    if name is None:
        if not isinstance(pictures, (str, Path)):
            raise InputError("name is missing: paths have none, give name='...'.")
        name = Path(pictures).resolve().name
    name = class_name_of(name)
    found = _listed(pictures) if isinstance(pictures, (str, Path)) else [Path(path) for path in pictures]
    return _grow(classifier, {name: found}, True, options)


@_on_pictures(AddOptions)
@usual()
def add_pictures(
    classifier: Classifier | str | Path,
    pictures: str | Path | Mapping[str, Sequence[str | Path]],
    options: AddOptions,
) -> Classifier:
    """The classifier with more pictures of its classes, as a fit with them would give it; with ``out`` saved there.

    classifier: a fitted one, or the folder of a saved one. pictures: a folder with one folder a class, or paths by the
    name of their class.
    Raises what :func:`add_class` raises, :class:`InputError` for a class that the classifier does not know and
    :class:`FileError` for a folder that holds no pictures.
    """
    if isinstance(pictures, Mapping):
        found = {class_name_of(name): [Path(path) for path in paths] for name, paths in pictures.items()}
    else:
        inner, loose = scan(Path(pictures), LeftOut())
        if loose or not inner:
            raise FileError(
                f"{pictures} holds {'pictures' if loose else 'no folders'}: give a folder with one folder a class."
            )
        found = {class_name_of(folder.name): _listed(folder) for folder in inner}
    return _grow(classifier, found, False, options)


def _listed(folder: str | Path) -> list[Path]:
    path = Path(folder)
    found = list_images(path) if path.is_dir() else []
    if not found:
        raise FileError(f"{folder} is no folder with pictures: give one.")
    return found


def _grow(
    classifier: Classifier | str | Path, found: Mapping[str, Sequence[Path]], new: bool, options: AddOptions
) -> Classifier:
    if options.out is None:
        return _grown(_loaded(classifier, options), found, new, options)
    folders.refuse_inside(str(next(iter(found.values()))[0].parent), {"--out": options.out})
    with hold(options.out) as place:
        single.claim_folder(place, overwrite=options.overwrite)
        grown = _grown(_loaded(classifier, options), found, new, options)
        place.begun = True
        grown.save(place.folder)
    return grown


def _loaded(classifier: Classifier | str | Path, options: AddOptions) -> Classifier:
    if not isinstance(classifier, Classifier):
        classifier = Classifier.load(classifier, device=pick_device(options.device))
    classifier.adapter.require_growth()
    return classifier


def _grown(classifier: Classifier, found: Mapping[str, Sequence[Path]], new: bool, options: AddOptions) -> Classifier:
    run, adapter = classifier.run, classifier.adapter
    for name in found:
        if new and name in run.class_names:
            raise InputError(f"name is {name!r}, which is a class already: give another, or use add_pictures.")
        if not new and name not in run.class_names:
            raise InputError(f"pictures hold the class {name!r}, which the classifier does not know: use add_class.")
    names = run.class_names + tuple(found) * new
    paths = [path for each in found.values() for path in each]
    labels = [names.index(name) for name, each in found.items() for _ in each]
    contents = _unknown(run, paths)
    features = _features(classifier, paths, options)
    if new:
        text = class_text_features(classifier.encoder, list(found), run.templates)[0] if adapter.has_text else None
        grown = adapter.add_class(text, features, names[-1])
    else:
        grown = adapter.add_samples(features, torch.tensor(labels))
    root = Path(run.data.root)
    pictures = tuple((relative_key(path.resolve(), root), label) for path, label in zip(paths, labels, strict=True))
    known = _with_pictures(run, adapter, pictures, contents)
    return Classifier(grown, classifier.encoder, replace(known, class_names=names), classifier.thumbnails)


def _features(classifier: Classifier, paths: Sequence[Path], options: AddOptions) -> Tensor:
    """As the fit saw training pictures."""
    run = classifier.run
    extraction = Extraction(run.views, options.batch_size, run.precision)
    each = bool(run.config.get("each_view", False))
    return extraction.extract(classifier.encoder, list(paths), run.views, each_view=each)


def _unknown(run: Run, paths: Sequence[Path]) -> list[Identity]:
    """The identity of each picture. Raises :class:`InputError` for one that is there already, or twice."""
    names = [name for name, _ in (*run.support, *run.validation)]
    known = [(Identity(*keys), name) for keys, name in zip(run.contents, names, strict=False)]
    found: list[Identity] = []
    for path in paths:
        identity = identify(path)
        same = Known([*known, *zip(found, map(str, paths), strict=False)]).name_by(identity)
        if same is not None:
            raise InputError(f"{shown(path)} is the picture {shown(same)}, which counts already: leave it out.")
        found.append(identity)
    return found


def _with_pictures(
    run: Run, adapter: Adapter, pictures: tuple[tuple[str, int], ...], contents: Sequence[Identity]
) -> Run:
    """``run`` with ``pictures`` where the adapter's votes count them: behind all that it was fitted on."""
    new = tuple(identity.keys for identity in contents)
    before = len(run.support)
    entries = getattr(adapter, "support_index", None)
    if entries is not None and int(entries.max()) >= before:  # fitted on validation pictures too
        before += len(run.validation)
    every = (*run.support, *run.validation)
    digest = hashlib.sha256("".join([run.few_shot_split_hash, *(file for file, _ in new)]).encode())
    return replace(
        run,
        support=(*every[:before], *pictures),
        validation=every[before:],
        contents=(*run.contents[:before], *new, *run.contents[before:]) if run.contents else (),
        few_shot_split_hash=digest.hexdigest(),
        selection=run.selection.removesuffix(AFTERWARDS) + AFTERWARDS,
        identity=None,
    )
