"""A checkpoint store from one setting: `file:///DIR` or `s3://BUCKET/PREFIX`."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from streamcore.checkpoint.directory import DirectoryStore
from streamcore.checkpoint.objects import ObjectStore
from streamcore.checkpoint.store import CheckpointStore, is_key
from streamcore.errors import SettingsError, shown

_REMEDY: Final = "give --checkpoints file:///DIR or --checkpoints s3://BUCKET/PREFIX"


def open_store(where: str) -> CheckpointStore:
    """Asks nothing of the store yet. Raises SettingsError; credentials in `where` are refused, and not repeated."""
    try:
        url = urlsplit(where)
    except ValueError as error:
        raise SettingsError(f"the checkpoint store {shown(where)} is no URL", _REMEDY) from error
    if "@" in url.netloc or url.query or url.fragment:
        raise SettingsError(
            f"the checkpoint store's URL ({url.scheme}://…) carries more than a place",
            f"{_REMEDY}; credentials belong in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)",
        )
    if url.scheme == "file" and not url.netloc and url.path.startswith("/") and url.path != "/":
        return DirectoryStore(Path(unquote(url.path)))
    if url.scheme == "s3" and url.netloc:
        prefix = url.path.strip("/")
        if prefix and not is_key(prefix):
            raise SettingsError(
                f"the checkpoint store's prefix {prefix!r} has other signs than letters, digits, ._=+-", _REMEDY
            )
        return ObjectStore(url.netloc, prefix)
    raise SettingsError(f"the checkpoint store {shown(where)} is none that is known", _REMEDY)
