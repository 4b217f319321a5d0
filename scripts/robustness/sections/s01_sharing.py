"""Two things share a place."""

from __future__ import annotations

from pathlib import Path

import torch

from .. import ours, peers
from ..case import CLEAR, CRASH, OURS, SILENT, Verdict, case
from ..child import ended
from ..judge import judged, of_call, of_command, refused
from ..pictures import class_folders

NAME = "Two things share a place"
COMPARED = ("--shots", "2", "--seeds", "1", "--views", "1")

labels = case(
    NAME,
    "`compare` of two variants of one method whose names differ in signs only (`scale=1e-1`, `scale=1e+1`)",
    "each row has the accuracy of its own fit made alone, or the comparison is refused",
    "comparison of variants of a method",
    "experiments/test_protocol.py::test_labels_that_look_alike_keep_their_own_fits",
    "provenance/test_identity.py::test_labels_never_share_a_name",
    "generative/test_tuning.py::test_labels_that_look_alike_keep_their_own_fits",
)


@labels.by(OURS)
def _labels(place: Path) -> Verdict:
    data = class_folders(place / "pets", range(40))
    variants = [f"taskres:scale=1e{sign}1:search_scale=false:epochs=1:lr=0.05" for sign in "-+"]
    said = ours.command(
        place, "compare", data, "--adapters", ",".join(variants), *COMPARED, "--out", "both", "--keep-fits"
    )
    alone: dict[bytes, int] = {}
    for number, variant in enumerate(variants):
        ours.command(place, "compare", data, "--adapters", variant, *COMPARED, "--out", f"alone{number}", "--keep-fits")
        alone |= {file.read_bytes(): number for file in (place / f"alone{number}").rglob("adapter.safetensors")}
    kept = {alone.get(file.read_bytes()) for file in (place / "both").rglob("adapter.safetensors")}
    scores = [ours.accuracies(place / f"alone{number}") for number in (0, 1)]
    assert len({*scores[0].values(), *scores[1].values()}) == 2, "two variants that score alike show nothing"

    def check() -> tuple[bool, str]:
        rows = ours.accuracies(place / "both")
        told = ", ".join(f"{100 * accuracy:.1f} %" for accuracy in rows.values())
        alike = rows == scores[0] | scores[1] and kept == {0, 1}
        return alike, f"rows of {told}, the fits those made alone" if alike else f"rows of {told}, fits {kept}"

    return of_command(said, variants, check)


own = case(
    NAME,
    "two data sets of different names, one after the other, results into the default place",
    "both results are there at the end and are those of their own data",
    "results of runs in files",
    "cli/test_folders.py::test_default_folders_carry_the_name_of_the_data",
)


def two_sets(place: Path) -> list[Path]:
    return [class_folders(place / "pets"), class_folders(place / "birds", range(20, 36), ("wren", "owl"))]


@own.by(OURS)
def _own(place: Path) -> Verdict:
    for data in two_sets(place):
        said = ours.command(place, "compare", data, "--adapters", ours.QUICK, *COMPARED)
    found = {ours.read(path)["dataset"]["name"] for path in place.rglob("results.json")}
    return of_command(said, (), lambda: (found == {"pets", "birds"}, f"results of {sorted(found)}"))


@own.by("CLIP_benchmark")
def _own_clip(place: Path) -> Verdict:
    def both() -> set[str]:
        for data in two_sets(place):
            peers.clip_benchmark(peers.convert(data, place / "w" / data.name), place / "m", name=data.name)
        return {ours.read(path)["dataset"] for path in place.glob("*.json")}

    return of_call(both, (), lambda found: (found == {"wds/pets", "wds/birds"}, f"results of {sorted(found)}"))


@own.by("Tip-Adapter")
def _own_tip(place: Path) -> Verdict:
    modules = peers.tip_adapter()

    def both() -> list[torch.Tensor]:
        for number in (0, 1):  # main.py: one folder a data set
            peers.tip_fit(modules, peers.tip_settings(place / "caches" / str(number)), peers.problem(seed=number))
        return [torch.load(place / "caches" / str(number) / "keys_4shots.pt", weights_only=True) for number in (0, 1)]

    return of_call(both, (), lambda keys: (not torch.equal(*keys), "two caches"))


named = case(
    NAME,
    "two data sets, one after the other, the same results place named twice",
    "the second is refused, or both results are there",
    "results of runs in files whose place is named",
    "cli/test_folders.py::test_a_comparison_of_other_data_is_refused_and_nothing_changes",
    "cli/test_folders.py::test_a_folder_that_another_run_holds_is_refused",
)


