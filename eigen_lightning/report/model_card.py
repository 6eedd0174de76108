"""The model card of a shared decomposition: what was decomposed, its scorecard beside the controls, how to load it."""

from collections.abc import Mapping
from typing import Any

from eigen_lightning.report.text import number
from eigen_lightning.run.shared_folder import public_name

CONTROLS = ("learned", "random", "random_network", "pca", "oracle")


def model_card(manifest: Mapping[str, Any], scorecard: Mapping[str, Any], name: str) -> str:
    """The card in Markdown, with the metadata block of ``huggingface_hub``.

    Args:
        manifest: of the run.
        scorecard: of the run; empty where it was not judged.
        name: what to load it by: a Hub name or a folder.
    """
    from huggingface_hub import ModelCardData

    target = manifest["target"]
    network = public_name(str(target.get("name") or target["class"]))
    data = ModelCardData(
        library_name="eigen-lightning",
        tags=["interpretability", "parameter-decomposition"],
        base_model=target["name"] if _on_hub(str(target.get("name", ""))) else None,
    )
    parameters = ", ".join(f"`{each}`" for each in manifest["parameters"])
    return "\n".join(
        [
            f"---\n{data.to_yaml()}\n---",
            f"# {manifest['n_directions']} directions in the parameters of {network}",
            "",
            f"Each row of `U` in `model.safetensors` is a unit vector over {manifest['n_parameters']:,} parameters "
            f"({parameters}), flattened row-major in this order. Moving the weights along it changes the outputs "
            f"({manifest['curvature']['divergence']}) on few samples only.",
            "",
            "```python",
            "import eigen_lightning as el",
            "",
            f'run = el.load("{name}")',
            "```",
            "",
            "Loading checks that the target is the one that was decomposed (SHA-256 "
            f"`{manifest['target_fingerprint'][:16]}...`).",
            "",
            "## Scorecard",
            "",
            *_table(scorecard),
            "",
            "`random` are random unit directions and `pca` the leading eigenvectors of the mean Hessian, judged on the "
            "same samples; `random_network` is a decomposition of the network with random weights.",
            "",
        ]
    )


def _table(scorecard: Mapping[str, Any]) -> list[str]:
    columns = [column for column in CONTROLS if column in scorecard]
    if not columns:
        return ["This run was not judged: it has no scorecard."]
    rows = dict.fromkeys(name for column in columns for name in scorecard[column])
    return [
        f"| | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
        *(f"| {row} | {' | '.join(_cell(scorecard[column].get(row)) for column in columns)} |" for row in rows),
    ]


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, int | float) else ""


def _on_hub(name: str) -> bool:
    return "/" in name and public_name(name) == name
