"""``vlmadapt.export``: a classifier as a program for other runtimes, checked against itself before it is left behind.

    classifier.onnx | classifier.pt2   features [B, D], or pixels [B, 3, H, W], to logits and probabilities [B, C]
    export.json                        class names, how pictures become pixels, what was checked to which tolerance
    probe.npz, probe.png               an input, what the classifier says of it, and the picture it came from

The program is made of the plain forms of the package's operators and holds no custom operator.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from vlmadapt.atomic import atomic_folder
from vlmadapt.backbones.given import GivenEncoder
from vlmadapt.classifier import Classifier
from vlmadapt.errors import FileError, InputError, MissingDependency, naming_file
from vlmadapt.files import sha256_of_file, write_versioned
from vlmadapt.modes import usual
from vlmadapt.ops import use_reference
from vlmadapt.options import with_options
from vlmadapt.provenance.versions import public_name, versions
from vlmadapt.sharing.options import ExportOptions
from vlmadapt.sharing.probe import probe_features, probe_picture
from vlmadapt.sharing.program import Program

FORMAT = 1
DESCRIPTION = "export.json"
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = 1e-4  # of a probability: towers are some hundred layers of float32
INSTALL = "pip install 'vlmadapt[export]'"
OUTPUTS = ("logits", "probabilities")

Given = ParamSpec("Given")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Export:
    """What was written: the ``program`` in ``folder``, and by runtime the largest difference of a probability from the
    classifier's own on the probe. ``onnxruntime`` is there where it is installed and the program is one of ONNX."""

    folder: Path
    program: Path
    differences: dict[str, float]


class OnClassifier(Protocol[Given, Result]):
    """A function of a classifier; its keyword arguments are the fields of its options."""

    with_options: Callable[..., Result]

    def __call__(self, classifier: Classifier | str | Path, *args: Given.args, **options: Given.kwargs) -> Result: ...


def _on_classifier(
    kind: Callable[Given, ExportOptions],
) -> Callable[[Callable[..., Result]], OnClassifier[Given, Result]]:
    decorator: Any = with_options(kind)
    return decorator


@_on_classifier(ExportOptions)
@usual()
def export(classifier: Classifier | str | Path, options: ExportOptions) -> Export:
    """Write a classifier as a program for other runtimes, any number of rows at a time.

    classifier: a fitted one, or the folder of a saved one.
    The program is tried on a probe before it takes its place, in torch and, where it is installed, in onnxruntime:
    no probability may differ from the classifier's own by more than 1e-4. What it is given is not looked at: NaN in,
    NaN out.
    Raises :class:`InputError` for another format, an adapter whose encoder is missing and a program that differs,
    :class:`FileError` for a folder that holds something else, and :class:`MissingDependency` without onnx and
    onnxscript.
    """
    if options.format not in SUFFIXES:
        raise InputError(f"format is {options.format!r}: choose one of {', '.join(SUFFIXES)}.")
    if options.format == "onnx":
        _need_onnx()
    folder = Path(options.out)
    _claim(folder, options.overwrite)
    if not isinstance(classifier, Classifier):
        classifier = Classifier.load(classifier, only_features=not options.with_encoder)
    if options.with_encoder and isinstance(classifier.encoder, GivenEncoder):
        raise InputError(
            f"with_encoder is set, but the classifier was fitted on features of {classifier.encoder.name!r} and has no "
            "picture tower: leave it out."
        )
    with atomic_folder(folder) as place:
        return _write(classifier, place, folder, options.format, options.with_encoder)


def _claim(folder: Path, overwrite: bool) -> None:
    """Raise :class:`FileError` for a folder that holds anything but an export that may be replaced."""
    if not folder.exists():
        return
    with naming_file(folder, "read"):
        found = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if not found:
        return
    if DESCRIPTION not in found:
        raise FileError(f"{folder} holds {found[0]} and is no export: name another folder.")
    if not overwrite:
        raise FileError(f"{folder} holds an export: name another folder, or pass --overwrite to replace it.")


