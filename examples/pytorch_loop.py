"""Fine-tune RemBERT in a PyTorch loop: which chapter of Python's references is a paragraph from?

    zoo demo rembert                        # makes demo_output/pretrained
    python examples/pytorch_loop.py demo_output/pretrained my_classifier

The result opens in Keras as it is: `TFRemBertForSequenceClassification.from_pretrained(...)`.
"""

import argparse

import numpy as np
import torch

from converters import corpus
from pt_models import RemBertForSequenceClassification
from zoo import AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("pretrained", help="folder, or a name on the hub such as google/rembert")
parser.add_argument("output", help="folder for the fine-tuned model")
parser.add_argument("--steps", type=int, default=200)
options = parser.parse_args()

rng = np.random.default_rng(0)
torch.manual_seed(0)
training, held_out = corpus.split(corpus.read_paragraphs(), rng)
training = [paragraph for paragraph in training if paragraph.chapter]
chapters = sorted({paragraph.chapter for paragraph in training})

tokenizer = AutoTokenizer.from_pretrained(options.pretrained)
model = RemBertForSequenceClassification.from_pretrained(
    options.pretrained,
    id2label=dict(enumerate(chapters)),
    label2id={chapter: i for i, chapter in enumerate(chapters)},
)


def batch_of(paragraphs):
    """Tensors of shape `(batch, sequence)` and labels of shape `(batch,)`."""
    batch = tokenizer(
        [paragraph.text for paragraph in paragraphs],
        padding=True, truncation=True, max_length=64, return_tensors="pt",
    )  # fmt: skip
    batch["labels"] = torch.tensor([chapters.index(paragraph.chapter) for paragraph in paragraphs])
    return batch


optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
model.train()
for step in range(1, options.steps + 1):
    loss = model(**batch_of(rng.choice(np.array(training, object), 16))).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    if step % 20 == 0:
        print(f"step {step}: loss {loss.item():.3f}")

model.eval()
right = 0
with torch.no_grad():
    for start in range(0, len(held_out), 64):
        batch = batch_of(held_out[start : start + 64])
        right += int((model(**batch).logits.argmax(-1) == batch["labels"]).sum())
majority = corpus.majority_share(paragraph.chapter for paragraph in held_out)
print(f"held-out accuracy {right / len(held_out):.1%} (largest chapter {majority:.1%})")

model.save_pretrained(options.output)
tokenizer.save_pretrained(options.output)
