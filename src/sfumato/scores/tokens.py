"""How probable an answer is: the tokens of a text that a vision-language model, or another model of sequences, gives."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.scores.score import Score, class_scores
from sfumato.settings import PER_QUERY, is_whole, later

LOG, WHOLE, EACH = "log-probability", "probability", "per-token"
MEASURES = (LOG, WHOLE, EACH)


@dataclass(frozen=True)
class Tokens(Score):
    r"""The log-probability of an answer: $\sum_t \log p(a_t \mid a_{<t}, x)$ for its tokens $a_1, \dots, a_T$.

    The model is any function from inputs to log-probabilities or logits `(N, L, K)` of tokens, or to an object with such
    `logits`, which is given the prompt and the answer (teacher forcing): e.g. `lambda pictures: net(pixel_values=pictures,
    input_ids=ids.expand(len(pictures), -1))` for a model of transformers.

    - `answer`: the numbers of the answer's tokens; or a list of them, one per query.
    - `measure`: "log-probability", the sum above; "probability", its exponential; or "per-token", $(\prod_t p_t)^{1 / T}$,
      the inverse of the perplexity, which does not shrink with the length. The last two are positive, as `smallest` needs.

    - `first`: True if the places of the outputs are those of the answer, from its first token on. False if the sequence ends
      with the answer, and as in a causal language model each place predicts the next token: the token at place $l$ is read at
      $l - 1$. By default, `None`, it is True for outputs with as many places as the answer has tokens, and False for outputs
      with more. Where answers have different lengths, and the longest has as many tokens as there are places, it must be said.
    """

    answer: Any = field(metadata=PER_QUERY)
    measure: str = LOG
    first: bool | None = later(None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "answer", _sequences(self.answer))
        if not isinstance(self.measure, str) or self.measure not in MEASURES:
            raise ValueError(f"measure must be one of {', '.join(MEASURES)}; got {self.measure!r}")
        if not (self.first is None or isinstance(self.first, bool)):
            raise ValueError(f"first must be True, False or None; got {self.first!r}")

    def check(self, queries: int) -> None:
        if len(self.answer) not in (1, queries):
            raise ValueError(f"got {len(self.answer)} answers for {queries} inputs; give one per input, or one for all")

    def __call__(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        logits = class_scores(getattr(outputs, "logits", outputs), len(query))
        lengths, highest = set(map(len, self.answer)), max(map(max, self.answer))
        longest = max(lengths) + (self.first is False)  # the place before the answer predicts its first token
        if logits.ndim != 3 or logits.shape[1] < longest or logits.shape[2] <= highest:
            raise ValueError(
                f"an answer of {max(lengths)} tokens, the highest of them {highest}, needs outputs (N, places, tokens) with at "
                f"least {longest} places and {highest + 1} tokens; the model returns {tuple(logits.shape)}"
            )
        if self.first is None and logits.shape[1] == longest and len(lengths) > 1:
            raise ValueError(
                f"the model returns {longest} places, which answers of {', '.join(map(str, sorted(lengths)))} tokens fit in "
                "two ways; write Tokens(answers, first=True) if they are those of the answers, from their first tokens on, or "
                "first=False if each sequence ends with its answer"
            )
        return torch.stack([self._of(row, number) for row, number in zip(logits, query.tolist(), strict=True)])

    def _of(self, logits: Float[Tensor, "L K"], query: int) -> Float[Tensor, ""]:
        """The measure of one query's answer."""
        answer = self.answer[query if len(self.answer) > 1 else 0]
        length = len(answer)
        aligned = len(logits) == length if self.first is None else self.first
        places = logits[:length] if aligned else logits[-length - 1 : -1]
        tokens = torch.tensor(answer, dtype=torch.long, device=logits.device)
        total = places.log_softmax(1).gather(1, tokens[:, None]).sum()
        return total if self.measure == LOG else (total / length if self.measure == EACH else total).exp()


def _sequences(answer: Any) -> tuple[tuple[int, ...], ...]:
    """The tokens of answers, one for each query or one for all."""
    listed = answer.tolist() if hasattr(answer, "tolist") else answer
    rows = (
        [row.tolist() if hasattr(row, "tolist") else row for row in listed] if isinstance(listed, list | tuple) else []
    )
    rows = [rows] if rows and all(is_whole(item) for item in rows) else rows
    if not rows or not all(
        isinstance(row, Sequence) and not isinstance(row, str) and row and all(is_whole(item, 0) for item in row)
        for row in rows
    ):
        raise ValueError(
            "an answer is the numbers of its tokens, e.g. tokenizer(text, add_special_tokens=False).input_ids, or a list of "
            f"them, one per input; got {answer!r}"
        )
    return tuple(tuple(row) for row in rows)
