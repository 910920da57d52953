"""Progress of a training, as it is printed or drawn: it cannot change a number."""

from __future__ import annotations

import contextvars
import html
import sys
import threading
import time
from collections.abc import Callable

LINES = 40  # of one training, about; an executed notebook is there to be read
ROWS = 12  # of the live table: the newest
TICK = 5  # seconds after which the clock of the live table moves, whether or not there is a new row


def progress(total: int, what: str, interactive: bool) -> Callable[[dict], None]:
    """A callback for `on_epoch`, `on_step` and the like: a table that grows if live, else plain lines.

    It takes a dict whose numbers are shown; the first key (epoch or step) counts towards `total`, where it is a whole
    number; else each call counts one.

    what : name of the training, in front of each line
    """
    # A line per call, or per fortieth of the way
    if not interactive:
        printed = [-1]

        def line(row: dict) -> None:
            count = next(iter(row.values()))
            place = count * LINES // total if isinstance(count, int) and total > LINES else None
            if place is not None and place == printed[0]:
                return
            printed[0] = place
            print(f"{what} {_plain(row, total)}", flush=True)

        return line
    return _Table(total, what)


class _Table:
    """A live table in a notebook: a row per call, a bar, and a clock that moves meanwhile."""

    def __init__(self, total: int, what: str):
        from IPython.display import HTML, display

        self.total, self.what, self.html = total, what, HTML
        self.rows: list[dict] = []
        self.count, self.over, self.started = 0, False, time.monotonic()
        self.change = threading.Lock()
        self.handle = display(HTML(self._text()), display_id=True)

        # Ends with its cell, however that ends
        ipython = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if ipython is not None and self.handle is not None:
            self.events = ipython.events
            self.events.register("post_run_cell", self._stop)
            context = contextvars.copy_context()  # or its output would go to no cell
            threading.Thread(target=context.run, args=(self._tick,), daemon=True).start()

    def __call__(self, row: dict) -> None:
        first = next(iter(row.values()))
        with self.change:
            self.count = first if type(first) is int else self.count + 1
            self.rows.append(row)
            self.over = self.over or self.count >= self.total
            self._show()

    def _show(self) -> None:
        if self.handle is not None:
            self.handle.update(self.html(self._text()))

    def _tick(self) -> None:
        while not self.over:
            time.sleep(TICK)
            with self.change:
                if not self.over:
                    self._show()

    def _stop(self, *_) -> None:
        with self.change:
            self.over = True
            if not self.rows and self.handle is not None:  # it was read back
                self.handle.update(self.html(""))
        self.events.unregister("post_run_cell", self._stop)

    def _text(self) -> str:
        """The table as HTML; its bar is a `progress` element, which a screen reader knows."""
        seconds = time.monotonic() - self.started
        what, left = html.escape(self.what), max(0, self.total - self.count)
        rest = f", about {left * seconds / self.count:.0f} s to go" if self.count and left else ""
        bar = f'<progress aria-label="{what}" max="{self.total}" value="{min(self.count, self.total)}"></progress>'
        lines = [f"<div><b>{what}</b> {bar} {self.count} of {self.total}, {seconds:.0f} s{rest}</div>"]

        # The newest rows
        if self.rows:
            keys = [key for key, value in self.rows[-1].items() if isinstance(value, (bool, int, float, str))]
            head = "".join(f'<th scope="col">{html.escape(key.replace("_", " "))}</th>' for key in keys)
            body = [
                "<tr>" + "".join(f"<td>{html.escape(_cell(row.get(key)))}</td>" for key in keys) + "</tr>"
                for row in self.rows[-ROWS:]
            ]
            lines.append(f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>")
        return "\n".join(lines)


def _cell(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _plain(row: dict, total: int | None) -> str:
    words = []
    for k, (key, value) in enumerate(row.items()):
        if k == 0 and total is not None and isinstance(value, int):
            words.append(f"{key} {value}/{total}")
        elif isinstance(value, float):
            words.append(f"{key} {value:.4g}")
        elif isinstance(value, bool):
            words += [key] if value else []
        elif isinstance(value, (int, str)):
            words.append(f"{key} {value}")
    return "  ".join(words)
