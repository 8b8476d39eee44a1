"""What a user has on besides merging: each line of docs/works-with.md is a test here."""

from contextlib import contextmanager
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
from tiny import tiny_flux_pipeline, tiny_pipeline, tiny_unet
from tiny_families import build
from tiny_family import randn
from tiny_pipelines import generate, load, save
from works_with import LINES as LINES
from works_with import pasted, works_with

from mergekit_diff import gate, merging
from mergekit_diff.sites import find_sites
from mergekit_diff.speed import Speed

ROLES = ("self_attention", "key_value", "feed_forward", "block")
IN_BLOCKS = ("self_attention", "feed_forward", "key_value")


@pytest.fixture(autouse=True)
def forget_graphs():
    yield
    torch._dynamo.reset()


def unet(**changes):
    """A U-Net and the arguments of a call."""
    text = {"sample": randn(2, 4, 16, 16), "timestep": torch.tensor(500), "encoder_hidden_states": randn(2, 7, 32)}
    return tiny_unet(**changes), text


def model_of(name):
    return unet() if name == "unet" else build(name)


@torch.no_grad()
def predict(model, inputs):
    return model(**inputs, return_dict=False)[0]


def draw(pipe, steps=4, **arguments):
    """An image of a pipeline of the U-Net's or the Flux type."""
    words = {"max_sequence_length": 16} if isinstance(pipe, diffusers.FluxPipeline) else {}
    pipe.set_progress_bar_config(disable=True)
    return generate(pipe, {"height": 32, "width": 32} | words | arguments, steps)


def close(a, b, tolerance=1e-4):
    return float((a - b).norm() / b.norm()) < tolerance


@contextmanager
def silent():
    """Sessions that are meant to merge nothing warn."""
    with pytest.warns(UserWarning, match="no token was merged"):
        yield


def lawful(target, call, role, **options):
    """What comes out merged, where ratio 0 is the base to the bit, half of the tokens merge everywhere, and all is restored.

    Args:
        target: a model or a pipeline with something else on.
        call: makes something with it.
        role: what merges.
        **options: of ``merging``.
    """
    base = call()
    with silent(), merging(target, "retom", ratio=0, window=2, roles=role, **options):
        assert torch.equal(call(), base)
    with merging(target, "retom", ratio=0.5, window=2, roles=role, strict=True, **options) as session:
        merged = call()
    rows = [row for row in session.report().to_dicts() if row["calls"]]
    assert rows and {row["granted"] for row in rows} == {0.5}
    assert merged.isfinite().all() and not close(merged.float(), base.float(), 1e-6)
    assert torch.equal(call(), base)
    return merged


def merged_alone(target, call, role, **options):
    with merging(target, "retom", ratio=0.5, window=2, roles=role, strict=True, **options):
        return call()


@works_with("`session.compile()`", "yes")
def test_compiled_sessions_are_the_eager_ones():
    model, inputs = model_of("flux")
    expected = merged_alone(model, lambda: predict(model, inputs), "self_attention", refresh=5)
    with merging(model, "retom", ratio=0.5, window=2, roles="self_attention", refresh=5) as session:
        session.compile(backend="aot_eager")
        found = [predict(model, inputs | {"timestep": inputs["timestep"] * t}) for t in (1.0, 0.9, 0.8)]
        session.new_image()
        again = predict(model, inputs)
    assert close(found[0], expected) and close(again, expected) and not torch.equal(found[1], found[2])
    assert session.report().granted == 0.5


@works_with('`gate="auto"`', "yes")
def test_a_gate_merges_where_it_is_open_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model, inputs = unet()
    base = predict(model, inputs)
    expected = merged_alone(model, lambda: predict(model, inputs), "self_attention")
    for rates, output in (
        ({"attention": 1.0, "move": 0.0, "call": 0.0}, expected),
        ({"attention": 0.0, "move": 1.0, "call": 1.0}, base),
    ):
        monkeypatch.setattr(gate, "speed", lambda *_, rates=rates: Speed(linear=rates["attention"], **rates))
        session = merging(model, "retom", ratio=0.5, window=2, roles="self_attention", gate="auto")
        assert torch.equal(predict(model, inputs), output)
        session.remove_hooks()


