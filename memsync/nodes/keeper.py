"""The keeper: starts a process again when it died. One small process for each that it keeps.

    python -I -S memsync/nodes/keeper.py --name peer-1 -- \
        python -m memsync.nodes.peer --config peer-1.toml
    python -I -S memsync/nodes/keeper.py --listen 127.0.0.1:8080 --name gateway-1 --name gateway-2 \
        -- python -m memsync.nodes.gateway --config {name}.toml

Several children share the command, in which {name} stands for each one's name, and the listening
socket, whose number they find in `MEMSYNC_LISTEN_FD`. Because the socket is the keeper's,
connections wait in it while a child is started again, and a frozen child takes none.

- A child that ends is started again after 0.1 s, doubling to 5 s; one that lived 10 s starts anew
  at 0.1.
- Exit code 2 means a wrong configuration: starting again would not help. That child stays down, and
  the keeper ends with 2 when no other child is left.
- SIGTERM and SIGINT end the children with SIGTERM (with SIGKILL after the grace) and then the
  keeper.
- A keeper that is killed takes its children along: nothing lives on that nobody would start again.
- `$MEMSYNC_HOME/run/<name>.pid` is the child, `run/keepers/<name>.pid` the keeper.

It stands beside every process of a cluster, so it imports almost nothing: about 9 MB resident, of
which 2.7 MB are its own and the rest is the interpreter, shared by all (Python 3.11).
"""

from __future__ import annotations

# `signal` and `socket` are these two and an import of `enum`, which costs 0.9 MB in each keeper.
import _signal as signal  # type: ignore[import-not-found]
import _socket as socket
import os
import sys
import time
from select import select

BACKOFF_S_FIRST = 0.1
BACKOFF_S_MAX = 5.0
LONG_LIFE_S = 10.0
GRACE_S_DEFAULT = 10.0
EXIT_CONFIGURATION = 2
ENDING = (signal.SIGTERM, signal.SIGINT)
LISTEN_BACKLOG = 1_024
LISTEN_VARIABLE = "MEMSYNC_LISTEN_FD"
PR_SET_PDEATHSIG = 1  # from linux/prctl.h
USAGE = "usage: keeper.py [--listen HOST:PORT] [--grace-s SECONDS] --name NAME... -- COMMAND..."


class Options:
    """What the command line says."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.command: list[str] = []
        self.listen = ""
        self.grace_s = GRACE_S_DEFAULT
        self.home = os.environ.get("MEMSYNC_HOME") or os.path.abspath(".memsync")


class Child:
    """One process that is kept. `pid` is 0 while it is down."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self.command = [part.replace("{name}", name) for part in command]
        self.pid = 0
        self.started_at = 0.0
        self.backoff_s = BACKOFF_S_FIRST
        self.start_at = 0.0  # when it is due
        self.is_given_up = False


