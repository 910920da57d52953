"""Progress of a training, as it is printed or drawn: it cannot change a number."""

from __future__ import annotations

from collections.abc import Callable

LINES = 40  # of one training, about; an executed notebook is there to be read


def progress(total: int, what: str, interactive: bool) -> Callable[[dict], None]:
    """A callback for `on_epoch`, `on_step` and the like: a tqdm bar if live, else plain lines, about `LINES` at most.

    It takes a dict whose numbers are printed; the first key (epoch or step) counts towards `total`.

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

    # A live bar
    from tqdm.auto import tqdm

    bar = tqdm(total=total, desc=what)

    def update(row: dict) -> None:
        key = next(iter(row))
        bar.set_postfix_str(_plain({k: v for k, v in row.items() if k != key}, None), refresh=False)
        bar.update((row[key] if isinstance(row[key], int) else bar.n + 1) - bar.n)
        if bar.n >= total:
            bar.close()

    return update


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