@works_with('`share="cfg"`', "yes")
@pytest.mark.parametrize("shared", (True, False))
def test_halves_of_guidance_share_a_plan_on_request(shared):
    model, inputs = unet()
    with merging(model, "retom", window=2, roles="self_attention", share="cfg" if shared else ()) as session:
        predict(model, inputs)
    equal = [torch.equal(plan.assign[:1], plan.assign[-1:]) for plan, _ in session.plans().values()]
    assert all(equal) if shared else not any(equal)


@works_with("gradient checkpointing", "yes; not in vision transformers, which are refused")
@pytest.mark.parametrize("role", ("self_attention", "block"))
def test_gradient_checkpointing_changes_no_gradient(role):
    gradients = []
    for checkpointing in (False, True):
        model, inputs = unet()
        if checkpointing:
            model.train().enable_gradient_checkpointing()
        with merging(model, "retom", window=2, roles=role):
            model(**inputs).sample.square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)


def test_gradient_checkpointing_of_vision_transformers_is_refused():
    model, inputs = build("vit")
    model.train().gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="expected no gradient checkpointing"), merging(model, "retom"):
        model(**inputs)


@works_with("training with merging on", "yes: gradients are those of the merged model; plans are chosen without gradients")
@pytest.mark.parametrize(
    ("name", "role"), [("unet", "self_attention"), ("flux", "key_value"), ("flux", "block"), ("vit", "self_attention")]
)
def test_a_gradient_is_what_finite_differences_say(name, role):
    model, inputs = model_of(name)
    model = model.double().requires_grad_(True)
    inputs = {k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in inputs.items()}
    with merging(model, "retom", ratio=0.5, window=2, roles=role, refresh=1) as session:

        def loss():
            session.new_image()
            return model(**inputs, return_dict=False)[0].square().mean()

        loss().backward()
        gradients = {p: p.grad for p in model.parameters() if p.grad is not None}
        site = next(site for site in find_sites(model) if site.offers(role))
        assert all(p.grad is not None and p.grad.any() for p in site.parts(role)[0].parameters() if p.numel() > 100)
        ways = {p: torch.randn(p.shape, generator=torch.Generator().manual_seed(3), dtype=p.dtype) for p in gradients}
        slope = sum((gradients[p] * way).sum() for p, way in ways.items())
        values, size = [], 1e-6
        with torch.no_grad():
            for step in (size, -2 * size):
                for p, way in ways.items():
                    p.add_(step * way)
                values.append(loss())
    assert float((values[0] - values[1]) / (2 * size)) == pytest.approx(float(slope), rel=1e-4)


@works_with("LoRA by peft", "yes: loaded, fused and unloaded; load it before merging begins")
@pytest.mark.parametrize(
    ("kind", "role"),
    [
        (tiny_pipeline, "self_attention"),
        (tiny_pipeline, "key_value"),
        (tiny_flux_pipeline, "feed_forward"),
        (tiny_flux_pipeline, "block"),
    ],
)
def test_lora_is_loaded_fused_and_unloaded(kind, role):
    peft = pytest.importorskip("peft")
    pipe = kind()
    name = "unet" if hasattr(pipe, "unet") else "transformer"
    denoiser, call = getattr(pipe, name), lambda: draw(pipe, 2)
    plain = merged_alone(pipe, call, role)
    torch.manual_seed(0)
    parts = ["to_q", "to_k", "to_v", "to_out.0", "proj_mlp"]
    denoiser.add_adapter(peft.LoraConfig(r=4, lora_alpha=8, target_modules=parts, init_lora_weights=False))
    weights = {f"{name}.{key}": value.clone() for key, value in peft.get_peft_model_state_dict(denoiser).items()}
    denoiser.delete_adapters("default")
    denoiser.unload_lora()
    assert torch.equal(merged_alone(pipe, call, role), plain)
    pipe.load_lora_weights(weights)
    adapted = lawful(pipe, call, role)
    assert not close(adapted, plain)
    pipe.fuse_lora()
    assert close(lawful(pipe, call, role), adapted, 1e-2)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    assert close(merged_alone(pipe, call, role), plain, 1e-2)


def image_prompts(width, number=4):
    return MultiIPAdapterImageProjection(
        [ImageProjection(image_embed_dim=8, cross_attention_dim=width, num_image_text_embeds=number)]
    )


