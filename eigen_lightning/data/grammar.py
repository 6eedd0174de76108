"""Windows of the small grammar's text, each token with the state that the grammar is in there."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from eigen_lightning.data.grammar_text import CONTEXT_STATES, STATES, WORDS, Story, story
from eigen_lightning.data.stories import END_OF_TEXT
from eigen_lightning.data.stream import SampleSet, SampleStream, check_positive
from eigen_lightning.data.windows import TextWindows
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.seeding import derive_seed

STORY_WINDOWS = 3
"""Windows a story."""

UNKNOWN = "<unk>"


class GrammarWindows(TextWindows):
    """Windows of the grammar's text.

    Attributes:
        states: of each token, an index of :attr:`state_names`; -1 where the words that decide it lie before the window.
        state_names: what the states are called.
        context_states: which of them the current word alone does not decide.
    """

    def __init__(
        self, name: str, first_id: int, stories: Sequence[Story], tokenizer: Any, context_length: int, most: int
    ) -> None:
        number = tokenizer.get_vocab()
        ids, states, texts, first_tokens = [], [], [], []
        for told in stories:
            of_windows, known = told.windows(context_length)
            words = np.array([number[word] for word in told.words[: of_windows.size]], dtype=np.int32)
            ids.append(words.reshape(of_windows.shape))
            states.append(np.where(known, of_windows, -1))
            texts += [told.text] * len(of_windows)
            first_tokens += [index * context_length for index in range(len(of_windows))]
        windows = torch.from_numpy(np.concatenate(ids)[:most])
        super().__init__(name, first_id, windows, tokenizer, texts[:most], first_tokens[:most])
        self.states: Int[Tensor, "windows length"] = torch.from_numpy(np.concatenate(states)[:most])
        self.state_names = STATES
        self.context_states: Bool[Tensor, " states"] = torch.from_numpy(CONTEXT_STATES)


class Grammar(SampleStream):
    """Text of a small grammar with planted regularities, made as it is needed: the offline stand-in for real text.

    Stories are told from seeds of their own; a held-out story that is also a training story is passed over. Each is cut
    into windows; every token's state is known, and with it what a direction that responds to it has found.

    Source: written for this package; see ``grammar_text``.
    """

    def __init__(
        self,
        context_length: int = 32,
        n_sequences: int = 1000,
        n_heldout_sequences: int = 500,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        """
        Args:
            context_length: tokens a window, one for each word.
            n_sequences: training windows.
            n_heldout_sequences: held-out windows.
            batch_size: windows a step, over all devices.
            num_workers: processes that load ahead, for each loader; 0 is fastest here, as windows are in memory.
            seed: seed of the stories and of the windows' order; the run's seed where None.

        Raises:
            UserError: where a number is out of range.
        """
        super().__init__(batch_size, num_workers, seed)
        if context_length < 2:
            raise UserError(f"expected a context_length of at least 2 tokens, got {context_length}; use 32, say")
        check_positive(n_sequences=n_sequences, n_heldout_sequences=n_heldout_sequences)
        self.context_length = context_length
        self.n_sequences = n_sequences
        self.n_heldout_sequences = n_heldout_sequences

    def sample_sets(self, seed: int) -> tuple[SampleSet, dict[str, SampleSet]]:
        tokenizer = getattr(self.target, "tokenizer", None) or grammar_tokenizer()
        missing = [word for word in WORDS if word not in tokenizer.get_vocab()]
        if missing:
            raise UserError(
                "expected a target whose tokenizer knows the grammar's words, got one without "
                f"{missing[0]!r}: decompose "
                "a GrammarTransformer, or choose another data class"
            )
        length = self.context_length
        train = stories(derive_seed(seed, "grammar"), self.n_sequences, length)
        told = {each.text for each in train}
        heldout = stories(derive_seed(seed, "grammar", "heldout"), self.n_heldout_sequences, length, told)
        train_set = GrammarWindows("train", 0, train, tokenizer, length, self.n_sequences)
        heldout_set = GrammarWindows("heldout", len(train_set), heldout, tokenizer, length, self.n_heldout_sequences)
        return train_set, {"heldout": heldout_set}

    def identity(self) -> dict[str, Any]:
        fields = ("context_length", "n_sequences", "n_heldout_sequences")
        return {field: getattr(self, field) for field in fields}


def stories(seed: int, windows: int, context_length: int, excluded: set[str] | None = None) -> list[Story]:
    """As many stories as give so many windows, no two the same.

    Args:
        seed: the only source of chance.
        windows: how many are wanted.
        context_length: words a window.
        excluded: texts to pass over.
    """
    seen, told, count, number = set(excluded or ()), [], 0, 0
    while count < windows:
        each = story(derive_seed(seed, number), STORY_WINDOWS * context_length)
        number += 1
        if each.text not in seen:
            seen.add(each.text)
            told.append(each)
            count += len(each.words) // context_length
    return told


def grammar_tokenizer() -> Any:
    """A transformers tokenizer with one token for each word of the grammar."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([END_OF_TEXT, UNKNOWN, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT, unk_token=UNKNOWN
    )
