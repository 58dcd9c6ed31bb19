"""When materializations show pictures: unless they are switched off, and not twice the same."""

import dagster as dg

from tests.conftest import Project, materialized, of_rows


def shown(result: dg.ExecuteInProcessResult, asset: dg.AssetsDefinition) -> dict[str, object]:
    """The metadata of the materialization that has to do with pictures."""
    metadata = materialized(result)[asset.key.to_user_string()].metadata
    found: dict[str, object] = {
        name: each.value
        for name, each in metadata.items()
        if "preview" in name or "pictures" in name or "thumbnail" in name
    }
    if "data:image" in str(metadata):
        found["has pictures"] = True
    return found


def test_pictures_are_not_repeated_while_nothing_changes(project: Project):
    """A run over the same images names the run that shows them, as does the one after it."""
    prompts = ["a mug"]
    asset = of_rows(prompts)
    first = project.run(asset)
    assert "imagegen/preview" in shown(first, asset)
    for _ in range(2):
        again = project.run(asset)
        assert shown(again, asset) == {"imagegen/pictures_in": first.run_id}
    prompts.append("a bowl")
    assert "imagegen/preview" in shown(project.run(asset), asset)


def test_previews_can_be_switched_off(project: Project):
    """Then no event has pictures; once they are on, the next run shows them."""
    asset = of_rows(["a mug"])
    project.settings["previews"] = False
    assert shown(project.run(asset), asset) == {}
    assert shown(project.run(asset), asset) == {}
    project.settings["previews"] = True
    assert "imagegen/preview" in shown(project.run(asset), asset)
