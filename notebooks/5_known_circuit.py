# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A known circuit: features that span two matrices
#
# A residual MLP reads 20 features from a stream of 40 dimensions and adds relu(x) of each. Which neurons serve which
# feature is known to nobody beforehand, but each feature's leading direction can be computed, over W_in and W_out
# together. It is one of the systems of `eigen-lightning benchmark`, and one where a feature is *not* a single
# direction.

# %%
import matplotlib.pyplot as plt
import torch
from IPython.display import display

import eigen_lightning as el
from eigen_lightning.curvature import TraceNormalization
from eigen_lightning.learning.callbacks import Scorecard, TopExamples
from eigen_lightning.targets import ResidualMLPTarget

torch.set_num_threads(1)
run = el.fit(
    ResidualMLPTarget(), el.TMS(batch_size=1024), n_directions=40, objective="coverage", exponent=3.0,
    normalization=TraceNormalization(power=0.8333), callbacks=[TopExamples(), Scorecard(random_network=True)],
    run_dir="runs/notebook_residual", overwrite=True, report=False, quiet=True, max_epochs=2,
)  # fmt: skip
print(run)

# %% [markdown]
# ## One feature a direction
#
# d2D of each learned direction on samples with one feature alone, directions sorted by the feature they act on most.

# %%
alone = torch.cat([torch.eye(20), -torch.eye(20)])
values = run.d2D(alone)
by_feature = values[:, :20] + values[:, 20:]
order = by_feature.argmax(1).argsort()
plt.figure(figsize=(4, 5))
plt.imshow((by_feature / by_feature.amax(1, keepdim=True))[order], cmap="Blues", aspect="auto")
plt.xlabel("the one feature present")
plt.ylabel("directions, sorted")
plt.colorbar(label="d2D, relative to the row's largest")
plt.show()

# %% [markdown]
# ## Found, but what is the truth?
#
# All figures beside their controls; the random network is judged by its own truth.

# %%
card = run.scorecard
for column in ("learned", "pca", "random", "random_network", "oracle"):
    print(
        f"{column:15}", {name: round(card[column][name], 3) for name in ("mcc", "matched", "selectivity", "coverage")}
    )
print({name: round(value, 3) for name, value in card["truth"].items()})

# %% [markdown]
# Two things to learn here. The eigenshare says that a feature's leading direction holds only a small part of its
# curvature: moving any of its weights matters, and the direction compared with is merely the largest. And the random
# network is matched as well: with sparse inputs, who reads which feature can be told apart in any network. Recovery
# alone is no evidence of what training made; `selectivity` and causal checks are.

# %%
display(run.plot_structure())
