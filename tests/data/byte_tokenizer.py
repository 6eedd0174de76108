"""A tokenizer with one token a byte: characters beyond ASCII are split over tokens, as in byte-level encodings."""


class ByteTokenizer:
    """Quacks like a transformers tokenizer."""

    def __call__(self, stories: list[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [list(story.encode()) for story in stories]}

    def decode(self, ids: list[int], **_: object) -> str:
        return bytes(ids).decode("utf-8", errors="replace")
