"""Steps, progress and guidance, however a denoiser is told the time: scaled, rising, a time a token, rounded, in two models."""

from types import SimpleNamespace

import diffusers
import pytest
import torch
from tiny_families import FRAMES, build, predict

from mergekit_diff import Layout, merging
from mergekit_diff.clock import Clock
from mergekit_diff.sites.video import noisy

FORMS = {"t": lambda t: t, "t/1000": lambda t: t / 1000, "1-t/1000": lambda t: 1 - t / 1000}


def flow(steps, shift=1.0):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    return scheduler


def euler(steps):
    scheduler = diffusers.EulerDiscreteScheduler()
    scheduler.set_timesteps(steps)
    return scheduler


def watch(time, scheduler, form, calls=(2,), move=True, first=0):
    """(step, call, progress) of every call of an image, and its clock."""
    clock, seen = Clock(SimpleNamespace(scheduler=scheduler), time), []
    x = torch.zeros(1, 1, 2, 2)
    for t in scheduler.timesteps[first:]:
        for rows in calls:
            clock.tick(form(t), rows)
            seen.append((clock.step, clock.call, clock.progress))
        if move:
            x = scheduler.step(x, t, x).prev_sample
    return clock, seen


@pytest.mark.parametrize("move", (True, False), ids=("steps of the scheduler", "values alone"))
@pytest.mark.parametrize("steps", (1, 4, 20))
@pytest.mark.parametrize("make_scheduler", (flow, euler))
@pytest.mark.parametrize("time", FORMS)
def test_steps_and_progress_are_the_schedules_on_any_scale(time, make_scheduler, steps, move):
    scheduler = make_scheduler(steps)
    clock, seen = watch(time, scheduler, FORMS[time], move=move)
    first, last = float(scheduler.timesteps[0]), float(scheduler.timesteps[-1])
    shares = [(first - float(t)) / (first - last) if steps > 1 else 0 for t in scheduler.timesteps]
    assert [step for step, *_ in seen] == list(range(steps)) and clock.num_steps == steps and clock.image == 0
    assert [progress for *_, progress in seen] == pytest.approx(shares)


@pytest.mark.parametrize(("steps", "shift"), [(100, 3.0), (50, 7.0), (20, 1.0)])
def test_timesteps_that_round_together_are_steps_of_their_own(steps, shift):
    scheduler = flow(steps, shift)
    form = lambda t: (t / 1000).bfloat16().expand(2)  # noqa: E731
    rounded = {float(form(t)[0]) for t in scheduler.timesteps}
    assert len(rounded) < steps or steps == 20
    clock, seen = watch("t/1000", scheduler, form)
    assert [step for step, *_ in seen] == list(range(steps)) and seen[-1][-1] == 1 and clock.num_steps == steps


@pytest.mark.parametrize("move", (True, False), ids=("steps of the scheduler", "values alone"))
def test_a_scheduler_may_count_up(move):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    scheduler.set_timesteps(10)
    clock, seen = watch("1000-t", scheduler, lambda t: t, move=move)
    assert [step for step, *_ in seen] == list(range(10)) and (clock.num_steps, clock.image) == (10, 0)
    first, last = float(scheduler.timesteps[0]), float(scheduler.timesteps[-1])
    assert first < last and [progress for *_, progress in seen] == pytest.approx(
        [(float(t) - first) / (last - first) for t in scheduler.timesteps]
    )


def test_a_scale_that_nobody_declared_still_counts_every_step():
    scheduler = flow(10)
    clock, seen = watch("t", scheduler, lambda t: 7 + 0.003 * t, move=False)
    assert [step for step, *_ in seen] == list(range(10)) and seen[-1][-1] == 1 and clock.image == 0
    clock, seen = watch("t", scheduler, lambda t: t / 1000, move=False)
    assert [step for step, *_ in seen] == list(range(10))


@pytest.mark.parametrize("time", FORMS)
def test_an_image_that_begins_amid_the_schedule_has_the_steps_that_are_left(time):
    clock, seen = watch(time, flow(20), FORMS[time], move=False, first=15)
    assert [step for step, *_ in seen] == list(range(5)) and clock.num_steps == 5
    assert (seen[0][-1], seen[-1][-1]) == (0, 1)


