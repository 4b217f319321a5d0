"""What an output folder is of: kind of run, data, encoder and settings, in a small file written before the work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from vlmadapt.errors import FileError, InputError
from vlmadapt.files import read_json, read_versioned, write_versioned
from vlmadapt.provenance.identity import difference
from vlmadapt.provenance.settings import plain

ABOUT, FORMAT = ".vlmadapt.json", 1
KINDS = {
    "fit": "a fit",
    "compare": "a comparison",
    "demo": "a demo",
    "eval": "an evaluation",
    "tune": "a tuning run",
    "features": "features",
}

LATER = {"protocol": "few-val"}  # settings that folders of 0.1.0 do not name, and what they were


@dataclass(frozen=True)
class About:
    """One run, as far as it decides whether another may go on in its folder.

    kind: a key of ``KINDS``. data: the data set's name. split_hash: of its splits. pictures: of the content of some.
    encoder: fingerprint of what sees the pictures. settings: plain JSON, what all results of the folder share.
    replacing: whether the folder still holds the results of an earlier run, which this one was asked to replace.
    None where it is not known: of folders of 0.1.0, and of an encoder before it is loaded.
    """

    kind: str | None
    data: str | None = None
    split_hash: str | None = None
    pictures: str | None = None
    encoder: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    replacing: bool = False

    def refuse_other(self, found: About, folder: Path, way_out: str) -> None:
        """Raise :class:`InputError` when ``folder`` is of ``found``, another run than this; unknown parts agree.

        ``way_out`` ends the sentence.
        """
        kind = KINDS.get(found.kind or "", "a run")
        if _differ(found.kind, self.kind):
            raise InputError(f"{folder} holds {kind}, not {KINDS[self.kind or '']}: choose another folder with --out.")
        if _differ(found.data, self.data):
            raise InputError(f"{folder} holds {kind} of data set {found.data!r}, not of {self.data!r}: {way_out}.")
        if _differ(found.split_hash, self.split_hash) or _differ(found.pictures, self.pictures):
            raise InputError(
                f"{folder} holds {kind} of a data set {self.data!r} with other pictures or splits than this one: "
                f"{way_out}."
            )
        if _differ(found.encoder, self.encoder):
            what = "model" if self.kind == "tune" else "encoder"
            raise InputError(f"{folder} holds {kind} with another {what}, or other weights of it: {way_out}.")
        before = {**LATER, **found.settings}
        known = {name: value for name, value in plain(self.settings).items() if name in before}
        other = difference({name: before[name] for name in known}, known)
        if other is not None:
            raise InputError(f"{folder} holds {kind} with other settings ({other}): {way_out}.")

    def write(self, folder: Path) -> None:
        """Raises :class:`FileError` where that fails."""
        write_versioned(folder / ABOUT, asdict(self), FORMAT)


def _differ(was: str | None, now: str | None) -> bool:
    return was is not None and now is not None and was != now


def about_of(folder: Path) -> About | None:
    """What ``folder`` is of; None when no run has written there. Folders of 0.1.0 tell by their other files.

    Raises :class:`FileError` for a file that is damaged or of another format.
    """
    path = folder / ABOUT
    if not path.exists():
        return _told_by_files(folder)
    value = read_versioned(path, FORMAT, "choose another folder with --out")
    try:
        return About(**{each.name: value[each.name] for each in fields(About)})
    except KeyError as error:
        raise FileError(f"{path} lacks {error}: choose another folder with --out.") from error


def _told_by_files(folder: Path) -> About | None:
    run, unfinished, results = (_object(folder / name) for name in ("run.json", "unfinished.json", "results.json"))
    try:
        if run or unfinished:
            return About("fit")  # which has words of its own for what differs
        if results and "task" in results:
            settings = {name: results["protocol"][name] for name in ("options", "limits")}
            data, model = results["data"], results["model"]
            return About("tune", data["name"], data["split_hash"], encoder=model["fingerprint"], settings=settings)
        if results and "cells" in results:
            data, protocol = results["dataset"], results["protocol"]
            settings = {
                "templates": data["templates"],
                **{name: protocol[name] for name in ("views", "precision")},
            }
            kind = _kind_of_results(folder)
            encoder = results["encoder"]["fingerprint"]
            return About(kind, data["name"], data["split_hash"], encoder=encoder, settings=settings)
    except (KeyError, TypeError):
        return None  # somebody else's file of that name
    started = next(iter(sorted(folder.glob("fits/*/*/identity.json"))), None)
    identity = None if started is None else _object(started)
    if not identity:
        return None
    if "task" in identity:
        return About("tune", encoder=identity.get("model"), settings={"options": identity.get("options")})
    settings = {name: identity[name] for name in ("templates", "views", "precision") if name in identity}
    return About(None, encoder=identity.get("encoder"), settings=settings)


def _kind_of_results(folder: Path) -> str:
    if (folder / "by_class.csv").exists():
        return "eval"
    return "demo" if (folder / "evidence.png").exists() else "compare"


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; empty where there is none."""
    try:
        value = read_json(path)
    except FileError:
        return {}
    return value if isinstance(value, dict) else {}
