"""Train the small BLIP of ``docs/tuning.md`` from scratch on part of easy-VQA, for later runs to adapt.

    python scripts/train_small_blip.py                    # into the cache folder, where `vlmadapt tune` looks for it
    python scripts/train_small_blip.py --folder my-blip   # elsewhere, for --model blip:my-blip/vqa

About twelve minutes on two CPU cores. Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from vlmadapt.data.cache import user_cache_dir
from vlmadapt.files import read_json
from vlmadapt.generative.lessons import ScratchConfig
from vlmadapt.generative.scratch import MARKER, train_small


def main() -> None:
    defaults = ScratchConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="default: the cache folder")
    parser.add_argument("--epochs", type=int, default=defaults.epochs)
    parser.add_argument("--lr", type=float, default=defaults.lr)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    arguments = parser.parse_args()
    config = replace(defaults, epochs=arguments.epochs, lr=arguments.lr, seed=arguments.seed)
    folder = train_small(arguments.folder or user_cache_dir() / f"small-blip-{config.key}", config, progress=True)
    facts = read_json(folder / MARKER)
    print(
        f"{folder}: epoch {facts['best_epoch']}, held-back score {facts['held_back_score']:.3f}, {facts['seconds']} s"
    )


if __name__ == "__main__":
    main()
