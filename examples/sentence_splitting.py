"""Teach a small EncoderDecoder to split sentences, in PyTorch and with `fit`, from one start.

    python examples/sentence_splitting.py                                  # Python's own references
    python examples/sentence_splitting.py --data tune.tsv --held-out validation.tsv --steps 3000

A TSV has WikiSplit's layout: a sentence, a tab, the sentences it is split into with `<::::>`
between them. Without one, pairs are made from Python's reference text: two sentences that follow
one another are joined with "and". Needs `pip install -e '.[all]'`.
"""

import argparse
import re
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import torch

from converters import corpus, metrics
from pt_models import EncoderDecoderModel
from tf_models import TFEncoderDecoderModel
from zoo import BertGenerationConfig, BertGenerationTokenizer, EncoderDecoderConfig

SEPARATOR = "<::::>"
# Of AdamW. The frameworks add it in different places, and gradients are small: next to none.
EPSILON = 1e-12


def read_tsv(path):
    """Pairs of a sentence and what it is split into."""
    pairs = []
    for number, line in enumerate(Path(path).read_text("utf-8").splitlines(), 1):
        columns = line.split("\t")
        if len(columns) != 2:
            raise SystemExit(f"{path}, line {number}: expected 2 columns, got {len(columns)}")
        pairs.append((columns[0].strip(), columns[1].strip()))
    return pairs


def make_pairs(rng):
    """Pairs from Python's references, for training and held out."""
    training, held_out = corpus.split(corpus.read_paragraphs(), rng)
    found = []
    for paragraphs in (training, held_out):
        pairs = []
        for paragraph in paragraphs:
            text = " ".join(paragraph.text.split())
            sentences = re.findall(r"[A-Z][^.?!]{20,120}\.(?= |$)", text)
            for first, second in zip(sentences, sentences[1:], strict=False):
                joined = f"{first[:-1]} and {second[0].lower()}{second[1:-1]} ."
                pairs.append((joined, f"{first[:-1]} . {SEPARATOR} {second[:-1]} ."))
        found.append(pairs)
    return found


