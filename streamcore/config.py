"""Operations' side of a job: settings from a file, the environment and flags; the later of these wins.

    streamcore.toml                       [kafka]
                                          bootstrap = "localhost:9092"
    STREAMCORE_KAFKA__BOOTSTRAP=…         two underscores between section and name
    --kafka …                             flags, where the command has one

`load` is called once, at start. Whatever is wrong is a SettingsError that names the setting, its value (secrets
masked), where it came from, and what is allowed. Unknown names are refused. Nothing else reads the environment.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, TomlConfigSettingsSource
from pydantic_settings import SettingsError as SourceError

from streamcore import limits
from streamcore.errors import SettingsError, shown

PREFIX: Final = "STREAMCORE_"
DEFAULT_FILE: Final = Path("streamcore.toml")
_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_DURATIONS: Final = frozenset({"commit_interval", "session_timeout", "rpo", "rto", "interval", "keep_for", "drill"})
"""Fields, for the documentation."""


def duration_ms(value: object) -> int:
    """From a number of milliseconds, or "100ms", "2s", "1.5m", "1h". Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h)?\s*", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("not a duration")
    return round(float(match[1]) * _UNITS_MS[match[2] or "ms"])


def _none_or(least_ms: int) -> AfterValidator:
    def check(value_ms: int) -> int:
        if 0 < value_ms < least_ms:
            raise ValueError("too short")
        return value_ms

    return AfterValidator(check)


DurationMs = Annotated[int, BeforeValidator(duration_ms)]
Mode = Literal["exactly-once", "at-least-once"]


