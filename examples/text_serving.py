"""Serve a classifier on raw text: export it, then ask it through TensorFlow alone.

    zoo demo rembert                        # makes demo_output/classifier
    python examples/text_serving.py demo_output/classifier serving "Return the square root of x."

The folder `serving/1` is what TF Serving loads; there it answers

    curl localhost:8501/v1/models/serving:predict -d '{"instances": ["Return the square root."]}'
"""

import argparse

import tensorflow as tf
import tensorflow_text  # noqa: F401  (the tokenizer's ops)

from converters.saved_model import export

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("classifier", help="folder of a fine-tuned classifier with its tokenizer")
parser.add_argument("output", help="folder for the SavedModel's versions")
parser.add_argument("text", nargs="+", help="what to ask")
parser.add_argument("--max-length", type=int, default=64)
options = parser.parse_args()

version = export(
    options.classifier, options.output, batch_sizes=(1, 8), max_length=options.max_length
)
print(f"exported {version}")

# From here on nothing of this project is needed: another process, machine or language will do.
ask = tf.saved_model.load(str(version)).signatures["serving_default"]
answers = ask(text=tf.constant(options.text))
for text, label, score in zip(
    options.text, answers["label"].numpy(), answers["score"].numpy(), strict=True
):
    print(f"{label.decode()} ({score:.0%}): {text}")
