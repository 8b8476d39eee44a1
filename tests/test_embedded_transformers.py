"""What must hold for the recipe of every embedded transformer model before hours are spent on it."""

import json

import pytest
import torch
from PIL import Image
from recipes import RECIPES, assert_same, fill, kill_and_resume, parameters, part, seeded, shrink, state

from mergekit_diff.experiments.models import load_pipeline
from mergekit_diff.experiments.models.embedded import autoencoder, card, cutouts, data, export, flow, logs, scenes
from mergekit_diff.experiments.models.embedded.__main__ import main
from mergekit_diff.experiments.models.embedded.scenes import Scene


@pytest.fixture(params=RECIPES)
def recipe(request, monkeypatch):
    """The recipe of every model, made small."""
    shrink(request.param, monkeypatch)
    return part(request.param, "recipe").RECIPE


@pytest.fixture
def flux(monkeypatch):
    """One small recipe, where what is tested is the same for all."""
    shrink("emoji-flux", monkeypatch)
    return part("emoji-flux", "recipe").RECIPE


@pytest.fixture
def first(recipe, tmp_path):
    """A model in its first phase, four steps long, by the name of its work folder."""
    return lambda name, steps=4: recipe.flow(fill(recipe.name, tmp_path / name), next(iter(recipe.flow.phases)), steps)


@pytest.mark.parametrize("name", RECIPES)
def test_all_parts_together_have_at_most_ten_million_parameters(name):
    from mergekit_diff.experiments.models.embedded import vae

    autoencoders = {"emoji-flux": vae, "emoji-video": part("emoji-video", "model")}
    assert parameters(part(name, "model").new_modules()) + parameters(autoencoders[name].new_vae()) <= 10_000_000


# initial weights


@pytest.mark.parametrize("name", RECIPES)
def test_the_first_prediction_is_zero_and_the_last_layer_learns_from_it(name, tmp_path, monkeypatch):
    new_transformer, kind = part(name, "model").new_transformer, part(name, "recipe").RECIPE.flow
    shrink(name, monkeypatch)
    monkeypatch.setattr(part(name, "model"), "new_transformer", new_transformer)
    module = kind(fill(name, tmp_path / "one"), next(iter(kind.phases)))
    noisy, _ = module.sample(seeded())
    predicted = module.velocity(noisy, torch.tensor([0.3, 0.9]), ["a noto apple", ""])
    assert predicted.shape == noisy.shape and predicted.abs().max() == 0
    (predicted - 1).square().mean().backward()
    assert module.model["transformer"].proj_out.weight.grad.abs().max() > 0


def test_every_block_of_the_images_transformer_begins_as_the_identity():
    transformer = part("emoji-flux", "model").new_transformer()
    gates = [
        layer
        for name, layer in transformer.named_modules()
        if name.endswith(("norm1.linear", "norm1_context.linear", "norm.linear"))
    ]
    assert len(gates) == 2 * 2 + 4 and not any(layer.weight.any() for layer in gates)
    others = [layer.weight for name, layer in transformer.named_modules() if name.endswith(("to_q", "proj_mlp", "x_embedder"))]
    assert all(float(weight.std()) > 0.02 for weight in others)


# batches


def test_a_batch_is_drawn_from_the_number_of_the_step_alone(first):
    module = first("one")
    (x, captions), (again, same), (other, _) = (module.sample(seeded(seed)) for seed in (7, 7, 8))
    assert torch.equal(x, again) and captions == same
    assert not torch.equal(x, other)
    assert len(x) == len(captions) == module.phase.batch


def test_held_out_pairs_are_never_trained_on():
    assert set(cutouts.pairs(held_out=True)) == data.held_out()
    assert not set(cutouts.pairs()) & data.held_out()
    assert len(cutouts.pairs()) == 230


def test_training_captions_sometimes_leave_out_the_background_the_style_or_everything():
    drawn = scenes.random_scenes(cutouts.pairs(), 2000, seeded(), ("rising",))
    captions = scenes.training_captions(drawn, seeded())
    named = [caption for caption in captions if caption]
    assert 1 - len(named) / 2000 == pytest.approx(scenes.DROPPED, abs=0.02)
    assert sum(" on " in caption for caption in named) / len(named) == pytest.approx(scenes.NAMED, abs=0.04)
    assert sum(caption.split()[1] in data.STYLES for caption in named) / len(named) == pytest.approx(0.9, abs=0.02)
    assert all(" rising" in caption for caption in named)