def batches_of(pairs, tokenizer, steps, size, length, rng):
    """The same `steps` batches for both frameworks, in the same order."""
    order = np.concatenate(
        [rng.permutation(len(pairs)) for _ in range(steps * size // len(pairs) + 1)]
    )
    for rows in order[: steps * size].reshape(steps, size):
        sources = tokenizer(
            [pairs[i][0] for i in rows],
            padding="max_length", truncation=True, max_length=length, return_tensors="np",
        )  # fmt: skip
        targets = tokenizer(
            [pairs[i][1] + tokenizer.eos_token for i in rows],
            padding="max_length", truncation=True, max_length=length, return_tensors="np",
        )  # fmt: skip
        labels = np.where(targets["attention_mask"] == 1, targets["input_ids"], -100)
        yield {**sources, "labels": labels}


def learning_rate(step, steps, highest):
    """Up over the first tenth, down to nothing over the rest."""
    warm = max(1, steps // 10)
    return highest * min((step + 1) / warm, (steps - step) / max(1, steps - warm))


def train_pytorch(start, output, batches, steps, highest):
    model = EncoderDecoderModel.from_pretrained(start).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1.0, betas=(0.9, 0.98), eps=EPSILON, weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(step, steps, highest)
    )
    losses = []
    for batch in batches:
        loss = model(**{name: torch.from_numpy(x) for name, x in batch.items()}).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if len(losses) % 50 == 0:
            print(f"PyTorch step {len(losses)}: loss {np.mean(losses[-50:]):.3f}", flush=True)
    model.eval().save_pretrained(output)
    return losses


@keras.saving.register_keras_serializable("examples")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, steps, highest):
        self.steps, self.highest = steps, highest

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        warm = max(1, self.steps // 10)
        up, down = (step + 1) / warm, (self.steps - step) / max(1, self.steps - warm)
        return self.highest * tf.minimum(up, down)

    def get_config(self):
        return {"steps": self.steps, "highest": self.highest}


class Losses(keras.callbacks.Callback):
    """Keeps every step's own loss; Keras' `loss` is the mean since the epoch began."""

    def __init__(self):
        super().__init__()
        self.values, self.total = [], 0.0

    def on_train_batch_end(self, batch, logs=None):
        total = logs["loss"] * (batch + 1)
        self.values.append(float(total - self.total))
        self.total = total
        if len(self.values) % 50 == 0:
            print(f"Keras step {batch + 1}: loss {np.mean(self.values[-50:]):.3f}", flush=True)


def train_keras(start, output, batches, steps, highest):
    model = TFEncoderDecoderModel.from_pretrained(start)
    model.compile(
        keras.optimizers.AdamW(
            Schedule(steps, highest), beta_2=0.98, epsilon=EPSILON, weight_decay=0.01,
            global_clipnorm=1.0,
        )
    )  # fmt: skip
    losses = Losses()
    first = next(iter(batches()))
    data = tf.data.Dataset.from_generator(
        batches,
        output_signature={name: tf.TensorSpec(x.shape, x.dtype) for name, x in first.items()},
    )
    model.fit(data, epochs=1, steps_per_epoch=steps, verbose=0, callbacks=[losses])
    model.save_pretrained(output)
    return losses.values


def report(name, model, tokenizer, pairs, length, as_tensor):
    """Splits held-out sentences and says how well."""
    predictions = []
    for start in range(0, len(pairs), 32):
        sources = [source for source, _ in pairs[start : start + 32]]
        inputs = tokenizer(
            sources, padding=True, truncation=True, max_length=length, return_tensors="np"
        )
        tokens = model.generate(
            **{key: as_tensor(x) for key, x in inputs.items()}, num_beams=4, max_length=length
        )
        # Tokens stand apart in the data, also before punctuation.
        predictions += tokenizer.batch_decode(
            np.asarray(tokens), clean_up_tokenization_spaces=False
        )
    for token in (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token):
        predictions = [text.replace(token, " ") for text in predictions]
    predictions = [text.replace(SEPARATOR, f" {SEPARATOR} ") for text in predictions]
    predictions = [" ".join(text.split()) for text in predictions]
    sources, references = (
        [" ".join(text.split()) for text in side] for side in zip(*pairs, strict=True)
    )
    scores = {
        "exact match": metrics.exact_match(predictions, references),
        "SARI": metrics.sari(sources, predictions, [[text] for text in references]),
        "BLEU": metrics.bleu(predictions, references),
    }
    copied = metrics.sari(sources, sources, [[text] for text in references])
    print(
        f"{name}: "
        + ", ".join(f"{key} {value:.1f}" for key, value in scores.items())
        + f" on {len(pairs)} held-out sentences (copying the source: SARI {copied:.1f}, "
        f"BLEU {metrics.bleu(sources, references):.1f})"
    )
    for source, prediction in list(zip(sources, predictions, strict=True))[:2]:
        print(f"    {source}\n -> {prediction}")
    return predictions


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="a TSV to train on")
    parser.add_argument("--held-out", help="a TSV to test on; by default a part of --data")
    parser.add_argument("--output", default="sentence_splitting_output")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--length", type=int, default=64, help="the most tokens of a side")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--tests", type=int, default=64, help="how many held-out sentences")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    output = Path(options.output)
    rng = np.random.default_rng(options.seed)
    keras.utils.set_random_seed(options.seed)
    torch.manual_seed(options.seed)

    if options.data:
        training = read_tsv(options.data)
        rng.shuffle(training)
        held_out = read_tsv(options.held_out) if options.held_out else training[: options.tests]
        training = training if options.held_out else training[options.tests :]
    else:
        training, held_out = make_pairs(rng)
    held_out = [tuple(pair) for pair in held_out[: options.tests]]
    print(f"{len(training)} pairs to train on, {len(held_out)} held out")

    # One folder to start from, with a tokenizer of its own.
    start = output / "start"
    start.mkdir(parents=True, exist_ok=True)
    spiece = corpus.train_sentencepiece(
        (text for pair in training for text in pair), 4000, corpus.BERT_GENERATION_PIECES
    )
    (start / "spiece.model").write_bytes(spiece)
    tokenizer = BertGenerationTokenizer(start / "spiece.model")
    tokenizer.save_pretrained(start)
    sizes = {
        "vocab_size": len(tokenizer), "hidden_size": options.hidden,
        "num_hidden_layers": options.layers, "num_attention_heads": 4,
        "intermediate_size": 4 * options.hidden, "max_position_embeddings": options.length,
        "initializer_range": options.hidden**-0.5, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        BertGenerationConfig(**sizes),
        # With its cache on, a published BertGeneration decoder sees the tokens it is to predict.
        BertGenerationConfig(**sizes, is_decoder=True, add_cross_attention=True, use_cache=False),
        decoder_start_token_id=tokenizer.bos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    EncoderDecoderModel(config).save_pretrained(start)

    def batches():
        order = np.random.default_rng(options.seed)
        return batches_of(
            training, tokenizer, options.steps, options.batch_size, options.length, order
        )

    settings = (options.steps, options.learning_rate)
    pytorch = train_pytorch(start, output / "pytorch", batches(), *settings)
    in_keras = train_keras(start, output / "keras", batches, *settings)
    apart = np.abs(np.array(pytorch) - np.array(in_keras))
    count = min(100, len(apart))
    print(f"loss curves: at most {apart[:count].max():.1e} apart over the first {count} steps, "
          f"{apart.max():.1e} over all {len(apart)}")  # fmt: skip

    # Each opens what the other saved.
    answers = report(
        "trained in Keras, run in PyTorch",
        EncoderDecoderModel.from_pretrained(output / "keras"),
        tokenizer, held_out, options.length, torch.from_numpy,
    )  # fmt: skip
    again = report(
        "trained in PyTorch, run in Keras",
        TFEncoderDecoderModel.from_pretrained(output / "pytorch"),
        tokenizer, held_out, options.length, tf.constant,
    )  # fmt: skip
    alike = sum(one == other for one, other in zip(answers, again, strict=True))
    print(f"{alike} of {len(answers)} answers are the same")


if __name__ == "__main__":
    main()
