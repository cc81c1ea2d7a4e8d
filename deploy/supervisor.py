"""`./dev run`: the servers, the simulator, the workers, the web process and the demo, as one command.

What crashes is started again. Ctrl-C, SIGTERM, a closed terminal or the demo's end stops everything in order
and within a deadline; a supervisor that is killed takes everything down with it.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp

from deploy import docker, provision
from deploy.local.ports import HOST, Ports
from deploy.local.process import ServerError
from deploy.local.secrets_file import Secrets
from deploy.local.stack import LOCAL, Stack
from deploy.migrations import migrate
from deploy.services import Keeper, python

_READY_DEADLINE_S = 60.0
_REPORT_DEADLINE_S = 120.0
_INTERRUPTED = 130
_DEMO_SAMPLES = "0.02"
# The simulator has no reason to be asked slowly; the real gateway's documented limits are the default elsewhere.
SIMULATED_LIMITS = json.dumps(
    dict.fromkeys(("create_order", "get_order", "get_payments", "create_refund", "get_refund"), 120_000)
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What `./dev run` was asked for. `seconds` of traffic; None: until stopped."""

    seconds: float | None
    demo: bool
    fresh: bool
    json: Path | None
    workers: int
    docker: bool
    local: Path = LOCAL
    trace: bool = False


async def run(plan: Plan) -> int:
    """Run the whole system until the demo ends or a signal comes; the demo's exit code, 0 without one.

    Errors: ServerError when something does not start; everything is stopped then, too.
    """
    signals = _Signals()
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(signal_number, signals.receive)
    return await _System(plan, signals).run()


