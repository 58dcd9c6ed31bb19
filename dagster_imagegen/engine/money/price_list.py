"""The dated price list, and the cost of requests by it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from functools import cache
from importlib import resources
from typing import Any, TypeAlias

import yaml
from pydantic import TypeAdapter, ValidationError

from dagster_imagegen.engine.attempt import UNKNOWN_COST, Cost, CostBasis, TokenUsage
from dagster_imagegen.engine.errors import ConfigurationError, abbreviate, did_you_mean
from dagster_imagegen.engine.money.model_life import ModelLife
from dagster_imagegen.engine.money.price import ANY, ModelPrice, TokenRates
from dagster_imagegen.engine.request import ImageRequest

USER_SOURCE = "prices setting"
"""The source of a user's price that names none."""

_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")
# So wide that no sum or product is rounded, whatever the process's own context is.
_EXACT = Context(prec=100)
# The limits of the usage table: ten decimals, and more dollars than any real bill.
_SMALLEST_USD = Decimal("1e-10")
_ABSURD_USD = Decimal(10**9)
_Key: TypeAlias = tuple[str, str | None, str | None, int, int]
"""Model, size, quality, the number of partial images, and the bytes of the prompt."""


@dataclass(frozen=True, kw_only=True)
class PriceList:
    """Prices by model name. The user's own (`overrides`) take precedence over the `listed` ones.

    `prefixes` are those of gateways, such as `openai/`, each with a note for the source.
    """

    listed: Mapping[str, ModelPrice]
    prefixes: Mapping[str, str]
    overrides: Mapping[str, ModelPrice] = field(default_factory=dict[str, ModelPrice])
    lives: Mapping[str, ModelLife] = field(default_factory=dict[str, ModelLife])
    _found: dict[str, ModelPrice | None] = field(
        default_factory=dict[str, "ModelPrice | None"], init=False, repr=False, compare=False
    )
    _bounds: dict[_Key, tuple[Cost, Cost]] = field(
        default_factory=dict[_Key, tuple[Cost, Cost]], init=False, repr=False, compare=False
    )

    @staticmethod
    @cache
    def default() -> "PriceList":
        """The published prices in prices.yaml."""
        file = resources.files("dagster_imagegen.engine.money").joinpath("prices.yaml")
        # In C it takes 4 ms instead of 35; not every build of the package has it.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        published: dict[str, Any] = yaml.load(file.read_text("utf-8"), loader)  # noqa: S506  # safe
        listed: dict[str, ModelPrice] = {}
        for entry in published["models"]:
            names = entry.pop("names")
            listed |= dict.fromkeys(names, _MODEL_PRICE.validate_python(entry))
        lives: dict[str, ModelLife] = {}
        for entry in published["shutdowns"]:
            names = entry.pop("names")
            lives |= dict.fromkeys(names, _MODEL_LIFE.validate_python(entry))
        return PriceList(listed=listed, prefixes=published["prefixes"], lives=lives)

    def with_overrides(
        self, prices: Mapping[str, ModelPrice | Mapping[str, object]]
    ) -> "PriceList":
        """This list with the user's prices, by model name (exact, or a family: `flux-*`).

        They take precedence; what a price leaves out stays as listed for its model.

        Raises:
            ConfigurationError: A price is not valid; the message names every problem.
        """
        overrides = {model: _validated(model, price) for model, price in prices.items()}
        return replace(self, overrides={**self.overrides, **overrides})

    def find(self, model: str) -> ModelPrice | None:
        """The price of a model, or None. A name that is only similar does not match."""
        if model not in self._found:
            self._found[model] = self._find(model)
        return self._found[model]

    def life(self, model: str) -> ModelLife | None:
        """When the model ends, where that is published."""
        life = self.lives.get(model) or self.lives.get(_SNAPSHOT.sub("", model))
        for prefix, note in self.prefixes.items():
            bare = model.removeprefix(prefix)
            if life is None and bare != model and (found := self.life(bare)) is not None:
                life = replace(found, gateway=note)
        return life

    def _find(self, model: str) -> ModelPrice | None:
        listed = _look_up(self.listed, model)
        user = _look_up(self.overrides, model)
        for prefix, note in self.prefixes.items():
            bare = model.removeprefix(prefix)
            if bare != model:
                user = user or _look_up(self.overrides, bare)
                if listed is None and (found := _look_up(self.listed, bare)) is not None:
                    listed = replace(found, source=f"{found.source} ({note})")
        if user is None or listed is None:
            return user or listed
        return user.over(listed)

    def cost(
        self,
        model: str,
        *,
        tokens: TokenUsage | None = None,
        reported_usd: Decimal | None = None,
        size: str | None = None,
        quality: str | None = None,
        partial_images: int = 0,
        image_made: bool = True,
    ) -> Cost:
        """The cost of an answered request, from the best source: reported, metered, estimated.

        A `reported_usd` of 0 and `tokens` of all zeros come from servers that do not count, and
        are ignored. An estimate needs a named `size` and `quality`, and leaves out the prompt. A
        failure (not `image_made`) may be billed for its prompt only.
        """
        with localcontext(_EXACT):
            if reported_usd is not None and _is_bill(reported_usd):
                usd = reported_usd.quantize(_SMALLEST_USD, ROUND_HALF_EVEN)
                return Cost(usd=usd, basis="reported", source="reported by the endpoint")
            price = self.find(model)
            if price is None:
                return UNKNOWN_COST
            usd = None if tokens is None else price.metered(tokens, image_made=image_made)
            if usd is not None:
                return _cost(usd, "metered", price)
            estimates = set(price.estimates(size, quality, partial_images))
            if len(estimates) != 1:
                return UNKNOWN_COST
            return _cost(estimates.pop(), "estimated", price, size=size)

    def bounds(self, request: ImageRequest) -> tuple[Cost, Cost]:
        """The least that a request with an image can cost, and the most that any can: its worst
        case, which is reserved before it is sent.

        For the worst case `auto` counts as the most expensive choice, the prompt as one token per
        byte, and every partial image is billed. A size between the published ones counts as the
        next larger one, if the model takes any; the source says so. Of `extra_body` only
        the parameters without a price are considered. Both bounds are unknown if the model, the
        size or quality that the request names, or another of its parameters has no price.
        """
        price = self.find(request.model)
        if price is None or (request.unpriced and not price.usd_per_image):
            return UNKNOWN_COST, UNKNOWN_COST
        prompt_bytes = len(request.prompt.encode("utf-8", "surrogatepass"))
        partials = request.partial_images or 0
        key = (request.model, request.size, request.quality, partials, prompt_bytes)
        if key not in self._bounds:
            # Rows that cost the same share them: a prompt table can have a million.
            with localcontext(_EXACT):
                self._bounds[key] = _bounds(price, request)
        return self._bounds[key]


