"""Check the style of writing: the first line of a module is a verb and its object, in plain English."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# In the imperative; a new one is added here. Not `Say`, `Tell` or `Be`: these begin a riddle, not a description.
VERBS = {
    *("Accept", "Admit", "Answer", "Build", "Call", "Carry", "Check", "Choose", "Collect", "Compile", "Compute"),
    *("Count", "Decide", "Declare", "Decode", "Define", "Describe", "Embed", "Encode", "End", "Fetch", "Find", "Fold"),
    *(
        "Frame",
        "Hold",
        "Import",
        "Keep",
        "Let",
        "List",
        "Look",
        "Make",
        "Map",
        "Note",
        "Open",
        "Parse",
        "Play",
        "Print",
        "Put",
    ),
    *("Read", "Record", "Refuse", "Render", "Resolve", "Route", "Run", "Send", "Serve", "Show", "Shrink", "Start"),
    *("Store", "Stream", "Take", "Tell", "Test", "Tokenise", "Track", "Translate", "Try", "Turn", "Unpack", "Update"),
    *("Write",),
}
# Words that once named things of this code and that nobody outside knew; their successors are in the glossary.
DEAD = {"desk", "door", "house", "lane", "lanes", "ledger", "seam", "seat", "seats", "shelf", "spool", "the line"}
MODULES = sorted((ROOT / "lmi_chat").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_begins_with_a_verb_and_its_object(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring
    first, *rest = docstring.splitlines()
    assert first.split()[0].rstrip(",") in VERBS
    assert first.endswith("."), "one sentence, on one line"
    assert not rest or not rest[0]
    assert not re.search(r"…|\.\.\.|→|\b(what|how|why|whatever)\b", first, re.IGNORECASE)
    assert not any(re.search(rf"\b{word}\b", first, re.IGNORECASE) for word in DEAD)
