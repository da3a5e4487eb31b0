from __future__ import annotations

from pathlib import Path

import pytest

from streamcore.config import Settings, duration_ms, load, markdown
from streamcore.errors import SettingsError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


DOCS = Path(__file__).parents[2] / "docs" / "settings.md"


def file(text: str) -> Path:
    path = Path("streamcore.toml")
    path.write_text(text)
    return path


def told(flags: dict[str, object] | None = None, path: Path | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(path, flags)
    return str(caught.value)


def test_nothing_given_is_the_documented_defaults() -> None:
    settings = load()
    assert settings == Settings()
    assert settings.kafka.bootstrap is None
    assert settings.guarantee.mode == "exactly-once"
    assert (settings.worker.commit_interval, settings.worker.session_timeout) == (100, 10_000)
    assert (settings.topics.partitions, settings.metrics.host) == (4, "127.0.0.1")


def test_flags_win_over_the_environment_and_that_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    file('[kafka]\nbootstrap = "file:1"\nsasl_username = "file"\n[worker]\nslot = 1\n')
    monkeypatch.setenv("STREAMCORE_KAFKA__BOOTSTRAP", "env:1")
    monkeypatch.setenv("STREAMCORE_WORKER__SLOT", "2")
    settings = load(flags={"kafka.bootstrap": "flag:1", "worker.workers": None})
    assert settings.kafka.bootstrap == "flag:1"
    assert settings.worker.slot == 2
    assert settings.kafka.sasl_username == "file"


def test_a_wrong_value_names_setting_value_source_and_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(flags={"guarantee.mode": "exactlyonce"}) == (
        "setting guarantee.mode (a flag): 'exactlyonce' is not allowed\n"
        "  what to do: give exactly-once or at-least-once"
    )
    monkeypatch.setenv("STREAMCORE_METRICS__PORT", "http")
    assert "metrics.port (the environment): 'http'" in told()
    monkeypatch.delenv("STREAMCORE_METRICS__PORT")
    file("[worker]\ncommit_interval = '1h'\n")
    assert "worker.commit_interval (streamcore.toml): '1h'" in told()
    assert "1ms to 2500ms" in told()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[kafka]\nbootstrp = 'a:1'\n", "did you mean 'bootstrap'?"),
        ("[kafak]\nbootstrap = 'a:1'\n", "did you mean 'kafka'?"),
        ("[worker]\nwheels = 4\n", "the names of [worker] are slot, workers"),
        ("kafka = 1\n", "give a table [kafka]"),
        ("[kafka\n", "it is TOML"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(text: str, expected: str) -> None:
    file(text)
    assert expected in told()


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("STREAMCORE_KAFKA__BOOTSTRP", "did you mean 'bootstrap'?"),
        ("STREAMCORE_KAFAK__BOOTSTRAP", "did you mean 'kafka'?"),
        ("STREAMCORE_KAFKA_BOOTSTRAP", "STREAMCORE_KAFKA__BOOTSTRAP"),
    ],
)
def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str, expected: str) -> None:
    monkeypatch.setenv(variable, "a:1")
    assert expected in told()


def test_other_variables_of_the_project_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMCORE_TEST_KAFKA", "127.0.0.1:9092")
    assert load() == Settings()


def test_a_named_file_must_exist() -> None:
    assert "nowhere.toml does not exist" in told(path=Path("nowhere.toml"))


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMCORE_KAFKA__SASL_PASSWORD", "hunter2")
    settings = load()
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert settings.kafka.client()["sasl.password"] == "hunter2"
    file("[kafka]\nssl_key_password = ['hunter3']\n")
    message = told()
    assert "kafka.ssl_key_password" in message and "hunter3" not in message


def test_the_client_gets_librdkafkas_names() -> None:
    file('[kafka]\nbootstrap = "a:1"\nsecurity_protocol = "ssl"\nssl_ca = "/ca.pem"\nextra = {"client.rack" = "r1"}\n')
    assert load().kafka.client() == {
        "security.protocol": "ssl",
        "ssl.ca.location": "/ca.pem",
        "client.rack": "r1",
    }


def test_a_setting_given_twice_is_refused() -> None:
    file('[kafka]\nbootstrap = "a:1"\nsecurity_protocol = "ssl"\nextra = {"security.protocol" = "ssl"}\n')
    with pytest.raises(SettingsError, match=r"security\.protocol has a setting of its own"):
        load().kafka.client()


def test_extra_may_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMCORE_KAFKA__EXTRA", '{"client.rack": "r1"}')
    assert load().kafka.extra == {"client.rack": "r1"}
    monkeypatch.setenv("STREAMCORE_KAFKA__EXTRA", "{")
    assert "JSON" in told()


@pytest.mark.parametrize(("text", "ms"), [("100ms", 100), ("2s", 2000), ("1.5m", 90_000), ("1h", 3_600_000), (7, 7)])
def test_durations_read_as_written(text: object, ms: int) -> None:
    assert duration_ms(text) == ms


@pytest.mark.parametrize("text", ["", "fast", "1 day", "-1s", True, None, 1.5])
def test_other_durations_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        duration_ms(text)


def test_the_documented_settings_are_those_that_exist() -> None:
    assert DOCS.read_text() == markdown(), "write docs/settings.md anew from config.markdown()"
