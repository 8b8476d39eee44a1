"""Families of models, a file for those of a kind. A file dropped here is found with no other edit."""

from ..plugins import import_all
from . import __name__ as package
from . import __path__ as folders

import_all(package, folders)
