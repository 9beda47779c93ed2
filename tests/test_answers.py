"""The probability of an answer agrees with a loop over its tokens, in outputs of any length."""

import math
from types import SimpleNamespace

import pytest
import torch

from sfumato import RISE, Tokens
from sfumato.settings import as_json, from_json

QUERY = torch.tensor([1, 0, 1])
ANSWERS = ([4, 0, 2], [3, 1])
LOGITS = torch.randn(3, 3, 6, generator=torch.Generator().manual_seed(4))
PADDED = torch.cat([torch.full((3, 4, 6), 9.0), LOGITS, torch.full((3, 1, 6), 7.0)], 1)
"""A prompt of five tokens and an answer of three: what the place of a token predicts is the next one."""


def literally(places, answer):
    total = 0.0
    for values, token in zip(places.double().tolist(), answer, strict=True):
        total += values[token] - math.log(sum(math.exp(value) for value in values))
    return total


def expected(aligned):
    for row, query in zip(LOGITS, QUERY.tolist(), strict=True):
        answer = ANSWERS[query]
        yield literally(row[: len(answer)] if aligned else row[-len(answer) :], answer), len(answer)


@pytest.mark.parametrize("measure", ["log-probability", "probability", "per-token"])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("normalised", [True, False])
def test_it_is_the_product_of_the_tokens_probabilities(measure, aligned, normalised):
    outputs = LOGITS if aligned else PADDED
    outputs = outputs.log_softmax(2) if normalised else outputs
    score = Tokens(ANSWERS, measure, first=True if aligned else None)
    read = {
        "log-probability": lambda total, _: total,
        "probability": lambda total, _: math.exp(total),
        "per-token": lambda total, length: math.exp(total / length),
    }[measure]
    wanted = [read(total, length) for total, length in expected(aligned)]
    assert score(SimpleNamespace(logits=outputs), QUERY).tolist() == pytest.approx(wanted, rel=1e-4)
    assert from_json(as_json(score)) == score


def test_an_answer_is_read_alike_in_a_batch_and_alone():
    for first in (True, None, False):
        outputs = LOGITS if first else PADDED
        both = Tokens(ANSWERS, first=first)(outputs, QUERY)
        for row, query in enumerate(QUERY.tolist()):
            alone = Tokens(ANSWERS[query], first=first)(outputs[row : row + 1], torch.tensor([0]))
            torch.testing.assert_close(both[row : row + 1], alone)
    with pytest.raises(ValueError, match=r"3 places, which answers of 2, 3 tokens fit in two ways; write .*first=True"):
        Tokens(ANSWERS)(LOGITS, QUERY)


def test_one_answer_serves_all_queries():
    found = Tokens(torch.tensor([5, 1]))(LOGITS[:, :2], QUERY)
    assert found.tolist() == pytest.approx([literally(row[:2], [5, 1]) for row in LOGITS], rel=1e-4)


def test_each_query_has_its_own_answer_whatever_the_batch():
    inputs = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    heads = torch.randn(16, 3 * 6, generator=torch.Generator().manual_seed(2))

    def model(pictures):
        return (pictures.flatten(1) @ heads).unflatten(1, (3, 6))

    method = RISE(samples=16, cells=2)
    both = method(model, inputs, Tokens(([4, 0, 2], [3, 1, 1])))
    alone = method(model, inputs[1:], Tokens([3, 1, 1]))
    torch.testing.assert_close(both[1].map, alone.map, rtol=1e-5, atol=1e-6)  # other batches round differently
    assert both[1].about["score"]["answer"] == [[3, 1, 1]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tokens([]), "the numbers of its tokens"),
        (lambda: Tokens([[1], []]), "the numbers of its tokens"),
        (lambda: Tokens("a cat"), "the numbers of its tokens"),
        (lambda: Tokens([1.5]), "the numbers of its tokens"),
        (lambda: Tokens([1, -100]), "the numbers of its tokens"),
        (lambda: Tokens([1], "mean"), "measure must be one of log-probability, probability, per-token"),
        (lambda: Tokens(ANSWERS).check(3), "got 2 answers for 3 inputs"),
        (lambda: Tokens([9])(LOGITS, QUERY), r"needs outputs .* 10 tokens; the model returns \(3, 3, 6\)"),
        (lambda: Tokens([1] * 4)(LOGITS, QUERY), "at least 4 places"),
        (lambda: Tokens([1])(LOGITS[:, 0], QUERY), r"the model returns \(3, 6\)"),
    ],
)
def test_what_is_no_answer_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
def test_a_vision_language_model_of_transformers():
    """A small random LLaVA: the prompt and the answer are its input, and its own loss over the answer is the mean."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = transformers.LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=29, image_seq_length=4)
    net = transformers.LlavaForConditionalGeneration(config).eval()
    prompt, answer = [1, 29, 29, 29, 29, 5, 6], [7, 8, 3]
    ids = torch.tensor([[*prompt, *answer]])
    pictures = torch.rand(2, 3, 16, 16)

    def model(pixels):
        return net(pixel_values=pixels, input_ids=ids.expand(len(pixels), -1)).logits

    with torch.no_grad():
        labels = torch.tensor([[*[-100] * len(prompt), *answer]])
        loss = net(pixel_values=pictures[:1], input_ids=ids, labels=labels).loss
        found = Tokens(answer)(model(pictures), torch.tensor([0, 0]))
    assert found[0].item() == pytest.approx(-len(answer) * loss.item(), rel=1e-4)
    assert RISE(samples=4, cells=2)(model, pictures, Tokens([answer, [9, 9, 3]])).map.std() > 0
