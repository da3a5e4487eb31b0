from __future__ import annotations

import re
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamcore.errors import SettingsError
from streamcore.observe import catalog
from streamcore.observe.metrics import Metrics, MetricsServer
from streamcore.types import Partition, TopicPartition

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_documented_table_is_the_catalog() -> None:
    assert DOCS.read_text() == catalog.markdown(), "write docs/metrics.md anew from catalog.markdown()"


def test_every_metric_says_what_to_look_at() -> None:
    assert len({spec.name for spec in catalog.CATALOG}) == len(catalog.CATALOG)
    for spec in catalog.CATALOG:
        assert re.fullmatch(r"streamcore_[a-z_]+", spec.name)
        assert spec.help and spec.when_it_rises, spec.name


def test_every_metric_of_the_catalog_exists_and_no_other() -> None:
    scraped = {family.name for family in text_string_to_metric_families(Metrics().text())}
    scraped -= {f"{spec.name}_created" for spec in catalog.CATALOG}
    assert scraped == {spec.name for spec in catalog.CATALOG}


def test_counts_arrive_at_the_scraper() -> None:
    metrics = Metrics()
    metrics.read("lines", 40)
    metrics.read("lines", 2)
    metrics.deduped("once", accepted=3, duplicates=2, too_old=0)
    metrics.committed(tasks=2, records=42, seconds=0.003)
    with MetricsServer(metrics, "127.0.0.1", 0) as server, urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
        text = answer.read().decode()
    assert 'streamcore_records_in_total{topic="lines"} 42.0' in text
    assert 'streamcore_dedupe_total{step="once",verdict="duplicate"} 2.0' in text
    assert "too_old" not in text.replace("too_old (older", "")
    assert "streamcore_epochs_total 2.0" in text


def test_two_workers_in_one_process_do_not_share_counts() -> None:
    one, other = Metrics(), Metrics()
    one.wrote("out", 5)
    assert 'streamcore_records_out_total{topic="out"}' not in other.text()


def test_lag_of_a_partition_that_went_away_is_gone() -> None:
    metrics = Metrics()
    kept, lost = TopicPartition("t", Partition(0)), TopicPartition("t", Partition(1))
    metrics.lagging([(kept, 7), (lost, 9)])
    metrics.lagging([(kept, 3)])
    assert 'streamcore_lag{partition="0",topic="t"} 3.0' in metrics.text()
    assert 'partition="1"' not in metrics.text()


def test_a_taken_port_is_a_settings_error_that_names_it() -> None:
    with MetricsServer(Metrics(), "127.0.0.1", 0) as first:
        taken = f"127.0.0.1:{first.port}"
        with pytest.raises(SettingsError, match=taken):
            MetricsServer(Metrics(), "127.0.0.1", first.port)


def test_p99_is_unknown_before_the_first_commit() -> None:
    metrics = Metrics()
    assert metrics.commit_p99_s() is None
    for ms in range(200):
        metrics.committed(tasks=1, records=1, seconds=ms / 1000)
    assert metrics.commit_p99_s() == 0.198
