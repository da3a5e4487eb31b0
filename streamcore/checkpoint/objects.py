"""A checkpoint store in an S3-compatible bucket, by obstore; the one module that imports it.

Endpoint, region and credentials come from the environment, as obstore reads it (AWS_ACCESS_KEY_ID, AWS_ENDPOINT, …).
None of them reaches a message: an answer's code is told, its body is not (S3 repeats key ids in it), and the library's
own error is cut off. Creation is a PUT with `If-None-Match: *`; the server checks each against its SHA-256.

The library never repeats a request by itself: it would take its own first PUT for somebody else's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any, Final

from streamcore import limits
from streamcore.checkpoint.store import Stat, checked, checked_prefix, missing
from streamcore.errors import CheckpointStoreError, CheckpointStoreUnavailable, SettingsError, StreamcoreError


class ObjectStore:
    """`config`: obstore's S3 settings, over those of the environment (for tests)."""

    def __init__(self, bucket: str, prefix: str, config: dict[str, str] | None = None) -> None:
        self._obstore = _library()
        self._errors: tuple[type[Exception], ...] = (self._obstore.exceptions.BaseError, OSError)
        self._place = f"s3://{bucket}/{prefix}".rstrip("/")
        options: dict[str, Any] = {
            "timeout": f"{limits.CHECKPOINT_REQUEST_S:.0f}s",
            "connect_timeout": f"{limits.CHECKPOINT_CONNECT_S:.0f}s",
        }
        given: dict[str, Any] = {"checksum_algorithm": "SHA256", **(config or {})}
        if given.get("endpoint", "").startswith("http://") or _http_is_allowed():
            options["allow_http"] = True
        once = {"max_retries": 0, "retry_timeout": timedelta(seconds=limits.CHECKPOINT_CONNECT_S)}
        try:
            made: Any = self._obstore.store.S3Store
            self._store = made(bucket, prefix=prefix or None, config=given, client_options=options, retry_config=once)
        except (*self._errors, ValueError) as error:
            raise SettingsError(
                f"the checkpoint store {self._place} cannot be set up ({type(error).__name__})",
                "correct the AWS_… variables in the environment (region, endpoint, credentials)",
            ) from None

    def __repr__(self) -> str:
        return f"ObjectStore({self._place})"

    @property
    def place(self) -> str:
        return self._place

    def put_once(self, key: str, data: bytes) -> bool:
        checked(key)
        try:
            self._obstore.put(self._store, key, data, mode="create", use_multipart=False)
        except self._errors as error:
            if self._exists(error):
                return False
            raise self._mapped(error, f"writing {key}") from None
        return True

    def get(self, key: str) -> Iterator[bytes]:
        checked(key)
        try:
            found: Any = self._obstore.get(self._store, key)
            for chunk in found.stream(min_chunk_size=limits.CHECKPOINT_CHUNK_BYTES):
                yield bytes(chunk)
        except self._errors as error:
            if _absent(error):
                raise missing(key, self._place) from None
            raise self._mapped(error, f"reading {key}") from None

    def stat(self, key: str) -> Stat | None:
        try:
            return _stat(self._obstore.head(self._store, checked(key)))
        except self._errors as error:
            if _absent(error):
                return None
            raise self._mapped(error, f"looking for {key}") from None

    def list(self, prefix: str) -> list[Stat]:
        try:
            pages: Any = self._obstore.list(self._store, checked_prefix(prefix) or None)
            return sorted(_stat(entry) for page in pages for entry in page)
        except self._errors as error:
            raise self._mapped(error, f"listing {prefix or 'it'}") from None

    def delete(self, key: str) -> None:
        try:
            self._obstore.delete(self._store, checked(key))
        except self._errors as error:
            if not _absent(error):
                raise self._mapped(error, f"deleting {key}") from None

    def _exists(self, error: Exception) -> bool:
        """A 409 is no answer: another PUT of the key was under way, and nobody says how it ended."""
        return isinstance(error, self._obstore.exceptions.AlreadyExistsError) and _status(error) != 409

    def _mapped(self, error: Exception, doing: str) -> StreamcoreError:
        return mapped(error, self._place, doing)


