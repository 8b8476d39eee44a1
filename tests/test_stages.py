"""Pipelines whose parts denoise under other names, in turns or one after the other."""

from types import SimpleNamespace

import torch
from tiny_families import build, predict

from mergekit_diff import merging
from mergekit_diff.target import denoisers_of


def test_stages_of_one_pipeline_merge_each_by_its_own_scheduler():
    prior, inputs = build("cascade")
    decoder, _ = build("cascade")
    schedulers = [SimpleNamespace(timesteps=torch.linspace(1, 0, count)) for count in (3, 5)]
    pipe = SimpleNamespace(prior_prior=prior, decoder=decoder, prior_scheduler=schedulers[0], scheduler=schedulers[1])
    assert list(denoisers_of(pipe)[1]) == ["prior_prior", "decoder"]
    seen = {}
    with merging(pipe, "retom", window=2, refresh=1, strict=True) as session:
        session.observe(lambda x, ctx, *_: seen.setdefault(ctx.site.split(".")[0], {}).setdefault(ctx.step, ctx.progress))
        for model, scheduler in zip((prior, decoder), schedulers, strict=True):
            for t in scheduler.timesteps[:-1]:
                predict(model, inputs | {"timestep_ratio": t.expand(2)})
    assert seen == {"prior_prior": {0: 0, 1: 0.5}, "decoder": {0: 0, 1: 0.25, 2: 0.5, 3: 0.75}}


def test_a_part_that_is_no_denoiser_is_left_alone():
    pipe = SimpleNamespace(unet=build("unet2d")[0], decoder=torch.nn.Linear(2, 2))
    assert list(denoisers_of(pipe)[1]) == ["unet"]


def test_a_model_for_the_half_without_a_text_merges_too():
    model, inputs = build("ideogram4")
    other, _ = build("ideogram4")
    pipe = SimpleNamespace(transformer=model, unconditional_transformer=other, scheduler=None)
    names = ("hidden_states", "encoder_hidden_states", "position_ids", "segment_ids", "indicator")
    alone = {name: value[:, 7:] if name in names else value for name, value in inputs.items()}
    with merging(pipe, "retom", window=2, strict=True) as session:
        predict(model, inputs)
        predict(other, alone)
    rows = session.report().to_dicts()
    assert {row["site"].split(".")[0] for row in rows} == {"transformer", "unconditional_transformer"}
    assert {(row["calls"], row["granted"]) for row in rows} == {(1, 0.5)}
