"""What the few-shot functions work on: data, the encoder of its pictures, and how features come of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmadapt import backbones
from vlmadapt.adapters import adapters_without_text
from vlmadapt.backbones.given import UNKNOWN, GivenEncoder, space_of
from vlmadapt.backbones.load import check_encoder
from vlmadapt.classifier import DataSource
from vlmadapt.data import BENCHMARKS, Columns, Dataset, Extraction, FeatureCache, load_dataset
from vlmadapt.data.descriptions import described
from vlmadapt.data.domains import read_domains
from vlmadapt.data.load import is_table
from vlmadapt.data.table import NAMED
from vlmadapt.errors import InputError, shown
from vlmadapt.experiments.options import COLUMNS, METHODS
from vlmadapt.experiments.protocols import Protocol, Shift, protocol_of

if TYPE_CHECKING:
    from vlmadapt.backbones import Encoder
    from vlmadapt.classifier import Run
    from vlmadapt.data.given import Given
    from vlmadapt.experiments.options import CompareOptions, Options
    from vlmadapt.provenance.settings import Method

Data = str | Path | Dataset
LOGIT_SCALE = 100.0  # of all of OpenAI's encoders
LARGEST_LOGARITHM = 7.0  # a scale below is probably one: CLIP keeps ln(100) = 4.6


def open_dataset(data: Data, options: Options, also: Sequence[str] = (), needed: bool = True) -> Dataset:
    """``data``, read with the ``options`` of the command; ``also`` names classes that it may lack, ``needed`` says that
    descriptions which are given must be of some of its classes.

    Raises :class:`InputError` for options that pictures need and given features cannot follow, or the other way round.
    """
    check_encoder(options.encoder)
    if isinstance(data, Dataset):
        dataset = data
    else:
        dataset = load_dataset(
            data,
            seed=options.split_seed,
            root=options.root,
            templates=options.templates or None,
            domain=options.domain,
            test_domain=options.test_domain,
            also=also,
            columns=columns_of(options),
        )
    for name, flag in (("templates", "--template"), ("descriptions", "--descriptions")):
        if getattr(options, name) and not has_text(dataset, options):
            raise InputError(f"{name} is given, but the backbone has no text tower: leave it out ({flag}).")
    if options.descriptions is not None and not dataset.descriptions:
        if dataset.given is not None:
            raise InputError(
                f"descriptions is given, but {shown(dataset.root)} holds its class texts already: leave it out "
                "(--descriptions)."
            )
        dataset = described(dataset, options.descriptions, needed)
    if dataset.given is not None:
        _refuse_options(dataset, dataset.given, options)
    elif options.logit_scale is not None:
        raise InputError(
            f"logit_scale is {options.logit_scale}, but {dataset.name!r} holds pictures, whose encoder has its own: "
            "leave it out."
        )
    return dataset


def columns_of(options: Options) -> Columns:
    """What the columns of a listing are called."""
    return Columns(options.path_column, options.label_column, options.split_column)


def source_of(data: str | Path, options: Options) -> DataSource:
    """Where ``data`` is found again, read as with ``options``."""
    where = options.split_seed, options.root, options.domain, options.test_domain
    return DataSource.of(str(data), *where, columns_of(options))


def _refuse_options(dataset: Dataset, given: Given, options: Options) -> None:
    place = shown(dataset.root)
    if options.views not in (1, given.views):
        raise InputError(f"views is {options.views}, but {place} holds features already: leave it out.")
    if options.precision not in ("fp32", given.precision):
        raise InputError(f"precision is {options.precision!r}, but {place} holds features already: leave it out.")
    encoder, own = options.encoder, given.backbone
    if isinstance(encoder, str):
        if encoder not in ("embedded", own and own.name):
            raise InputError(f"encoder is {encoder!r}, but {place} holds features already: leave it out (--backbone).")
    elif own is None or encoder.fingerprint != own.fingerprint:
        raise InputError(f"encoder is {encoder.name!r}, another than made the features in {place}: leave it out.")
    scale = options.logit_scale
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise InputError(f"logit_scale is {scale}: give the encoder's, a finite positive number.")


def open_encoder(options: Options, dataset: Dataset | None = None) -> Encoder:
    """The encoder of the pictures, or what stands for it where ``dataset`` is of given features.

    Raises what :func:`vlmadapt.load_encoder` raises.
    """
    if not isinstance(options.encoder, str):
        return options.encoder
    device = backbones.pick_device(options.device)
    if dataset is not None and dataset.given is not None:
        return GivenEncoder(*origin_of(dataset.given), dataset.given.width, _scale(dataset.given, options), device)
    return backbones.load_encoder(
        options.encoder, device=device, allow_download=options.download, engine=options.engine
    )


def has_text(dataset: Dataset, options: Options) -> bool:
    """Whether the classes of ``dataset`` have text for the methods, before anything is loaded."""
    if dataset.given is not None:
        return dataset.given.text is not None
    return options.encoder.has_text if not isinstance(options.encoder, str) else backbones.reads_text(options.encoder)


def asked_for(dataset: Dataset, options: CompareOptions) -> Sequence[str | Method]:
    """The methods to compare: those named, else the usual ones, without class text all that can do without."""
    if options.adapters is not None:
        return options.adapters
    return METHODS if has_text(dataset, options) else adapters_without_text()


def origin_of(given: Given) -> tuple[str, str]:
    """(name, fingerprint) of the encoder that made the features, by their texts where it is not known."""
    return given.backbone or (UNKNOWN, space_of(given.class_names, given.text, given.width))


def _scale(given: Given, options: Options) -> float:
    scale = options.logit_scale or given.logit_scale or LOGIT_SCALE
    if options.report is not None:
        if options.logit_scale is None and given.logit_scale is None:
            options.report(f"  the file gives no logit scale: {LOGIT_SCALE:g} is taken, as CLIP's (--logit-scale)")
        elif scale < LARGEST_LOGARITHM:
            options.report(
                f"  logit scale {scale:g} looks like the logarithm that CLIP keeps: if it is, pass --logit-scale "
                f"{math.exp(scale):.4g}"
            )
    return scale


def open_protocol(dataset: Dataset, options: CompareOptions) -> Protocol:
    """What ``options`` ask for, with the other data that are tested on.

    Raises :class:`InputError` for options that do not go together, and what :func:`open_dataset` raises for other data.
    """
    protocol = protocol_of(options.protocol, [_open_other(other, options) for other in options.test_on or ()])
    protocol.check(dataset)
    return protocol


def _open_other(other: Data, options: CompareOptions) -> Dataset:
    root = options.root if str(other) in BENCHMARKS else None
    listed = not isinstance(other, Dataset) and is_table(other)
    columns: dict[str, Any] = {} if listed else dict(zip(COLUMNS, NAMED, strict=True))
    return open_dataset(other, replace(options, root=root, domain=None, test_domain=None, **columns), needed=False)


def with_domains(data: Data, options: CompareOptions) -> CompareOptions:
    """``options``, naming the other domains of the folder ``data`` to test on where they ask for a shift between them.

    Raises :class:`InputError` for a ``test_domain``, since every domain is tested on.
    """
    if options.protocol != Shift.name or options.test_on or isinstance(data, Dataset):
        return options
    if options.test_domain is not None:
        raise InputError(
            f"test_domain is {options.test_domain!r}, but protocol 'shift' tests on every domain: leave it out "
            "(--test-domain)."
        )
    if options.domain is None:
        return options
    others = read_domains(Path(data).expanduser(), options.domain, options.split_seed)[1:]
    if options.templates:
        others = tuple(replace(other, templates=tuple(options.templates)) for other in others)
    if options.descriptions is not None:
        others = tuple(described(other, options.descriptions, needed=False) for other in others)
    return replace(options, test_on=others)


def extraction_of(options: Options, dataset: Dataset | None = None) -> Extraction:
    """How pictures become features, or became so where ``dataset`` is of given features.

    Raises :class:`InputError` for a precision that is none.
    """
    if options.precision not in ("fp32", "bf16"):
        raise InputError(f"precision is {options.precision!r}: use fp32 or bf16.")
    cache = None if options.no_cache else FeatureCache(options.cache)
    extraction = Extraction(options.views, options.batch_size, options.precision, cache)
    if dataset is None or dataset.given is None:
        return extraction
    return replace(extraction, views=dataset.given.views, precision=dataset.given.precision)


def refuse_other_encoder(encoder: Encoder, dataset: Dataset, others: Sequence[Dataset]) -> None:
    """Raise :class:`InputError` where ``others`` cannot be seen by the ``encoder`` of ``dataset``.

    Files of features that name no encoder are taken for those of one where their widths are equal.
    """
    for other in others:
        if other.given is None:
            if dataset.given is not None:
                raise InputError(
                    f"{other.name!r} holds pictures, but {dataset.name!r} features, whose encoder is not at hand: give "
                    "both as pictures, or both as features."
                )
            continue
        name, fingerprint = origin_of(other.given)
        nameless = dataset.given is not None and name == encoder.name == UNKNOWN
        if other.given.width != encoder.width or not (nameless or fingerprint == encoder.fingerprint):
            raise InputError(
                f"{other.name!r} holds features of another encoder ({name}, {other.given.width} wide) than "
                f"{encoder.name} ({encoder.width} wide): give features of the same one."
            )


def refuse_other_space(run: Run, dataset: Dataset) -> None:
    """Raise :class:`InputError` where ``dataset`` holds features of another encoder than that of ``run``."""
    if dataset.given is None:
        return
    name, fingerprint = origin_of(dataset.given)
    if fingerprint == run.encoder.fingerprint:
        return
    other = f"another encoder ({name}) than the classifier was fitted with ({run.encoder.name})"
    if name == run.encoder.name:
        other = f"other weights of {name} than the classifier was fitted with"
    if name == run.encoder.name == UNKNOWN:
        other = "another width or of other class texts than the classifier was fitted with"
    raise InputError(f"{shown(dataset.root)} holds features of {other}: evaluate on features of the same encoder.")
