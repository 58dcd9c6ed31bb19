"""What the drawing of a subject is given, and what is known of each kind of subject."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .colour import RGB
from .pen import Pen
from .shading import Finish


@dataclass(frozen=True, kw_only=True)
class Ink:
    """The colours and the finish one subject is drawn in."""

    main: RGB
    second: RGB
    finish: Finish
    material: str | None
    pattern: Literal["", "dipped", "banded"]
    dice: random.Random


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of subject: how it is drawn, how large, and what it is like if nobody says.

    `wide` and `tall` bound the drawing, in the pen's units; `stature` is its height beside other
    things (a mug is 0.6, a lamp 1.3). `home` is where it is shown where the prompt names no place.
    """

    draw: Callable[[Pen, Ink], None]
    wide: float
    tall: float
    stature: float
    colour: str | None = None
    finish: Finish = "glazed"
    home: str = "studio"
    stands: Literal["stands", "floats"] = "stands"
    holds: float | None = None  # the height at which food lies in it or on it
    front: Callable[[Pen, Ink], None] | None = None  # the wall that hides what is inside
    is_food: bool = False
    base: float = 0.0  # half the width of what touches the ground; by default from `wide`

    @property
    def foot(self) -> float:
        return self.base or self.wide * 0.36
