"""Serves the application on 127.0.0.1, on the port that is given. Ends with its stdin, and so with whoever started it."""

import os
import sys
import threading

from granian import Granian
from granian.constants import HTTPModes, Interfaces


def until_alone() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    # A worker looks whether this is still its parent.
    os.environ["BENCH_MASTER"] = str(os.getpid())
    threading.Thread(target=until_alone, daemon=True).start()
    Granian(
        "opsflow.wsgi:application",
        port=int(sys.argv[1]),
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        websockets=False,
        # A worker has one interpreter, which runs on one core at a time.
        workers=len(os.sched_getaffinity(0)),
        # While one thread waits for PostgreSQL, the others go on.
        blocking_threads=4,
        # Each has a connection to PostgreSQL, and keeps it.
        blocking_threads_idle_timeout=600,
    ).serve()