@pytest.mark.parametrize("rising", (False, True))
def test_clean_tokens_do_not_stop_the_clock(rising):
    def form(t):
        each = torch.full((2, 6), float(1 - t / 1000 if rising else t))
        each[:, :2] = float(rising)
        return each

    _, seen = watch("1-t/1000" if rising else "t", flow(4), form)
    assert [step for step, *_ in seen] == [0, 1, 2, 3]


def test_guidance_in_two_calls_and_a_third_of_half_the_rows():
    _, seen = watch("t", flow(3), lambda t: t, calls=(1, 1))
    assert [each[:2] for each in seen] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    clock, seen = watch("t", flow(3), lambda t: t, calls=(2, 1))
    assert [each[0] for each in seen] == [0, 0, 1, 1, 2, 2] and clock.partial


@pytest.mark.parametrize("rows", ((2,), (2, 1)))
def test_a_bare_denoiser_may_call_once_more_with_fewer_rows_in_some_steps(rows):
    clock, seen = Clock(None), []
    for t, calls in ((900, (2,)), (600, (2, 1)), (300, rows), (900, (2,)), (600, (2, 1))):
        for each in calls:
            clock.tick(t, each)
            seen.append((clock.image, clock.step, clock.partial))
    last = [(0, 2, False), (0, 2, True)][: len(rows)]
    assert seen == [(0, 0, False), (0, 1, False), (0, 1, True), *last, (1, 0, False), (1, 1, False), (1, 1, True)]


@pytest.mark.parametrize(
    ("time", "ts"),
    [("1-t/1000", (0.0, 0.4, 0.8)), ("t/1000", (1.0, 0.6, 0.2)), ("t", (1000, 600, 200)), ("1000-t", (0, 400, 800))],
)
def test_bare_models_have_steps_and_progress_whether_time_falls_or_rises(time, ts):
    clock, seen = Clock(None, time), []
    for t in (*ts, *ts):
        clock.tick(t)
        seen.append((clock.image, clock.step, round(clock.progress, 6)))
    assert seen == [(image, step, 0.4 * step) for image in (0, 1) for step in range(3)]


@pytest.mark.parametrize(
    ("name", "times", "argument"),
    [
        ("flux", (1.0, 0.6, 0.2), "timestep"),
        ("z_image", (0.0, 0.4, 0.8), "t"),
        ("sd3", (1000.0, 600.0, 200.0), "timestep"),
        ("wan_from_image", (1000.0, 600.0, 200.0), "timestep"),
        ("mochi", (0.0, 400.0, 800.0), "timestep"),
        ("cosmos_from_image", (1.0, 0.6, 0.2), "timestep"),
    ],
)
def test_plans_are_kept_for_refresh_steps_of_an_image(name, times, argument, recorder):
    strategy, seen = recorder
    model, inputs = build(name)
    with merging(model, strategy(), refresh=2):
        for t in (*times, *times):
            time = torch.full_like(inputs[argument], t)
            predict(model, inputs | {argument: torch.where(inputs[argument] == 0, 0.0, time) if t else time})
    first = [ctx for ctx in seen if ctx.depth == 0]
    assert [ctx.step for ctx in first] == [0, 2, 0, 2]
    assert [ctx.progress for ctx in first] == pytest.approx([0, 0.8, 0, 0.8])


def test_two_denoisers_merge_in_their_turns_and_share_the_clock(recorder, count_hooks):
    strategy, seen = recorder
    (high, inputs), (low, _) = build("wan"), build("wan")
    pipe = SimpleNamespace(transformer=high, transformer_2=low, scheduler=flow(4))
    base = predict(low, inputs)
    with merging(pipe, strategy()) as session:
        for i, t in enumerate(pipe.scheduler.timesteps):
            predict(high if i < 2 else low, inputs | {"timestep": t.expand(2)})
    assert [(ctx.site, ctx.step) for ctx in seen if ctx.depth == 0] == [
        *[("transformer.blocks.0", step) for step in (0, 1)],
        *[("transformer_2.blocks.0", step) for step in (2, 3)],
    ]
    assert {ctx.num_sites for ctx in seen} == {2} and {ctx.num_steps for ctx in seen} == {4}
    assert all(row["calls"] == 2 and row["granted"] == 0.5 for row in session.report().to_dicts())
    assert count_hooks(high) == count_hooks(low) == 0 and torch.equal(predict(low, inputs), base)


