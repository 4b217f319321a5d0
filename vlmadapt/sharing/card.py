"""A model card: what a classifier is, what it was measured at and how, in the form that the Hugging Face hub reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from vlmadapt.classifier import Run
from vlmadapt.experiments.results import ProtocolResults
from vlmadapt.provenance.versions import public_name

WHERE = "vlmadapt"
MOST_NAMES = 200  # of classes, listed


def card(run: Run, evaluations: Sequence[ProtocolResults], licence: str | None, repo_id: str | None = None) -> str:
    """README.md of the classifier of ``run``, with the results of ``evaluations`` of it."""
    header = "\n".join(_yaml(_metadata(run, evaluations, licence)))
    return f"---\n{header}\n---\n\n" + "\n".join(_body(run, evaluations, licence, repo_id)) + "\n"


def _metadata(run: Run, evaluations: Sequence[ProtocolResults], licence: str | None) -> dict[str, Any]:
    results = [_result(each) for each in evaluations]
    found: dict[str, Any] = {
        "library_name": WHERE,
        "pipeline_tag": "image-classification",
        "tags": [WHERE, "few-shot", run.adapter],
    }
    if licence is not None:
        found["license"] = licence
    if "hf-hub:" in run.encoder.name:
        found["base_model"] = run.encoder.name.partition("hf-hub:")[2].partition("@")[0]
    if results:
        found["model-index"] = [{"name": f"{run.data.name} {run.adapter}", "results": results}]
    return found


def _result(evaluation: ProtocolResults) -> dict[str, Any]:
    cell, name = evaluation.cells[0], str(evaluation.dataset["name"])
    low, high = evaluation.interval(cell)
    said = f"accuracy, Wilson 95 % [{low:.4f}, {high:.4f}] of {evaluation.pictures()} pictures"
    return {
        "task": {"type": "image-classification"},
        "dataset": {"type": _slug(name), "name": name, "split": "test"},
        "metrics": [{"type": "accuracy", "value": round(cell.accuracy, 6), "name": said}],
    }


def _slug(name: str) -> str:
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_.") else "-" for letter in name)
    return kept.strip("-.") or "pictures"


def _yaml(value: dict[str, Any]) -> Iterator[str]:
    """Every value as JSON, which YAML reads; names of classes and data sets cannot be taken for anything else."""
    for name, each in value.items():
        yield f"{name}: {json.dumps(each, ensure_ascii=True)}"


def _body(run: Run, evaluations: Sequence[ProtocolResults], licence: str | None, repo_id: str | None) -> Iterator[str]:
    yield f"# {_text(run.data.name)}: {run.adapter}\n"
    shots = f"{run.shots} picture{'s' * (run.shots != 1)} a class"
    yield (
        f"A classifier of pictures in {len(run.class_names)} classes, fitted on {shots} by `{run.adapter}` of "
        f"`vlmadapt` on features of `{public_name(run.encoder.name)}`. Its files are safetensors and JSON; no pictures "
        "are among them.\n"
    )
    yield "## Use\n"
    yield "```python\nimport vlmadapt\n"
    yield f"classifier = vlmadapt.from_pretrained({json.dumps(repo_id or 'FOLDER')}{', download=True' * bool(repo_id)})"
    yield 'print(classifier.predict(["photo.jpg"])[0].classes)\n```\n'
    yield "## Results\n"
    yield from _results(run, evaluations)
    yield "## How it was made\n"
    yield from _facts(run)
    yield "## Classes\n"
    names = [_text(name) for name in run.class_names[:MOST_NAMES]]
    more = f", and {len(run.class_names) - MOST_NAMES} more" if len(run.class_names) > MOST_NAMES else ""
    yield f"{', '.join(names)}{more}\n"
    yield "## Limits\n"
    yield (
        "It knows these classes alone and names one of them for every picture, unless it is asked to abstain. Its "
        f"probabilities are calibrated on few pictures. It needs the backbone `{public_name(run.encoder.name)}` with "
        f"the fingerprint below and refuses another.\n"
    )
    yield "## Licence\n"
    yield (
        f"{_text(licence)}\n"
        if licence
        else "None is given. The pictures and the backbone have licences of their own.\n"
    )


def _results(run: Run, evaluations: Sequence[ProtocolResults]) -> Iterator[str]:
    if not evaluations:
        yield "Not measured on test pictures: `vlmadapt eval` before `save_pretrained` puts its results here.\n"
    else:
        yield "| data | pictures | accuracy | 95 % (Wilson) | protocol | seed | hash of the split |"
        yield "|:--|--:|--:|:--|:--|--:|:--|"
        for each in evaluations:
            cell, protocol = each.cells[0], each.protocol["protocol"]
            low, high = each.interval(cell)
            split = str(each.dataset["split_hash"])[:16]
            yield (
                f"| {_text(str(each.dataset['name']))} | {each.pictures()} | {100 * cell.accuracy:.1f} % | "
                f"[{100 * low:.1f}, {100 * high:.1f}] | {_text(str(protocol))} | {cell.seed} | `{split}` |"
            )
        yield ""
    if run.val_accuracy is not None:
        yield f"On validation pictures, which chose its settings: {100 * run.val_accuracy:.1f} %.\n"


def _facts(run: Run) -> Iterator[str]:
    yield f"{_text(run.selection)}\n"
    chosen = ", ".join(f"{name} {value:.4g}" for name, value in run.selected.items()) or "none"
    facts = {
        "protocol": run.protocol,
        "seed": run.seed,
        "split of the data": f"`{run.data.split_hash}`",
        "pictures drawn": f"`{run.few_shot_split_hash}`",
        "backbone": f"`{public_name(run.encoder.name)}`, `{run.encoder.fingerprint}`",
        "precision": run.precision,
        "hyper-parameters chosen": chosen,
        "trained parameters": f"{run.trainable_parameters:,}",
        "seconds of the fit": f"{run.fit_seconds:.1f}",
        "versions": ", ".join(f"{name} {value}" for name, value in run.versions.items()),
    }
    yield "| | |\n|:--|:--|"
    for name, value in facts.items():
        yield f"| {name} | {value} |"
    yield ""


def _text(value: str) -> str:
    """Of others, in Markdown: nothing of it is markup."""
    return "".join(f"&#{ord(letter)};" if letter in "<>&|`*_[]\\#!\n\r" else letter for letter in value)
