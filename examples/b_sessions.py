"""A keyed process with State: what each visitor is doing, told when it changes."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from streamcore import Context, Job, Map, State, Topic, Value


class PageView(BaseModel, frozen=True):
    visitor: str
    page: str


class Visit(BaseModel, frozen=True):
    visitor: str
    status: Literal["arrived", "explored"]
    at: datetime
    pages: int


def count_from_zero(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "views": 0}  # version 1 had no counter


class Visitor(State, version=2, upgrades={1: count_from_zero}):
    arrived = Value(datetime)
    views = Value(int, default=0)
    pages = Map(str, int)


def on_view(view: PageView, state: Visitor, ctx: Context[str]) -> Iterator[Visit]:
    state.views += 1
    state.pages[view.page] = state.pages.get(view.page, 0) + 1
    if state.arrived is None:
        state.arrived = ctx.event_time
        yield Visit(visitor=ctx.key, status="arrived", at=ctx.event_time, pages=1)
    elif len(state.pages) == 3 and state.pages[view.page] == 1:
        yield Visit(visitor=ctx.key, status="explored", at=ctx.event_time, pages=3)


views = Topic("page-views", PageView)
visits = Topic("visits", Visit, key=str)

job = Job("sessions")
job.stream(views).key_by("by-visitor", lambda view: view.visitor).process("visitor", Visitor, on_view).to(visits)
