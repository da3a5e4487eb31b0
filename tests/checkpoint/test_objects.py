"""What is S3's own: each refusal named by its remedy, and no credential in any of them."""

from __future__ import annotations

import builtins
import traceback
from typing import Any

import obstore.exceptions
import pytest

from streamcore import limits
from streamcore.checkpoint.objects import ObjectStore, mapped
from streamcore.checkpoint.opening import open_store
from streamcore.checkpoint.store import CheckpointStore, read
from streamcore.errors import (
    CheckpointDamaged,
    CheckpointStoreError,
    CheckpointStoreUnavailable,
    SettingsError,
    StreamcoreError,
)
from tests.checkpoint.s3 import KEY_ID, SECRET, S3Server, config, refusing


def asked(store: CheckpointStore, call: str) -> Any:
    if call == "put":
        return store.put_once("job/a", b"1")
    if call == "get":
        return read(store, "job/a")
    if call == "stat":
        return store.stat("job/a")
    if call == "list":
        return store.list("job/")
    return store.delete("job/a")


def told(error: BaseException) -> str:
    """All that a log with a traceback would show."""
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize("call", ["put", "get", "list"])
@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (403, "AccessDenied", "the store denies it"),
        (403, "InvalidAccessKeyId", "give credentials"),
        (403, "SignatureDoesNotMatch", "give credentials"),
        (401, "Unauthorized", "give credentials"),
        (400, "ExpiredToken", "give credentials"),
        (404, "NoSuchBucket", "create the bucket"),
        (405, "MethodNotAllowed", "takes no writes"),
        (501, "NotImplemented", "takes no writes"),
        (507, "InsufficientStorage", "quota"),
        (400, "QuotaExceeded", "quota"),
        (400, "AuthorizationHeaderMalformed", "AWS_REGION"),
        (301, "PermanentRedirect", "AWS_REGION"),
    ],
)
def test_a_refusal_stops_by_name_and_shows_no_credential(status: int, code: str, remedy: str, call: str) -> None:
    with refusing(status, code) as store, pytest.raises(CheckpointStoreError) as caught:
        asked(store, call)
    assert remedy in caught.value.remedy
    assert "s3://bucket/prefix" in caught.value.what
    assert KEY_ID not in told(caught.value)
    assert SECRET not in told(caught.value)


@pytest.mark.parametrize("call", ["put", "get", "stat", "list", "delete"])
@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (429, "TooManyRequests")])
def test_a_store_that_is_busy_or_broken_is_tried_again(status: int, code: str, call: str) -> None:
    with refusing(status, code) as store, pytest.raises(CheckpointStoreUnavailable) as caught:
        asked(store, call)
    assert KEY_ID not in told(caught.value)


@pytest.mark.parametrize("call", ["put", "get", "stat", "list", "delete"])
def test_a_store_that_is_not_there_is_tried_again(call: str) -> None:
    store = ObjectStore("bucket", "prefix", config("http://127.0.0.1:1"))
    with pytest.raises(CheckpointStoreUnavailable, match="s3://bucket/prefix"):
        asked(store, call)


def test_a_put_beside_another_is_not_taken_for_done() -> None:
    """A 409 says that another conditional PUT was under way; whether it created anything is unknown."""
    with refusing(409, "ConditionalRequestConflict") as store, pytest.raises(CheckpointStoreUnavailable):
        store.put_once("job/a", b"1")


def test_a_missing_bucket_of_a_real_server_is_named(s3_server: S3Server) -> None:
    store = s3_server.store("never-made")
    with pytest.raises(CheckpointStoreError, match="NoSuchBucket"):
        store.put_once("job/a", b"1")
    with pytest.raises(CheckpointStoreError, match="NoSuchBucket"):
        read(store, "job/a")
    with pytest.raises(CheckpointStoreError, match="NoSuchBucket"):
        store.list("")


@pytest.mark.parametrize("name", [n for n in obstore.exceptions.__all__ if n.endswith("Error") and n != "BaseError"])
def test_each_error_of_the_library_has_a_remedy(name: str) -> None:
    known = {
        "UnauthenticatedError": CheckpointStoreError,
        "PermissionDeniedError": CheckpointStoreError,
        "NotSupportedError": CheckpointStoreError,
        "UnknownConfigurationKeyError": CheckpointStoreError,
        **dict.fromkeys(
            ("AlreadyExistsError", "GenericError", "InvalidPathError", "JoinError", "NotFoundError"),
            CheckpointStoreUnavailable,
        ),
        **dict.fromkeys(("NotModifiedError", "PreconditionError"), CheckpointStoreUnavailable),
    }
    error = getattr(obstore.exceptions, name)("words")
    assert type(mapped(error, "s3://bucket", "writing a")) is known[name]


def test_no_credentials_at_all_is_named() -> None:
    error = obstore.exceptions.GenericError("Error performing PUT http://169.254.169.254/latest/api/token in 2ms")
    answer = mapped(error, "s3://bucket", "writing a")
    assert isinstance(answer, CheckpointStoreError)
    assert "no credentials were found" in answer.remedy


def test_without_the_package_the_remedy_is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **named: Any) -> Any:
        if name.split(".")[0] == "obstore":
            raise ImportError(name)
        return real(name, *args, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SettingsError, match=r"pip install streamcore\[s3\]"):
        open_store("s3://bucket/prefix")


@pytest.mark.parametrize("where", ["file:///data/checkpoints", "s3://bucket/some/prefix", "s3://bucket"])
def test_a_store_is_opened_from_one_setting(where: str) -> None:
    assert open_store(where).place == where
    assert open_store(where + "/").place == where


@pytest.mark.parametrize(
    "where",
    ["", "/data", "data", "file://data", "file:///", "gs://bucket", "s3://", "s3:///prefix", "s3://b/ü", "s3://b/a b"],
)
def test_what_is_no_store_is_refused_with_what_is(where: str) -> None:
    with pytest.raises(SettingsError, match=r"give --checkpoints file:///DIR or --checkpoints s3://BUCKET/PREFIX"):
        open_store(where)


@pytest.mark.parametrize("where", [f"s3://{KEY_ID}:{SECRET}@bucket/x", f"s3://bucket/x?secret_access_key={SECRET}"])
def test_credentials_in_the_setting_are_refused_and_not_repeated(where: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_store(where)
    assert SECRET not in told(caught.value)
    assert KEY_ID not in told(caught.value)
    assert "belong in the environment" in caught.value.remedy


def test_an_object_that_vanishes_is_missing_and_not_a_missing_bucket(s3_server: S3Server) -> None:
    store = s3_server.store(s3_server.bucket("vanish"))
    with pytest.raises(CheckpointDamaged):
        read(store, "job/none")


def test_requests_end_before_their_repeating_does() -> None:
    assert limits.CHECKPOINT_CONNECT_S < limits.CHECKPOINT_RETRY_S
    assert issubclass(CheckpointStoreError, StreamcoreError)


@pytest.mark.parametrize("allowed", [True, False])
def test_an_endpoint_without_tls_from_the_environment_needs_leave(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    for name, value in config(s3_server.endpoint).items():
        monkeypatch.setenv(f"AWS_{name.upper()}", value)
    monkeypatch.setenv("AWS_ALLOW_HTTP", str(allowed).lower())
    store = open_store(f"s3://{s3_server.bucket(f'plain-{allowed}'.lower())}/x")
    if allowed:
        assert store.put_once("job/a", b"1")
    else:
        with pytest.raises(CheckpointStoreError, match="AWS_ALLOW_HTTP=true"):
            store.put_once("job/a", b"1")