@works_with("IP-Adapter", "yes; its masks are refused")
@pytest.mark.parametrize("role", ROLES)
def test_ip_adapter_of_a_unet_sees_its_image(role):
    from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0

    model, inputs = unet()
    torch.manual_seed(1)
    processors = {}
    for name in model.attn_processors:
        width = model.get_submodule(name.removesuffix(".processor")).to_q.in_features
        image = IPAdapterAttnProcessor2_0(hidden_size=width, cross_attention_dim=32, num_tokens=(4,))
        processors[name] = AttnProcessor2_0() if name.endswith("attn1.processor") else image
    model.set_attn_processor(processors)
    model.encoder_hid_proj = image_prompts(32)
    model.register_to_config(encoder_hid_dim_type="ip_image_proj")
    seen = [
        lawful(model, lambda k=k: predict(model, inputs | {"added_cond_kwargs": {"image_embeds": [k * randn(2, 1, 8)]}}), role)
        for k in (1, 3)
    ]
    assert not close(*seen)


@works_with("IP-Adapter", "yes; its masks are refused")
@pytest.mark.parametrize("role", ROLES)
def test_ip_adapter_of_flux_sees_its_image(role):
    from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor

    model, inputs = build("flux")
    torch.manual_seed(1)
    for block in model.transformer_blocks:
        block.attn.set_processor(FluxIPAdapterAttnProcessor(hidden_size=32, cross_attention_dim=32, num_tokens=(4,)))
    model.encoder_hid_proj = image_prompts(32)

    def call(k):
        return predict(model, inputs | {"joint_attention_kwargs": {"ip_adapter_image_embeds": [k * randn(2, 1, 8)]}})

    seen = [lawful(model, lambda k=k: call(k), role) for k in (1, 3)]
    assert not close(*seen)


