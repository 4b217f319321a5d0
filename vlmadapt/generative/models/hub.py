"""Models of ``transformers`` from a folder as ``save_pretrained`` writes it, or from the hub: strictly, and safely."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors

from vlmadapt.backbones.checkpoints import hub_access
from vlmadapt.errors import FileError, InputError, MissingDependency, VlmadaptError
from vlmadapt.generative.models.base import no_progress_bars, transformers_for


class Pretrained:
    """A folder, or with ``allow_download`` a repository of the hub; ``source`` is what ``transformers`` is given.

    Raises :class:`MissingDependency` without transformers, :class:`FileError` for a folder without a configuration.
    """

    def __init__(self, family: str, place: str, allow_download: bool) -> None:
        self.transformers = transformers_for(f"the model {family}:{place}")
        self.place = place
        self.folder = Path(place).expanduser()
        if not self.folder.is_dir() and not allow_download:
            raise FileError(f"{self.folder} is no folder: give one that save_pretrained wrote, or allow the download.")
        if self.folder.is_dir() and not (self.folder / "config.json").is_file():
            raise FileError(
                f"{self.folder} could not be loaded: it has no config.json, give one that save_pretrained wrote."
            )
        self.source: Any = self.folder if self.folder.is_dir() else place
        self.allow_download = allow_download
        # Asked nothing, transformers may ask the user whether to run code that lies in the folder: never.
        self.options: dict[str, Any] = {"local_files_only": not allow_download, "trust_remote_code": False}

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Off the network unless allowed; what goes wrong is one sentence that names the place.

        Raises :class:`FileError` for files that are missing or damaged, :class:`MissingDependency` for a package that
        reading them needs.
        """
        try:
            with hub_access(self.allow_download), no_progress_bars():
                yield
        except pickle.UnpicklingError as error:
            raise FileError(
                f"the weights of {self.place} are a pickle of more than tensors: convert them first."
            ) from error
        except VlmadaptError:
            raise
        except ImportError as error:
            raise MissingDependency(f"{self.place} needs another package: {_first_line(error)}") from error
        except (safetensors.SafetensorError, RuntimeError) as error:
            raise FileError(
                f"the weights of {self.place} could not be read ({_first_line(error)}): fetch them again."
            ) from error
        except (OSError, ValueError) as error:
            raise FileError(f"{self.place} could not be loaded: {_first_line(error)}") from error

    def model(self, classes: Sequence[str], **options: Any) -> Any:
        """The model, whose class is one of ``classes``, in evaluation mode; pickles are read as plain tensors only.

        Raises :class:`InputError` for another architecture, :class:`FileError` where weights of the model are missing,
        or there are others: neither may be passed over.
        """
        config = self.transformers.AutoConfig.from_pretrained(self.source, **self.options)
        name = (config.architectures or ["none"])[0]
        if name not in classes:
            raise InputError(
                f"{self.place} holds the architecture {name}: give a folder of one of {', '.join(classes)}."
            )
        model, found = getattr(self.transformers, name).from_pretrained(
            self.source, weights_only=True, output_loading_info=True, **options, **self.options
        )
        # Positions and the like, which the model computes and earlier versions of transformers saved, are no weights.
        computed = {name for name, _ in model.named_buffers()}
        for kind, said in (("missing_keys", "lack"), ("unexpected_keys", "hold an unknown")):
            names = sorted(set(found[kind]) - computed)
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise FileError(
                    f"the weights of {self.place} {said} {names[0]}{more}: give a folder that save_pretrained wrote of "
                    f"a {name}."
                )
        return model.eval()


def _first_line(error: Exception) -> str:
    """What ``error`` says first."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def public_name(family: str, name: str) -> str:
    """``blip:/home/me/model`` -> ``blip:model``; names of other families as they are."""
    prefix, colon, place = name.partition(":")
    return prefix + colon + (place.replace("\\", "/").rstrip("/").rpartition("/")[2] if prefix == family else place)
