"""Read changes of the registered adapters, as HTTP and DJL Serving send them, and carry them out."""

from collections.abc import Mapping
from dataclasses import dataclass

from lmi_chat.adapters import NAME, NAME_MOST
from lmi_chat.adapters.registry import AdapterRegistry
from lmi_chat.errors import BadField, NotFound, Problem
from lmi_chat.text import echo

SRC_CHARS = 2048
FLAGS = ("preload", "pin", "load_inplace")
WORDS: Mapping[str, bool] = {"true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterChange:
    """What is to be registered, updated or removed; None: as it is, or as usual. `alias`: its name in answers.

    `load_inplace`: a registration takes the place of one of the same name, as in vLLM's container.
    """

    name: str
    src: str = ""
    preload: bool | None = None
    pin: bool | None = None
    load_inplace: bool | None = None
    alias: str = ""

    @property
    def shown(self) -> str:
        """The name in answers."""
        return self.alias or self.name

    async def register(self, registry: AdapterRegistry) -> str:
        """Register the adapter; gives the sentence that says so."""
        preload, pin = self.preload is not False, bool(self.pin)
        if self.load_inplace and registry.has(self.name):
            await registry.update(self.name, src=self.src, preload=preload, pin=pin)
        else:
            await registry.register(self.name, self.src, preload=preload, pin=pin)
        return f"Adapter {self.shown} registered"

    async def update(self, registry: AdapterRegistry) -> str:
        """Update the adapter; gives the sentence that says so. Raises NotFound."""
        self.check_known(registry)
        await registry.update(self.name, src=self.src, preload=self.preload, pin=self.pin)
        return f"Adapter {self.shown} updated"

    async def remove(self, registry: AdapterRegistry) -> str:
        """Remove the adapter; gives the sentence that says so. Raises NotFound."""
        self.check_known(registry)
        await registry.remove(self.name)
        return f"Adapter {self.shown} unregistered"

    def check_known(self, registry: AdapterRegistry | None) -> None:
        """Check that it is registered. Raises NotFound in the words that LMI's clients know."""
        if registry is None or not registry.has(self.name):
            raise NotFound(f"The adapter {echo(self.shown)} was not found", param="name")


def read(given: Mapping[str, object], *, alias: str = "", is_new: bool) -> AdapterChange:
    """Read a change: `name`, `src`, `preload` and `pin`, flags also as texts; `is_new`: all of a registration.

    Further keys have no meaning here, as in LMI. Raises BadField.
    """
    problems: list[Problem] = []
    name, src = given.get("name"), given.get("src")
    if not isinstance(name, str) or (is_new and not NAME.fullmatch(name)):
        text = f"1 to {NAME_MOST} letters, digits, dots, hyphens or underscores"
        problems.append(Problem("name", f"name must be {text}, got {echo(name)}"))
    if src is not None and not isinstance(src, str):
        problems.append(Problem("src", f"src must be a string, got {echo(src)}"))
    elif is_new and not src:
        problems.append(Problem("src", "src must be given: where the adapter's files are"))
    elif src and len(src) > SRC_CHARS:
        problems.append(Problem("src", f"src must have at most {SRC_CHARS} characters, got {len(src)}"))
    flags = {key: _flag(given.get(key)) for key in FLAGS}
    problems += [
        Problem(key, f"{key} must be true or false, got {echo(given[key])}")
        for key in FLAGS
        if flags[key] is None and given.get(key) is not None
    ]
    if problems:
        raise BadField(problems)
    return AdapterChange(name=str(name), src=str(src or ""), alias=alias, **flags)


def _flag(value: object) -> bool | None:
    if isinstance(value, str):
        return WORDS.get(value.lower())
    return value if isinstance(value, bool) else None