def _is_bill(usd: Decimal) -> bool:
    return usd.is_finite() and _SMALLEST_USD <= usd < _ABSURD_USD


def _bounds(price: ModelPrice, request: ImageRequest) -> tuple[Cost, Cost]:
    bound = price.bound_of_size(request.size)
    sizes = (request.size,) if bound is None else bound.counted
    partials = request.partial_images or 0
    most = [usd for size in sizes for usd in price.estimates(size, request.quality, partials)]
    # The final image can come before any partial one.
    least = price.estimates(request.size, request.quality, 0) if bound is None else [Decimal(0)]
    prompt = price.prompt_bound(request.prompt)
    if not least or not most or prompt is None:
        return UNKNOWN_COST, UNKNOWN_COST
    both = (min(least), max(most) + prompt)
    low, high = (_cost(usd, "estimated", price, size=request.size) for usd in both)
    return low, high


def _cost(usd: Decimal, basis: CostBasis, price: ModelPrice, *, size: str | None = None) -> Cost:
    """`size` is what an estimate is for; metered tokens do not depend on it."""
    if usd >= _ABSURD_USD:
        return UNKNOWN_COST
    return Cost(usd=usd, basis=basis, source=price.source_of(size), as_of=price.as_of)


def _look_up(prices: Mapping[str, ModelPrice], model: str) -> ModelPrice | None:
    """The price by the whole name, else without its date, else by the longest family."""
    exact = prices.get(model) or prices.get(_SNAPSHOT.sub("", model))
    if exact is not None:
        return exact
    families = [
        name for name in prices if name.endswith(ANY) and model.startswith(name[: -len(ANY)])
    ]
    return prices[max(families, key=len)] if families else None


_MODEL_LIFE = TypeAdapter(ModelLife)
_MODEL_PRICE = TypeAdapter(ModelPrice)


def _validated(model: str, price: ModelPrice | Mapping[str, object]) -> ModelPrice:
    try:
        valid = _MODEL_PRICE.validate_python(price)
    except ValidationError as error:
        raise ConfigurationError(_complaint(model, error)) from error
    return valid if valid.source else replace(valid, source=USER_SOURCE)


_FIELDS = (*ModelPrice.__dataclass_fields__, *TokenRates.__dataclass_fields__)
_PYDANTIC_RULE = re.compile(r"^(\w+ )?[Ii]nput should|^Value error, must")


def _complaint(model: str, error: ValidationError) -> str:
    lines: list[str] = []
    for each in error.errors(include_url=False):
        place = "".join(f".{part}" for part in each["loc"])
        rule = _PYDANTIC_RULE.sub("must", each["msg"])
        if each["type"] == "unexpected_keyword_argument":
            rule = "is not part of a price" + did_you_mean(str(each["loc"][-1]), _FIELDS)
        elif each["type"] != "value_error":
            rule += f", got {abbreviate(each['input'])}"
        lines.append(f'prices["{model}"]{place} {rule}')
    return "\n".join(lines)
