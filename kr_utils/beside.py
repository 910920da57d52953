"""Jobs side by side, each in a worker process with one thread: no result depends on how many run at a time.

On a GPU, and where no processes can be started, they run here, one after the other, with the same results. `train`
trains several classifiers so, the Teachers and the Students; selection.py and recycling.py have jobs of their own.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch

from kr_utils import classifier, resume
from kr_utils.data import Split
from kr_utils.precision import one_thread

POLL = 0.2  # seconds between two looks at what the workers tell


class Workers:
    """As many worker processes as torch may use threads; a context manager.

    Parameters
    ----------
    shared : what all jobs need (images, networks); every process gets its own copy, once
    device : on a GPU there are no processes
    """

    def __init__(self, shared: Any, device: str = "cpu"):
        self.shared, self.device = shared, torch.device(device)
        self.on_cpu = self.device.type == "cpu"
        self.count = torch.get_num_threads() if self.on_cpu else 1
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind, *error) -> None:
        self.close(at_once=kind is not None)

    def close(self, at_once: bool = False) -> None:
        """End the processes, if there are any; the next call starts new ones. `at_once` waits for no job."""
        if self.pool:
            if at_once:
                self.alive.close()
            self.pool.shutdown(cancel_futures=True)
            self.alive.close()
            self.told.close()
            self.pool = None

    def __call__(
        self,
        function: Callable,
        jobs: Sequence,
        on_told: Callable[[Any, Any], None] | None = None,
        ended: Callable[[Any], bool] = lambda job: False,
    ) -> Iterator:
        """The results of `function(shared, job, tell)` for each job, in their order, as they come.

        Parameters
        ----------
        function : of a module, for processes find it by its name; it may `tell(something)` on its way
        on_told : called here with the job and what it told
        ended : whether a job's result is saved, and only to be read back: where all are, no process is started
        """
        done = 0
        if self.count > 1 and len(jobs) > 1 and not all(map(ended, jobs)):
            try:
                for result in self._side_by_side(function, jobs, on_told):
                    done += 1
                    yield result
                return
            # No /dev/shm, a TMPDIR too long for sockets, a limit; what is our own mistake comes again below
            except (OSError, RuntimeError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                print(f"no worker processes here ({reason}): one job after the other, with the same results")
                self.close(at_once=True)
                self.count = 1

        # On the CPU with one thread, as a worker process has
        for job in jobs[done:]:
            with one_thread() if self.on_cpu else contextlib.nullcontext():
                result = function(self.shared, job, lambda what, job=job: on_told and on_told(job, what))
            yield result

    def _side_by_side(self, function: Callable, jobs: Sequence, on_told) -> Iterator:
        if self.pool is None:
            # Fresh processes: a forked one would inherit torch's threads in an unusable state.
            context = multiprocessing.get_context("spawn")
            ends, self.alive = context.Pipe(duplex=False)
            self.told = context.SimpleQueue()
            given = (pickle.dumps(self.shared), self.told, ends)
            self.pool = ProcessPoolExecutor(self.count, context, _prepare, given)

        # What they tell arrives before their results do
        futures = [self.pool.submit(_work, function, k, pickle.dumps(job)) for k, job in enumerate(jobs)]
        for future in futures:
            while not self._listen(future, jobs, on_told):
                pass
            yield pickle.loads(future.result())

    def _listen(self, future: Future, jobs: Sequence, on_told) -> bool:
        """Pass on what was told; whether the future is done."""
        done = bool(wait([future], timeout=POLL).done)
        while not self.told.empty():
            k, what = self.told.get()
            if k is None:
                print(what, end="", flush=True)
            elif on_told:
                on_told(jobs[k], what)
        return done


_mine: dict = {}  # what a worker process was prepared with


def _prepare(shared: bytes, told, alive) -> None:
    """Of a worker process. Tensors travel as plain bytes: shared memory may be short, as in a container."""
    torch.set_num_threads(1)
    _mine.update(shared=pickle.loads(shared), told=told)
    sys.stdout = _Passing()

    def end_with_parent() -> None:
        with contextlib.suppress(EOFError, OSError):
            alive.recv()
        os._exit(1)  # a killed notebook leaves no process behind

    threading.Thread(target=end_with_parent, daemon=True).start()


class _Passing(io.TextIOBase):
    """What a worker prints is printed by the process that started it, in the notebook's cell."""

    def write(self, text: str) -> int:
        _mine["told"].put((None, text))
        return len(text)


def _work(function: Callable, k: int, job: bytes) -> bytes:
    return pickle.dumps(function(_mine["shared"], pickle.loads(job), lambda what: _mine["told"].put((k, what))))


# ------------------------------------------------------------------ trainings


@dataclass(frozen=True)
class Fit:
    """A training to be done.

    sizes : classes, channels, width and depth of the network; seed : of its first weights and of its training
    images : the training set, or epoch -> training set (to be pickled: a function of a module, or an object)
    """

    sizes: tuple[int, int, int, int]
    seed: int
    images: Split | Callable[[int], Split]
    training: classifier.Training


def train(
    workers: Workers,
    *,
    state: resume.State | None = None,
    on_epoch: Callable[[str, dict], None] = lambda name, row: None,
) -> dict[str, tuple[classifier.ResNet, list[dict]]]:
    """Train everything that the workers share, and keep of each what `classifier.fit` keeps.

    Parameters
    ----------
    workers : they share fits (name -> `Fit`) and val (real validation images; None: each keeps its last epoch)
    state : where the trainings are saved, each under its name; None saves nothing
    on_epoch : called with a training's name and each row of its history

    Returns
    -------
    name -> the classifier, in eval mode on the workers' device, and its history
    """
    fits: Mapping[str, Fit] = workers.shared["fits"]
    jobs = [(name, state and state.part(name), workers.device) for name in fits]
    done = {}
    trained = workers(_fit, jobs, lambda job, row: on_epoch(job[0], row), lambda job: bool(job[1] and job[1].over()))
    for (name, _, device), (weights, history) in zip(jobs, trained):
        model = classifier.build(*fits[name].sizes, fits[name].seed).to(device)
        model.load_state_dict(weights)
        done[name] = (model.to(memory_format=torch.channels_last).eval(), history)
    return done


def _fit(shared: dict, job: tuple, tell: Callable[[dict], None]) -> tuple[dict, list[dict]]:
    name, state, device = job
    fit, val = shared["fits"][name], shared["val"]
    model = classifier.build(*fit.sizes, fit.seed).to(device)
    images = (lambda epoch: fit.images) if isinstance(fit.images, Split) else fit.images
    history = classifier.fit(model, images, val, fit.training, seed=fit.seed, on_epoch=tell, state=state)
    return model.state_dict(), history
