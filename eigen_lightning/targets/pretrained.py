"""Pretrained language models from a local folder or the Hugging Face Hub, with errors that a person can mend."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from eigen_lightning.run.errors import UserError

QUIET_SECONDS = 2.0
"""Loading that takes no longer shows no progress bar."""


def check_name(name: str) -> None:
    """Refuse what is clearly no model before any heavy import.

    Raises:
        UserError: where ``name`` is a path that does not exist, a file, or a folder without configuration or weights.
    """
    path = Path(name).expanduser()
    if not path.exists():
        if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
            raise UserError(
                f"expected a model folder or a Hub name such as roneneldan/TinyStories-1M, got {name!r}: no such folder"
            )
        return
    if not path.is_dir():
        raise UserError(f"expected a model folder, got the file {name!r}; give the folder that holds config.json")
    if not (path / "config.json").is_file():
        raise UserError(
            f"expected a model folder, got {name!r}, which has no config.json; save one with `save_pretrained`"
        )
    if not [*path.glob("*.safetensors"), *path.glob("*.bin")]:
        raise UserError(f"expected a model folder, got {name!r}, which has no weights (*.safetensors or *.bin)")


def config_of(name: str) -> Any:
    """The model's Hugging Face configuration, without its weights.

    Raises:
        UserError: where there is none, or of a kind that transformers does not know.
    """
    from transformers import AutoConfig

    with _told_in_one_line(name, "model"):
        return AutoConfig.from_pretrained(_resolved(name), trust_remote_code=False)


def stored_config_of(name: str) -> dict[str, Any]:
    """``config.json`` as it is stored: no library's defaults, no path, no version."""
    from transformers import PretrainedConfig

    with _told_in_one_line(name, "model"):
        stored, _ = PretrainedConfig.get_config_dict(_resolved(name))
    incidental = ("transformers_version", "dtype", "torch_dtype")
    return {key: value for key, value in stored.items() if not key.startswith("_") and key not in incidental}


def tokenizer_of(name: str) -> Any:
    """The model's tokenizer.

    Raises:
        UserError: where there is none.
    """
    from transformers import AutoTokenizer

    with _told_in_one_line(name, "model with a tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(_resolved(name), trust_remote_code=False)
    # Where a folder has none, transformers makes one up that knows nothing but special tokens.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UserError(
            f"expected a model with a tokenizer, got {name!r}, which has none; save it there with `save_pretrained`"
        )
    return tokenizer


def bridge_of(name: str, dtype: torch.dtype, tokenizer: Any) -> Any:
    """The model in a ``TransformerBridge``, raw (unprocessed) weights, eager attention, on the CPU.

    Raises:
        UserError: where it cannot be loaded, is no causal language model, or its files lack weights.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM

    class Checked(AutoModelForCausalLM):
        @classmethod
        def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
            model, info = AutoModelForCausalLM.from_pretrained(*args, output_loading_info=True, **kwargs)
            # transformers would fill the gaps with random numbers and go on.
            missing = sorted(info["missing_keys"])
            if missing:
                raise UserError(
                    f"expected all weights of {name!r}, got files that lack {len(missing)}, such as {missing[0]}; "
                    "check that config.json belongs to these weights"
                )
            return model

    with _told_in_one_line(name, "causal language model that transformer_lens can load"), late_progress_bars():
        bridge = TransformerBridge.boot_transformers(
            _resolved(name), device="cpu", dtype=dtype, tokenizer=tokenizer, model_class=Checked
        )
    # The bridge keeps every attention pattern by default; grouped experts, like fused attention, have no forward mode.
    bridge.original_model.config.output_attentions = False
    bridge.original_model.set_experts_implementation("eager")
    return bridge


def bridge_around(model: Any, name: str, dtype: torch.dtype) -> Any:
    """A bridge around a model that is in memory, as :func:`bridge_of` has one around its published weights.

    Args:
        model: the Hugging Face model; the bridge wraps its parts.
        name: what it was loaded by.
        dtype: of its weights.
    """
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(
        _resolved(name), device="cpu", dtype=dtype, tokenizer=tokenizer_of(name), hf_model=model
    )


def one_line(error: Exception) -> str:
    """A library's error message, cut to its first sentence."""
    return " ".join(str(error).split()).split(". ")[0][:200]


def _resolved(name: str) -> str:
    path = Path(name).expanduser()
    return str(path) if path.exists() else name


@contextmanager
def _told_in_one_line(name: str, expected: str) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"expected a {expected} whose packages are installed, got {name!r} ({one_line(error)}); install what is "
            "named, or, as curvature needs weights in floating point, give the model as it was before quantization"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = one_line(error)
        hint = "" if Path(name).expanduser().exists() else "; where the Hub is out of reach, give a local folder's path"
        raise UserError(f"expected a {expected}, got {name!r} ({reason}){hint}") from error


@contextmanager
def late_progress_bars() -> Iterator[None]:
    """Have transformers show progress bars only of what takes long."""
    from transformers.utils import logging

    def late(make: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return make(*args, **{"delay": QUIET_SECONDS, "leave": False, **kwargs})

    previous = logging.set_tqdm_hook(late)
    try:
        yield
    finally:
        logging.set_tqdm_hook(previous)
