"""The page of measurements is what was measured: it is made of figures, and never typed."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import page as module
from bench.page import FIGURES, PAGE, PICTURE, page, write
from bench.picture import picture
from bench.run import Row, known, spent, table

ROOT = Path(__file__).parents[2]
MEASURED = {
    "date": "2026-03-01", "machine": "a machine, 2 cores", "software": "Python 3.11", "revision": "0123456789",
    "rounds": 5, "seconds": 3.0,
}  # fmt: skip
CPU = {"ours": {"gateway": 0.25, "vault": 0.5}, "reference": {"gateway": 0.125, "service": 0.25}}


def row(**changed: Any) -> dict[str, Any]:
    given = {
        "ours": 900.0, "reference": 1000.0, "peer": None, "unit": "1/s", "better": "higher", "bar": ">= 0.85",
        "holds": True, "p50_ms": 16.0, "p99_ms": 32.0, "cpu_ms": CPU, "note": "of ten <runs>",
    }  # fmt: skip
    return {**vars(Row(**{**given, **changed})), "measured": MEASURED}


ROWS = {"secret_put": row(peer=450.0), "revocation": row(reference=None, unit="ms", cpu_ms={}, holds=False)}


class TestThePage:
    def test_that_is_there_is_made_of_the_figures_beside_it(self) -> None:
        figures = ROOT / "docs" / FIGURES
        if not figures.exists():
            pytest.skip("no measurement has been written down yet")
        rows = json.loads(figures.read_text())["rows"]
        assert (ROOT / "docs" / PAGE).read_text() == page(rows)
        assert (ROOT / "docs" / PICTURE).read_text() == picture(rows)
        assert rows.keys() <= known().keys()

    def test_has_every_figure_its_machine_its_date_and_how_to_repeat_it(self) -> None:
        text = page(ROWS)
        for words in (
            "900 1/s",
            "1,000 (0.90 ×)",
            "450 (2.00 ×)",
            "**no**",
            "a machine, 2 cores",
            "2026-03-01",
            "PAGE=1",
        ):
            assert words in text
        assert "| `secret_put` | 0.25 | 0.50 | 0.75 | 0.38 |  |" in text

    def test_its_picture_is_an_image_with_a_bar_for_every_part(self) -> None:
        image = ElementTree.fromstring(picture(ROWS))  # noqa: S314  it is our own
        bars = [one for one in image.iter() if one.tag.endswith("rect")]
        assert len(bars) == 1 + 3 + 2 + 4  # the ground, three rates, two in the legend, four of CPU time

    def test_is_written_of_one_named_machine_or_not_at_all(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(module, "DOCS", tmp_path)
        other = {**row(), "measured": {**MEASURED, "machine": "another"}}
        unnamed = {name: value for name, value in row().items() if name != "measured"}
        for wrong in ({**ROWS, "relay": other}, {**ROWS, "relay": unnamed}):
            assert write(wrong) == 2
            assert "measure all again" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())
        assert write(ROWS) == 0
        assert {path.name for path in tmp_path.iterdir()} == {FIGURES, PAGE, PICTURE}


class TestTheTable:
    def test_has_the_cpu_time_of_an_act_below_its_row(self) -> None:
        line, below, note, *_ = table(ROWS).splitlines()[1:]
        assert line.startswith("secret_put")
        assert below.strip() == "CPU ms per act 0.75 (gateway 0.25, vault 0.50); reference 0.38"
        assert note.strip() == "of ten <runs>"
        assert spent({}) == ""
