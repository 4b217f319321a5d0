"""One door to every data set."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vlmadapt.data.benchmarks import BENCHMARKS, find_benchmark, load_benchmark
from vlmadapt.data.builtin import BUILTIN
from vlmadapt.data.coop import read_coop_split
from vlmadapt.data.domains import read_domain
from vlmadapt.data.doubts import doubts_of, notes_of
from vlmadapt.data.feature_file import ENDINGS, read_feature_file
from vlmadapt.data.folder import read_folder
from vlmadapt.data.table import NAMED, Columns, read_table
from vlmadapt.data.templates import DEFAULT, templates_for
from vlmadapt.data.types import Dataset
from vlmadapt.errors import FileError, InputError, shown
from vlmadapt.kinds import of_kinds

TABLES = (".csv", ".tsv", ".jsonl")


@of_kinds
def load_dataset(
    spec: str | Path,
    seed: int = 0,
    root: str | Path | None = None,
    templates: Sequence[str] | None = None,
    check_files: bool = True,
    domain: str | None = None,
    test_domain: str | None = None,
    also: Sequence[str] = (),
    columns: Columns = NAMED,
) -> Dataset:
    """Load a data set.

    ``spec`` is the name of a built-in set (a key of ``BUILTIN``), a folder, a ``.csv``, ``.tsv`` or ``.jsonl`` listing,
    a CoOp ``split_zhou_*.json``, or the name of a benchmark (``caltech101``, ...) whose folder is below ``root``.
    ``seed`` splits data that come without splits; it is not the seed of the few-shot draw. For a split file, ``root``
    is the folder its paths count from. A ``.safetensors`` or ``.npz`` file holds features in place of pictures
    (:func:`vlmadapt.data.feature_file.read_feature_file`). ``templates`` replaces the prompt templates.
    ``check_files=False`` skips the test that listed pictures exist.
    ``domain`` reads one of the folders in a folder whose folders hold the same classes; ``test_domain`` takes another
    one's pictures as the test split, ``others`` those of all others (:func:`vlmadapt.data.domains.read_domain`).
    ``also`` names classes that a folder or listing may lack: those of a classifier to be tested on it. ``columns`` says
    what the columns of path, label and split are called in a listing.
    Warns of each of the data set's doubts. Raises :class:`InputError`, :class:`FileError` or
    :class:`MissingDependency`.
    """
    dataset = load_quietly(spec, seed, root, check_files, domain, test_domain, also, columns)
    for doubt in dataset.doubts:
        warnings.warn(f"{doubt}.", stacklevel=2)
    if templates is not None and dataset.given is not None:
        holds = "its class texts already" if dataset.given.text is not None else "features and no encoder of texts"
        raise InputError(f"templates is given, but {shown(dataset.root)} holds {holds}: leave it out.")
    return dataset if templates is None else replace(dataset, templates=tuple(templates))


def load_quietly(
    spec: str | Path,
    seed: int = 0,
    root: str | Path | None = None,
    check_files: bool = True,
    domain: str | None = None,
    test_domain: str | None = None,
    also: Sequence[str] = (),
    columns: Columns = NAMED,
) -> Dataset:
    """:func:`load_dataset` without warnings: the doubts are in the data set.

    Raises what that raises, among it :class:`InputError` for a ``test_domain`` without a ``domain``, and for no name.
    """
    if isinstance(spec, str) and not spec.strip():
        raise InputError(f"data is {spec!r}: give a folder, a file or the name of a built-in set.")
    spec = Path(spec).expanduser() if isinstance(spec, Path) or spec.startswith("~") else spec
    root = None if root is None else Path(root).expanduser()
    if domain is not None or test_domain is not None:
        if domain is None:
            raise InputError(f"test_domain is {test_domain!r} without a domain: say which one trains (--domain).")
        dataset = read_domain(spec, domain, test_domain, seed)
    else:
        dataset = _load(spec, seed, root, check_files, also, columns)
    if columns != NAMED and not is_table(spec):
        raise InputError(
            f"{shown(str(spec))} is no listing with columns: leave their names out (--path-column, --label-column, "
            "--split-column)."
        )
    notes, doubts = (*dataset.notes, *notes_of(dataset)), (*dataset.doubts, *doubts_of(dataset))
    return replace(dataset, notes=notes, doubts=doubts)


def is_table(spec: str | Path) -> bool:
    """Whether ``spec`` is a listing with columns."""
    return Path(spec).suffix.lower() in TABLES and Path(spec).is_file()


def _load(
    spec: str | Path, seed: int, root: str | Path | None, check_files: bool, also: Sequence[str], columns: Columns
) -> Dataset:
    if isinstance(spec, str) and spec in BUILTIN:
        return BUILTIN[spec]()
    benchmark = find_benchmark(spec) if isinstance(spec, str) else None
    if benchmark is not None and root is not None:
        return load_benchmark(benchmark, root, seed, check_files)
    path = Path(spec)
    if path.is_dir():
        return read_folder(path, seed, also=also)
    if path.is_file():
        return _load_file(path, seed, root, check_files, also, columns)
    if benchmark is not None:
        raise InputError(f"{spec} needs root: give the folder that holds {BENCHMARKS[benchmark].folder}/.")
    if path.suffix or len(path.parts) > 1:
        raise FileError(
            f"{shown(path)} does not exist: give a folder, a .csv, .jsonl or split .json file, or a set's name."
        )
    raise InputError(
        f"{str(spec)!r} is no data set: give a folder or file that exists, or one of "
        f"{', '.join([*BUILTIN, *BENCHMARKS])}."
    )


def _load_file(
    path: Path, seed: int, root: str | Path | None, check_files: bool, also: Sequence[str], columns: Columns
) -> Dataset:
    suffix = path.suffix.lower()
    if suffix in TABLES:
        return read_table(path, seed, check_files=check_files, also=also, columns=columns)
    if suffix in ENDINGS:
        return read_feature_file(path, seed)
    if suffix != ".json":
        raise InputError(
            f"{shown(path)} is not a listing: give a .csv or .jsonl file, a CoOp split .json, or features in a "
            ".safetensors or .npz."
        )
    name = next((key for key, one in BENCHMARKS.items() if one.split_file == path.name), None)
    if name is None:
        return read_coop_split(path, root, templates=DEFAULT, seed=seed, check_files=check_files)
    # The published split files lie beside the picture folder that their paths count from.
    images = Path(root) if root is not None else path.parent / BENCHMARKS[name].images
    return read_coop_split(path, images, name, templates_for(name), seed, check_files)
