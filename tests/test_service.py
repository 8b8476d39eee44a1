"""A session inside a program that runs on: threads, errors at any point, interrupts; nothing global changes, nothing piles up."""

import gc
import threading
import weakref
from dataclasses import dataclass

import pytest
import torch
from held import tensors
from tiny import tiny_unet
from torch.overrides import _get_current_function_mode_stack

from mergekit_diff import MergePlan, MergeStrategy, RatioSchedule, merging

OPTIONS = {"strategy": "retom", "window": 2, "ratio": 0.5}
ROLES = ("self_attention", "key_value", "feed_forward", "block")


@dataclass(frozen=True)
class Fails(MergeStrategy):
    """Merges pairs, until it raises."""

    ratio: RatioSchedule = 0.5
    error: type = RuntimeError
    after: int = 2

    def plan(self, x, ctx):
        if ctx.depth >= self.after:
            raise self.error("amid a step")
        target = torch.arange(x.shape[1])
        target -= target % 2
        return MergePlan.from_target(target[None], x.shape[1] // 2)


def settings():
    """Whatever of torch is global, or of this thread."""
    sdpa = torch.backends.cuda
    return {
        "random": torch.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "attention": (sdpa.flash_sdp_enabled(), sdpa.mem_efficient_sdp_enabled(), sdpa.math_sdp_enabled()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "modes": list(_get_current_function_mode_stack()),
        "attention function": torch.nn.functional.scaled_dot_product_attention,
    }


@pytest.mark.parametrize("role", ROLES)
def test_a_session_changes_nothing_global(role, unet, latents, predict):
    inputs, before = latents(), settings()
    with merging(unet, roles=role, **OPTIONS, proportional=True):
        assert settings() == before
        predict(unet, inputs)
        assert settings() == before
    assert settings() == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError, GeneratorExit, torch.OutOfMemoryError])
@pytest.mark.parametrize("role", ROLES)
def test_whatever_is_raised_amid_a_step_leaves_a_model_as_it_was(role, error, unet, latents, predict, count_hooks):
    inputs, before = latents(), settings()
    base = predict(unet, inputs)
    with merging(unet, roles=role, **OPTIONS):
        good = predict(unet, inputs)
    with pytest.raises(error), merging(unet, Fails(error=error), roles=role):
        predict(unet, inputs)
    assert settings() == before and count_hooks(unet) == 0
    assert torch.equal(predict(unet, inputs), base)
    with merging(unet, roles=role, **OPTIONS):
        assert torch.equal(predict(unet, inputs), good)


@pytest.mark.parametrize("role", ROLES)
def test_a_session_goes_on_after_an_interrupt_as_if_it_had_not_been(role, unet, latents, predict, monkeypatch):
    inputs = latents()
    with merging(unet, roles=role, **OPTIONS):
        wanted = predict(unet, inputs)
    block, stop = unet.mid_block, [True]
    with merging(unet, roles=role, **OPTIONS):
        handle = block.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt) if stop else None)
        with pytest.raises(KeyboardInterrupt):
            predict(unet, inputs)
        stop.clear()
        handle.remove()
        assert torch.equal(predict(unet, inputs), wanted)


def test_threads_with_a_model_each_do_not_meet(latents, predict):
    names = ("retom", "tomesd", "local-match", "downsample")
    models, inputs = [tiny_unet(seed) for seed in range(4)], [latents(seed=seed) for seed in range(4)]
    alone, together, start = [], [None] * 4, threading.Barrier(4)
    for model, name, given in zip(models, names, inputs, strict=True):
        with merging(model, name):
            alone.append(predict(model, given))

    def serve(i):
        start.wait(60)
        for _ in range(5):
            with merging(models[i], names[i]):
                together[i] = predict(models[i], inputs[i])
            assert torch.equal(together[i], alone[i])

    threads = [threading.Thread(target=serve, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize("sessions", [10, pytest.param(200, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("role", ROLES)
def test_memory_stays_flat_over_sessions(role, sessions, unet, latents, predict):
    inputs, held, counts = latents(), [], []
    for number in range(sessions):
        with merging(unet, roles=role, **OPTIONS) as session:
            predict(unet, inputs)
        held.append(weakref.ref(session))
        del session
        if number in (2, sessions - 1):
            counts.append((*tensors(), len(gc.get_objects())))
    assert not any(one() is not None for one in held)
    first, last = counts
    assert last[:2] == first[:2]
    assert last[2] < first[2] + sessions  # less than an object a session; the interpreter has caches of its own
