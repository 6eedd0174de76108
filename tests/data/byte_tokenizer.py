"""A tokenizer with one token a byte: characters beyond ASCII are split over tokens, as in byte-level encodings."""


class ByteTokenizer:
    """Quacks like a fast transformers tokenizer that, unless told not to, puts a special token in front of a text."""

    is_fast = True
    bos_token = None
    eos_token = None

    def __call__(self, stories: list[str], add_special_tokens: bool = True, **_: object) -> dict[str, list]:
        special = [1] if add_special_tokens else []
        return {
            "input_ids": [special + list(story.encode()) for story in stories],
            "offset_mapping": [
                [(0, 0)] * len(special) + [(i, i + 1) for i, character in enumerate(story) for _ in character.encode()]
                for story in stories
            ],
        }
