"""Running stages on a Dask cluster: worker processes made here, or those of a running scheduler.

Dask is imported only where a cluster is used. It pickles the calls that it sends; what is sent from here is a
module-level function, by its name, and plain texts, numbers, lists and dicts. Whoever can talk to a scheduler can
run code on its workers, so the cluster made here takes only those who hold a certificate that lives in this
process, and plain tcp:// to another computer needs a word of consent.

Nothing here waits for ever: a scheduler that says nothing for `PATIENCE` seconds is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import logging
import os
import queue
import re
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from kr_utils import InputError, owned
from kr_utils.driver import execute
from kr_utils.driver.plan import Job
from kr_utils.runs import code, machine

LOADED = code.code_version()  # of the code in this process; a worker may be older than its files
NO_GPU = {"start", "audit", "compare"}  # stages that a GPU would not help
PATIENCE = 20  # seconds that a scheduler may take for an answer
LOOK = 5  # seconds that a connection to it, and a first word, may take
FAREWELL = 5  # seconds that each step of the closing may take
LOST = "the connection to the scheduler was lost"
SILENT = f"the scheduler has not answered for {PATIENCE} s (is it stopped?)"


class Cluster:
    """Executes on a Dask cluster: `jobs` worker processes made here, or those of a running scheduler.

    Parameters
    ----------
    jobs : worker processes, of one thread each; 0 with `scheduler`
    scheduler : address of a running one, or ""
    threads : of a stage's kernel; 0: the cores of a worker's computer divided by the stages that it runs at a time
    root : the runs folder, absolute; the workers must see it by the same path
    data_root : folder of the data files, or "" where none is needed
    insecure : talk to a scheduler on another computer without encryption and certificates
    """

    def __init__(
        self, jobs: int, scheduler: str, threads: int, root: Path, data_root: str = "", insecure: bool = False
    ):
        # Where, and what of this driver the workers must match
        self.jobs, self.scheduler = jobs, scheduler and checked(scheduler, insecure)
        self.threads = threads or max(1, machine.cores() // jobs) if jobs else threads
        self.driver = secrets.token_hex(8)
        self.token = root / f".driver-{self.driver}"
        self.expected = {"token": str(self.token), "driver": self.driver, "data_root": data_root, "code": LOADED}
        self.expected["versions"] = machine.versions()

        # What is under way
        self.messages: queue.Queue = queue.Queue()
        self.running: dict[str, Job] = {}
        self.futures: dict[str, object] = {}
        self.numbers = itertools.count()
        self.lost = ""  # why the scheduler counts as lost
        self.heard = time.monotonic()
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> Cluster:
        # What a lost connection means is told here, in one line; the import makes the loggers
        import distributed  # noqa: F401

        for name in list(logging.root.manager.loggerDict):
            if name.partition(".")[0] in ("distributed", "tornado", "asyncio"):
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)

        try:
            owned.write(self.token, self.driver)
            self.stack.callback(owned.remove, self.token)
            self.client = _connect(self.scheduler) if self.scheduler else self.local()
            self.finally_(self.client.close, timeout=FAREWELL)
            self.check()
            self.client.subscribe_topic(self.driver, lambda event: self.messages.put(event[1]))
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *error) -> None:
        """Cancel what waits, end the kernels of what runs, then the cluster if it is ours."""
        # A second Ctrl-C must not leave kernels behind; it counts again when they have been told, in seconds.
        with self.stack, _deaf():
            if not self.running:
                return
            try:
                if self.lost:
                    raise TimeoutError
                self.client.cancel(list(self.futures.values()))
                self.client.run(execute.stop, self.driver, on_error="ignore", callback_timeout=FAREWELL)
                time.sleep(0.2)
            except Exception:  # workers that are gone have no kernels to end
                print("the scheduler does not answer: what its workers run now ends by itself", file=sys.stderr)

    def finally_(self, close, **options) -> None:
        """At the end, call `close`; what it finds broken or silent then is of no interest."""

        def quietly() -> None:
            with contextlib.suppress(Exception):
                close(**options)

        self.stack.callback(quietly)

    def local(self):
        """The client of a new cluster on this computer; InputError where none can be made."""
        import dask
        from distributed import Client, LocalCluster, Security

        # No dashboard; its server starts all the same: it must not listen to the network, nor tell neighbours.
        web = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
        settings = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
        # Dask's profiler keeps a call tree per second of a thread that only waits for its kernel.
        settings["distributed.worker.profile.enabled"] = False
        # Dask puts its folder first on the path of imports: it must be one that no neighbour can make or enter.
        private = self.stack.enter_context(tempfile.TemporaryDirectory("", "kr-cluster-", ignore_cleanup_errors=True))
        settings["temporary-directory"] = private
        try:
            # Ctrl-C in a terminal goes to all its processes; the workers are ended from here, in order.
            with _deaf(), dask.config.set(settings):
                # Kernels hold the memory, not the workers, so Dask's limit would be of the wrong process.
                cluster = _within(
                    3 * PATIENCE, LocalCluster, n_workers=self.jobs, threads_per_worker=1, host="127.0.0.1",
                    scheduler_kwargs=web, worker_dashboard_address=web["dashboard_address"], memory_limit=0,
                    local_directory=private, silence_logs="CRITICAL", security=Security.temporary(),
                )  # fmt: skip
            self.finally_(cluster.close, timeout=2 * FAREWELL)
            return Client(cluster, timeout=PATIENCE, set_as_default=False)
        except (OSError, RuntimeError) as error:  # no more processes or open files, a worker that hangs
            reason = _in_words(error.__cause__ or error)
            raise InputError(
                f"--jobs {self.jobs}: no cluster can be started on this computer ({reason}); "
                "see to its limits on processes and open files, or leave --jobs out"
            ) from error

    def place(self) -> str:
        """In words."""
        return f"{len(self.workers())} workers of {self.scheduler}" if self.scheduler else f"{self.jobs} workers"

    def alive(self) -> bool:
        """Whether the scheduler is there, or may come back within Dask's time for that."""
        if not self.lost and self.client.status not in ("running", "connecting"):
            self.lost = LOST
        return not self.lost

    def workers(self) -> dict[str, dict]:
        """Address -> what the scheduler knows of each worker; none while it cannot be asked."""
        for _ in range(2):  # asked twice: a driver that was itself stopped for a while finds the first time run out
            scheduler = self.client.scheduler
            if not self.alive() or scheduler is None:
                return {}
            try:
                found = self.client.sync(scheduler.identity, n_workers=-1, callback_timeout=PATIENCE / 2)
            except TimeoutError:
                continue
            except OSError:
                return {}
            self.heard = time.monotonic()
            return found["workers"]
        if self.alive():
            self.lost = SILENT
        return {}

    def check(self) -> None:
        """Refuse workers that do not see the runs folder or run other code; settle the number of threads."""
        workers = self.workers()
        if not workers:
            raise InputError(f"the scheduler {self.scheduler} has no workers; start some: dask worker {self.scheduler}")

        # Each worker says what hinders it
        try:
            answers = self.client.run(inspect, self.expected, on_error="return", callback_timeout=3 * PATIENCE)
        except TimeoutError:
            raise InputError(
                f"a worker of {self.scheduler} has not answered for {3 * PATIENCE} s; end it, or the scheduler"
            ) from None
        for address, answer in answers.items():
            problem = answer.get("problem") if isinstance(answer, dict) else _in_words(answer)
            if problem:
                raise InputError(f"worker {address} {problem}")

        # One number for all: the order of sums follows it, and a stage may move to another worker
        if not self.threads:
            at_a_time: dict[str, int] = {}
            for worker in workers.values():
                at_a_time[worker["host"]] = at_a_time.get(worker["host"], 0) + worker["nthreads"]
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
        # Nothing to tell: is the scheduler still there?
        try:
            message = self.messages.get(timeout=2)
        except queue.Empty:
            if time.monotonic() - self.heard > PATIENCE / 4:
                self.workers()
            if not self.alive():
                for key in list(self.running):
                    yield "failed", self.running.pop(key), self.lost
            return

        # Lines and starts on the way
        job = self.running.get(message["key"])
        if job is None:
            return  # a late line
        if message["kind"] != "ended":
            yield message["kind"], job, message["value"]
            return

        # The end of a stage
        del self.running[message["key"]]
        future = self.futures.pop(message["key"])
        try:
            answer = future.result(timeout=PATIENCE)
        except Exception as error:  # KilledWorker, a lost scheduler, a worker without our packages
            yield "failed", job, _in_words(error)
            return
        if "seconds" in answer:
            yield "done", job, answer["seconds"]
        else:
            yield "failed", job, answer["failed"]


