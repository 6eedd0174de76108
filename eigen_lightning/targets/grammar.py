"""A small transformer trained on the small grammar: a language model whose regularities are known, trained here."""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.run.seeding import derive_seed
from eigen_lightning.run.waiting import Waiting
from eigen_lightning.targets import pretrained
from eigen_lightning.targets.toys.training import one_thread
from eigen_lightning.targets.transformer import Transformer

BATCH = 64
TRAINING_WINDOWS = 12000
VALIDATION_WINDOWS = 500
LEARNING_RATE = 3e-3
WARM_UP = 50
HEADS = 4
LARGEST_GAP = 0.08
"""Nats a token above what the grammar itself costs at which a trained network is still taken."""


class GrammarTransformer(Transformer):
    """A GPT-Neo of a few layers, trained on the small grammar when a run is prepared and kept in its folder.

    A Hugging Face model like any other: ``target_model`` in the run folder is what ``transformers`` loads.
    """

    def __init__(
        self,
        layers: int = 1,
        d_model: int = 64,
        context_length: int = 32,
        steps: int = 1500,
        parameters: Sequence[str] = ("blocks.0.mlp.W_in",),
    ) -> None:
        """
        Args:
            layers: transformer blocks.
            d_model: dimensions of the residual stream, a multiple of 4; the MLP is four times as wide.
            context_length: tokens that the network is trained on at a time.
            steps: steps of AdamW.
            parameters: names or globs in TransformerLens's terms.

        Raises:
            UserError: where a number is out of range.
        """
        for field, value in (("layers", layers), ("context_length", context_length), ("steps", steps)):
            if value < 1:
                raise UserError(f"expected {field} of at least 1, got {value}; leave it out for the default")
        if d_model < HEADS or d_model % HEADS:
            raise UserError(f"expected a d_model that {HEADS} heads divide, got {d_model}; use 64, say")
        super().__init__("", parameters)
        self.layers = layers
        self.d_model = d_model
        self.trained_length = context_length
        self.steps = steps

    def prepare(self, run: RunFolder, seed: int) -> None:
        """Train the network, unless the run folder holds it already.

        Raises:
            UserError: where it stayed too far from the grammar.
        """
        if not run.target.exists():
            with one_thread():
                run.write_target(*self._train(seed))

    def load(self, run: RunFolder) -> None:
        """Take the network from the run folder.

        Raises:
            UserError: where there is none, or it has another shape.
        """
        if not run.target.exists():
            raise UserError(f"expected the trained network in {run.target}, found none; prepare the run first")
        weights, _ = run.read_target()
        self._write_model(run.target_model, weights, run.target)
        self.name = str(run.target_model)
        # The bridge asks for a tokenizer that was loaded from somewhere.
        self.tokenizer = pretrained.tokenizer_of(self.name)
        super().load(run)

    def facts(self, run: RunFolder) -> dict[str, Any]:
        """What is known of the training, in addition."""
        return {**super().facts(run), "name": type(self).__name__, **run.read_target()[1]}

    @cached_property
    def tokenizer(self) -> Any:
        """One token a word; needs no run folder."""
        from eigen_lightning.data.grammar import grammar_tokenizer

        return grammar_tokenizer()

    @cached_property
    def _config(self) -> Any:
        from transformers import GPTNeoConfig

        return GPTNeoConfig(
            vocab_size=len(self.tokenizer),
            hidden_size=self.d_model,
            num_layers=self.layers,
            num_heads=HEADS,
            intermediate_size=4 * self.d_model,
            max_position_embeddings=self.trained_length,
            attention_types=[[["global"], self.layers]],
            resid_dropout=0.0,
            embed_dropout=0.0,
            attention_dropout=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )

    def _empty_model(self) -> nn.Module:
        from transformers import GPTNeoForCausalLM

        return GPTNeoForCausalLM(self._config)

    def _write_model(self, folder: Path, weights: dict[str, Tensor], stored: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            model = self._empty_model()
        expected = {name: list(tensor.shape) for name, tensor in model.named_parameters()}
        if expected != {name: list(tensor.shape) for name, tensor in weights.items()}:
            raise UserError(
                f"expected a network of {self.layers} layers of {self.d_model} dimensions for {self.trained_length} "
                f"tokens, but {stored} holds another; choose another run folder, or start this one over"
            )
        model.load_state_dict(weights, strict=False)
        with pretrained.late_progress_bars():
            model.save_pretrained(folder)  # type: ignore[operator]
        self.tokenizer.save_pretrained(folder)

    def _train(self, seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        windows, nats, known = _text(derive_seed(seed, "training"), TRAINING_WINDOWS, self.trained_length)
        generator = torch.Generator().manual_seed(derive_seed(seed, "batches"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "weights"))
            model = self._empty_model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
        with Waiting("Training the grammar's transformer", self.steps) as waiting:
            for step in range(self.steps):
                rate = min((step + 1) / WARM_UP, (1 + math.cos(math.pi * step / self.steps)) / 2)
                for group in optimizer.param_groups:
                    group["lr"] = LEARNING_RATE * rate
                batch = windows[torch.randint(len(windows), (BATCH,), generator=generator)]
                optimizer.zero_grad()
                _losses(model, batch).mean().backward()
                optimizer.step()
                waiting.reach(step + 1)
        windows, nats, known = _text(derive_seed(seed, "validation"), VALIDATION_WINDOWS, self.trained_length)
        with torch.no_grad():
            # Where the words that decide lie before the window, the grammar's own cost cannot be reached.
            loss = _losses(model.eval(), windows)[known[:, :-1]].mean()
        floor = nats[:, 1:][known[:, :-1]].mean()
        if loss - floor > LARGEST_GAP:
            raise UserError(
                f"expected a network within {LARGEST_GAP} nats a token of the grammar's own {floor:.3f}, got "
                f"{loss:.3f}; raise steps ({self.steps}), or take another seed"
            )
        facts = {"seed": seed, "steps": self.steps, "loss": float(loss), "grammar": float(floor)}
        return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}, facts


def _losses(model: nn.Module, windows: Int[Tensor, "batch length"]) -> Float[Tensor, "batch next"]:
    """The cost of every token but the first, in nats."""
    logits = model(input_ids=windows, attention_mask=torch.ones_like(windows), use_cache=False).logits
    return cross_entropy(logits[:, :-1].transpose(1, 2), windows[:, 1:], reduction="none")


def _text(seed: int, count: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Windows of token ids, what each token costs whoever knows the grammar, and which states the window decides."""
    from eigen_lightning.data.grammar import GrammarWindows, grammar_tokenizer, stories

    told = stories(seed, count, length)
    windows = GrammarWindows("training", 0, told, grammar_tokenizer(), length, count)
    nats = [
        story.nats[first : first + length]
        for story in told
        for first in range(0, len(story.words) - length + 1, length)
    ]
    return windows.windows.long(), torch.tensor(nats)[:count], windows.states >= 0
