"""Classes of tokens, told from their letters and a list of function words."""

import re
import unicodedata

WORDS = {
    "a pronoun": "i me my mine myself you your yours yourself he him his himself she her hers herself it its itself we "
    "us our ours ourselves they them their theirs themselves who whom whose someone everyone something everything "
    "nothing anyone anything",
    "a determiner": "a an the this these those some any each every another no all both",
    "a preposition": "in on at to of for with from by into onto under over up down out off about around through near "
    "behind between before after inside outside like across along without until during",
    "a conjunction": "and but or nor so because when while if that as than though although where then",
    "an auxiliary verb": "is are was were be been being am do does did has have had can could will would shall should "
    "may might must not",
}
"""The function words of English; other languages have the classes that letters and punctuation tell."""

OTHER_CLASSES = (
    "a name",
    "another capitalized word",
    "another lower-case word",
    "a word's continuation",
    "a contraction",
    "the end of a sentence",
    "a quotation mark",
    "other punctuation",
    "a line end",
    "a number",
    "another symbol",
)
CLASSES = (*WORDS, *OTHER_CLASSES)
PUNCTUATION = ("the end of a sentence", "a quotation mark", "other punctuation")
GROUPS = ("a capitalized word", "a lower-case word", "punctuation", "another kind of token")

QUOTES = "\"'“”‘’`«»"
CLOSING = QUOTES + ")]}"


def token_class(string: str) -> str:
    """The class of a token, one of :data:`CLASSES`, without telling names from other capitalized words."""
    word = string.strip()
    if "\n" in string and not word:
        return "a line end"
    if word.isalpha():
        if word[0].islower() and not string[0].isspace():
            return "a word's continuation"
        for name, words in WORDS.items():
            if word.lower() in words.split():
                return name
        return "another capitalized word" if word[0].isupper() else "another lower-case word"
    if word.isdigit():
        return "a number"
    if re.fullmatch(r"['’]\w+|n['’]t", word):
        return "a contraction"
    if word and all(unicodedata.category(character)[0] == "P" or character in QUOTES for character in word):
        if word.rstrip(CLOSING).endswith((".", "!", "?", "…", "。")):
            return "the end of a sentence"
        return "a quotation mark" if not word.strip(QUOTES) else "other punctuation"
    return "another symbol"


def token_group(string: str) -> str:
    """What a token looks like, one of :data:`GROUPS`."""
    word = string.strip()
    if word.isalpha() and word[0].isupper():
        return "a capitalized word"
    if word.isalpha() and string[0].isspace():
        return "a lower-case word"
    return "punctuation" if token_class(string) in PUNCTUATION else "another kind of token"
