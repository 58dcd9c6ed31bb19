"""The names that images are published under: the template is the user's, the values anybody's."""

import unicodedata
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dagster_imagegen.engine.errors import ConfigurationError, PromptTableError
from dagster_imagegen.engine.prompts.rows import PromptTable
from dagster_imagegen.engine.prompts.table import read_prompts
from dagster_imagegen.engine.publishing.names import (
    PART_BYTES_MAX,
    Publication,
    collisions,
    names_of,
    plain_part,
)

PRODUCTS = "s3://cdn/products/{sku}.{ext}"


def table(rows: Any, **options: Any) -> PromptTable:
    return read_prompts(rows, endpoint_id="e", model="m", **options)


def names(template: str, *rows: dict[str, Any], **options: Any) -> list[str]:
    given = [{"prompt": f"picture {at}", **row} for at, row in enumerate(rows)]
    found = names_of(Publication.parse(template), table(given, **options), None)
    return [each.text for each in found]


# -- the template ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "folder"),
    [
        (PRODUCTS, "s3://cdn/products"),
        ("s3://cdn/{brand}/{sku}.{ext}", "s3://cdn"),
        ("s3://cdn/shop-{sku}/main.{ext}", "s3://cdn"),
        ("public/{sku}.{ext}", "public"),
        ("/srv/www/{sku}.{ext}", "/srv/www"),
        ("s3://cdn/hero.{ext}", "s3://cdn"),
    ],
)
def test_a_template_names_a_folder_that_no_value_changes(template: str, folder: str) -> None:
    """The part before the first column, up to its last slash."""
    assert Publication.parse(template).folder == folder


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{sku}.{ext}", "must begin with a folder or bucket"),
        ("/{sku}.{ext}", "must begin with a folder or bucket"),
        ("s3://{bucket}/{sku}.{ext}", "must begin with a folder or bucket"),
        ("s3://cdn-{brand}/{sku}.{ext}", "must begin with a folder or bucket"),
        ("{scheme}://cdn/{sku}.{ext}", "must begin with a folder or bucket"),
        ("s3://cdn/{sku}/../../x.{ext}", 'has the part ".."'),
        ("s3://cdn/../other/{sku}.{ext}", 'has the part ".."'),
        ("s3://cdn/{a}/./{b}.{ext}", 'has the part "."'),
        ("s3://cdn/{a}//{b}.{ext}", 'has the part ""'),
        ("s3://cdn/{sku}/.{ext}", 'has the part ""'),
        ("s3://cdn/{sku}?versionId=1.{ext}", "must not contain '?'"),
        ("s3://cdn/a\\{sku}.{ext}", "must not contain"),
        ("s3://cdn/{sku}\n.{ext}", "must not contain"),
        ("s3://cdn/{{{sku}.{ext}", "must not contain"),
        ("s3://cdn/{sku}.png", "must end in .{ext}, once"),
        ("s3://cdn/{sku}.png", "e.g. s3://cdn/{sku}.{ext}"),
        ("s3://cdn/{sku}", "must end in .{ext}, once"),
        ("s3://cdn/{ext}/{sku}.{ext}", "must end in .{ext}, once"),
        ("s3://cdn/{sku.name}.{ext}", "publish template: {sku.name}: only whole columns"),
        ("s3://cdn/{sku.{ext}", "publish template"),
        ("", "must end in .{ext}"),
        (7, "publish must be text"),
    ],
)
def test_a_template_that_could_leave_its_folder_or_lie_is_an_error(
    template: Any, told: str
) -> None:
    """Where the asset is defined, with the remedy."""
    with pytest.raises(ConfigurationError) as caught:
        Publication.parse(template)
    assert told in str(caught.value)


def test_what_becomes_of_stale_files_is_a_choice_of_two() -> None:
    """And nothing else."""
    assert Publication.parse(PRODUCTS, stale="remove").stale == "remove"
    with pytest.raises(ConfigurationError, match='"list" or "remove", got \'delete\''):
        Publication.parse(PRODUCTS, stale="delete")


# -- the values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("MUG-01", "MUG-01"),
        ("Grüße aus Köln", "Grüße aus Köln"),
        ("u\u0308ber", "über"),
        ("茶碗 2", "茶碗 2"),
        ("a/b", "a_b"),
        ("a\\b", "a_b"),
        ("..", "_"),
        (".", "_"),
        ("../../etc/passwd", "_.._etc_passwd"),
        (".htaccess", "htaccess"),
        ("mug. ", "mug"),
        ("a\x00b\nc", "a_b_c"),
        ("C:\\x", "C__x"),
        ("s3://other/x", "s3___other_x"),
        ("x?versionId=1", "x_versionId_1"),
        ("*[a]{b}#%2e%2e", "__a__b___2e_2e"),
        ("gpj\u202efdp", "gpj_fdp"),
        ("a\u200bb", "a_b"),
        ("::", "__"),
        ("//", "__"),
        ("con", "_con"),
        ("NUL.tar", "_NUL.tar"),
        ("lpt1", "_lpt1"),
        (2024.0, "2024"),
    ],
)
def test_a_value_is_a_plain_part_of_a_name(value: object, name: str) -> None:
    """It adds no folder and leaves none, and stays as readable as it can."""
    assert names(PRODUCTS, {"sku": value}) == [name]


