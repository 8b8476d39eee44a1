"""Images, steps, progress, and how long a plan is kept, under schedulers and for bare models."""

import math

import diffusers
import pytest
import torch

from mergekit_diff import merging

SCHEDULERS = (
    "DDIMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "LCMScheduler",
)


def use(pipe, name):
    """The pipeline with another scheduler; PNDM without its Runge-Kutta steps, as Stable Diffusion ships it."""
    options = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **options)
    return pipe


def first_site(seen):
    return [ctx for ctx in seen if ctx.depth == 0]


def steps_of(seen):
    return [ctx.step for ctx in first_site(seen)]


def distinct(timesteps):
    return list(dict.fromkeys(float(t) for t in timesteps))


def assert_one_image(contexts, timesteps):
    """Steps rise from 0 by one for each distinct timestep, progress goes from 0 to 1 in step with the timestep."""
    expected = distinct(timesteps)
    places = [expected.index(ctx.timestep) for ctx in contexts]
    assert places == sorted(places) and set(places) == set(range(len(expected)))
    assert [ctx.step for ctx in contexts] == places
    assert {ctx.num_steps for ctx in contexts} == {len(expected)}
    for ctx in contexts:
        share = (expected[0] - ctx.timestep) / (expected[0] - expected[-1])
        assert ctx.progress == pytest.approx(share)
    assert (contexts[0].progress, contexts[-1].progress) == (0.0, 1.0)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_step_and_progress_follow_the_scheduler(name, pipe, draw, recorder):
    strategy, seen = recorder
    use(pipe, name)
    with merging(pipe, strategy()):
        draw(pipe, steps=4)
        first = list(seen)
        seen.clear()
        draw(pipe, steps=6)
        assert_one_image(first_site(seen), pipe.scheduler.timesteps)
    assert first_site(first)[0].step == 0 and {ctx.num_steps for ctx in first} == {4}
    assert [c.step for c in first_site(first) if c.progress == 1.0][-1] == 3


@pytest.mark.parametrize("name", SCHEDULERS)
def test_step_and_progress_of_image_to_image_begin_at_its_first_timestep(name, pipe, recorder):
    strategy, seen = recorder
    use(pipe, name)
    image_to_image = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    image_to_image.set_progress_bar_config(disable=True)
    with merging(image_to_image, strategy()):
        for _ in range(2):
            seen.clear()
            picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
            image_to_image("a noto apple", image=picture, strength=0.5, num_inference_steps=8, output_type="np")
            contexts = first_site(seen)
            timesteps = [float(t) for t in pipe.scheduler.timesteps]
            assert contexts[0].timestep < timesteps[0]
            assert_one_image(contexts, timesteps[timesteps.index(contexts[0].timestep) :])


def test_new_image_begins_at_step_zero_with_a_new_plan(pipe, draw, recorder):
    strategy, seen = recorder
    with merging(pipe, strategy(), refresh=100) as session:
        for _ in range(3):
            draw(pipe, steps=2)
    assert steps_of(seen) == [0, 0, 0]
    assert {row["plans"] for row in session.report().to_dicts()} == {3}


def test_images_of_one_step_are_told_apart_by_their_scheduler(pipe, draw, recorder):
    strategy, seen = recorder
    with merging(pipe, strategy(), refresh=100):
        draw(pipe, steps=1)
        draw(pipe, steps=1)
    assert steps_of(seen) == [0, 0]


def test_another_scheduler_inside_a_session_is_followed(pipe, draw, recorder):
    strategy, seen = recorder
    with merging(pipe, strategy()):
        draw(pipe, steps=2)
        seen.clear()
        use(pipe, "EulerDiscreteScheduler")
        draw(pipe, steps=3)
        assert_one_image(first_site(seen), pipe.scheduler.timesteps)


@pytest.mark.parametrize("refresh", (1, 2, 3, 5, 20))
def test_plan_serves_refresh_steps(refresh, pipe, draw, recorder):
    strategy, seen = recorder
    with merging(pipe, strategy(), refresh=refresh) as session:
        draw(pipe, steps=5)
    assert steps_of(seen) == list(range(0, 5, refresh))
    for row in session.report().to_dicts():
        assert (row["plans"], row["calls"]) == (math.ceil(5 / refresh), 5)


