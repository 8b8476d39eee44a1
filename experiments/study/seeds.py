"""The seeds of a study's noise: another one for every prompt, the same for the base and all cells of a prompt.

Verdicts count prompts as independent observations. If all prompts started from the same latents, or a strategy with random
destinations drew the same numbers for each of them, one lucky draw would favour a cell at every prompt, and no number of prompts
would average it away. So noise depends on the prompt too. Within a prompt it is shared, and comparisons stay paired.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def noise_seed(prompt: str, seed: int) -> int:
    """Seed of an image's initial noise, in [0, 2**63); the same on every machine.

    Args:
        prompt: of the image.
        seed: number of the image among those of its prompt.

    >>> noise_seed("a noto apple", 0) == noise_seed("a flat cat", 0)
    False
    """
    return _mixed("noise", prompt, seed)


def merging_seed(study: int, prompt: str, seed: int) -> int:
    """Seed of all noise of merging in one image, in [0, 2**63).

    Args:
        study: the study's ``merging.seed``.
        prompt: of the image.
        seed: number of the image among those of its prompt.
    """
    return _mixed("merging", study, prompt, seed)


def for_image(options: Mapping[str, Any], prompt: str, seed: int) -> dict[str, Any]:
    """The options of ``merging`` for one image: a cell's, with the seed mixed.

    >>> for_image({"refresh": 1, "seed": 0}, "a flat cat", 0)["seed"] == merging_seed(0, "a flat cat", 0)
    True
    """
    return {**options, "seed": merging_seed(options["seed"], prompt, seed)}


def _mixed(*parts: str | int) -> int:
    """63 bits, since seeds of torch may be signed; JSON keeps ("a", 11) apart from ("a1", 1)."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
