import csv
import dataclasses
import json
import math

import pytest
import torch
from PIL import Image

from vidsr.errors import ModelError, RequestError
from vidsr.models.card import ModelCard, sha256_of
from vidsr.models.load import load, read_state
from vidsr.training import pix2pix
from vidsr.training.color_recipe import ColorizeRecipe
from vidsr.training.pix2pix import train
from vidsr.training.trunk import pretrained_trunk

STEPS = 6


@pytest.fixture
def recipe(tmp_path):
    """A run of seconds: every step is reported, examined and kept."""
    generator = torch.Generator().manual_seed(4)
    for number in range(3):
        small = torch.rand((1, 3, 3, 4), generator=generator)
        rgb = torch.nn.functional.interpolate(small, (66, 88), mode="bilinear")[0] * 255
        folder = tmp_path / "pictures" / ("val" if number == 2 else "train")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rgb.to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{number}.png")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a network waits for its threads longer than it computes
    yield ColorizeRecipe(
        name="tiny",
        data=(tmp_path / "pictures" / "train",),
        validation=(tmp_path / "pictures" / "val",),
        channels=8,
        blocks=1,
        steps=STEPS,
        side=48,
        patch=32,
        batch=2,
        dropout=0.2,
        temperature=1.0,
        unbalance=0.0,
        gain=100,
        critic_channels=8,
        precision="fp32",  # measured, it may differ from run to run on a busy machine
        license="CC0-1.0",
        report_every_seconds=0,
        checkpoint_every_seconds=0,
    )
    torch.set_num_threads(threads)


@pytest.fixture
def adversarial(recipe, tmp_path):
    """The second stage, from what a first one made."""
    first = dataclasses.replace(recipe, name="first", steps=2)
    list(train(first, tmp_path / "first"))
    init = str(tmp_path / "first" / "first.safetensors")
    return dataclasses.replace(recipe, stage="adversarial", init=init, patch=64)


def losses_of(run_dir):
    return [entry["loss"] for entry in json.loads((run_dir / "checkpoint.json").read_text())["log"]]


def interrupted(recipe, run_dir, stop):
    stopped = train(recipe, run_dir)
    for report in stopped:
        if report.step == stop:
            break
    stopped.close()


@pytest.mark.parametrize("stop", [1, 4, STEPS])
@pytest.mark.parametrize("stage", ["pretrain", "adversarial"])
def test_a_resumed_run_is_the_uninterrupted_one(request, recipe, tmp_path, stage, stop):
    if stage == "adversarial":
        recipe = request.getfixturevalue("adversarial")
    list(train(recipe, tmp_path / "whole"))
    interrupted(recipe, tmp_path / "stopped", stop)
    *_, last = train(recipe, tmp_path / "stopped", resume=True)
    assert last.step == last.total_steps == STEPS
    assert losses_of(tmp_path / "stopped") == losses_of(tmp_path / "whole")
    ours = read_state(tmp_path / "stopped" / "tiny.safetensors")
    theirs = read_state(tmp_path / "whole" / "tiny.safetensors")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_run_keeps_the_precision_that_it_was_begun_with(recipe, tmp_path):
    interrupted(dataclasses.replace(recipe, precision="bf16"), tmp_path / "run", 2)
    list(train(recipe, tmp_path / "run", resume=True))
    facts = json.loads((tmp_path / "run" / "checkpoint.json").read_text())
    assert facts["precision"] == "bf16"
    assert all(map(math.isfinite, losses_of(tmp_path / "run")))


def test_a_pretrained_trunk_moves_slowly(recipe, tmp_path):
    lite = dataclasses.replace(recipe, network="pix2pix-lite", learning_rate=1e-3, aged=0.0)
    list(train(lite, tmp_path / "run"))
    card = ModelCard.read(tmp_path / "run" / "tiny.json")
    trained = load(card, tmp_path / "run" / "tiny.safetensors")
    assert card.network == "pix2pix-lite"
    assert "trunk from EfficientNet-Lite0 (ImageNet, Apache-2.0)" in card.trained_on
    start = pretrained_trunk().state_dict()
    moved = False
    for name, weight in trained.trunk.state_dict().items():
        torch.testing.assert_close(weight, start[name], rtol=1e-3, atol=STEPS * 1e-4)
        moved |= not torch.equal(weight, start[name].half())
    assert moved


def test_weights_of_the_other_colorizer_are_no_start(adversarial, tmp_path):
    other = dataclasses.replace(adversarial, network="pix2pix-lite")
    with pytest.raises(ModelError, match="is not the colorizer of 8 channels"):
        list(train(other, tmp_path / "run"))


def test_training_lowers_the_loss(recipe, tmp_path):
    longer = dataclasses.replace(
        recipe, steps=100, learning_rate=0.05, validation=(), checkpoint_every_seconds=60
    )
    losses = [report.loss for report in train(longer, tmp_path / "run")]
    # Two pictures are soon known; how soon is the batches' luck.
    assert sum(losses[-10:]) < 0.85 * sum(losses[:10])


def test_without_entropy_the_error_of_the_mean_color_alone_teaches(recipe, tmp_path):
    list(train(dataclasses.replace(recipe, entropy=0.0), tmp_path / "run"))
    for entry in json.loads((tmp_path / "run" / "checkpoint.json").read_text())["log"]:
        assert entry["loss"] == pytest.approx(entry["error"], rel=1e-5)


def test_the_adversarial_stage_moves_both_networks(adversarial, tmp_path):
    list(train(adversarial, tmp_path / "run"))
    start = read_state(tmp_path / "first" / "first.safetensors")
    end = read_state(tmp_path / "run" / "tiny.safetensors")
    assert any(not torch.equal(start[key], end[key]) for key in start)
    *_, entry = json.loads((tmp_path / "run" / "checkpoint.json").read_text())["log"]
    assert {"loss", "adversarial", "l1", "critic"} <= entry.keys()


