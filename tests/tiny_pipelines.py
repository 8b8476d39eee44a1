"""Whole random pipelines of the families beyond the U-Net, and the arguments with which they make something small."""

import diffusers
import torch
import transformers
from diffusers.pipelines.stable_audio import StableAudioProjectionModel
from tiny import tiny_flux_pipeline, tiny_pipeline
from tiny_families import FAMILIES, strengthened
from tokenizers.pre_tokenizers import ByteLevel

from mergekit_diff.experiments.models.embedded import captions
from mergekit_diff.experiments.models.embedded import text as clip
from mergekit_diff.experiments.tasks.call import Call

SIDE = 32  # pixels of an image
PROMPT = "a noto apple"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def _model(name, **changes):
    return strengthened(FAMILIES[name].build(**changes)[0])


def _vae():
    """Two pixels on a side of a latent, four channels."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIDE,
        shift_factor=0.0,
    )


def _t5(kind, width):
    """A T5-type encoder with states of this width, and its tokenizer."""
    tokenizer = captions.new_tokenizer()
    shape = {"d_model": width, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "use_cache": False}
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), is_encoder_decoder=False, **shape)
    return getattr(transformers, f"{kind}EncoderModel")(config), tokenizer


def _clip_with_projection():
    tokenizer = clip.new_tokenizer()
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    shape = {"hidden_size": 32, "intermediate_size": 37, "projection_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=16, **shape, **ids)
    return transformers.CLIPTextModelWithProjection(config), tokenizer


def _bytes_tokenizer():
    """A token for every byte, as Qwen's tokenizer has them below its merges."""
    letters = sorted(ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*letters, "<|endoftext|>", "<|im_start|>", "<|im_end|>"])}
    tokenizer = transformers.Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=2048)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _flow():
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)


def flux():
    return tiny_flux_pipeline(), {"max_sequence_length": 16, "height": SIDE, "width": SIDE}


def sd3():
    (one, words), (two, _) = _clip_with_projection(), _clip_with_projection()
    three, pieces = _t5("T5", 32)
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=_model("sd3"),
        scheduler=_flow(),
        vae=_vae(),
        text_encoder=one,
        tokenizer=words,
        text_encoder_2=two,
        tokenizer_2=words,
        text_encoder_3=three,
        tokenizer_3=pieces,
    )
    return pipe, {"height": SIDE, "width": SIDE, "max_sequence_length": 16}


def pixart():
    encoder, tokenizer = _t5("T5", 32)
    scheduler = diffusers.EulerDiscreteScheduler()
    pipe = diffusers.PixArtAlphaPipeline(tokenizer, encoder, _vae(), _model("pixart"), scheduler)
    plain = {"use_resolution_binning": False, "clean_caption": False, "max_sequence_length": 16}
    return pipe, {"height": SIDE, "width": SIDE, **plain}


def qwen_image():
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = _bytes_tokenizer()
    rope = {"rope_type": "default", "type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    words = {**shape, "num_key_value_heads": 2, "rope_scaling": rope, "vocab_size": len(tokenizer)}
    eyes = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    config = transformers.Qwen2_5_VLConfig(text_config=words, vision_config=eyes)
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    encoder = transformers.Qwen2_5_VLForConditionalGeneration(config)
    pipe = diffusers.QwenImagePipeline(_flow(), vae, encoder, tokenizer, _model("qwen_image"))
    return pipe, {"height": SIDE, "width": SIDE, "negative_prompt": ""}


def z_image():
    tokenizer = _bytes_tokenizer()
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}
    config = transformers.Qwen3Config(num_key_value_heads=2, vocab_size=len(tokenizer), **shape)
    pipe = diffusers.ZImagePipeline(_flow(), _vae(), transformers.Qwen3Model(config), tokenizer, _model("z_image"))
    return pipe, {"height": SIDE, "width": SIDE, "max_sequence_length": 32}


def cogvideox():
    encoder, tokenizer = _t5("T5", 32)
    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 2,
        up_block_types=("CogVideoXUpBlock3D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=2,
    )
    pipe = diffusers.CogVideoXPipeline(tokenizer, encoder, vae, _model("cogvideox"), diffusers.CogVideoXDDIMScheduler())
    return pipe, {"height": 16, "width": 24, "num_frames": 5, "max_sequence_length": 7}


