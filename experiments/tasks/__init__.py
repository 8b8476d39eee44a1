"""What a kind of model makes and how it is judged: one file for each kind."""

from .call import Call
from .features import FEATURES
from .field import FIELD
from .picture import PICTURE
from .task import Task
from .text import TEXT
from .video import VIDEO

__all__ = ["FEATURES", "FIELD", "PICTURE", "TASKS", "TEXT", "VIDEO", "Call", "Task", "task_of_file"]

TASKS = (PICTURE, VIDEO, FIELD, TEXT, FEATURES)


def task_of_file(name: str) -> Task:
    """The task whose output a file is.

    >>> task_of_file("images/1.png").name, task_of_file("images/1.field.png").name
    ('picture', 'field')
    """
    return max((task for task in TASKS if name.endswith(task.suffix)), key=lambda task: len(task.suffix), default=PICTURE)
