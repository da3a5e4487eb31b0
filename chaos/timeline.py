"""Faults against throughput and lag: as text for a terminal, as an SVG for a page. Pure functions of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chaos.faults import PER_MINUTE, Fault
from chaos.run import Report, Sample

BARS = " ▁▂▃▄▅▆▇█"
NAMED = 16
"""Columns for a row's name."""


def throughput(samples: Sequence[Sample], over_s: float = 3.0) -> list[tuple[float, float]]:
    """(second, outputs a second), each over the seconds before it."""
    found: list[tuple[float, float]] = []
    first = 0
    for sample in samples:
        while sample.at_s - samples[first].at_s > over_s:
            first += 1
        seconds = sample.at_s - samples[first].at_s
        found.append((sample.at_s, (sample.read - samples[first].read) / seconds if seconds else 0.0))
    return found


def lag(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """(second, different records sent that have no output yet)."""
    return [(sample.at_s, float(max(0, sample.sent - sample.read))) for sample in samples]


# --- text -----------------------------------------------------------------------------------------------------------


def text(report: Report, columns: int = 100) -> str:
    """A column is a stretch of time; a fault's row says how many of its kind began there."""
    end = _end(report)
    stretch = end / columns
    lines = [f"each column {stretch:.1f} s; outputs a second, records without an output yet, faults that began"]
    for name, points in (("throughput", throughput(report.samples)), ("lag", lag(report.samples))):
        highest = _by_column(points, stretch, columns)
        lines.append(f"{name:<{NAMED}}{_bars(highest)}  at most {max(highest, default=0):,.0f}")
    for kind, faults in _rows(report.faults):
        begun = [0] * columns
        for fault in faults:
            begun[min(columns - 1, int(fault.begun_s / stretch))] += 1
        marks = "".join("·" if n == 0 else str(n) if n < 10 else "+" for n in begun)
        lines.append(f"{kind:<{NAMED}}{marks}  {len(faults)}")
    return "\n".join(lines)


def _by_column(points: Sequence[tuple[float, float]], stretch: float, columns: int) -> list[float]:
    """A column without a point of its own stands where the one before it ends."""
    highest = [-1.0] * columns
    last = [0.0] * columns
    for at, value in points:
        column = min(columns - 1, int(at / stretch))
        highest[column] = max(highest[column], value)
        last[column] = value
    for column in range(columns):
        if highest[column] < 0:
            highest[column] = last[column] = last[column - 1] if column else 0.0
    return highest


def _bars(values: Sequence[float]) -> str:
    top = max(values, default=0.0) or 1.0
    return "".join(BARS[-(-int(value / top * 1000) * (len(BARS) - 1) // 1000)] for value in values)


# --- SVG ------------------------------------------------------------------------------------------------------------

WIDTH, LEFT, RIGHT, PANEL, ROW, TOP = 1400, 150, 60, 150, 22, 40
COLOURS = {"kill": "#c0392b", "zombie": "#8e44ad", "broker": "#d35400", "disk": "#16a085"}


def svg(report: Report) -> str:
    end = _end(report)

    def x(at_s: float) -> float:
        return LEFT + at_s / end * (WIDTH - LEFT - RIGHT)

    parts = [_text(LEFT, 22, report_title(report), size=15)]
    y = TOP
    for name, points, colour in (
        ("outputs a second", throughput(report.samples), "#2471a3"),
        ("records without an output yet", lag(report.samples), "#7d6608"),
    ):
        parts.append(_panel(name, points, colour, x, y))
        y += PANEL + 30
    for kind, faults in _rows(report.faults):
        parts.append(_text(LEFT - 10, y + ROW - 7, f"{kind} ({len(faults)})", anchor="end"))
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y + ROW}" y2="{y + ROW}" stroke="#eee"/>')
        colour = COLOURS.get(kind.split()[0], "#2e4053")
        for fault in faults:
            wide = max(1.5, x(fault.ended_s or end) - x(fault.begun_s))
            told = f"<title>{fault.begun_s:.1f} s: {fault.kind}, {fault.target}</title>"
            parts.append(
                f'<rect x="{x(fault.begun_s):.1f}" y="{y + 4}" width="{wide:.1f}" height="{ROW - 7}" '
                f'fill="{colour}" fill-opacity="0.6">{told}</rect>'
            )
        y += ROW
    y += 20
    minutes = int(end // 60)
    for minute in range(0, minutes + 1, 1 if minutes <= 30 else 5):
        parts.append(_text(x(minute * 60), y, f"{minute} min", anchor="middle"))
    y += 15
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif">'
        f'<rect width="{WIDTH}" height="{y}" fill="white"/>{"".join(parts)}</svg>\n'
    )


def report_title(report: Report) -> str:
    return (
        f"{report.kills} worker kills, {report.zombies} zombies, {report.broker_faults} broker faults, "
        f"{report.outputs:,} outputs: {'nothing lost, nothing repeated' if report.ok else 'BROKEN'}"
    )


def _panel(name: str, points: Sequence[tuple[float, float]], colour: str, x: Callable[[float], float], y: int) -> str:
    top = max((value for _, value in points), default=0.0) or 1.0
    line = " ".join(f"{x(at):.1f},{y + PANEL - value / top * PANEL:.1f}" for at, value in points)
    return (
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y + PANEL}" y2="{y + PANEL}" stroke="#bbb"/>'
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1"/>'
        f"{_text(LEFT - 10, y + 12, f'{top:,.0f}', anchor='end')}{_text(LEFT - 10, y + PANEL, '0', anchor='end')}"
        f"{_text(LEFT + 6, y + 12, name)}"
    )


def _text(x: float, y: float, words: str, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-size="{size}" fill="#333">{words}</text>'


def _rows(faults: Sequence[Fault]) -> list[tuple[str, list[Fault]]]:
    rows = [(kind, [fault for fault in faults if fault.kind == kind]) for kind in PER_MINUTE]
    return [(kind, found) for kind, found in rows if found]


def _end(report: Report) -> float:
    return max([1.0, *(sample.at_s for sample in report.samples[-1:])])
