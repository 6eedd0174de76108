"""A tokenizer with one token a byte: characters beyond ASCII are split over tokens, as in byte-level encodings."""


class ByteTokenizer:
    """Quacks like a transformers tokenizer that, unless told not to, puts a special token in front of a text and
    drops blanks before full stops."""

    def __call__(self, stories: list[str], add_special_tokens: bool = True, **_: object) -> dict[str, list[list[int]]]:
        special = [1] if add_special_tokens else []
        return {"input_ids": [special + list(story.encode()) for story in stories]}

    def decode(self, ids: list[int], clean_up_tokenization_spaces: bool = True) -> str:
        text = bytes(ids).decode("utf-8", errors="replace")
        return text.replace(" .", ".") if clean_up_tokenization_spaces else text
