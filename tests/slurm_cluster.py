"""A real SLURM of one node on this machine: munged, slurmctld and slurmd under one temporary folder.

No accounting, no cgroups, no binding of tasks: what a laptop or a container allows. The node claims
more than the machine has (``config_overrides``), so that the requests of the profile fit anywhere.
"""

from __future__ import annotations

import ctypes
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")
ADMIN_PATH = ("/usr/sbin", "/sbin", "/usr/local/sbin")
NODE_TIMEOUT_S = 5
PR_SET_PDEATHSIG = 1

CONFIG = """\
ClusterName=interptfm_test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=3600
KillWait=2
SlurmdTimeout={timeout}
SlurmctldTimeout=30
InactiveLimit=0
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SrunPortRange={first_port}-{last_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mb} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """Return the programs of SLURM and munge that this machine lacks."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *ADMIN_PATH])
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


def free_ports(count: int) -> list[int]:
    """Return that many TCP ports of the loopback that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> object:
    """Return the first true value of ``condition()``; TimeoutError that says ``what`` was awaited."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.25)


def processes_with(text: str) -> list[int]:
    """Return the ids of the processes, this one excepted, whose command line or environment has ``text``."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            known = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if text.encode() in known:
            found.append(int(entry.name))
    return found


def end_with_parent() -> None:
    """Ask the kernel to end this (child) process when the tests' process dies, however it dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def end_processes(pids: Iterable[int], sign: int = signal.SIGKILL) -> None:
    """Signal each process; one that has ended already is no mistake."""
    for pid in pids:
        try:
            os.kill(pid, sign)
        except ProcessLookupError:
            pass


class Cluster:
    """The three daemons; a context manager that stops whatever it or its jobs started.

    Parameters
    ----------
    folder
        An empty folder with a short path (a socket in it may have at most about 100 characters).
    cpus, memory_mb, gpus
        What the node claims to have; the GPUs are /dev/null.
    """

    def __init__(self, folder: Path, cpus: int = 16, memory_mb: int = 64_000, gpus: int = 1) -> None:
        self.folder = folder
        self.host = socket.gethostname().split(".")[0]
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("SLURM")},
            "PATH": os.pathsep.join([str(folder / "bin"), os.environ.get("PATH", ""), *ADMIN_PATH]),
            "SLURM_CONF": str(folder / "slurm.conf"),
        }
        for name in ("state", "spool", "bin"):
            (folder / name).mkdir(mode=0o755)
        # Snakemake's job step drops SLURM_CONF before it calls srun: on a cluster the file has its usual
        # place, here a wrapper names it again.
        srun = folder / "bin" / "srun"
        srun.write_text(
            f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun") or "srun"} "$@"\n'
        )
        srun.chmod(0o755)
        controller, node = free_ports(2)
        first = max(controller, node) + 1 if max(controller, node) < 65_000 else 60_001
        (folder / "slurm.conf").write_text(
            CONFIG.format(
                host=self.host,
                user=getpass.getuser(),
                folder=folder,
                timeout=NODE_TIMEOUT_S,
                controller_port=controller,
                node_port=node,
                first_port=first,
                last_port=first + 200,
                cpus=cpus,
                memory_mb=memory_mb,
                gpus=gpus,
            )
        )
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n" if gpus else "")
        (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        self.daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Cluster:
        try:
            key = self.folder / "munge.key"
            key.write_bytes(os.urandom(1024))
            key.chmod(0o400)
            self._start(
                "munged",
                "--foreground",
                "--force",
                f"--socket={self.folder}/munge.socket",
                f"--key-file={key}",
                f"--pid-file={self.folder}/munged.pid",
                f"--log-file={self.folder}/munged.log",
                f"--seed-file={self.folder}/munged.seed",
            )
            wait_for((self.folder / "munge.socket").exists, 20, "the socket of munged")
            self._start("slurmctld", "-D", "-c")
            self.start_node()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self, name: str, *arguments: str) -> None:
        program = shutil.which(name, path=self.environment["PATH"])
        with open(self.folder / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen(
                [str(program), *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def start_node(self) -> None:
        """Start slurmd and wait until the node takes jobs."""
        self._start("slurmd", "-D", "-f", str(self.folder / "slurm.conf"))
        try:
            wait_for(lambda: self.node_state() in ("idle", "mixed", "mix"), 60, "the node to become idle")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; state {self.node_state()!r}\n{self.logs()}") from None

    def kill_node(self) -> None:
        """Kill slurmd and every job on the node at once, as a power cut would, and report the node down.

        Without the report SLURM notices by itself, half a minute later.
        """
        daemon = self.daemons.pop("slurmd")
        daemon.kill()
        daemon.wait(timeout=10)
        end_processes(self._job_processes())
        self.command("scontrol", "update", f"NodeName={self.host}", "State=DOWN", "Reason=killed")

    def node_state(self) -> str:
        """Return the state of the node as sinfo gives it, without its flags."""
        return self.command("sinfo", "--noheader", "--format=%T", check=False).strip().strip("*~#$@^-+!")

    def command(self, *arguments: str, check: bool = True) -> str:
        """Run one SLURM command and return what it printed."""
        done = subprocess.run(
            arguments, env=self.environment, capture_output=True, text=True, check=check, timeout=30
        )
        return done.stdout

    def jobs(self, state: str = "all") -> dict[str, dict[str, str]]:
        """Return job id → name, state, comment, gres, CPUs, memory and time limit of all jobs known."""
        fields = {
            "id": "%A",
            "name": "%j",
            "state": "%T",
            "comment": "%k",
            "gres": "%b",
            "cpus": "%C",
            "memory": "%m",
            "time": "%l",
        }
        text = self.command(
            "squeue", "--noheader", f"--states={state}", f"--format={'|'.join(fields.values())}"
        )
        rows = [dict(zip(fields, line.split("|"))) for line in text.splitlines() if line]
        return {row["id"]: row for row in rows}

    def logs(self, lines: int = 15) -> str:
        """Return the ends of the daemons' logs, for a message."""
        parts = []
        for path in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")]):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            parts.append("\n".join([f"== {path.name}", *tail]))
        return "\n".join(parts)

    def _job_processes(self) -> list[int]:
        """Ids of the processes of jobs: slurmstepd, and what it runs (its environment names this cluster)."""
        daemons = {daemon.pid for daemon in self.daemons.values()}
        found = []
        for pid in processes_with(f"SLURM_CONF={self.folder}/"):
            try:
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                environment = Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            in_job = b"SLURM_JOB_ID=" in environment or name.startswith("slurmstepd")
            if in_job and pid not in daemons:
                found.append(pid)
        return found

    def stop(self) -> None:
        """Cancel the jobs, end the daemons in reverse order, and kill what is left of this cluster."""
        if {"slurmctld", "slurmd"} <= self.daemons.keys():
            try:
                self.command("scancel", f"--user={getpass.getuser()}", check=False)
                wait_for(lambda: not self._job_processes(), 10, "the jobs to end")
            except (TimeoutError, subprocess.TimeoutExpired):
                pass
        for name in ("slurmd", "slurmctld", "munged"):
            daemon = self.daemons.pop(name, None)
            if daemon is None:
                continue
            daemon.terminate()
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait(timeout=10)
        end_processes(self.leftovers())

    def leftovers(self) -> list[int]:
        """Return the ids of processes that belong to this cluster, daemons included."""
        return [
            pid
            for pid in processes_with(f"{self.folder}/")
            if pid not in {daemon.pid for daemon in self.daemons.values()}
        ]
