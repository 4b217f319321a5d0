"""The one training loop: AdamW, warm-up and cosine, best epoch on validation, exact resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmadapt.errors import InputError
from vlmadapt.modes import usual
from vlmadapt.progress import track
from vlmadapt.training.checkpoint import Checkpoint, load_optimizer_tensors, optimizer_tensors
from vlmadapt.training.config import TrainConfig
from vlmadapt.training.groups import ParameterGroup, optimizer_groups
from vlmadapt.training.guard import TrainingDiverged, bad_gradient, bad_loss, bad_parameter
from vlmadapt.training.result import EpochRecord, TrainResult

Score = float | tuple[float, ...]

FUSED_ON = ("cpu", "cuda")  # types of devices on which torch has the fused AdamW
CLIP_MARGIN = 1e-6  # what torch adds to a norm before it divides by it
CHECKPOINT_SECONDS = 20.0  # epochs of few-shot adapters may be shorter than the writing of their state


def learning_rate_factor(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Share of the peak learning rate at ``step`` (from 0): linear warm-up, then half a cosine down to 0."""
    warmup = round(warmup_fraction * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(total_steps - warmup, 1)))


@usual(grad=True)
def fit_loop(
    module: nn.Module,
    loss_fn: Callable[[Tensor], Tensor],
    n_samples: int,
    config: TrainConfig,
    *,
    evaluate: Callable[[], Score] | None = None,
    groups: Sequence[ParameterGroup] = (),
    seed: int = 0,
    identity: Mapping[str, Any] | None = None,
    checkpoint_dir: str | Path | None = None,
    label: str = "fit",
    progress: bool = False,
) -> TrainResult:
    """Train the parameters of ``module`` that require gradients; leaves the best state in it.

    loss_fn: sample indices (int64 ``[batch]``, on the module's device) -> scalar loss.
    evaluate: validation score of the module as it is, larger is better; tuples compare entry by entry. The initial
        state (epoch 0) takes part, and ties go to the earlier epoch. Without it the last epoch is kept.
    identity: JSON-able facts about data and method; a checkpoint of a run that differs in any of them, in ``config``,
        ``groups``, ``seed`` or parameter shapes is refused.
    checkpoint_dir: ``<label>.safetensors`` there is replaced atomically after an epoch, at most every
        ``CHECKPOINT_SECONDS``, and when the run ends or is interrupted; a run that finds one continues from it and ends
        bit for bit where the uninterrupted run would have ended.

    Shuffling draws from a generator of its own, and whatever else draws random numbers inside the loop (dropout)
    is seeded from it: same seed, same result, and the global random state is left as it was.

    Raises :class:`TrainingDiverged` naming the loss, parameter or gradient that became NaN or infinite,
    :class:`InputError` for a foreign checkpoint, :class:`FileError` when a checkpoint cannot be written or read.
    """
    if n_samples < 1:
        raise InputError(f"n_samples is {n_samples}: training needs at least one sample.")
    run = _Run(module, loss_fn, n_samples, config, evaluate, groups, seed)
    run.identity = {
        "config": config.train_fields(),
        "groups": {str(number): asdict(group) for number, group in enumerate(groups)},
        "seed": seed,
        "n_samples": n_samples,
        "validation": evaluate is not None,
        "parameters": {name: list(tensor.shape) for name, tensor in run.trainable.items()},
        "data": dict(identity or {}),
    }
    path = None if checkpoint_dir is None else Path(checkpoint_dir) / f"{label}.safetensors"
    with _private_randomness(run.device):
        if path is not None and path.exists():
            run.restore(Checkpoint.load(path, run.identity))
        else:
            run.score_epoch(0, None)
        first = run.result.history[-1].epoch + 1
        epochs = range(first, config.epochs + 1)
        with _Writer(path) as writer:
            for epoch in track(epochs, label, total=len(epochs), enabled=progress):
                run.train_epoch(epoch)
                writer.offer(partial(run.checkpoint, epoch))
    run.load(run.best)
    return run.result


