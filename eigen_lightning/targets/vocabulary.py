"""What a language model's own embedding, unembedding and attention say of vectors in its matrices."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eigen_lightning.targets.transformer import Transformer

READS = {"W_Q": "ln1", "W_K": "ln1", "W_V": "ln1", "W_in": "ln2", "W_gate": "ln2"}
"""Matrices that read the residual stream, and the normalization before each."""

WRITES = ("W_O", "W_out")
"""Matrices that write to the residual stream."""


@dataclass(frozen=True)
class VocabularyReader:
    """Scores of every token for vectors on either side of a matrix. Scores are linear in the vector.

    Embeddings are read as the block would read them at its first position, through its own normalization; what earlier
    blocks add to the residual stream, biases, rotary positions and norms of queries and keys are left out.

    Attributes:
        target: loaded.
    """

    target: Transformer

    def oriented(self, name: str, matrix: Float[Tensor, "*k m n"]) -> Float[Tensor, "*k out in"]:
        """A part of a direction as a map from what the layer reads to what it writes, however the model stores it."""
        from transformers.pytorch_utils import Conv1D

        return matrix.mT if isinstance(self._module(name), Conv1D) else matrix

    def read(self, name: str, vector: Float[Tensor, " d_model"]) -> Float[Tensor, " vocab"]:
        """How much each token's residual, on its way into this matrix, points along a vector."""
        return self._residual(name) @ vector.to(self._residual(name))

    def written(self, vector: Float[Tensor, " d_model"]) -> Float[Tensor, " vocab"]:
        """How much each token's logit rises with a vector added to the residual stream, but for the final scale."""
        norm = self._norm("ln_final")
        vector = vector.to(self._unembedding)
        # Normalization without its bias: what it makes of zero.
        moved = vector if norm is None else norm(vector) - norm(torch.zeros_like(vector))
        return self._unembedding @ moved

    def partner(self, name: str, vector: Float[Tensor, " d_head"], head: int) -> Float[Tensor, " vocab"]:
        """Of a query (or key) vector in one head: how much each token's key (or query) there points along it.

        Args:
            name: the W_Q or W_K that the vector is on the writing side of.
            vector: within the head.
            head: of this matrix; with grouped key heads a key's partners are the mean of its query heads.
        """
        block, _, leaf = name.rpartition(".")
        other = f"{block}.{'W_K' if leaf == 'W_Q' else 'W_Q'}"
        weight = self.oriented(other, self._parameter(other))
        blocks = weight.unflatten(0, (-1, len(vector)))
        group = self._n_heads(name) / len(blocks)
        # More heads here than there: several share one partner; fewer: one has several.
        chosen = blocks[int(head / group)] if group >= 1 else blocks.unflatten(0, (-1, int(1 / group)))[head].mean(0)
        return self._residual(other) @ (chosen.T @ vector.to(chosen))

    def _n_heads(self, name: str) -> int:
        return self.target.heads()[name][0]

    def _residual(self, name: str) -> Float[Tensor, "vocab d_model"]:
        block, leaf = name.split(".attn.")[0].split(".mlp.")[0], name.rpartition(".")[2]
        norm = self._norm(f"{block}.{READS[leaf]}")
        return self._embedding if norm is None else norm(self._embedding)

    def _norm(self, component: str) -> nn.Module | None:
        return self._module(f"{component}.w") if f"{component}.w" in self.target._network_names else None

    def _parameter(self, name: str) -> Tensor:
        return self.target.network.get_parameter(self.target._network_names[name])

    def _module(self, name: str) -> nn.Module:
        return self.target.network.get_submodule(self.target._network_names[name].rpartition(".")[0])

    @cached_property
    def _embedding(self) -> Float[Tensor, "vocab d_model"]:
        return _weight(self.target._model.get_input_embeddings())

    @cached_property
    def _unembedding(self) -> Float[Tensor, "vocab d_model"]:
        return _weight(self.target._model.get_output_embeddings())


def _weight(component: Any) -> Tensor:
    return getattr(component, "original_component", component).weight