def _write(classifier: Classifier, place: Path, folder: Path, kind: str, with_encoder: bool) -> Export:
    adapter = classifier.adapter
    encoder = adapter.encoder_for(classifier.encoder) if with_encoder else None
    arrays: dict[str, np.ndarray] = {}
    if encoder is None:
        name, given = "features", probe_features(adapter)
        wanted = adapter.logits(given.to(adapter.text_features.device)).cpu()
    else:
        picture = probe_picture()
        with naming_file(place / "probe.png", "write"):
            picture.save(place / "probe.png")
        name, given = "pixels", torch.stack([encoder.transform(picture)])
        features = encoder.encode_images(given.to(encoder.device))
        arrays["features"] = features.cpu().numpy()
        wanted = adapter.logits(features).cpu()
    probabilities = (wanted / adapter.temperature_).softmax(-1)
    arrays |= {name: given.numpy(), "logits": wanted.numpy(), "probabilities": probabilities.numpy()}
    with naming_file(place / "probe.npz", "write"):
        np.savez(place / "probe.npz", **arrays)  # type: ignore[arg-type]
    device = adapter.text_features.device
    adapter.cpu()
    try:
        program = _traced(Program(adapter, encoder), given)
    finally:
        adapter.to(device)
    path = place / f"classifier{SUFFIXES[kind]}"
    runs: dict[str, Callable[[Tensor], Tensor]] = {"torch": lambda rows: program.module()(rows)[1]}
    if kind == "torch":
        with naming_file(path, "write"), _quiet():
            torch.export.save(program, path)
            read_back = torch.export.load(path).module()
        runs["torch"] = lambda rows: read_back(rows)[1]
    else:
        _write_onnx(program, path, name)
        if (session := _session(path)) is not None:
            runs["onnxruntime"] = lambda rows: torch.from_numpy(session.run(["probabilities"], {name: rows.numpy()})[0])
    differences = {runtime: _largest_difference(run, given, probabilities) for runtime, run in runs.items()}
    for runtime, difference in differences.items():
        if not difference <= TOLERANCE:
            raise InputError(
                f"the program of this {adapter.name} differs by {difference:.2g} in {runtime} from the classifier, "
                f"more than {TOLERANCE:g}: export it with format {'torch' if kind == 'onnx' else 'onnx'}."
            )
    write_versioned(place / DESCRIPTION, _description(classifier, path, name, given, differences), FORMAT)
    return Export(folder, folder / path.name, differences)


def _traced(program: Program, given: Tensor) -> torch.export.ExportedProgram:
    """Of any number of rows: traced with two, for one of one would be taken for a constant."""
    rows = given[:1].expand(2, *given.shape[1:]).contiguous()
    with use_reference(), torch.no_grad(), _quiet():
        program(rows)  # what is worked out once and kept is worked out before
        batch = torch.export.Dim("batch", min=1)
        return torch.export.export(program, (rows,), dynamic_shapes=({0: batch},))


def _write_onnx(program: torch.export.ExportedProgram, path: Path, name: str) -> None:
    with _quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=[name],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: "batch"},),
        )
    with naming_file(path, "write"):
        made.save(path)  # type: ignore[union-attr]


def _largest_difference(run: Callable[[Tensor], Tensor], given: Tensor, wanted: Tensor) -> float:
    """Over all rows three times, and over the first alone."""
    three, one = run(torch.cat([given] * 3)), run(given[:1])
    return max(float((three - torch.cat([wanted] * 3)).abs().max()), float((one - wanted[:1]).abs().max()))


def _session(path: Path) -> Any:
    """onnxruntime's on the CPU; None where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _need_onnx() -> None:
    for package in ("onnx", "onnxscript"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingDependency(f"format onnx needs {package}: run {INSTALL}, or choose format torch.") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters tell users of their insides; what goes wrong they raise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in loggers:
            each.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)


def _description(
    classifier: Classifier, path: Path, name: str, given: Tensor, differences: dict[str, float]
) -> dict[str, Any]:
    adapter, run = classifier.adapter, classifier.run
    dtype = str(adapter.text_features.dtype).removeprefix("torch.")
    return {
        "program": path.name,
        "sha256": sha256_of_file(path),
        "input": {"name": name, "shape": ["batch", *given.shape[1:]], "dtype": str(given.dtype).removeprefix("torch.")},
        "outputs": [{"name": each, "shape": ["batch", adapter.num_classes], "dtype": dtype} for each in OUTPUTS],
        "class_names": list(classifier.class_names),
        "adapter": run.adapter,
        "temperature": adapter.temperature_,
        "encoder": {
            "name": public_name(run.encoder.name),
            "fingerprint": run.encoder.fingerprint,
            "updated_by_the_adapter": adapter.adapts_images,
            "preprocessing": dict(classifier.encoder.preprocessing),
        },
        "probe": {"file": "probe.npz", "tolerance": TOLERANCE, "largest_difference": differences},
        "versions": versions(),
    }
