"""What a user waits for: epochs, the hyper-parameter search, one prediction, the import, the build.

The eager rival of an adapter is the adapter itself within ``ops.use_reference()``: its operators in plain PyTorch.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import timing
from vlmadapt.adapters import create_adapter
from vlmadapt.ops import PreparedCache, cache_retrieval_grid, use_reference

CLASSES, SHOTS, WIDTH, EPOCHS = 100, 16, 512, 5
SETTINGS: dict[str, dict[str, Any]] = {"tip-adapter-f": {}, "xmadapter": {}, "hegraph": {"graph": "sparse"}}


def problem(classes: int = CLASSES) -> tuple[Tensor, Tensor, Tensor]:
    """Class text features, support features and labels."""
    generator = torch.Generator(device=timing.device()).manual_seed(0)
    text = normalize(torch.randn(classes, WIDTH, generator=generator), dim=-1)
    labels = torch.arange(classes).repeat_interleave(SHOTS)
    noise = torch.randn(len(labels), WIDTH, generator=generator)
    return text, normalize(text[labels] + 0.1 * noise, dim=-1), labels


def operators(rival: str) -> AbstractContextManager[None]:
    return use_reference() if rival == "eager" else nullcontext()


@pytest.mark.parametrize("rival", ["ours", "eager"])
@pytest.mark.parametrize("adapter", list(SETTINGS))
def test_epochs(benchmark: Any, adapter: str, rival: str) -> None:
    benchmark.group = f"end to end | {EPOCHS} epochs on cached features, C100 K16 D512 | {adapter}"
    text, features, labels = problem()

    def fit() -> None:
        model = create_adapter(
            adapter, text, 100.0, {"epochs": EPOCHS, **SETTINGS[adapter]}, negative_text_features=text.roll(1, 0)
        )
        model.fit(features, labels)

    with operators(rival):
        timing.run(benchmark, fit, rounds=5)


@pytest.mark.parametrize("rival", ["ours", "eager"])
def test_p_adapter_step(benchmark: Any, rival: str) -> None:
    """Forward and backward of a caption loss; both tower and decoder are small, the picture is not."""
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'vlmadapt[generative]'")
    from vlmadapt.generative.methods.p_adapter import attach_p_adapter
    from vlmadapt.generative.models.small import SmallBlipConfig, build_small

    benchmark.group = "end to end | a step of the p-adapter on a small BLIP, B8, 30 text tokens | 577 image tokens"
    torch.manual_seed(0)
    model = build_small("caption", 200, SmallBlipConfig(image_size=192))
    attached = attach_p_adapter(model, {"task": "caption"})
    pixels, tokens = torch.randn(8, 3, 192, 192), torch.randint(10, 200, (8, 30))

    def step() -> None:
        loss = model(pixels, tokens, labels=tokens).loss
        torch.autograd.grad(loss, list(attached.parameters()), allow_unused=True)

    with operators(rival):
        timing.run(benchmark, step, rounds=5)


@pytest.mark.parametrize("rival", ["ours", "released"])
def test_search(benchmark: Any, rival: str) -> None:
    """The alpha and beta of Tip-Adapter: all cells in one pass, or the products anew in each cell. Same best cell."""
    benchmark.group = "end to end | search of 20 betas x 10 alphas, C100 K16 D512 | 400 validation samples"
    text, features, labels = problem()
    generator = torch.Generator(device=timing.device()).manual_seed(1)
    targets = torch.arange(CLASSES).repeat_interleave(4)
    queries = normalize(text[targets] + 0.12 * torch.randn(len(targets), WIDTH, generator=generator), dim=-1)
    base = queries @ text.T
    betas, alphas = torch.linspace(1, 20, 20), torch.linspace(0.1, 5, 10)
    cache = PreparedCache(labels, CLASSES)
    onehot = torch.nn.functional.one_hot(labels, CLASSES).float()

    def ours() -> Tensor:
        return cache_retrieval_grid(queries, features, cache, betas, alphas, base, targets)

    def released() -> Tensor:
        table = torch.zeros(len(betas), len(alphas), dtype=torch.float64)
        for i, beta in enumerate(betas):
            for j, alpha in enumerate(alphas):
                affinity = (-(beta - beta * (queries @ features.T))).exp()
                hits = (base + alpha * (affinity @ onehot)).argmax(-1) == targets
                table[i, j] = hits.double().mean()
        return table

    torch.testing.assert_close(ours(), released(), rtol=0, atol=0.5 / len(targets))  # a tie in float32, no more
    assert ours().argmax() == released().argmax()
    timing.run(benchmark, ours if rival == "ours" else released, rounds=5)


@pytest.mark.parametrize("adapter", ["tip-adapter", "tip-adapter-f", "xmadapter"])
def test_single_prediction(benchmark: Any, adapter: str) -> None:
    """From a feature to class probabilities, C = 1000 and 16 shots, 500 calls."""
    benchmark.group = f"end to end | one prediction from a cached feature, C1000 K16 D512: {adapter}"
    text, features, labels = problem(1000)
    model = create_adapter(adapter, text, 100.0, {"epochs": 0} if adapter != "tip-adapter" else None)
    model.fit(features, labels)
    seconds = []
    for _ in range(500):
        start = time.perf_counter()
        model.predict_proba(features[:1])
        seconds.append(time.perf_counter() - start)
    percentiles = torch.tensor(seconds).quantile(torch.tensor([0.5, 0.99])).mul(1000).tolist()
    benchmark.extra_info |= {"p50_ms": round(percentiles[0], 2), "p99_ms": round(percentiles[1], 2)}
    timing.run(benchmark, lambda: model.predict_proba(features[:1]))


def seconds_of(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=timing.ROOT)
    return time.perf_counter() - start


def whole(rival: str) -> None:
    """What a script does after ``import vlmadapt``: fits and predicts once."""
    text, features, labels = problem()
    with operators(rival):
        model = create_adapter("tip-adapter-f", text, 100.0, {"epochs": EPOCHS})
        model.fit(features, labels)
        model.predict_proba(features[:1])


@pytest.mark.parametrize("rival", ["ours", "eager"])
def test_whole_process(benchmark: Any, rival: str) -> None:
    """From the start of Python to its end: what a user waits for, of which the operators are a part."""
    benchmark.group = f"end to end | a whole process: import, {EPOCHS} epochs, a prediction | tip-adapter-f C100 K16"
    code = f"import benchmarks.bench_end_to_end as script; script.whole({rival!r})"
    timing.run(benchmark, lambda: seconds_of([sys.executable, "-c", code]), rounds=5)


def test_import(benchmark: Any) -> None:
    benchmark.group = "end to end | import vlmadapt, in a process of its own"
    bare = min(seconds_of([sys.executable, "-c", "import torch"]) for _ in range(3))
    ours = min(seconds_of([sys.executable, "-c", "import vlmadapt"]) for _ in range(3))
    benchmark.extra_info |= {"seconds": round(ours, 2), "torch_alone": round(bare, 2)}
    benchmark.pedantic(lambda: None, rounds=1)


def test_build(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel from the sources, CPU kernels only, from nothing."""
    benchmark.group = "end to end | wheel from the sources, CPU kernels"
    monkeypatch.setenv("FORCE_CUDA", "0")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        files = subprocess.run(["git", "ls-files", "-z"], cwd=timing.ROOT, capture_output=True, text=True, check=True)
        for name in filter(None, files.stdout.split("\0")):
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((timing.ROOT / name).read_bytes())
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        seconds = seconds_of([*command, "--wheel-dir", folder, str(source)])
        [wheel] = Path(folder).glob("*.whl")
        benchmark.extra_info |= {"seconds": round(seconds), "wheel_MB": round(wheel.stat().st_size / 1e6, 1)}
    benchmark.pedantic(lambda: None, rounds=1)
