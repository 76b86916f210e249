import dataclasses

import pytest

from vidsr.errors import RequestError
from vidsr.models.card import shipped_cards
from vidsr.training.color_recipe import SHIPPED, ColorizeRecipe, one_recipe
from vidsr.training.recipe import read_recipes


def test_every_shipped_recipe_is_one(tmp_path):
    for name in read_recipes("all", SHIPPED):
        recipe = one_recipe(name, tmp_path, {})
        assert recipe.name == name
        assert recipe.data[0] == tmp_path / "color/train"


def test_every_shipped_colorizer_has_its_recipe(tmp_path):
    for card in shipped_cards():
        if card.task == "colorize":
            recipe = one_recipe(card.name, tmp_path, {})
            assert card.network == recipe.network
            assert card.sizes == dataclasses.asdict(recipe.sizes())


def test_what_is_given_beside_a_recipe_wins(tmp_path):
    recipe = one_recipe("colorize-pretrained", tmp_path, {"steps": 5, "name": "mine"})
    assert (recipe.name, recipe.steps, recipe.minutes) == ("mine", 5, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chanels": 8}, "did you mean channels"),
        ({"channels": "many"}, "no int"),
        ({"stage": "perceptual"}, "pretrain or adversarial can be chosen"),
        ({"data": []}, "a training needs data"),
    ],
)
def test_options_that_cannot_work_say_why(tmp_path, options, words):
    with pytest.raises(RequestError, match=words):
        one_recipe(None, tmp_path, {"data": [tmp_path], "steps": 1} | options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"init_share": 0.5}, "init_share 0.5 is a share of init"),
        ({"steps": None}, "either --minutes or --steps"),
        ({"patch": 40}, "patch 40 is no multiple of 16"),
        ({"dropout": 1.0}, "dropout 1.0 does not lie"),
        ({"stage": "adversarial"}, "starts from trained weights"),
        ({"stage": "adversarial", "init": "colorize"}, "patch 32: the adversarial stage needs"),
        ({"batch": 0}, "batch above zero, not 0"),
        ({"aged": 1.5}, "aged 1.5 is no share"),
        ({"mixed": -0.1}, "mixed -0.1 is no share"),
        ({"entropy": -0.1}, "entropy -0.1 is below zero"),
        ({"data": ()}, "at least one folder"),
    ],
)
def test_a_recipe_that_cannot_work_says_why(tmp_path, change, words):
    options = {"name": "tiny", "data": (tmp_path,), "steps": 2, "patch": 32}
    with pytest.raises(RequestError, match=words):
        ColorizeRecipe(**(options | change))
