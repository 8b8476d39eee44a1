"""A program that makes images in many sessions, as a service does, and prints what it holds after each: ``python soak.py 200``.

A second word puts in a leak, for the test of the test: "sessions" keeps their plans, "bytes" keeps what no count of tensors sees.
"""

import gc
import itertools
import json
import sys

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler
from held import resident, tensors
from tiny import tiny_pipeline

from mergekit_diff import merging

IMAGES = 5
"""Of a session."""
ROLES = ("self_attention", "key_value", "cross_attention", "feed_forward", "block")
STRATEGIES = (
    {"strategy": "retom", "window": 2, "ratio": {"name": "linear", "start": 0.25, "end": 0.75}},
    {"strategy": "tomesd", "share": ("cfg",)},
    {"strategy": "sdtm"},  # records what layers returned
    {"strategy": "toma"},
)
SCHEDULERS = (DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler)
REFRESH = (1, 2, 5)
CYCLE = len(ROLES) * len(STRATEGIES)
"""Sessions until every strategy has run in every role."""


def main(sessions, leak=""):
    """Print a line of JSON after every session."""
    torch.set_num_threads(1)
    pipe, kept = tiny_pipeline(), []
    config = pipe.scheduler.config
    for i, roles, options, refresh in zip(
        range(sessions), itertools.cycle(ROLES), itertools.cycle(STRATEGIES), itertools.cycle(REFRESH), strict=False
    ):
        pipe.scheduler = SCHEDULERS[i // CYCLE % len(SCHEDULERS)].from_config(config)
        with merging(pipe, roles=roles, refresh=refresh, **options) as session:
            for image in range(IMAGES):
                draw = torch.Generator().manual_seed(image)
                pipe("a noto apple", num_inference_steps=3, output_type="np", generator=draw)
            assert session.report().merged
            kept += [session.plans()] if leak == "sessions" else [bytearray(2**18)] if leak == "bytes" else []
        del session
        pipe.scheduler = DDIMScheduler.from_config(config)  # those of other classes have other tensors
        count, size = tensors()
        held = {"tensors": count, "tensor bytes": size, "objects": len(gc.get_objects()), "resident": resident()}
        print(json.dumps({"images": IMAGES * (i + 1)} | held), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
