"""``save_pretrained`` and ``from_pretrained``: a classifier as a folder that can be given away, and back.

    adapter.safetensors, adapter.json, run.json    the classifier, without a path of this computer or a picture
    README.md                                      its model card

The Hugging Face hub takes such a folder as a repository; it is uploaded and fetched only when asked.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmadapt.adapters import Adapter
from vlmadapt.atomic import atomic_folder
from vlmadapt.backbones.given import GivenEncoder
from vlmadapt.classifier import DESCRIPTION, Classifier, FittedOn, FittedWith, Run
from vlmadapt.errors import FileError, InputError, MissingDependency
from vlmadapt.experiments.results import ProtocolResults
from vlmadapt.files import write_text
from vlmadapt.provenance.versions import public_name
from vlmadapt.sharing.card import card

if TYPE_CHECKING:
    from vlmadapt.backbones import Encoder

CARD = "README.md"
FILES = ("adapter.safetensors", "adapter.json", DESCRIPTION, CARD)
INSTALL = "pip install huggingface_hub"


def save_pretrained(
    classifier: Classifier | str | Path,
    folder: str | Path,
    *,
    licence: str | None = None,
    evaluations: Sequence[ProtocolResults] | None = None,
    overwrite: bool = False,
    repo_id: str | None = None,
    push_to_hub: bool = False,
    private: bool = True,
) -> Path:
    """Write ``folder`` to give away; returns it.

    classifier: a fitted one, or the folder of a saved one, whose ``eval-*`` results then go into the card.
    licence: as the hub knows it, ``"apache-2.0"`` or ``"cc-by-4.0"``; without, the card says that there is none.
    evaluations: results for the card, ``vlmadapt.evaluate(...).results``, in place of those found.
    push_to_hub: upload it as ``repo_id`` (``"owner/name"``), a new repository ``private`` unless told otherwise, with
        the token that huggingface_hub knows.
    Pictures, thumbnails and paths stay here; names of support pictures become their class and a number, and hashes of
    their content go along, by which ``eval`` refuses to test on them.
    Raises :class:`FileError` for a folder that holds something else, or a pretrained one without ``overwrite``,
    :class:`InputError` for an encoder that has no name to load it by and for ``push_to_hub`` without ``repo_id``.
    """
    if push_to_hub and not repo_id:
        raise InputError("push_to_hub is set without repo_id: give repo_id='owner/name'.")
    hub = _hub("push_to_hub") if push_to_hub else None
    folder = Path(folder)
    _claim(folder, overwrite)
    if not isinstance(classifier, Classifier):
        run = Path(classifier)
        classifier = Classifier.load(run, only_features=True)
        evaluations = _found(run) if evaluations is None else evaluations
    public = Classifier(_public_adapter(classifier.adapter), classifier.encoder, public_run(classifier.run))
    with atomic_folder(folder) as place:
        public.save(place)
        write_text(place / CARD, card(public.run, evaluations or (), licence, repo_id))
    if hub is not None:
        hub.create_repo(repo_id, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repo_id, folder_path=str(folder), allow_patterns=list(FILES))
    return folder


def from_pretrained(
    name: str | Path,
    *,
    encoder: Encoder | None = None,
    device: str = "cpu",
    revision: str | None = None,
    download: bool = False,
) -> Classifier:
    """A classifier from a folder of :func:`save_pretrained`, or with ``download`` from the hub's repository ``name``.

    encoder: in place of the one it names, as for :meth:`Classifier.load`. revision: of the repository.
    Raises what :meth:`Classifier.load` raises, and :class:`FileError` for a name that is no folder without
    ``download``.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if not download:
            raise FileError(f"{name} is no folder: pass download=True where it is a repository of the hub.")
        folder = Path(_hub("download").snapshot_download(str(name), revision=revision, allow_patterns=list(FILES)))
    return Classifier.load(folder, encoder, device)


def public_run(run: Run) -> Run:
    """``run`` without what tells of this computer or names a picture."""
    numbers: dict[int, int] = {}

    def renamed(pictures: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
        found = []
        for _, label in pictures:
            numbers[label] = numbers.get(label, 0) + 1
            found.append((f"{label}/{numbers[label]}", label))
        return tuple(found)

    return replace(
        run,
        data=FittedOn(run.data.name, "", run.data.split_hash, None),
        encoder=FittedWith(public_name(run.encoder.name), run.encoder.fingerprint),
        support=renamed(run.support),
        validation=renamed(run.validation),
        identity=None,
    )


def _public_adapter(adapter: Adapter) -> Adapter:
    """The same tensors, with the name of its encoder as others may know it."""
    twin, encoder = copy.copy(adapter), adapter.encoder
    if encoder is not None:
        name = public_name(encoder.name)
        twin.__dict__["encoder"] = GivenEncoder(name, encoder.fingerprint, adapter.width, adapter.logit_scale)
    return twin


def _claim(folder: Path, overwrite: bool) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not ((folder / CARD).is_file() and (folder / DESCRIPTION).is_file()):
        raise FileError(f"{folder} is not empty and no pretrained classifier: name another folder.")
    if not overwrite:
        raise FileError(f"{folder} holds a pretrained classifier: name another folder, or pass overwrite=True.")


def _found(run: Path) -> list[ProtocolResults]:
    """Those that ``vlmadapt eval`` has left in a run's folder."""
    return [ProtocolResults.load(path.parent) for path in sorted(run.glob("eval-*/results.json"))]


def _hub(argument: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingDependency(f"{argument} needs huggingface_hub: run {INSTALL}.") from error
    return huggingface_hub
