"""What the Trainer's precision changes: nothing, as all that is computed here needs float32."""

import pytest

from tests.kinds import Kinds
from tests.processes import CommandProcess
from tests.resume import runs


@pytest.mark.parametrize("kind", ["tms", pytest.param("file", marks=pytest.mark.slow)])
def test_bf16_mixed_stays_in_float32_and_says_so(kinds: Kinds, kind: str) -> None:
    folder = kinds.fresh(f"bf16-{kind}", kind)
    args = runs.arguments(kinds.config(kind), folder, "--trainer.precision", "bf16-mixed")
    process = CommandProcess(args, folder.with_suffix(".log"))
    process.succeed()
    assert "stay in float32" in " ".join(process.log.read_text().split())
    assert not runs.differences(runs.outcome(kinds.finished(kind)), runs.outcome(folder))
