"""Weights from which a new generator soon learns to copy from what it reads.

From random weights that takes very long: attention has to find out by itself that words have
neighbours, that the same word stands elsewhere, and that what is written next follows there what
was written last (Olsson et al. 2022, "In-context learning and induction heads"). Weights may begin
as those of trained models often are (Trockman and Kolter 2023, "Mimetic initialization of
self-attention layers"); here they do so in BART:

- a quarter of the dimensions is the position's, as sines; words have others, and a place is left
  for the word before and the word behind;
- in the encoder's first layer one head looks at the word before, one at the word behind, the
  others for the same word elsewhere;
- in its second layer two heads look for a token elsewhere that has the same word before, or behind;
- in the decoder half of the heads look for the token whose word before is the one that was
  written last, the others have to learn what to look for; all hand over the word that they see.

All of it is learned on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_TIED = ("embed_tokens.weight", "lm_head.weight")  # to the table of words
_FASTEST, _SLOWEST = 2.8, 0.03  # sines, in radians a token
_AWAY = 4  # sines by which a head that looks for the same elsewhere looks away from itself
_NEAR, _SAME, _APART, _NEXT = 2.5, 1.5, 2.7, 1.5  # how sharply heads look
_NEIGHBOUR, _WORD, _OTHER, _INNER = 1.5, 2.0, 0.5, 0.3  # how much parts add to the sum


def fits(config: Any) -> bool:
    """Whether a configuration is BART's, with room for such heads."""
    if config.model_type != "bart":
        return False
    heads = {config.encoder_attention_heads, config.decoder_attention_heads}
    width = config.d_model // max(heads)
    return len(heads) == 1 and min(heads) >= 4 and width >= 16 and config.encoder_layers >= 2


def copying_weights(
    config: Any, shapes: Mapping[str, tuple[int, ...]], seed: int = 0
) -> dict[str, np.ndarray]:
    """The values of all matrices of a new BART, the same in both frameworks.

    Args:
        config: `BartConfig`, see `fits`.
        shapes: of the weights, by their published names.
        seed: of those that are random.

    Returns:
        float32, by name; vectors, which are zero or one in a new model, are left out.
    """
    rng = np.random.default_rng(seed)
    found = {
        name: rng.normal(0.0, config.init_std, shapes[name]).astype(np.float32)
        for name in sorted(shapes)
        if name.endswith(".weight") and not name.endswith(_TIED) and len(shapes[name]) == 2
    }
    parts = _Parts(config, rng)
    for name, value in found.items():
        if name.endswith("embed_positions.weight"):
            value[:] = parts.waves(len(value))
        elif name.endswith("fc2.weight"):
            value *= _INNER
        elif name.endswith("out_proj.weight"):
            value *= _OTHER
        elif name.endswith("k_proj.weight"):  # the same is found
            value[:] = found[name.replace("k_proj", "q_proj")]
    prefix = next(name for name in found if name.endswith("shared.weight"))
    prefix = prefix.removesuffix("shared.weight")
    words = found[f"{prefix}shared.weight"]
    deviation = len(parts.word) ** -0.5
    words[:] = 0.0
    words[:, parts.word] = rng.normal(0.0, deviation, (len(words), len(parts.word)))
    words[config.pad_token_id] = 0.0
    found |= {name: words for name in shapes if name.endswith(_TIED)}
    parts.first(_Heads(found, f"{prefix}encoder.layers.0.self_attn.", parts.heads))
    parts.second(_Heads(found, f"{prefix}encoder.layers.1.self_attn.", parts.heads))
    for layer in range(config.decoder_layers):
        parts.across(_Heads(found, f"{prefix}decoder.layers.{layer}.encoder_attn.", parts.heads))
    return found


class _Heads:
    """The weights of an attention, head by head.

    Args:
        weights: of the model, by name.
        prefix: of the attention's.
        heads: how many.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], prefix: str, heads: int):
        query, key, value, out = (
            weights[f"{prefix}{name}_proj.weight"] for name in ("q", "k", "v", "out")
        )
        self.query, self.key, self.value = (np.split(w, heads) for w in (query, key, value))
        self.out = np.split(out, heads, 1)

    def look(self, head: int, query: np.ndarray, key: np.ndarray) -> None:
        """What a head's queries and keys are, `(rows, width)` each."""
        for weights, rows in ((self.query, query), (self.key, key)):
            weights[head][:] = 0.0
            weights[head][: len(rows)] = rows

    def give(self, head: int, value: np.ndarray, place: np.ndarray, gain: float) -> None:
        """What a head hands over, `(rows, width)`, and the dimensions where it goes."""
        self.value[head][:] = 0.0
        self.value[head][: len(value)] = value
        self.out[head][:] = 0.0
        self.out[head][place, np.arange(len(place))] = gain