class _Signals:
    """The first signal asks for an orderly end, the second for a quick one."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()

    def receive(self) -> None:
        (self.hurry if self.stop.is_set() else self.stop).set()


class _System:
    def __init__(self, plan: Plan, signals: _Signals) -> None:
        self._plan = plan
        self._signals = signals
        self._began = time.monotonic()
        self._keeper = Keeper(self._say)
        self._stack: Stack | None = None
        self._containers_run = False

    async def run(self) -> int:
        try:
            environment = await self._unless_stopped(self._start())
            return _INTERRUPTED if environment is None else await self._traffic(environment)
        finally:
            self._say("stopping")
            await self._keeper.stop()
            if self._stack is not None:
                await self._stack.stop()
            if self._containers_run:
                await docker.stop()
            self._say("stopped")

    async def _start(self) -> dict[str, str]:
        """Start everything; the environment of our processes."""
        given: Mapping[str, str] = os.environ
        if self._plan.docker:
            given = await docker.servers(fresh=self._plan.fresh, report=self._say)
            self._containers_run = True
        self._say("starting the servers")
        self._stack = stack = Stack(self._plan.local, given=given, fresh=self._plan.fresh, report=self._say)
        await stack.start()
        environment = {**given, **_settings(stack), **stack.environ()}
        self._say("applying migrations, declaring topics")
        await migrate(environment.get("DATABASE_DIRECT_URL", environment["DATABASE_URL"]))
        topics_url = environment.get("STREAM_ADMIN_URL", environment["STREAM_URL"])
        await provision.declare_topics(topics_url, int(environment["PARTITIONS"]))
        ports = Ports(stack.directory / "ports.json")
        metrics_ports = [ports.take(f"metrics-{number}") for number in range(1, self._plan.workers + 1)]
        urls = [f"http://{HOST}:{port}/metrics" for port in metrics_ports]
        stack.publish(
            {**_settings(stack), "METRICS_URLS": " ".join([f"{environment['WEB_URL']}/metrics", *urls])}
        )
        logs = stack.directory / "log"
        if self._plan.trace:
            environment |= self._start_collector(stack, logs)
        self._say("starting the simulator, the workers and the web process")
        simulator = ["gateway.simulator", "--port", environment["SIMULATOR_PORT"]]
        simulator += ["--webhook-url", environment["CASHFREE_WEBHOOK_URL"]]
        self._keeper.keep(python("simulator", simulator, environment, logs))
        for number, port in enumerate(metrics_ports, 1):
            own = {**environment, "METRICS_PORT": str(port)}
            self._keeper.keep(python(f"worker-{number}", ["agents", "--name", f"w{number}"], own, logs))
        self._keeper.keep(python("web", ["web", "--port", environment["WEB_PORT"]], environment, logs))
        await self._wait_ready(environment["WEB_URL"])
        self._say("ready")
        print(f"  live page   {environment['WEB_URL']}/")
        print(
            f"  API         {environment['WEB_URL']}/v1/   (Authorization: Bearer $API_TOKEN, see ./dev env)"
        )
        print(f"  metrics     {environment['WEB_URL']}/metrics")
        print(f"  Cashfree    {environment['CASHFREE_BASE_URL']}   (simulator)")
        print(f"  logs        {os.path.relpath(logs)}/", flush=True)
        return environment

    def _start_collector(self, stack: Stack, logs: Path) -> dict[str, str]:
        """What makes our processes trace: a collector of this machine's, unless the operator named one."""
        ratio = {"TRACE_SAMPLE_RATIO": os.environ.get("TRACE_SAMPLE_RATIO", _DEMO_SAMPLES)}
        if "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ:
            return ratio
        port = Ports(stack.directory / "ports.json").take("collector")
        arguments = ["deploy.observability.collector", "--port", str(port)]
        arguments += ["--file", str(stack.directory / "spans.jsonl")]
        self._keeper.keep(python("collector", arguments, os.environ, logs))
        return ratio | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{port}"}

    async def _traffic(self, environment: Mapping[str, str]) -> int:
        plan = self._plan
        if not plan.demo:
            await self._stopped(plan.seconds)
            return 0
        if find_spec("bench.demo") is None:
            raise ServerError("there is no bench.demo to make traffic: use --no-demo")
        arguments = ["bench.demo"]
        arguments += [] if plan.seconds is None else ["--for", str(plan.seconds)]
        arguments += [] if plan.json is None else ["--json", str(plan.json)]
        demo = python("demo", arguments, environment, Path(os.devnull).parent)
        demo.inherit_output = True
        demo.start()
        try:
            while demo.running and not self._signals.stop.is_set():
                await asyncio.sleep(0.1)
            if demo.running:
                self._say("ending the traffic and judging it; Ctrl-C again to leave at once")
                demo.send(signal.SIGINT)
                deadline = time.monotonic() + _REPORT_DEADLINE_S
                while demo.running and not self._signals.hurry.is_set() and time.monotonic() < deadline:
                    await asyncio.sleep(0.1)
        finally:
            demo.kill9()
        return demo.exit_code if demo.exit_code is not None and demo.exit_code >= 0 else 1

    async def _stopped(self, seconds: float | None) -> None:
        try:
            await asyncio.wait_for(self._signals.stop.wait(), seconds)
        except TimeoutError:
            self._say(f"{seconds:.0f} s are over")

    async def _wait_ready(self, url: str) -> None:
        deadline = time.monotonic() + _READY_DEADLINE_S
        problem = "no answer"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while time.monotonic() < deadline:
                try:
                    async with session.get(f"{url}/readyz") as answer:
                        if answer.status == 200:
                            return
                        problem = f"{answer.status} {await answer.text()}"
                except (aiohttp.ClientError, TimeoutError) as error:
                    problem = str(error) or type(error).__name__
                await asyncio.sleep(0.1)
        logs = "\n".join(f"--- {service.name}\n{service.log_tail(15)}" for service in self._keeper.services)
        raise ServerError(f"the system was not ready in {_READY_DEADLINE_S:.0f} s: {problem}\n{logs}")

    async def _unless_stopped(self, work: Coroutine[Any, Any, dict[str, str]]) -> dict[str, str] | None:
        """The work's result; None, with the work cancelled, if a signal came first."""
        task = asyncio.create_task(work)
        stopped = asyncio.create_task(self._signals.stop.wait())
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return None

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._began:5.1f} s] {text}", flush=True)


def _settings(stack: Stack) -> dict[str, str]:
    """What our processes need to know beside the servers' addresses; an operator's own setting wins."""
    ports, secrets = Ports(stack.directory / "ports.json"), Secrets(stack.directory / "secrets.json")
    simulator, web = ports.take("simulator"), ports.take("web")
    defaults = {
        "PARTITIONS": "16",
        "CONSUMER_GROUP": "commdesk",
        "WEB_PORT": str(web),
        "WEB_URL": f"http://{HOST}:{web}",
        "SIMULATOR_PORT": str(simulator),
        "CASHFREE_BASE_URL": f"http://{HOST}:{simulator}/pg",
        "CASHFREE_CLIENT_ID": "simulated",
        "CASHFREE_CLIENT_SECRET": secrets.get("cashfree"),
        "CASHFREE_WEBHOOK_SECRETS": secrets.get("cashfree"),
        "CASHFREE_LIMITS_PER_MINUTE": SIMULATED_LIMITS,
        "CASHFREE_WEBHOOK_URL": f"http://{HOST}:{web}/v1/webhooks/cashfree",
        "DEVELOPMENT": "true",
        "API_TOKEN": secrets.get("api_token"),
    }
    return {name: os.environ.get(name, value) for name, value in defaults.items()}
