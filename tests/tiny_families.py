"""A tiny random model of every family beyond the plain U-Net, and the arguments of a call."""

import diffusers
import torch
from torch import nn

H, W, FRAMES, WORDS = 8, 12, 3, 7
VIDEO_UNET = {"layers_per_block": 1, "cross_attention_dim": 32}


def strengthened(model: nn.Module) -> nn.Module:
    """Weights that are born zero, as of gates and last layers, become random: what blocks do then shows in the output."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() and not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _ids(image: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    return torch.stack([torch.full_like(rows, image), rows, columns], -1).flatten(0, 1).float()


def flux(t=0.5, references=0):
    model = diffusers.FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    ids = torch.cat([_ids(image) for image in range(1 + references)])
    return model, {
        "hidden_states": randn(2, len(ids), 4),
        "encoder_hidden_states": randn(2, WORDS, 32),
        "pooled_projections": randn(2, 32),
        "timestep": torch.full((2,), t),
        "img_ids": ids,
        "txt_ids": torch.zeros(WORDS, 3),
    }


def kontext(t=0.5):
    return flux(t, references=1)


def sd3(t=500.0, **changes):
    model = diffusers.SD3Transformer2DModel(
        sample_size=32,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
        pos_embed_max_size=24,
        **changes,
    )
    return model, {
        "hidden_states": randn(2, 4, 2 * H, 2 * W),
        "encoder_hidden_states": randn(2, WORDS, 32),
        "pooled_projections": randn(2, 64),
        "timestep": torch.full((2,), t),
    }


def sd35(t=500.0):
    return sd3(t, dual_attention_layers=(0,), qk_norm="rms_norm")


def pixart(t=500.0):
    model = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        cross_attention_dim=16,
        sample_size=16,
        caption_channels=32,
        use_additional_conditions=False,
    )
    return model, {
        "hidden_states": randn(2, 4, 2 * H, 2 * W),
        "encoder_hidden_states": randn(2, WORDS, 32),
        "timestep": torch.full((2,), t),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        "encoder_attention_mask": torch.ones(2, WORDS),
    }


def qwen_image(t=0.5, references=0, **changes):
    model = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
        **changes,
    )
    mask = torch.ones(2, WORDS, dtype=torch.bool)
    mask[1, 4:] = False
    return model, {
        "hidden_states": randn(2, (1 + references) * H * W, 16),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "encoder_hidden_states_mask": mask,
        "timestep": torch.full((2,), t),
        "img_shapes": [[(1, H, W)] * (1 + references)] * 2,
    }


def qwen_edit(t=0.5):
    return qwen_image(t, references=1, zero_cond_t=True)


def z_image(t=0.5, h=8, w=10):
    """80 tokens, padded to 96; captions of two lengths."""
    model = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    return model, {
        "x": [randn(4, 1, 2 * h, 2 * w, seed=seed) for seed in range(2)],
        "t": torch.full((2,), t),
        "cap_feats": [randn(words, 16, seed=words) for words in (5, 40)],
    }


def _table(tokens: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    angles = 3 * randn(tokens, width // 2, seed=5)
    return tuple(f(angles).repeat_interleave(2, -1) for f in (torch.cos, torch.sin))


def cogvideox(t=500.0, rotary=True):
    model = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=32,
        num_layers=2,
        sample_width=W,
        sample_height=H,
        sample_frames=4 * FRAMES - 3,
        max_text_seq_length=WORDS,
        use_rotary_positional_embeddings=rotary,
    )
    return model, {
        "hidden_states": randn(2, FRAMES, 4, H, W),
        "encoder_hidden_states": randn(2, WORDS, 32),
        "timestep": torch.full((2,), t),
        "image_rotary_emb": _table(FRAMES * H * W // 4, 16) if rotary else None,
    }


def cogvideox_absolute(t=500.0):
    return cogvideox(t, rotary=False)


def wan(t=500.0, clean=None):
    """With ``clean``, every token has a timestep, which is 0 in the first so many frames."""
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    timestep = torch.full((2,), t)
    if clean is not None:
        timestep = torch.full((2, FRAMES * H * W // 4), t)
        timestep[:, : clean * H * W // 4] = 0
    return model, {
        "hidden_states": randn(2, 4, FRAMES, H, W),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "timestep": timestep,
    }


def wan_per_token(t=500.0):
    return wan(t, clean=0)


def wan_from_image(t=500.0):
    return wan(t, clean=1)


def ltx(t=500.0, clean=None):
    model = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=16,
    )
    h, w = H // 2, W // 2
    timestep = torch.full((2,), t)
    if clean is not None:
        timestep = torch.full((2, FRAMES * h * w), t)
        timestep[:, : clean * h * w] = 0
    return model, {
        "hidden_states": randn(2, FRAMES * h * w, 8),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "encoder_attention_mask": torch.ones(2, WORDS),
        "timestep": timestep,
        "num_frames": FRAMES,
        "height": h,
        "width": w,
    }


def ltx_from_image(t=500.0):
    return ltx(t, clean=1)


def motion(t=500, frames=FRAMES, side=16):
    model = diffusers.UNetMotionModel(
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        num_attention_heads=2,
        motion_num_attention_heads=2,
        **VIDEO_UNET,
    )
    return model, {
        "sample": randn(2, 4, frames, side, side),
        "timestep": torch.tensor(t),
        "encoder_hidden_states": randn(2, WORDS, 32).repeat_interleave(frames, 0),
    }


def unet3d(t=500, frames=FRAMES, side=16):
    model = diffusers.UNet3DConditionModel(
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        attention_head_dim=8,
        **VIDEO_UNET,
    )
    return model, {
        "sample": randn(2, 4, frames, side, side),
        "timestep": torch.tensor(t),
        "encoder_hidden_states": randn(2, WORDS, 32),
    }


def stable_video(t=500, frames=FRAMES, side=16):
    model = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        num_attention_heads=(2, 4),
        **VIDEO_UNET,
    )
    return model, {
        "sample": randn(2, frames, 8, side, side),
        "timestep": torch.tensor(t),
        "encoder_hidden_states": randn(2, 3, 32),  # of one word, cross-attention is a constant
        "added_time_ids": torch.ones(2, 3),
    }


TRANSFORMERS = {
    build.__name__: build
    for build in (
        *(flux, kontext, sd3, sd35, pixart, qwen_image, qwen_edit, z_image),
        *(cogvideox, cogvideox_absolute, wan, wan_per_token, wan_from_image, ltx, ltx_from_image),
    )
}
VIDEO_UNETS = {build.__name__: build for build in (motion, unet3d, stable_video)}
FAMILIES = TRANSFORMERS | VIDEO_UNETS
JOINT = ("flux", "kontext", "sd3", "sd35", "qwen_image", "qwen_edit", "z_image", "cogvideox", "cogvideox_absolute")


def build(name: str, **changes):
    """A model of a family with random weights, and the arguments of a call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = FAMILIES[name](**changes)
        return strengthened(model), inputs


@torch.no_grad()
def predict(model: nn.Module, inputs) -> torch.Tensor:
    """The output of a call, of all rows."""
    sample = model(**inputs, return_dict=False)[0]
    return torch.stack(sample) if isinstance(sample, list) else sample
