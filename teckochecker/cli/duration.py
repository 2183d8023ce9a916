"""Durations as people write them: `90`, `90s`, `15m`, `2h`, `1d`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final

from cyclopts import Parameter, Token

_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_FORM: Final = re.compile(r"([0-9]{1,9})(s|m|h|d|)")


def parse(text: str) -> float:
    """Seconds, or ValueError with a sentence."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError("must be like 90, 90s, 15m, 2h or 1d")
    return float(int(found[1]) * _SECONDS[found[2]])


def _convert(_type: Any, tokens: Sequence[Token]) -> float:
    return parse(tokens[0].value)


Duration = Annotated[float, Parameter(converter=_convert, n_tokens=1, metavar="DURATION")]
"""An option's value in seconds."""
