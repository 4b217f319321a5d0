"""What the names of folders, classes and splits mean: one rule for folders, tables and split files."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TypeVar

Value = TypeVar("Value")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Words for the splits, in lower case and without accents. "eval" is one of the two below, see `resolve_eval`.
WORDS: dict[str, frozenset[str]] = {
    "train": _set(
        "train training trained trn trainset trainingset traindata trainingdata trainval learning "
        "trainieren trainingsdaten trainingsbilder lernen "
        "entrainement apprentissage entrenamiento addestramento allenamento treino treinamento "
        "trening treningowy uczacy traen egitim obuchenie обучение обучающая тренировка "
        "训练 训练集 训练数据 訓練 訓練集 訓練データ 学習 学習データ 훈련 학습"
    ),
    "val": _set(
        "val valid validation validate validating valset validset validationset valdata validationdata "
        "dev devel development devset "
        "validierung validierungsdaten "
        "validacion validazione validacao validatie walidacja walidacyjny dogrulama валидация "
        "验证 验证集 验证数据 驗證 驗證集 検証 検証データ 검증"
    ),
    "test": _set(
        "test tests testing tst testset testingset testdata holdout heldout "
        "testdaten testbilder prueba pruebas prova teste testowy тест тестовая тестирование "
        "测试 测试集 测试数据 測試 測試集 テスト テストデータ 테스트"
    ),
    "eval": frozenset(("eval", "evaluation", "evaluate", "evalset", "evaluationset", "evaluierung")),
}
# Words beside them that say nothing.
FILLERS = _set(
    "all data dataset folder files images image imgs img jpg jpeg pics pictures photos png samples set sets split "
    "subset"
)
# Folders that programs make beside pictures, in lower case; so are those whose name begins with a dot.
CLUTTER = frozenset(
    (
        *("__macosx", "__pycache__", "thumbnails", "thumbnail", "thumbs", "@eadir", "@recycle", "#recycle", "@tmp"),
        *("$recycle.bin", "system volume information", "lost+found", "lost.dir", "node_modules"),
    )
)
# Names of folders that say what kind of file lies in them, in lower case.
FILE_KINDS = _set(
    "annotation annotations bbox boxes gt ground_truth groundtruth image images imagesets imgs img jpegimages label "
    "labels mask masks segmentation segmentations segmentationclass"
)
# Words of folders whose pictures have no labels.
UNLABELLED = _set(
    "unlabelled unlabeled unlabel unsupervised unsup unsorted extra extras pred predict prediction predictions pool "
    "raw misc submission new background noise"
)
LONGEST_NUMBER = 100  # digits; what is longer is text
_CAMEL = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])")
_WORD = re.compile(r"[^\W\d_]+")


def class_name_of(name: str) -> str:
    """``road_sign`` -> ``road sign``; unicode is composed, so that equal names compare equal."""
    return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split())


def ordered(class_names: Iterable[str]) -> list[str]:
    """Class names in the order of their labels: as numbers where all are whole ones, else as text."""
    names = set(class_names)
    if all(name.isdecimal() and len(name) < LONGEST_NUMBER for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def named(found: Iterable[str], also: Iterable[str]) -> list[str]:
    """Class names in the order of their labels: those ``found`` in the data, and ``also`` others, written alike."""
    return ordered({*found, *map(class_name_of, also)})


def alike(class_names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ in case only, as ``Cat`` and ``cat``, or are one number, as ``01`` and ``1.0``."""
    groups: dict[object, list[str]] = {}
    for name in class_names:
        key: object = name.casefold()
        with suppress(ValueError):
            key = float(name) if math.isfinite(float(name)) else key
        groups.setdefault(key, []).append(name)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def split_word(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The split a name speaks of (``train``, ``val``, ``test`` or ``eval``) and its other words; None without one.

    ``seg_train`` -> ``("train", ("seg",))``, ``Test Set`` -> ``("test", ())``. Case, accents, digits and what separates
    words do not matter; a name with two such words speaks of none.
    """
    words = _WORD.findall(_plain(_CAMEL.sub(" ", unicodedata.normalize("NFC", name))))
    if "".join(words) in _SPLIT_OF:
        return _SPLIT_OF["".join(words)], ()
    found = [word for word in words if word in _SPLIT_OF]
    if len(found) != 1:
        return None
    return _SPLIT_OF[found[0]], tuple(word for word in words if word != found[0] and word not in FILLERS)


def _plain(text: str) -> str:
    """``text`` in lower case without marks above letters, of whatever script."""
    parts = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFC", "".join(each for each in parts if not unicodedata.combining(each)))


_SPLIT_OF = {_plain(word): split for split, words in WORDS.items() for word in words}


def split_named(name: str) -> str | None:
    """The split that a name alone means, for a column of a table; None for any other text."""
    found = split_word(name)
    return found[0] if found is not None and not found[1] else None


def resolve_eval(found: Mapping[str, Value]) -> dict[str, Value]:
    """``eval`` as ``val`` where there is a ``test`` beside it and no ``val``, else as ``test`` where there is none.

    Where both are there already it stays, and is read as neither.
    """
    splits = dict(found)
    for split in ("test", "val"):
        if "eval" in splits and split not in splits:
            splits[split] = splits.pop("eval")
    return splits


def speaks_of_no_labels(name: str) -> bool:
    """Whether a folder's name says that its pictures have no labels."""
    return any(word in UNLABELLED for word in _WORD.findall(_plain(name)))


def is_clutter(name: str) -> bool:
    """Whether a folder of this name is made by programs, not by people."""
    return name.casefold() in CLUTTER


def is_utf8(text: str) -> bool:
    """Whether ``text`` can be written as UTF-8: a file name of other bytes cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
