"""Every kind of subject the painter can draw, by name."""

from __future__ import annotations

from . import belongings, decor, food, furniture, living, outdoors, tableware
from .kind import Kind

KINDS: dict[str, Kind] = {
    "mug": Kind(draw=tableware.mug, wide=1.0, tall=0.82, stature=0.62),
    "cup": Kind(draw=tableware.cup, wide=1.05, tall=0.6, stature=0.5),
    "glass": Kind(draw=tableware.glass, wide=0.62, tall=0.9, stature=0.66, colour="amber"),
    "bottle": Kind(draw=tableware.bottle, wide=0.46, tall=1.05, stature=1.05),
    "carafe": Kind(draw=tableware.carafe, wide=0.8, tall=0.98, stature=0.9),
    "vase": Kind(draw=decor.vase, wide=0.95, tall=1.35, stature=1.3),
    "bowl": Kind(
        draw=tableware.bowl,
        holds=0.31,
        front=tableware.bowl_front,
        wide=0.98,
        tall=0.48,
        stature=0.45,
    ),
    "plate": Kind(draw=tableware.plate, holds=0.03, wide=1.1, tall=0.3, stature=0.3),
    "teapot": Kind(draw=tableware.teapot, wide=1.22, tall=0.74, stature=0.7),
    "kettle": Kind(draw=tableware.kettle, wide=1.05, tall=0.93, stature=0.9),
    "pot": Kind(draw=tableware.pot, wide=1.12, tall=0.72, stature=0.7),
    "pan": Kind(draw=tableware.pan, wide=1.4, tall=0.42, stature=0.36),
    "jar": Kind(draw=tableware.jar, wide=0.58, tall=0.86, stature=0.7),
    "candle": Kind(
        draw=decor.candle, wide=0.62, tall=0.88, stature=0.7, colour="ivory", finish="matt"
    ),
    "lamp": Kind(draw=decor.lamp, wide=0.72, tall=1.05, stature=1.25, finish="matt"),
    "pendant": Kind(
        draw=decor.pendant, wide=0.9, tall=1.0, stature=1.0, stands="floats", home="room"
    ),
    "chair": Kind(
        draw=furniture.chair, wide=0.8, tall=1.08, stature=1.5, finish="matt", home="room"
    ),
    "stool": Kind(
        draw=furniture.stool, wide=0.76, tall=0.75, stature=0.9, finish="matt", home="room"
    ),
    "sofa": Kind(draw=furniture.sofa, wide=1.72, tall=0.8, stature=1.2, finish="matt", home="room"),
    "cushion": Kind(draw=decor.cushion, wide=0.98, tall=0.74, stature=0.7, finish="matt"),
    "blanket": Kind(draw=decor.blanket, wide=0.96, tall=0.54, stature=0.5, finish="matt"),
    "basket": Kind(
        draw=decor.basket,
        holds=0.41,
        front=decor.basket_front,
        wide=0.86,
        tall=0.86,
        stature=0.9,
        colour="honey",
        finish="matt",
    ),
    "planter": Kind(draw=decor.planter, wide=1.0, tall=1.0, stature=1.1, colour="terracotta"),
    "flower": Kind(draw=decor.flower, wide=0.95, tall=0.9, stature=0.9, home="garden"),
    "mirror": Kind(draw=decor.mirror, wide=0.88, tall=1.0, stature=1.2, colour="gold"),
    "clock": Kind(draw=decor.clock, wide=0.9, tall=0.92, stature=0.7),
    "watch": Kind(draw=belongings.watch, wide=0.66, tall=1.0, stature=0.6, colour="brown"),
    "book": Kind(draw=belongings.book, wide=0.98, tall=0.5, stature=0.35, finish="matt"),
    "board": Kind(
        draw=tableware.board, wide=0.68, tall=0.97, stature=0.95, colour="caramel", finish="matt"
    ),
    "spoon": Kind(
        draw=tableware.spoon, wide=0.56, tall=1.0, stature=0.8, colour="silver", finish="metal"
    ),
    "shelf": Kind(
        draw=furniture.shelf, wide=0.86, tall=1.04, stature=1.6, colour="caramel", home="room"
    ),
    "apple": Kind(draw=food.apple, is_food=True, wide=0.96, tall=0.92, stature=0.42, colour="red"),
    "pear": Kind(
        draw=food.pear,
        is_food=True,
        wide=0.78,
        tall=1.05,
        stature=0.5,
        colour="pistachio",
        finish="matt",
    ),
    "lemon": Kind(
        draw=food.lemon, is_food=True, wide=1.12, tall=0.62, stature=0.32, colour="lemon"
    ),
    "orange": Kind(
        draw=food.citrus, is_food=True, wide=0.86, tall=0.86, stature=0.4, colour="orange"
    ),
    "cherry": Kind(
        draw=food.cherry, is_food=True, wide=0.84, tall=0.96, stature=0.36, colour="cherry"
    ),
    "bread": Kind(
        draw=food.bread,
        is_food=True,
        wide=1.26,
        tall=0.48,
        stature=0.4,
        colour="caramel",
        finish="matt",
    ),
    "cake": Kind(
        draw=food.cake,
        is_food=True,
        wide=0.82,
        tall=0.44,
        stature=0.5,
        colour="blush",
        finish="matt",
    ),
    "tree": Kind(
        draw=outdoors.tree, wide=1.0, tall=1.15, stature=2.0, colour="fern", home="meadow"
    ),
    "pine": Kind(
        draw=outdoors.pine, wide=0.74, tall=1.08, stature=2.0, colour="forest", home="mountain"
    ),
    "house": Kind(
        draw=outdoors.house, wide=1.1, tall=0.97, stature=2.0, colour="brick", home="meadow"
    ),
    "lighthouse": Kind(
        draw=outdoors.lighthouse, wide=0.5, tall=1.06, stature=2.2, colour="red", home="sea"
    ),
    "boat": Kind(draw=outdoors.boat, wide=1.12, tall=1.0, stature=1.8, home="sea"),
    "bicycle": Kind(draw=outdoors.bicycle, wide=1.36, tall=0.83, stature=1.4, home="city"),
    "car": Kind(draw=outdoors.car, wide=1.5, tall=0.67, stature=1.4, home="city"),
    "cat": Kind(
        draw=living.cat, wide=0.88, tall=1.04, stature=1.0, colour="charcoal", finish="matt"
    ),
    "dog": Kind(draw=living.dog, wide=0.84, tall=1.0, stature=1.2, colour="caramel", home="meadow"),
    "bird": Kind(draw=living.bird, wide=1.2, tall=0.8, stature=0.6, home="forest", finish="matt"),
    "fish": Kind(
        draw=living.fish,
        colour="orange",
        wide=1.24,
        tall=0.8,
        stature=0.6,
        stands="floats",
        home="under",
    ),
    "shoe": Kind(draw=belongings.shoe, wide=1.28, tall=0.58, stature=0.6, finish="matt"),
    "backpack": Kind(draw=belongings.backpack, wide=0.88, tall=1.05, stature=1.2, finish="matt"),
    "guitar": Kind(
        draw=belongings.guitar, wide=0.56, tall=1.1, stature=1.6, colour="caramel", home="room"
    ),
    "camera": Kind(
        draw=belongings.camera, wide=1.12, tall=0.72, stature=0.6, colour="charcoal", finish="matt"
    ),
    "rocket": Kind(
        draw=outdoors.rocket, wide=0.7, tall=1.2, stature=2.0, stands="floats", home="space"
    ),
    "balloon": Kind(
        draw=outdoors.balloon, wide=0.84, tall=1.08, stature=2.0, stands="floats", home="sky"
    ),
    "umbrella": Kind(draw=belongings.umbrella, wide=1.14, tall=1.06, stature=1.4),
    "person": Kind(
        draw=living.person, wide=0.5, tall=1.0, stature=1.8, home="meadow", finish="matt"
    ),
}