@works_with("model and sequential CPU offloading by accelerate", "yes")
@pytest.mark.parametrize("kind", ("model", "sequential"))
@pytest.mark.parametrize(
    ("name", "role"), [("unet", "self_attention"), ("unet", "key_value"), ("flux", "key_value"), ("flux", "block")]
)
def test_offloaded_weights_change_nothing(name, role, kind):
    import accelerate

    model, inputs = model_of(name)
    expected = merged_alone(model, lambda: predict(model, inputs), role)
    if kind == "model":
        model, hook = accelerate.cpu_offload_with_hook(model, execution_device="cpu")
    else:
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        assert all(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(lawful(model, lambda: predict(model, inputs), role), expected)
    if kind == "model":
        hook.offload()
    else:
        assert all(parameter.is_meta for parameter in model.parameters())


FUSED = "yes; not with `key_value` that merges before the projection, which is refused"


@works_with("`fuse_qkv_projections()`", FUSED)
@pytest.mark.parametrize(("name", "role"), [("unet", "self_attention"), ("unet", "block"), *(("flux", role) for role in ROLES)])
def test_fused_projections_change_nothing(name, role):
    model, inputs = model_of(name)
    expected = merged_alone(model, lambda: predict(model, inputs), role)
    model.fuse_qkv_projections()
    assert close(lawful(model, lambda: predict(model, inputs), role), expected)


@works_with("`fuse_qkv_projections()`", FUSED)
@pytest.mark.parametrize(("name", "options"), [("unet", {}), ("flux", {"rotary": "before"})])
def test_keys_that_merge_before_a_fused_projection_are_refused(name, options):
    model, inputs = model_of(name)
    model.fuse_qkv_projections()
    with pytest.raises(ValueError, match="got fused ones") as raised, merging(model, "retom", roles="key_value", **options):
        predict(model, inputs)
    assert "\n" not in str(raised.value)


@pytest.fixture
def perturbed():
    parts = tiny_pipeline().components
    pipe = diffusers.StableDiffusionPAGPipeline(**parts, requires_safety_checker=False, pag_applied_layers=["down", "mid", "up"])
    pipe.set_progress_bar_config(disable=True)
    return pipe


def perturb(pipe, scale=3.0, guidance=3.0, prompts=2):
    generators = [torch.Generator().manual_seed(seed) for seed in range(prompts)]
    words = ["a noto apple", "a flat dog"][:prompts]
    settings = {"num_inference_steps": 2, "generator": generators, "output_type": "pt", "guidance_scale": guidance}
    return pipe(words, pag_scale=scale, **settings).images


PAG = "yes; not with `key_value` or log sizes, which are refused: its processors take keys from the tokens themselves"


@works_with("PAG", PAG)
@pytest.mark.parametrize("role", ("self_attention", "cross_attention", "feed_forward", "block"))
def test_perturbed_attention_guides_merged_images_too(role, perturbed):
    merged = lawful(perturbed, lambda: perturb(perturbed), role)
    assert not close(merged_alone(perturbed, lambda: perturb(perturbed, scale=0.0), role), merged)


@works_with("PAG", PAG)
@pytest.mark.parametrize(("guidance", "parts"), [(3.0, 3), (1.0, 2)])
def test_perturbed_rows_share_the_conditional_plan(guidance, parts, perturbed):
    seen = []
    with merging(perturbed, "retom", window=2, roles="feed_forward", share="cfg", refresh=1) as session:
        session.observe(lambda x, ctx, plan, made: seen.append((x, plan)))
        perturb(perturbed, guidance=guidance)
    assert seen and all(len(x) == 2 * parts for x, _ in seen)
    with merging(perturbed, "retom", window=2, roles="feed_forward", share=(), refresh=1) as session:
        session.observe(lambda x, ctx, plan, made: alone.append((x, plan)))
        alone = []
        perturb(perturbed, guidance=guidance)
    conditional = slice(2 * (parts - 2), 2 * (parts - 1))
    (x, shared), (y, own) = seen[0], alone[0]
    assert torch.equal(x, y)
    for part in shared.assign.chunk(parts):
        assert torch.equal(part, own.assign[conditional])


@works_with("PAG", PAG)
@pytest.mark.parametrize("options", ({"roles": "key_value"}, {"roles": "self_attention", "proportional": True}))
def test_merged_keys_in_perturbed_attention_are_refused(options, perturbed):
    with (
        pytest.raises(ValueError, match="PAGCFGIdentitySelfAttnProcessor2_0 cannot use merged keys or log sizes") as raised,
        merging(perturbed, "retom", window=2, **options),
    ):
        perturb(perturbed)
    assert "\n" not in str(raised.value)


@works_with("PAG", PAG)
def test_perturbed_attention_of_text_and_image_needs_merging_without_log_sizes():
    from diffusers.models.attention_processor import PAGCFGJointAttnProcessor2_0

    model, inputs = build("sd3")
    inputs = {key: torch.cat([value, value[:1]]) for key, value in inputs.items()}
    for block in model.transformer_blocks:
        block.attn.set_processor(PAGCFGJointAttnProcessor2_0())
    lawful(model, lambda: predict(model, inputs), "self_attention", proportional=False)
    with pytest.raises(ValueError, match="cannot use merged keys or log sizes"), merging(model, "retom"):
        predict(model, inputs)


@works_with("FreeU", "yes")
@pytest.mark.parametrize("role", ("self_attention", "block"))
def test_freeu_filters_merged_features_too(role):
    pipe = tiny_pipeline()
    call = lambda: draw(pipe, 2)  # noqa: E731
    plain = merged_alone(pipe, call, role)
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    assert not close(lawful(pipe, call, role), plain)
    pipe.disable_freeu()
    assert torch.equal(merged_alone(pipe, call, role), plain)


@works_with("attention slicing", "yes, in U-Nets")
@pytest.mark.parametrize("options", ({}, {"proportional": True}))
@pytest.mark.parametrize("role", ROLES)
def test_sliced_attention_changes_nothing(role, options):
    pipe = tiny_pipeline()
    call = lambda: draw(pipe, 2)  # noqa: E731
    expected = merged_alone(pipe, call, role, **options)
    pipe.enable_attention_slicing(1)
    assert close(lawful(pipe, call, role, **options), expected)


@works_with("VAE slicing and tiling", "yes; they do not touch the denoiser")
def test_slices_and_tiles_of_the_vae_leave_latents_alone():
    pipe = tiny_pipeline()

    def call(kind):
        settings = {"num_inference_steps": 2, "output_type": kind, "generator": torch.Generator().manual_seed(0)}
        return torch.as_tensor(pipe(["a noto apple"] * 2, **settings).images)

    with merging(pipe, "retom", window=2):
        latents, images = call("latent"), call("pt")
        pipe.vae.enable_slicing()
        assert close(call("pt"), images) and torch.equal(call("latent"), latents)
        pipe.vae.enable_tiling()
        assert torch.equal(call("latent"), latents) and call("pt").isfinite().all()


@works_with("`channels_last`", "yes")
@pytest.mark.parametrize("role", ROLES)
def test_channels_last_changes_nothing(role):
    model, inputs = unet()
    expected = merged_alone(model, lambda: predict(model, inputs), role)
    model.to(memory_format=torch.channels_last)
    inputs["sample"] = inputs["sample"].contiguous(memory_format=torch.channels_last)
    assert close(lawful(model, lambda: predict(model, inputs), role), expected)


@works_with("half precision", "yes (bfloat16)")
@pytest.mark.parametrize(("name", "role"), [(name, role) for name in ("unet", "flux") for role in ROLES])
def test_half_precision_stays_half(name, role):
    model, inputs = model_of(name)
    model = model.bfloat16()
    inputs = {
        k: v.bfloat16() if v.is_floating_point() and k not in ("timestep", "img_ids", "txt_ids") else v for k, v in inputs.items()
    }
    assert lawful(model, lambda: predict(model, inputs), role).dtype == torch.bfloat16


QUANTIZED = "yes: int8 of torch itself and of torchao, on a CPU"


@works_with("quantized weights", QUANTIZED)
@pytest.mark.parametrize("role", ROLES)
def test_layers_that_torch_quantizes_are_merged_as_any_others(role):
    model, inputs = unet()
    expected = merged_alone(model, lambda: predict(model, inputs), role)
    model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)
    merged = lawful(model, lambda: predict(model, inputs), role)
    assert not torch.equal(merged, expected) and close(merged, expected, 0.3)