def test_a_share_of_what_it_began_with_may_stay(adversarial, tmp_path):
    mixed = dataclasses.replace(adversarial, init_share=0.5)
    for name, kind in (("whole", adversarial), ("mixed", mixed)):
        list(train(kind, tmp_path / name))
    start = read_state(tmp_path / "first" / "first.safetensors")
    end = read_state(tmp_path / "whole" / "tiny.safetensors")
    for key, tensor in read_state(tmp_path / "mixed" / "tiny.safetensors").items():
        middle = (start[key].float() + end[key].float()) / 2
        torch.testing.assert_close(tensor.float(), middle, rtol=2e-3, atol=1e-4)
    told = ModelCard.read(tmp_path / "mixed" / "tiny.json").trained_on
    assert "from first, of which 50% stayed;" in told


def test_the_export_loads_and_its_card_is_true(recipe, tmp_path):
    run_dir = tmp_path / "run"
    for report in train(recipe, run_dir):
        if report.step == STEPS:
            break  # the last report comes when all is written
    card, weights = ModelCard.read(run_dir / "tiny.json"), run_dir / "tiny.safetensors"
    assert card.sha256 == sha256_of(weights)
    assert (card.network, card.task, card.scale) == ("pix2pix", "colorize", 1)
    assert card.sizes == {"channels": 8, "blocks": 1, "gain": 100}
    assert card.license == "CC0-1.0"
    assert "6 steps of 2 32-pixel patches" in card.trained_on
    assert {"ciede2000", "gray_ciede2000", "colorfulness_ratio"} <= card.measured[
        "validation"
    ].keys()
    assert all(tensor.dtype == torch.float16 for tensor in read_state(weights).values())
    network = load(card, weights)
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 32, 32)).dtype == torch.float32


def test_a_lower_temperature_makes_the_export_more_decided(recipe, tmp_path):
    recipe = dataclasses.replace(recipe, validation=())  # which would choose other best weights
    list(train(recipe, tmp_path / "mean"))
    list(train(dataclasses.replace(recipe, temperature=0.25), tmp_path / "decided"))
    mean, decided = (
        read_state(tmp_path / run / "tiny.safetensors")["head.weight"].float()
        for run in ("mean", "decided")
    )
    assert torch.allclose(decided, 4 * mean, rtol=2e-3, atol=1e-6)  # fp16 has 11 bits


def test_the_export_takes_back_that_rare_colors_were_favored(recipe, tmp_path):
    recipe = dataclasses.replace(recipe, validation=())
    list(train(recipe, tmp_path / "favoring"))
    list(train(dataclasses.replace(recipe, unbalance=1.0), tmp_path / "fair"))
    favoring, fair = (
        read_state(tmp_path / run / "tiny.safetensors")["head.bias"].float()
        for run in ("favoring", "fair")
    )
    weights = read_state(tmp_path / "fair" / "checkpoint.safetensors")["classes/weights"]
    assert torch.allclose(favoring - fair, weights.log(), atol=1e-2)


def test_every_examination_leaves_a_sheet_and_a_curve(recipe, tmp_path):
    list(train(recipe, tmp_path / "run"))
    sheets = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert sheets == [f"{step:06d}.png" for step in range(1, STEPS + 1)]
    with (tmp_path / "run" / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["colorfulness@1"]) > 0 for row in rows)
    assert float(rows[-1]["psnr"]) == pytest.approx(
        max(float(value) for key, value in rows[-1].items() if key.startswith("psnr@")), abs=1e-3
    )


def test_a_run_that_gets_no_better_stops_with_its_best_weights(recipe, tmp_path, monkeypatch):
    scores = iter([20.0, 22.0, 21.0, 21.5, 21.9, 21.9, 21.9])

    def examine(run, trainee, _exam):
        score = next(scores)
        if score == 22.0:
            trainee.best.load_state_dict(trainee.average.state_dict())
            kept.append({k: v.clone() for k, v in trainee.average.state_dict().items()})
        return score

    kept = []
    monkeypatch.setattr(pix2pix, "_examine", examine)
    long = dataclasses.replace(recipe, steps=100, patience=2)
    *_, last = train(long, tmp_path / "run")
    assert last.step == last.total_steps == 4
    exported = read_state(tmp_path / "run" / "tiny.safetensors")
    assert all(torch.equal(exported[key], kept[0][key].half()) for key in exported)


def test_without_validation_pictures_the_last_average_is_exported(recipe, tmp_path):
    list(train(dataclasses.replace(recipe, validation=()), tmp_path / "run"))
    assert ModelCard.read(tmp_path / "run" / "tiny.json").measured == {}
    assert not (tmp_path / "run" / "samples").exists()


def test_the_callers_random_numbers_are_left_alone(recipe, tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    list(train(recipe, tmp_path / "run"))
    assert torch.equal(torch.rand(1), expected)


def test_an_init_may_answer_more_strongly(adversarial, tmp_path):
    list(train(dataclasses.replace(adversarial, gain=150, steps=1), tmp_path / "run"))
    assert ModelCard.read(tmp_path / "run" / "tiny.json").sizes["gain"] == 150


def test_an_init_of_other_sizes_is_refused(adversarial, tmp_path):
    with pytest.raises(ModelError, match="not the colorizer of 16 channels"):
        list(train(dataclasses.replace(adversarial, channels=16), tmp_path / "run"))


def test_a_training_is_never_overwritten(recipe, tmp_path):
    interrupted(recipe, tmp_path / "run", 1)
    with pytest.raises(RequestError, match="already holds a training"):
        list(train(recipe, tmp_path / "run"))
