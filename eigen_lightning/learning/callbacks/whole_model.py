"""What only a language model has: directions read through its vocabulary, and joined over a text."""

from collections import Counter
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from eigen_lightning.analysis.circuit import circuit
from eigen_lightning.analysis.vocabulary import to_json, vocabulary_of
from eigen_lightning.directions.dense import random_rows
from eigen_lightning.learning.callbacks.evaluation import run_folder_of
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.run.seeding import run_seed
from eigen_lightning.run.waiting import Waiting
from eigen_lightning.targets import Transformer

MOST_READ = 256
"""Directions read through the vocabulary when training ends; ``run.vocabulary(k)`` reads any."""

TOKENS, PER_TOKEN = 20, 3
"""Of the text over which directions are joined; together no more than a circuit holds."""

RANDOM = 16


class WholeModel(Callback):
    """Writes ``vocabulary.jsonl`` and ``circuit.json`` when training of a language model's directions ends."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run = run_folder_of(trainer)
        if not trainer.is_global_zero or not isinstance(pl_module.target, Transformer):
            return
        _write_vocabulary(run, pl_module)
        if run.top_examples.exists():
            _write_circuit(run, pl_module, trainer.datamodule.evaluation_sets["heldout"])  # type: ignore[attr-defined]


def _write_vocabulary(run: RunFolder, module: Any) -> None:
    from eigen_lightning.targets.vocabulary import VocabularyReader

    target, directions = module.target, module.directions
    reader, decode = VocabularyReader(target), target.tokenizer.decode
    controls: dict[tuple[str, str, int], float] = {}
    lines = []
    with Waiting("Reading directions through the vocabulary", min(len(directions), MOST_READ)) as waiting:
        for k in range(min(len(directions), MOST_READ)):
            parts = target.space.unflatten(directions[k])
            found = vocabulary_of(reader, parts, lambda t: decode([t]), target.heads(), controls=controls)
            lines.append({"direction": k, "readings": to_json(found)})
            waiting.reach(k + 1)
    if any(line["readings"] for line in lines):
        run.write_lines(run.vocabulary, lines)


def _write_circuit(run: RunFolder, module: Any, samples: Any) -> None:
    """Over the window that holds the first top example of most directions."""
    leading = Counter(line["examples"][0]["sample_id"] for line in run.read_top_examples() if line["examples"])
    if not leading or not hasattr(samples, "tokens"):
        return
    [(identity, _)] = leading.most_common(1)
    batch = samples.batch(0, torch.tensor([samples.locate(identity)[1]]))
    batch = type(batch)(batch.inputs[:, :TOKENS].to(module.device), batch.sample_id)
    U, space, purpose = module.U.detach(), module.coordinates, "circuit control"
    drawn = space.random(RANDOM, run_seed(), purpose) if space else random_rows(RANDOM, U.shape[1], run_seed(), purpose)
    tokens = samples.tokens(identity)[:TOKENS]
    found = circuit(module.linearize_inputs(batch.inputs), U, drawn.to(U), tokens, PER_TOKEN)
    run.write_json(run.circuit, found.to_json())
