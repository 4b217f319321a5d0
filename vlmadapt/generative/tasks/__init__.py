"""Captioning, visual question answering and visual entailment: losses, predictions and measures."""

from vlmadapt.generative.models.view import TaskModel
from vlmadapt.generative.tasks.answers import answer_accuracy, normalize_answer
from vlmadapt.generative.tasks.base import Task, TaskOptions
from vlmadapt.generative.tasks.caption import CaptionTask
from vlmadapt.generative.tasks.caption_metrics import caption_scores, tokenize_caption
from vlmadapt.generative.tasks.entailment import EntailmentTask
from vlmadapt.generative.tasks.pictures import Pictures
from vlmadapt.generative.tasks.vqa import VQATask

TASK_CLASSES: dict[str, type[Task]] = {"caption": CaptionTask, "vqa": VQATask, "entailment": EntailmentTask}

__all__ = [
    "TASK_CLASSES",
    "CaptionTask",
    "EntailmentTask",
    "Pictures",
    "Task",
    "TaskModel",
    "TaskOptions",
    "VQATask",
    "answer_accuracy",
    "caption_scores",
    "normalize_answer",
    "tokenize_caption",
]
