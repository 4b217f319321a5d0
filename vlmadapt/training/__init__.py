"""One training loop for every adapter, and hyper-parameter search on validation samples."""

from vlmadapt.training.budget import GridLogits, cell_likelihoods, grid_accuracy, score_in_tiles, tiles
from vlmadapt.training.calibration import best_temperature, certainties, threshold
from vlmadapt.training.config import TrainConfig, check_range
from vlmadapt.training.groups import ParameterGroup
from vlmadapt.training.guard import TrainingDiverged
from vlmadapt.training.identity import fingerprint_tensors
from vlmadapt.training.loop import fit_loop, learning_rate_factor
from vlmadapt.training.result import EpochRecord, TrainResult
from vlmadapt.training.samples import Samples
from vlmadapt.training.selection import (
    accuracy,
    choose,
    choose_in_grid,
    log_grid,
    log_likelihood,
    log_probabilities,
    score_logits,
    smoothed_hits,
)

__all__ = [
    "EpochRecord",
    "GridLogits",
    "ParameterGroup",
    "Samples",
    "TrainConfig",
    "TrainResult",
    "TrainingDiverged",
    "accuracy",
    "best_temperature",
    "cell_likelihoods",
    "certainties",
    "check_range",
    "choose",
    "choose_in_grid",
    "fingerprint_tensors",
    "fit_loop",
    "grid_accuracy",
    "learning_rate_factor",
    "log_grid",
    "log_likelihood",
    "log_probabilities",
    "score_in_tiles",
    "score_logits",
    "smoothed_hits",
    "threshold",
    "tiles",
]
