"""The rule for names: two of them that look the same are the same, as far as characters that nobody sees go.

One letter can be written in two ways, with its accent or before it, and a space in a dozen. Of those a name keeps one.
"""

import unicodedata

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Controls, formats (zero width, direction), halves of characters, private and unassigned ones, line separators."""
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufffc\U00016fe4\U0001d159")
"""Letters and marks that are drawn as nothing."""
_VARIATIONS = (("\ufe00", "\ufe0f"), ("\u180b", "\u180f"), ("\U000e0100", "\U000e01ef"))
_JOINER, _PICTURE = "\u200d", "\ufe0f"
"""Between pictures these make one of several, or a picture of a sign; elsewhere they are not seen."""
_PICTURES = frozenset({"So", "Sk"})


def visible(text: str) -> str:
    """The text in its one form (NFC, and every space the ordinary one).

    ValueError for one with a character that is not seen, or that turns the direction of others.
    """
    if text.isascii():
        return text
    text = "".join(" " if unicodedata.category(one) == "Zs" else one for one in unicodedata.normalize("NFC", text))
    before = ""
    for place, character in enumerate(text):
        if _is_unseen(character) and not _joins(before, character, text[place + 1 : place + 2]):
            raise ValueError(f"has a character that cannot be seen, or that turns the text: U+{ord(character):04X}")
        if character != _PICTURE:
            before = character
    return text


def _is_unseen(character: str) -> bool:
    if unicodedata.category(character) in _UNSEEN or character in _BLANK:
        return True
    return any(first <= character <= last for first, last in _VARIATIONS)


def _joins(before: str, character: str, after: str) -> bool:
    """Whether it belongs to a picture, such as that of a family."""
    if not before or unicodedata.category(before) not in _PICTURES:
        return False
    return character == _PICTURE or (character == _JOINER and after != "" and unicodedata.category(after) in _PICTURES)
