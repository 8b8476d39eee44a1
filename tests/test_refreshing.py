"""When plans are made anew: every few steps, or at the steps of a list."""

import pytest
import torch
from synthetic_run import a_row

from mergekit_diff import merging
from mergekit_diff.options import Options


@pytest.mark.parametrize(
    ("refresh", "expected"),
    [(1, [0, 1, 2, 3, 4, 5]), (4, [0, 4]), ((0,), [0]), ([0, 1, 4], [0, 1, 4]), ((0, 3, 9), [0, 3]), (range(0, 6, 2), [0, 2, 4])],
)
def test_plans_are_made_at_these_steps_and_no_others(pipe, refresh, expected):
    made = []
    with merging(pipe, "retom", refresh=refresh, roles="self_attention", levels=1) as session:
        session.observe(lambda x, ctx, plan, is_new: made.append((ctx.site, ctx.step)) if is_new else None)
        for _ in range(2):
            pipe("a cat", num_inference_steps=6, output_type="latent")
    sites = {site for site, _ in made}
    assert all([step for site, step in made if site == one] == 2 * expected for one in sites) and sites


def test_a_list_of_all_steps_is_the_same_as_one_step_each(pipe):
    images = []
    for refresh in (1, range(6)):
        with merging(pipe, "tomesd", refresh=refresh):
            seeded = torch.Generator().manual_seed(0)
            images.append(pipe("a cat", num_inference_steps=6, output_type="latent", generator=seeded).images)
    assert images[0].equal(images[1])


@pytest.mark.parametrize("wrong", [0, -1, 1.0, True, [], (1, 2), [0, 2, 2], [0, 3, 1], [0, 1.0], "12", {0, 1}])
def test_anything_else_is_refused_in_one_line(wrong):
    with pytest.raises(ValueError, match="expected refresh to be a whole number of at least 1 or rising steps from 0") as raised:
        Options(refresh=wrong)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="expected refresh to be a number with gate='auto'"):
        Options(refresh=(0, 1), gate="auto")


def test_a_row_says_how_many_steps_a_plan_served():
    def every(refresh, plans=None):
        return a_row(merging={"refresh": refresh}, kept=[0.5] * 12, plans=plans).plan_every()

    assert every(4) == 4 and every(20) == 12 and every([0, 1, 4]) == 4 and every([0, 1, 4, 20]) == 4
    assert every(4, plans=3.0) == 4 and every(4, plans=12.0) == 1 and every([0, 1], plans=6.0) == 2
