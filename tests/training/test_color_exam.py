import pytest
import torch
from PIL import Image

from vidsr.errors import RequestError
from vidsr.lab import AB_SCALE
from vidsr.training import color_exam
from vidsr.training.color_exam import ColorExam

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    generator = torch.Generator().manual_seed(1)
    for number in range(5):
        small = torch.rand((1, 3, 3, 4), generator=generator)
        rgb = torch.nn.functional.interpolate(small, (32, 48), mode="bilinear")[0] * 255
        pixels = rgb.to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return tmp_path


class Knows(torch.nn.Module):
    """Answers the true colors of pictures in the order in which they are asked for."""

    def __init__(self, exam):
        super().__init__()
        self.answers = [lab[:, 1:] / AB_SCALE for _, lab in exam.pairs]
        self.asked = 0

    def forward(self, _lightness):
        self.asked += 1
        return self.answers[(self.asked - 1) % len(self.answers)]


def test_true_colors_at_full_saturation_are_perfect_and_none_are_gray(folder):
    exam = ColorExam.of([folder], 32, CPU)
    gray, half, whole = exam.curve(Knows(exam), (0.0, 0.5, 1.0))
    assert whole.psnr > 60  # but for rounding twice alike
    assert whole.ciede2000 == 0
    assert whole.colorfulness == pytest.approx(1)
    assert gray.colorfulness < 0.01
    assert gray.psnr < half.psnr < whole.psnr
    assert gray.ciede2000 > half.ciede2000 > 0
    assert 0.3 < half.colorfulness < 0.7


def test_a_card_gets_the_figures_beside_those_of_gray(folder):
    exam = ColorExam.of([folder], 32, CPU)
    measured = exam.measured(Knows(exam))
    assert measured["colorfulness_ratio"] == 1
    assert measured["ciede2000"] < measured["gray_ciede2000"]
    assert measured["psnr_rgb"] > measured["gray_psnr_rgb"]


def test_of_many_pictures_some_are_taken_evenly(folder, monkeypatch):
    monkeypatch.setattr(color_exam, "_MOST", 3)
    assert len(ColorExam.of([folder], 32, CPU).pairs) == 3


@pytest.mark.parametrize("shown", [1, 2, 5])
def test_the_sheet_shows_gray_answer_and_original(folder, tmp_path, monkeypatch, shown):
    monkeypatch.setattr(color_exam, "_SHOWN", shown)
    exam = ColorExam.of([folder], 32, CPU)
    exam.draw(Knows(exam), tmp_path / "sheets" / "1.png")
    with Image.open(tmp_path / "sheets" / "1.png") as sheet:
        assert sheet.width == (3 if shown == 1 else 6) * (48 + 4) - 4


def test_a_folder_without_pictures_says_so(tmp_path):
    with pytest.raises(RequestError, match="no picture"):
        ColorExam.of([tmp_path], 32, CPU)
