"""Pipelines of image transformers without encoders, from embedded prompts to latents: steps, progress, halves of guidance."""

import diffusers
import pytest
import torch
from tiny_families import FAMILIES, H, W, strengthened
from tiny_family import WORDS, randn

from mergekit_diff import merging
from mergekit_diff.arguments import Signature
from mergekit_diff.sites import family_of

SIZE = {"height": 16 * H, "width": 16 * W}
MASKS = {f"{which}prompt_attention_mask": torch.ones(1, WORDS, dtype=torch.long) for which in ("", "negative_")}
PREPARED = {"prompt_embeds": 1, "negative_prompt_embeds": -1}


def _model(name, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return strengthened(FAMILIES[name].build(**changes)[0])


def _flow():
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)


def _embeds(width, *suffixes):
    """Prompts of positive numbers, and negative prompts of negative ones."""
    words = randn(1, WORDS, width).abs()
    return {f"{name}{suffix}": sign * words for name, sign in PREPARED.items() for suffix in suffixes or ("",)}


def _autoencoder(kind, channels):
    shape = {"block_out_channels": (4,) * 4, "layers_per_block": 1, "latent_channels": channels, "norm_num_groups": 4}
    return kind(**shape, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)


def dit():
    model, scheduler = _model("dit", classes=1000), diffusers.DDIMScheduler()
    return diffusers.DiTPipeline(model, _autoencoder(diffusers.AutoencoderKL, 4), scheduler), {"class_labels": [3]}


def hunyuan_dit():
    pipe = diffusers.HunyuanDiTPipeline(
        None, None, None, _model("hunyuan_dit"), diffusers.DDPMScheduler(), None, None, requires_safety_checker=False
    )
    masks = {f"{name}{suffix}": mask for name, mask in MASKS.items() for suffix in ("", "_2")}
    return pipe, {**_embeds(16, "", "_2"), **masks, **SIZE, "use_resolution_binning": False}


def aura_flow():
    return diffusers.AuraFlowPipeline(None, None, None, _model("aura_flow"), _flow()), {**_embeds(32), **MASKS, **SIZE}


def lumina2():
    pipe = diffusers.Lumina2Pipeline(_model("lumina2"), _flow(), None, None, None)
    return pipe, {**_embeds(16), **MASKS, **SIZE}


def hidream():
    pipe = diffusers.HiDreamImagePipeline(_flow(), None, *[None] * 8, _model("hidream"))
    pipe.default_sample_size = 2 * H
    pooled = {"pooled_prompt_embeds": randn(1, 16), "negative_pooled_prompt_embeds": randn(1, 16)}
    llama = {f"{name}_llama3": sign * randn(2, 1, 4, 16) for name, sign in PREPARED.items()}
    return pipe, {**_embeds(16, "_t5"), **llama, **pooled, "height": 16 * H, "width": 16 * H}


def chroma():
    pipe = diffusers.ChromaPipeline(_flow(), None, None, None, _model("chroma"))
    return pipe, {**_embeds(32), **{name: mask.float() for name, mask in MASKS.items()}, **SIZE}


def flux2_klein():
    vae = _autoencoder(diffusers.AutoencoderKLFlux2, 1)
    return diffusers.Flux2KleinPipeline(_flow(), vae, None, None, _model("flux2_klein")), {**_embeds(32), **SIZE}


def cogview4():
    return diffusers.CogView4Pipeline(None, None, None, _model("cogview4"), _flow()), {**_embeds(16), **SIZE}


def cogview3_plus():
    scheduler = diffusers.CogVideoXDDIMScheduler()
    return diffusers.CogView3PlusPipeline(None, None, None, _model("cogview3_plus"), scheduler), {**_embeds(16), **SIZE}


def sana():
    pipe = diffusers.SanaPipeline(None, None, None, _model("sana"), diffusers.DPMSolverMultistepScheduler())
    size = {"height": 32 * H, "width": 32 * W, "use_resolution_binning": False}
    return pipe, {**_embeds(16), **MASKS, **size, "negative_prompt": None}


BUILDS = (dit, hunyuan_dit, aura_flow, lumina2, hidream, chroma, flux2_klein, cogview4, cogview3_plus, sana)
CONDITIONS = {"hidream": "encoder_hidden_states_t5", "dit": "class_labels"}


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
def test_steps_progress_and_halves_of_guidance_are_those_of_the_pipeline(build):
    pipe, arguments = build()
    pipe.set_progress_bar_config(disable=True)
    calls, seen, signature = [], set(), Signature(pipe.transformer)

    def on_call(module, args, kwargs):
        rows = signature.read(args, kwargs)[CONDITIONS.get(build.__name__, "encoder_hidden_states")].float()
        calls.append(tuple(0 < float(row.mean()) < 1000 for row in rows))  # 1000 is no class

    def generate():
        noise = torch.Generator().manual_seed(0)
        output = pipe(**arguments, num_inference_steps=4, guidance_scale=3.0, generator=noise, output_type="latent")[0]
        return torch.as_tensor(output)

    base = generate()
    with merging(pipe, "retom", window=2, refresh=1, share="cfg", strict=True) as session:
        session.observe(lambda x, ctx, plan, made: seen.add((ctx.step, ctx.num_steps, round(ctx.progress, 5))))
        handle = pipe.transformer.register_forward_pre_hook(on_call, with_kwargs=True)
        merged = generate()
        handle.remove()
    times = [float(t) for t in pipe.scheduler.timesteps]
    shares = [round((times[0] - t) / (times[0] - times[-1]), 5) for t in times]
    assert sorted(seen) == [(step, 4, share) for step, share in enumerate(shares)]
    order = {"uncond-cond": [(False, True)] * 4, "cond-uncond": [(True, False)] * 4, "calls": [(True,), (False,)] * 4}
    assert calls == order[family_of(pipe.transformer).guidance]
    assert {row["plans"] for row in session.report().to_dicts()} == {4}
    assert merged.isfinite().all() and not torch.equal(merged, base) and torch.equal(generate(), base)
