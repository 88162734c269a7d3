"""What programs of QEMU say when something fails, for a person to read."""

import json

_GRAPH = "json:{"
_DECODER = json.JSONDecoder()


def without_graphs(text: str, instead: str = "the image") -> str:
    """Each block graph (`json:{…}`, QEMU's own way to name an image) and its quotes become `instead`.

    A graph has paths that no person has given and the name of an export, which is as good as a key to it. QEMU cuts
    long ones off (PATH_MAX): then the rest of the line goes.
    """
    parts = []
    at = 0
    while (start := text.find(_GRAPH, at)) >= 0:
        end = _end(text, start + len(_GRAPH) - 1)
        quote = text[start - 1 : start]
        is_quoted = quote in ("'", '"') and text[end : end + 1] == quote
        parts += [text[at : start - is_quoted], instead]
        at = end + is_quoted
    return "".join(parts) + text[at:]


def _end(text: str, brace: int) -> int:
    try:
        return _DECODER.raw_decode(text, brace)[1]
    except (ValueError, RecursionError):
        newline = text.find("\n", brace)
        return len(text) if newline < 0 else newline
