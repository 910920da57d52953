"""A Dask cluster: its workers, its scheduler, who may use it; the same numbers from workers one of which is killed."""

import asyncio
import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, call, children, environment, kernels, med_arrays, own_set, wait_for

import run_all
from kr_utils import InputError, runs
from kr_utils.driver import cluster
from kr_utils.runs import machine

# ------------------------------------------------------------------ a cluster's workers


@pytest.fixture
def expected(tmp_path):
    token = tmp_path / ".driver-x"
    token.write_text("x")
    return {
        "token": str(token), "driver": "x", "data_root": str(tmp_path),
        "code": cluster.LOADED, "versions": machine.versions(),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"token": "/nonexistent/runs/.driver-x"}, "cannot see the runs folder /nonexistent/runs"),
        ({"driver": "y"}, "sees another folder than the driver"),
        ({"data_root": "/nonexistent/data"}, "cannot see the data folder /nonexistent/data"),
        ({"code": "0123"}, "runs other code than the driver"),
        ({"versions": {}}, "install the same version"),
    ],
)
def test_a_worker_that_differs_says_how(expected, change, words):
    assert cluster.inspect(expected) == {"problem": "", "cores": machine.bound()}
    assert words in cluster.inspect(expected | change)["problem"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--jobs", "0"], "'0' is not a whole number from 1 to 1024"),
        (["--jobs", "1e99"], "is not a whole number"),
        (["--threads", "-2"], "--threads"),
        (["--threads", "9" * 5000], "is not a whole number"),
        (["--jobs", "2", "--scheduler", "tcp://127.0.0.1:1"], "--jobs is for workers made here"),
        (["--scheduler", "nonsense://x"], "give the address of a Dask scheduler"),
        (["--scheduler", "tcp://192.0.2.1:8786"], "without encryption or certificates"),
        (["--scheduler", "tls://127.0.0.1:1"], "no certificates are named"),
        (["--scheduler", "tcp://127.0.0.1:1"], "no Dask scheduler answers there"),
    ],
)
def test_bad_options_give_one_line_and_exit_2(tmp_path, args, words):
    out = subprocess.run(call("--until", "start", *args), capture_output=True, text=True, env=environment(tmp_path))
    assert out.returncode == 2, out.stderr
    assert words in out.stderr
    assert "Traceback" not in out.stderr
    assert len([line for line in out.stderr.splitlines() if "error" in line]) == 1
    assert not list(tmp_path.rglob(".driver-*")), "the token is gone again"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("tcp://127.0.0.1:8786", ""),
        ("tcp://127.8.9.1:8786", ""),
        ("tcp://localhost:8786", ""),
        ("tcp://[::1]:8786", ""),
        ("tls://192.0.2.1:8786", ""),
        ("tls://node7.example.org:8786", ""),
        ("tcp://192.0.2.1:8786", "whoever reaches it runs code as you"),
        ("tcp://[2001:db8::1]:8786", "whoever reaches it runs code as you"),
        ("tcp://0.0.0.0:8786", "whoever reaches it runs code as you"),
        ("tcp://localhost.example.org:8786", "whoever reaches it runs code as you"),
        ("tcp://127.0.0.1.example.org:8786", "whoever reaches it runs code as you"),
        ("tcp://127.0.0.1", "give the address"),
        ("tcp://127.0.0.1:0", "give the address"),
        ("tcp://127.0.0.1:65536", "give the address"),
        ("tcp://user@127.0.0.1:8786/x", "give the address"),
        ("inproc://127.0.0.1:8786", "give the address"),
    ],
)
def test_plain_tcp_goes_to_this_computer_only(address, words):
    if not words:
        assert cluster.checked(address) == address
        return
    with pytest.raises(InputError, match=words):
        cluster.checked(address)
    if "runs code" in words:
        assert cluster.checked(address, insecure=True) == address