@works_with("quantized weights", QUANTIZED)
@pytest.mark.parametrize(
    ("name", "role"), [("unet", "self_attention"), ("unet", "key_value"), ("flux", "key_value"), ("flux", "block")]
)
def test_int8_weights_are_merged_as_any_others(name, role):
    quantization = pytest.importorskip("torchao.quantization")
    model, inputs = model_of(name)
    expected = merged_alone(model, lambda: predict(model, inputs), role)
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    merged = lawful(model, lambda: predict(model, inputs), role)
    assert not torch.equal(merged, expected) and close(merged, expected, 0.3)


CACHED = "yes with `self_attention`, `key_value` and `feed_forward`; `block` is refused: it would keep merged tokens"


@pytest.fixture
def flux():
    pipe = tiny_flux_pipeline()
    pipe.transformer.eval()
    return pipe


def cache_of(name, **settings):
    """A cache of diffusers, where the release has it."""
    if not hasattr(diffusers, name):
        pytest.skip(f"this release of diffusers has no {name}")
    return getattr(diffusers, name)(**settings)


@contextmanager
def cached(pipe, config):
    pipe.transformer.enable_cache(config)
    try:
        yield
    finally:
        pipe.transformer.disable_cache()


@contextmanager
def counted(module):
    """How often a module runs, not counting what a cache returns in its place."""
    runs = []
    handle = module.register_forward_hook(lambda *_: runs.append(1))
    yield runs
    handle.remove()


@works_with("FirstBlockCache", CACHED)
@pytest.mark.parametrize("role", IN_BLOCKS)
def test_first_block_cache_skips_merged_blocks(role, flux):
    plain, part = merged_alone(flux, lambda: draw(flux), role), flux.transformer.single_transformer_blocks[0].proj_mlp
    with cached(flux, cache_of("FirstBlockCacheConfig", threshold=-1.0)):  # nothing is skipped
        assert torch.equal(lawful(flux, lambda: draw(flux), role), plain)
    with cached(flux, cache_of("FirstBlockCacheConfig", threshold=1e9)):  # all but the first step
        merged = lawful(flux, lambda: draw(flux), role)
        with counted(part) as runs:
            assert torch.equal(merged_alone(flux, lambda: draw(flux), role), merged)
    assert len(runs) == 1 and not close(merged, plain)


