"""The terms of the intakes, each with the batch after which it began, in their order.

A term is a text that is greater than those before it. Relays look among those that came after the last one they heeded
for the lowest batch: where it is below one that had receipted something, audit's database was restored.
"""

from causeloop_common import ids

Terms = list[tuple[str, int]]

MOST = 32
"""Terms that are kept. The two oldest become one, with the lower batch: a relay that missed them all takes back too
much, which costs duplicates, and never too little."""


def new_term() -> str:
    """A term that begins now."""
    return ids.uuid7().hex


def with_term(terms: Terms, term: str, began: int) -> Terms:
    """The terms with one more, which is raised above the last where a clock was behind. One in which nothing was
    committed is replaced.
    """
    if terms:
        term = max(term, f"{int(terms[-1][0], 16) + 1:032x}")
    kept = terms[:-1] if terms and terms[-1][1] == began else terms
    kept = [*kept, (term, began)]
    if len(kept) > MOST:
        (_, first), (merged, second), *rest = kept
        kept = [(merged, min(first, second)), *rest]
    return kept