def test_a_neighbour_without_the_certificate_runs_nothing(tmp_path):
    """On no port that a local cluster opens: the scheduler's, the workers', the nannies', their web servers'."""
    from distributed import Security
    from distributed.core import rpc
    from distributed.protocol.pickle import dumps

    async def ask(port, scheme, security, operation):
        call = {"function": dumps(os.mkdir), "args": dumps((str(tmp_path / "made"),)), "kwargs": dumps({})}
        call = {"msg": {"op": "run", **call}} if operation == "broadcast" else call
        certificates = security.get_connection_args("client")
        async with rpc(f"{scheme}://127.0.0.1:{port}", timeout=2, connection_args=certificates) as there:
            await asyncio.wait_for(getattr(there, operation)(**call), 3)

    async def everywhere(ports):
        neighbours = (("tcp", Security()), ("tls", Security.temporary()))
        attempts = [
            ask(port, *who, operation) for port in ports for who in neighbours for operation in ("run", "broadcast")
        ]
        return await asyncio.gather(*attempts, return_exceptions=True)

    me = psutil.Process()
    before = {c.laddr.port for c in me.net_connections("tcp") if c.status == "LISTEN"}
    with cluster.Cluster(1, "", 1, tmp_path) as here:
        tree = [me, *me.children(recursive=True)]
        found = {c.laddr for p in tree for c in p.net_connections("tcp") if c.status == "LISTEN"}
        assert {address.ip for address in found} == {"127.0.0.1"}
        ports = {address.port for address in found} - before
        mine = [int(place.rpartition(":")[2]) for place in (here.client.scheduler.address, *here.workers())]
        assert set(mine) <= ports
        assert len(ports) >= 4, "scheduler, nanny, worker, web"
        answers = asyncio.run(everywhere(ports))
        assert all(isinstance(answer, Exception) for answer in answers), answers
        assert not (tmp_path / "made").exists()
        asyncio.run(ask(mine[1], "tls", here.client.security, "run"))
        assert (tmp_path / "made").exists(), "the same call does something for those who may"


def test_no_neighbour_can_put_a_module_on_a_workers_path(tmp_path, monkeypatch):
    """Dask imports from its scratch folder first, and takes any folder of that name, whoever made it."""
    trap = tmp_path / "shared/dask-scratch-space"
    trap.mkdir(parents=True)
    trap.chmod(0o777)
    monkeypatch.setenv("TMPDIR", str(trap.parent))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with cluster.Cluster(1, "", 1, tmp_path) as here:
        (found,) = here.client.run(_import_path).values()
        found += here.client.run_on_scheduler(_import_path)
        mine = {Path(name) for name in found if name.startswith(str(tmp_path))}
        assert mine, "Dask's folder is on the path"
        assert not [path for path in mine if trap in (path, *path.parents)]
        for path in mine:
            private = trap.parent / path.relative_to(trap.parent).parts[0]
            assert private.stat().st_mode & 0o077 == 0, private
    assert list(trap.parent.iterdir()) == [trap], "nothing is left"


def _import_path():
    return list(sys.path)


# ------------------------------------------------------------------ what may sit at a scheduler's address


def listening(serve):
    """The port of a server in a thread: `serve` gets each connection."""
    server = socket.create_server(("127.0.0.1", 0))

    def loop():
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                serve(connection)

    threading.Thread(target=loop, daemon=True).start()
    return server, server.getsockname()[1]


KEPT = []  # connections that stay open, without a word


@pytest.mark.parametrize(
    "serve",
    [
        lambda connection: connection.close(),
        KEPT.append,
        lambda connection: (connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), connection.close()),
        lambda connection: connection.sendall(bytes(64)),
        lambda connection: connection.sendall(os.urandom(4096)),
    ],
    ids=["closes", "says nothing", "speaks HTTP", "zeros", "noise"],
)
def test_what_is_no_scheduler_is_one_line_within_seconds(serve, monkeypatch):
    monkeypatch.setattr(cluster, "LOOK", 1)
    server, port = listening(serve)
    started = time.monotonic()
    with server, pytest.raises(InputError) as error:
        cluster._connect(f"tcp://127.0.0.1:{port}")
    assert time.monotonic() - started < 5
    assert f"--scheduler tcp://127.0.0.1:{port}: no Dask scheduler answers there" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_scheduler_of_another_version_is_named_with_both_versions():
    import distributed
    from distributed.core import Server

    loop, ready = asyncio.new_event_loop(), threading.Event()
    server = Server({"versions": lambda: {"packages": {"distributed": "2024.2.0"}}})

    async def listen():
        await server.listen("tcp://127.0.0.1:0")
        ready.set()

    def serve():
        loop.run_until_complete(listen())
        loop.run_forever()

    threading.Thread(target=serve, daemon=True).start()
    assert ready.wait(10)
    with pytest.raises(InputError) as error:
        cluster._connect(server.address)
    loop.call_soon_threadsafe(loop.stop)
    assert f"runs distributed 2024.2.0, the driver {distributed.__version__}: start it with" in str(error.value)


