"""Which of the formats that an endpoint answers in a client likes best (RFC 9110, 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence

from symadj.service.errors import NotAcceptableError

__all__ = ["best_of"]


def best_of(accept: str, offered: Sequence[str]) -> str:
    """Return the media type that the header ``Accept`` likes best; of several alike the one that it names first.

    Raises:
        NotAcceptableError: it takes none of them.
    """
    liked: list[tuple[float, str]] = []
    for item in accept.split(","):
        media_range, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        kind = media_range.partition("/")[0]
        for media_type in offered:
            if media_range in {media_type, "*/*", f"{media_type.partition('/')[0]}/*"} and kind:
                liked.append((_number(quality), media_type))
                break
    if not liked or max(liked, key=lambda item: item[0])[0] <= 0:
        raise NotAcceptableError(f"Accept is {accept[:200]!r}: this answers as {', '.join(offered)}")
    return max(liked, key=lambda item: item[0])[1]


def _number(quality: str) -> float:
    try:
        return float(quality)
    except ValueError:
        return 0.0
