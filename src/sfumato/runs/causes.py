"""What failures have in common."""


def cause(reason: str, example: str) -> str:
    return reason.replace(example, "…") if example else reason
