"""The components: assets and resources in YAML."""

import importlib.metadata
import inspect
import textwrap
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster.components.testing import create_defs_folder_sandbox
from dagster.components.testing.utils import DefsFolderSandbox
from pydantic import ValidationError

from dagster_imagegen import (
    ImageGenComponent,
    ImageGenResource,
    ImageGenResourceComponent,
    build_image_checks,
    image_asset,
)
from dagster_imagegen.assets import ImageAssetArguments
from dagster_imagegen.component import OF_DAGSTER, OURS
from dagster_imagegen.definition import OUR_ARGUMENTS
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.request import PARAMETERS
from dagster_imagegen.resource_settings import ResourceSettings
from dagster_imagegen.yaml_values import OF_SPEC, checks_model
from tests.conftest import Project, column, materialized, table_asset

# Dagster's own: its reading of YAML, and what it calls beta.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated"),
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
]

TYPE = "dagster_imagegen.ImageGenComponent"
OF_PYTHON = {
    *("definition", "resource_defs", "required_resource_keys", "hooks", "io_manager_def"),
    *("dagster_type", "key_prefix", "is_virtual", "output_required"),
}
"""Arguments of `image_asset` that no YAML can express, or that a folder or the key does."""


@pytest.fixture
def defs_folder() -> Iterator[DefsFolderSandbox]:
    with create_defs_folder_sandbox() as folder:
        yield folder


def write(folder: DefsFolderSandbox, attributes: str, *, kind: str = TYPE) -> Path:
    """A component's folder, with these attributes as they would be typed."""
    path = folder.defs_folder_path / "shots"
    path.mkdir(exist_ok=True)
    text = textwrap.indent(textwrap.dedent(attributes).strip(), "  ")
    (path / "defs.yaml").write_text(f"type: {kind}\nattributes:\n{text}\n")
    return path


@contextmanager
def loaded(folder: DefsFolderSandbox, attributes: str, *, kind: str = TYPE) -> Generator[Any]:
    """The definitions of these attributes."""
    path = write(folder, attributes, kind=kind)
    with folder.load_component_and_build_defs(path) as (_, defs):
        yield defs


def asset_of(defs: dg.Definitions) -> dg.AssetsDefinition:
    """The one image asset."""
    (asset,) = list(defs.assets or ())
    assert isinstance(asset, dg.AssetsDefinition)
    return asset


def error_of(folder: DefsFolderSandbox, attributes: str, *, kind: str = TYPE) -> str:
    """Everything that a failed load says."""
    with pytest.raises(Exception) as raised, loaded(folder, attributes, kind=kind):
        pass
    texts: list[str] = []
    error: BaseException | None = raised.value
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


# -- the asset -------------------------------------------------------------------------------------


def test_an_upstream_table_becomes_images(defs_folder: DefsFolderSandbox, project: Project) -> None:
    """By its key, a template, parameters and overrides."""
    attributes = """
        asset: {key: shots, group_name: marketing, kinds: [jpeg], tags: {tier: gold}}
        prompt_table: products
        prompt: "a {colour} {name}"
        params: {quality: low, size: 1024x1024}
        overrides: [size]
    """
    rows = [
        {"name": "mug", "colour": "red", "size": None},
        {"name": "cup", "colour": "blue", "size": "1536x1024"},
    ]
    with loaded(defs_folder, attributes) as defs:
        asset = asset_of(defs)
        result = project.run(table_asset(rows), asset)
    images = project.value("shots")
    assert column(images, "prompt") == ["a red mug", "a blue cup"]
    assert set(column(project.usage(result), "size")) == {"1024x1024", "1536x1024"}
    assert set(column(project.usage(result), "quality")) == {"low"}
    spec = asset.specs_by_key[dg.AssetKey("shots")]
    assert spec.group_name == "marketing"
    assert spec.kinds == {"jpeg"}
    assert spec.tags["tier"] == "gold"


