"""Language models through TransformerLens: logits of every (sequence, position) pair."""

import copy
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from eigen_lightning.curvature.readout import Readout
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets import bridge_parameters, pretrained
from eigen_lightning.targets.readout import readout_of, why_no_readout
from eigen_lightning.targets.target import Target

logger = logging.getLogger(__name__)


STATIC_GRAPHS = ("gemma2", "gpt2", "gpt_neo", "gpt_neox", "llama", "mistral", "opt", "phi", "qwen2", "qwen3")
"""Model types whose computation depends on no values (tests/targets/test_transformer.py): not those with experts."""

DEVIATION = 0.02
"""Of initial matrices, where a configuration names none; GPT-2's."""


class Transformer(Target):
    """A causal language model, loaded with transformer_lens's ``TransformerBridge``; nothing is folded or centered.

    Parameters carry their TransformerLens names (``blocks.4.attn.W_K``), but are the model's own: a direction's flat
    vector is row-major over the layout in which the model stores the parameter (a linear layer's weight is
    ``[out, in]``; W_K is ``[key_heads * d_head, d_model]``), not over TransformerLens's per-head view of it. Where
    query, key and value are fused in the model (GPT-2, GPT-NeoX), the bridge's three separate weights are the
    parameters.

    Attributes:
        name: Hub name or local path.
        readout_reason: why :attr:`readout` is None; None where it is there. Known after :meth:`load`.
    """

    default_divergence = "kl"
    # Models of a library, compared with transformers' own and with finite differences in tests.
    check = False
    readout_reason: str | None

    def __init__(
        self,
        name: str = "roneneldan/TinyStories-1M",
        parameters: Sequence[str] = ("blocks.4.attn.W_K",),
        dtype: Literal["float32", "float64", "bfloat16"] = "float32",
    ) -> None:
        """Say which model; it is loaded by :meth:`load`.

        Args:
            name: a Hub name, or the path of a folder written by ``save_pretrained``, tokenizer included.
            parameters: names or globs in TransformerLens's terms.
            dtype: what the weights are cast to. float64 is a reference: slow, and truly float64 throughout.
        """
        super().__init__(parameters)
        self.name = name
        self.dtype: torch.dtype = getattr(torch, dtype)

    def network_with_weights(self, run: RunFolder) -> nn.Module:
        """Boot the bridge.

        Raises:
            UserError: where ``name`` is no causal language model, has no tokenizer, or cannot be reached.
        """
        model_type = self._config.model_type
        # The bridge sets padding up on its tokenizer; the one for the data stays as it was published.
        bridge = pretrained.bridge_of(self.name, self.dtype, copy.deepcopy(self.tokenizer))
        logger.info("%s: eager attention, since fused attention has no forward-mode derivative", model_type)
        return bridge

    def load(self, run: RunFolder) -> None:
        """Load the model, freeze it, choose its parameters and find its readout.

        Raises:
            UserError: where ``name`` is no model, a pattern in ``parameters`` matches nothing.
        """
        super().load(run)
        places = bridge_parameters.slots(self._model)
        self._places = {name: places[self._network_names[name]] for name in self.space.names}
        self._body = _Body(self._model)
        self.readout_reason = why_no_readout(self._model, self.weights.values())

    def parameter_names(self) -> dict[str, str]:
        """TransformerLens names, and the paths in ``network.named_parameters()``; see ``bridge_parameters``."""
        return bridge_parameters.parameter_names(self.network)

    def outputs(
        self, weights: Mapping[str, Tensor], inputs: Int[Tensor, "batch position"]
    ) -> Float[Tensor, "batch position vocab"]:
        """The logits with the chosen parameters set to ``weights``; pure. Tied parameters move together."""
        by_place = {place: tensor for name, tensor in weights.items() for place in self._places[name]}
        with self._precision():
            return functional_call(self._model, by_place, (), _arguments(inputs), tie_weights=False).logits

    def hidden(
        self, weights: Mapping[str, Tensor], inputs: Int[Tensor, "batch position"]
    ) -> Float[Tensor, "batch position d_model"]:
        """The last hidden state, which :attr:`readout` maps to the logits; pure. The unembedding is not computed."""
        by_place = {f"model.{place}": tensor for name, tensor in weights.items() for place in self._places[name]}
        with self._precision():
            return functional_call(self._body, by_place, (inputs,), tie_weights=False)

    @property
    def static_graph(self) -> bool:  # type: ignore[override]
        """Whether this model type is known to compute the same for all values."""
        return self._config.model_type in STATIC_GRAPHS

    @property
    def readout(self) -> Readout | None:
        """The linear map from :meth:`hidden` to :meth:`outputs`, where none of the chosen parameters lies in it.

        None where there is no such map; :attr:`readout_reason` then says why.
        """
        return readout_of(self._model) if self.readout_reason is None else None

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer; needs no weights.

        Raises:
            UserError: where ``name`` has none.
        """
        pretrained.check_name(self.name)
        return pretrained.tokenizer_of(self.name)

    @property
    def vocabulary(self) -> int:
        """How many token ids the model takes; may exceed the tokenizer's. Needs no weights."""
        return self._config.vocab_size

    @property
    def context_limit(self) -> int | None:
        """The longest window the model was made for, in tokens; None where its configuration sets none.

        A rotary model would run beyond, on positions it was never trained for.
        """
        return getattr(self._config, "max_position_embeddings", None)

    def check_inputs(self, inputs: Int[Tensor, "batch position"]) -> None:
        """Refuse tokens the model does not have and windows longer than its context.

        Raises:
            UserError: naming the token id and the vocabulary's size, or the window's length and the model's context.
        """
        if inputs.dtype.is_floating_point or inputs.ndim != 2:
            raise UserError(f"expected token ids of shape [batch, position], got {inputs.dtype} {list(inputs.shape)}")
        if self.context_limit is not None and inputs.shape[1] > self.context_limit:
            raise UserError(
                f"expected windows of at most {self.context_limit} tokens, the context of {self.name}, got "
                f"{inputs.shape[1]}; lower context_length"
            )
        outside = inputs[(inputs < 0) | (inputs >= self.vocabulary)]
        if outside.numel():
            raise UserError(
                f"expected token ids from 0 to {self.vocabulary - 1}, the vocabulary of {self.name}, got "
                f"{int(outside[0])}; tokenize with the model's own tokenizer"
            )

    def randomized(self, seed: int) -> "Transformer":
        """A copy as it was before training: matrices normal with the configuration's ``initializer_range``.

        Not at the scale of the trained matrices: random ones of that scale saturate every attention pattern, and no
        query or key direction has any curvature left.
        """
        copied = copy.deepcopy(self)
        generator = torch.Generator().manual_seed(seed)
        deviation = getattr(self._config, "initializer_range", None) or DEVIATION
        for name, parameter in copied.network.named_parameters():
            if parameter.ndim > 1:
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.data.copy_(drawn * deviation)
            else:
                parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
        return copied

    def heads(self) -> dict[str, tuple[int, int]]:
        """Heads of the chosen query, key and value weights (in rows) and output weights (in columns)."""
        config = self._config
        heads = getattr(config, "num_attention_heads", None) or getattr(config, "num_heads", None)
        if heads is None:
            return {}
        key_heads = getattr(config, "num_key_value_heads", None) or heads
        by_leaf = {"W_Q": (heads, 0), "W_K": (key_heads, 0), "W_V": (key_heads, 0), "W_O": (heads, 1)}
        leaves = {name: name.rpartition(".")[2] for name in self.space.names if ".attn." in name}
        return {name: by_leaf[leaf] for name, leaf in leaves.items() if leaf in by_leaf}

    def config(self) -> dict[str, Any]:
        """What makes this target the one it is, wherever the folder lies and whichever library version reads it."""
        stored = json.dumps(pretrained.stored_config_of(self.name), sort_keys=True)
        return {**super().config(), "model": hashlib.sha256(stored.encode()).hexdigest()}

    def facts(self, run: RunFolder) -> dict[str, Any]:
        """Where the weights come from, and whether the logits are pulled back through a readout."""
        return {
            "name": self.name,
            "model_type": self._config.model_type,
            "readout": "linear" if self.readout_reason is None else f"none: {self.readout_reason}",
        }

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Transformer":
        """Move the network; returns the target itself."""
        # By default the bridge prints where it goes.
        cast(Any, self.network).to(device=device, dtype=dtype, print_details=False)
        self.dtype = dtype or self.dtype
        return self

    @property
    def _model(self) -> Any:
        return self.network.original_model

    @cached_property
    def _config(self) -> Any:
        pretrained.check_name(self.name)
        return pretrained.config_of(self.name).get_text_config()

    def _precision(self) -> AbstractContextManager[Any]:
        return _KeepFloat64() if self.dtype == torch.float64 else nullcontext()


class _Body(nn.Module):
    """A language model up to its last hidden state, under parameter paths that begin with ``model.``."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model.base_model(**_arguments(inputs)).last_hidden_state


def _arguments(inputs: Tensor) -> dict[str, Any]:
    # Without a mask transformers looks for packed sequences by the values of the positions, which cannot be traced.
    return {"input_ids": inputs, "attention_mask": torch.ones_like(inputs), "use_cache": False}


class _KeepFloat64(TorchFunctionMode):
    """Undo the casts to float32 that models make to guard half precision, and that would round float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is Tensor.float:
                return args[0]
            args = tuple(torch.float64 if value is torch.float32 else value for value in args)
            kwargs = {key: torch.float64 if value is torch.float32 else value for key, value in kwargs.items()}
        return func(*args, **kwargs)
