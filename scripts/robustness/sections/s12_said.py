"""What is said."""

from __future__ import annotations

import copy
import shutil
import warnings
from pathlib import Path
from typing import Any

from .. import ours, peers
from ..case import CRASH, OURS, Verdict, case
from ..judge import judged, of_call, of_command
from ..pictures import class_folders

NAME = "What is said"

switched_off = case(
    NAME,
    "a picture of what decides, where validation has switched one influence off",
    "shown is what the classifier uses; pairs listed as pulled apart are pulled apart",
    "pictures of a class graph",
    "reporting/test_graph_view.py::test_what_validation_switched_off_is_not_shown",
    "reporting/test_graph_view.py::test_pairs_are_those_whose_centred_cosine_falls_most",
)


@switched_off.by(OURS)
def _switched_off(place: Path) -> list[Verdict]:
    from tests.adapters.problem import TAU, make_problem
    from vlmadapt.adapters.hegraph.adapter import HeGraphAdapter
    from vlmadapt.adapters.hegraph.view import pulled_apart, strongest_edges

    problem = make_problem()
    fitted: Any = HeGraphAdapter(problem.text, TAU, {"epochs": 5}, negative_text_features=problem.negative)
    fitted.fit(problem.features, problem.labels)
    off, on = copy.deepcopy(fitted), copy.deepcopy(fitted)
    off.set_scalars(off.fusion, 1.0, 0.0)
    on.set_scalars(on.fusion, 1.0, 0.4)
    shown = {edge.relation for edge in strongest_edges(off, range(5), 4)}
    falling = [pair.change for pair in pulled_apart(on, 100)]
    return [
        judged(
            not shown & {"pn", "vn"} and not pulled_apart(off, 4), f"relations {sorted(shown)}", "negative nodes off"
        ),
        judged(
            bool(falling) and all(change < 0 for change in falling),
            f"the cosine falls in {sum(change < 0 for change in falling)} of {len(falling)}",
            "pairs listed",
        ),
    ]


seeds = case(
    NAME,
    "a mean over two seeds which drew the same pictures, for there are no others",
    "said beside the deviation of 0",
    "means over draws",
    "reporting/test_table.py::test_seeds_that_drew_the_same_pictures_are_named",
)


@seeds.by(OURS)
def _seeds(place: Path) -> Verdict:
    class_folders(place / "pets" / "train", range(4))
    class_folders(place / "pets" / "val", range(4, 8))
    class_folders(place / "pets" / "test", range(8, 12))
    said = ours.command(
        place, "compare", "pets", "--adapters", ours.QUICK, "--shots", "4", "--seeds", "2", "--out", "out"
    )
    return of_command(
        said,
        (),
        lambda: (
            "same pictures" in said.out + said.err,
            "said" if "same pictures" in said.out + said.err else "not said",
        ),
    )


untested = case(
    NAME,
    "a class without a folder in the test split",
    "labels stay those of training, and it is said that the accuracy is that of the other classes",
    "evaluation",
    "experiments/test_leaks.py::test_classes_without_test_pictures_are_named",
    "data/test_check.py::test_class_without_test_pictures",
    "data/test_folder.py::test_labels_agree_across_splits_when_a_class_is_missing_from_one",
)


def without_dogs(root: Path) -> Path:
    class_folders(root / "train", range(8))
    class_folders(root / "test", range(8, 12))
    shutil.rmtree(root / "test" / "dog")
    return root


@untested.by(OURS)
def _untested(place: Path) -> list[Verdict]:
    data = without_dogs(place / "pets")
    run = ours.fit(place, data)
    found = []
    for what, arguments in (("data check", ("data", "check", data)), ("eval", ("eval", run, "--out", "out"))):
        said = ours.command(place, *arguments)
        ends_well = said.code == 0 or (what == "data check" and said.code == 1)
        text = said.out + said.err
        words = "'dog'" in text and ("no test pictures" in text or "no pictures in test" in text)
        found.append(
            judged(words, "named", what)
            if ends_well and not said.traceback
            else Verdict(CRASH, "", said.code, said.last, what)
        )
    return found


@untested.by("ImageFolder")
def _untested_torchvision(place: Path) -> Verdict:
    root = without_dogs(place / "pets")

    def check(pair: tuple[Any, Any]) -> tuple[bool, str]:
        return pair[0].class_to_idx == pair[
            1
        ].class_to_idx, f"train {pair[0].class_to_idx}, test {pair[1].class_to_idx}"

    return of_call(lambda: (peers.image_folder(root / "train"), peers.image_folder(root / "test")), ("dog",), check)


@untested.by("CLIP_benchmark")
def _untested_clip(place: Path) -> Verdict:
    from .s02_folders import evaluated

    root = without_dogs(place / "pets")
    return of_call(
        lambda: evaluated(place, root / "test"), ("dog",), lambda seen: (len(seen[0]) == 3, f"a problem of {seen[0]}")
    )


def said_by(score: Any) -> tuple[bool, str]:
    """Does anything that is printed or warned of speak of the class?"""
    import contextlib
    import io

    stream = io.StringIO()
    with (
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
    ):
        warnings.simplefilter("always")
        value = score()
    text = stream.getvalue() + " ".join(str(warning.message) for warning in caught)
    said = any(word in text for word in ("no true", "not in y_true", "absent", "missing", "without"))
    return said, f"accuracy {value}, {'said' if said else 'nothing said'}"


def other_classes(data: Any) -> Any:
    keep = data.test[1] != 1
    data.test = tuple(part[keep] for part in data.test)
    return data


@untested.by("scikit-learn")
def _untested_sklearn(place: Path) -> Verdict:
    from sklearn.linear_model import LogisticRegression

    data = other_classes(peers.problem())
    (features, labels), (new, wanted) = data.train, data.test
    model = LogisticRegression().fit(features.numpy(), labels.numpy())
    return of_call(lambda: said_by(lambda: f"{model.score(new.numpy(), wanted.numpy()):.2f}"), (), lambda seen: seen)


@untested.by("Tip-Adapter")
def _untested_tip(place: Path) -> Verdict:
    modules, data = peers.tip_adapter(), other_classes(peers.problem())
    settings = peers.tip_settings(place / "caches")

    def score() -> str:
        peers.tip_fit(modules, settings, data)
        return "printed"

    return of_call(lambda: said_by(score), (), lambda seen: seen)