@given(st.lists(st.text(min_size=1), min_size=2, max_size=2))
@example(["..", "."])
@example(["\u0338", "/\u0338"])
def test_no_value_leaves_the_folder(values: list[str]) -> None:
    """Whatever it is: each part of a name is one part, and is not hidden or empty."""
    a, b = (plain_part(value) for value in values)
    name = Publication.parse("s3://cdn/x/{a}/y-{b}.{ext}").name.fill({"a": a, "b": b})
    parts = unicodedata.normalize("NFC", name).split("/")
    assert len(parts) == 2
    assert parts[1].startswith("y-")
    for part in (a, b):
        assert part.strip(" .") == part != ""
        assert not set(part) & set('/\\:*?"<>|#%{}[]&;$`')
        assert all(unicodedata.category(each)[0] in "LMNPZ" for each in part)
        assert not any(unicodedata.category(each) in ("Zl", "Zp", "Cf", "Cc") for each in part)
        assert plain_part(part) == part, "a name that was made of a name stays"


@pytest.mark.parametrize("value", ["x" * (PART_BYTES_MAX + 1), "é" * PART_BYTES_MAX])
def test_a_name_that_no_disk_takes_is_an_error(value: str) -> None:
    """It is not cut: two that begin alike would be one."""
    with pytest.raises(PromptTableError, match=r"row 0 .*at most 235 bytes.*shorten"):
        names(PRODUCTS, {"sku": value})
    assert names(PRODUCTS, {"sku": "x" * PART_BYTES_MAX}) == ["x" * PART_BYTES_MAX]


def test_an_address_that_no_bucket_takes_is_an_error() -> None:
    """Of all its parts together."""
    long = "x" * PART_BYTES_MAX
    with pytest.raises(PromptTableError, match="addresses of at most 1,000 bytes"):
        names("s3://cdn/{a}/{a}/{a}/{a}/{a}.{ext}", {"a": long})


@pytest.mark.parametrize("value", [None, "", "  "])
def test_an_empty_value_is_an_error(value: object) -> None:
    """It names the row and the column."""
    with pytest.raises(PromptTableError, match=r"row 1 .*sku must be set, for the publish"):
        names(PRODUCTS, {"sku": "a"}, {"sku": value})


# -- the columns -----------------------------------------------------------------------------------


def test_a_template_has_the_columns_and_what_an_image_is_known_by() -> None:
    """Before it is made, so that names can be compared before anything is sent."""
    template = (
        "s3://cdn/{partition_key}/{prompt_id}/{variant}-{size}-{quality}-{price:.2f}-{fingerprint}"
        ".{ext}"
    )
    rows = pa.table(
        {
            "prompt": ["a mug"],
            "prompt_id": ["m/1"],
            "size": ["256x256"],
            "price": pa.array([4.99], pa.float32()),
        }
    )
    read = table(rows, overrides=["size"], params={"quality": "low", "n": 2})
    found = [each.text for each in names_of(Publication.parse(template), read, "2026|de")]
    prints = [each.fingerprint for each in read.rows[0].requests]
    assert found == [f"2026_de/m_1/{n}-256x256-low-4.99-{prints[n]}" for n in (0, 1)]


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("s3://cdn/{skuu}.{ext}", 'no column "skuu"; did you mean "sku"?'),
        ("s3://cdn/{varient}.{ext}", 'no column "varient"; did you mean "variant"?'),
        ("s3://cdn/{variant}.{ext}", 'has a column "variant" as well; rename the column'),
        ("s3://cdn/{partition_key}.{ext}", "the asset has no partitions; leave it out"),
    ],
)
def test_a_column_that_cannot_be_named_is_an_error(template: str, told: str) -> None:
    """With the nearest name that there is."""
    with pytest.raises(ConfigurationError) as caught:
        names(template, {"sku": "a", "variant": 7})
    assert told in str(caught.value)


def test_an_empty_prompt_table_has_no_names() -> None:
    """It has no columns either, and that is no error."""
    assert names_of(Publication.parse(PRODUCTS), table([]), None) == []


# -- names that meet -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "skus", "n", "told"),
    [
        (PRODUCTS, ["a", "b"], 2, "variant 0 of the row has it too; name {variant}"),
        (PRODUCTS, ["a", "a"], 1, "row 0 has it too; name another column"),
        (PRODUCTS, ["a/b", "a:b"], 1, "row 0 has it too; name another column"),
        (PRODUCTS, ["Mug", "mUG"], 1, "row 0 has it too, but for case, which some disks"),
        (PRODUCTS, ["STRASSE", "straße"], 1, "but for case"),
        (PRODUCTS, ["é", "e\u0301"], 1, "row 0 has it too; name another column"),
    ],
)
def test_images_of_one_name_are_an_error(template: str, skus: list[str], n: int, told: str) -> None:
    """It says which other image, and how to tell them apart."""
    rows = table([{"prompt": f"p{at}", "sku": sku} for at, sku in enumerate(skus)], params={"n": n})
    problems = collisions({None: names_of(Publication.parse(template), rows, None)})
    assert problems
    assert told in str(problems[0])


def test_partitions_of_one_run_that_share_a_name_are_an_error() -> None:
    """Unless the template tells them apart."""

    def of(template: str) -> list[str]:
        publication = Publication.parse(template)
        found: dict[str | None, Any] = {
            key: names_of(publication, table([{"prompt": key, "sku": "a"}]), key)
            for key in ("bonn", "oslo")
        }
        return list(map(str, collisions(found)))

    (told,) = of(PRODUCTS)
    assert "(partition oslo)" in told
    assert "row 0 of partition bonn has it too; name {partition_key} in the template" in told
    assert of("s3://cdn/{partition_key}/{sku}.{ext}") == []
