"""Writes causeloop_log/vectors: `python libs/log/tests/vectors.py`. Every run writes the same bytes; a test compares.

entry-v1.json, entry-v2.json    entry_vectors.py
files.json                      file_vectors.py
"""

import json
from pathlib import Path

from entry_vectors import entries_v1, entries_v2
from file_vectors import files

FOLDER = Path(__file__).parents[1] / "causeloop_log" / "vectors"


def written() -> dict[str, str]:
    """Every file of vectors by its name."""
    made = {"entry-v1.json": entries_v1(), "entry-v2.json": entries_v2(), "files.json": files()}
    return {name: f"{json.dumps(value, indent=1, ensure_ascii=True)}\n" for name, value in made.items()}


if __name__ == "__main__":
    for name, text in written().items():
        (FOLDER / name).write_text(text, encoding="ascii")
