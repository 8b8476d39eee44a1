"""Fixtures that tests share: a pipeline, contexts, inputs of a U-Net, a count of a model's hooks."""

import math
import warnings
from dataclasses import dataclass, replace

import pytest
import yaml

from mergekit_diff.experiments.openmp import limit_spinning

limit_spinning()

import torch  # noqa: E402  libgomp reads the setting now
from tiny import tiny_pipeline, tiny_unet  # noqa: E402

from mergekit_diff import LayerContext, MergePlan, MergeStrategy, RatioSchedule, WindowSchedule  # noqa: E402
from mergekit_diff import registry as parts  # noqa: E402

torch.set_num_threads(1)  # tiny models lose more by waiting for a second core than they gain


@pytest.fixture(scope="session", autouse=True)
def small_costs():
    """Costs of a study's cells are those of the embedded model's U-Net: one of Stable Diffusion's size takes seconds a study."""
    from mergekit_diff.experiments.bench import large
    from mergekit_diff.experiments.bench.config import Bench

    with pytest.MonkeyPatch.context() as patch:
        small = {"step": Bench(size="emoji", at="step"), "block": Bench(size="emoji", refresh=[1])}
        patch.setattr(large, "UNET", replace(large.UNET, **small))
        patch.setattr(large, "FLUX", replace(large.FLUX, **small))
        patch.setattr(large, "WAN", replace(large.WAN, **small))
        yield


@pytest.fixture(scope="session")
def context():
    """A context for a grid, with noise that follows from its size."""

    def build(grid, **changes):
        n = math.prod(grid)
        settings = {
            "site": "site",
            "role": "self_attention",
            "stage": "down",
            "depth": 0,
            "num_sites": 4,
            "grid": tuple(grid),
            "level": 0,
            "step": 0,
            "num_steps": 10,
            "timestep": 981.0,
            "progress": 0.0,
            "noise": torch.rand(n, generator=torch.Generator().manual_seed(n)),
            "still": torch.rand(n, generator=torch.Generator().manual_seed(n + 1)),
        }
        return LayerContext(**(settings | changes))

    return build


@pytest.fixture(scope="session")
def tokens():
    """(B, N, C) tokens that are the same for the same shape and seed."""

    def build(batch, n, channels=8, dtype=torch.float32, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, n, channels, generator=generator, dtype=torch.float64).to(dtype)

    return build


@pytest.fixture
def unet():
    return tiny_unet()


@pytest.fixture
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The folder of a tiny pipeline, which no test changes."""
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def video_model(tmp_path_factory):
    """The folder of a tiny WanPipeline of five frames, which no test changes."""
    from tiny_pipelines import save

    folder = tmp_path_factory.mktemp("video-model")
    save("wan", folder)
    return str(folder)


@pytest.fixture
def command(model, tmp_path):
    """Writes a study of the tiny pipeline and returns the words that run it, with its results in the folder "out"."""

    def write(**study):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({"model": model, "out": str(tmp_path / "out")} | study))
        return ["run", str(path)]

    return write


@pytest.fixture(scope="session")
def latents():
    """Keyword arguments of a tiny U-Net's forward."""

    def build(batch=2, h=16, w=16, t=500, seed=0, text=7):
        generator = torch.Generator().manual_seed(seed)
        return {
            "sample": torch.randn(batch, 4, h, w, generator=generator),
            "timestep": torch.tensor(t),
            "encoder_hidden_states": torch.randn(batch, text, 32, generator=generator),
        }

    return build


@pytest.fixture(scope="session")
def predict():
    """The output of a U-Net without gradients."""

    def call(model, inputs):
        with torch.no_grad():
            return model(**inputs).sample

    return call


@pytest.fixture(scope="session")
def draw():
    """Pictures of a pipeline as an array, from a seed for each prompt."""

    def call(pipe, prompt="a noto apple", seeds=0, steps=3, **options):
        seeds = [seeds] if isinstance(seeds, int) else seeds
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        generator = generators if len(generators) > 1 else generators[0]
        settings = {"num_inference_steps": steps, "output_type": "np", "generator": generator} | options
        return pipe(prompt, **settings).images

    return call


@pytest.fixture(scope="session")
def count_hooks():
    """The number of hooks of every sort over all modules of a model."""
    sorts = [name for name in vars(torch.nn.Module()) if "hook" in name and "always" not in name]
    assert "_forward_pre_hooks" in sorts and "_forward_hooks" in sorts

    def count(model):
        return sum(len(getattr(module, sort) or ()) for module in model.modules() for sort in sorts)

    return count


@pytest.fixture
def quiet():
    """Sessions that are meant to merge nothing warn; here they may."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no token was merged")
        yield


@pytest.fixture
def recorder():
    """A strategy that merges every second token into the one before it, and the contexts that it was asked with."""
    seen = []

    @dataclass(frozen=True)
    class Recorder(MergeStrategy):
        """Pairs."""

        ratio: RatioSchedule = 0.5
        window: WindowSchedule = 2

        def plan(self, x, ctx):
            seen.append(ctx)
            target = torch.arange(x.shape[1])
            target -= target % 2
            return MergePlan.from_target(target[None], (x.shape[1] + 1) // 2)

    return Recorder, seen


@pytest.fixture
def registry():
    """A registry in which a test may write: what it registers is forgotten afterwards."""
    parts.load_plugins()
    before = {kind: dict(known) for kind, known in parts._REGISTRY.items()}
    yield parts
    for kind, known in parts._REGISTRY.items():
        known.clear()
        known.update(before[kind])


@pytest.fixture
def families():
    """As ``registry``, for the families of models."""
    from mergekit_diff import sites

    parts.load_plugins()
    before = dict(sites._FAMILIES)
    yield sites
    sites._FAMILIES.clear()
    sites._FAMILIES.update(before)
