"""Beam's worker process on this machine, which exits when its job's process ends.

Started by `runner.LocalRunner` as `python -m facecluster.pipeline.beam.worker PID`.
"""

import os
import sys
import threading
import time

SECONDS_BETWEEN_CHECKS = 0.25


def main() -> None:
    job = int(sys.argv.pop(1))
    threading.Thread(target=_exit_with, args=(job,), daemon=True).start()
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


def _exit_with(job: int) -> None:
    """Ends this process when the job, its parent, is gone.

    Beam's worker would wait for it forever, or write into the run at the same time as the next job.
    """
    while os.getppid() == job:
        time.sleep(SECONDS_BETWEEN_CHECKS)
    os._exit(1)


if __name__ == "__main__":
    main()
