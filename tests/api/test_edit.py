"""An edited model loads in plain transformers and does what was promised."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import kl_div

import eigen_lightning as el
from eigen_lightning.analysis.intervention import Samples, intervene, random_directions
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from tests.api.written_runs import unit_rows, write_run
from tests.targets.conftest import save_tiny_model, tiny_folder, tokens  # noqa: F401 - fixtures


def kl_of_plain_transformers(edited: Path, original: Path, inputs: torch.Tensor) -> torch.Tensor:
    """KL(edited || original) at each position, by transformers and torch alone."""
    from transformers import AutoModelForCausalLM

    logits = []
    for folder in (edited, original):
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        with torch.no_grad():
            logits.append(model(inputs).logits.double().log_softmax(-1))
    return kl_div(logits[1], logits[0], log_target=True, reduction="none").sum(-1)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neo", "gpt_neox", "llama", "gemma2"])
def test_plain_transformers_computes_what_the_edited_target_does(
    architecture: str,
    tiny_folder: Callable[[str], Path],  # noqa: F811
    tokens: torch.Tensor,  # noqa: F811
    tmp_path: Path,
) -> None:
    # All parameters: fused, transposed, tied and normalization weights, embeddings and biases.
    source = tiny_folder(architecture)
    target = el.Transformer(str(source), ["*"])
    target.load(RunFolder(tmp_path))
    write_run(tmp_path / "run", target, unit_rows(2, target))
    run = el.load(tmp_path / "run", model=target)
    before = target.fingerprint()
    edit = run.edit(1, -3.0)
    saved = edit.save_pretrained(tmp_path / "edited")
    expected = edit.divergences(tokens)
    assert expected.min() > 1e-3
    torch.testing.assert_close(kl_of_plain_transformers(saved, source, tokens), expected, rtol=1e-3, atol=1e-5)
    assert target.fingerprint() == before
    assert json.loads((saved / "edit.json").read_text())["promised"] is None
    reloaded = el.Transformer(str(saved), ["blocks.1.attn.W_K"])
    reloaded.load(RunFolder(tmp_path))
    torch.testing.assert_close(
        reloaded.weights["blocks.1.attn.W_K"],
        target.weights["blocks.1.attn.W_K"] - 3 * run.directions["blocks.1.attn.W_K"][1],
    )


def test_the_kl_on_and_off_target_is_that_of_the_saved_model(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "model", "gpt_neox")
    target = el.Transformer(str(source), ["blocks.1.attn.W_V"])
    target.load(RunFolder(tmp_path))
    folder = write_run(tmp_path / "run", target, unit_rows(1, target))
    run = el.load(folder.path, model=target)
    on, off = torch.randint(61, (2, 4, 6), generator=torch.Generator().manual_seed(3))
    last = torch.full((4,), 5)
    measured = intervene(
        target,
        run.divergence,
        run.U[0],
        random_directions(2, target.space.size, 0).float(),
        float(run.d2D(on)[0, :, -1].mean()),
        Samples(on, last),
        Samples(off, last),
    )
    line = {"direction": 0, "deltas": measured.deltas.tolist(), "predicted": measured.predicted.tolist()}
    for name, curve in (("", measured.learned), ("control_", measured.control)):
        line |= {f"{name}top": curve.top.tolist(), f"{name}random": curve.random.tolist()}
    folder.write_json(folder.interventions, {"directions": [line]})
    # A measured step, and one between two of them, where the curve is interpolated.
    for delta, tolerance in ((float(measured.deltas[3]), 1e-3), (1.3 * float(measured.deltas[9]), 0.05)):
        edit = run.edit(0, delta)
        assert edit.promised is not None
        saved = edit.save_pretrained(tmp_path / f"edited{delta}")
        for name, inputs in (("on", on), ("off", off)):
            got = float(kl_of_plain_transformers(saved, source, inputs)[:, -1].mean())
            assert got == pytest.approx(edit.promised[name], rel=tolerance)
        assert json.loads((saved / "edit.json").read_text())["promised"] == edit.promised
    assert run.edit(0, 100 * float(measured.deltas[-1])).promised is None


def test_what_cannot_be_edited_is_refused(tmp_path: Path) -> None:
    target = el.Network(nn.Linear(2, 2))
    target.load(RunFolder(tmp_path))
    write_run(tmp_path / "run", target, unit_rows(1, target), "MSE")
    run = el.load(tmp_path / "run", model=target)
    with pytest.raises(UserError, match="expected a language model"):
        run.edit(0, 1.0).save_pretrained(tmp_path / "edited")
    for k, delta in ((1, 1.0), (0, 0.0), (0, float("nan"))):
        with pytest.raises(UserError, match="expected a"):
            run.edit(k, delta)
