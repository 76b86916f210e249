import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from vidsr.errors import MediaError, ModelError, RequestError
from vidsr.models.card import ModelCard, sha256_of
from vidsr.models.load import load, read_state
from vidsr.training import checkpoint, precision, run, srgan
from vidsr.training.recipe import UpscaleRecipe, one_recipe
from vidsr.training.srgan import train

STEPS = 12


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A run of a second: every step is reported and kept."""
    # On a busy machine the measured precision may differ from run to run.
    monkeypatch.setattr(precision, "fastest_precision", lambda _device: "fp32")
    rng = np.random.default_rng(4)
    folder = tmp_path / "pictures" / "train"
    folder.mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (24, 28, 3), dtype=np.uint8)).save(folder / name)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a network waits for its threads longer than it computes
    yield UpscaleRecipe(
        name="tiny-x2",
        data=(folder,),
        network="srgan",
        scale=2,
        channels=4,
        blocks=1,
        steps=STEPS,
        batch=2,
        patch=8,
        degradation="clean",
        critic_channels=2,
        critic_steps=4,
        license="CC0-1.0",
        report_every_seconds=0,
        checkpoint_every_seconds=0,
    )
    torch.set_num_threads(threads)


def losses_of(run_dir):
    return [entry["loss"] for entry in json.loads((run_dir / "checkpoint.json").read_text())["log"]]


def test_one_seed_gives_the_same_losses(recipe, tmp_path):
    first = list(train(recipe, tmp_path / "first"))
    second = list(train(recipe, tmp_path / "second"))
    assert [report.step for report in first] == list(range(1, STEPS + 1))
    assert [report.loss for report in first] == [report.loss for report in second]
    other = list(train(dataclasses.replace(recipe, seed=1), tmp_path / "other"))
    assert [report.loss for report in first] != [report.loss for report in other]


@pytest.mark.parametrize("stop", [1, 5, STEPS])
def test_a_resumed_run_is_the_uninterrupted_one(recipe, tmp_path, stop):
    list(train(recipe, tmp_path / "whole"))
    stopped = train(recipe, tmp_path / "stopped")
    for report in stopped:
        if report.step == stop:
            break
    stopped.close()
    *_, last = train(recipe, tmp_path / "stopped", resume=True)
    assert last.step == last.total_steps == STEPS
    assert losses_of(tmp_path / "stopped") == losses_of(tmp_path / "whole")
    ours = read_state(tmp_path / "stopped" / "tiny-x2.safetensors")
    theirs = read_state(tmp_path / "whole" / "tiny-x2.safetensors")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_training_lowers_the_loss(recipe, tmp_path):
    longer = dataclasses.replace(recipe, steps=60, learning_rate=0.01, checkpoint_every_seconds=60)
    losses = [report.loss for report in train(longer, tmp_path / "run")]
    # From the untrained network's error to the noise's own, with room for a batch's luck.
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.parametrize("steps", [1, 3])
def test_short_runs_stop_where_they_should(recipe, tmp_path, steps):
    reports = list(train(dataclasses.replace(recipe, steps=steps), tmp_path / "run"))
    assert [report.step for report in reports] == list(range(1, steps + 1))


def test_minutes_become_steps_after_the_warm_up(recipe, tmp_path):
    budget = dataclasses.replace(recipe, steps=None, minutes=1 / 600)
    reports = list(train(budget, tmp_path / "run"))
    assert reports[0].total_steps == 0
    assert reports[-1].step == reports[-1].total_steps > run.WARM_UP_STEPS


def test_the_export_loads_and_its_card_is_true(recipe, tmp_path):
    run_dir = tmp_path / "run"
    for report in train(recipe, run_dir):
        if report.step == STEPS:
            break  # the last report comes when all is written
    card, weights = ModelCard.read(run_dir / "tiny-x2.json"), run_dir / "tiny-x2.safetensors"
    assert card.sha256 == sha256_of(weights)
    assert (card.network, card.scale, card.halo) == ("srgan", 2, 10)
    assert card.sizes == {"channels": 4, "blocks": 1}
    assert card.license == "CC0-1.0"
    assert card.trained_on.startswith("pictures/train; ")
    assert str(tmp_path) not in card.trained_on
    assert load(card, weights)(torch.rand(1, 3, 5, 6)).shape == (1, 3, 10, 12)
    assert not list(run_dir.glob("*.part"))


def test_the_validation_is_measured_and_stands_in_the_card(recipe, tmp_path):
    folder = tmp_path / "validation"
    folder.mkdir()
    ramp = np.linspace(0, 255, 260 * 260 * 3).reshape(260, 260, 3).astype(np.uint8)
    Image.fromarray(ramp).save(folder / "ramp.png")
    exam = dataclasses.replace(recipe, steps=2, validation=(folder,))
    *_, last = train(exam, tmp_path / "run")
    assert last.psnr is not None
    assert math.isfinite(last.psnr)
    card = ModelCard.read(tmp_path / "run" / "tiny-x2.json")
    measured = card.measured["validation crops"]
    assert measured.keys() == {"psnr_y", "bicubic_psnr_y"}
    assert measured["psnr_y"] == round(last.psnr, 2)


def test_a_training_is_not_overwritten(recipe, tmp_path):
    next(train(recipe, tmp_path / "run"))
    with pytest.raises(RequestError, match="already holds a training"):
        next(train(recipe, tmp_path / "run"))


def test_a_resume_needs_a_checkpoint_of_this_network(recipe, tmp_path):
    with pytest.raises(ModelError, match="no checkpoint"):
        next(train(recipe, tmp_path / "gone", resume=True))
    next(train(recipe, tmp_path / "run"))
    wider = dataclasses.replace(recipe, channels=8)
    with pytest.raises(ModelError, match="another network"):
        next(train(wider, tmp_path / "run", resume=True))


def test_checkpoints_without_a_precision_still_resume(recipe, tmp_path):
    next(train(recipe, tmp_path / "run"))
    path = tmp_path / "run" / "checkpoint"
    tensors, facts = checkpoint.load(path)
    del facts["precision"]
    checkpoint.save(path, tensors, facts)
    *_, last = train(recipe, tmp_path / "run", resume=True)
    assert last.step == STEPS


def test_a_run_keeps_the_precision_that_it_was_begun_with(recipe, tmp_path, monkeypatch):
    next(train(recipe, tmp_path / "run"))
    monkeypatch.setattr(precision, "fastest_precision", lambda _device: "bf16")
    *_, _ = train(recipe, tmp_path / "run", resume=True)
    assert json.loads((tmp_path / "run" / "checkpoint.json").read_text())["precision"] == "fp32"


def test_a_diverged_training_stops_before_it_spoils_the_checkpoint(recipe, tmp_path):
    hot = dataclasses.replace(recipe, steps=100, learning_rate=1e30)
    with pytest.raises(RequestError, match="diverged"):
        list(train(hot, tmp_path / "run"))
    assert all(math.isfinite(loss) for loss in losses_of(tmp_path / "run"))


def test_a_loss_beyond_all_measure_is_a_divergence_too(recipe, tmp_path, monkeypatch):
    step = srgan.Fidelity.step

    def blown_up(self, low_res, high_res, number):
        losses = step(self, low_res, high_res, number)
        return {"loss": losses["loss"] * (1e4 if number == 40 else 1)}

    monkeypatch.setattr(srgan.Fidelity, "step", blown_up)
    with pytest.raises(RequestError, match=r"diverged before step 41 .*--resume"):
        list(train(dataclasses.replace(recipe, steps=60), tmp_path / "run"))
    assert max(losses_of(tmp_path / "run")) < 1
    monkeypatch.undo()
    *_, last = train(dataclasses.replace(recipe, steps=60), tmp_path / "run", resume=True)
    assert last.step == 60


def test_an_unwritable_run_folder_is_one_sentence(recipe, tmp_path):
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(MediaError, match=r"checkpoint\.safetensors: cannot be written"):
        list(train(recipe, tmp_path / "run"))


def test_the_callers_random_numbers_are_left_alone(recipe, tmp_path):
    before = torch.random.get_rng_state()
    list(train(dataclasses.replace(recipe, steps=1), tmp_path / "run"))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"smooth_share": 1.0}, "no share of all"),
        ({"minutes": 1}, "either --minutes or --steps"),
        ({"steps": None}, "either --minutes or --steps"),
        ({"steps": 0}, "steps above zero, not 0"),
        ({"steps": None, "minutes": -1.0}, "minutes above zero"),
        ({"batch": 0}, "batch above zero"),
        ({"learning_rate": 0.0}, "learning_rate above zero"),
        ({"scale": 8}, "scale 8 cannot be trained"),
        ({"ema": 1.0}, "ema 1.0 is no decay"),
        ({"haar_weight": -1.0}, "haar_weight -1.0 is below zero"),
        ({"sharpness": -0.1}, "sharpness -0.1 is below zero"),
    ],
)
def test_recipes_that_cannot_work_are_refused(recipe, change, message):
    with pytest.raises(RequestError, match=message):
        dataclasses.replace(recipe, **change)


@pytest.fixture
def perceptual(recipe, tmp_path):
    """The second stage of that run, from its weights."""
    list(train(dataclasses.replace(recipe, steps=2), tmp_path / "fidelity"))
    origin = str(tmp_path / "fidelity" / "tiny-x2.safetensors")
    return dataclasses.replace(recipe, stage="perceptual", init=origin, degradation="mixed")


@pytest.mark.parametrize("stop", [2, 4, 7])
def test_a_resumed_perceptual_run_is_the_uninterrupted_one(perceptual, tmp_path, stop):
    list(train(perceptual, tmp_path / "whole"))
    stopped = train(perceptual, tmp_path / "stopped")
    for report in stopped:
        if report.step == stop:
            break
    stopped.close()
    *_, last = train(perceptual, tmp_path / "stopped", resume=True)
    assert last.step == STEPS
    assert losses_of(tmp_path / "stopped") == losses_of(tmp_path / "whole")
    ours = read_state(tmp_path / "stopped" / "tiny-x2.safetensors")
    theirs = read_state(tmp_path / "whole" / "tiny-x2.safetensors")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("stage", ["fidelity", "perceptual"])
def test_detail_may_count_beside_the_pixels(recipe, perceptual, tmp_path, stage):
    plain = recipe if stage == "fidelity" else perceptual
    detailed = dataclasses.replace(plain, haar_weight=0.5, sharpness=0.2)
    list(train(detailed, tmp_path / "detailed"))
    last = json.loads((tmp_path / "detailed" / "checkpoint.json").read_text())["log"][-1]
    assert last["haar"] > 0
    told = ModelCard.read(tmp_path / "detailed" / "tiny-x2.json").trained_on
    assert "charbonnier" in told
    assert "and 0.5 x Haar responses, originals of clean crops sharpened by 0.2" in told
    list(train(plain, tmp_path / "plain"))
    assert losses_of(tmp_path / "plain")[-1] < last["loss"]


def test_the_critic_learns_alone_first(perceptual, tmp_path):
    origin = read_state(tmp_path / "fidelity" / "tiny-x2.safetensors")
    reports = train(perceptual, tmp_path / "run")
    for report in reports:
        tensors, _ = checkpoint.load(tmp_path / "run" / "checkpoint")
        same = all(torch.equal(tensors[f"network/{key}"], origin[key]) for key in origin)
        assert same == (report.step <= perceptual.critic_steps)
        if report.step > perceptual.critic_steps:
            break
    reports.close()
    entries = json.loads((tmp_path / "run" / "checkpoint.json").read_text())["log"]
    assert "adversarial" not in entries[0]
    assert {"content", "adversarial", "features", "color", "critic"} <= entries[-1].keys()


def test_minutes_are_settled_by_a_step_of_the_whole_perceptual_stage(perceptual, tmp_path):
    budget = dataclasses.replace(perceptual, steps=None, minutes=1 / 600)
    reports = list(train(budget, tmp_path / "run"))
    settled = next(report.step for report in reports if report.total_steps)
    assert settled > perceptual.critic_steps + run.WARM_UP_STEPS


def test_the_perceptual_stage_needs_weights_to_start_from(recipe):
    with pytest.raises(RequestError, match="starts from trained weights"):
        dataclasses.replace(recipe, stage="perceptual")


def test_a_start_from_another_network_is_refused(recipe, perceptual, tmp_path):
    for change in ({"channels": 8}, {"scale": 3}, {"network": "compact"}):
        other = dataclasses.replace(recipe, init=perceptual.init, **change)
        with pytest.raises(ModelError, match=r"SRGANGenerator 4x1, x2; it must be"):
            next(train(other, tmp_path / "other"))


def test_a_session_ends_early_and_whole(recipe, tmp_path):
    whole = list(train(recipe, tmp_path / "whole"))
    *_, last = train(recipe, tmp_path / "run", session_minutes=0)
    assert last.step < STEPS
    assert not (tmp_path / "run" / "tiny-x2.safetensors").exists()
    *_, last = train(recipe, tmp_path / "run", resume=True)
    assert last.loss == whole[-1].loss


def test_a_resumed_run_needs_no_words_but_its_name(recipe, tmp_path):
    next(train(recipe, tmp_path / "tiny-x2"))
    again = one_recipe(None, tmp_path, {"name": "tiny-x2"}, run_dir=tmp_path)
    assert again == recipe


def test_the_log_is_a_table_and_a_plot(recipe, tmp_path):
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    list(train(dataclasses.replace(recipe, steps=3), tmp_path / "run"))
    lines = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert lines[0] == "step,seconds,loss"
    assert len(lines) == 4
    with Image.open(tmp_path / "run" / "plot.png") as plot:
        assert plot.size == (800, 400)


def test_the_rate_counts_the_operations_of_a_step(recipe, tmp_path):
    reports = list(train(dataclasses.replace(recipe, steps=3), tmp_path / "run"))
    assert all(report.teraflops_per_second > 0 for report in reports)


def test_a_share_of_the_start_may_stay_in_the_export(recipe, tmp_path):
    list(train(dataclasses.replace(recipe, steps=2), tmp_path / "start"))
    start = read_state(tmp_path / "start" / "tiny-x2.safetensors")
    init = str(tmp_path / "start" / "tiny-x2.safetensors")
    for share in (0.0, 0.25):
        onward = dataclasses.replace(recipe, init=init, init_share=share)
        list(train(onward, tmp_path / f"share {share}"))
    moved = read_state(tmp_path / "share 0.0" / "tiny-x2.safetensors")
    mixed = read_state(tmp_path / "share 0.25" / "tiny-x2.safetensors")
    for key, weight in mixed.items():
        torch.testing.assert_close(weight, 0.25 * start[key] + 0.75 * moved[key])
    with pytest.raises(RequestError, match=r"init_share 0\.5 is a share of init"):
        dataclasses.replace(recipe, init_share=0.5)
