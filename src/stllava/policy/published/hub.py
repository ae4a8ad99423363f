"""From a hub id to a local folder. The only place that may reach for the network."""

from __future__ import annotations

import re
from pathlib import Path

from stllava.errors import PolicyError

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
PATTERNS = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]


def resolve_checkpoint(name_or_path: str | Path, *, allow_pickle: bool = False) -> Path:
    """A local path as it is, else a hub id's snapshot, fetched or from the cache.

    Pickles are left on the hub unless allowed. Raises PolicyError with what to do.
    """
    path = Path(name_or_path)
    if path.exists():
        return path
    name = str(name_or_path)
    if not HUB_ID.match(name):
        raise PolicyError(f"{name}: no such folder, and not a hub id (owner/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [*PATTERNS, *(["*.bin"] if allow_pickle else [])]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except LocalEntryNotFoundError as error:
        raise PolicyError(
            f"{name}: no such folder, not in the hub's cache, and the hub cannot be reached; "
            f"run `hf download {name}` where there is a network, or give a local folder"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise PolicyError(f"{name}: cannot be fetched from the hub: {first_line}") from error
