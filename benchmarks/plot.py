"""Bar charts as SVG, readable on a light and on a dark page."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator

from benchmarks.section import Chart, significant

WIDTH = 760
LABELS = 210
"""Where the bars begin, unless a label is longer than that."""
LETTER = 6.8
"""How wide the letters of a label are, at most, on the average."""
VALUES = 70
BAR, GAP, GROUP_GAP, TOP, HEADING = 16, 3, 14, 46, 18
OURS = "cloudmanager"
SHADES = ("ours", "ours-2", "ours-3")
"""Of our bars, from the plain one to those with more said about them: the same in every plot, in whatever order."""
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #57606a; }
.title { font-size: 14px; font-weight: 600; fill: #24292f; }
.group { font-weight: 600; }
.other { fill: #afb8c1; } .ours { fill: #1f6feb; } .ours-2 { fill: #79b0ff; } .ours-3 { fill: #b6d4fe; }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1; } .title { fill: #f0f6fc; } .other { fill: #4b535d; } .ours-3 { fill: #2f4f7f; }
}
"""


def svg(chart: Chart) -> str:
    bars = list(_bars(chart))
    height = bars[-1].y + BAR + GROUP_GAP
    root = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"-4 0 {WIDTH + 4} {height}",
            "width": str(WIDTH + 4),
            "height": str(height),
            "role": "img",
            "aria-label": chart.title,
        },
    )
    ET.SubElement(root, "style").text = STYLE
    _text(root, 0, 20, f"{chart.title} ({chart.unit})", "title")
    longest = max(bar.value for bar in bars)
    start = max(LABELS, 8 + int(LETTER * max(len(bar.label) for bar in bars)))
    for bar in bars:
        _draw(root, bar, start, (WIDTH - start - VALUES) / longest)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


class _Bar:
    def __init__(self, y: int, label: str, value: float, kind: str, group: str) -> None:
        self.y, self.label, self.value, self.kind, self.group = y, label, value, kind, group


def _bars(chart: Chart) -> Iterator[_Bar]:
    """`group` is set on the first bar of each."""
    y = TOP
    for group, bars in chart.groups.items():
        y += HEADING if group else 0
        ours = sorted((label for label in bars if OURS in label), key=len)
        for number, (label, value) in enumerate(bars.items()):
            kind = SHADES[min(ours.index(label), len(SHADES) - 1)] if label in ours else "other"
            yield _Bar(y, label, value, kind, "" if number else group)
            y += BAR + GAP
        y += GROUP_GAP


def _draw(root: ET.Element, bar: _Bar, start: int, scale: float) -> None:
    if bar.group:
        _text(root, 0, bar.y - 6, bar.group, "group")
    length = max(1.0, bar.value * scale)
    context = {"x": str(start), "y": str(bar.y), "width": f"{length:.1f}", "height": str(BAR), "rx": "2"}
    ET.SubElement(root, "rect", {"class": bar.kind, **context})
    _text(root, start - 8, bar.y + 12, bar.label, "label", anchor="end")
    _text(root, start + length + 6, bar.y + 12, significant(bar.value), "value")


def _text(root: ET.Element, x: float, y: float, text: str, kind: str, anchor: str = "start") -> None:
    context = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
    ET.SubElement(root, "text", {"class": kind, **context}).text = text