class _Writer:
    """Writes the newest checkpoint now and then, and in any case on the way out, also through an exception."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.pending: Checkpoint | None = None
        self.written = time.monotonic()

    def offer(self, checkpoint: Callable[[], Checkpoint]) -> None:
        if self.path is None:
            return
        self.pending = checkpoint()
        if time.monotonic() - self.written >= CHECKPOINT_SECONDS:
            self.flush()

    def flush(self) -> None:
        checkpoint, self.pending = self.pending, None  # one that cannot be written is not tried again on the way out
        if self.path is not None and checkpoint is not None:
            checkpoint.save(self.path)
            self.written = time.monotonic()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *reason: object) -> None:
        self.flush()


class _Run:
    """The moving parts of one call of :func:`fit_loop`."""

    identity: dict[str, Any]

    def __init__(
        self,
        module: nn.Module,
        loss_fn: Callable[[Tensor], Tensor],
        n_samples: int,
        config: TrainConfig,
        evaluate: Callable[[], Score] | None,
        groups: Sequence[ParameterGroup],
        seed: int,
    ):
        self.module, self.loss_fn, self.n_samples, self.config = module, loss_fn, n_samples, config
        self.evaluate = evaluate
        made = optimizer_groups(module, config, groups)
        self.trainable = {name: tensor for name, tensor in module.named_parameters() if tensor.requires_grad}
        self.device = next(iter(self.trainable.values())).device
        # One pass over each parameter and its moments, where the plain form takes ten.
        fused = self.device.type in FUSED_ON
        self.optimizer = torch.optim.AdamW(made, eps=config.adam_eps, fused=fused)
        self.generator = torch.Generator().manual_seed(seed)
        self.steps_per_epoch = math.ceil(n_samples / config.batch_size)
        self.result = TrainResult()
        self.best = self.snapshot()

    def snapshot(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.trainable.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self.trainable.items():
                tensor.copy_(state[name])

    def train_epoch(self, epoch: int) -> None:
        order = torch.randperm(self.n_samples, generator=self.generator)
        _seed_everything(int(torch.randint(2**31, (), generator=self.generator)), self.device)
        self.module.train()
        total = 0.0
        for number in range(self.steps_per_epoch):
            indices = order[number * self.config.batch_size : (number + 1) * self.config.batch_size]
            loss = self.train_step((epoch - 1) * self.steps_per_epoch + number, indices.to(self.device), epoch)
            total += loss * len(indices)
        self.module.eval()
        self.stop_if(bad_parameter(self.module), epoch, self.steps_per_epoch)
        self.score_epoch(epoch, total / self.n_samples)

    def train_step(self, step: int, indices: Tensor, epoch: int) -> float:
        factor = learning_rate_factor(step, self.config.epochs * self.steps_per_epoch, self.config.warmup_fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.amp):
            loss = self.loss_fn(indices)
        number = step % self.steps_per_epoch + 1
        self.stop_if(bad_loss(self.module, loss), epoch, number)
        loss.backward()
        gradients = [tensor.grad for tensor in self.trainable.values() if tensor.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.stop_if(bad_gradient(self.module, norm), epoch, number)
        # A gradient within the limit would be multiplied by 1, which is a pass over all of it.
        if self.config.grad_clip is not None and float(norm) + CLIP_MARGIN > self.config.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(self.trainable.values(), self.config.grad_clip, norm)
        self.optimizer.step()
        return float(loss.detach())

    def score_epoch(self, epoch: int, loss: float | None) -> None:
        """Record the epoch; keep its state when it is the best so far."""
        score = None
        if self.evaluate is not None:
            self.module.eval()
            with torch.no_grad():
                value = self.evaluate()
            score = value if isinstance(value, tuple) else (float(value),)
            if any(math.isnan(entry) for entry in score):
                self.stop_if("validation score", epoch, self.steps_per_epoch)
        self.result.history.append(EpochRecord(epoch, loss, score))
        if score is None or epoch == 0 or score > self.best_score():
            self.result.best_epoch, self.best = epoch, self.snapshot()

    def best_score(self) -> tuple[float, ...]:
        score = self.result.history[self.result.best_epoch].score
        return () if score is None else score

    def stop_if(self, bad: str | None, epoch: int, step: int) -> None:
        if bad is not None:
            self.load(self.best)
            self.module.eval()
            raise TrainingDiverged(bad, epoch, step, self.result)

    def checkpoint(self, epoch: int) -> Checkpoint:
        return Checkpoint(
            epoch=epoch,
            identity=self.identity,
            progress={
                "best_epoch": self.result.best_epoch,
                "history": [asdict(record) for record in self.result.history],
            },
            current=self.snapshot(),
            best=self.best,
            optimizer={name: tensor.clone() for name, tensor in optimizer_tensors(self.optimizer).items()},
            generator=self.generator.get_state(),
        )

    def restore(self, saved: Checkpoint) -> None:
        self.load(saved.current)
        self.best = {name: saved.best[name].to(self.device) for name in self.trainable}
        load_optimizer_tensors(self.optimizer, saved.optimizer)
        self.generator.set_state(saved.generator)
        records = [
            EpochRecord(entry["epoch"], entry["loss"], None if entry["score"] is None else tuple(entry["score"]))
            for entry in saved.progress["history"]
        ]
        self.result = TrainResult(saved.progress["best_epoch"], records, resumed_from=saved.epoch)


@contextmanager
def _private_randomness(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _seed_everything(seed: int, device: torch.device) -> None:
    # torch.manual_seed would also reseed devices whose state _private_randomness did not put aside.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