def test_tables_of_upstream_partitions_are_joined(
    defs_folder: DefsFolderSandbox, project: Project
) -> None:
    """As `build_image_asset` does, if the images do not have these partitions."""
    cities = dg.StaticPartitionsDefinition(["bonn", "oslo"])

    @dg.asset(partitions_def=cities)
    def sights(context: dg.AssetExecutionContext) -> list[str]:
        return [f"the town hall of {context.partition_key}"]

    for city in cities.get_partition_keys():
        project.run(sights, partition_key=city)
    with loaded(defs_folder, "asset: {key: shots}\nprompt_table: sights") as defs:
        project.run(sights, asset_of(defs), select=["shots"])
    prompts = ["the town hall of bonn", "the town hall of oslo"]
    assert column(project.value("shots"), "prompt") == prompts


def test_a_csv_file_is_read_in_each_run(defs_folder: DefsFolderSandbox, project: Project) -> None:
    """Its cells are text, whatever they look like; a byte order mark is no part of a name."""
    path = defs_folder.defs_folder_path / "shots"
    path.mkdir()
    file = path / "prompts.csv"
    file.write_text("\ufeffname,sku,note\nmug,007,\n", encoding="utf-8")
    attributes = "asset: {key: shots}\nprompt_file: prompts.csv\nprompt: 'a {name}'"
    with loaded(defs_folder, attributes) as defs:
        asset = asset_of(defs)
        project.run(asset)
        assert column(project.value("shots"), "sku") == ["007"]
        assert column(project.value("shots"), "note") == [""]
        assert project.sent() == 1
        with file.open("a") as lines:
            lines.write('"cup\nof tea",008,new\n')
        project.run(asset)
    assert project.sent() == 1
    assert column(project.value("shots"), "prompt") == ["a mug", "a cup\nof tea"]


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("prompts.csv", b"prompt,sku,sku\na mug,1,2\n", 'the header names "sku" twice'),
        ("prompts.csv", "prompt\ncaf\u00e9\n".encode("latin-1"), "save it as UTF-8"),
        ("prompts.csv", b'prompt\n"a mug\na cup\n', "unexpected end of data"),
        ("prompts.parquet", b"prompt\na mug\n", "Parquet"),
        ("prompts.csv", None, "No such file"),
    ],
    ids=["a header twice", "not UTF-8", "open quote", "no Parquet", "deleted"],
)
def test_a_file_that_cannot_be_read_is_named(
    defs_folder: DefsFolderSandbox, project: Project, name: str, data: bytes | None, told: str
) -> None:
    """In the run, because it is read there. A quote left open would swallow the other rows."""
    file = defs_folder.defs_folder_path / "shots" / name
    file.parent.mkdir()
    file.write_bytes(data or b"")
    with loaded(defs_folder, f"asset: {{key: shots}}\nprompt_file: {name}") as defs:
        if data is None:
            file.unlink()
        (error,) = project.errors(project.run(asset_of(defs), fails=True))
    assert f"prompt_file {file.resolve()} cannot be read" in error
    assert told in error
    assert project.sent() == 0


def test_a_parquet_file_keeps_its_types(defs_folder: DefsFolderSandbox, project: Project) -> None:
    """They are carried into the image table."""
    path = defs_folder.defs_folder_path / "shots"
    path.mkdir()
    pq.write_table(pa.table({"prompt": ["a mug"], "price": [4.5]}), path / "prompts.parquet")
    with loaded(defs_folder, "asset: {key: shots}\nprompt_file: prompts.parquet") as defs:
        project.run(asset_of(defs))
    assert column(project.value("shots"), "price") == [4.5]


def test_prompts_in_yaml_are_taken_to_the_letter(
    defs_folder: DefsFolderSandbox, project: Project
) -> None:
    """Dagster's templates would read some as lists or numbers, and drop quotes."""
    attributes = """
        asset: {key: shots}
        prompts:
          - "'a sign that says hello'"
          - "[a, b]"
          - "7"
    """
    with loaded(defs_folder, attributes) as defs:
        project.run(asset_of(defs))
    assert column(project.value("shots"), "prompt") == ["'a sign that says hello'", "[a, b]", "7"]