# ------------------------------------------------------------------ what may be wrong with this computer


def refuse(number):
    def call(*args, **options):
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize(
    ("function", "number", "words"),
    [
        ("create_connection", errno.ENETUNREACH, "Network is unreachable"),
        ("create_server", errno.EADDRINUSE, "Address already in use"),
    ],
)
def test_without_loopback_or_a_free_port_nothing_starts(jobs, function, number, words, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(socket, function, refuse(number))
    started = time.monotonic()
    assert run_all.main(["--profile", "smoke", "--until", "start", "--jobs", jobs]) == 2
    assert time.monotonic() - started < 5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"no kernel can be started here: 127.0.0.1 cannot be reached ({words})" in lines[0]
    assert not list(tmp_path.rglob("00_start_here*"))


def hang(*args, **options):
    time.sleep(5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (refuse(errno.EMFILE), "Too many open files"),
        (refuse(errno.EAGAIN), "Resource temporarily unavailable"),
        (hang, "no answer in time"),
    ],
)
def test_a_cluster_that_cannot_be_made_is_one_line(make, words, monkeypatch, capsys, tmp_path):
    import distributed

    monkeypatch.setattr(distributed, "LocalCluster", make)
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    assert run_all.main(["--profile", "smoke", "--until", "start", "--jobs", "2"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "--jobs 2: no cluster can be started on this computer" in lines[0]
    assert words in lines[0]
    assert not list(tmp_path.rglob(".driver-*")), "the token is gone again"


# ------------------------------------------------------------------ real processes


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def scheduler_and_workers(start, scheme="tcp", **certificates):
    """A real scheduler on loopback, its process, and a function that adds a worker process: (address, process)."""
    tool = [sys.executable, "-m", "dask"]
    address = f"{scheme}://127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    web = ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]  # loopback for everything
    host = f"{scheme}://127.0.0.1"
    scheduler = start([*tool, "scheduler", "--host", host, "--port", port, *web], "scheduler", **certificates)

    def worker(log, *args, **more):
        mine = free_port()
        options = ["--host", host, "--worker-port", str(mine), "--nthreads", "1", "--no-nanny", *web]
        process = start([*tool, "worker", address, *options, *args], log, **certificates, **more)
        return f"{scheme}://127.0.0.1:{mine}", process

    return address, scheduler, worker


@pytest.fixture
def dask(start):
    address, _, worker = scheduler_and_workers(start)
    return address, worker


def results(root):
    """Everything that must not depend on where a stage ran: metrics without their speeds, weights, curves, images."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.name == "metrics.json":
            metrics = json.loads(path.read_text())
            metrics.pop("images_per_second", None)  # the only measured time among the metrics
            found[name] = json.dumps(metrics)
        elif path.suffix == ".safetensors":  # its writer puts the header's notes in a random order, so it is parsed
            whole = path.read_bytes()
            start = 8 + int.from_bytes(whole[:8], "little")
            found[name] = json.loads(whole[8:start]), whole[start:]
        elif path.suffix in (".csv", ".npz"):
            found[name] = path.read_bytes()
    return found


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(tmp_path, start, dask):
    """Two datasets on two real workers, one killed with -9 in the middle of a stage."""
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    (tmp_path / "data").mkdir()
    own_set(tmp_path / "data", med_arrays(n=(80, 20, 20)))
    options = ["--datasets", "digits,mine", "--seeds", "0", "--data-root", tmp_path / "data", "--threads", "1"]
    options += ["--until", "generator", "--set", "generator.steps=20", "--set", "teacher.epochs=1"]

    address, worker = dask
    workers = dict(worker(f"worker{k}") for k in range(2))
    wait_for(lambda: "Registered to" in (tmp_path / "worker1").read_text(), "the workers have joined")
    wait_for(lambda: "Registered to" in (tmp_path / "worker0").read_text(), "the workers have joined")
    driver = start(call(*options, "--scheduler", address), "driver")
    log = tmp_path / "driver"
    dataset, seed, where = wait_for(
        lambda: re.search(r"(\w+) seed (\d)  02_generator  \(.*on (tcp://\S+)\)", log.read_text()), "a Generator starts"
    ).groups()
    folder = tmp_path / "runs/smoke" / dataset / f"seed{seed}"
    wait_for((folder / "02_generator.partial").exists, "it trains")
    orphans = children(workers[where].pid)
    workers[where].kill()
    assert orphans
    wait_for(lambda: not any(p.is_running() and p.status() != "zombie" for p in orphans), "its kernel ends too", 20)
    assert driver.wait(1500) == 0, log.read_text()
    text = log.read_text()
    assert f"{dataset} seed {seed}  02_generator  its worker was lost; taken up again on" in text
    assert "Traceback" not in text
    assert text.count("done in") == 6
    assert not kernels(tmp_path)
    hardware = {p.parent.name: json.loads(p.read_text())["hardware"] for p in tmp_path.rglob("manifest.json")}
    assert {stage: values["threads"] for stage, values in hardware.items()} == dict.fromkeys(hardware, 1)

    # The dataset that lost its worker, once more and alone
    options[1] = dataset
    alone = subprocess.run(
        call(*options), capture_output=True, text=True, env=environment(tmp_path, KR_RUNS=str(tmp_path / "alone"))
    )
    assert alone.returncode == 0, alone.stdout + alone.stderr
    spread_out, one_by_one = (results(tmp_path / folder / "smoke" / dataset) for folder in ("runs", "alone"))
    assert len([name for name in one_by_one if name.endswith("metrics.json")]) == 3
    assert set(spread_out) == set(one_by_one)
    assert [name for name in one_by_one if spread_out[name] != one_by_one[name]] == []


@pytest.mark.slow
def test_a_lost_scheduler_is_a_failure_in_one_line(tmp_path, start, dask):
    address, worker = dask
    worker("worker")
    wait_for(lambda: "Registered to" in (tmp_path / "worker").read_text(), "the worker has joined")
    options = ["--scheduler", address, "--keep-going", "--until", "teacher", "--set", "teacher.epochs=400"]
    driver = start(call(*options), "driver")
    wait_for(lambda: list(tmp_path.rglob("01_teacher.partial")), "the Teacher trains")
    port = address.rpartition(":")[2]
    scheduler = [p for p in psutil.Process().children() if {"scheduler", port} <= set(p.cmdline())]
    scheduler[0].kill()
    assert driver.wait(120) == 1
    text = (tmp_path / "driver").read_text()
    assert "failed: digits seed 0  01_teacher: the connection to the scheduler was lost" in text
    assert "Traceback" not in text
    wait_for(lambda: not kernels(tmp_path), "the worker ends, and its kernel", 60)


@pytest.mark.slow
def test_a_worker_of_other_code_or_without_a_gpu_for_it(tmp_path, start, dask):
    address, worker = dask
    other = tmp_path / "other"
    shutil.copytree(ROOT / "kr_utils", other / "kr_utils")
    shutil.copytree(ROOT / "notebooks", other / "notebooks")
    options = call("--until", "start", "--threads", "1", "--scheduler", address)
    out = subprocess.run(options, capture_output=True, text=True, env=environment(tmp_path))
    assert out.returncode == 2
    assert "has no workers" in out.stderr

    worker("good", "--resources", "GPU=1")
    wait_for(lambda: "Registered to" in (tmp_path / "good").read_text(), "the worker has joined")
    out = subprocess.run(
        call("--until", "teacher", "--scheduler", address, "--threads", "2"),
        capture_output=True, text=True, env=environment(tmp_path),
    )  # fmt: skip
    assert out.returncode == 0, out.stdout + out.stderr
    assert "on 1 workers of tcp://127.0.0.1" in out.stdout
    found = runs.find(tmp_path / "runs", "smoke")["digits", 0]
    assert found["teacher"].manifest["hardware"]["threads"] == 2, "torch took the threads that were asked for"
    assert found["start"].manifest["hardware"]["threads"] == 2

    with open(other / "kr_utils/seeds.py", "a") as file:
        file.write("\n# another version\n")
    bad, _ = worker("bad", PYTHONPATH=str(other))
    wait_for(lambda: "Registered to" in (tmp_path / "bad").read_text(), "the worker has joined")
    out = subprocess.run(options, capture_output=True, text=True, env=environment(tmp_path))
    assert out.returncode == 2, out.stdout + out.stderr
    assert f"worker {bad} runs other code than the driver" in out.stderr
    assert len(out.stderr.strip().splitlines()) == 1


def certificates(folder):
    """Dask's own variables, for certificates of all roles in files."""
    from distributed import Security

    made, variables = Security.temporary(), {"DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True"}
    folder.mkdir()
    for name, text in (("CERT", made.tls_client_cert), ("KEY", made.tls_client_key)):
        (folder / name).write_text(text)
        for role in ("SCHEDULER", "WORKER", "CLIENT"):
            variables[f"DASK_DISTRIBUTED__COMM__TLS__{role}__{name}"] = str(folder / name)
    return variables | {"DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(folder / "CERT")}


@pytest.mark.slow
def test_a_scheduler_with_certificates_works_for_those_who_have_them(tmp_path, start):
    ours, others = certificates(tmp_path / "ours"), certificates(tmp_path / "others")
    address, _, worker = scheduler_and_workers(start, "tls", **ours)
    worker("worker")
    wait_for(lambda: "Registered to" in (tmp_path / "worker").read_text(), "the worker has joined")

    def drive(address, variables):
        options = call("--until", "start", "--threads", "1", "--scheduler", address)
        return subprocess.run(options, capture_output=True, text=True, env=environment(tmp_path, **variables))

    for where, variables in ((address, others), (address.replace("tls", "tcp"), {})):
        out = drive(where, variables)
        assert out.returncode == 2, out.stdout
        assert f"--scheduler {where}: no Dask scheduler answers there" in out.stderr
        assert len(out.stderr.splitlines()) == 1
    out = drive(address, ours)
    assert out.returncode == 0, out.stdout + out.stderr
    assert f"on 1 workers of {address}" in out.stdout
    assert ("start" in runs.find(tmp_path / "runs", "smoke")["digits", 0]) is True


@pytest.mark.slow
def test_a_stopped_scheduler_ends_every_wait(tmp_path, start):
    """SIGSTOP: its connections stay open and say nothing. One driver waits, one gets Ctrl-C, one comes too late."""
    address, scheduler, worker = scheduler_and_workers(start)
    worker("worker")
    wait_for(lambda: "Registered to" in (tmp_path / "worker").read_text(), "the worker has joined")
    options = ["--until", "teacher", "--set", "teacher.epochs=400", "--scheduler", address]
    patient = start(call(*options, "--seeds", "0"), "patient")
    stopped = start(call(*options, "--seeds", "1"), "stopped")
    for log in ("patient", "stopped"):
        wait_for(lambda log=log: "on 1 workers of" in (tmp_path / log).read_text(), "the drivers are at work")
    wait_for(lambda: kernels(tmp_path), "a stage runs")

    os.kill(scheduler.pid, signal.SIGSTOP)
    late = start(call(*options, "--seeds", "2"), "late")
    os.killpg(stopped.pid, signal.SIGINT)
    time.sleep(1)
    os.killpg(stopped.pid, signal.SIGINT)
    assert stopped.wait(15) == 130
    assert late.wait(30) == 2
    assert patient.wait(60) == 1

    texts = {log: (tmp_path / log).read_text() for log in ("patient", "stopped", "late")}
    assert not [text for text in texts.values() if "Traceback" in text], texts
    assert texts["stopped"].endswith("stopped; what is finished is kept: the same command goes on from here\n")
    assert "no Dask scheduler answers there (no answer in time)" in texts["late"]
    failed = [line for line in texts["patient"].splitlines() if line.startswith("failed: ")]
    assert len(failed) == 1
    assert "the scheduler has not answered for 20 s (is it stopped?)" in failed[0]
