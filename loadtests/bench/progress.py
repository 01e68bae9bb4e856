"""A bar that is drawn only between two measurements: one that redraws itself would run beside what is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress"]


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """What is yielded is called with the next measurement, `total` times."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        raise SystemExit("this needs rich: pip install 'fastserve[loadtest]'") from None
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    console = Console(stderr=True)
    # Where nobody watches, there is nothing to draw.
    with Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        begun = False

        def tell(what: str) -> None:
            nonlocal begun
            bar.update(task, advance=1 if begun else 0, description=what, refresh=True)
            begun = True

        yield tell
        bar.update(task, completed=total, description="", refresh=True)