class _Section(BaseModel):
    """Each field's description says what is allowed: it ends the message when a value is not."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class KafkaSettings(_Section):
    bootstrap: str | None = Field(
        default=None, min_length=1, description="HOST:PORT, or several with commas between them"
    )
    security_protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] | None = Field(
        default=None, description="plaintext, ssl, sasl_plaintext or sasl_ssl"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "OAUTHBEARER"] | None = Field(
        default=None, description="PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, GSSAPI or OAUTHBEARER"
    )
    sasl_username: str | None = Field(default=None, description="text")
    sasl_password: SecretStr | None = Field(default=None, description="text; better in the environment than in a file")
    ssl_ca: Path | None = Field(default=None, description="a file of PEM certificates to trust")
    ssl_certificate: Path | None = Field(default=None, description="the client's PEM certificate")
    ssl_key: Path | None = Field(default=None, description="the client's PEM key")
    ssl_key_password: SecretStr | None = Field(
        default=None, description="text; better in the environment than in a file"
    )
    ssl_verify_hostname: bool = Field(default=True, description="true or false")
    extra: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description='a table of librdkafka\'s own settings, as {"socket.timeout.ms" = 30000}'
    )

    def client(self) -> dict[str, str | int | float | bool]:
        """What the client library is given besides the bootstrap servers, secrets in clear: for log.kafka and nobody
        else. Raises SettingsError for what is given twice."""
        named: dict[str, object] = {
            "security.protocol": self.security_protocol,
            "sasl.mechanism": self.sasl_mechanism,
            "sasl.username": self.sasl_username,
            "sasl.password": self.sasl_password and self.sasl_password.get_secret_value(),
            "ssl.ca.location": self.ssl_ca and str(self.ssl_ca),
            "ssl.certificate.location": self.ssl_certificate and str(self.ssl_certificate),
            "ssl.key.location": self.ssl_key and str(self.ssl_key),
            "ssl.key.password": self.ssl_key_password and self.ssl_key_password.get_secret_value(),
            "ssl.endpoint.identification.algorithm": None if self.ssl_verify_hostname else "none",
        }
        given = {name: value for name, value in named.items() if isinstance(value, str)}
        twice = sorted(given.keys() & self.extra.keys())
        if twice:
            raise SettingsError(
                f"setting kafka.extra: {', '.join(twice)} has a setting of its own in [kafka]",
                "take it out of kafka.extra",
            )
        return {**self.extra, **given}


class GuaranteeSettings(_Section):
    mode: Mode = Field(default="exactly-once", description="exactly-once or at-least-once")
    rpo: Annotated[DurationMs, _none_or(limits.RPO_MIN_MS)] = Field(
        default=0,
        ge=0,
        le=86_400_000,
        description=f"a duration from {limits.RPO_MIN_MS}ms, as 500ms: how much input time may be done again after a "
        "failure, which bounds worker.commit_interval; 0: that interval alone says it",
    )
    rto: Annotated[DurationMs, _none_or(limits.RTO_MIN_MS)] = Field(
        default=limits.RTO_MS,
        ge=0,
        le=86_400_000,
        description=f"a duration from {limits.RTO_MIN_MS // 1000}s, as 60s: how long a takeover on a machine without "
        "local state may take, which bounds what journals hold behind checkpoints; 0: no such bound",
    )


class WorkerSettings(_Section):
    slot: int = Field(
        default=0, ge=0, lt=10_000, description="a whole number from 0 to 9999: the first slot of this machine"
    )
    workers: int = Field(default=1, ge=1, le=256, description="a whole number from 1 to 256: processes on this machine")
    state_dir: Path = Field(default=Path(".streamcore"), description="a directory of this user's, on a local disk")
    commit_interval: DurationMs = Field(
        default=limits.COMMIT_INTERVAL_MS,
        ge=1,
        le=limits.COMMIT_INTERVAL_MAX_MS,
        description=f"a duration from 1ms to {limits.COMMIT_INTERVAL_MAX_MS}ms, as 100ms",
    )
    session_timeout: DurationMs = Field(
        default=limits.SESSION_TIMEOUT_MS,
        ge=1_000,
        le=1_800_000,
        description="a duration from 1s to 30m, as 10s, within the broker's group.min/max.session.timeout.ms",
    )


class TopicSettings(_Section):
    replication: int | None = Field(
        default=None,
        ge=1,
        le=32_767,
        description="a whole number from 1, for internal topics; left out: the broker's default",
    )
    partitions: int = Field(
        default=4,
        ge=1,
        le=limits.PARTITIONS,
        description="a whole number from 1, for topics that the embedded log makes",
    )


class MetricsSettings(_Section):
    port: int | None = Field(
        default=None, ge=0, le=65_535, description="a port number; left out: no metrics are served"
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="the address to serve on; 0.0.0.0 for all")


class CheckpointSettings(_Section):
    store: str | None = Field(
        default=None,
        min_length=1,
        description="file:///DIR, s3://BUCKET/PREFIX, or none for a job without checkpoints; left out: a directory "
        "under the state directory",
    )
    interval: DurationMs = Field(
        default=round(limits.CHECKPOINT_INTERVAL_S * 1000),
        ge=100,
        le=86_400_000,
        description="a duration from 100ms to 24h, as 30s: how often all tasks are checkpointed along one line",
    )
    keep: int = Field(
        default=limits.CHECKPOINT_KEEP, ge=1, le=10_000, description="a whole number from 1: of each task, the newest"
    )
    keep_for: DurationMs = Field(
        default=0, ge=0, description="a duration, as 48h: younger ones are kept beside the newest; 0: the newest only"
    )
    journal_milestone_bytes: int = Field(
        default=limits.JOURNAL_MILESTONE_BYTES,
        ge=0,
        description="a number of bytes that a task's journal grows by before a checkpoint is made earlier; 0: never",
    )
    journal_bound_bytes: int = Field(
        default=limits.JOURNAL_BOUND_BYTES,
        ge=0,
        description="a number of bytes of a task's journal since its last checkpoint that stops the job; 0: none",
    )
    journal_milestone_records: int = Field(
        default=0,
        ge=0,
        description="a number of records that a task processes before a checkpoint is made earlier; 0: never",
    )
    drill: DurationMs = Field(
        default=round(limits.DRILL_INTERVAL_S * 1000),
        ge=0,
        description="a duration, as 1h: how often a worker restores a checkpoint into a scratch directory to see "
        "whether it is whole; 0: never",
    )


class LogSettings(_Section):
    level: Literal["debug", "info", "warning", "error"] | None = Field(
        default=None, description="debug, info, warning or error; left out: info, and warning beside a live line"
    )


class Settings(BaseSettings):
    model_config = {
        "extra": "forbid",
        "frozen": True,
        "hide_input_in_errors": True,
        "env_prefix": PREFIX,
        "env_nested_delimiter": "__",
    }

    kafka: KafkaSettings = KafkaSettings()
    guarantee: GuaranteeSettings = GuaranteeSettings()
    worker: WorkerSettings = WorkerSettings()
    topics: TopicSettings = TopicSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()

    @property
    def commit_interval_ms(self) -> int:
        """The RPO bounds it."""
        interval_ms, rpo_ms = self.worker.commit_interval, self.guarantee.rpo
        return min(interval_ms, rpo_ms) if rpo_ms else interval_ms

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """`load` reads the other sources itself, to know which one a wrong value came from."""
        return (init_settings,)


Source = tuple[str, Mapping[str, Any]]
"""A name for messages, and nested values."""


def load(file: Path | None = None, flags: Mapping[str, object] | None = None) -> Settings:
    """`flags`: dotted names, as {"kafka.bootstrap": "localhost:9092"}; None stands for a flag not given. Without
    `file`, streamcore.toml in the working directory, if there is one. Raises SettingsError."""
    sources = [("a flag", _nested(flags or {})), ("the environment", _environment()), _file(file)]
    merged: dict[str, Any] = {}
    for _, values in reversed(sources):
        merged = _merge(merged, values)
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise _settings_error(error, sources) from None
    _refuse_contradiction(settings, sources)
    return settings


def _refuse_contradiction(settings: Settings, sources: Sequence[Source]) -> None:
    """A default gives way to a budget; what somebody has set does not."""
    interval_ms, rpo_ms = settings.worker.commit_interval, settings.guarantee.rpo
    if not rpo_ms or interval_ms <= rpo_ms or "commit_interval" not in settings.worker.model_fields_set:
        return
    where, _ = _came_from(("worker", "commit_interval"), sources)
    budget, _ = _came_from(("guarantee", "rpo"), sources)
    raise SettingsError(
        f"setting worker.commit_interval ({where}): {_duration(interval_ms)} is longer than guarantee.rpo ({budget}), "
        f"{_duration(rpo_ms)}: an epoch's input is what a failure has done again",
        f"give an interval of at most {_duration(rpo_ms)}, or leave it out: it is then the smaller of "
        f"{limits.COMMIT_INTERVAL_MS}ms and the RPO",
    )


# --- the sources ----------------------------------------------------------------------------------------------


def _nested(flags: Mapping[str, object]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flags.items():
        section, _, field = name.partition(".")
        if value is not None:
            nested.setdefault(section, {})[field] = value
    return nested


def _environment() -> dict[str, Any]:
    sections = Settings.model_fields
    for name in os.environ:
        section, delimiter, field = name.upper().removeprefix(PREFIX).partition("__")
        single, _, rest = section.partition("_")
        if not name.upper().startswith(PREFIX):
            continue
        if delimiter and section.lower() not in sections:
            raise _unknown((section.lower(), field.lower()), f"{name} in the environment")
        if not delimiter and single.lower() in sections and rest:
            raise SettingsError(
                f"{name} in the environment is no setting",
                f"write two underscores after the section: {PREFIX}{single}__{rest}",
            )
    try:
        return EnvSettingsSource(Settings)()
    except SourceError as error:
        raise SettingsError(f"the environment: {error}", "tables are written as JSON there") from None


def _file(file: Path | None) -> Source:
    path = file or DEFAULT_FILE
    if not path.is_file():
        if file is not None:
            raise SettingsError(f"the settings file {file} does not exist", "correct --config, or leave it out")
        return (str(path), {})
    try:
        return (str(path), TomlConfigSettingsSource(Settings, toml_file=path)())
    except (ValueError, OSError) as error:
        raise SettingsError(f"the settings file {path} cannot be read: {error}", "correct it; it is TOML") from None


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[name] = _merge(cast(dict[str, Any], below), cast(dict[str, Any], value))
        else:
            merged[name] = value
    return merged


# --- messages ---------------------------------------------------------------------------------------------------


def _settings_error(error: ValidationError, sources: Sequence[Source]) -> SettingsError:
    """Of the first of what pydantic found: one thing at a time is easier to mend."""
    first = error.errors(include_url=False, include_context=False)[0]
    path = tuple(str(part) for part in first["loc"][:2])
    where, value = _came_from(path, sources)
    if first["type"] == "extra_forbidden":
        return _unknown(path, where)
    allowed = _allowed(path)
    told = "***" if _secret(path) else shown(value)
    return SettingsError(f"setting {'.'.join(path)} ({where}): {told} is not allowed", f"give {allowed}")


def _came_from(path: Sequence[str], sources: Sequence[Source]) -> tuple[str, object]:
    for name, values in sources:
        found: Any = values
        for part in path:
            if not isinstance(found, Mapping) or part not in found:
                break
            found = cast(Mapping[str, Any], found)[part]
        else:
            return name, found
    return "default", None


def _section(name: str) -> type[BaseModel] | None:
    field = Settings.model_fields.get(name)
    return cast(type[BaseModel], field.annotation) if field else None


def _allowed(path: Sequence[str]) -> str:
    section = _section(path[0])
    if section is None or len(path) < 2 or path[1] not in section.model_fields:
        return f"a table [{path[0]}]"
    return section.model_fields[path[1]].description or ""


def _secret(path: Sequence[str]) -> bool:
    section = _section(path[0])
    return bool(section and len(path) > 1 and "password" in path[1]) or path[-1] == "extra"


def _unknown(path: Sequence[str], where: str) -> SettingsError:
    section = _section(path[0])
    known = list(section.model_fields if section else Settings.model_fields)
    near = difflib.get_close_matches(path[-1] if section else path[0], known, 1)
    which = f"the names of [{path[0]}]" if section else "the sections"
    guess = f"did you mean {near[0]!r}? " if near else ""
    return SettingsError(f"there is no setting {'.'.join(path)} ({where})", f"{guess}{which} are {', '.join(known)}")


# --- documentation ----------------------------------------------------------------------------------------------


def markdown() -> str:
    """docs/settings.md; a test holds the file to it."""
    lines = [
        "# Settings",
        "",
        "From `streamcore.toml` (or `--config FILE`), the environment (`STREAMCORE_` + section + two underscores +",
        "name) and flags; the later of these wins. An unknown name or a wrong value ends a command with exit code 10.",
    ]
    for name in Settings.model_fields:
        section = _section(name)
        fields = section.model_fields if section else {}
        lines += ["", f"## [{name}]", "", "| name | environment | default | what is allowed |", "|---|---|---|---|"]
        for field, about in fields.items():
            variable = f"{PREFIX}{name.upper()}__{field.upper()}"
            lines.append(f"| `{field}` | `{variable}` | {_default(field, about.default)} | {about.description} |")
    return "\n".join([*lines, ""])


def _default(field: str, value: object) -> str:
    if field in _DURATIONS and isinstance(value, int):
        return f"`{_duration(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if isinstance(value, str | int | Path) else "none"


def _duration(value_ms: int) -> str:
    """In the largest unit that divides it."""
    unit = next((u for u in ("h", "m", "s") if value_ms and value_ms % _UNITS_MS[u] == 0), "ms")
    return f"{value_ms // _UNITS_MS[unit]}{unit}" if value_ms else "0"
