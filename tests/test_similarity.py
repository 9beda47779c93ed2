"""The cosine to a reference, for every way in which models return embeddings."""

from types import SimpleNamespace

import pytest
import torch

from sfumato import Similarity
from sfumato.settings import as_json, from_json

QUERY = torch.tensor([1, 0, 1])
RANDOM = torch.Generator().manual_seed(2)
EMBEDDINGS, REFERENCES = torch.randn(3, 5, generator=RANDOM), torch.randn(2, 5, generator=RANDOM)


def cosine(a, b):
    a, b = a.double(), b.double()
    return (sum(a * b) / (sum(a * a) ** 0.5 * sum(b * b) ** 0.5)).item()


EXPECTED = [cosine(row, REFERENCES[query]) for row, query in zip(EMBEDDINGS, QUERY.tolist(), strict=True)]
MAPS = EMBEDDINGS[:, :, None, None] + torch.tensor(
    [[-1.0, 1.0], [2.0, -2.0]]
)  # their mean over the places is the embedding


@pytest.mark.parametrize(
    ("outputs", "part"),
    [
        (EMBEDDINGS, ""),
        (MAPS, ""),
        (SimpleNamespace(pooler_output=EMBEDDINGS, last_hidden_state=torch.rand(3, 7, 5)), ""),
        (SimpleNamespace(image_embeds=EMBEDDINGS, pooler_output=torch.rand(3, 4)), ""),
        ({"pooler_output": torch.rand(3, 4), "mine": EMBEDDINGS}, "mine"),
    ],
    ids=["tensor", "maps", "pooled", "picture of two", "named"],
)
def test_it_is_the_cosine_with_each_query_s_own_reference(outputs, part):
    score = Similarity(REFERENCES, part)
    assert score(outputs, QUERY).tolist() == pytest.approx(EXPECTED, abs=1e-6)
    assert from_json(as_json(score)) == score
    one = Similarity(REFERENCES[1], part)(outputs, QUERY)
    assert one.tolist() == pytest.approx([cosine(row, REFERENCES[1]) for row in EMBEDDINGS], abs=1e-6)


def test_a_reference_may_be_a_picture():
    weights = torch.randn(12, 5, generator=RANDOM)

    def model(pictures):
        return pictures.flatten(1) @ weights

    pictures = torch.rand(3, 3, 2, 2, generator=RANDOM)
    score = Similarity.to(model, pictures, batch=2)
    torch.testing.assert_close(torch.tensor(score.reference), model(pictures))
    assert score(model(pictures), torch.tensor([0, 1, 2])).tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    turned = score(model(pictures), torch.tensor([1, 2, 0])).tolist()
    assert turned == pytest.approx(
        [cosine(model(pictures)[i], model(pictures)[j]) for i, j in ((0, 1), (1, 2), (2, 0))]
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Similarity(torch.zeros(4)), "are not all 0"),
        (lambda: Similarity(torch.tensor([1.0, torch.nan])), "finite numbers"),
        (lambda: Similarity([]), "finite numbers"),
        (lambda: Similarity("a cat"), "is an embedding"),
        (lambda: Similarity(torch.rand(1, 3, 8, 8)), r"Write Similarity.to\(model, picture\[None\]\)"),
        (lambda: Similarity(REFERENCES).check(3), "got 2 references of a Similarity for 3 inputs"),
        (lambda: Similarity(torch.rand(4))(EMBEDDINGS, QUERY), "has 4 numbers, and the model's embeddings have 5"),
        (lambda: Similarity(REFERENCES)({"cls": EMBEDDINGS}, QUERY), "got a dict with keys 'cls'"),
        (lambda: Similarity(REFERENCES)(SimpleNamespace(), QUERY), "hold no embeddings"),
        (lambda: Similarity(REFERENCES, "cls")(EMBEDDINGS, QUERY), "hold no embeddings"),
        (lambda: Similarity(REFERENCES)(EMBEDDINGS[:2], QUERY), "not one row for each"),
    ],
)
def test_what_is_no_similarity_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
