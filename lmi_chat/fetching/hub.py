"""Fetch named files of a model on Hugging Face's hub, by its own library."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lmi_chat.fetching import FetchFailed, SourceMissing, SourceUnreachable
from lmi_chat.text import one_line

ASK_S = 10.0


def fetch(
    address: str, repository: str, revision: str | None, into: Path, choose: Callable[[dict[str, int]], Sequence[str]]
) -> None:
    """Fetch files of `repository` (at `revision`, by default its newest) into the folder `into`, by their names there.

    `choose` is shown the names with their sizes and gives those that are wanted. All are of one commit. Where the hub
    is and who asks is what huggingface_hub's own variables say. Raises FetchFailed, and what `choose` raises.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise FetchFailed(f"{address} needs huggingface_hub, which is not installed.") from error
    api = huggingface_hub.HfApi()
    found: Any = _asked(
        address, lambda: api.model_info(repository, revision=revision, files_metadata=True, timeout=ASK_S)
    )
    sizes = {each.rfilename: each.size or 0 for each in found.siblings or ()}
    for name in choose(sizes):
        _asked(address, partial(api.hf_hub_download, repository, name, revision=found.sha, local_dir=into))


def _asked(address: str, ask: Callable[[], Any]) -> Any:
    """Ask the hub. Raises FetchFailed in the place of whatever its library raises."""
    from huggingface_hub import errors

    try:
        return ask()
    except (errors.GatedRepoError, errors.DisabledRepoError) as error:
        raise FetchFailed(f"The hub does not give {address} to this process: {_said(error)}.") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise SourceMissing(f"The hub has no {address}, or not for this process.") from error
    except errors.HFValidationError as error:
        raise FetchFailed(f"{address} is no name on the hub: {_said(error)}.") from error
    except Exception as error:  # whatever its client of HTTP raises
        raise SourceUnreachable(f"The hub cannot be reached for {address}: {_said(error)}.") from error


def _said(error: Exception) -> str:
    return one_line(str(error), 200).rstrip(".")
