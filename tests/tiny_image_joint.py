"""More tiny random transformers that make images, in which text and image attend in one softmax."""

import diffusers
import torch
from tiny_family import WORDS, H, W, randn, tiny
from tiny_image import ids_of

FLUX = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
SIZES = ("original_size", "target_size", "crop_coords")


def _with_ids(t: float, axes: int, references: int = 0):
    """Arguments of a Flux-type model: ids of some axes, of which the last ones are 0."""
    ids = torch.cat([ids_of(image) for image in range(1 + references)])
    return {
        "hidden_states": randn(2, len(ids), 4),
        "encoder_hidden_states": randn(2, WORDS, 32),
        "timestep": torch.full((2,), t),
        "img_ids": torch.cat([ids, torch.zeros(len(ids), axes - 3)], 1),
        "txt_ids": torch.zeros(WORDS, axes),
    }


@tiny("Flux 2, Klein", (H, W), joint=True, rows=("image_rotary_emb",))
def flux2(t=0.5, references=0, klein=False):
    model = diffusers.Flux2Transformer2DModel(
        in_channels=4, joint_attention_dim=32, axes_dims_rope=(4,) * 4, guidance_embeds=not klein, **FLUX
    )
    return model, _with_ids(t, 4, references) | {"guidance": None if klein else torch.ones(2)}


@tiny("Flux 2, Klein", (H, W), joint=True, rows=("image_rotary_emb",))
def flux2_klein(t=0.5):
    """With a reference image, whose tokens are behind."""
    return flux2(t, references=1, klein=True)


@tiny("Chroma", (H, W), joint=True, rows=("image_rotary_emb", "attention_mask"))
def chroma(t=0.5):
    model = diffusers.ChromaTransformer2DModel(
        in_channels=4,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
        **FLUX,
    )
    mask = torch.ones(2, WORDS + H * W)
    mask[1, 4:WORDS] = 0
    return model, _with_ids(t, 3) | {"attention_mask": mask}


@tiny("AuraFlow", (H, W), joint=True)
@torch.no_grad()
def aura_flow(t=0.5):
    """With three times the weights, or else its attention would hardly show."""
    model = diffusers.AuraFlowTransformer2DModel(
        sample_size=32,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pos_embed_max_size=256,
    )
    for parameter in model.parameters():
        parameter.mul_(3 if parameter.dim() == 2 else 1)
    return model, {
        "hidden_states": randn(2, 4, 2 * H, 2 * W),
        "encoder_hidden_states": randn(2, WORDS, 32),
        "timestep": torch.full((2,), t),
    }


@tiny("Lumina 2", (H, W), joint=True, rows=("image_rotary_emb",))
def lumina2(t=0.5, lengths=(5, 5)):
    """Captions that are shorter than their padding."""
    model = diffusers.Lumina2Transformer2DModel(
        in_channels=4,
        hidden_size=32,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(8, 4, 4),
        axes_lens=(32, 32, 32),
        cap_feat_dim=16,
    )
    mask = (torch.arange(WORDS) < torch.tensor(lengths)[:, None]).long()
    return model, {
        "hidden_states": randn(2, 4, 2 * H, 2 * W),
        "timestep": torch.full((2,), t),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "encoder_attention_mask": mask,
    }


@tiny("HiDream", (H, W), joint=True, rows=("image_rotary_emb", "hidden_states_masks"))
def hidream(t=500.0, height=H, width=W):
    """An image that is not square is padded to 100 tokens."""
    model = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_channels=[16, 16],
        text_emb_dim=16,
        num_routed_experts=2,
        num_activated_experts=1,
        axes_dims_rope=(8, 4, 4),
        max_resolution=(20, 20),
        llama_layers=[0, 1],
    )
    return model, {
        "hidden_states": randn(2, 4, 2 * height, 2 * width),
        "timesteps": torch.full((2,), t),
        "encoder_hidden_states_t5": randn(2, WORDS, 16),
        "encoder_hidden_states_llama3": randn(2, 2, 4, 16, seed=1),
        "pooled_embeds": randn(2, 16),
    }


@tiny("HiDream", (H, H), joint=True, rows=("image_rotary_emb",))
def hidream_square(t=500.0):
    return hidream(t, width=H)


def _cogview(kind: type, t: float, **changes):
    model = kind(
        in_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        out_channels=4,
        text_embed_dim=16,
        time_embed_dim=16,
        condition_dim=4,
        **changes,
    )
    return model, {
        "hidden_states": randn(2, 4, 2 * H, 2 * W),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "timestep": torch.full((2,), t),
        **{name: torch.tensor([[16.0, 24.0]] * 2) for name in SIZES},
    }


@tiny("CogView 4", (H, W), joint=True, rows=("image_rotary_emb",))
def cogview4(t=500.0):
    return _cogview(diffusers.CogView4Transformer2DModel, t, rope_axes_dim=(32, 32))


@tiny("CogView 3 Plus", (H, W), joint=True)
def cogview3_plus(t=500.0):
    return _cogview(diffusers.CogView3PlusTransformer2DModel, t, pos_embed_max_size=16)
