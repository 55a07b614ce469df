"""The progress of a fit, shown in a notebook or on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

Event = TypeVar("Event")


@runtime_checkable
class Step(Protocol):
    """What a bar tells of an event of a fit; splat2d.Progress has it."""

    @property
    def step(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def psnr(self) -> float: ...
    @property
    def phase(self) -> str: ...


def track(events: Iterable[Event]) -> Iterator[Event]:
    """Passes on the events of fit_steps() or compress_steps(), while a bar shows how far they are.

    The bar is shown in a notebook (extra `notebook`), or on stderr if that is a terminal; elsewhere there is none.
    """
    console = Console(stderr=True)
    if not (console.is_jupyter or sys.stderr.isatty()):
        yield from events
        return
    with bar(console) as show:
        for event in events:
            if isinstance(event, Step):
                show(event)
            yield event


@contextmanager
def bar(console: Console) -> Iterator[Callable[[Step], None]]:
    """Yields what shows an event. The bar disappears at the end."""
    with counter(console) as count:

        def show(event: Step) -> None:
            state = f"{event.phase}  step {event.step}/{event.steps}  {event.psnr:.2f} dB  {event.count} splats"
            count(event.step, event.steps, state)

        yield show


@contextmanager
def counter(console: Console) -> Iterator[Callable[[int, int, str], None]]:
    """Yields what shows how many of how many steps are done, with some words. The bar disappears at the end."""
    columns = (BarColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as shown:
        task = shown.add_task("work", total=None, state="starting")

        def show(done: int, total: int, state: str) -> None:
            shown.update(task, completed=done, total=total, state=state)

        yield show