class _Parts:
    """Which dimensions stand for what, and the heads that know it.

    Args:
        config: of the model.
        rng: of what is random.
    """

    def __init__(self, config: Any, rng: np.random.Generator):
        width, self.heads = config.d_model, config.encoder_attention_heads
        self.width, self.size, self._rng = width, width // self.heads, rng
        positions = min(width // 4, self.size) // 2 * 2
        neighbour = min(3 * width // 16, self.size - 2 * _AWAY)
        places = np.arange(width)
        ends = (positions, width - 2 * neighbour, width - neighbour)
        self.position, self.word, self.before, self.behind = np.split(places, ends)
        self.speeds = np.geomspace(_FASTEST, _SLOWEST, positions // 2)
        self._words = {step: self._some(neighbour) for step in (-1, 1)}

    def waves(self, rows: int, start: int = 0) -> np.ndarray:
        """A table of positions, `(rows, width)`: pairs of sines, of length 1 together."""
        angles = np.arange(start, start + rows)[:, None] * self.speeds
        table = np.zeros((rows, self.width), np.float32)
        table[:, self.position] = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(rows, -1)
        return table * len(self.speeds) ** -0.5

    def first(self, attention: _Heads) -> None:
        """The encoder's first: neighbours, and the same word elsewhere."""
        for head, step, place in ((0, -1, self.before), (1, 1, self.behind)):
            key = self._at(self.position)
            attention.look(head, _NEAR * self._turned(step) @ key, _NEAR * key)
            attention.give(head, self._words[step], place, _NEIGHBOUR)
        for head in range(2, self.heads):
            self._elsewhere(attention, head, self._some(len(self.before)))

    def second(self, attention: _Heads) -> None:
        """The encoder's second: the same neighbours elsewhere, and the same word."""
        for head, place in ((0, self.before), (1, self.behind)):
            self._elsewhere(attention, head, self._at(place))
            # The place of the word behind is free from here on.
            attention.give(head, self._some(len(place)), self.behind, _NEIGHBOUR)
        for head in range(2, self.heads):
            self._elsewhere(attention, head, self._some(len(self.before)))

    def across(self, attention: _Heads) -> None:
        """The decoder's: what follows the word that was written last."""
        half = self.heads // 2
        words = [part[: self.size] for part in np.array_split(self.word, half)]
        for head in range(self.heads):
            if head < half:
                query, key = _NEXT * self._words[-1], _NEXT * self._at(self.before)
            else:
                query = self._rng.normal(0.0, self.width**-0.5, (self.size, self.width))
                key = _NEXT * self._at(self.behind)
            attention.look(head, query, key)
            place = words[head % half]
            attention.give(head, self._at(place), place, _WORD)

    def _at(self, places: np.ndarray) -> np.ndarray:
        """What stands in some dimensions."""
        return np.eye(self.width, dtype=np.float32)[places]

    def _some(self, rows: int) -> np.ndarray:
        """Random orthogonal directions among the words', `(rows, width)`."""
        size = len(self.word)
        found = np.zeros((rows, self.width), np.float32)
        square, _ = np.linalg.qr(self._rng.normal(size=(size, size)))
        found[:, self.word] = square[:rows]
        return found

    def _turned(self, step: int) -> np.ndarray:
        """Turns the sines of a position into those of one so many steps on."""
        size = len(self.position)
        turned = np.zeros((size, size), np.float32)
        for pair, angle in enumerate(step * self.speeds):
            part = slice(2 * pair, 2 * pair + 2)
            turned[part, part] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
        return turned

    def _elsewhere(self, attention: _Heads, head: int, same: np.ndarray) -> None:
        """Lets a head look for tokens with the same, but not for itself."""
        chosen = np.linspace(0, len(self.speeds) - 1, _AWAY + 1)[1:].round().astype(int)
        own = _APART * self._at(np.concatenate([[2 * pair, 2 * pair + 1] for pair in chosen]))
        same = _SAME * same
        attention.look(head, np.concatenate([same, -own]), np.concatenate([same, own]))
