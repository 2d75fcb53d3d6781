"""Small pictures of digits, made on the spot: no download, the same on every machine.

The digits 0 to 9 are drawn from 20 font files that Matplotlib brings along, then
turned, sheared, stretched, moved, dimmed and covered with noise. One font family is
kept for testing: can a model read a typeface that it has never seen?

This is not handwriting: do not compare results with those on MNIST.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from torch import Tensor

# Those that Matplotlib 3.8 has too: newer ones bring more.
SEEN = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique"),
    *("DejaVuSansMono-BoldOblique", "DejaVuSerif", "DejaVuSerif-Bold"),
    *("DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("cmr10", "cmb10", "cmss10", "cmtt10"),
)
UNSEEN = ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta")

DRAWN, HEIGHT = 48, 30  # pixels of a clean drawing, and of the digit in it
SIZE = 12  # pixels of a picture
FINE = 3  # a picture is sampled this much finer, then averaged


@dataclass(frozen=True)
class Digits:
    """N pictures. x: (N, SIZE * SIZE) in about -1 ... 1. y: (N,), the digits."""

    x: Tensor
    y: Tensor


def make_digits(N: int, fonts: tuple[str, ...], seed: int) -> Digits:
    """N random pictures, each of a random digit in a random one of `fonts`.

    Raises ValueError for a font that Matplotlib does not bring.
    """
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(10, (N,), generator=generator)
    face = torch.randint(len(fonts), (N,), generator=generator)
    clean = torch.stack([drawn(font) for font in fonts])[face, y]  # (N, DRAWN, DRAWN)
    grid = F.affine_grid(
        distortions(N, generator), (N, 1, FINE * SIZE, FINE * SIZE), False
    )
    fine = F.grid_sample(clean[:, None], grid, align_corners=False)
    pictures = F.avg_pool2d(fine, FINE)[:, 0]  # (N, SIZE, SIZE) in 0 ... 1
    bright = 0.6 + 0.4 * torch.rand(N, 1, 1, generator=generator)
    noise = 0.15 * torch.randn(pictures.shape, generator=generator)
    return Digits((2 * bright * pictures - 1 + noise).flatten(1), y)


def distortions(N: int, generator: torch.Generator) -> Tensor:
    """Random affine maps (N, 2, 3) from a place in the picture to one in the drawing.

    Turned by up to 15 degrees, sheared by up to 0.2, stretched to 0.75 ... 1.15 in each
    direction, moved by up to 0.9 of a pixel.
    """

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(N, generator=generator)

    angle, shear = draw(-15, 15) * math.pi / 180, draw(-0.2, 0.2)
    width, height = 0.8 / draw(0.75, 1.15), 0.8 / draw(0.75, 1.15)
    cos, sin = angle.cos(), angle.sin()
    top = torch.stack([width * cos, height * (shear * cos - sin), draw(-0.15, 0.15)], 1)
    low = torch.stack([width * sin, height * (shear * sin + cos), draw(-0.15, 0.15)], 1)
    return torch.stack([top, low], dim=1)  # (N, 2, 3)


@functools.cache
def drawn(font: str) -> Tensor:
    """The ten digits of a font file, drawn clean: (10, DRAWN, DRAWN) in 0 ... 1."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    if not path.is_file():
        known = ", ".join((*SEEN, *UNSEEN))
        raise ValueError(f"Matplotlib brings no font {font!r}; use one of: {known}")
    return torch.stack([_draw(str(digit), path) for digit in range(10)])


def _draw(text: str, font: Path) -> Tensor:
    """One character, HEIGHT pixels high, in the middle of (DRAWN, DRAWN)."""
    outline = TextPath((0, 0), text, size=100, prop=FontProperties(fname=font))
    box = outline.get_extents()
    middle = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    place = Affine2D().translate(-middle[0], -middle[1]).scale(HEIGHT / box.height)
    place = place.translate(DRAWN / 2, DRAWN / 2)
    fig = Figure(figsize=(1, 1), dpi=DRAWN, facecolor="none")
    canvas = FigureCanvasAgg(fig)
    patch = PathPatch(
        outline.transformed(place), color="black", linewidth=0, transform=None
    )
    fig.add_artist(patch)
    canvas.draw()
    ink = np.asarray(canvas.buffer_rgba())[..., 3].astype(np.float32)  # opacity
    return torch.from_numpy(ink / 255)
