# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A language model: reading a direction, and steering with it
#
# A one-layer transformer is trained here, offline, on the text of a small grammar whose regularities are known. With
# two changed names it is TinyStories-1M:
#
# ```python
# target = el.Transformer("roneneldan/TinyStories-1M", ["blocks.4.attn.W_K"])
# data = el.TinyStories(n_sequences=2000)
# ```

# %%
import matplotlib.pyplot as plt
import torch

import eigen_lightning as el
from eigen_lightning.curvature import TraceNormalization
from eigen_lightning.directions import Start
from eigen_lightning.learning.callbacks import Interference, Scorecard, TopExamples

torch.set_num_threads(1)
target = el.GrammarTransformer(parameters=["blocks.0.mlp.W_in"])
data = el.Grammar(n_sequences=192, n_heldout_sequences=128)
run = el.fit(
    target, data, n_directions=16, exponent=2.0, normalization=TraceNormalization(power=1.0),
    start=Start(samples=96, steps=15), callbacks=[Interference(), TopExamples(), Scorecard(random_network=True)],
    run_dir="runs/notebook_grammar", overwrite=True, report=False, quiet=True, max_epochs=1,
)  # fmt: skip
facts = run.manifest["target"]
print(f"loss {facts['loss']:.3f} nats a word; the grammar itself costs {facts['grammar']:.3f}")

# %% [markdown]
# ## Reading a direction
#
# d2D of every word of a sentence the network has not seen, for the directions that act most on it. What a direction
# reads is where it is dark.

# %%
text = "once anna has a small hat . she likes the hat because it is small . the dogs near the lake run away ."
values = run.d2D(text)
share = values / values.sum(0).clamp_min(1e-12)
chosen = share.amax(1).topk(6).indices.tolist()
plt.figure(figsize=(10, 2.6))
plt.imshow(share[chosen], cmap="Blues", vmin=0, aspect="auto")
plt.xticks(range(len(run.tokens(text))), run.tokens(text), rotation=60, ha="right")
plt.yticks(range(6), [f"direction {k}" for k in chosen])
plt.colorbar(label="share of the word's curvature")
plt.show()

# %% [markdown]
# ## A label for each direction
#
# The best of a family of simple rules, chosen on training text and judged on unseen text; and, since this text is made
# by a grammar, the regularity that each has found.

# %%
card = run.scorecard
for label, planted in zip(card["labels"], card["planted"], strict=True):
    print(
        f"{label['direction']:2}  {label['share']:.2f}  {label['text']:45}  {planted['share']:.2f}  {planted['state']}"
    )

# %% [markdown]
# ## With a random network beside it
#
# The same learned on the network as it was before training: what architecture and text do alone.

# %%
for column in ("learned", "pca", "random", "random_network"):
    names = ("context_states", "states", "normalized_steepness", "explained_by_labels")
    print(f"{column:15}", {name: round(card[column][name], 4) for name in names})

# %% [markdown]
# ## Steering
#
# A step along a direction changes the model where the direction reads, and hardly elsewhere. The direction that has
# found its state best is taken, and the KL divergence of the next word is measured at each word.

# %%
k = max(card["planted"], key=lambda each: each["share"])["direction"]
tokens = torch.tensor([run.target.tokenizer(text)["input_ids"]])
reference = run.target.outputs(run.target.weights, tokens)
divergence = {}
for delta in (0.5, 1.0, 2.0):
    with run.perturbed(k, delta) as moved:
        divergence[delta] = run.divergence.value(moved.outputs(moved.weights, tokens), reference)[0]
plt.figure(figsize=(10, 2.6))
for delta, each in divergence.items():
    plt.plot(each, marker="o", markersize=3, label=f"step {delta}")
plt.xticks(range(len(run.tokens(text))), run.tokens(text), rotation=60, ha="right")
plt.ylabel("KL of the next word, nats")
plt.title(f"direction {k}: {card['planted'][k]['state']}")
plt.legend()
plt.show()

# %% [markdown]
# The whole run on one page: `run.report()` after `el.fit(..., report=True)`, or `eigen-lightning fit --config grammar`.
