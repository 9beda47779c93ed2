"""Annotations as PNG masks, which `sfumato.data.Masked` and most tools read."""

import io
import json

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sfumato.figures.annotations.annotation import Annotation


def as_png(annotation: Annotation) -> bytes:
    """The content of a grey PNG file as large as the picture: 255 in the mask, 0 elsewhere.

    Its text chunks are `Title` (the class), `Source` (the picture) and `Software`, which PNG defines, and `sfumato`, JSON that
    says how the mask was made.
    """
    text = PngInfo()
    for keyword, value in (
        ("Title", annotation.name),
        ("Source", annotation.picture),
        ("Software", f"sfumato {annotation.about.get('sfumato', '')}".strip()),
        ("sfumato", json.dumps(dict(annotation.about), ensure_ascii=False, allow_nan=False)),
    ):
        text.add_itxt(keyword, value)
    content = io.BytesIO()
    Image.fromarray(annotation.mask.numpy()).convert("L").save(content, "PNG", pnginfo=text, optimize=True)
    return content.getvalue()
