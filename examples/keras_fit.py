"""Fine-tune RemBERT with Keras' `fit`: which chapter of Python's references is a paragraph from?

    zoo demo rembert                        # makes demo_output/pretrained
    python examples/keras_fit.py demo_output/pretrained my_classifier

The result opens in PyTorch as it is: `RemBertForSequenceClassification.from_pretrained(...)`.
"""

import argparse

import keras
import numpy as np

from converters import corpus
from tf_models import TFRemBertForSequenceClassification
from zoo import AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("pretrained", help="folder, or a name on the hub such as google/rembert")
parser.add_argument("output", help="folder for the fine-tuned model")
parser.add_argument("--epochs", type=int, default=3)
options = parser.parse_args()

keras.utils.set_random_seed(0)
training, held_out = corpus.split(corpus.read_paragraphs(), np.random.default_rng(0))
training = [paragraph for paragraph in training if paragraph.chapter]
chapters = sorted({paragraph.chapter for paragraph in training})

tokenizer = AutoTokenizer.from_pretrained(options.pretrained)
model = TFRemBertForSequenceClassification.from_pretrained(
    options.pretrained,
    id2label=dict(enumerate(chapters)),
    label2id={chapter: i for i, chapter in enumerate(chapters)},
)


def arrays_of(paragraphs):
    """Arrays of shape `(paragraphs, sequence)` and labels of shape `(paragraphs,)`."""
    encoding = tokenizer(
        [paragraph.text for paragraph in paragraphs],
        padding="max_length", truncation=True, max_length=64, return_tensors="np",
    )  # fmt: skip
    return dict(encoding), np.array([chapters.index(p.chapter) for p in paragraphs])


# Without a loss, `compile` takes the model's own; with one, `metrics` work as usual:
model.compile(
    keras.optimizers.AdamW(5e-4),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(
    *arrays_of(training), validation_data=arrays_of(held_out),
    epochs=options.epochs, batch_size=32, verbose=2,
)  # fmt: skip
majority = corpus.majority_share(paragraph.chapter for paragraph in held_out)
print(f"(the largest chapter is {majority:.1%} of the held-out paragraphs)")

model.save_pretrained(options.output)
tokenizer.save_pretrained(options.output)
