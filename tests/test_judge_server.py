"""A server that is started for a stage: real processes on loopback, ended in every way."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress

import pytest

from stllava.errors import JudgeError
from stllava.judging.server import LOG, PID, is_ready, running_server

# Serves chat completions after a while, with a child of its own that only a signal ends.
SERVER = """
import http.server, json, signal, subprocess, sys, time
port, delay, stubborn = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "stubborn"
if stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
time.sleep(delay)

class Handler(http.server.BaseHTTPRequestHandler):
    def say(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.say({"data": []})
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        said = {"index": 0, "finish_reason": "stop"}
        said["message"] = {"role": "assistant", "content": "8 7"}
        known = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
        self.say({**known, "choices": [said]})
    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def server(tmp_path):
    """(command, URL, folder): what running_server is told."""
    (tmp_path / "server.py").write_text(SERVER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def arguments(delay=0.0, kind="good"):
        command = f"{sys.executable} {tmp_path / 'server.py'} {port} {delay} {kind}"
        return {
            "command": command,
            "ready_url": f"http://127.0.0.1:{port}/v1/models",
            "folder": tmp_path / "judge",
            "timeout_s": 30,
            "grace_s": 0.5,
        }

    return arguments


def exists(pid):
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def child_of(folder):
    return int((folder / LOG).read_text().split("child ")[-1].split()[0])


def gone(*pids):
    for _ in range(100):
        if not any(map(exists, pids)):
            return True
        time.sleep(0.05)
    return False


def test_it_is_waited_for_serves_and_is_gone_afterwards_with_its_children(server):
    told = server(delay=0.5)
    with running_server(**told) as pid:
        assert is_ready(told["ready_url"])
        assert os.getpgid(pid) == pid != os.getpgid(0)
        child = child_of(told["folder"])
        assert exists(child)
    assert not is_ready(told["ready_url"])
    assert gone(pid, child)
    with pytest.raises(ChildProcessError):  # collected: no zombie is left
        os.waitpid(pid, os.WNOHANG)
    assert not (told["folder"] / PID).exists()


@pytest.mark.parametrize("kind", ["good", "stubborn"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_stage_stops_it_even_if_it_ignores_sigterm(server, kind, error):
    told, pids = server(kind=kind), []

    def stage():
        with running_server(**told) as pid:
            pids.extend([pid, child_of(told["folder"])])
            raise error

    with pytest.raises(error):
        stage()
    assert gone(*pids)


def test_an_early_death_is_reported_with_the_last_lines_of_its_log(server):
    told = server()
    told["command"] = (
        f"{sys.executable} -c \"import sys; print('loading'); sys.exit('no GPU here')\""
    )
    with (
        pytest.raises(JudgeError, match=r"code 1 before .* ends: .*loading.*no GPU here|no GPU"),
        running_server(**told),
    ):
        pass


def test_one_that_is_never_ready_is_stopped_in_time(server):
    told = {**server(delay=60), "timeout_s": 1.0}
    began = time.monotonic()
    with pytest.raises(JudgeError, match="did not answer within 1 s"), running_server(**told):
        pass
    assert time.monotonic() - began < 10
    assert gone(child_of(told["folder"]))


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("no-such-program serve", "no-such-program: No such file"),
        ("", "empty"),
        ("a 'b", "No clos"),
    ],
)
def test_a_command_that_cannot_be_started_is_one_line(server, command, says):
    with pytest.raises(JudgeError, match=says), running_server(**{**server(), "command": command}):
        pass


def test_a_port_that_answers_already_is_refused_and_the_leftover_named(server):
    told = server()
    with running_server(**told) as pid:
        again = pytest.raises(JudgeError, match=rf"already \(left .*kill -- -{pid}")
        with again, running_server(**told):
            pass
        assert exists(pid)


def test_the_environment_of_the_recipe_reaches_it(server, tmp_path):
    told = server()
    told["command"] = f"{sys.executable} -c \"import os, sys; sys.exit(os.environ['FOR_JUDGE'])\""
    with (
        pytest.raises(JudgeError, match="hello there"),
        running_server(**told, env={"FOR_JUDGE": "hello there"}),
    ):
        pass


STAGE = """
import sys, json, pathlib, time
from stllava.judging.server import running_server
told = json.loads(sys.argv[1])
told["folder"] = pathlib.Path(told["folder"])
with running_server(**told) as pid:
    print(pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_stage_takes_the_server_with_it(server, number):
    told = server()
    argument = json.dumps({**told, "folder": str(told["folder"])})
    stage = subprocess.Popen(
        [sys.executable, "-c", STAGE, argument], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        pid = int(stage.stdout.readline())
        child = child_of(told["folder"])
        stage.send_signal(number)
        assert stage.wait(20) != 0
        assert gone(pid, child)
    finally:
        with suppress(ProcessLookupError):
            stage.kill()
        stage.wait()
        stage.stdout.close()


def test_no_proxy_stands_between_us_and_the_server(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"http": "http://127.0.0.1:9"})
    told = server()
    with running_server(**told) as pid:
        assert is_ready(told["ready_url"])
    assert not exists(pid)
