"""A process with State and Map: killed at one exact point, again and again, and woken as a zombie."""

from examples.b_sessions import PageView, job, views, visits
from streamcore.testing import chaos

VIEWS = [PageView(visitor=f"v{n % 7}", page=f"p{n // 7 % 5}") for n in range(150)]


def test_visits_are_told_once() -> None:
    report = chaos.run(
        job,
        feeds=[chaos.feed(views, VIEWS)],
        faults=[chaos.Kill(at="before-commit", rate=0.1), chaos.Pause(), chaos.Disk()],
        seeds=range(30),
        checks=[same_statuses, chaos.no_gaps_or_repeats()],
    )
    assert report.ok, report.explain()


def same_statuses(history: chaos.History) -> str | None:
    """When a visit is told depends on the order of its views, whether it is does not."""
    told = sorted((visit.visitor, visit.status) for visit in history.read(visits))
    wanted = sorted((f"v{n}", status) for n in range(7) for status in ("arrived", "explored"))
    return None if told == wanted else f"visits: {told}"