def checked(address: str, insecure: bool = False) -> str:
    """The address of a scheduler; InputError where it is none, or would be another computer without encryption."""
    found = re.fullmatch(r"(tcp|tls)://(\[[0-9a-fA-F:.]+\]|[^\s/:\[\]]+):(\d{1,5})", address)
    if not found or not 0 < int(found[3]) < 2**16:
        raise InputError(
            f"--scheduler is {address[:80]!r}; give the address of a Dask scheduler as tls://HOST:PORT or tcp://HOST:PORT"
        )
    if found[1] == "tcp" and not insecure and not _here(found[2].strip("[]")):
        raise InputError(
            f"--scheduler {address[:80]} is another computer, without encryption or certificates: whoever reaches it "
            "runs code as you; use tls:// (see docs/running.md), or add --insecure in a network that you trust"
        )
    return address


def _here(host: str) -> bool:
    """Whether a host is this computer's loopback, which no other computer reaches. No name is looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _connect(address: str):
    """A client of the scheduler at `address`; InputError in seconds where there is none, or another version."""
    import distributed

    # Certificates, where Dask's configuration names some
    try:
        security = distributed.Security()
        certificates = security.get_connection_args("client")
    except (OSError, ValueError) as error:
        raise InputError(f"--scheduler {address}: the certificates cannot be used ({_in_words(error)})") from error
    if address.startswith("tls") and not certificates["ssl_context"]:
        raise InputError(
            f"--scheduler {address}: no certificates are named; set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, "
            "..._CLIENT__CERT and ..._CLIENT__KEY (see docs/running.md)"
        )

    # A look first: Dask's own client knows no better than to try for long
    try:
        there = asyncio.run(asyncio.wait_for(_versions(address, certificates), 2 * LOOK))
        if there != distributed.__version__:
            raise InputError(
                f"--scheduler {address} runs distributed {there}, the driver {distributed.__version__}: "
                "start it with the packages of requirements.txt"
            )
        return distributed.Client(address, security=security, timeout=10, set_as_default=False)
    except InputError:
        raise
    except Exception as error:  # whatever may sit at that port, or sits there stopped
        raise InputError(
            f"--scheduler {address}: no Dask scheduler answers there ({_in_words(error)}); start one: dask scheduler"
        ) from error


async def _versions(address: str, certificates: dict) -> str:
    """The version of distributed that a scheduler runs."""
    from distributed.core import rpc

    async with rpc(address, timeout=LOOK, connection_args=certificates) as scheduler:
        answer = await scheduler.versions()
    return str(answer["packages"]["distributed"])[:20]


def _in_words(error: BaseException) -> str:
    name, text = type(error).__name__, " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("kr_utils"):
        return "cannot import kr_utils: install this repository there (make does), or set PYTHONPATH to it"
    if name == "KilledWorker":
        return "the worker that ran it died, and so did those that took it up again (out of memory?)"
    if name in ("CancelledError", "FutureCancelledError"):
        return LOST
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{name}: {text[:200]}"


def _within(seconds: float, function: Callable, **options):
    """What `function` returns; TimeoutError after so many seconds, for Dask knows no end of this wait."""
    answers: queue.Queue = queue.Queue()

    def call() -> None:
        try:
            answers.put((function(**options), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=call, daemon=True).start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"nothing for {seconds} s") from None
    if error:
        raise error
    return value


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
    # The folders
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

    # The computer, the code, the packages
    if problem := machine.no_loopback():
        return f"can start no kernel: {problem}"
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
