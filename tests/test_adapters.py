"""A real IP-Adapter works inside merging: its processors, its image tokens and its masks."""

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
from tiny import tiny_unet

from mergekit_diff import merging

ROLES = ("self_attention", "cross_attention")


@pytest.fixture
def adapted():
    """A call of a U-Net with random IP-Adapter weights, by image embedding."""
    unet = tiny_unet()
    torch.manual_seed(1)
    processors = {}
    for name in unet.attn_processors:
        width = unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
        image = IPAdapterAttnProcessor2_0(hidden_size=width, cross_attention_dim=32, num_tokens=(4,))
        processors[name] = AttnProcessor2_0() if name.endswith("attn1.processor") else image
    unet.set_attn_processor(processors)
    project = ImageProjection(image_embed_dim=8, cross_attention_dim=32, num_image_text_embeds=4)
    unet.encoder_hid_proj = MultiIPAdapterImageProjection([project])
    unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    x, text = torch.randn(2, 4, 16, 16), torch.randn(2, 16, 32)

    @torch.no_grad()
    def call(image, **kwargs):
        return unet.eval()(x, 10, text, added_cond_kwargs={"image_embeds": [image]}, **kwargs).sample

    return unet, call, torch.randn(2, 1, 8)


def test_ip_adapter_still_sees_its_image_inside_merging(adapted):
    unet, call, image = adapted
    base = call(image)
    with merging(unet, "retom", roles=ROLES, strict=True):
        merged, other = call(image), call(3 * image)
    assert not torch.allclose(merged, base)
    assert not torch.allclose(merged, other)
    assert torch.equal(call(image), base)


def test_ip_adapter_at_ratio_0_is_the_base_to_the_bit(adapted):
    unet, call, image = adapted
    base = call(image)
    with pytest.warns(UserWarning, match="no token was merged"), merging(unet, "retom", ratio=0.0, roles=ROLES):
        still = call(image)
    assert torch.equal(still, base)


def test_ip_adapter_masks_are_refused_where_they_would_be_wrong(adapted):
    unet, call, image = adapted
    with pytest.raises(ValueError, match="ip_adapter_masks"), merging(unet, "retom", roles=ROLES):
        call(image, cross_attention_kwargs={"ip_adapter_masks": [torch.ones(1, 1, 16, 16)]})