def test_scenes_take_all_pairs_and_motions_equally_often_on_many_backgrounds():
    pairs = [("red-apple", "noto"), ("dog-face", "3d")]
    drawn = scenes.scenes(pairs, 40, seeded(), ("rising", "falling"))
    assert [(scene.name, scene.style) for scene in drawn[:4]] == pairs * 2
    assert all(sum((s.name, s.motion) == (name, m) for s in drawn) == 10 for name, _ in pairs for m in ("rising", "falling"))
    assert len({scene.background for scene in drawn}) > 10
    assert drawn == scenes.scenes(pairs, 40, seeded(), ("rising", "falling")) != scenes.scenes(pairs, 40, seeded())


def test_a_scene_says_what_it_shows():
    from mergekit_diff.experiments.models.embedded.backgrounds import Background

    scene = Scene("dog-face", "flat", Background("plain", "blue"), "rising")
    assert str(scene) == "a flat dog rising on blue" and scene.foreground() == "a flat dog"


# noise levels


def test_one_noise_level_of_a_batch_is_from_each_part_of_the_logit_normal_distribution():
    levels = flow.noise_levels(16, 1.0, seeded())
    parts = (torch.special.ndtr(torch.logit(levels)) * 16).long()
    assert sorted(parts.tolist()) == list(range(16))
    assert not torch.equal(levels, flow.noise_levels(16, 1.0, seeded(1)))


@pytest.mark.parametrize(("name", "size"), [("emoji-flux", 256), ("emoji-flux", 1024), ("emoji-video", 9)])
def test_noise_levels_of_training_are_raised_as_those_of_sampling(name, size, monkeypatch):
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    shift = part(name, "recipe").RECIPE.flow.shift.fget(type("Sized", (), {"size": size}))
    scheduler = part(name, "model").new_scheduler()
    config = scheduler.config
    if config.use_dynamic_shifting:
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        scheduler.set_timesteps(sigmas=[0.75, 0.5, 0.25], mu=calculate_shift(size, *(config[name] for name in names)))
        plain, found = torch.tensor([0.75, 0.5, 0.25]), scheduler.sigmas[:-1]
    else:
        plain, found = torch.arange(1000, 0, -1) / 1000, scheduler.sigmas
    torch.testing.assert_close(shift * plain / (1 + (shift - 1) * plain), found)


# training


@pytest.mark.parametrize("number", [0, 1, 2], ids=["vae", "first phase", "second phase"])
def test_a_training_that_was_killed_ends_with_the_same_weights_to_the_bit(number, recipe, tmp_path, monkeypatch):
    phase = recipe.phases[number]
    whole, killed = (fill(recipe.name, tmp_path / name, vae=number > 0) for name in ("whole", "killed"))

    def train(folder):
        if not number:
            recipe.train_vae(folder, 4, None)
        else:
            flow.train(recipe.flow(folder, list(recipe.flow.phases)[number - 1], steps=4))

    if phase.after is not None:
        for folder in (whole, killed):
            flow.train(recipe.flow(folder, next(iter(recipe.flow.phases)), steps=1))
    train(whole)
    kill_and_resume(monkeypatch, recipe.flow if number else autoencoder.Autoencoder, lambda: train(killed))
    assert_same(state(killed, phase.name), state(whole, phase.name))


def test_a_training_whose_time_is_over_ends_with_a_checkpoint_and_goes_on_later(flux, tmp_path):
    whole, hurried = (fill(flux.name, tmp_path / name) for name in ("whole", "hurried"))
    assert flow.train(flux.flow(whole, 256, steps=3))
    ended = [flow.train(flux.flow(hurried, 256, steps=3), minutes=0) for _ in range(3)]  # one step each
    assert ended == [False, False, True]
    assert_same(state(hurried, "transformer-256"), state(whole, "transformer-256"))


