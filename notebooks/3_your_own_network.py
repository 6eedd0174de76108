# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Your own network: a CNN in fifteen lines
#
# From an `nn.Module` and a `DataLoader` to directions with the images they act on. The network reads handwritten digits
# (scikit-learn's, 8 x 8 pixels).

# %%
import copy

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import eigen_lightning as el

torch.set_num_threads(1)
torch.manual_seed(0)
images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
labels = torch.tensor(load_digits().target)
train, test = TensorDataset(images[:1500], labels[:1500]), (images[1500:], labels[1500:])
model = nn.Sequential(
    nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.ReLU(),
    nn.Flatten(), nn.Linear(32, 10),
)  # fmt: skip
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for _ in range(8):
    for x, y in DataLoader(train, batch_size=64, shuffle=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
print(f"accuracy on unseen digits: {(model(test[0]).argmax(1) == test[1]).float().mean():.3f}")

# %% [markdown]
# ## Decompose the second convolution
#
# Six directions over its 296 numbers, for the KL divergence between the class distributions.

# %%
run = el.fit(
    model, DataLoader(train, batch_size=256), parameters=["2.*"], divergence="kl", n_directions=6, max_epochs=2,
    run_dir="runs/notebook_digits", overwrite=True, quiet=True,
)  # fmt: skip
print(run)
for column in ("learned", "random", "pca"):
    print(f"{column:8}", {name: f"{run.scorecard[column][name]:.3g}" for name in ("normalized_steepness", "dead")})

# %% [markdown]
# ## What each direction acts on
#
# The unseen images of largest curvature, relative to what any direction could do there: without that division the most
# uncertain images lead every direction.

# %%
values = run.d2D(test[0])
relative = values / values.sum(0)
figure, axes = plt.subplots(6, 10, figsize=(8, 5), layout="constrained")
for k in range(6):
    for column, index in enumerate(relative[k].topk(10).indices.tolist()):
        axes[k, column].imshow(test[0][index, 0], cmap="gray_r")
        axes[k, column].set(xticks=[], yticks=[])
    axes[k, 0].set_ylabel(f"direction {k}", rotation=0, ha="right", va="center")
plt.show()

# %% [markdown]
# ## What a step along one does
#
# Which classes does a direction trade? The first one, for example: weights move to $W_0 + \delta u$, and the logits of
# its top images are compared.

# %%
k = 0
top = test[0][relative[k].topk(30).indices]
before = model.eval()(top).detach()
with run.perturbed(k, delta=0.3) as target:
    after = target.outputs(target.weights, top)
change = (after - before).mean(0)
plt.figure(figsize=(5, 2.6))
plt.bar(range(10), change)
plt.xlabel("class")
plt.ylabel("mean change of the logit")
plt.title(f"direction {k}, step 0.3, its top images")
plt.show()
print("raises", change.topk(2).indices.tolist(), "lowers", (-change).topk(2).indices.tolist())

# %% [markdown]
# ## Do true steps do what curvature says?
#
# `run.intervene` takes steps both ways along a direction and measures the divergence itself, on images of your choice
# and beside random directions.

# %%
found = run.intervene(k, top, test[0][:100], controls=8)
half = len(found.deltas) // 2
for step in range(half, len(found.deltas), 2):
    print(f"step {found.deltas[step]:.3f}: predicted {found.predicted[step]:.2e}, true {found.learned.top[step]:.2e}, "
          f"random directions {found.control.top[step]:.2e}")  # fmt: skip

# %% [markdown]
# ## Is it the training, or just a convolution?
#
# Images of one class cluster in pixels already, so that class purity tells nothing. What does is whether directions
# stay apart: the same is learned on a network of random weights (of the trained ones' scale), and counted are twins,
# directions that respond to the images as another does (cosine of their relative curvature above 0.9).

# %%
torch.manual_seed(1)
random_network = copy.deepcopy(model)
random_network.load_state_dict({name: torch.randn_like(part) * part.std() for name, part in model.state_dict().items()})
other = el.fit(
    random_network, DataLoader(train, batch_size=256), parameters=["2.*"], divergence="kl", n_directions=6,
    max_epochs=2, run_dir="runs/notebook_digits_random", overwrite=True, quiet=True,
)  # fmt: skip


def purity(of: el.Run) -> float:
    """Mean share of the commonest class among each direction's twenty leading images."""
    values = of.d2D(test[0])
    leading = (values / values.sum(0)).topk(20, 1).indices
    return float(torch.stack([test[1][row].bincount().max() / 20 for row in leading]).float().mean())


for name, each in (("trained", run), ("random", other)):
    twins = f"{each.scorecard['learned']['twins']:.0f} of {len(each)}"
    print(f"{name:10} purity {purity(each):.2f}, twins {twins}")

# %% [markdown]
# Class purity is no evidence: the random network's directions have as much. Twins are some: without training there is
# little to tell images apart by, and directions learn the same. `python tests/benchmarks/digits.py` counts them on ten
# networks. Read the columns side by side before you believe a picture; `run.report()` shows every direction with its
# causal checks.
