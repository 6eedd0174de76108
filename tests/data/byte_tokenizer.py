"""A tokenizer with one token a byte: characters beyond ASCII are split over tokens, as in byte-level encodings."""


class ByteTokenizer:
    """Quacks like a transformers tokenizer that puts a special token in front of a text unless told not to."""

    def __call__(self, stories: list[str], add_special_tokens: bool = True, **_: object) -> dict[str, list[list[int]]]:
        special = [1] if add_special_tokens else []
        return {"input_ids": [special + list(story.encode()) for story in stories]}

    def decode(self, ids: list[int], **_: object) -> str:
        return bytes(ids).decode("utf-8", errors="replace")