def denoise_twice_a_step(scheduler, unet, latents, steps=3):
    """Guidance by two calls a step, in a loop of one's own."""
    inputs, other = latents(batch=1), latents(batch=1, seed=1)
    scheduler.set_timesteps(steps)
    x = inputs["sample"]
    for t in scheduler.timesteps:
        with torch.no_grad():
            uncond = unet(x, t, other["encoder_hidden_states"]).sample
            cond = unet(x, t, inputs["encoder_hidden_states"]).sample
        x = scheduler.step(uncond + 2 * (cond - uncond), t, x).prev_sample
    return x


def test_guidance_by_two_calls_is_one_step_with_a_plan_for_each(pipe, latents, recorder):
    strategy, seen = recorder
    with merging(pipe, strategy(), refresh=1):
        denoise_twice_a_step(pipe.scheduler, pipe.unet, latents)
        assert steps_of(seen) == [0, 0, 1, 1, 2, 2]
        assert {ctx.num_steps for ctx in seen} == {3}
        seen.clear()
        denoise_twice_a_step(pipe.scheduler, pipe.unet, latents)
        assert steps_of(seen) == [0, 0, 1, 1, 2, 2]
    seen.clear()
    with merging(pipe, strategy(), refresh=2):
        denoise_twice_a_step(pipe.scheduler, pipe.unet, latents)
    assert steps_of(seen) == [0, 0, 2, 2]


def test_guidance_by_two_calls_is_seen_without_a_scheduler(pipe, latents, recorder):
    strategy, seen = recorder
    with merging(pipe.unet, strategy(), refresh=1):
        denoise_twice_a_step(pipe.scheduler, pipe.unet, latents)
        denoise_twice_a_step(pipe.scheduler, pipe.unet, latents)
    assert steps_of(seen) == [0, 0, 1, 1, 2, 2] * 2


def test_guidance_by_two_calls_gives_what_one_call_gives(pipe, latents):
    with merging(pipe, "retom", ratio=0.5, refresh=2):
        twice = denoise_twice_a_step(pipe.scheduler, pipe.unet, latents)
        inputs, other = latents(batch=1), latents(batch=1, seed=1)
        text = torch.cat([other["encoder_hidden_states"], inputs["encoder_hidden_states"]])
        pipe.scheduler.set_timesteps(3)
        x = inputs["sample"]
        for t in pipe.scheduler.timesteps:
            with torch.no_grad():
                uncond, cond = pipe.unet(torch.cat([x, x]), t, text).sample.chunk(2)
            x = pipe.scheduler.step(uncond + 2 * (cond - uncond), t, x).prev_sample
    torch.testing.assert_close(twice, x, atol=1e-4, rtol=1e-4)


def play(unet, latents, predict, timesteps):
    for t in timesteps:
        predict(unet, latents(batch=1, t=t))


@pytest.mark.parametrize(
    ("timesteps", "steps"),
    [
        ((900, 600, 300), [0, 1, 2]),
        ((900, 600, 300, 900, 600), [0, 1, 2, 0, 1]),
        ((900, 600, 300, 950), [0, 1, 2, 0]),
        ((900, 900, 600, 600, 300, 300), [0, 0, 1, 1, 2, 2]),
        ((900, 900, 600, 600, 900, 900, 600), [0, 0, 1, 1, 0, 0, 1]),
        ((900, 600, 600), [0, 1, 0]),
        ((900, 900, 600, 600, 600, 600, 300), [0, 0, 1, 1, 0, 0, 1]),
    ],
)
def test_bare_model_counts_steps_from_its_timesteps(timesteps, steps, unet, latents, predict, recorder):
    strategy, seen = recorder
    with merging(unet, strategy()):
        play(unet, latents, predict, timesteps)
    assert steps_of(seen) == steps
    for ctx in seen:
        assert ctx.num_steps is None
        assert ctx.progress == pytest.approx(1 - ctx.timestep / 1000)