def test_templates_of_dagster_are_resolved(
    defs_folder: DefsFolderSandbox, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In prompts and parameters, where braces are doubled."""
    monkeypatch.setenv("STYLE", "in ink")
    monkeypatch.setenv("SHOTS_QUALITY", "low")
    attributes = """
        asset: {key: shots}
        prompts: ["a mug {{ env.STYLE }}"]
        params: {quality: "{{ env.SHOTS_QUALITY }}"}
    """
    with loaded(defs_folder, attributes) as defs:
        result = project.run(asset_of(defs))
    assert column(project.value("shots"), "prompt") == ["a mug in ink"]
    assert column(project.usage(result), "quality") == ["low"]


def test_null_leaves_a_parameter_out(defs_folder: DefsFolderSandbox, project: Project) -> None:
    """For servers that refuse `size`."""
    attributes = "asset: {key: shots}\nprompts: [a mug]\nparams: {size: null}"
    with loaded(defs_folder, attributes) as defs:
        project.run(asset_of(defs))
    assert "size" not in project.sandbox.requests[0].body


def test_arguments_of_dagster_are_passed_on(defs_folder: DefsFolderSandbox) -> None:
    """Partitions, policies, conditions, the pool."""
    attributes = """
        asset:
          key: shop/shots
          deps: [stock]
          owners: ["team:shop"]
          partitions_def: {type: static, partition_keys: [a, b]}
        prompts: [a mug]
        pool: images
        op_tags: {team: shop}
        retry_policy: {max_retries: 2, delay: 30, backoff: EXPONENTIAL}
        backfill_policy: {type: multi_run, max_partitions_per_run: 1}
    """
    with loaded(defs_folder, attributes) as defs:
        asset = asset_of(defs)
    spec = asset.specs_by_key[dg.AssetKey(["shop", "shots"])]
    assert {each.asset_key for each in spec.deps} == {dg.AssetKey("stock")}
    assert spec.owners == ["team:shop"]
    assert asset.partitions_def == dg.StaticPartitionsDefinition(["a", "b"])
    assert asset.backfill_policy == dg.BackfillPolicy.multi_run(1)
    assert asset.op.pool == "images"
    assert asset.op.tags["team"] == "shop"
    retry = dg.RetryPolicy(max_retries=2, delay=30, backoff=dg.Backoff.EXPONENTIAL)
    assert asset.op.retry_policy == retry


def test_our_own_arguments_are_passed_on(defs_folder: DefsFolderSandbox, project: Project) -> None:
    """A resource under another name, and a status that fails the step."""
    attributes = "asset: {key: shots}\nprompts: [a]\nresource_key: studio\nfail_on: [refused]"
    project.sandbox.script("moderation_blocked")
    with loaded(defs_folder, attributes) as defs:
        resources = {"studio": project.resource()}
        project.run(asset_of(defs), resources=resources, fails=True)


@pytest.mark.parametrize("given", [{"limit": 1}, {"plan_only": True}])
def test_a_run_can_be_limited_or_planned(
    defs_folder: DefsFolderSandbox, project: Project, given: dict[str, Any]
) -> None:
    """It succeeds without a materialization, and the check `complete` is answered."""
    attributes = "asset: {key: shots}\nprompts: [a, b]\non_incomplete: materialize"
    with loaded(defs_folder, attributes) as defs:
        result = project.run(asset_of(defs), run_config={"ops": {"shots": {"config": given}}})
    assert materialized(result) == {}
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("complete", False)


class Posters(ImageGenComponent):
    """A component of a project's own."""

    def get_asset_spec(self, spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.replace_attributes(owners=["team:print"])

    def execute(self, context: Any, imagegen: Any, prompts: Any, config: Any) -> Any:
        yield from super().execute(context, imagegen, lambda: prompts()[:1], config)


def test_a_subclass_changes_spec_and_step(defs_folder: DefsFolderSandbox, project: Project) -> None:
    """By the two methods that `ImageAssetDefinition` has as well."""
    kind = f"{__name__}.Posters"
    with loaded(defs_folder, "asset: {key: shots}\nprompts: [one, two]", kind=kind) as defs:
        asset = asset_of(defs)
        result = project.run(asset)
    assert asset.specs_by_key[dg.AssetKey("shots")].owners == ["team:print"]
    assert column(project.value("shots"), "prompt") == ["one"]
    assert set(materialized(result)) == {"shots"}


def test_it_can_be_made_in_python() -> None:
    """Then there is no file, and errors have no line."""
    spec = dg.AssetSpec("shots", automation_condition=dg.AutomationCondition.eager())
    asset = asset_of(dg.component_defs(component=ImageGenComponent(asset=spec, prompts=["a mug"])))
    assert (
        asset.specs_by_key[dg.AssetKey("shots")].automation_condition == spec.automation_condition
    )
    empty = ImageGenComponent(asset=dg.AssetSpec("shots"))
    with pytest.raises(ConfigurationError, match="exactly one of prompt_table"):
        dg.component_defs(component=empty)


def test_its_checks_run_with_it(defs_folder: DefsFolderSandbox, project: Project) -> None:
    """With the limits and the severity that stand there, of the resource that the asset uses."""
    attributes = """
        asset: {key: shop/shots}
        prompts: [a mug, a cup]
        params: {quality: low}
        resource_key: studio
        image_checks: {min_width: 9999, max_usd: 0.5, per: day, severity: WARN}
    """
    with loaded(defs_folder, attributes) as defs:
        asset = asset_of(defs)
        checks = list(defs.asset_checks or ())
        result = project.run(asset, *checks, resources={"studio": project.resource()})
    found = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert {name for name, each in found.items() if each.passed} == {
        *("images_complete", "images_intact", "spending_known", "spending_within_limit")
    }
    assert not found["images_large_enough"].passed
    assert found["images_large_enough"].severity == dg.AssetCheckSeverity.WARN


def test_the_checks_have_the_arguments_of_the_function() -> None:
    """But for those that the asset's own attributes are."""
    arguments = set(inspect.signature(build_image_checks).parameters)
    named = set(checks_model(build_image_checks).model_fields)
    assert arguments - named == {"asset", "resource_key", "partitions_def"}
    assert named < arguments


# -- the usage asset -------------------------------------------------------------------------------

USAGE = "dagster_imagegen.ImageGenUsageComponent"


def test_the_bill_is_an_asset(defs_folder: DefsFolderSandbox, project: Project) -> None:
    """Of the image assets that are named, with what else an asset spec has."""
    attributes = """
        asset: {key: costs/usage, group_name: costs, tags: {tier: gold}, kinds: [table]}
        image_assets: [hero]
    """
    with loaded(defs_folder, attributes, kind=USAGE) as defs:
        usage = asset_of(defs)
        hero = image_asset(name="hero")(lambda: ["a mug"])
        result = project.run(hero, usage)
    assert materialized(result)["costs/usage"].metadata["imagegen/requests"].value == 1
    spec = usage.specs_by_key[dg.AssetKey(["costs", "usage"])]
    assert (spec.group_name, spec.tags["tier"], spec.kinds) == ("costs", "gold", {"table"})


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ("asset: {key: usage}\nimage_assets: []", "image_assets must be a list of image assets"),
        ("asset: {key: usage, deps: [x]}\nimage_assets: [hero]", "name the assets in image_assets"),
        ("asset: {key: usage}\nimage_asset: [hero]", "image_asset"),
    ],
)
def test_a_bill_that_cannot_work_names_its_file(
    defs_folder: DefsFolderSandbox, attributes: str, told: str
) -> None:
    """And the remedy."""
    text = error_of(defs_folder, attributes, kind=USAGE)
    assert "shots/defs.yaml:" in text
    assert told in text


