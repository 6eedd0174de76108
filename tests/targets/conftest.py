"""Tiny randomly initialised language models of several architectures, saved as Hugging Face folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

VOCABULARY = 61
ARCHITECTURES = ("gpt2", "gpt_neo", "gpt_neox", "llama")


def tiny_config(model_type: str, **settings: Any) -> Any:
    """Two layers, four heads, width 16; dropout on where the architecture has it, so that training mode would show."""
    from transformers import AutoConfig

    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "max_position_embeddings": 32,
    }
    own: dict[str, dict[str, Any]] = {
        "gpt2": {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32},
        "gpt_neo": {
            **{key: common[key] for key in ("vocab_size", "hidden_size", "max_position_embeddings")},
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "resid_dropout": 0.1,
        },
        "gpt_neox": {
            **{key: value for key, value in common.items() if key not in ("num_key_value_heads", "head_dim")},
            "hidden_dropout": 0.1,
        },
        "bloom": {"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 2, "n_head": 4},
    }
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return AutoConfig.for_model(model_type, **{**own.get(model_type, common), **ids, **settings})


def save_tiny_model(folder: Path, model_type: str, **settings: Any) -> Path:
    """Save such a model with a tokenizer; no parameter is zero or one, so that none hides behind another."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w0").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model by its type; made once."""
    made: dict[str, Path] = {}

    def folder(model_type: str) -> Path:
        if model_type not in made:
            made[model_type] = save_tiny_model(tmp_path_factory.mktemp(model_type), model_type)
        return made[model_type]

    return folder


@pytest.fixture
def tokens() -> torch.Tensor:
    """Three windows of seven tokens, longer than the local attention's window."""
    return torch.randint(VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(1))
