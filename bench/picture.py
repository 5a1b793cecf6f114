"""The picture of a measurement, as SVG: rates beside those of the reference and of OpenBao, and where CPU time goes."""

from collections.abc import Iterator
from html import escape
from typing import Any

WIDTH = 900
LEFT = 190
RIGHT = 150
BAR = 15
GAP = 14
HEAD = 46
SIDES = {"ours": ("#2f6db5", "Causeloop"), "reference": ("#b9c2cc", "reference"), "peer": ("#d9a441", "OpenBao")}
PARTS = ("#2f6db5", "#5a9bd8", "#3f9c85", "#8fc9b2", "#b58fc9", "#d9a441", "#c96f5a", "#8a949e")
STYLE = "text{font:13px system-ui,sans-serif;fill:#1f2933}.title{font-weight:600;font-size:15px}.small{font-size:11px}"

Rows = dict[str, dict[str, Any]]


def picture(rows: Rows) -> str:
    """Both charts, one below the other."""
    parts = list(_rates({name: row for name, row in rows.items() if row["unit"] == "1/s"}))
    height = _height(parts)
    spent = {name: row["cpu_ms"] for name, row in rows.items() if row.get("cpu_ms")}
    parts += [f'<g transform="translate(0,{height})">', *_spent(spent), "</g>"] if spent else []
    height += _height(list(_spent(spent))) if spent else 0
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="Rates, and CPU time per act">\n<style>{STYLE}</style>\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _rates(rows: Rows) -> Iterator[str]:
    """For each row a bar for each side, against the fastest of them."""
    yield _text(16, 26, "Acts per second, against the fastest side of each row", "title")
    y = HEAD
    for name, row in rows.items():
        found = {side: row[side] for side in SIDES if row[side]}
        most = max(found.values())
        yield _text(16, y + BAR - 3, name)
        for side, rate in found.items():
            colour, words = SIDES[side]
            yield _bar(LEFT, y, _width(rate / most), colour)
            yield _text(LEFT + _width(rate / most) + 6, y + BAR - 4, f"{rate:,.0f}  {words}", "small")
            y += BAR + 2
        y += GAP
    yield f"<!-- height {y + GAP} -->"


def _spent(rows: dict[str, dict[str, dict[str, float]]]) -> Iterator[str]:
    """For each row and side a bar of the CPU time of an act, in a part for each process."""
    most = max(sum(side.values()) for row in rows.values() for side in row.values())
    names = list(dict.fromkeys(name for row in rows.values() for name in row["ours"]))
    colours = dict(zip(names, PARTS * (1 + len(names) // len(PARTS)), strict=False))
    yield _text(16, 26, "CPU-milliseconds per act, by process", "title")
    x, y = 16, HEAD
    for name, colour in colours.items():
        yield _bar(x, y - 6, 11, colour, 11)
        yield _text(x + 16, y + 4, name, "small")
        x += 28 + 7 * len(name)
    y += GAP + 8
    for name, sides in rows.items():
        yield _text(16, y + BAR - 3, name)
        for side, parts in sides.items():
            place = float(LEFT)
            for part, spent in parts.items():
                width = _width(spent / most)
                yield _bar(place, y, width, colours[part] if side == "ours" else SIDES[side][0])
                place += width
            yield _text(place + 6, y + BAR - 4, f"{sum(parts.values()):.2f}  {SIDES[side][1]}", "small")
            y += BAR + 2
        y += GAP
    yield f"<!-- height {y + GAP} -->"


def _height(parts: list[str]) -> int:
    return int(parts[-1].removeprefix("<!-- height ").removesuffix(" -->"))


def _width(part: float) -> float:
    return round(part * (WIDTH - LEFT - RIGHT), 1)


def _bar(x: float, y: float, width: float, colour: str, height: float = BAR) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{colour}"/>'


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{kind}>{escape(words)}</text>'
