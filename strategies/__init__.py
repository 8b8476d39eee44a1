"""Merge strategies, one file a paper or idea. A file dropped here is found with no other edit."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
