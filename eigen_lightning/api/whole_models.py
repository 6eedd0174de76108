"""What a run offers beyond its own folder: sharing it, edited models, circuits, vocabulary."""

import json
import math
import tempfile
from pathlib import Path
from typing import Any

from eigen_lightning.analysis.circuit import Circuit, circuit
from eigen_lightning.analysis.vocabulary import Reading, vocabulary_of
from eigen_lightning.api.asked_run import AskedRun
from eigen_lightning.api.edit import Edit
from eigen_lightning.api.stored_run import Scores
from eigen_lightning.directions.dense import random_rows
from eigen_lightning.report.model_card import model_card
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import write_atomically
from eigen_lightning.run.shared_folder import write_shared


class WholeModels(AskedRun):
    """A run that is shared, edited, and read through vocabulary and circuits."""

    def judge(self, data: Any, **settings: int) -> Scores:
        """The scorecard on samples of one's own, another text say, beside random, principal and true directions.

        Args:
            data: as of :func:`eigen_lightning.fit`; its held-out part is what directions are judged on, its training
                part what the principal directions are learned on.
            settings: of :class:`eigen_lightning.analysis.judging.JudgeSettings`, such as ``random_draws=8``.

        Raises:
            UserError: where the target cannot take the samples.
        """
        # Not above: samples are Lightning's data modules, which asking a run does without.
        from eigen_lightning.analysis.judging import JudgeSettings
        from eigen_lightning.api.judge import judge

        return Scores(judge(self, data, JudgeSettings(**settings)).to_json())

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the decomposition as a Hugging Face repository has it: config.json, model.safetensors, README.md.

        ``eigen_lightning.load(folder)`` reads it again, without Lightning and without the training data. A toy's
        trained weights are included; a language model is loaded by its name, a module of your own is given to
        ``load``.

        Args:
            folder: files of the same names are replaced.

        Raises:
            UserError: where it is the run folder itself.
        """
        return self._shared(Path(folder), str(folder))

    def push_to_hub(self, name: str, private: bool | None = None, token: str | None = None) -> str:
        """Upload what :meth:`save_pretrained` writes to the Hugging Face Hub.

        Args:
            name: ``owner/repository``; made where there is none.
            private: whether a new repository is; None takes the owner's default.
            token: of the account; None takes that of ``hf auth login``.

        Returns:
            The address of the commit.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            path = self._shared(Path(folder), name)
            repository = api.create_repo(name, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repository.repo_id, folder_path=path).commit_url)

    def edit(self, k: int, delta: float) -> Edit:
        """A step along direction k, as a model to save and with what it does; the target keeps its weights.

        Args:
            k: which direction.
            delta: the step, in the norm of the flat weights, not 0.

        Raises:
            UserError: for a direction there is not, or a step that is none.
        """
        if not (math.isfinite(delta) and delta):
            raise UserError(f"expected a step other than 0, got {delta}")
        return Edit(self, self._index(k), float(delta))

    def graph(self, inputs: Any, per_token: int = 4, random: int = 16, seed: int = 0) -> Circuit:
        """The directions active at each token, joined where they move the same output.

        Args:
            inputs: a text, or inputs as of :meth:`d2D`, whose samples then stand for tokens.
            per_token: how many directions of largest d2D count as active at a token.
            random: how many random directions the correlations are compared with.
            seed: of the random directions.

        Returns:
            ``save("circuit.json")``, ``.graphml`` and ``.svg`` write it down; notebooks draw it.

        Raises:
            UserError: where too many directions are active to hold every pair of them.
        """
        given = self._inputs(inputs)
        U = self.U.to(given.device)
        control = random_rows(random, U.shape[1], seed, "circuit control").to(U)
        batch = self.linearizer(given)(given)
        names = self.tokens(inputs) if isinstance(inputs, str) else map(str, range(batch.n_samples))
        return circuit(batch, U, control, tuple(names), per_token)

    def vocabulary(self, k: int, matrices: int = 3, tokens: int = 8) -> list[Reading]:
        """Direction k read through the model's own embedding and unembedding, a random vector as control.

        Args:
            k: which direction.
            matrices: how many of its matrices, those of largest norm first.
            tokens: how many tokens of each.

        Raises:
            UserError: where the target is no language model.
        """
        from eigen_lightning.targets.transformer import Transformer
        from eigen_lightning.targets.vocabulary import VocabularyReader

        target, k = self.target, self._index(k)
        if not isinstance(target, Transformer):
            raise UserError(f"expected a language model, got {type(target).__name__}, which has no vocabulary")
        parts = self.by_parameter(k)
        decode = target.tokenizer.decode
        reader = VocabularyReader(target)
        return vocabulary_of(reader, parts, lambda token: decode([token]), target.heads(), matrices, tokens)

    def export_neuronpedia(self, path: str | Path, model_id: str, strength: float = 10.0) -> Path:
        """Write the directions of a language model as Neuronpedia takes vectors, one a line: its side on the residual
        stream, and activations on the top windows.

        A direction is in weights and Neuronpedia's vectors are in activations: the vector is what the matrix with most
        of the direction's norm reads or writes along it, the activations are d2D. Neuronpedia takes vectors at
        ``hook_resid_pre`` alone; those of ``W_in`` belong to ``hook_resid_mid``, which is said in the line.

        Args:
            path: of the file, JSON lines: ``direction``, ``vector`` (the body of ``vector/new``) and ``activations``
                (those of ``activation/upload-batch``).
            model_id: what Neuronpedia calls the model, such as ``gpt2-small``.
            strength: the default strength of steering.

        Raises:
            UserError: where the target is no language model, or the run made no cards.
        """
        from eigen_lightning.api.neuronpedia import neuronpedia_lines

        of_rules = self.scorecard["labels"] if self.folder.scorecard.exists() else []
        labels = {label["direction"]: label["text"] for label in of_rules} | self.labels
        lines = neuronpedia_lines(self, model_id, strength, labels)
        write_atomically(Path(path), "".join(json.dumps(line) + "\n" for line in lines).encode())
        return Path(path)

    def _shared(self, folder: Path, name: str) -> Path:
        scorecard: dict[str, Any] = dict(self.scorecard) if self.folder.scorecard.exists() else {}
        return write_shared(self.folder, self.manifest, model_card(self.manifest, scorecard, name), folder).path
