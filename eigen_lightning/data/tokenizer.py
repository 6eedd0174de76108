"""The tokenizer of text samples: loaded, checked, and asked for ids and places alike."""

from typing import Any

from eigen_lightning.data.stories import END_OF_TEXT, local_path
from eigen_lightning.run.errors import UserError, nearest


def load_tokenizer(name: str) -> Any:
    """The tokenizer in a folder or on the Hub.

    Raises:
        UserError: where there is none, or it can't be used.
    """
    from transformers import AutoTokenizer

    folder = local_path(name)
    if folder is not None and not folder.is_dir():
        siblings = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        hint = nearest(folder.name, siblings) or "; check the path, or leave it out to use the target's"
        raise UserError(f"expected a tokenizer's folder, got {name!r}, which does not exist{hint}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name if folder is None else str(folder))
    # What transformers raises for a folder or name that holds no tokenizer, or without a network.
    except (OSError, ValueError) as error:
        raise UserError(
            f"expected a tokenizer in {name!r}, got: {str(error).splitlines()[0]}; "
            "name a folder that has tokenizer.json, or leave it out to use the target's"
        ) from error
    return check_tokenizer(tokenizer)


def check_tokenizer(tokenizer: Any) -> Any:
    """The tokenizer itself, if it can tell where in a text its tokens are.

    Raises:
        UserError: where it is None or can't.
    """
    if tokenizer is None:
        raise UserError("expected a target with a tokenizer, got one without; set data.tokenizer to a name or folder")
    if not tokenizer.is_fast:
        raise UserError(
            f"expected a fast tokenizer, which tells where in a text its tokens are, got {type(tokenizer).__name__}; "
            "set data.tokenizer to a folder that has tokenizer.json"
        )
    return tokenizer


def end_of_text_markers(tokenizer: Any) -> list[str]:
    """What ends or begins a story wherever it stands in a text: a window with it in the middle would span two."""
    return sorted({END_OF_TEXT, tokenizer.bos_token, tokenizer.eos_token} - {None})


def encode(tokenizer: Any, stories: list[str], **options: Any) -> Any:
    """Stories as token ids; always in the same way, as a window's text is found by tokenizing its story again."""
    # No special tokens: a window in the middle of a story has none either, and positions must mean the same in all.
    # `verbose` would warn of stories longer than the model's context, which windows never are.
    return tokenizer(stories, add_special_tokens=False, return_attention_mask=False, verbose=False, **options)
