"""Published deployments start unchanged: every recipe gives the settings and the engine arguments that it asks for."""

from pathlib import Path

import pytest

from lmi_chat.config.settings import Settings, read
from tests.support.recipes import RECIPES, Recipe

SWITCHES = ("trust_remote_code", "enforce_eager", "enable_prefix_caching", "enable_chunked_prefill", "enable_lora")
KINDS = {name: "str | None" for recipe in RECIPES.values() for name in recipe.engine} | {
    **dict.fromkeys(SWITCHES, "bool | None"),
    "reasoning_parser": "str",
    "max_loras": "int",
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_published_deployment(recipe: Recipe, tmp_path: Path) -> None:
    path = None
    if recipe.properties is not None:
        path = tmp_path / "serving.properties"
        path.write_text(recipe.properties)
    settings = read({}, recipe.environment, path, KINDS, gpus=4)
    changed = dict(settings.values().items() - Settings().values().items())
    assert changed == recipe.own
    assert settings.engine == recipe.engine
    assert sorted(note.given.name for note in settings.notes if note.is_warning) == sorted(recipe.warned)
    assert settings.origins.keys() == {*changed, *recipe.engine, *recipe.as_default}
    assert all(note.why for note in settings.notes)
