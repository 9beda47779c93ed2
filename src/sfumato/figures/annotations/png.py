"""PNG masks, as `sfumato.data.Masked` and most tools read them."""

import io
import json

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sfumato.figures.annotations.annotation import Annotation


def as_png(annotation: Annotation) -> bytes:
    """A grey picture as large as the annotated one: 255 where the mask is, 0 elsewhere.

    Its text chunks are those that PNG names: `Title` (the class), `Source` (the picture) and `Software`; and `sfumato`, JSON
    of where the mask is from.
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