def test_a_training_can_be_made_longer(flux, tmp_path, monkeypatch):
    folder, step, reached = fill(flux.name, tmp_path / "one"), flux.flow.training_step, []
    monkeypatch.setattr(flux.flow, "training_step", lambda self, *args: reached.append(self.global_step) or step(self, *args))
    for steps in (2, 5):
        flow.train(flux.flow(folder, 256, steps=steps))
    assert reached == [0, 1, 2, 3, 4]


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(flux, tmp_path, monkeypatch):
    import lightning as L

    folder, save = fill(flux.name, tmp_path / "one"), L.Trainer.save_checkpoint

    def torn(trainer, path, *args, **kwargs):
        if trainer.global_step == 4:
            path.write_bytes(b"half of a checkpoint")
            raise SystemExit("killed")
        save(trainer, path, *args, **kwargs)

    monkeypatch.setattr(L.Trainer, "save_checkpoint", torn)
    with pytest.raises(SystemExit):
        flow.train(flux.flow(folder, 256, steps=6))
    assert export.trained(flux.flow, folder, 256)[1] == 2


def test_an_autoencoder_is_written_after_its_last_step_only(recipe, tmp_path):
    folder = fill(recipe.name, tmp_path / "one", vae=False)
    assert recipe.train_vae(folder, 2, 0) is None and not (folder / "vae").exists()
    assert recipe.train_vae(folder, 2, 0) == folder / "vae" and (folder / "vae" / "config.json").exists()


def test_a_training_may_begin_with_the_weights_of_a_pipeline_folder(recipe, first, tmp_path, monkeypatch):
    module = first("one", steps=2)
    flow.train(module)
    export.export_flow(recipe.flow, module.folder, module.size, tmp_path / "pipeline")
    again, seen = first("two", steps=2), {}
    monkeypatch.setattr(flow, "fit", lambda module, *_: seen.update(model=module.model.state_dict(), ema=module.ema))
    flow.train(again, source=tmp_path / "pipeline")
    trained = state(module.folder, module.phase.name)
    mean = {name.removeprefix("ema.model."): w.half().float() for name, w in trained.items() if name.startswith("ema.model.")}
    assert_same(dict(seen["model"]), mean)
    assert_same(dict(seen["ema"].model.state_dict()), mean)


def test_a_phase_begins_with_the_mean_weights_of_the_one_before_and_needs_it(recipe, first, tmp_path, monkeypatch):
    module = first("one", steps=2)
    before = next(iter(recipe.flow.phases.values()))
    second = recipe.flow(module.folder, list(recipe.flow.phases)[1])
    with pytest.raises(FileNotFoundError, match=f"expected a checkpoint of the training {before.name}, got none"):
        flow.train(second)
    flow.train(module)
    seen = {}
    monkeypatch.setattr(flow, "fit", lambda module, *_: seen.update(model=module.model.state_dict(), ema=module.ema))
    flow.train(second)
    trained = state(module.folder, before.name)
    mean = {name.removeprefix("ema.model."): w for name, w in trained.items() if name.startswith("ema.model.")}
    assert_same(dict(seen["model"]), mean)
    assert_same(dict(seen["ema"].model.state_dict()), mean)
    assert int(seen["ema"].updates) == 0


