"""What a prompt asks for: subjects with colours and counts, the place, the time, the weather."""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from dataclasses import dataclass, replace

from .colour import COLOURS, RGB, from_hex
from .shading import Finish
from .words import (
    BACKDROPS,
    COUNTS,
    MATERIALS,
    PHRASES,
    PLACES,
    SEASONS,
    SUBJECTS,
    SURFACES,
    TIMES,
    WEATHERS,
)

_PREPOSITIONS = frozenset(
    ["on", "against", "over", "upon", "before", "under", "in", "at", "by", "beside", "near"]
)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One kind of thing to draw. `colour` is None where the prompt does not say."""

    name: str
    word: str
    colour: RGB | None
    second: RGB | None
    finish: Finish | None
    count: int
    plural: bool


@dataclass(frozen=True, kw_only=True)
class Brief:
    """A prompt, read. Everything that a picture depends on besides its size and quality."""

    seed: int
    subjects: tuple[Subject, ...]
    colours: tuple[RGB, ...]  # those the prompt names, in order
    backdrop: RGB | None
    place: str | None
    surface: str | None  # a material's name
    surface_colour: RGB | None
    time: str | None
    weather: str | None
    season: str | None

    def dice(self, purpose: str) -> random.Random:
        """Random numbers for one purpose, always the same for the same brief."""
        digest = hashlib.sha256(f"{self.seed}:{purpose}".encode()).digest()
        # Not for secrets: the same request must give the same picture.
        return random.Random(int.from_bytes(digest[:8], "big"))  # noqa: S311


def read_brief(prompt: str, variant_seed: str = "") -> Brief:
    """Read `prompt`. Words nobody knows still count: they seed the composition."""
    # 4,000 characters say enough; a prompt of 32,000 must not take seconds to read.
    text = prompt[:4000].lower()
    for phrase, word in PHRASES.items():
        text = text.replace(phrase, word)
    raw = re.findall(r"#[0-9a-f]{6}\b|[^\W\d_]+|\d+", text)
    words = [_singular(w) for w in raw]
    roles = _roles(words)
    digest = hashlib.sha256(f"{prompt}\0{variant_seed}".encode()).digest()
    surface, surface_colour = _surface(words, roles)
    backdrop = _backdrop(words, roles)
    colours = tuple(dict.fromkeys(c for w in words if (c := _colour(w)) is not None))
    subjects = _subjects(words, roles, raw)
    if subjects and not any(s.colour for s in subjects):
        # "A balloon in the sky, crimson and cream": said late, but of the balloon all the same.
        loose = [_colour(w) for w, r in zip(words, roles, strict=True) if r == "colour"]
        free = [c for c in loose if c is not None and c not in {backdrop, surface_colour}]
        if free:
            hero = replace(subjects[0], colour=free[0], second=free[1] if free[1:] else None)
            subjects = (hero, *subjects[1:])
    return Brief(
        seed=int.from_bytes(digest[:8], "big"),
        subjects=subjects,
        colours=colours,
        backdrop=backdrop,
        place=_first(words, PLACES),
        surface=surface,
        surface_colour=surface_colour,
        time=_first(words, TIMES),
        weather=_first(words, WEATHERS),
        season=_first(words, SEASONS),
    )


def _singular(word: str) -> str:
    known = (SUBJECTS, COLOURS, PLACES, WEATHERS, MATERIALS, SURFACES)
    if any(word in table for table in known):
        return word
    for ending, instead in (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", "")):
        stem = word.removesuffix(ending) + instead
        if word.endswith(ending) and any(stem in table for table in known):
            return stem
    return word


def _colour(word: str) -> RGB | None:
    return from_hex(word[1:]) if word.startswith("#") else COLOURS.get(word)


def _first(words: list[str], table: dict[str, str]) -> str | None:
    """The first word of the table that does not merely name a colour, as midnight blue does."""
    for word, after in itertools.zip_longest(words, words[1:], fillvalue=""):
        if word in table and not _colour(after):
            return table[word]
    return None


def _roles(words: list[str]) -> list[str]:
    """What each word is: subject, surface, backdrop, colour, material, count, or nothing.

    `orange` and `rose` are a colour before a thing and a thing themselves otherwise.
    """
    roles: list[str] = []
    for i, word in enumerate(words):
        role = ""
        # In "desk lamp" and "fruit bowl" the last word is the thing.
        compound = i + 1 < len(words) and words[i + 1] in SUBJECTS
        describes = (_colour(word) or word in MATERIALS) and _describes(words, i)
        # A candle on a shelf is a picture of a candle.
        under = word in SURFACES and bool(_PREPOSITIONS & set(words[max(0, i - 3) : i]))
        if word in SUBJECTS and not compound and not describes and not under:
            role = "subject"
        elif word in SURFACES and not compound:
            role = "surface"
        elif word in BACKDROPS:
            role = "backdrop"
        elif _colour(word) is not None:
            role = "colour"
        elif word in MATERIALS:
            role = "material"
        elif word in COUNTS or word in "23456789":
            role = "count"
        roles.append(role)
    return roles


def _describes(words: list[str], i: int) -> bool:
    """Whether a thing follows within three words, which the word at `i` then describes."""
    after = words[i + 1 : i + 4]
    stop = next((k for k, w in enumerate(after) if w in {"on", "in", "and", "with", "at", "by"}), 3)
    return any(w in SUBJECTS or w in SURFACES or w in BACKDROPS for w in after[:stop])


def _subjects(words: list[str], roles: list[str], raw: list[str]) -> tuple[Subject, ...]:
    found: dict[str, Subject] = {}
    for i, role in enumerate(roles):
        if role != "subject":
            continue
        start = i
        while start > 0 and i - start < 6 and roles[start - 1] not in {"subject", "surface"}:
            start -= 1
            if words[start] in _PREPOSITIONS:
                break
        before = range(start, i)
        colours = [c for k in before if (c := _colour(words[k])) is not None]
        colours = colours or _trailing_colours(words, roles, i)
        material = next((MATERIALS[words[k]] for k in before if words[k] in MATERIALS), None)
        if own := _colour(words[i]):
            colours = colours or [own]
        if material and not colours and material.rgb:
            colours = [material.rgb]
        count = next(
            (COUNTS.get(words[k]) or int(words[k]) for k in before if roles[k] == "count"), 1
        )
        name = SUBJECTS[words[i]]
        found.setdefault(
            name,
            Subject(
                name=name,
                word=words[i],
                colour=colours[0] if colours else None,
                second=colours[1] if len(colours) > 1 else None,
                finish=material.finish if material else None,
                count=min(count, 7),
                plural=raw[i] != words[i] or raw[i] == "fruit",
            ),
        )
    return _as_one(list(found.values()))[:3]


def _as_one(found: list[Subject]) -> tuple[Subject, ...]:
    """A vase with its flowers and a plant with its pot are one thing; books come as a stack."""
    for outer, inner in (("vase", "flower"), ("planter", "pot"), ("planter", "vase")):
        pair = {s.name: s for s in found if s.name in {outer, inner}}
        if len(pair) < 2:
            continue
        kept, dropped = pair[outer], pair[inner]
        if outer == "vase":
            better = replace(kept, second=dropped.colour or kept.second)
        else:
            better = replace(kept, colour=dropped.colour, finish=dropped.finish)
        found = [better if s is kept else s for s in found if s is not dropped]
    return tuple(replace(s, count=1) if s.name in {"book", "blanket"} else s for s in found)


def _trailing_colours(words: list[str], roles: list[str], i: int) -> list[RGB]:
    """Colours said after the thing, as in "Mug, deep red, on white": up to where a place begins."""
    result: list[RGB] = []
    for k in range(i + 1, min(len(words), i + 6)):
        if roles[k] in {"subject", "surface", "backdrop"}:
            return []  # "lemons and a blue plate": the colour belongs to what follows it
        if words[k] in _PREPOSITIONS:
            break
        if (c := _colour(words[k])) is not None:
            result.append(c)
    return result


def _surface(words: list[str], roles: list[str]) -> tuple[str | None, RGB | None]:
    """What the things stand on: its material and its colour, where the prompt says."""
    for i, role in enumerate(roles):
        if role != "surface":
            continue
        near = range(max(0, i - 3), i + 1)
        start = max((k for k in near if words[k] in _PREPOSITIONS), default=near[0])
        span = words[start : i + 1]
        material = next((MATERIALS[w].name for w in span if w in MATERIALS), SURFACES[words[i]])
        colour = next((c for w in span if (c := _colour(w)) is not None), None)
        return material, colour
    return None, None


def _backdrop(words: list[str], roles: list[str]) -> RGB | None:
    """The colour of the backdrop: "on a teal background", or just "on white"."""
    for i, role in enumerate(roles):
        if role == "backdrop":
            for k in range(i - 1, max(-1, i - 4), -1):
                if roles[k] in {"subject", "surface"}:
                    break
                if (c := _colour(words[k])) is not None:
                    return c
    for i, word in enumerate(words):
        if word in {"on", "against"} and i + 1 < len(words):
            span = [
                w for w in words[i + 1 : i + 4] if w not in {"a", "the", "plain", "pure", "pale"}
            ][:1]
            follows = roles[i + 2 : i + 5]
            if span and (c := _colour(span[0])) and not {"subject", "surface"} & set(follows):
                return c
    return None
