"""Merge strategies, one file per paper or idea. A file dropped here is found with no other edit."""

from mergekit_diff.plugins import import_all

import_all(__name__, __path__)
