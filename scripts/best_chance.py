"""Which reading of XMAdapter and HeGraphAdapter does best: docs/results.md, "Given their best chance".

    python scripts/best_chance.py [--data clipart,mnist5k,textile3,tuxphotos] [--pictures FOLDER] [--real FOLDER]
        [--shots 1,4,16] [--seeds 3] [--out runs/best-chance]

Every reading on the pictures of few-val, beside Tip-Adapter-F on the same text and views. ``--pictures``: a folder of
class folders with train and test, ``--real``: that of ``make results``. One line of JSON a fit; a line that is there is
not run again, and ``--table`` prints the means of all lines and their differences to Tip-Adapter-F.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmadapt.adapters import ADAPTERS, Adapter, create_adapter
from vlmadapt.backbones import class_text_features, load_encoder
from vlmadapt.data import Extraction, FeatureCache, load_dataset, sample_shots
from vlmadapt.data.features import view_seed
from vlmadapt.experiments.features import ClassTexts, FeatureTable, FewShotFeatures
from vlmadapt.experiments.given import GivenFeatures
from vlmadapt.experiments.sources import LOGIT_SCALE
from vlmadapt.experiments.studies import REAL
from vlmadapt.pictures.read import read
from vlmadapt.training import Samples

VIEWS = 8  # of each training picture: an epoch draws one of them anew
WITHOUT = "a photo without {}."  # the other rule of negative prompts: SimNL, arXiv 2403.12964


@dataclass(frozen=True)
class Cell:
    """What one fit sees. ``texts`` and ``negatives`` are class texts ``[C, D]`` by name, ``views [n, V, D]``."""

    data: FewShotFeatures
    test: Samples
    scale: float
    texts: dict[str, Tensor]
    negatives: dict[str, Tensor]
    views: Tensor | None


# Unnormalised features: as if every node were ten long, as CLIP's are about. Messages are bounded, and so weigh a tenth
# of what they do beside nodes of length one; a weight that reads ten times as much learns ten times as fast.
LONG = {
    "positive_to_negative": 0.05,
    "visual_to_negative": 0.05,
    "positive_to_positive": 0.006,
    "visual_to_positive": 0.024,
    "negative_to_positive": 0.02,
    "negative_to_positive_test": 0.01,
    "visual_bias": 0.05,
    "lr": 1e-2,
    "visual_lr": 1e-3,
}
# Name of the reading -> method, its settings, the text, the negative text, and whether every step has fresh views.
READINGS: dict[str, tuple[str, dict[str, Any], str, str, bool]] = {
    "tip-adapter-f": ("tip-adapter-f", {}, "prompts", "", False),
    "tip-adapter-f, fresh views": ("tip-adapter-f", {}, "prompts", "", True),
    "tip-adapter-f, CoOp text": ("tip-adapter-f", {}, "coop", "", False),
    "tip-adapter-f, negative text and cache": ("tip-adapter-f", {}, "prompts", "no", False),
    "xmadapter": ("xmadapter", {}, "prompts", "", False),
    "xmadapter, 16 wide": ("xmadapter", {"hidden_width": 16}, "prompts", "", False),
    "xmadapter, 64 wide": ("xmadapter", {"hidden_width": 64}, "prompts", "", False),
    "xmadapter, 128 wide": ("xmadapter", {"hidden_width": 128}, "prompts", "", False),
    "xmadapter, fresh views": ("xmadapter", {}, "prompts", "", True),
    "xmadapter, no leave-one-out": ("xmadapter", {"leave_one_out": False}, "prompts", "", False),
    "xmadapter, CoOp text": ("xmadapter", {}, "coop", "", False),
    "xmadapter, CoOp text, 64 wide": ("xmadapter", {"hidden_width": 64}, "coop", "", False),
    "xmadapter, CoOp text, 64 wide, fresh views": ("xmadapter", {"hidden_width": 64}, "coop", "", True),
    "hegraph": ("hegraph", {}, "prompts", "no", False),
    "hegraph, without-prompts": ("hegraph", {}, "prompts", "without", False),
    "hegraph, other classes for negatives": ("hegraph", {}, "prompts", "others", False),
    "hegraph, no graph": ("hegraph", {"graph": "none"}, "prompts", "no", False),
    "hegraph, fresh views": ("hegraph", {}, "prompts", "no", True),
    "hegraph, no leave-one-out": ("hegraph", {"leave_one_out": False}, "prompts", "no", False),
    "hegraph, fresh views, no leave-one-out": ("hegraph", {"leave_one_out": False}, "prompts", "no", True),
    "hegraph, nodes ten long": ("hegraph", LONG, "prompts", "no", False),
    "hegraph, CoOp text": ("hegraph", {}, "coop", "no", False),
}


def with_fresh_views(kind: type[Any], views: Tensor) -> type[Adapter]:
    """``kind``, which learns from one of the ``views [n, V, D]`` of each sample, drawn anew in every step."""

    class Fresh(kind):
        def _fit(self, support: Samples, validation: Samples | None, options: Any) -> None:
            self.__dict__["draws"] = torch.Generator().manual_seed(options.seed)
            super()._fit(support, validation, options)

        def _loss(self, support: Samples, indices: Tensor) -> Tensor:
            drawn = torch.randint(views.shape[1], (len(indices),), generator=self.__dict__["draws"])
            features = support.features.clone()
            features[indices] = views[support.position[indices], drawn].to(features)
            return super()._loss(replace(support, features=features), indices)

    return Fresh


def run(reading: str, cell: Cell, seed: int) -> float:
    """Test accuracy."""
    method, settings, text, negative, fresh = READINGS[reading]
    kind = ADAPTERS[method]
    if fresh:
        assert cell.views is not None
        kind = with_fresh_views(kind, cell.views)
    takes = negative and kind.needs_negatives
    more: dict[str, Any] = {"negative_text_features": cell.negatives[negative]} if takes else {}
    adapter = kind(cell.texts[text], cell.scale, settings, **more)
    train, val = cell.data.train, cell.data.val
    assert val is not None
    adapter.fit(train.features, train.labels, val.features, val.labels, seed=seed)
    logits = adapter.logits(cell.test.features)
    if negative and not takes:
        logits = logits + negatively(adapter, cell, cell.negatives[negative])
    return float((logits.argmax(-1) == cell.test.labels).double().mean())


def negatively(adapter: Adapter, cell: Cell, negative: Tensor) -> Tensor:
    """``0.25 (0.15 tau (1 - f W-^T) + alpha exp(-beta f F-^T))``, F- the mean of the other classes' keys: SimNL's."""
    features = torch.nn.functional.normalize(cell.test.features, dim=-1)
    train, classes = cell.data.train, len(negative)
    sums = torch.zeros(classes, features.shape[1]).index_add(0, train.labels, train.features.float())
    apart = torch.nn.functional.normalize(sums.sum(0) - sums, dim=-1)
    values = adapter.hyperparameters()
    text = 0.15 * cell.scale * (1 - features @ torch.nn.functional.normalize(negative, dim=-1).T)
    return 0.25 * (text + values["alpha"] * torch.exp(-values["beta"] * features @ apart.T))


def can_run(reading: str, cell: Cell) -> bool:
    _, _, text, negative, fresh = READINGS[reading]
    has_text, has_views = text in cell.texts or text == "coop", cell.views is not None
    return has_text and (not negative or negative in cell.negatives) and (has_views or not fresh)


class Pictures:
    """Cells of a data set of pictures, seen by the embedded encoder."""

    def __init__(self, spec: str) -> None:
        self.encoder, self.dataset = load_encoder("embedded", engine="torch"), load_dataset(spec)
        self.extraction = Extraction(cache=FeatureCache(), progress=False)
        self.texts = ClassTexts(self.encoder, self.dataset)
        self.test = FeatureTable(self.encoder, self.dataset.test, self.extraction).of(self.dataset.test)
        self.views: dict[Path, Tensor] = {}

    def cell(self, shots: int, seed: int) -> Cell:
        split = sample_shots(self.dataset, shots, seed, "all")
        data = FewShotFeatures.of(
            split,
            FeatureTable(self.encoder, split.train, self.extraction),
            FeatureTable(self.encoder, split.val, self.extraction),
        )
        names, templates = self.dataset.class_names, self.dataset.templates
        text = self.texts.features
        assert isinstance(text, Tensor) and self.texts.negative_features is not None
        negatives = {
            "no": self.texts.negative_features,
            "without": class_text_features(self.encoder, names, [WITHOUT] * bool(templates)),
            "others": others(text),
        }
        views = torch.stack([self._views_of(sample.path, sample.digest()) for sample in split.train])
        return Cell(data, self.test, self.encoder.logit_scale, {"prompts": text}, negatives, views)

    @torch.no_grad()
    def _views_of(self, path: Path, digest: str) -> Tensor:
        if path not in self.views:
            image = read(path)
            draws = (torch.Generator().manual_seed(view_seed(digest, 0, view)) for view in range(VIEWS))
            pixels = torch.stack([self.encoder.augment(image, draw) for draw in draws])
            self.views[path] = torch.nn.functional.normalize(self.encoder.encode_images(pixels).float(), dim=-1)
        return self.views[path]

    def coop(self, cell: Cell, seed: int) -> Tensor:
        """Text features of prompts that CoOp has learned from the same pictures."""
        train, val = cell.data.train, cell.data.val
        adapter = create_adapter(
            "coop", cell.texts["prompts"], cell.scale, class_names=self.dataset.class_names, encoder=self.encoder
        )
        assert val is not None
        adapter.fit(train.features, train.labels, val.features, val.labels, seed=seed)
        return adapter.get_buffer("classifier")


class Given:
    """Cells of given features: nothing that needs the encoder."""

    def __init__(self, path: Path, name: str, encoder: str) -> None:
        self.given = GivenFeatures.read(path, name, encoder)

    def cell(self, shots: int, seed: int) -> Cell:
        text = self.given.text
        assert isinstance(text, Tensor)
        negatives = {"no": others(text), "others": others(text)}
        return Cell(self.given.draw(shots, seed), self.given.test(), LOGIT_SCALE, {"prompts": text}, negatives, None)


def others(text: Tensor) -> Tensor:
    """For each class the mean text of the other classes; ours."""
    unit = torch.nn.functional.normalize(text, dim=-1)
    return (unit.sum(0) - unit) / (len(unit) - 1)


def sources(options: argparse.Namespace) -> Iterator[tuple[str, Pictures | Given]]:
    for name in filter(None, options.data.split(",")):
        yield name, Pictures(name)
    if options.pictures is not None:
        yield options.pictures.name, Pictures(str(options.pictures))
    for name, file, encoder in REAL if options.real is not None else ():
        yield name, Given(options.real / file, name, encoder)


def table(path: Path) -> None:
    found: dict[str, dict[tuple[str, int, int], float]] = defaultdict(dict)
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found[row["reading"]][row["data"], row["shots"], row["seed"]] = 100 * row["accuracy"]
    base = found["tip-adapter-f"]
    names = list(dict.fromkeys(key[0] for key in base))
    print("| reading |", " | ".join(names), "| mean |")
    for reading in READINGS:
        cells = found.get(reading, {})
        row = []
        for name in names:
            gains = [cells[key] - base[key] for key in cells if key[0] == name and key in base]
            row.append(statistics.fmean(gains) if gains else None)
        known = [value for value in row if value is not None]
        row.append(statistics.fmean(known) if known else None)
        shown = ["" if value is None else f"{value:+.1f}" for value in row]
        print(f"| {reading} |", " | ".join(shown), "|")


def main() -> None:
    options = parse_options()
    path = options.out / "fits.jsonl"
    if options.table:
        table(path)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done = {tuple(json.loads(line)[key] for key in ("data", "shots", "seed", "reading")) for line in lines}
    for name, source in sources(options):
        for seed in range(options.seeds):
            for shots in options.shots:
                missing = [each for each in READINGS if (name, shots, seed, each) not in done]
                cell = source.cell(shots, seed) if missing else None
                for reading in missing:
                    if cell is None or not can_run(reading, cell):
                        continue
                    if READINGS[reading][2] == "coop" and "coop" not in cell.texts:
                        if not isinstance(source, Pictures):
                            continue
                        cell.texts["coop"] = source.coop(cell, seed)
                    row = {"data": name, "shots": shots, "seed": seed, "reading": reading}
                    with path.open("a", encoding="utf-8") as out:
                        out.write(json.dumps({**row, "accuracy": run(reading, cell, seed)}) + "\n")
                print(name, shots, seed, flush=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="clipart,mnist5k,textile3,tuxphotos", help="built-in sets, by commas")
    parser.add_argument("--pictures", type=Path, help="a folder of pictures of one's own")
    parser.add_argument("--real", type=Path, help="folder of real CLIP features, as of make results")
    parser.add_argument("--shots", type=lambda text: [int(each) for each in text.split(",")], default=[1, 4, 16])
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0")
    parser.add_argument("--out", type=Path, default=Path("runs/best-chance"), help="folder of the lines")
    parser.add_argument("--table", action="store_true", help="print what the lines say")
    return parser.parse_args()


if __name__ == "__main__":
    main()
