"""Where the adapters of a protocol run wait for the test split: in memory, or in a folder that can be resumed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmadapt.adapters import load_adapter
from vlmadapt.atomic import remove_tree
from vlmadapt.errors import FileError
from vlmadapt.experiments.features import changed
from vlmadapt.experiments.fit import Measures
from vlmadapt.files import read_versioned, write_versioned
from vlmadapt.provenance.identity import file_name, file_name_of_0_1_0

if TYPE_CHECKING:
    from vlmadapt.adapters import Adapter
    from vlmadapt.backbones import Encoder
    from vlmadapt.experiments.results import ProtocolResults

STARTED, FINISHED = "identity.json", "fit.json"
FORMAT = 1
AGAIN = "run vlmadapt compare or demo with another --out"


@dataclass(frozen=True)
class FitKey:
    """One fit of a protocol run; ``method`` is the label."""

    method: str
    shots: int
    seed: int


class MemoryFits:
    """Keeps fitted adapters in memory."""

    def __init__(self) -> None:
        self._adapters: dict[FitKey, Adapter] = {}

    def checkpoint_dir(self, key: FitKey) -> None:
        return None

    def finished(self, key: FitKey, identity: Mapping[str, Any]) -> Measures | None:
        return None

    def put(self, key: FitKey, adapter: Adapter, measures: Measures) -> None:
        self._adapters[key] = adapter

    def get(self, key: FitKey, encoder: Encoder | None = None) -> Adapter:
        return self._adapters[key]


class FolderFits:
    """Keeps fitted adapters below ``folder``, so that an interrupted run goes on where it stopped.

    A fit counts as finished once ``fit.json`` is there; one whose identity (data, encoder, settings, versions)
    differs from what is asked for is fitted again.
    """

    def __init__(self, folder: str | Path) -> None:
        self.root = Path(folder)
        self._known: dict[FitKey, Path] = {}

    def folder(self, key: FitKey) -> Path:
        """Where the fit lies or will lie; that of 0.1.0 where only it is there."""
        known = self._known.get(key)
        if known is not None:
            return known
        own, old = self._folders(key)
        return old if not own.exists() and old.exists() else own

    def _folders(self, key: FitKey) -> tuple[Path, Path]:
        inner = f"shots-{key.shots}-seed-{key.seed}"
        return self.root / file_name(key.method) / inner, self.root / file_name_of_0_1_0(key.method) / inner

    def checkpoint_dir(self, key: FitKey) -> Path:
        return self.folder(key) / "checkpoints"

    def finished(self, key: FitKey, identity: Mapping[str, Any]) -> Measures | None:
        """The measures of an earlier, equal fit. An unequal one is removed, with its checkpoints."""
        folder, old = self._folders(key)
        # 0.1.0 gave some labels one folder together: it is taken only by the label whose fit it holds.
        if not folder.exists() and _is_of(old, identity):
            folder = old
        self._known[key] = folder
        started = folder / STARTED
        if started.exists() and not _is_of(folder, identity):
            remove_tree(folder)
        if (folder / FINISHED).exists():
            shutil.rmtree(self.checkpoint_dir(key), ignore_errors=True)  # of a run that was killed before it did
            return self.measures(key)
        write_versioned(started, identity, FORMAT)
        return None

    def put(self, key: FitKey, adapter: Adapter, measures: Measures) -> None:
        adapter.save(self.folder(key))
        write_versioned(self.folder(key) / FINISHED, asdict(measures), FORMAT)
        shutil.rmtree(self.checkpoint_dir(key), ignore_errors=True)

    def get(self, key: FitKey, encoder: Encoder | None = None) -> Adapter:
        return load_adapter(self.folder(key), encoder=encoder)

    def measures(self, key: FitKey) -> Measures:
        """Of a finished fit. Raises :class:`FileError` where its file is missing, damaged or of something else."""
        path = self.folder(key) / FINISHED
        try:
            return Measures(**read_versioned(path, FORMAT, AGAIN))
        except TypeError as error:
            raise FileError(f"{path} does not hold the measures of a fit ({error}): {AGAIN}.") from error

    def remove(self, results: ProtocolResults) -> None:
        """Remove the fits of ``results``; those of other runs stay."""
        for cell in results.cells:
            folder = self.folder(FitKey(cell.method, cell.shots, cell.seed))
            with suppress(FileError):
                remove_tree(folder)
            for above in (folder.parent, self.root):
                with suppress(OSError):
                    above.rmdir()


def _is_of(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a fit of ``identity`` was started in ``folder``."""
    started = folder / STARTED
    return started.exists() and changed(read_versioned(started, FORMAT, AGAIN), identity) is None
