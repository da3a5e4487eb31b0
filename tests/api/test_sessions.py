from datetime import UTC, datetime

from examples.b_sessions import PageView, Visit, Visitor, job, views, visits
from streamcore.testing import Driver

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


def test_a_visitors_state_survives_a_crash_and_a_lost_disk() -> None:
    with Driver(job) as driver:
        driver.send(views, PageView(visitor="ann", page="/"), PageView(visitor="ann", page="/tea"), at=NOON)
        driver.crash(at="before-commit")
        arrived = Visit(visitor="ann", status="arrived", at=NOON, pages=1)
        assert driver.read(visits) == [arrived]
        driver.lose_disk()
        driver.send(views, PageView(visitor="ann", page="/"), PageView(visitor="ann", page="/cups"), at=NOON)
        assert driver.read(visits) == [Visit(visitor="ann", status="explored", at=NOON, pages=3)]
        state = driver.state("visitor", Visitor, "ann")
        assert (state.views, state.arrived) == (4, NOON)
        assert dict(state.pages) == {"/": 2, "/tea": 1, "/cups": 1}
