"""Why a signal says what it says, in words and in pixels of the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from raybench.findings.signals.light import LightChange
from raybench.findings.signals.measure import WITNESSES, Measured
from raybench.findings.signals.parts import Spot
from raybench.findings.signals.references import References
from raybench.findings.signals.views import Floats

_GROUPS = {"lighting": ("light",), "layout": ("layout",), "defect": ("new",)}


def describe(kind: str, measured: Measured, references: References, size: tuple[int, int], heat: Floats | None) -> str:
    """One sentence without a full stop. size: (H, W) of the image. heat: (H, W) float32 or None."""
    excess = {name: value / references.limits[name] for name, value in measured.values.items()}
    names = [name for name in excess if WITNESSES[name].group in _GROUPS[kind]]
    strongest = max(names, key=lambda name: excess[name])
    scene = _Scene(measured, references, size)
    if excess[strongest] > 1:
        return scene.say(strongest)
    if kind != "defect":
        return f"weak signs only: {scene.say(strongest)}"
    where = "" if heat is None else f"; the heat map is hottest at {_point(*_hottest(heat))}"
    return f"neither light nor layout differs from OK images in a way that explains it{where}"


class _Scene:
    """What there is to say about one image, by witness."""

    def __init__(self, measured: Measured, references: References, size: tuple[int, int]) -> None:
        self.measured, self.references, self.size = measured, references, size
        self.scale = (size[0] / references.size[0], size[1] / references.size[1])

    def say(self, name: str) -> str:
        words: Mapping[str, Callable[[], str]] = {
            "gain": self.brightness,
            "bend": lambda: (
                f"brightness changes smoothly across the image (by {_percent(self.light.bend)}){self.share}"
            ),
            "gamma": lambda: f"a change of contrast (gamma {np.exp(self.light.gamma):.2f}){self.share}",
            "spot": lambda: f"a wide, soft change of brightness (by {_percent(self.light.spot)} over the image)",
            "tint": self.tint,
            "tones": self.tones,
            "moved": self.move,
            "turned": lambda: "straight edges run in other directions than in OK images: rotated",
            "missing": lambda: f"a part is missing at {self.at(self.measured.missing)}",
            "displaced": lambda: f"what is at {self.at(self.measured.displaced)} lies elsewhere in OK images",
            "new": self.new,
            "new_share": self.new,
        }
        return words[name]()

    @property
    def light(self) -> LightChange:
        return self.measured.light

    @property
    def share(self) -> str:
        return f" explains {self.light.explained:.0%} of the difference"

    def at(self, spot: Spot) -> str:
        return _point(spot.y * self.scale[0], spot.x * self.scale[1])

    def brightness(self) -> str:
        return f"a smooth change of brightness (×{np.exp(self.light.gain):.2f}){self.share}"

    def tint(self) -> str:
        red, blue = np.exp(self.measured.tint)
        return f"a colour cast: red ×{red:.2f} and blue ×{blue:.2f} against green"

    def tones(self) -> str:
        share = self.measured.values["tones"]
        return f"{share:.0%} of the image has a brightness that OK images do not have there as often"

    def move(self) -> str:
        move = self.measured.move
        dy, dx = move.dy * self.size[0], move.dx * self.size[1]
        ways = [f"{abs(dy):.0f} px {'down' if dy > 0 else 'up'}"] if abs(dy) >= 1 else []
        ways += [f"{abs(dx):.0f} px to the {'right' if dx > 0 else 'left'}"] if abs(dx) >= 1 else []
        shift = f"shifted by {' and '.join(ways)}" if ways else ""
        turn = f"rotated by {abs(move.pose.turned):.0f}°" if move.pose.turned else ""
        flip = move.pose.name if move.pose.flip is not None else ""
        fit = f" (fits an OK image to {move.fit:.2f}, in place to {move.still:.2f})"
        return ", ".join(part for part in (flip, turn, shift) if part) + fit

    def new(self) -> str:
        new = self.measured.new
        width, height = new.width * self.scale[1], new.height * self.scale[0]
        return f"local new structure of {width:.0f}×{height:.0f} px at {self.at(new.spot)}"


def _percent(log_change: float) -> str:
    return f"{np.expm1(log_change):.0%}"


def _hottest(heat: Floats) -> tuple[int, int]:
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    return int(y), int(x)


def _point(y: float, x: float) -> str:
    return f"({x:.0f}, {y:.0f})"
