"""What stands on the table: cups, bottles, pots and plates."""

from __future__ import annotations

from PIL import ImageDraw

from .colour import lightness, mix, shift
from .curves import box, mirrored, moved, oval, path, smooth
from .kind import Ink
from .parts import BRASS, COFFEE, CREAM, OAK, glazed_body, handle, spout
from .pen import TILT, Pen
from .shading import patterned, swatch


def mug(pen: Pen, ink: Ink) -> None:
    handle(pen, path(".33 .56, .46 .60, .56 .50, .55 .32, .44 .19, .30 .16"), 0.075, ink.main)
    glazed_body(pen, ink, path(".31 0, .345 .025, .36 .08, .36 .4, .36 .74"))
    rim = shift(ink.main, light=-0.24) if ink.material == "enamel" else ink.main
    pen.opening(0.74, 0.362, rim, liquid=COFFEE, deep=0.035, wall=0.028)


def cup(pen: Pen, ink: Ink) -> None:
    plate(pen.at(0, 0.0, 0.95), ink)
    handle(pen, path(".32 .44, .44 .47, .50 .38, .44 .28, .28 .22"), 0.05, ink.main)
    inner = pen.at(0, 0.05)
    glazed_body(inner, ink, path(".15 0, .17 .03, .26 .14, .34 .32, .36 .46"))
    inner.opening(0.46, 0.36, ink.main, liquid=COFFEE, deep=0.03, wall=0.02)


def glass(pen: Pen, ink: Ink) -> None:
    pen.turned([(0.22, 0.02), (0.25, 0.4), (0.265, 0.5)], ink.main, "glazed", tilt=TILT)
    pen.form(oval(0, 0.5, 0.265, 0.265 * TILT), shift(ink.main, light=0.14), "slant")
    pen.turned(
        [(0.25, 0.0), (0.29, 0.5), (0.31, 0.84)], mix(ink.main, (255, 255, 255), 0.7), "glass"
    )
    pen.line(oval(0, 0.84, 0.31, 0.31 * TILT), 0.012, (250, 252, 252), curve=False)


def _two_bars(draw: ImageDraw.ImageDraw, side: int) -> None:
    for top in (0.38, 0.47):
        draw.rectangle((side * 0.36, side * top, side * 0.64, side * (top + 0.03)), fill=255)


def bottle(pen: Pen, ink: Ink) -> None:
    glazed_body(pen, ink, path(".185 0, .205 .03, .205 .3, .205 .56, .17 .66, .082 .76, .072 .9"))
    neck = pen.at(0, 0.885)
    neck.turned(
        [(0.086, 0.0), (0.086, 0.06)], shift(ink.main, light=-0.08), ink.finish, curve=False
    )
    neck.form(oval(0, 0.06, 0.086, 0.086 * TILT), shift(ink.main, light=-0.12), "slant")
    pen.at(0, 0.94).turned([(0.06, 0.0), (0.07, 0.09)], OAK, "matt", curve=False)
    pen.form(oval(0, 1.03, 0.07, 0.07 * TILT), shift(OAK, light=0.08), "slant")
    label = patterned(swatch("side", "matt", CREAM), swatch("side", "matt", ink.main), _two_bars)
    pen.turned([(0.207, 0.17), (0.207, 0.45)], CREAM, "matt", skin=label, curve=False)


def carafe(pen: Pen, ink: Ink) -> None:
    handle(pen, path(".15 .84, .34 .86, .42 .68, .36 .46, .24 .36"), 0.055, ink.main)
    glazed_body(pen, ink, path(".2 0, .28 .08, .31 .24, .27 .44, .16 .64, .14 .78, .18 .92"))
    pen.opening(0.92, 0.18, ink.main, wall=0.02)
    pen.form(
        smooth([(-0.19, 0.915), (-0.25, 0.955), (-0.13, 0.94), (-0.12, 0.9)], closed=True),
        shift(ink.main, light=0.04),
    )


_BOWL = path(".19 0, .2 .03, .32 .1, .43 .22, .485 .37")


def bowl(pen: Pen, ink: Ink) -> None:
    glazed_body(pen, ink, _BOWL)
    pen.opening(0.37, 0.487, ink.main, wall=0.022)
    pen.soft(oval(0.08, 0.345, 0.3, 0.05), shift(ink.main, light=0.02), 0.03, 0.8)


def bowl_front(pen: Pen, ink: Ink) -> None:
    glazed_body(pen, ink, _BOWL, front=True)
    rim = oval(0, 0.37, 0.476, 0.476 * TILT, 180, 360)
    pen.line(rim, 0.02, shift(ink.main, light=0.07), curve=False)


def plate(pen: Pen, ink: Ink) -> None:
    pen.turned(
        [(0.32, 0), (0.46, 0.035), (0.55, 0.07)],
        shift(ink.main, light=-0.05),
        ink.finish,
        tilt=0.24,
    )
    pen.form(oval(0, 0.07, 0.55, 0.135), ink.main, "slant", "glazed")
    pen.form(oval(0, 0.066, 0.53, 0.127), shift(ink.main, light=0.03), "slant")
    pen.form(oval(0, 0.06, 0.37, 0.085), shift(ink.main, light=-0.07), "fall")
    pen.form(oval(0, 0.056, 0.36, 0.08), shift(ink.main, light=0.015), "slant")