@works_with("FirstBlockCache", CACHED)
def test_whole_merged_blocks_are_not_cached(flux):
    config = cache_of("FirstBlockCacheConfig", threshold=1e9)
    with cached(flux, config), pytest.raises(ValueError, match="keeps merged tokens") as raised:
        merging(flux, "retom", roles="block")
    assert "\n" not in str(raised.value)
    with merging(flux, "retom", roles="block"):
        draw(flux, 1)
        with cached(flux, config), pytest.raises(ValueError, match="FBCHeadBlockHook keeps merged tokens"):
            draw(flux, 1)


RATIOS = {"num_inference_steps": 4, "mag_ratios": [1.0] * 4, "threshold": 10.0, "retention_ratio": 0.25, "max_skip_steps": 9}


@works_with("MagCache", CACHED)
@pytest.mark.parametrize("role", IN_BLOCKS)
def test_mag_cache_skips_merged_blocks(role, flux):
    plain = merged_alone(flux, lambda: draw(flux), role)
    with cached(flux, cache_of("MagCacheConfig", **RATIOS)):
        assert not close(lawful(flux, lambda: draw(flux), role), plain)
        with pytest.raises(ValueError, match="keeps merged tokens"):
            merging(flux, "retom", roles="block")


BROADCAST = "yes with `key_value` and `feed_forward`; `self_attention` and `block` are refused: it would keep merged tokens"


def broadcast(pipe):
    return cache_of(
        "PyramidAttentionBroadcastConfig",
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 1001),
        current_timestep_callback=lambda: pipe.current_timestep,
    )


def taylor(pipe):
    return cache_of("TaylorSeerCacheConfig", cache_interval=3, disable_cache_before_step=1, taylor_factors_dtype=torch.float32)


@works_with("PyramidAttentionBroadcast", BROADCAST)
@pytest.mark.parametrize("role", ("key_value", "feed_forward"))
def test_broadcast_attention_is_that_of_merged_keys(role, flux):
    check_cached_attention(flux, broadcast(flux), role)


@works_with("TaylorSeer", BROADCAST)
@pytest.mark.parametrize("role", ("key_value", "feed_forward"))
def test_extrapolated_attention_is_that_of_merged_keys(role, flux):
    check_cached_attention(flux, taylor(flux), role)


def check_cached_attention(pipe, config, role):
    """Some calls of the attention are skipped, and no site is left out for that."""
    plain = merged_alone(pipe, lambda: draw(pipe), role)
    with cached(pipe, config):
        call = lambda: (pipe.transformer._reset_stateful_cache(), draw(pipe))[1]  # noqa: E731
        merged = lawful(pipe, call, role)
        with merging(pipe, "retom", window=2, ratio=0.5, roles=role) as session:
            assert torch.equal(call(), merged)
            assert not any("left out" in row["note"] for row in session.report().to_dicts())
    assert not close(merged, plain)


@works_with("PyramidAttentionBroadcast", BROADCAST)
@works_with("TaylorSeer", BROADCAST)
@pytest.mark.parametrize("config", (broadcast, taylor))
@pytest.mark.parametrize("role", ("self_attention", "block"))
def test_attention_of_merged_tokens_is_not_cached(config, role, flux):
    with cached(flux, config(flux)), pytest.raises(ValueError, match="keeps merged tokens") as raised:
        merging(flux, "retom", roles=role)
    assert "\n" not in str(raised.value)


