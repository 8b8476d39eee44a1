"""Keeps torch usable on a busy machine. Imports no torch, since libgomp reads its settings when torch is imported."""

import os

SPINS = "1000"
"""How often a thread checks a barrier before it sleeps: on a quiet machine as fast as libgomp's default, which spins on."""


def limit_spinning() -> None:
    """Let waiting OpenMP threads sleep soon; call it before torch is imported.

    By default they spin at every barrier. With one other process at full load on two cores that made a quickstart of two
    minutes take more than 25. The user's own GOMP_SPINCOUNT or OMP_WAIT_POLICY wins. Other OpenMP runtimes read other variables.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = SPINS
