"""README.md and docs/: short enough for a newcomer, links that lead somewhere, files that are named and there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_readme_is_for_a_newcomer() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_files_that_are_named_are_there(page: str) -> None:
    """A name with a folder is a path below the repository or a folder of `lmi_chat/`."""
    folders = [path for path in (ROOT / "lmi_chat").rglob("*") if path.is_dir()]
    bases = (ROOT, ROOT / "lmi_chat", *folders)
    for name in re.findall(r"`([\w/]+/[\w.]*)`", (ROOT / page).read_text()):
        if not name.startswith("/"):
            assert any((base / name).exists() for base in bases), name
