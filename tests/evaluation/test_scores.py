import json
import math
from dataclasses import dataclass

import pytest

from vidsr.evaluation.scores import finite_mean, mean_of, plain, shown, to_json


@dataclass(frozen=True)
class Pair:
    first: float
    second: float


def test_a_mean_is_taken_field_by_field_over_what_is_finite():
    assert mean_of([Pair(1.0, math.nan), Pair(3.0, 5.0)]) == Pair(2.0, 5.0)
    assert mean_of(iter([Pair(1.0, 2.0)])) == Pair(1.0, 2.0)


def test_without_finite_values_the_mean_says_what_there_is():
    assert finite_mean([math.inf, math.inf]) == math.inf
    assert math.isnan(finite_mean([math.nan]))


def test_json_holds_no_constants_that_it_does_not_have():
    figures = plain({"psnr": math.inf, "ratio": math.nan, "ssim": 1.0})
    assert json.loads(to_json(figures)) == {"psnr": None, "ratio": None, "ssim": 1.0}
    with pytest.raises(ValueError, match="JSON"):
        to_json({"psnr": math.inf})


def test_what_was_not_measured_is_a_dash():
    assert (shown(math.nan, 2), shown(1.005, 1), shown(math.inf, 2)) == ("-", "1.0", "inf")