def test_the_loss_falls_on_one_batch(first, monkeypatch):
    module = first("one")
    monkeypatch.setattr(flow, "noise_levels", lambda n, shift, random: torch.full((n,), 0.5))
    optimizer = torch.optim.AdamW(module.model.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        loss = module.training_step(torch.zeros(1), 0)["loss"]  # without a trainer the step stays 0: the same batch
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_loss_is_logged_by_noise_level_and_in_all(first):
    module = first("one", steps=2)
    flow.train(module)
    log, levels = (module.folder / "log" / f"{module.phase.name}{end}.csv" for end in ("", "-levels"))
    assert log.read_text().splitlines()[0] == "step,loss,rate,seconds"
    head, row = levels.read_text().splitlines()
    assert head == "step,0.0 to 0.2,0.2 to 0.4,0.4 to 0.6,0.6 to 0.8,0.8 to 1.0"
    assert row.startswith("2,") and any(row.split(",")[1:])


def test_the_loss_of_a_range_of_noise_levels_is_the_mean_of_its_samples(tmp_path):
    log = logs.LevelLog(tmp_path / "log.csv")
    log.add({"losses": torch.tensor([1.0, 3.0, 5.0]), "levels": torch.tensor([0.1, 0.15, 1.0])})
    log.add({"losses": torch.tensor([8.0]), "levels": torch.tensor([0.0])})
    assert log.row(None) == ["4.00000", "", "", "", "5.00000"]
    assert log.row(None) == [""] * 5


# the pipeline folder, by the commands


def test_an_exported_folder_generates_what_the_training_does(recipe, first, tmp_path):
    flow.train(first("one", steps=2))
    size = next(iter(recipe.flow.phases))
    module, step = export.trained(recipe.flow, tmp_path / "one", size)
    assert step == 2
    exported = export.export_flow(recipe.flow, tmp_path / "one", size, tmp_path / "model")
    assert not [path for path in exported.rglob("*.json") if str(tmp_path) in path.read_text()]  # no folder of this machine
    pipe = load_pipeline(str(exported))
    assert type(pipe).__name__ == {"emoji-flux": "FluxPipeline", "emoji-video": "WanPipeline"}[recipe.name]
    call = module.call.keywords(2.5) | module.arguments()
    call |= {"num_inference_steps": 4, "output_type": "pt", "return_dict": False}
    loaded, own = (p("a noto apple on blue", generator=seeded(), **call)[0] for p in (pipe, module.pipeline()))
    assert loaded.shape[-2:] == (64, 64) and loaded.isfinite().all()
    torch.testing.assert_close(loaded, own, atol=0.02, rtol=0)  # weights were rounded to fp16


def test_a_card_needs_measures_of_the_same_weights(recipe, first, tmp_path):
    flow.train(first("one", steps=2))
    weights = export.export_flow(recipe.flow, tmp_path / "one", next(iter(recipe.flow.phases)), tmp_path / "model")
    with pytest.raises(FileNotFoundError, match=r"expected measures of .*model by the stage evaluate, got none"):
        card.write(recipe, weights, tmp_path / "one", None)


SMALL = {"emoji-flux": {"IMAGES": 8, "HELD_OUT": 6}, "emoji-video": {"VIDEOS": 18, "HELD_OUT": 6, "NAMED_EACH": 1}}
SHEETS = {"emoji-flux": (2 * 128, 128), "emoji-video": (2 * 9 * 64, 64)}


def test_the_commands_train_export_and_evaluate_a_model_in_three_steps_each(recipe, monkeypatch, tmp_path):
    def command(stage, *words):
        monkeypatch.setattr("sys.argv", ["embedded", stage, "--model", recipe.name, "--folder", str(folder), *words])
        main()

    folder, weights = fill(recipe.name, tmp_path / "one", vae=False), tmp_path / "model"
    evaluate = part(recipe.name, "evaluate")
    for name, value in SMALL[recipe.name].items():
        monkeypatch.setattr(evaluate, name, value)
    monkeypatch.setattr(evaluate, "refusal", lambda pipe: "no family")
    monkeypatch.setattr(recipe.flow, "prompts", ("a cactus rising on blue", "a cactus"))
    monkeypatch.setattr(recipe.flow, "columns", 2)
    command("vae", "--steps", "3")
    for size in recipe.flow.phases:
        command("transformer", f"--{recipe.size}", str(size), "--steps", "3")
    command("sheet")
    with Image.open(folder / f"{recipe.phases[-1].name}-000003.png") as sheet:
        assert sheet.size == SHEETS[recipe.name]
    command("export", "--weights", str(weights))
    command("evaluate", "--weights", str(weights))
    (out,) = (folder / "evaluate").iterdir()
    found = json.loads((out / "measures.json").read_text())
    n, held_out = {"emoji-flux": (8, 6), "emoji-video": (18 * 5, 6 * 5)}[recipe.name]
    assert found["seen"]["kid"]["n"] == found["seen"]["kid"]["reference_n"] == n and found["held out"]["n"] == held_out
    assert found["seen"]["captions"] == 6 and found["instrument"] == {"skipped": "no family"}
    assert (out / "name.png").exists() and (out / "answers.txt").read_text()
    command("card", "--weights", str(weights), "--named", "5")
    text = (weights / "MODEL_CARD.md").read_text()
    assert "$" not in text and "| 5 | " in text and "| not measured: no family | monotone |" in text
    assert all(f"| {phase.what} | 3 | {3 * phase.batch} |" in text for phase in recipe.phases)
    assert f"{sum(card.parameters(weights).values()) / 1e6:.1f} million parameters" in text
    assert [line.split(",")[:2] for line in (weights / "training_log.csv").read_text().splitlines()[1:]] == [
        [phase.name, "3"] for phase in recipe.phases
    ]
