"""Lines for people."""

from rich.console import Console
from rich.padding import Padding
from rich.text import Text


def print_line(console: Console, text: Text, indent: int = 0) -> None:
    """Wrapped below its indentation on a terminal, in one piece elsewhere."""
    if console.is_terminal:
        console.print(Padding(text, (0, 0, 0, indent), expand=False))
    else:
        console.print(Text(" " * indent) + text, soft_wrap=True)