@pytest.mark.parametrize("form", (int, float, torch.tensor, lambda t: torch.tensor([t]), lambda t: torch.full((2,), t)))
def test_timestep_is_read_from_numbers_and_tensors_by_position_and_keyword(form, unet, latents, recorder):
    strategy, seen = recorder
    inputs = latents()
    with torch.no_grad(), merging(unet, strategy()):
        unet(inputs["sample"], form(700), inputs["encoder_hidden_states"])
        unet(**(inputs | {"timestep": form(400)}))
    assert [(ctx.step, ctx.timestep) for ctx in first_site(seen)] == [(0, 700.0), (1, 400.0)]


def test_new_image_can_be_said(unet, latents, predict, recorder):
    strategy, seen = recorder
    with merging(unet, strategy(), refresh=100) as session:
        play(unet, latents, predict, (900, 600))
        session.new_image()
        play(unet, latents, predict, (500, 200))
    assert steps_of(seen) == [0, 0]
    assert [ctx.timestep for ctx in first_site(seen)] == [900.0, 500.0]


def test_plan_is_dropped_when_batch_shape_or_dtype_change(unet, latents, predict, recorder):
    strategy, seen = recorder
    changes = [
        (900, {}, torch.float32),
        (800, {"batch": 3}, torch.float32),
        (700, {"batch": 3, "h": 8}, torch.float32),
        (600, {"batch": 3, "h": 8}, torch.float64),
    ]
    with merging(unet, strategy(), refresh=100):
        for t, change, dtype in changes:
            inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in latents(t=t, **change).items()}
            predict(unet.to(dtype), inputs)
            predict(unet, inputs | {"timestep": torch.tensor(t - 50)})
    assert [ctx.timestep for ctx in first_site(seen)] == [900.0, 800.0, 700.0, 600.0]
    assert [ctx.grid for ctx in first_site(seen)] == [(16, 16), (16, 16), (8, 16), (8, 16)]


def test_grid_of_as_many_tokens_but_another_shape_drops_the_plan(unet, latents, predict, recorder):
    strategy, seen = recorder
    with merging(unet, strategy(), refresh=100):
        predict(unet, latents(t=900, h=8, w=32))
        predict(unet, latents(t=800, h=32, w=8))
    assert [ctx.grid for ctx in first_site(seen)] == [(8, 32), (32, 8)]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"ratio": 0.5}, [0]),
        ({"ratio": {"name": "by-depth"}}, [0]),
        ({"ratio": {"name": "linear"}}, [0, 1, 2, 3]),
        ({"ratio": {"name": "linear", "start": 0.5, "end": 0.5}}, [0]),
        ({"ratio": {"name": "step", "values": [0.5, 0.25], "at": [0.6]}}, [0, 2]),
        ({"window": {"name": "by-progress", "at": 0.3}}, [0, 1]),
        ({"window": {"name": "shifted", "by": "step"}}, [0, 1, 2, 3]),
        ({"window": {"name": "by-progress", "at": 0.6, "late": {"name": "shifted", "by": "step"}}}, [0, 2, 3]),
    ],
    ids=str,
)
def test_schedule_that_returns_another_value_makes_a_new_plan(settings, steps, pipe, draw, recorder):
    strategy, seen = recorder
    with merging(pipe, strategy(**settings), refresh=100):
        draw(pipe, steps=4)
    assert steps_of(seen) == steps


def test_wrapped_strategy_follows_its_schedules_inside(pipe, draw):
    inner = {"name": "retom", "window": {"name": "by-progress", "at": 0.6}}
    with merging(pipe, "dynamic-ratio", ratio=0.5, inner=inner, refresh=100) as session:
        draw(pipe, steps=4)
    assert {row["plans"] for row in session.report().to_dicts()} == {2}


def test_refresh_defaults_to_the_strategys_own(pipe, draw):
    for name, plans in (("retom-paper", 1), ("tomesd", 3)):
        with merging(pipe, name, ratio=0.5) as session:
            draw(pipe, steps=3)
        assert {row["plans"] for row in session.report().to_dicts() if row["level"] == 0} == {plans}
