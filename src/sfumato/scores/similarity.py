"""How similar an embedding is to a reference: retrieval, and encoders of pictures and of texts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.scores.score import Score, check_rows
from sfumato.settings import PER_QUERY

PARTS = ("image_embeds", "pooler_output")
"""The names by which models of transformers return one embedding for each input."""


@dataclass(frozen=True)
class Similarity(Score):
    r"""The cosine of an embedding with a reference: $e \cdot r / (\lVert e \rVert \lVert r \rVert)$.

    For models whose outputs are embeddings `(N, D)`: DINO, the picture encoder of CLIP or SigLIP, a network for retrieval.

    - `reference`: the embedding of a text or of another picture, a tensor `(D,)`, or `(B, D)` with one per query.
      `Similarity.to` computes it from a picture. Numbers that are all 0 have no direction, and are refused.
    - `part`: the name of the outputs' part that is the embedding; by default the outputs themselves if they are a tensor, or
      else `image_embeds` or `pooler_output`. Its places, if it has any, are averaged first: `(N, D, *P)`.
    """

    reference: Any = field(metadata=PER_QUERY)
    part: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reference", _vectors(self.reference))

    @classmethod
    def to(
        cls, model: Callable[[Tensor], Any], pictures: Float[Tensor, "B C *S"], part: str = "", batch: int = 16
    ) -> "Similarity":
        """The similarity to pictures, prepared as the model's inputs: to one for all queries, or one per query.

        The model runs on `batch` of them at once, as it is: call `model.eval()` first.
        """
        with torch.no_grad():
            return cls(torch.cat([embedding(model(rows), part, len(rows)) for rows in pictures.split(batch)]), part)

    def check(self, queries: int) -> None:
        if len(self.reference) not in (1, queries):
            raise ValueError(
                f"got {len(self.reference)} references of a Similarity for {queries} inputs; give one per input, or one for all"
            )

    def __call__(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        embeddings = embedding(outputs, self.part, len(query))
        references = torch.tensor(self.reference, dtype=embeddings.dtype, device=embeddings.device)
        if references.shape[1] != embeddings.shape[1]:
            raise ValueError(
                f"the reference of a Similarity has {references.shape[1]} numbers, and the model's embeddings have "
                f"{embeddings.shape[1]}; make it with the same model, e.g. Similarity.to(model, picture)"
            )
        references = references[query] if len(references) > 1 else references.expand(len(query), -1)
        return torch.cosine_similarity(embeddings, references, 1)


def embedding(outputs: Any, part: str, rows: int) -> Float[Tensor, "N D"]:
    """The embeddings in a model's outputs for so many inputs, in float32. Raises `ValueError` where there are none."""
    names = [part] if part else list(PARTS)
    found = outputs if isinstance(outputs, Tensor) and not part else None
    for name in names:
        if found is None:
            found = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
    if not isinstance(found, Tensor) or found.ndim < 2 or not found.is_floating_point():
        keys = f" with keys {', '.join(map(repr, outputs))}" if isinstance(outputs, Mapping) else ""
        shape = f" of shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
        raise ValueError(
            f"the model's outputs hold no embeddings (N, D): got a {type(outputs).__name__}{keys}{shape}; name the part that "
            'does, e.g. Similarity(reference, part="image_embeds")'
        )
    check_rows(found, rows)
    return found.float().flatten(2).mean(2) if found.ndim > 2 else found.float()


def _vectors(reference: Any) -> tuple[tuple[float, ...], ...]:
    """Embeddings as tuples of numbers, one for each query or one for all."""
    if not isinstance(reference, list | tuple) or not all(isinstance(row, list | tuple) for row in reference):
        try:
            tensor = reference if isinstance(reference, Tensor) else torch.from_numpy(np.asarray(reference, np.float64))
            values = tensor.detach().float().cpu()
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the reference of a Similarity is an embedding, a tensor (D,) or (B, D); got {type(reference).__name__}"
            ) from error
        if values.ndim not in (1, 2):
            raise ValueError(
                "the reference of a Similarity is an embedding, a tensor (D,) or (B, D); got shape "
                f"{tuple(values.shape)}. Write Similarity.to(model, picture[None]) for a picture"
            )
        reference = (values[None] if values.ndim == 1 else values).tolist()
    rows = tuple(tuple(map(float, row)) for row in reference)
    if not rows or not all(any(row) and all(abs(value) < float("inf") for value in row) for row in rows):
        raise ValueError(
            "the reference of a Similarity has finite numbers that are not all 0, one row per input or one for all"
        )
    return rows