class Keeper:
    """Starts, watches and ends the children; one thread that sleeps until a signal comes."""

    def __init__(self, options: Options) -> None:
        self.home = options.home
        self.grace_s = options.grace_s
        self.children = [Child(name, options.command) for name in options.names]
        self.kill_at: float | None = None  # set once the keeper was asked to end
        self.environment = dict(os.environ)
        self.environment["MEMSYNC_HOME"] = options.home
        self.environment.pop(LISTEN_VARIABLE, None)
        if options.listen:
            self.socket = listening_socket(options.listen)  # held here, so that it stays open
            self.environment[LISTEN_VARIABLE] = str(self.socket.fileno())

    def run(self) -> int:
        """Keep the children until asked to end; returns the exit code."""
        wake_up = self._watch_signals()
        for child in self.children:
            write_pid(self._keeper_pid_file(child), os.getpid())
        while self._has_work():
            self._reap()
            self._start_due()
            self._kill_late()
            if self._has_work():
                select([wake_up], [], [], self._next_s())
                _drain(wake_up)
        for child in self.children:
            remove(self._keeper_pid_file(child))
        failed = any(child.is_given_up for child in self.children)
        return EXIT_CONFIGURATION if failed and self.kill_at is None else 0

    def end(self, *_: object) -> None:
        """Ask every child to end; what is left is killed after the grace."""
        if self.kill_at is None:
            self.kill_at = time.monotonic() + self.grace_s
            for child in self.children:
                send(child.pid, signal.SIGTERM)

    def _watch_signals(self) -> int:
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self.end)
        signal.signal(signal.SIGINT, self.end)
        return read_end

    def _has_work(self) -> bool:
        if self.kill_at is not None:
            return any(child.pid for child in self.children)
        return not all(child.is_given_up for child in self.children)

    def _next_s(self) -> float | None:
        """How long to sleep; None = until a signal comes."""
        now = time.monotonic()
        if self.kill_at is not None:
            return max(0.0, self.kill_at - now)
        due = [child.start_at for child in self.children if not child.pid and not child.is_given_up]
        return max(0.0, min(due) - now) if due else None

    def _reap(self) -> None:
        while any(child.pid for child in self.children):
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            for child in self.children:
                if child.pid == pid:
                    self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: Child, code: int) -> None:
        child.pid = 0
        remove(self._pid_file(child))
        if self.kill_at is not None:
            return
        reason = f"signal {-code}" if code < 0 else f"exit code {code}"
        if code == EXIT_CONFIGURATION:
            child.is_given_up = True
            say(f"{child.name} ended ({reason}: wrong configuration); it is not started again")
            return
        now = time.monotonic()
        if now - child.started_at >= LONG_LIFE_S:
            child.backoff_s = BACKOFF_S_FIRST
        child.start_at = now + child.backoff_s
        say(f"{child.name} ended ({reason}); it is started again in {child.backoff_s:g} s")
        child.backoff_s = min(child.backoff_s * 2, BACKOFF_S_MAX)

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self.children:
            is_down = not child.pid and not child.is_given_up
            if is_down and self.kill_at is None and child.start_at <= now:
                self._start(child)

    def _start(self, child: Child) -> None:
        child.started_at = time.monotonic()
        keeper_pid = os.getpid()
        # A signal that came to the child between the fork and its exec would be lost there: it
        # waits until the child has its default handlers, and here until the pid is known.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        pid = os.fork()
        if pid == 0:
            _become(child, self.environment, keeper_pid)
        child.pid = pid
        write_pid(self._pid_file(child), pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        if self.kill_at is not None:  # asked to end just before the fork
            send(pid, signal.SIGTERM)

    def _kill_late(self) -> None:
        if self.kill_at is not None and time.monotonic() >= self.kill_at:
            for child in self.children:
                if child.pid:
                    say(f"{child.name} did not end within {self.grace_s:g} s; it is killed")
                    send(child.pid, signal.SIGKILL)
            self.kill_at = time.monotonic() + self.grace_s

    def _pid_file(self, child: Child) -> str:
        return os.path.join(self.home, "run", child.name + ".pid")

    def _keeper_pid_file(self, child: Child) -> str:
        return os.path.join(self.home, "run", "keepers", child.name + ".pid")


def _become(child: Child, environment: dict[str, str], keeper_pid: int) -> None:
    """Turn this forked process into the child; never returns."""
    try:
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        # Its own group: who ends the keeper's group does not end the child past its keeper.
        os.setpgid(0, 0)
        _die_with_parent(keeper_pid)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execvpe(child.command[0], child.command, environment)
    except OSError as error:
        say(f"{child.name}: {child.command[0]} cannot be started ({error.strerror})")
    os._exit(EXIT_CONFIGURATION)


def _die_with_parent(keeper_pid: int) -> None:
    """Have the kernel kill this process when its parent ends, however that happens."""
    try:
        import ctypes  # only in the forked child, whose memory the next step replaces
    except ImportError:
        say("this Python has no ctypes: processes outlive a keeper that is killed")
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != keeper_pid:  # it ended before the kernel was told
        os._exit(1)


def listening_socket(address: str) -> socket.socket:
    """A socket that listens on "host:port" and is inherited by the children."""
    host, _, port = address.rpartition(":")
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, int(port)))
        listening.listen(LISTEN_BACKLOG)
    except (OSError, ValueError, OverflowError) as error:
        say(f"--listen {address}: {error}")
        sys.exit(EXIT_CONFIGURATION)
    os.set_inheritable(listening.fileno(), True)
    return listening


def send(pid: int, number: int) -> None:
    """Send a signal to a child that may have ended."""
    try:
        if pid:
            os.kill(pid, number)
    except ProcessLookupError:
        pass  # the next `_reap` sees its end


def write_pid(path: str, pid: int) -> None:
    """Write a pid file in one step, so that nobody reads half a number."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    draft = f"{path}.{os.getpid()}"
    with open(draft, "w", encoding="ascii") as file:
        file.write(f"{pid}\n")
    os.replace(draft, path)


def remove(path: str) -> None:
    """Remove a file that may be gone."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # someone cleared the home; the aim is reached


def say(message: str) -> None:
    """One line on standard error; the keeper goes on if nobody reads it any more."""
    try:
        os.write(2, f"keeper: {message}\n".encode())
    except OSError:
        pass  # the children matter more than this line


def _drain(descriptor: int) -> None:
    try:
        os.read(descriptor, 4_096)
    except BlockingIOError:
        pass  # the time-out woke us, no signal


def options_from(arguments: list[str]) -> Options:
    """Read the command line; ends the process with usage and code 2 if it is wrong."""
    options = Options()
    front, _, options.command = _split(arguments)
    while front:
        flag = front.pop(0)
        if not front or flag not in ("--name", "--listen", "--grace-s"):
            _usage(flag)
        value = front.pop(0)
        if flag == "--name":
            options.names.append(value)
        elif flag == "--listen":
            options.listen = value
        else:
            options.grace_s = float(value)
    if not options.names or not options.command:
        _usage("--name and a command are needed")
    return options


def _split(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    if "--" not in arguments:
        return arguments, "", []
    at = arguments.index("--")
    return arguments[:at], "--", arguments[at + 1 :]


def _usage(problem: str) -> None:
    asked = problem in ("-h", "--help")
    text = USAGE if asked else f"keeper: {problem}\n{USAGE}"
    print(text, file=sys.stdout if asked else sys.stderr)
    sys.exit(0 if asked else EXIT_CONFIGURATION)


if __name__ == "__main__":
    sys.exit(Keeper(options_from(sys.argv[1:])).run())