# -- what cannot work ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "line", "told"),
    [
        ("prompts: [a]\npropmt: x", 5, "propmt"),
        ("prompts: [a]\nparams: {qualty: low}", 5, "qualty"),
        ("prompts: [a]\nparams:\n  quality: low\n  n: 0", 7, "greater than or equal to 1"),
        ("prompts: [a]\nparams: {size: 1024}", 5, "valid string"),
        ("prompts: [a]\nparams: {extra_body: {model: x}}", 5, 'must not contain "model"'),
        ("prompts: [a]\nparams: {background: ''}", 5, "must not be empty"),
        ("prompts: [a]\noverrides: [sizes]", 5, "'size'"),
        ("prompts: [a]\nfail_on: [broken]", 5, "'failed'"),
        ("prompts: [a]\nprompt: 'a {name.x}'", 5, "put that part in a column of its own"),
        ("prompts: [a]\nprompt_table: products", 4, "got prompt_table and prompts"),
        ("prompt: 'a {name}'", 2, "exactly one of prompt_table, prompt_file, prompts"),
        ("prompt_file: ../prompts.csv", 4, "move it there"),
        ("prompt_file: prompts.xlsx", 4, "make an asset"),
        ("prompt_file: prompts.csv", 4, "create it, or correct prompt_file"),
        ("prompts: [a]\nimage_checks: {min_widht: 9}", 5, "min_widht"),
        ("prompts: [a]\nimage_checks: {max_usd: much}", 5, "valid number"),
        ("prompts: [a]\nimage_checks: {near_duplicates: 99}", 5, "from 0 to 48"),
        ("prompts: [a]\nresource_key: config", 2, "resource_key must be a name"),
    ],
)
def test_an_error_names_file_line_and_remedy(
    defs_folder: DefsFolderSandbox, attributes: str, line: int, told: str
) -> None:
    """The file is `defs.yaml`, whose third line is the asset's."""
    text = error_of(defs_folder, f"asset: {{key: shots}}\n{attributes}")
    assert f"shots/defs.yaml:{line}" in text
    assert told in text


