"""Training, in plain PyTorch: what lesson 06 builds, and a loop that can be stopped, ends on time and compiles.

| room | what is in it |
|---|---|
| recipes | everything that decides how a run goes |
| steps | what lesson 06 builds; device and bf16; fewer tokens; the compiled step |
| optim | AdamW, Muon, the average of the weights |
| tasks | what is learned: the loss, the score, and what happens to a batch before a step |
| checkpoint | what a run is, saved and resumed |
| loop | `fit` |
| parallel | several GPUs, through torchrun |
| logs | our own runs, to compare yours with |
"""

from vit_edu.models.saved import CheckpointError, load_run, read_checkpoint
from vit_edu.training.checkpoint import Run
from vit_edu.training.logs import LOGS, logged_entries, logged_pieces, logged_runs, read_log
from vit_edu.training.loop import Bar, Budget, Diverged, Losses, build_model, fit
from vit_edu.training.optim import Average, CombinedOptimizer, Muon, make_optimizer, orthogonalize
from vit_edu.training.recipes import RECIPES, Recipe, pick_recipe, run_folder
from vit_edu.training.steps import (
    CompiledStep,
    PlainStep,
    TokenDropout,
    accuracy,
    autocast,
    cross_entropy,
    drop_tokens,
    evaluate,
    has_bf16,
    learning_rate,
    pick_device,
    predict,
    predict_test,
    range_test,
    same_classes,
    train_step,
)
from vit_edu.training.tasks import (
    TASKS,
    Classification,
    Colour,
    Contrast,
    Detection,
    Masked,
    Rotation,
    Segmentation,
    Task,
    make_task,
    score_test,
)

__all__ = [
    "LOGS",
    "RECIPES",
    "TASKS",
    "Average",
    "Bar",
    "Budget",
    "CheckpointError",
    "Classification",
    "Colour",
    "CombinedOptimizer",
    "CompiledStep",
    "Contrast",
    "Detection",
    "Diverged",
    "Losses",
    "Masked",
    "Muon",
    "PlainStep",
    "Recipe",
    "Rotation",
    "Run",
    "Segmentation",
    "Task",
    "TokenDropout",
    "accuracy",
    "autocast",
    "build_model",
    "cross_entropy",
    "drop_tokens",
    "evaluate",
    "fit",
    "has_bf16",
    "learning_rate",
    "load_run",
    "logged_entries",
    "logged_pieces",
    "logged_runs",
    "make_optimizer",
    "make_task",
    "orthogonalize",
    "pick_device",
    "pick_recipe",
    "predict",
    "predict_test",
    "range_test",
    "read_checkpoint",
    "read_log",
    "run_folder",
    "same_classes",
    "score_test",
    "train_step",
]
