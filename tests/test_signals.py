"""What a strategy asks for, it is given: the same noise at every step."""

import torch

from mergekit_diff import merging


def test_still_noise_follows_from_seed_and_site_alone(unet, latents, predict, recorder):
    strategy, seen = recorder

    def stills(seed, batch=2, **options):
        seen.clear()
        with merging(unet, strategy(), seed=seed, **options):
            for t in (900, 600):
                predict(unet, latents(t=t, batch=batch))
        return {(ctx.site, ctx.step): ctx.still for ctx in seen}

    first, again, other = stills(0), stills(0, batch=3, roles=["feed_forward"]), stills(1)
    assert len(first) == 14
    for (site, step), still in first.items():
        assert still.min() >= 0 and still.max() < 1 and still.unique().numel() > 50
        assert torch.equal(still, again[site, step]) and not torch.equal(still, other[site, step])
        assert torch.equal(still, first[site, 0])
    assert len({tuple(still[:8].tolist()) for still in first.values()}) == 7
    assert not any(torch.equal(ctx.noise, ctx.still) for ctx in seen)


def test_still_noise_of_sites_that_share_a_plan_is_that_of_the_first(unet, latents, predict, recorder):
    strategy, seen = recorder
    with merging(unet, strategy(), share="grid", refresh=2):
        for t in (900, 600, 300):
            predict(unet, latents(t=t))
    assert [(ctx.step, ctx.grid) for ctx in seen] == [(s, g) for s in (0, 2) for g in ((16, 16), (8, 8))]
    assert torch.equal(seen[0].still, seen[2].still) and not torch.equal(seen[0].noise, seen[2].noise)
