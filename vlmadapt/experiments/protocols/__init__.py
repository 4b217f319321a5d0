"""Protocols of few-shot experiments: what chooses, what is fitted and what is tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vlmadapt.data import Dataset
from vlmadapt.errors import InputError
from vlmadapt.experiments.protocols.base import Protocol, TestSet
from vlmadapt.experiments.protocols.base_to_new import BASE, NEW, BaseToNew
from vlmadapt.experiments.protocols.choosing import FewVal, HeldOutShot, KFold, NoVal
from vlmadapt.experiments.protocols.elsewhere import Cross, Shift

PROTOCOLS: Mapping[str, type[Protocol]] = {
    kind.name: kind for kind in (FewVal, KFold, NoVal, HeldOutShot, BaseToNew, Cross, Shift)
}
DEFAULT = FewVal.name

__all__ = [
    "BASE",
    "DEFAULT",
    "NEW",
    "PROTOCOLS",
    "BaseToNew",
    "Cross",
    "FewVal",
    "HeldOutShot",
    "KFold",
    "NoVal",
    "Protocol",
    "Shift",
    "TestSet",
    "protocol_of",
]


def protocol_of(name: str, others: Sequence[Dataset] = (), single: bool = False) -> Protocol:
    """The protocol called ``name``; ``single``: for one classifier.

    Raises :class:`InputError` for another name, and for one that ``fit`` cannot follow.
    """
    known = [each for each, kind in PROTOCOLS.items() if kind.fits_one or not single]
    if name in PROTOCOLS and name not in known:
        raise InputError(f"protocol is {name!r}, which is of comparisons: fit takes {', '.join(known)}.")
    if name not in known:
        raise InputError(f"protocol is {name!r}: use {', '.join(known)}.")
    return PROTOCOLS[name](tuple(others))