def wan():
    """Both denoisers: one for much noise, one for little."""
    encoder, tokenizer = _t5("UMT5", 16)
    vae = diffusers.AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=2,
        scale_factor_spatial=4,
    )
    denoisers = {"transformer": _model("wan"), "transformer_2": _model("wan")}
    pipe = diffusers.WanPipeline(tokenizer, encoder, vae, _flow(), **denoisers, boundary_ratio=0.75)
    return pipe, {"height": 32, "width": 48, "num_frames": 5, "max_sequence_length": 16}


def ltx():
    encoder, tokenizer = _t5("T5", 16)
    four, five = (lambda value: (value,) * 4), (lambda value: (value,) * 5)
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=four(8),
        decoder_block_out_channels=four(8),
        layers_per_block=five(1),
        decoder_layers_per_block=five(1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=five(False),
        upsample_residual=four(False),
        upsample_factor=four(1),
        patch_size=1,
        patch_size_t=1,
    )
    pipe = diffusers.LTXPipeline(_flow(), vae, encoder, tokenizer, _model("ltx"))
    return pipe, {"height": 32, "width": 32, "num_frames": 9, "max_sequence_length": 16}


def animatediff():
    parts = tiny_pipeline().components
    shape = {"motion_layers_per_block": 1, "motion_norm_num_groups": 8, "motion_num_attention_heads": 2}
    adapter = diffusers.MotionAdapter(block_out_channels=(16, 32), **shape)
    scheduler = diffusers.EulerDiscreteScheduler(beta_schedule="linear", steps_offset=1)
    names = ("vae", "text_encoder", "tokenizer", "unet")
    pipe = diffusers.AnimateDiffPipeline(**{name: parts[name] for name in names}, motion_adapter=adapter, scheduler=scheduler)
    return pipe, {"height": SIDE, "width": SIDE, "num_frames": 4}


def hunyuan_video():
    tokenizer, words = _bytes_tokenizer(), clip.new_tokenizer()
    shape = {"intermediate_size": 16, "num_attention_heads": 2}
    llama = transformers.LlamaConfig(hidden_size=16, num_hidden_layers=3, vocab_size=len(tokenizer), **shape)
    ids = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    pooled = transformers.CLIPTextConfig(hidden_size=8, num_hidden_layers=1, vocab_size=len(words), **shape, **ids)
    vae = diffusers.AutoencoderKLHunyuanVideo(
        block_out_channels=(8,) * 4, latent_channels=4, layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False
    )
    pipe = diffusers.HunyuanVideoPipeline(
        transformers.LlamaModel(llama),
        tokenizer,
        _model("hunyuan_video"),
        vae,
        _flow(),
        transformers.CLIPTextModel(pooled),
        words,
    )
    plain = {"negative_prompt": "blurry", "prompt_template": {"template": "{}", "crop_start": 0}, "max_sequence_length": 16}
    return pipe, {"height": 64, "width": 64, "num_frames": 5, **plain}


def stable_audio():
    encoder, tokenizer = _t5("T5", 16)
    vae = diffusers.AutoencoderOobleck(
        encoder_hidden_size=4,
        downsampling_ratios=[2],
        channel_multiples=[1],
        decoder_channels=4,
        decoder_input_channels=4,
        sampling_rate=44,
    )
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(prediction_type="v_prediction", sigma_data=1.0)
    conditions = StableAudioProjectionModel(16, 16, 0.0, 8.0)
    pipe = diffusers.StableAudioPipeline(vae, encoder, conditions, tokenizer, _model("stable_audio"), scheduler)
    return pipe, {"audio_end_in_s": 2.0}


MADE = (flux, sd3, pixart, qwen_image, z_image, cogvideox, wan, ltx, animatediff, hunyuan_video, stable_audio)
PIPELINES = {build.__name__: build for build in MADE}
GUIDANCE = {"qwen_image": "true_cfg_scale", "hunyuan_video": "true_cfg_scale"}


def save(name, folder):
    """Write a pipeline, with a record of how it is called, into a folder; random weights are always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe, arguments = PIPELINES[name]()
        pipe.save_pretrained(folder)
    Call(GUIDANCE.get(name, Call.guidance), arguments).write(folder)


def load(folder):
    """A saved pipeline, and the arguments of a call with guidance."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe, Call.read(folder).keywords(3.0)


def generate(pipe, arguments, steps=4, seed=0):
    """What a pipeline makes, an image or the frames of a video, as a tensor."""
    output = pipe(
        PROMPT,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
        **arguments,
    )
    return output[0] if isinstance(output[0], torch.Tensor) else torch.stack(list(output[0]))
