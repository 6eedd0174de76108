# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # XOR by hand: six numbers, three features
#
# Two GELU nodes whose outputs are summed compute XOR. Six numbers are the whole network. Which directions in this space
# of six numbers matter for which input? Everything here is small enough to write out.

# %%
import matplotlib.pyplot as plt
import torch
from torch.func import hessian

import eigen_lightning as el

torch.set_num_threads(1)
run = el.fit(
    el.XORTarget(), el.XOR(batch_size=64, samples_per_epoch=1024), n_directions=3, exponent=3.0,
    run_dir="runs/notebook_xor", overwrite=True, report=False, quiet=True, max_epochs=2,
)  # fmt: skip
target = run.target
inputs = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
for x, y in zip(inputs.tolist(), target.network(inputs).flatten().tolist(), strict=True):
    print(x, "->", round(y, 4))

# %% [markdown]
# ## One Hessian for each input
#
# For one input the divergence $D(W) = (f(x, W) - f(x, W_0))^2$ is zero at the trained weights and grows around them.
# Its Hessian there, $H(x)$, says how fast in which direction; the curvature of a unit direction $u$ is
# $d^2D(x, u) = u^T H(x) u$. With one output, $H(x)$ has rank one: each input cares about a single direction.

# %%
space, weights = target.space, target.weights
origin = space.flatten(weights).double()


def divergence(flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The squared distance of the output from the trained one."""
    by_name = {name: part.double() for name, part in space.unflatten(flat).items()}
    trained = target.outputs({name: tensor.double() for name, tensor in weights.items()}, x[None].double())
    return (target.outputs(by_name, x[None].double()) - trained).square().sum()


target.network.double()
hessians = [hessian(divergence)(origin, x) for x in inputs]
eigenvalues = torch.stack([torch.linalg.eigvalsh(H).flip(0) for H in hessians])
for x, values in zip(inputs.tolist(), eigenvalues, strict=True):
    print(x, "eigenvalues", [round(value, 3) for value in values.tolist()])

# %% [markdown]
# The input [0, 0] reaches the weights through the biases alone, and more weakly: its direction is a mixture of the
# others' parts there, which is why it counts as no feature. The other three have a direction each, so three directions
# are looked for. They are not orthogonal, since all of them move the biases:

# %%
truth = torch.stack([torch.linalg.eigh(H)[1][:, -1] for H in hessians[1:]])
print("|cos| between the three true directions")
print((truth @ truth.T).abs().numpy().round(2))

# %% [markdown]
# ## What was learned
#
# `el.fit` saw samples only, no labels and no Hessians. Each learned direction against each true one:

# %%
target.network.float()
cosine = (run.U.double() @ truth.T).abs()
values = run.d2D(inputs)
figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
for axis, table, title, columns in (
    (axes[0], cosine, "|cos| with the true direction", ["[0,1]", "[1,0]", "[1,1]"]),
    (axes[1], values, "d2D of each direction on each input", ["[0,0]", "[0,1]", "[1,0]", "[1,1]"]),
):
    image = axis.imshow(table, cmap="Blues", vmin=0)
    axis.set(title=title, ylabel="direction", xticks=range(len(columns)), yticks=range(3), xlabel="input")
    axis.set_xticklabels(columns)
    for row in range(table.shape[0]):
        for column in range(table.shape[1]):
            color = "white" if table[row, column] > table.max() / 2 else "black"
            axis.text(column, row, f"{table[row, column]:.2f}", ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, ax=axis)
plt.show()
print("largest |cos| of each true direction:", cosine.amax(0).numpy().round(4))

# %% [markdown]
# ## Are these figures any good?
#
# A figure means something beside its controls: random directions, the principal directions of the mean Hessian (PCA),
# and the truth itself, judged in the same way on the same samples.

# %%
card = run.scorecard
for column in ("learned", "random", "pca", "oracle"):
    print(f"{column:8}", {name: round(card[column][name], 3) for name in ("mcc", "matched", "selectivity")})

# %% [markdown]
# PCA matches two of the three: the directions share the biases, and what principal directions must be, orthogonal to
# each other, the true ones are not. Next: more features than dimensions, in `2_superposition`.
