"""How anything is trained: a recipe is a plain function of a run, data and settings."""

from chestmap.training.method import Method
from chestmap.training.optimization.schedule import Schedule
from chestmap.training.run import Run
from chestmap.training.run_settings import RunSettings
from chestmap.training.task import Task
from chestmap.training.training_data import Data

__all__ = ["Data", "Method", "Run", "RunSettings", "Schedule", "Task"]
