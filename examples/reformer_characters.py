"""Train a character-level Reformer on Python's reference text, 16384 bytes at a time.

    python examples/reformer_characters.py                          # both frameworks, a few minutes
    python examples/reformer_characters.py --framework pt --steps 600 --output my_reformer
    zoo export my_reformer/pt served --max-new-tokens 64            # text in, text out

Bits per character are told on topics that are held out, against a plain decoder of the same depth
and width that sees 1024 bytes, trained on as much text. Needs `pip install -e '.[all]'`.
"""

import argparse
import math
import time
from pathlib import Path
from pydoc_data.topics import topics

import keras
import numpy as np
import torch

import pt_models
import tf_models
from zoo import BertGenerationConfig, ReformerByteTokenizer, ReformerConfig

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--framework", choices=("pt", "tf", "both"), default="both")
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--length", type=int, default=16384, help="a power of two, at least 1024")
parser.add_argument("--plain-length", type=int, default=1024)
parser.add_argument("--hidden", type=int, default=128)
parser.add_argument("--layers", type=int, default=4, help="half of them local, half LSH")
parser.add_argument("--hashes", type=int, default=2)
parser.add_argument("--rate", type=float, default=2e-3, help="the highest learning rate")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--output", type=Path, help="folder for the trained Reformers")
options = parser.parse_args()

tokenizer = ReformerByteTokenizer()
names = sorted(topics)
held_out_names = names[::12]
bytes_of = {
    kind: np.array(tokenizer("\n\n".join(topics[name] for name in chosen)).input_ids)
    for kind, chosen in (
        ("training", [name for name in names if name not in held_out_names]),
        ("held out", held_out_names),
    )
}
heads = max(options.hidden // 32, 1)
SIZES = {"vocab_size": len(tokenizer), "hidden_size": options.hidden, "num_attention_heads": heads}
TOKENS = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}


def reformer_config():
    """A row of the axial positions is a square root of the length."""
    power = options.length.bit_length() - 1
    return ReformerConfig(
        **SIZES, **TOKENS,
        attention_head_size=32,
        feed_forward_size=4 * options.hidden,
        attn_layers=["local", "lsh"] * (options.layers // 2),
        axial_pos_shape=[2 ** (power // 2), 2 ** (power - power // 2)],
        axial_pos_embds_dim=[options.hidden // 4, options.hidden - options.hidden // 4],
        axial_norm_std=0.1,
        max_position_embeddings=options.length,
        num_hashes=options.hashes,
        hidden_dropout_prob=0.0,
        local_attention_probs_dropout_prob=0.0,
        initializer_range=options.hidden**-0.5,
        is_decoder=True,
        use_cache=False,  # a cache holds every layer's states
    )  # fmt: skip


def plain_config():
    return BertGenerationConfig(
        **SIZES, **TOKENS,
        num_hidden_layers=options.layers,
        intermediate_size=4 * options.hidden,
        max_position_embeddings=options.plain_length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=options.hidden**-0.5,
        tie_word_embeddings=False,
        is_decoder=True,
        use_cache=False,
    )  # fmt: skip


def batch_of(step, length):
    """Pieces of the training text, `(rows, length)`, of as many bytes for either model."""
    text, rows = bytes_of["training"], options.length // length
    rng = np.random.default_rng((options.seed, step))
    starts = rng.integers(0, len(text) - length + 1, rows)
    return np.stack([text[start : start + length] for start in starts])


def rate_of(step):
    """Rises for a tenth of the steps, then falls as a cosine does."""
    warm = max(options.steps // 10, 1)
    share = (step - warm) / max(options.steps - warm, 1)
    return options.rate * (
        min(1, (step + 1) / warm) * (0.5 + 0.5 * math.cos(math.pi * max(share, 0)))
    )


def held_out(length):
    """The held-out text as whole pieces, `(rows, length)`."""
    text = bytes_of["held out"]
    return text[: len(text) // length * length].reshape(-1, length)


def in_torch(model, length):
    """Trains, and tells the bits per held-out character."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    for step in range(options.steps):
        optimizer.param_groups[0]["lr"] = rate_of(step)
        ids = torch.from_numpy(batch_of(step, length))
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % max(options.steps // 10, 1) == 0:
            print(f"  step {step:5} {loss.item() / math.log(2):6.3f} bits", flush=True)
    model.eval()
    with torch.no_grad():
        losses = [
            model(input_ids=row, labels=row).loss.item()
            for row in torch.from_numpy(held_out(length)).split(1)
        ]
    return np.mean(losses) / math.log(2)


class Batches(keras.utils.PyDataset):
    """The same pieces in the same order, for `fit`."""

    def __init__(self, length):
        super().__init__()
        self.length = length

    def __len__(self):
        return options.steps

    def __getitem__(self, step):
        ids = batch_of(step, self.length)
        return {"input_ids": ids, "labels": ids}


def in_keras(model, length):
    """Trains with `fit`, and tells the bits per held-out character."""
    schedule = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda step, logs: setattr(
            model.optimizer, "learning_rate", rate_of(step)
        )
    )
    model.compile(
        keras.optimizers.AdamW(beta_2=0.98, weight_decay=0.01, epsilon=1e-8, global_clipnorm=1.0)
    )
    model.fit(Batches(length), epochs=1, shuffle=False, callbacks=[schedule], verbose=2)
    rows = held_out(length)
    loss = model.evaluate({"input_ids": rows, "labels": rows}, batch_size=1, verbose=0)
    return (loss if np.isscalar(loss) else loss[0]) / math.log(2)


PROMPT = "The following"
for framework in ("pt", "tf") if options.framework == "both" else (options.framework,):
    package, prefix = (pt_models, "") if framework == "pt" else (tf_models, "TF")
    run = in_torch if framework == "pt" else in_keras
    found = {}
    for title, name, config, length in (
        ("Reformer", "ReformerModelWithLMHead", reformer_config(), options.length),
        ("plain", "BertGenerationDecoder", plain_config(), options.plain_length),
    ):
        torch.manual_seed(options.seed)
        keras.utils.set_random_seed(options.seed)
        model = getattr(package, prefix + name)(config)
        print(f"{prefix}{name}, {model.num_parameters():,} weights, {length} bytes", flush=True)
        start = time.time()
        found[title] = run(model, length)
        print(
            f"  {found[title]:.3f} bits per held-out character, {time.time() - start:.0f} s",
            flush=True,
        )
        if title == "Reformer":
            ids = tokenizer([PROMPT], return_tensors=framework).input_ids
            text = model.generate(ids, max_new_tokens=200, do_sample=True, top_k=10)
            print(f"  {tokenizer.decode(np.array(text)[0].tolist())!r}")
            if options.output:
                model.save_pretrained(options.output / framework)
                tokenizer.save_pretrained(options.output / framework)
    print(f"{framework}: Reformer {found['Reformer']:.3f}, plain {found['plain']:.3f} bits")
