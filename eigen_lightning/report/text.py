"""How text and numbers from the data appear on a page: always as text, never as markup."""

import math
import unicodedata
from typing import Any

from markupsafe import Markup, escape

LONG = 80
"""Characters beyond which a token gets a box of its own to wrap and scroll in."""

VISIBLE_FORMAT = {"\u200d", "\u200c"}
"""Joiners that shape emoji and scripts; harmless, and needed to show them right."""


def is_hidden(character: str) -> bool:
    """Whether a character shows nothing or moves others: controls, bidirectional marks, line separators, surrogates."""
    if character in VISIBLE_FORMAT:
        return False
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Co")


def as_text(text: str) -> Markup:
    """Escaped text in which hidden characters stand as their code points, so that they are seen and do nothing."""
    if not any(map(is_hidden, text)):
        return escape(text)
    parts = [
        Markup('<span class="mark">U+{:04X}</span>').format(ord(character))
        if is_hidden(character)
        else escape(character)
        for character in text
    ]
    return Markup("").join(parts)


def as_plain_text(text: str) -> str:
    """The same where no markup may stand, in attributes and titles; to be escaped by whoever writes it."""
    return "".join(f"U+{ord(character):04X}" if is_hidden(character) else character for character in text)


def number(value: float | None, digits: int = 3) -> str:
    """A number with three digits; a dash where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e6):
        return f"{int(value):,}"
    if 1e3 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        superscript = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{mantissa}×10{superscript}"
    return text


def visible(text: str) -> str:
    """Line ends as "↵", so that a token that is one can be seen; character by character, so that parts still join."""
    return text.replace("\r", "␍").replace("\n", "↵")


MOST_NUMBERS = 12
"""Numbers of an input that stand on one line."""


def one_line(example: dict[str, Any], digits: int = 3) -> str:
    """What an example of ``top_examples.jsonl`` that is no text shows on one line: a few numbers, or a summary."""
    if "input" in example:
        values = example["input"]
        if len(values) <= MOST_NUMBERS:
            line = "[" + ", ".join(f"{value:.{digits}g}" for value in values) + "]"
        else:
            line = f"{len(values)} numbers, {min(values):.{digits}g} to {max(values):.{digits}g}"
    else:
        line = str(example.get("summary") or example.get("text") or "")
    where = f" at {example['position']}" if example.get("position") else ""
    label = f" ({example['label']})" if "label" in example else ""
    return line + where + label


def fixed(value: float) -> str:
    """Two decimals, and no minus before zero."""
    return f"{value:.2f}".replace("-0.00", "0.00")


def ratio(value: float | None) -> str:
    """A ratio; infinite where nothing at all moved on the other side."""
    return "∞" if value is None else number(value)


def level(value: float, largest: float, levels: int = 8) -> int:
    """Which of ``levels`` shades a value gets; 0 for none."""
    if not largest > 0 or not value > 0:
        return 0
    return min(levels, math.ceil(levels * value / largest - 0.5))
