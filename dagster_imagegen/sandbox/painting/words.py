"""The words the painter knows, and what they stand for."""

from __future__ import annotations

from dataclasses import dataclass

from .colour import COLOURS, RGB
from .shading import Finish


def _table(text: str) -> dict[str, str]:
    """`meaning: word word word` on each line, as word -> meaning."""
    result: dict[str, str] = {}
    for line in text.strip().splitlines():
        meaning, _, words = line.partition(":")
        for word in [meaning.strip(), *words.split()]:
            result.setdefault(word, meaning.strip())
    return result


SUBJECTS = _table("""
mug: becher
cup: teacup espresso cappuccino latte
glass: tumbler goblet wineglass
bottle: flask decanter thermos soap dispenser
carafe: jug pitcher creamer ewer
vase: amphora urn
bowl: ramekin basin dish colander
plate: platter saucer dinnerware tray
teapot: teiere
kettle: coffeepot moka
pot: saucepan casserole cocotte cauldron stockpot
pan: skillet wok
jar: canister cookiejar
candle: candlestick tealight
lamp: lampshade desklamp lantern
pendant: chandelier
chair: armchair seat rocker
stool: ottoman pouf
sofa: couch settee loveseat
cushion: pillow
blanket: towel napkin duvet quilt
basket: hamper
planter: plant houseplant monstera succulent cactus ficus
flower: bouquet tulip rose daisy sunflower peony poppy blossom lily
mirror:
clock: alarm
watch: wristwatch
book: notebook novel diary journal
board: cuttingboard chopping
spoon: ladle fork knife cutlery utensil whisk spatula
shelf: bookshelf bookcase cabinet
apple: fruit
pear: quince
lemon: lime citrus
orange: tangerine peach apricot clementine
cherry: berry
bread: loaf baguette sourdough
cake: cupcake muffin
tree: oak birch maple willow
pine: fir spruce conifer
house: cottage cabin barn hut
lighthouse: beacon
boat: sailboat ship yacht
bicycle: bike cycle
car: automobile van taxi
cat: kitten kitty
dog: puppy hound fox wolf
bird: sparrow robin owl parrot finch
fish: goldfish koi salmon
shoe: sneaker trainer boot
backpack: rucksack bag satchel tote handbag
guitar: ukulele violin
camera: polaroid
rocket: spaceship spacecraft
balloon: airship
umbrella: parasol
person: woman man girl boy child astronaut dancer
""")

# Where the parts do not mean what the whole does.
PHRASES = {
    "pendant lamp": "pendant",
    "pendant light": "pendant",
    "coffee table": "table",
    "golden hour": "sunset",
    "cast iron": "iron",
    "cast-iron": "iron",
    "candle holder": "candlestick",
    "looking glass": "mirror",
    "wine glass": "wineglass",
    "flower pot": "planter",
    "living room": "livingroom",
}

PLACES = _table("""
mountain: alps peak hill summit valley
sea: ocean lake beach coast shore harbour harbor river bay island
forest: wood woods woodland jungle
desert: dune dunes sahara canyon
city: street skyline downtown town urban
kitchen: pantry worktop
room: interior bedroom hallway bathroom lounge livingroom loft
studio: packshot
garden: patio terrace park orchard
meadow: field prairie lawn countryside farm pasture
space: galaxy cosmos orbit planet
sky: cloud
""")

TIMES = _table("""
morning: sunrise breakfast
dawn: daybreak
noon: midday daylight sunny bright
sunset: evening hour
dusk: twilight
night: midnight moonlight moonlit moon candlelight star starry
""")

WEATHERS = _table("""
snow: snowy snowfall blizzard
rain: rainy drizzle storm
fog: mist misty foggy haze hazy
""")

SEASONS = _table("""
autumn: fall autumnal october harvest
winter: christmas frost frosty december
spring: easter april
summer: july
""")

SURFACES = {
    "table": "wood",
    "tabletop": "wood",
    "desk": "wood",
    "shelf": "wood",
    "counter": "stone",
    "countertop": "stone",
    "worktop": "stone",
    "sideboard": "wood",
    "floor": "wood",
    "floorboard": "wood",
    "tablecloth": "linen",
    "cloth": "linen",
    "bench": "wood",
    "slab": "stone",
    "plinth": "stone",
    "pedestal": "stone",
}

BACKDROPS = {"background", "backdrop", "wall", "paper", "sweep", "seamless"}

COUNTS = {
    "two": 2,
    "pair": 2,
    "couple": 2,
    "three": 3,
    "trio": 3,
    "few": 3,
    "four": 4,
    "several": 4,
    "set": 3,
    "five": 5,
    "six": 6,
    "stack": 3,
    "row": 4,
}


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a thing is made of. `rgb` is its colour where the prompt names no other."""

    name: str
    finish: Finish
    rgb: RGB | None


def _materials(text: str) -> dict[str, Material]:
    result: dict[str, Material] = {}
    for line in text.strip().splitlines():
        name, finish, colour, *words = line.split()
        rgb = None if colour == "-" else COLOURS[colour]
        kinds: dict[str, Finish] = {
            "matt": "matt",
            "glazed": "glazed",
            "metal": "metal",
            "glass": "glass",
        }
        for word in [name, *words]:
            result[word] = Material(name=name, finish=kinds[finish], rgb=rgb)
    return result


MATERIALS = _materials("""
wood matt caramel wooden oak pine beech ash timber bamboo
walnut matt brown mahogany teak
brass metal gold gilded
copper metal sienna
bronze metal umber
steel metal silver stainless aluminium aluminum chrome metal metallic zinc tin
iron matt charcoal
glass glass aqua crystal
ceramic glazed - porcelain enamel enamelled enameled glazed lacquered glossy
stoneware matt oat clay earthenware pottery matte
terracotta matt terracotta
linen matt oatmeal cotton canvas muslin
wool matt cream felt knitted velvet fleece
leather matt caramel suede
stone matt stone granite slate travertine
marble matt pearl
concrete matt ash cement
wicker matt honey rattan seagrass jute straw woven
plastic glazed - acrylic
wax matt ivory beeswax
""")