@works_with("FasterCache", BROADCAST)
@pytest.mark.parametrize("role", ("key_value", "feed_forward", "self_attention", "block"))
def test_faster_cache_runs_half_of_a_merged_batch(role, tmp_path):
    save("cogvideox", tmp_path)
    pipe, arguments = load(tmp_path)
    call = lambda: (pipe.transformer._reset_stateful_cache(), generate(pipe, arguments))[1]  # noqa: E731
    pipe.transformer.enable_cache(
        cache_of(
            "FasterCacheConfig",
            spatial_attention_timestep_skip_range=(-1, 1001),
            unconditional_batch_timestep_skip_range=(-1, 1001),
            unconditional_batch_skip_range=3,
            tensor_format="BFCHW",
            current_timestep_callback=lambda: pipe.current_timestep,
        )
    )
    if role in ("self_attention", "block"):
        with pytest.raises(ValueError, match="keeps merged tokens"):
            merging(pipe, "retom", roles=role)
        return
    batches = []
    pipe.transformer.transformer_blocks[0].register_forward_pre_hook(
        lambda _, args, kwargs: batches.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    lawful(pipe, call, role)
    assert set(batches) == {1, 2}


@works_with("SeaCache", CACHED)
@pytest.mark.parametrize("role", IN_BLOCKS)
def test_sea_cache_skips_merged_blocks(role):
    model, inputs = build("wan")

    def call():
        model._reset_stateful_cache()
        outputs = []
        for i, t in enumerate((999.0, 900.0, 800.0, 700.0)):
            with model.cache_context("cond", step_index=i, sigma=t / 1000, num_inference_steps=4):
                outputs.append(predict(model, inputs | {"timestep": torch.full_like(inputs["timestep"], t)}))
        return torch.stack(outputs)

    model.enable_cache(cache_of("SeaCacheConfig", threshold=1e9))
    with counted(model.blocks[0].ffn) as runs:
        merged = lawful(model, call, role)
    skipped = len(runs)
    model.disable_cache()
    model.enable_cache(cache_of("SeaCacheConfig", threshold=0.0))
    with counted(model.blocks[0].ffn) as runs:
        assert not close(lawful(model, call, role), merged)
    assert skipped < len(runs)
    with pytest.raises(ValueError, match="keeps merged tokens"):
        merging(model, "retom", roles="block")


@works_with("TextKVCache", CACHED)
@pytest.mark.parametrize("role", ("self_attention", "key_value"))
def test_keys_of_the_text_are_cached_beside_merged_ones(role):
    if not hasattr(diffusers, "NucleusMoEImageTransformer2DModel"):
        pytest.skip("this release of diffusers has none")
    model, inputs = build("nucleus")
    model.enable_cache(cache_of("TextKVCacheConfig"))

    def call():
        model._reset_stateful_cache()
        return torch.stack([predict(model, inputs | {"timestep": inputs["timestep"] * t}) for t in (1.0, 0.8)])

    with counted(model.transformer_blocks[0].attn.add_k_proj) as runs:
        lawful(model, call, role)
    assert len(runs) == 4  # of eight steps: the second of each call takes the keys of the first
    with pytest.raises(ValueError, match="keeps merged tokens"):
        merging(model, "retom", roles="block")


BACKENDS = (
    "yes where no text attends beside the image and no keys merge inside the attention; elsewhere the site is left out from its "
    "second call on, and the report says so"
)


@works_with("other attention backends (xformers, flash, sage, flex)", BACKENDS)
@pytest.mark.parametrize(
    ("name", "role", "merges"),
    [
        ("wan", "self_attention", True),
        ("wan", "key_value", False),
        ("flux", "self_attention", False),
        ("flux", "feed_forward", True),
    ],
)
def test_another_backend_merges_or_is_left_out_and_says_so(name, role, merges, monkeypatch):
    """Attention by another function of torch stands for that of another package: both need a GPU."""
    from diffusers.models import attention_dispatch

    def other(query, key, value, **options):
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        return ((query @ key.mT / query.shape[-1] ** 0.5).softmax(-1) @ value).transpose(1, 2)

    model, inputs = model_of(name)
    for module in (f"transformer_{name}",):
        monkeypatch.setattr(f"diffusers.models.transformers.{module}.dispatch_attention_fn", other)
    assert attention_dispatch.dispatch_attention_fn is not other
    base = predict(model, inputs)
    with merging(model, "retom", ratio=0.5, window=2, roles=role) as session:
        first = predict(model, inputs)
        session.new_image()
        second = predict(model, inputs)
        notes = [row["note"] for row in session.report().to_dicts()]
        assert torch.equal(first, base) is (role == "key_value")
        assert torch.equal(second, first if merges else base)
        assert all(("left out" in note) is not merges for note in notes)
        session.remove_hooks()


def test_the_page_has_todays_table():
    page = (Path(__file__).parent.parent / "docs" / "works-with.md").read_text(encoding="utf-8")
    assert pasted(page) == page, "python tests/works_with.py docs/works-with.md"
