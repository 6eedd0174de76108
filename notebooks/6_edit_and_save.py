# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Edit and save: a step along a direction as a model of its own
#
# A direction is an edit waiting to be made. What does it cost elsewhere, and how does the edited model get into other
# people's hands? The grammar's transformer again, smaller.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import display
from transformers import AutoModelForCausalLM, AutoTokenizer

import eigen_lightning as el
from eigen_lightning.curvature import TraceNormalization
from eigen_lightning.directions import Start

torch.set_num_threads(1)
run = el.fit(
    el.GrammarTransformer(d_model=32), el.Grammar(n_sequences=96, n_heldout_sequences=64), n_directions=6, exponent=2.0,
    normalization=TraceNormalization(power=1.0), start=Start(samples=64, steps=10), run_dir="runs/notebook_edit",
    overwrite=True, quiet=True, max_epochs=1,
)  # fmt: skip
for each in run.scorecard["planted"]:
    print(each["direction"], f"{each['share']:.2f}", each["state"])

# %% [markdown]
# ## On target and off target
#
# True steps along direction 0: the KL on its own top words, on random words that are as sensitive to the weights, and
# along random directions of the same length.

# %%
display(run.plot_responses(0))

# %% [markdown]
# ## The edit, with what it promises

# %%
curve = run.curve(0)
delta = float(curve.deltas[curve.deltas > 0].max() / 2)
edit = run.edit(0, delta)
print(f"step {delta:.3f}:", {name: f"{value:.4f} nats" for name, value in (edit.promised or {}).items()})
folder = Path("runs/notebook_edited")
edit.save_pretrained(folder)
print(sorted(path.name for path in folder.iterdir()))

# %% [markdown]
# ## Loaded by plain transformers
#
# The edit is not free: off target it costs two fifths of what it does on target, on words as sensitive to the weights.
# Now the folder, with no trace of this package: what anybody would do with a folder or a Hub name. The next-word
# distributions before and after, at the word where direction 0 acts most.

# %%
edited, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
example = run.top_examples(0)[0]
ids = tokenizer(example["before"] + example["token"], return_tensors="pt")["input_ids"]
with torch.no_grad():
    after = edited(input_ids=ids).logits[0, -1].softmax(0)
before = run.target.outputs(run.target.weights, ids)[0, -1].softmax(0)
words = (before - after).abs().topk(8).indices
print("...", example["before"][-60:], "[", example["token"], "]")
plt.figure(figsize=(6, 2.6))
plt.bar(torch.arange(8) - 0.2, before[words].detach(), 0.4, label="before")
plt.bar(torch.arange(8) + 0.2, after[words], 0.4, label="after the edit")
plt.xticks(range(8), [tokenizer.decode([word]) for word in words.tolist()])
plt.xlabel("next word")
plt.ylabel("probability")
plt.legend()
plt.show()

# %% [markdown]
# ## The decomposition itself, to share
#
# `save_pretrained` writes config, tensors and a model card with the scorecard; `el.load` reads it without Lightning and
# without the training data, and refuses another model.

# %%
shared = run.save_pretrained("runs/notebook_shared")
print(sorted(path.name for path in Path(shared).iterdir()))
print(el.load(shared))
