"""The systems with a known answer, what counts as finding it, and what others published for the same system."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eigen_lightning.report.benchmark import REPORTED

CONTROLS = ("pca", "random", "random_network")


@dataclass(frozen=True)
class System:
    """A network of known structure, as shipped configurations describe it.

    Attributes:
        name: what it is called on the command line.
        title: what the table calls it.
        configs: names of shipped configurations, later ones overlay earlier.
        overrides: further arguments of fit.
        network_of: a system earlier in the table with the same networks, which are then trained once.
        figure: the figure of the scorecard that the table shows.
        at_least: figures that the learned directions must reach; ``matched`` as a share of the features.
        above_controls: figures in which they must be above each of ``controls``.
        controls: PCA, random directions and the random network, or fewer.
        bar: that in words, and on how many of 20 seeds it is asked for.
        published: what others reached on the same kind of system, with the source.
        remark: how it fails, or what makes it hard.
    """

    name: str
    title: str
    configs: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    network_of: str = ""
    figure: str = "mcc"
    at_least: Mapping[str, float] = field(default_factory=dict)
    above_controls: tuple[str, ...] = ()
    controls: tuple[str, ...] = CONTROLS
    bar: str = ""
    published: str = ""
    remark: str = ""

    def met(self, row: Mapping[str, Any]) -> bool:
        """Whether a finished run of a study reaches the bar."""
        learned = dict(row["learned"])
        if "matched" in learned:
            learned["matched"] /= row["features"]
        enough = all(learned[name] >= least for name, least in self.at_least.items())
        controls = [row[name] for name in self.controls if name in row]
        return enough and all(learned[name] > control[name] for name in self.above_controls for control in controls)


ALL = {"matched": 1.0}
SPD_MMCS = "SPD (arXiv 2506.20790): mean max cosine similarity 1.000"

SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        System("xor", "XOR, two GELU nodes", ("xor",), at_least=ALL | {"mcc": 0.99}, bar="all 3, mcc 0.99 on 20"),
        System(
            "tms_5_2", "TMS 5-2", ("tms",), at_least=ALL | {"mcc": 0.985}, bar="all 5, mcc 0.985 on 20",
        ),
        System(
            "tms_40_10", "TMS 40-10", ("tms", "tms_40_10"), at_least=ALL | {"mcc": 0.99}, bar="all 40, mcc 0.99 on 20",
        ),
        System(
            "identity_5_2", "TMS 5-2 with a hidden identity layer", ("circuits", "circuits_identity"),
            at_least=ALL | {"mcc": 0.99}, bar="all 5, mcc 0.99 on 20", published=SPD_MMCS,
        ),
        System(
            "identity_40_10", "TMS 40-10 with a hidden identity layer", ("circuits", "circuits_identity"),
            ("--model.target.features=40", "--model.target.hidden=10", "--model.n_directions=40"),
            at_least=ALL | {"mcc": 0.99}, bar="all 40, mcc 0.99 on 20", published=SPD_MMCS,
        ),
        System(
            "tmcs_linear", "X -> A X, 10-5-10, linear", ("circuits",), at_least=ALL, bar="all 10 on 19",
            published="L3D: coefficients r2 0.92, reconstruction error 6.4 %",
            remark="Sparse inputs alone separate the columns of W1: a random network's directions match its own truth "
            "nearly as well, so that recovery here says little of training.",
        ),
        System(
            "tmcs_relu", "X -> A X, 10-5-10, ReLU", ("circuits", "circuits_relu"), at_least=ALL, bar="all 10 on 19",
            remark="As the linear one.",
        ),
        System(
            "groups_5", "Groups of 5 inputs, K = 5", ("circuits", "circuits_groups"), ("--model.n_directions=5",),
            at_least=ALL, bar="all 5 on 19",
        ),
        System(
            "groups_25", "Groups of 5 inputs, K = 25", ("circuits", "circuits_groups", "circuits_subspaces"),
            network_of="groups_5",
            at_least={"mcc": 0.9487, "selectivity": 0.95}, bar="cos2 0.9 (mcc 0.949), purity 0.95 on 19",
            remark="One leader a sample cannot span a subspace of five: orthonormal rows are asked for by name.",
        ),
        System(
            "square", "X -> X^2, four layers, K = 20", ("circuits", "circuits_square"), at_least={"matched": 0.9},
            bar="9 of 10 on 18",
            remark="All features share a common direction, the bias of the last layers (see |cos|): each direction "
            "responds to every input (selectivity stays near 0.3, the truth's own too).",
        ),
        System(
            "residual", "Residual MLP, random embedding, K = 40", ("circuits", "circuits_residual"),
            at_least={"matched": 0.85}, bar="17 of 20 features on 16",
            remark="A feature's leading direction holds a tenth to a fifth of its curvature: there is no single true "
            "direction, the one compared with is the largest.",
        ),
        System(
            "residual_orthogonal", "Residual MLP, orthogonal embedding, K = 40", ("circuits", "circuits_residual"),
            ("--model.target.embedding=orthogonal",), at_least={"matched": 0.85}, bar="none: how it fails",
            remark="No truth to find: a feature's second eigenvalue is 0.99 of its first (0.7 to 0.9 with a random "
            "embedding), so that the true direction compared with is one of many; learned directions reach five times "
            "its coverage.",
        ),
        System(
            "modular", "Addition mod 53 past grokking, W_in, K = 16", ("circuits", "circuits_modular"),
            figure="frequency_share", above_controls=("frequency_share",), controls=("random", "random_network"),
            bar="above random and random network on 19",
            remark="No claim against PCA: features are frequencies, dense over all pairs, and PCA finds them as well.",
        ),
        System(
            "induction", "Induction, attention of two layers, K = 16", ("circuits", "circuits_induction"),
            figure="leading_head", bar=REPORTED,
            remark="Roles spread over heads: with two a layer no direction need lie in one.",
        ),
        System(
            "grammar_16", "Small grammar, W_in of one layer, K = 16", ("grammar",), ("--model.n_directions=16",),
            figure="context_states", above_controls=("context_states",),
            bar="more context states than each control on 18",
        ),
        System(
            "grammar_48", "Small grammar, W_in of one layer, K = 48", ("grammar",), network_of="grammar_16",
            figure="context_states",
            above_controls=("context_states",), bar="more context states than each control on 18",
        ),
    )
}  # fmt: skip
"""By name, in the order of the table."""
