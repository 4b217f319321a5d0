"""Captioning, visual question answering and visual entailment: losses, predictions and measures."""

from vlmadapt.tasks.answers import answer_accuracy, normalize_answer
from vlmadapt.tasks.base import Task, TaskOptions
from vlmadapt.tasks.caption import CaptionTask
from vlmadapt.tasks.captions import caption_scores, tokenize_caption
from vlmadapt.tasks.entailment import EntailmentTask
from vlmadapt.tasks.models import TaskModel
from vlmadapt.tasks.pictures import Pictures
from vlmadapt.tasks.vqa import VQATask

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