def test_a_link_out_of_the_folder_is_refused(
    defs_folder: DefsFolderSandbox, tmp_path: Path
) -> None:
    """It is as much an escape as a path."""
    (tmp_path / "prompts.csv").write_text("prompt\na mug\n")
    path = write(defs_folder, "")
    (path / "prompts.csv").symlink_to(tmp_path / "prompts.csv")
    text = error_of(defs_folder, "asset: {key: shots}\nprompt_file: prompts.csv")
    assert "must be in the component's folder" in text


def test_a_missing_resource_is_named(defs_folder: DefsFolderSandbox) -> None:
    """By Dagster, with the key that is wanted."""
    with (
        loaded(defs_folder, "asset: {key: shots}\nprompts: [a mug]") as defs,
        pytest.raises(dg.DagsterInvalidDefinitionError, match="imagegen"),
    ):
        dg.Definitions.validate_loadable(defs)


def test_an_upstream_asset_that_does_not_exist_is_named(defs_folder: DefsFolderSandbox) -> None:
    """By Dagster, when it loads the definitions."""
    with loaded(defs_folder, "asset: {key: shots}\nprompt_table: prodcts") as defs:
        resource = ImageGenResource(base_url="sandbox", model="any", storage_uri="output")
        both = dg.Definitions.merge(defs, dg.Definitions(resources={"imagegen": resource}))
        with pytest.raises(dg.DagsterInvalidDefinitionError, match="prodcts"):
            dg.Definitions.validate_loadable(both)


# -- the resource ----------------------------------------------------------------------------------

RESOURCE = "dagster_imagegen.ImageGenResourceComponent"
REQUIRED = "base_url: https://example.com/v1\nmodel: a-model\nstorage_uri: /output\n"


def resource_in(folder: DefsFolderSandbox, attributes: str, key: str = "imagegen") -> Any:
    with loaded(folder, attributes, kind=RESOURCE) as defs:
        return defs.resources[key]


def test_the_resource_has_the_settings(defs_folder: DefsFolderSandbox) -> None:
    """Nested ones too, and texts as they are written."""
    attributes = f"""{REQUIRED}
timeout_seconds: 30
retry: {{max_attempts: 2}}
budget: {{max_usd: 5, per: day}}
prices: {{a-model: {{usd_per_image: {{"*": {{"*": 0.02}}}}}}}}
"""
    resource = resource_in(defs_folder, attributes)
    assert isinstance(resource, ImageGenResource)
    assert resource.model == "a-model"
    assert resource.timeout_seconds == 30
    assert resource.retry.max_attempts == 2
    assert resource.budget is not None
    assert (resource.budget.max_usd, resource.budget.per) == (5, "day")
    assert resource.prices["a-model"].usd_per_image == {"*": {"*": 0.02}}


