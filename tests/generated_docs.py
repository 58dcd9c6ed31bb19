"""The tables of the docs that are made from the code.

uv run python tests/generated_docs.py                     rewrites them all
uv run python tests/generated_docs.py usage-table         one of them

In a page a table stands between `<!-- generated: NAME -->` and `<!-- end of generated -->`.
`test_docs.py` checks that each is what the code says.
"""

import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

import dagster as dg
import pyarrow as pa

from dagster_imagegen import ImageGenResource
from dagster_imagegen.run_config import ImageRunConfig
from dagster_imagegen.sandbox import Sandbox

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end of generated -->)", re.DOTALL)


def table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """A Markdown table with an empty line before and after it."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + "\n"


# -- settings --------------------------------------------------------------------------------------


def resource_settings() -> str:
    """Every field of the resource and of its nested settings."""
    return table(("setting", "default", "meaning"), _fields(ImageGenResource))


def run_config() -> str:
    """Every field of the run config."""
    return table(("field", "default", "meaning"), _fields(ImageRunConfig))


def _fields(model: type[Any], prefix: str = "") -> Iterator[tuple[str, ...]]:
    """A row for each field, and after it the rows of the settings that are nested in it."""
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else ""
        if not default and field.default_factory is None and field.default is not None:
            default = f"`{field.default}`"
        nested = _nested(field.annotation)
        if nested is None or field.default_factory is not nested:
            yield f"`{prefix}{name}`", default, str(field.description)
        if nested is not None:
            by_name = get_origin(field.annotation) is dict
            yield from _fields(nested, f"{prefix}{name}.{'*.' if by_name else ''}")


def _nested(annotation: Any) -> type[dg.Config] | None:
    """The class of settings in `Settings`, `Settings | None` or `dict[str, Settings]`."""
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and get_origin(each) is None and issubclass(each, dg.Config):
            return each
    return None


def request_parameters() -> str:
    """Every row of the table of parameters."""
    from dagster_imagegen.engine.request import PARAMETERS

    body = {"field": "as it is", "merged": "merged into the body", "no": "no"}

    def rows() -> Iterator[tuple[str, ...]]:
        for name, each in PARAMETERS.items():
            limits = "not null" if not each.nullable else ""
            if each.kind == "integer":
                limits = f"{each.minimum:,} to {each.maximum:,}"
            if each.max_characters:
                limits = f"at most {each.max_characters:,} characters"
            sent = body[each.body]
            decides = "no" if each.fingerprint == "no" else "yes"
            if name == "n":
                sent, decides = "n requests of one image each", "the number of the variant"
            yield f"`{name}`", each.kind, limits, sent, decides

    return table(("parameter", "type", "limits", "sent", "part of the fingerprint"), rows())


# -- tables in storage -----------------------------------------------------------------------------


def usage_table() -> str:
    """Every column of the usage table."""
    return _columns(_schemas()[0])


def image_table() -> str:
    """Every column of the image table, but for those of the prompt table."""
    return _columns(_schemas()[1])


@cache
def _schemas() -> tuple[pa.Schema, pa.Schema]:
    """Those of a usage table and an image table as users get them."""
    with tempfile.TemporaryDirectory() as folder, Sandbox(paint=False) as sandbox:
        imagegen = ImageGenResource(base_url=sandbox.base_url, model="any", storage_uri=folder)
        images = imagegen.generate_many(["a red mug"])
        return imagegen.usage().schema, images.schema


def _columns(schema: pa.Schema) -> str:
    rows = (
        (f"`{each.name}`", str(each.type), (each.metadata or {})[b"description"].decode())
        for each in schema
    )
    return table(("column", "type", "meaning"), rows)


# -- failures --------------------------------------------------------------------------------------


def failure_kinds() -> str:
    """Every kind of failure, with what it means for the run."""
    from dagster_imagegen.engine.endpoint.kinds import FailureKind

    tries = {None: "no", "not_accepted": "yes", "perhaps_billed": "yes, `retry.max_attempts`"}

    def rows() -> Iterator[tuple[str, ...]]:
        for kind in FailureKind:
            rules = kind.rules
            again = "if `retry.resend_unknown`" if rules.only_if_allowed else tries[rules.retry]
            ends = "no"
            if rules.if_all_fail is not None:
                ends = "when patience is out" if rules.is_outage else "yes"
            slows = "yes" if rules.slows_sending else "no"
            name = f"`{kind.name.lower()}`"
            words = (f"`{rules.status}`", f"`{rules.billing}`")
            yield name, rules.meaning, *words, again, slows, ends

    header = ("kind", "what happened", "status", "billing", "sent again", "slows sending")
    return table((*header, "ends the run if all fail so"), rows())


SECTIONS: Mapping[str, Callable[[], str]] = {
    "resource-settings": resource_settings,
    "run-config": run_config,
    "request-parameters": request_parameters,
    "usage-table": usage_table,
    "image-table": image_table,
    "failure-kinds": failure_kinds,
}


def sections_of(page: str) -> dict[str, str]:
    """The generated sections of a page as they stand there, by name."""
    return {found[2]: found[0] for found in BLOCK.finditer(page)}


def with_section(page: str, name: str) -> str:
    """The page with one section regenerated."""

    def made(found: "re.Match[str]") -> str:
        return f"{found[1]}{SECTIONS[name]()}{found[3]}" if found[2] == name else found[0]

    return BLOCK.sub(made, page)


if __name__ == "__main__":
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text()
        for section in sections_of(text):
            if not sys.argv[1:] or section in sys.argv[1:]:
                text = with_section(text, section)
        path.write_text(text)
