"""What a kind of model makes and how it is judged: one file for each kind."""

from .call import Call
from .picture import PICTURE
from .task import Task
from .video import VIDEO

__all__ = ["PICTURE", "VIDEO", "Call", "Task"]
