"""An exported folder onto the hub, when told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stllava import __version__
from stllava.errors import MissingExtra, PolicyError


def check_repo_id(repo_id: str) -> None:
    """PolicyError if the hub would not take the name; said before anything is computed."""
    try:
        from huggingface_hub import errors, utils
    except ImportError as error:
        raise MissingExtra("huggingface_hub", "train") from error
    try:
        utils.validate_repo_id(repo_id)  # type: ignore[attr-defined]
    except errors.HFValidationError as error:
        raise PolicyError(f"--push {repo_id}: not a repository name: {error}") from None


def push(folder: Path, repo_id: str) -> str:
    """Upload a folder to a private repository of the hub. Returns its address.

    The token is huggingface_hub's business (`hf auth login` or HF_TOKEN): it is not seen here.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    hub = huggingface_hub.HfApi()
    try:
        url = hub.create_repo(repo_id, private=True, exist_ok=True)
        hub.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=f"stllava {__version__}"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise PolicyError(
            f"{folder} is complete, but could not be pushed to {repo_id}: {reason(error)}; check "
            f"`hf auth login`, then `hf upload {repo_id} {folder}`"
        ) from None
    return str(url)


def reason(error: Any) -> str:
    """Why the hub refused, without its words: those may hold the token."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"the hub answered {status}" if status else type(error).__name__
