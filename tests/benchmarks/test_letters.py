from pathlib import Path

import matplotlib
import numpy as np
import pytest
from letter_fonts import DOMAINS, PACKAGES, Font
from letter_images import LUMINANCE_GAP, draw_letter
from letters import split
from PIL import Image

FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
GREY = [Image.new("RGB", (200, 200), (120, 120, 120))]


def draw(seed: int, letter: int = 7, *, crowded: bool = False) -> np.ndarray:
    return draw_letter(FONT, letter, GREY, np.random.default_rng(seed), size=64, crowded=crowded)


def test_the_same_seed_draws_the_same_bytes():
    assert (draw(1) == draw(1)).all()
    assert (draw(1) != draw(2)).any()


@pytest.mark.parametrize("seed", range(5))
def test_every_letter_stands_out_from_its_ground(seed):
    luminance = draw(seed) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luminance - 120).max() > 0.75 * LUMINANCE_GAP


def test_neighbours_add_ink():
    alone, crowded = (np.abs(draw(3, crowded=c).astype(int) - 120).sum() for c in (False, True))
    assert crowded > alone


def test_no_family_is_on_both_sides_and_both_sides_have_every_domain():
    fonts = [Font(FONT, f"{domain} {number}", domain) for domain in DOMAINS for number in range(9)]
    sides = split(fonts)
    train, test = ({f.family for d in DOMAINS for f in sides[side, d]} for side in ("train", "test"))
    assert not train & test
    assert all(len(sides["test", domain]) == 3 for domain in DOMAINS)


def test_each_package_belongs_to_one_domain():
    names = [name for row in PACKAGES.values() for name in row.split()]
    assert len(names) == len(set(names))
    assert set(PACKAGES) == set(DOMAINS)