def teapot(pen: Pen, ink: Ink) -> None:
    handle(pen, path(".30 .5, .50 .56, .58 .4, .50 .24, .33 .18"), 0.06, ink.main)
    spout(
        pen,
        path("-.26 .14, -.44 .28, -.50 .48, -.60 .56, -.53 .60, -.42 .54, -.34 .42, -.22 .40"),
        ink.main,
    )
    glazed_body(pen, ink, path(".2 0, .27 .05, .36 .2, .36 .34, .27 .5, .16 .56"))
    pen.form(oval(0, 0.555, 0.19, 0.045), shift(ink.main, light=-0.12), "fall")
    pen.at(0, 0.565).turned([(0.17, 0), (0.13, 0.05), (0.05, 0.085)], ink.main, ink.finish)
    pen.ball(0, 0.68, 0.05, 0.045, ink.second if ink.pattern else ink.main, "glazed")


def kettle(pen: Pen, ink: Ink) -> None:
    handle(
        pen,
        path("-.24 .50, -.22 .76, 0 .88, .22 .76, .24 .50"),
        0.055,
        OAK if lightness(ink.main) < 0.75 else (60, 52, 48),
    )
    spout(pen, path("-.30 .20, -.46 .34, -.58 .54, -.50 .57, -.38 .48, -.26 .42"), ink.main)
    glazed_body(pen, ink, path(".36 0, .39 .03, .38 .14, .31 .36, .22 .5, .15 .54"))
    pen.at(0, 0.54).turned(
        [(0.15, 0), (0.12, 0.04), (0.03, 0.06)], shift(ink.main, light=-0.04), ink.finish
    )
    pen.ball(0, 0.63, 0.042, 0.04, OAK, "glazed")


def pot(pen: Pen, ink: Ink) -> None:
    for side in (-1, 1):
        handle(
            pen,
            [(side * 0.42, 0.38), (side * 0.55, 0.385), (side * 0.55, 0.29), (side * 0.42, 0.28)],
            0.055,
            shift(ink.main, light=-0.06),
        )
    glazed_body(pen, ink, [(0.42, 0), (0.45, 0.03), (0.46, 0.2), (0.46, 0.44)])
    pen.form(oval(0, 0.445, 0.475, 0.475 * TILT), shift(ink.main, light=-0.15), "fall")
    pen.at(0, 0.46).turned(
        [(0.47, 0), (0.42, 0.07), (0.24, 0.125), (0.06, 0.14)], ink.main, ink.finish
    )
    pen.at(0, 0.595).turned([(0.03, 0), (0.04, 0.03), (0.07, 0.06)], BRASS, "metal")
    pen.form(oval(0, 0.655, 0.07, 0.07 * TILT), shift(BRASS, light=0.1), "slant")


def pan(pen: Pen, ink: Ink) -> None:
    handle(pen, [(0.38, 0.16), (0.62, 0.25), (0.88, 0.31)], 0.06, OAK)
    glazed_body(pen, ink, [(0.34, 0), (0.40, 0.06), (0.44, 0.18)])
    pen.opening(0.18, 0.442, ink.main, wall=0.02, tilt=0.26)
    pen.soft(oval(0, 0.14, 0.3, 0.06), shift(ink.main, light=-0.04), 0.03, 0.7)


def jar(pen: Pen, ink: Ink) -> None:
    glazed_body(pen, ink, path(".24 0, .275 .03, .28 .3, .275 .56, .235 .62, .22 .66"))
    pen.at(0, 0.655).turned([(0.24, 0), (0.24, 0.09)], OAK, "matt", curve=False)
    pen.form(oval(0, 0.745, 0.24, 0.24 * TILT), shift(OAK, light=0.07), "slant")
    pen.ball(0, 0.80, 0.045, 0.042, OAK, "glazed")


def board(pen: Pen, ink: Ink) -> None:
    grain = shift(ink.main, light=-0.07)
    outline = smooth(
        path(
            "-.3 .02, .3 .02, .33 .1, .32 .6, .24 .7, .08 .76, .07 .95, -.07 .95, "
            "-.08 .76, -.24 .7, -.32 .6, -.33 .1"
        ),
        closed=True,
        steps=6,
    )
    pen.form(moved(outline, 0.03, -0.012), shift(ink.main, light=-0.16))
    pen.form(outline, ink.main, "slant")
    for k in range(6):
        x = -0.24 + 0.095 * k
        pen.line([(x, 0.06), (x + 0.015, 0.3), (x - 0.01, 0.62)], 0.008, grain)
    pen.form(oval(0, 0.89, 0.028, 0.028), shift(ink.main, light=-0.3))


def spoon(pen: Pen, ink: Ink) -> None:
    for x, kind in ((-0.2, "spoon"), (0.0, "fork"), (0.2, "knife")):
        pen.form(
            mirrored([(0.028, 0.0), (0.016, 0.5), (0.02, 0.62)])
            if x
            else box(-0.02, 0, 0.02, 0.62, 0.02),
            ink.main,
            "side",
            ink.finish,
        )
        part = pen.at(x, 0)
        part.form(
            mirrored(smooth([(0.03, 0.0), (0.02, 0.3), (0.016, 0.62)])),
            ink.main,
            "side",
            ink.finish,
        )
        if kind == "spoon":
            part.form(oval(0, 0.8, 0.085, 0.19), ink.main, "slant", "metal")
            part.form(oval(0.01, 0.8, 0.06, 0.15), shift(ink.main, light=-0.08), "fall")
        elif kind == "fork":
            part.form(box(-0.075, 0.6, 0.075, 0.76, 0.06), ink.main, "side", ink.finish)
            for k in (-0.055, -0.018, 0.018, 0.055):
                part.line([(k, 0.7), (k, 0.97)], 0.022, ink.main)
        else:
            part.form(
                smooth(path("-.03 .58, .04 .58, .07 .8, .02 1, -.03 .95"), closed=True),
                ink.main,
                "slant",
                "metal",
            )
