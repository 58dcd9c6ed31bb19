"""Where a scene lets things stand, and in what light."""

from __future__ import annotations

from dataclasses import dataclass

from .colour import RGB


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Heights are shares of the picture's, from the bottom up."""

    floor: float  # where the nearest things stand
    horizon: float  # where the floor ends
    light: RGB
    dark: bool  # whether the surroundings are dark
