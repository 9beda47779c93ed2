"""The content of the JSON summaries."""

from typing import TYPE_CHECKING, Any

from sfumato.settings import number

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.attribution import Attribution
    from sfumato.cli.queries import Query
    from sfumato.models import Classifier


def picture(query: "Query", classifier: "Classifier") -> dict[str, Any]:
    """The part of a summary that is known before the explanation: the picture, the model and what is asked of it."""
    target = {"index": query.target, "label": classifier.labels[query.target]} if query.asked.is_of_class else {}
    of_classes = query.probabilities
    return {
        "picture": str(query.source),
        "model": classifier.name,
        **({} if query.checkpoint is None else {"checkpoint": str(query.checkpoint)}),
        **({"target": target} if target else {}),
        "question": query.asked.caption,
        "top_classes": [
            {"index": index, "label": classifier.labels[index], "probability": number(probability)}
            for index, probability in query.top
        ],
        **({"probability": number(of_classes[query.target])} if target and of_classes is not None else {}),
    }


def about(result: "Attribution", query: "Query") -> dict[str, Any]:
    """How the result was made, with the target of this query only."""
    score = result.about["score"]
    return {**result.about, "score": score | {"target": query.target} if "target" in score else score}


def areas(result: "Attribution", probabilities: "Tensor | None") -> list[dict[str, float | None]]:
    """For each mask of one query, its areas, score and worth, and the target's probability of `probabilities` `(V,)`, if any.

    Where the game only deletes, masks mark what is removed. The rest's score and worth stand beside theirs, and the
    probabilities are those of the rest.
    """
    from sfumato import plots
    from sfumato.figures.panels import deletes

    columns = {
        "asked": result.achieved[0] if result.areas is None else result.areas,  # type: ignore[index]
        "achieved": result.achieved[0],  # type: ignore[index]  # methods with masks give all of these
        "score": result.scores[0],  # type: ignore[index]
        "worth": plots.worth(result)[0],
    }
    if probabilities is not None:
        columns["probability_left" if deletes(result) else "probability_kept"] = probabilities
    if deletes(result):
        columns["score_left"] = result.complements[0]  # type: ignore[index]
        columns["worth_left"] = plots.worth(result, result.complements)[0]
    if result.agreement is not None:
        columns["agreement"] = result.agreement[0]
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, map(number, row), strict=True)) for row in rows]
