"""The same picture as the ``tomesd`` package gives, where its randomness is off."""

import pytest
import tomesd
import torch
from tiny import tiny_unet

from mergekit_diff import merging


def of_peer(unet, inputs, **options):
    """What the peer's patched U-Net predicts; it reads its first argument by position."""
    tomesd.apply_patch(unet, use_rand=False, **options)
    try:
        with torch.no_grad():
            return unet(inputs["sample"], inputs["timestep"], inputs["encoder_hidden_states"]).sample
    finally:
        tomesd.remove_patch(unet)


@pytest.mark.parametrize(("h", "w"), [(16, 16), (8, 24), (32, 16)])
@pytest.mark.parametrize("ratio", (0.1, 0.5, 0.75))
def test_unet_predicts_what_the_peer_predicts(h, w, ratio, unet, latents, predict):
    inputs = latents(h=h, w=w)
    base = predict(unet, inputs)
    with merging(unet, "tomesd", ratio=ratio, randomize=False):
        ours = predict(unet, inputs)
    theirs = of_peer(unet, inputs, ratio=ratio)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert (ours - base).abs().max() > 1e-4


def test_parity_holds_on_all_levels_with_another_stride(latents, predict):
    unet, inputs = tiny_unet(seed=3), latents(h=16, w=32, batch=3)
    with merging(unet, "tomesd", ratio=0.6, randomize=False, stride=[2, 4], levels=2):
        ours = predict(unet, inputs)
    torch.testing.assert_close(ours, of_peer(unet, inputs, ratio=0.6, sx=4, sy=2, max_downsample=8), atol=1e-5, rtol=1e-5)


def test_parity_holds_with_every_part_of_the_block_merged(unet, latents, predict):
    inputs = latents()
    with merging(unet, "tomesd", ratio=0.5, randomize=False, roles=["self_attention", "cross_attention", "feed_forward"]):
        ours = predict(unet, inputs)
    theirs = of_peer(unet, inputs, ratio=0.5, merge_crossattn=True, merge_mlp=True)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