def _http_is_allowed() -> bool:
    """The library does not look for it in the environment once it is given other options of its client."""
    return os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")


def _library() -> ModuleType:
    try:
        import obstore
    except ImportError as error:
        raise SettingsError(
            "a checkpoint store in s3:// needs the package obstore, which is not installed",
            "pip install streamcore[s3]",
        ) from error
    return obstore


def _stat(entry: Any) -> Stat:
    return Stat(entry["path"], entry["size"], round(entry["last_modified"].timestamp() * 1000))


# --- errors ----------------------------------------------------------------------------------------------------
_CODE: Final = re.compile(r"<Code>(\w{1,60})</Code>")
_STATUS: Final = re.compile(r"Server returned non-2xx status code: (\d{3})")
_CREDENTIALS: Final = "give credentials that may use this bucket (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, a role)"
_FULL: Final = "raise the store's quota, or keep fewer checkpoints"
_BUCKET: Final = "create the bucket, or correct --checkpoints and the AWS_ENDPOINT it is asked from"
_REGION: Final = "correct AWS_REGION and AWS_ENDPOINT: the bucket is elsewhere"
_READ_ONLY: Final = "the store takes no writes, or no conditional ones (If-None-Match): give another with --checkpoints"
_BY_CODE: Final = {
    "NoSuchBucket": _BUCKET,
    "InvalidBucketName": _BUCKET,
    "AccessDenied": f"the store denies it: {_CREDENTIALS}; they need to get, put, list and delete",
    "InvalidAccessKeyId": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "ExpiredToken": _CREDENTIALS,
    "InvalidToken": _CREDENTIALS,
    "AuthorizationHeaderMalformed": _REGION,
    "PermanentRedirect": _REGION,
    "QuotaExceeded": _FULL,
    "InsufficientStorage": _FULL,
    "XMinioStorageFull": _FULL,
    "EntityTooLarge": _FULL,
    "RequestTimeTooSkewed": "set this machine's clock",
    "MethodNotAllowed": _READ_ONLY,
    "NotImplemented": _READ_ONLY,
    "ReadOnly": _READ_ONLY,
}
_BY_STATUS: Final = {
    301: _REGION,
    307: _REGION,
    401: _CREDENTIALS,
    403: _CREDENTIALS,
    404: _BUCKET,
    405: _READ_ONLY,
    501: _READ_ONLY,
    507: _FULL,
}
_BY_TEXT: Final = {
    "169.254.169.254": f"no credentials were found: {_CREDENTIALS}",
    "Received redirect without LOCATION": _REGION,
    "BadScheme": "for a store without TLS set AWS_ALLOW_HTTP=true",
    "URL scheme is not allowed": "for a store without TLS set AWS_ALLOW_HTTP=true",
}
_BY_NAME: Final = {
    "UnauthenticatedError": _CREDENTIALS,
    "PermissionDeniedError": _CREDENTIALS,
    "NotSupportedError": _READ_ONLY,
    "UnknownConfigurationKeyError": "correct the AWS_… variables in the environment",
}


def _status(error: Exception) -> int:
    found = _STATUS.search(str(error))
    return int(found[1]) if found else 0


def _code(error: Exception) -> str:
    found = _CODE.search(str(error))
    return found[1] if found else ""


def _absent(error: Exception) -> bool:
    """obstore's NotFoundError is Python's FileNotFoundError; a missing bucket is one too, and not an absent object."""
    return isinstance(error, FileNotFoundError) and _code(error) != "NoSuchBucket"


def mapped(error: Exception, place: str, doing: str) -> StreamcoreError:
    """obstore's errors by code, status, words, and class; what is unknown is tried again."""
    text, code, status = str(error), _code(error), _status(error)
    told = code or (f"status {status}" if status else type(error).__name__)
    what = f"checkpoint store {place}: {doing} failed: {told}"
    by_text = next((remedy for words, remedy in _BY_TEXT.items() if words in text), None)
    remedy = _BY_CODE.get(code) or by_text or _BY_STATUS.get(status) or _BY_NAME.get(type(error).__name__)
    if remedy is not None:
        return CheckpointStoreError(what, remedy)
    return CheckpointStoreUnavailable(what, "it is tried again; see that the store answers from this machine")