def test_both_denoisers_are_refused_to_a_second_session():
    (high, _), (low, _) = build("wan"), build("wan")
    pipe = SimpleNamespace(transformer=high, transformer_2=low)
    with merging(pipe, "retom") as session:
        for model in (high, low):
            with pytest.raises(RuntimeError, match="another session"), merging(model, "retom"):
                pass
        session.remove_hooks()


def test_one_plan_serves_both_calls_of_guidance(recorder):
    strategy, seen = recorder
    model, inputs = build("wan")
    pipe = SimpleNamespace(transformer=model, scheduler=flow(3))
    for share, made in (("cfg", 3), ((), 6)):
        seen.clear()
        with merging(pipe, strategy(), share=share):
            for t in pipe.scheduler.timesteps:
                for seed in range(2):
                    text = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(seed))
                    predict(model, inputs | {"timestep": t.expand(2), "encoder_hidden_states": text})
        pipe.scheduler = flow(3)
        assert len([ctx for ctx in seen if ctx.depth == 0]) == made


def test_the_conditional_half_decides_whichever_row_it_is():
    for name, conditional in (("sd3", 1), ("z_image", 0)):
        model, inputs = build(name)
        argument = "t" if name == "z_image" else "timestep"
        first = next(iter(inputs))
        plans = []
        for share in ("cfg", ()):
            with merging(model, "retom", window=2, share=share, roles="self_attention", seed=1) as session:
                predict(model, inputs | {argument: inputs[argument], first: inputs[first]})
            plans.append(next(iter(session.plans().values()))[0].assign)
        assert torch.equal(plans[0], plans[1][[conditional] * 2]) and not torch.equal(plans[1][0], plans[1][1])


def test_shared_guidance_lets_a_call_of_half_the_rows_pass():
    model, inputs = build("sd3")
    pipe = SimpleNamespace(transformer=model, scheduler=flow(2))
    half = {name: value[:1] for name, value in inputs.items()}
    with merging(pipe, "retom", window=2, share="cfg", strict=True) as session:
        for t in pipe.scheduler.timesteps:
            predict(model, inputs | {"timestep": t.expand(2)})
            predict(model, half | {"timestep": t.expand(1), "skip_layers": [0]})
    assert [row["calls"] for row in session.report().to_dicts()] == [2, 4]
    with pytest.raises(ValueError, match="even batch"), merging(model, "retom", share="cfg"):
        predict(model, half)


def test_shared_guidance_lets_steps_without_guidance_pass():
    model, inputs = build("z_image")
    pipe = SimpleNamespace(transformer=model, scheduler=flow(2), do_classifier_free_guidance=True)
    half = {name: value[:1] for name, value in inputs.items()}
    with merging(pipe, "retom", window=2, share="cfg", strict=True) as session:
        for t, arguments in zip(pipe.scheduler.timesteps, (inputs, half), strict=True):
            predict(model, arguments | {"t": (1 - t / 1000).expand(len(arguments["t"]))})
    assert {row["calls"] for row in session.report().to_dicts()} == {2}


def test_rows_of_a_batch_may_be_at_different_times():
    times = torch.tensor([[0.0, 0, 9, 9, 9, 9], [5, 5, 5, 5, 5, 5]])
    assert noisy((3, 1, 2), times) == Layout((2, 1, 2), start=-4)
    with pytest.raises(ValueError, match="expected a frame without clean tokens"):
        noisy((2, 1, 2), torch.tensor([[0.0, 9, 9, 9], [9, 9, 0, 9]]))


def test_a_clean_first_frame_may_come_and_go(recorder):
    strategy, seen = recorder
    model, inputs = build("wan_from_image")
    with merging(model, strategy(), refresh=10):
        predict(model, inputs)
        predict(model, inputs | {"timestep": torch.full_like(inputs["timestep"], 400.0)})
    assert [ctx.grid for ctx in seen if ctx.depth == 0] == [(FRAMES - 1, 4, 6), (FRAMES, 4, 6)]