def test_the_key_stays_the_name_of_its_variable(
    defs_folder: DefsFolderSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so do all values that are written as `{env: NAME}`."""
    monkeypatch.setenv("SHOP_KEY", "sk-secret")
    attributes = f"""{REQUIRED}
api_key_env_var: SHOP_KEY
extra_headers: {{api-key: {{env: SHOP_KEY}}}}
storage_options: {{secret: {{env: SHOP_KEY}}}}
max_concurrency: {{env: SHOP_LIMIT}}
resource_key: studio
"""
    resource = resource_in(defs_folder, attributes, "studio")
    assert isinstance(resource.api_key, dg.EnvVar)
    assert isinstance(resource.extra_headers["api-key"], dg.EnvVar)
    assert isinstance(resource.max_concurrency, dg.EnvVar)
    assert "sk-secret" not in repr(resource)


def test_a_variable_that_is_not_set_is_named(
    defs_folder: DefsFolderSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is needed: definitions load without it."""
    monkeypatch.delenv("SHOP_KEY", raising=False)
    resource = resource_in(defs_folder, f"{REQUIRED}api_key_env_var: SHOP_KEY")
    with pytest.raises(ConfigurationError, match="variable 'SHOP_KEY' is not set"):
        resource.generate("a mug")


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ("modle: x", "modle"),
        ("api_key: x", "api_key"),
        ("timeout_seconds: 0", "greater than 0"),
        ("budget: {max_usd: 5, per: week}", "'month'"),
        ("storage_options: 7", "valid dictionary"),
        ('max_concurrency: "{{ 3 - 3 }}"', "must be at least 1, got 0"),
    ],
)
def test_a_setting_that_cannot_work_is_an_error(
    defs_folder: DefsFolderSandbox, attributes: str, told: str
) -> None:
    """With its file."""
    text = error_of(defs_folder, REQUIRED + attributes, kind=RESOURCE)
    assert told in text
    assert "shots/defs.yaml:" in text


def test_a_key_in_the_place_of_its_variable_is_not_repeated(
    defs_folder: DefsFolderSandbox,
) -> None:
    """The error must not print it into a log."""
    text = error_of(defs_folder, f"{REQUIRED}api_key_env_var: sk-proj-123", kind=RESOURCE)
    assert "never the key itself" in text
    assert "sk-proj-123" not in text


# -- in step with the code -------------------------------------------------------------------------


def test_every_parameter_is_an_attribute() -> None:
    """With the limits that the table has."""
    model: Any = ImageGenComponent.model().model_fields["params"].annotation
    assert list(model.model_fields) == list(PARAMETERS)
    for name, each in PARAMETERS.items():
        if each.kind == "integer":
            assert getattr(model(**{name: each.maximum}), name) == each.maximum
            for value in (each.minimum - 1, each.maximum + 1):
                with pytest.raises(ValidationError):
                    model(**{name: value})


def test_every_argument_is_an_attribute() -> None:
    """Of `image_asset`: ours, and those of Dagster that YAML can express."""
    attributes = set(ImageGenComponent.model().model_fields)
    assert set(OURS) == set(OUR_ARGUMENTS) - {"definition"}
    assert attributes >= {*OURS, *OF_DAGSTER}
    arguments = set(ImageAssetArguments.__annotations__)
    of_spec = {*OF_SPEC, "deps", "tags", "kinds"}
    assert arguments == {*PARAMETERS, *OURS, *OF_DAGSTER, *of_spec, *OF_PYTHON}


def test_every_setting_is_an_attribute() -> None:
    """Of the resource, but for the key, which YAML must not have."""
    attributes = set(ImageGenResourceComponent.model().model_fields)
    settings = set(ResourceSettings.model_fields) - {"api_key"}
    assert attributes == {*settings, "api_key_env_var", "resource_key"}


def test_the_registry_finds_all() -> None:
    """By the entry point, in the module that it names."""
    points = importlib.metadata.entry_points(group="dagster_dg_cli.registry_modules")
    module = points["dagster_imagegen"].load()
    found = {name for name in dir(module) if hasattr(getattr(module, name), "__dg_package_entry__")}
    assert found == {*("ImageGenComponent", "ImageGenResourceComponent", "ImageGenUsageComponent")}
