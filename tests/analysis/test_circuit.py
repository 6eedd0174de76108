"""Directions joined by what they do to the same output: against nested differentiation, in files, drawn."""

import json
from pathlib import Path
from xml.etree import ElementTree

import networkx
import pytest
import torch

from eigen_lightning.analysis.circuit import Circuit, circuit
from eigen_lightning.curvature.divergence import KL
from eigen_lightning.run.errors import UserError
from tests.networks import dense_hessian, linearized, transformer_network, unit_rows

INPUTS = torch.tensor([[3, 14, 15, 9, 26]])
NAMES = ("a", "<b>", "\x00&", "d" * 40, "e")


@pytest.fixture
def found() -> Circuit:
    network = transformer_network()
    U = unit_rows(6, network.space.size)
    # Nearly the same direction twice, so that some edge is more than chance.
    U[1] = torch.nn.functional.normalize(U[0] + 0.1 * U[1], dim=0)
    return circuit(linearized(network, KL(), INPUTS), U, unit_rows(8, network.space.size), NAMES, per_token=6)


def test_edges_are_the_normalized_cross_terms_of_nested_differentiation() -> None:
    network = transformer_network()
    U = unit_rows(6, network.space.size)
    H = dense_hessian(network, KL(), INPUTS)[0]
    cross = torch.einsum("kp,tpq,lq->klt", U, H, U)
    d = cross.diagonal(dim1=0, dim2=1).T
    found = circuit(linearized(network, KL(), INPUTS), U, U[:0], NAMES, per_token=6)
    assert found.directions == tuple(range(6))
    torch.testing.assert_close(found.curvature, d, rtol=1e-8, atol=1e-14)
    # At the first token a query has one key: nothing depends on W_K.
    assert not found.active[:, 0].any()
    root = d[:, 1:].sqrt()
    torch.testing.assert_close(
        found.correlation[..., 1:], cross[..., 1:] / (root[:, None] * root), rtol=1e-7, atol=1e-9
    )
    summed = cross.sum(2)
    norm = summed.diagonal().sqrt()
    torch.testing.assert_close(found.text_correlation, summed / norm[:, None] / norm, rtol=1e-7, atol=1e-9)
    assert found.control is None


def test_fewer_per_token_keep_those_of_largest_d2d() -> None:
    network = transformer_network()
    U = unit_rows(6, network.space.size)
    batch = linearized(network, KL(), INPUTS)
    found = circuit(batch, U, U[:0], NAMES, per_token=2)
    expected = batch.d2D(U)[:, 0, 1:].topk(2, dim=0).values
    kept = torch.where(found.active, found.curvature, 0).topk(2, dim=0).values[:, 1:]
    torch.testing.assert_close(kept, expected)


def test_one_direction_twice_and_its_negative_are_joined_at_one_and_minus_one() -> None:
    network = transformer_network()
    u = unit_rows(1, network.space.size)
    found = circuit(linearized(network, KL(), INPUTS), torch.cat([u, u, -u]), u[:0], NAMES, per_token=3)
    assert found.correlation[0, 1, 1:].tolist() == pytest.approx([1] * 4)
    assert found.correlation[0, 2, 1:].tolist() == pytest.approx([-1] * 4)
    assert {edge[:3] for edge in found.edges()} == {(t, k, j) for t in range(1, 5) for k, j in ((0, 1), (0, 2), (1, 2))}


def test_random_directions_set_the_bar_of_edges(found: Circuit) -> None:
    assert found.control is not None
    assert 0 < found.control < 1
    assert all(abs(edge[3]) >= found.control for edge in found.edges())
    assert len(found.edges()) < len(found.edges(0.0)) == 4 * 15
    assert {(0, 1)} <= {edge[1:3] for edge in found.edges()}
    assert found.active.sum(0).tolist() == [0, 6, 6, 6, 6]


def test_files_hold_the_same_graph(found: Circuit, tmp_path: Path) -> None:
    for name in ("circuit.json", "circuit.graphml"):
        found.save(tmp_path / name)
    facts = json.loads((tmp_path / "circuit.json").read_text(encoding="utf-8"))
    graph = networkx.read_graphml(tmp_path / "circuit.graphml")
    assert facts["tokens"] == list(NAMES)
    assert graph.number_of_nodes() == len(facts["nodes"]) == 24
    assert graph.number_of_edges() == len(facts["edges"]) > 0
    for edge in facts["edges"]:
        stored = graph.edges[f"{edge['token']}:{edge['source']}", f"{edge['token']}:{edge['target']}"]
        assert stored["correlation"] == pytest.approx(edge["correlation"])
    with pytest.raises(UserError, match=r"\.graphml or \.svg, got circuit\.dot"):
        found.save(tmp_path / "circuit.dot")


def test_the_drawing_is_xml_with_every_node_and_edge(found: Circuit, tmp_path: Path) -> None:
    found.save(tmp_path / "circuit.svg")
    root = ElementTree.fromstring((tmp_path / "circuit.svg").read_text(encoding="utf-8"))
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert tags.count("circle") == int(found.active.sum())
    assert tags.count("path") == len(found.edges())
    labels = [element.text for element in root.iter() if element.tag.endswith("}text")]
    assert {"<b>", "U+0000&", "dddddddd…"} <= set(labels)


def test_more_pairs_than_can_be_held_are_refused() -> None:
    network = transformer_network()
    U = unit_rows(80, network.space.size)
    with pytest.raises(UserError, match="at most 64 directions active"):
        circuit(linearized(network, KL(), INPUTS), U, U[:0], NAMES, per_token=80)
