"""The folder a command writes into: held while it works, and what is said when it is interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BEGUN = "vlmadapt_begun"  # an attribute of the interruption


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Hold ``folder``; an interruption tells whether the run has made it its own, so that it can go on there.

    Raises :class:`InputError` and :class:`FileError` as :func:`vlmadapt.provenance.place.hold` does.
    """
    from vlmadapt.provenance.place import hold

    with hold(folder) as place:
        try:
            yield
        except KeyboardInterrupt as stop:
            setattr(stop, BEGUN, place.begun)
            raise
