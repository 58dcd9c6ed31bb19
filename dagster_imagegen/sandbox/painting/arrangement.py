"""Who stands where: one thing large, several in a group, the first one foremost."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .brief import Brief, Subject
from .catalogue import KINDS
from .colour import COLOURS, RGB
from .kind import Kind
from .sculpture import SCULPTURE
from .stage import Stage


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One thing in its place. Lengths are shares of the picture's height; x is from its middle."""

    kind: Kind
    subject: Subject | None
    index: int  # which subject of the brief
    copy: int  # which one of several alike
    x: float
    y: float
    unit: float
    inside: int | None = None  # the subject it lies in or on

    @property
    def colour(self) -> RGB | None:
        return COLOURS[self.kind.colour] if self.kind.colour else None


@dataclass(frozen=True, kw_only=True)
class _Member:
    kind: Kind
    index: int
    subject: Subject | None = None
    copy: int = 0


_STILL_LIFE = {"kitchen": ("kettle", "mug", "planter"), "room": ("sofa", "lamp", "planter")}
_ORDER = (0, 1, -1, 2, -2, 3, -3)  # the first in the middle, the others to its sides


def arrange(
    brief: Brief, stage: Stage, aspect: float, *, fill: float, empty: bool = False
) -> list[Placed]:
    """Place the brief's subjects on the stage within `fill` of its height. The first is the hero.

    A brief without any subject gets a still life or a sculpture, or, if `empty` will do, nothing.
    """
    members = _members(brief)
    if not members:
        if empty:
            return []
        names = _STILL_LIFE.get(brief.place or "", ())
        members = [_Member(kind=KINDS[n], index=i) for i, n in enumerate(names)]
        members = members or [_Member(kind=SCULPTURE, index=0)]
    holder = next((m for m in members if m.kind.holds is not None), None)
    inside = [m for m in members if m.kind.is_food and holder is not None]
    standing = [m for m in members if m not in inside]
    dice = brief.dice("arrangement")
    placed = _in_a_row(standing, stage, aspect, fill=fill - (0.12 if inside else 0), dice=dice)
    if holder is not None and inside:
        placed += _heap(inside, next(p for p in placed if p.index == holder.index))
    return placed


def _in_a_row(
    members: list[_Member], stage: Stage, aspect: float, *, fill: float, dice: random.Random
) -> list[Placed]:
    """Side by side, the first in the middle, as large as the height and the width allow."""
    alone = len(members) == 1
    units = [(1.0 if alone else m.kind.stature) / m.kind.tall for m in members]
    tallest = max(m.kind.tall * u for m, u in zip(members, units, strict=True))
    overlap = 1.0 if alone else 0.88
    total = sum(m.kind.wide * u * overlap for m, u in zip(members, units, strict=True))
    scale = min(fill / tallest, min(aspect * (0.68 if alone else 0.82), fill * 2) / total)
    left = -total * scale / 2 + (dice.random() - 0.5) * 0.12 * max(0.0, aspect - total * scale)
    placed: dict[int, Placed] = {}
    for slot in sorted(range(len(members)), key=lambda i: _ORDER[i]):
        unit = units[slot] * scale
        step = members[slot].kind.wide * unit * overlap
        placed[slot] = _stand(members[slot], slot, stage, x=left + step / 2, unit=unit)
        left += step
    return [placed[slot] for slot in range(len(members))]


def _stand(member: _Member, slot: int, stage: Stage, *, x: float, unit: float) -> Placed:
    """On the floor, those after the first a little further back; or in the air."""
    back = 0.0
    if slot:
        back = min(0.05, (stage.horizon - stage.floor) * 0.35) * (1 - 0.5 * (slot % 2))
    y = stage.floor + back
    if member.kind.stands == "floats":
        y = 0.5 - member.kind.tall * unit * 0.45 + 0.06 * (slot % 2)
    return Placed(
        kind=member.kind,
        subject=member.subject,
        index=member.index,
        copy=member.copy,
        x=x,
        y=y,
        unit=unit,
    )


def _heap(inside: list[_Member], holder: Placed) -> list[Placed]:
    """Fruit in a bowl, cake on a plate: side by side where the holder holds."""
    result: list[Placed] = []
    wide = holder.kind.wide * holder.unit * 0.74
    each = wide / len(inside)
    for k, member in enumerate(inside):
        unit = min(each * 1.15, wide * 0.6) / max(member.kind.wide, member.kind.tall)
        result.append(
            Placed(
                kind=member.kind,
                subject=member.subject,
                index=member.index,
                copy=member.copy,
                x=holder.x + (k - (len(inside) - 1) / 2) * each,
                y=holder.y + (holder.kind.holds or 0.0) * holder.unit - 0.004 * (k % 2),
                unit=unit,
                inside=holder.index,
            )
        )
    return result


def _members(brief: Brief) -> list[_Member]:
    """Every single thing; a bowl "of lemons" holds three of them."""
    result: list[_Member] = []
    held = any(KINDS[s.name].front for s in brief.subjects)
    for index, subject in enumerate(brief.subjects):
        kind = KINDS[subject.name]
        count = 3 if held and kind.is_food and subject.plural else subject.count
        result += [
            _Member(kind=kind, subject=subject, index=index, copy=copy)
            for copy in range(max(count, subject.count))
        ]
    return result[:7]
