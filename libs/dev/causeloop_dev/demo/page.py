"""How the demo looks: numbered headings and aligned lines, at most 100 columns, colour only where it is wanted."""

import os
import textwrap
from typing import IO

WIDTH = 100
_LABEL = 35
_RESULT = 13
_TEXT = 3 + _LABEL + 1 + _RESULT + 1
_NAMED = 20


class Unexpected(Exception):
    """Something else came than was expected; no token is in either text."""

    def __init__(self, expected: str, came: str) -> None:
        super().__init__(f"expected {expected}, came {came}")
        self.expected = expected
        self.came = came


class Page:
    """Lines are `what was done   what came back   in words`, with the reason below where one is needed."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        styled = out.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") != "dumb"
        codes = ("\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[36m", "\033[0m") if styled else ("",) * 6
        self._bold, self._dim, self._good, self._bad, self._live, self._plain = codes

    def heading(self, number: int, title: str, why: str) -> None:
        """A part of the journey, and why it matters."""
        self._print(f"\n{self._bold}{number}  {title}{self._plain}")
        self.note(why)

    def title(self, title: str, text: str) -> None:
        """The first lines."""
        self._print(f"\n{self._bold}{title}{self._plain}")
        self.note(text)

    def did(self, what: str, result: str, text: str) -> None:
        """Something was done, and came back as it should."""
        self._line(self._good, what, result, text)

    def refused(self, what: str, result: str, text: str) -> None:
        """Something was refused, as it should."""
        self._line(self._bad, what, result, text)

    def arrived(self, index: str, action: str, text: str) -> None:
        """Something arrived on the stream."""
        self._line(self._live, f"~ {action}", f"entry {index}", text)

    def held(self, name: str, text: str) -> None:
        """A step of a verification held."""
        self._judged(self._good, name, "held", text)

    def forgery(self, name: str, text: str) -> None:
        """A forgery was refused, as it should."""
        self._judged(self._bad, name, "REFUSED", text)

    def note(self, text: str) -> None:
        """Words in between."""
        for line in textwrap.wrap(printable(text), WIDTH - 3):
            self._print(f"   {self._dim}{line}{self._plain}")

    def failed(self, expected: str, came: str) -> None:
        """The end before the end."""
        self._print(f"\n{self._bad}NOT AS PROMISED{self._plain}")
        for name, text in (("expected", expected), ("came", came)):
            self._wrapped(f"   {name:<10}", 13, text)

    def _judged(self, color: str, name: str, judged: str, text: str) -> None:
        self._wrapped(f"   {name:<{_NAMED}} {color}{judged:<8}{self._plain} ", _NAMED + 13, text)

    def _line(self, color: str, what: str, result: str, text: str) -> None:
        what = printable(what)
        if len(what) > _LABEL:
            self._print(f"   {what}")
            what = ""
        self._wrapped(f"   {what:<{_LABEL}} {color}{result:<{_RESULT}}{self._plain} ", _TEXT, text)

    def _wrapped(self, start: str, column: int, text: str) -> None:
        """A text that begins after `start`, in this column, and goes on below it."""
        first, *more = textwrap.wrap(printable(text), WIDTH - column) or [""]
        self._print(f"{start}{first}")
        for line in more:
            self._print(f"{'':<{column}}{line}")

    def _print(self, line: str) -> None:
        print(line.rstrip(), file=self._out, flush=True)


def printable(text: str) -> str:
    """Without what a terminal would obey: some of it comes from elsewhere."""
    return "".join(c if c.isprintable() else "?" for c in text)