@named.by(OURS)
def _named(place: Path) -> list[Verdict]:
    pets, birds = two_sets(place)
    ours.command(place, "compare", pets, "--adapters", ours.QUICK, *COMPARED, "--out", "out")
    before = (place / "out" / "results.json").read_bytes()
    said = ours.command(place, "compare", birds, "--adapters", ours.QUICK, *COMPARED, "--out", "out")
    found = [refused(said, ("out",), "one after the other")]
    if (place / "out" / "results.json").read_bytes() != before:
        found = [judged(False, "the first results are gone", "one after the other")]
    started = [
        ours.begin(place, "compare", data, "--adapters", ours.QUICK, *COMPARED, "--out", "race")
        for data in (pets, birds)
    ]
    codes = sorted((said := ended(*each)).code for each in started)
    rows = ours.read(place / "race" / "results.json")["cells"]
    right = codes == [0, 2] and len(rows) == 1
    return [*found, Verdict(CLEAR if right else SILENT, f"exit codes {codes}", of="at once", last=said.last)]


@named.by("CLIP_benchmark")
def _named_clip(place: Path) -> Verdict:
    def both() -> str:
        for data in two_sets(place):
            peers.clip_benchmark(
                peers.convert(data, place / "w" / data.name), place / "m", "--output", "r.json", name=data.name
            )
        return ours.read(place / "r.json")["dataset"]

    return of_call(both, ("r.json",), lambda found: (False, f"only {found} is left"))


kept = case(
    NAME,
    "six fits kept, then a comparison of another method alone into the same folder",
    "the six fits are still there: refused, or both kept",
    "fits that are kept",
    "cli/test_folders.py::test_fits_that_a_run_would_not_have_are_not_lost",
)


@kept.by(OURS)
def _kept(place: Path) -> Verdict:
    data = class_folders(place / "pets")
    ours.command(
        place,
        "compare",
        data,
        "--adapters",
        f"{ours.QUICK},linear-probe",
        "--shots",
        "1,2,4",
        "--seeds",
        "1",
        "--out",
        "out",
        "--keep-fits",
    )
    before = ours.tree(place / "out")
    said = ours.command(
        place, "compare", data, "--adapters", "zero-shot", "--shots", "1", "--seeds", "1", "--out", "out"
    )
    if not before <= ours.tree(place / "out"):
        return judged(False, "fits are gone")
    return of_command(said, ("out",), lambda: (True, "both kept"))


racing = case(
    NAME,
    "two fits with different seeds into one folder at the same time",
    "the folder holds one of them whole, and the other was refused",
    "fits that are kept",
    "provenance/test_place.py::test_another_process_is_refused_in_one_sentence_that_names_it",
    "provenance/test_place.py::test_processes_that_come_and_go_never_meet",
    "cli/test_folders.py::test_a_folder_that_another_run_holds_is_refused",
)


@racing.by(OURS)
def _racing(place: Path) -> Verdict:
    data = class_folders(place / "pets")
    started = [ours.begin(place, "fit", data, *ours.FAST, "--seed", seed, "--out", "run") for seed in (1, 2)]
    said = [ended(*each) for each in started]
    codes = [each.code for each in said]
    if sorted(codes) != [0, 2]:
        outcome = SILENT if codes == [0, 0] else CRASH
        return Verdict(outcome, f"exit codes {codes}", last=said[-1].last)
    seed = ours.read(place / "run" / "run.json")["seed"]
    return Verdict(CLEAR if codes[seed - 1] == 0 else SILENT, f"seed {seed} saved", 2, said[codes.index(2)].last)


stale = case(
    NAME,
    "features kept from one encoder, then the same command with another one",
    "the features are those of the second encoder",
    "features that are kept",
    "data/test_features.py::TestCache::test_any_change_of_the_recipe_computes_again",
)


@stale.by(OURS)
def _stale(place: Path) -> Verdict:
    from tests.experiments.world import ColourEncoder
    from vlmadapt.data import FeatureCache, extract_features

    paths = sorted(class_folders(place / "pets").rglob("*.png"))
    first, second = ColourEncoder("1"), ColourEncoder("2")
    second.map = second.map.flip(0)
    cache = FeatureCache(place / "cache")
    extract_features(first, paths, cache=cache)
    kept = extract_features(second, paths, cache=cache)
    same = torch.equal(kept, extract_features(second, paths))
    return judged(same, f"features of the {'second' if same else 'first'} encoder")


@stale.by("Tip-Adapter")
def _stale_tip(place: Path) -> Verdict:
    modules = peers.tip_adapter()
    first, second = peers.problem(seed=0), peers.problem(seed=1)  # the same pictures, seen by two encoders
    peers.tip_fit(modules, peers.tip_settings(place / "caches"), first)
    again = peers.tip_settings(place / "caches", load_cache=True, load_pre_feat=True)  # its README: for later runs

    def check(keys: torch.Tensor) -> tuple[bool, str]:
        same = torch.allclose(keys.T, second.train[0], atol=1e-5)
        return same, f"with load_cache: keys of the {'second' if same else 'first'} encoder"

    return of_call(lambda: peers.tip_fit(modules, again, second), (), check)
