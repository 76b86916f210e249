from pathlib import Path

import pytest

from vidsr.errors import RequestError
from vidsr.models.card import shipped_cards
from vidsr.training import plan
from vidsr.training.plan import plan_all, train_all
from vidsr.training.recipe import UpscaleRecipe, one_recipe, origin_of, read_recipes, recipe_from
from vidsr.training.run import TrainProgress

BASIS = {"name": "mine", "data": ["a"], "steps": 3}


def test_options_become_a_recipe():
    recipe = recipe_from({**BASIS, "learning_rate": 1, "validation": "b"})
    assert recipe == UpscaleRecipe("mine", (Path("a"),), (Path("b"),), steps=3, learning_rate=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chanels": 3}, "unknown option 'chanels' of a training; did you mean channels"),
        ({"channels": "wide"}, "channels is 'wide', which is no int"),
        ({"channels": 3.5}, "channels is 3.5, which is no int"),
        ({"channels": True}, "channels is True, which is no int"),
        ({"data": 3}, "data is 3, which is no list of folders"),
        ({"network": "unet"}, "network is 'unet'; compact or srgan can be chosen"),
        ({"name": ""}, "a training needs name"),
        ({"data": []}, "a training needs data"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        recipe_from({**BASIS, **options})


def test_a_file_holds_one_recipe_and_flags_win(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\ndata = ["pictures"]\nminutes = 3\nscale = 2\n')
    recipe = one_recipe(str(file), tmp_path, {"steps": 5, "channels": 8})
    assert recipe.data == (tmp_path / "pictures",)
    assert (recipe.steps, recipe.minutes, recipe.scale, recipe.channels) == (5, None, 2, 8)


def test_files_that_hold_no_single_recipe_are_refused(tmp_path):
    for content, message in (
        ("[a]\nscale = 2\n[b]\nscale = 4\n", "holds 2 recipes; name one of a, b"),
        ("scale = ", "is no recipe"),
        ('name = "a"\n', "a training needs data"),
    ):
        (tmp_path / "x.toml").write_text(content)
        with pytest.raises(RequestError, match=message):
            one_recipe(str(tmp_path / "x.toml"), tmp_path, {})
    with pytest.raises(RequestError, match="cannot read the recipe"):
        one_recipe(str(tmp_path / "gone.toml"), tmp_path, {})
    with pytest.raises(RequestError, match="no recipe 'photo-x9'; there are photo-x4"):
        one_recipe("photo-x9", tmp_path, {})


def test_every_shipped_weights_file_has_its_recipe():
    recipes = {name: recipe_from(table) for name, table in read_recipes("all").items()}
    for card in shipped_cards():
        if card.task == "colorize":
            continue
        recipe = recipes[card.name].card()
        assert (recipe.network, recipe.sizes, recipe.scale) == (
            card.network,
            card.sizes,
            card.scale,
        )


def test_the_plan_shares_its_minutes_and_names_its_folders(tmp_path):
    recipes = plan_all(tmp_path / "data", tmp_path / "runs", minutes=30)
    assert sum(recipe.minutes for recipe in recipes) == pytest.approx(30)
    assert recipes[0].name == "photo-x4-clean"
    assert recipes[0].data[0] == tmp_path / "data" / "photo/train"
    with pytest.raises(RequestError, match="needs some time"):
        plan_all(tmp_path, tmp_path, minutes=0)


def test_a_training_is_never_its_own_origin(tmp_path):
    trained = tmp_path / "fast-x4" / "fast-x4.safetensors"
    trained.parent.mkdir()
    trained.touch()
    assert origin_of("mine", "fast-x4", tmp_path) == str(trained)
    assert origin_of("fast-x4", "fast-x4", tmp_path) == "fast-x4"
    assert origin_of("fast-x4", "", tmp_path) == ""


def test_the_plan_draws_more_crops_a_step_on_a_gpu(tmp_path, monkeypatch):
    here = plan_all(tmp_path, tmp_path, minutes=30)
    monkeypatch.setattr(plan.torch.cuda, "is_available", lambda: True)
    there = plan_all(tmp_path, tmp_path, minutes=30)
    assert [recipe.batch for recipe in there] == [8 * recipe.batch for recipe in here]


def test_the_plan_goes_on_where_it_was_cut(tmp_path, monkeypatch):
    calls = []

    def fake_train(recipe, folder, *, resume, session_minutes):
        calls.append((recipe.name, recipe.init, resume))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoint.safetensors").touch()
        yield TrainProgress(1, 2, 0.1, 0.0, 0.0, 0.0)
        (folder / f"{recipe.name}.safetensors").touch()
        (folder / f"{recipe.name}.json").touch()

    monkeypatch.setattr(plan, "train", fake_train)
    cut = train_all(tmp_path, tmp_path / "runs", minutes=10)
    assert next(cut)[0] == "photo-x4-clean"
    cut.close()
    names = [name for name, _ in train_all(tmp_path, tmp_path / "runs", minutes=10)]
    assert names == list(read_recipes("all"))
    assert calls[0] == ("photo-x4-clean", "fast-x4", False)
    assert calls[1] == ("photo-x4-clean", "fast-x4", True)
    trained = tmp_path / "runs" / "photo-x4-clean" / "photo-x4-clean.safetensors"
    assert calls[2] == ("photo-x4", str(trained), False)
    assert not list(train_all(tmp_path, tmp_path / "runs", minutes=10))
    assert not list(train_all(tmp_path, tmp_path / "new", minutes=10, session_minutes=0))
