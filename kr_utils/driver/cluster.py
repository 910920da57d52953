"""Running stages on a Dask cluster: worker processes made here, or those of a running scheduler.

Dask is imported only where a cluster is used. It pickles the calls that it sends; what is sent from here is a
module-level function, by its name, and plain texts, numbers, lists and dicts.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import re
import secrets
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from kr_utils import InputError, owned
from kr_utils.driver import execute
from kr_utils.driver.plan import Job
from kr_utils.runs import code, machine

LOADED = code.code_version()  # of the code in this process; a worker may be older than its files
NO_GPU = {"start", "compare"}  # stages that a GPU would not help


class Cluster:
    """Executes on a Dask cluster: `jobs` worker processes made here, or those of a running scheduler.

    Parameters
    ----------
    jobs : worker processes, of one thread each; 0 with `scheduler`
    scheduler : address of a running one, or ""
    threads : of a stage's kernel; 0: the cores of a worker's computer divided by the stages that it runs at a time
    root : the runs folder, absolute; the workers must see it by the same path
    data_root : folder of the data files, or "" where none is needed
    """

    def __init__(self, jobs: int, scheduler: str, threads: int, root: Path, data_root: str = ""):
        self.jobs, self.scheduler = jobs, scheduler
        self.threads = threads or max(1, machine.cores() // jobs) if jobs else threads
        self.driver = secrets.token_hex(8)
        self.token = root / f".driver-{self.driver}"
        self.expected = {"token": str(self.token), "driver": self.driver, "data_root": data_root, "code": LOADED}
        self.expected["versions"] = machine.versions()
        self.messages: queue.Queue = queue.Queue()
        self.running: dict[str, Job] = {}
        self.futures: dict[str, object] = {}
        self.numbers = itertools.count()
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> Cluster:
        import dask
        from distributed import Client, LocalCluster

        for name in list(logging.root.manager.loggerDict):  # what a lost connection means is told here, in one line
            if name.partition(".")[0] in ("distributed", "tornado", "asyncio"):
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        try:
            owned.write(self.token, self.driver)
            self.stack.callback(owned.remove, self.token)
            if self.scheduler:
                self.client = _connect(Client, self.scheduler)
            else:
                # No dashboard; its server starts all the same, and must not listen to the network.
                web = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
                # Ctrl-C in a terminal goes to all its processes; the workers are ended from here, in order.
                # Dask's profiler keeps a call tree per second of a thread that only waits for its kernel.
                with _deaf(), dask.config.set({"distributed.worker.profile.enabled": False}):
                    # Kernels hold the memory, not the workers, so Dask's limit would be of the wrong process.
                    cluster = LocalCluster(
                        n_workers=self.jobs, threads_per_worker=1, host="127.0.0.1", scheduler_kwargs=web,
                        worker_dashboard_address=web["dashboard_address"], memory_limit=0, silence_logs="CRITICAL",
                    )  # fmt: skip
                self.stack.callback(cluster.close, timeout=10)
                self.client = Client(cluster)
            self.stack.callback(self.client.close, timeout=10)
            self.check()
            self.client.subscribe_topic(self.driver, lambda event: self.messages.put(event[1]))
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *error) -> None:
        """Cancel what waits, end the kernels of what runs, then the cluster if it is ours."""
        # A second Ctrl-C must not leave kernels behind; workers that are gone have none to end.
        with _deaf(), self.stack, contextlib.suppress(Exception):
            if self.running:
                self.client.cancel(list(self.futures.values()))
                self.client.run(execute.stop, self.driver, on_error="ignore")
                time.sleep(0.2)

    def place(self) -> str:
        """In words."""
        return f"{len(self.workers())} workers of {self.scheduler}" if self.scheduler else f"{self.jobs} workers"

    def alive(self) -> bool:
        """Whether the scheduler is there, or may come back within Dask's time for that."""
        return self.client.status in ("running", "connecting")

    def workers(self) -> dict[str, dict]:
        """Address -> what the scheduler knows of each worker; none while it cannot be asked."""
        try:
            return self.client.scheduler_info(n_workers=-1)["workers"]
        except OSError:
            return {}

    def check(self) -> None:
        """Refuse workers that do not see the runs folder or run other code; settle the number of threads."""
        workers = self.workers()
        if not workers:
            raise InputError(f"the scheduler {self.scheduler} has no workers; start some: dask worker {self.scheduler}")
        answers = self.client.run(inspect, self.expected, on_error="return")
        for address, answer in answers.items():
            problem = answer.get("problem") if isinstance(answer, dict) else _in_words(answer)
            if problem:
                raise InputError(f"worker {address} {problem}")
        if not self.threads:
            at_a_time: dict[str, int] = {}
            for worker in workers.values():
                at_a_time[worker["host"]] = at_a_time.get(worker["host"], 0) + worker["nthreads"]
            # One number for all: the order of sums follows it, and a stage may move to another worker.
            cores = {workers[a]["host"]: answer["cores"] for a, answer in answers.items() if a in workers}
            self.threads = max(1, min(cores.get(host, 1) // count for host, count in at_a_time.items()))

    def room(self, job: Job) -> bool:
        """Whether a worker is free for it, so that what was started runs; one may always wait at the scheduler."""
        if not self.alive() or not self.running:
            return self.alive()
        workers = self.workers().values()
        gpus = sum(worker["resources"].get("GPU", 0) for worker in workers)
        if gpus and job.stage not in NO_GPU and sum(j.stage not in NO_GPU for j in self.running.values()) >= gpus:
            return False
        return len(self.running) < sum(worker["nthreads"] for worker in workers)

    def start(self, job: Job) -> None:
        gpu = job.stage not in NO_GPU and any("GPU" in w["resources"] for w in self.workers().values())
        key = f"{self.driver}-{next(self.numbers)}"  # never the same one twice: Dask knows a task by it
        spec = {**asdict(job), "folder": str(job.folder)}
        self.running[key] = job
        # No `retries`: they would repeat failed stages too. A stage whose worker is lost is moved by the scheduler.
        resources = {"GPU": 1} if gpu else None
        call = (run_stage, spec, self.expected, self.threads, key)
        future = self.client.submit(*call, key=key, pure=False, resources=resources)
        self.futures[key] = future
        future.add_done_callback(lambda future: self.messages.put({"key": key, "kind": "ended"}))

    def events(self) -> Iterator[tuple]:
        try:
            message = self.messages.get(timeout=2)
        except queue.Empty:
            if not self.alive():
                for key in list(self.running):
                    yield "failed", self.running.pop(key), "the connection to the scheduler was lost"
            return
        job = self.running.get(message["key"])
        if job is None:
            return  # a late line
        if message["kind"] != "ended":
            yield message["kind"], job, message["value"]
            return
        del self.running[message["key"]]
        future = self.futures.pop(message["key"])
        try:
            answer = future.result()
        except Exception as error:  # KilledWorker, a lost scheduler, a worker without our packages
            yield "failed", job, _in_words(error)
            return
        if "seconds" in answer:
            yield "done", job, answer["seconds"]
        else:
            yield "failed", job, answer["failed"]


def _connect(client, address: str):
    if not re.fullmatch(r"(tcp|tls)://[^\s/]+:\d{1,5}", address):
        raise InputError(f"--scheduler is {address[:80]!r}; give the address of a Dask scheduler as tcp://HOST:PORT")
    try:
        return client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:  # TimeoutError is an OSError
        raise InputError(
            f"--scheduler {address[:80]}: no Dask scheduler answers there; start one (dask scheduler)"
        ) from error


def _in_words(error: BaseException) -> str:
    name, text = type(error).__name__, " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("kr_utils"):
        return "cannot import kr_utils: install this repository there (make does), or set PYTHONPATH to it"
    if name == "KilledWorker":
        return "the worker that ran it died, and so did those that took it up again (out of memory?)"
    if name in ("CancelledError", "FutureCancelledError"):
        return "the connection to the scheduler was lost"
    return f"{name}: {text[:200]}"


@contextlib.contextmanager
def _deaf():
    """No Ctrl-C, here and in processes started here."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------- on a worker


def inspect(expected: dict) -> dict:
    """On a worker: {"problem": why it cannot take stages, or "", "cores": it may use}."""
    return {"problem": _problem(expected), "cores": machine.bound()}


def _problem(expected: dict) -> str:
    token = Path(expected["token"])
    try:
        if token.read_text(encoding="utf-8") != expected["driver"]:
            return f"sees another folder than the driver in {token.parent}"
    except OSError:
        return f"cannot see the runs folder {token.parent}: all workers need it by the same path (--runs-dir)"
    if not os.access(token.parent, os.W_OK):
        return f"may not write to the runs folder {token.parent}"
    if expected["data_root"] and not Path(expected["data_root"]).is_dir():
        return f"cannot see the data folder {expected['data_root']}: all workers need it by the same path (--data-root)"
    if {LOADED, code.code_version()} != {expected["code"]}:
        return "runs other code than the driver: bring both to the same commit and start the worker again"
    for name, version in machine.versions().items():
        if version != expected["versions"].get(name):
            return f"has {name} {version}, the driver {expected['versions'].get(name)}: install the same version"
    return ""


def run_stage(spec: dict, expected: dict, threads: int, key: str) -> dict:
    """On a worker: execute one stage; returns {"seconds": ...} or {"failed": reason}, and logs events on the way."""
    from distributed import get_worker

    worker = get_worker()

    def tell(kind: str, value: str) -> None:
        worker.log_event(expected["driver"], {"key": key, "kind": kind, "value": value})

    tell("started", worker.address)
    problem = _problem(expected)  # a worker may have joined late
    if problem:
        return {"failed": f"worker {worker.address} {problem}"}
    os.environ.pop("MALLOC_TRIM_THRESHOLD_", None)  # Dask sets it for its workers; it would slow the kernels
    job = Job(**{**spec, "folder": Path(spec["folder"])})
    try:
        return {"seconds": execute.execute(job, lambda text: tell("line", text), threads, expected["driver"])}
    except execute.StageFailed as error:
        return {"failed": str(error)}
